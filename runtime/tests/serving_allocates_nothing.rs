//! After load, no step of serving allocates on the heap (and so none runs a
//! compiler): counted by an allocator of this test's own.

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use diptych_runtime::session::{Device, Session};

/// One test, since the count is the whole process's.
#[test]
fn prompts_and_batches_of_any_size_allocate_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 10]))) > 0, "the counter must count");

    let registry = Registry::zoo();
    let presets = [
        ("llama", "llama-tiny"),
        ("hybrid", "hybrid-tiny"),
        ("hybrid", "gated-linear-tiny"),
        ("hybrid", "mamba2-tiny"),
        ("moe", "moe-tiny"),
        ("moe", "moe-latent-tiny"),
    ];
    for (family, preset) in presets {
        let mut config = registry.preset(preset).unwrap().describe();
        config["context"] = 1100.into();
        serves_without_allocation(&build(&*registry.architecture(family, &config).unwrap()).unwrap());
    }
}

fn serves_without_allocation(program: &Program) {
    let device = Device::cpu(Some(2)).unwrap();
    let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let mut session = Session::compile(&device, program, 1100, &kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    // Prompts of 1000 tokens run in pieces.
    let options = ServeOptions { rows: 300, batch: 7, sequences: 7, cache_positions: 7 * 1100 };
    let mut server = Server::new(&device, &session, options).unwrap();
    let tokens: Vec<i32> = (0..1000).map(|at| at * 31 % 97).collect();
    let mut log_probs = Vec::with_capacity(7 * 1000);

    for length in [1, 7, 100, 1000] {
        for batch in 1..=7 {
            let prompt = &tokens[..length];
            let windows = [Window { tokens: prompt, targets: prompt }; 7];
            let count = allocations(|| {
                let first = server.start().unwrap();
                let mut prompts = [(first, prompt); 7];
                let mut next = [(first, 5); 7];
                for row in 1..batch {
                    let sequence = server.start().unwrap();
                    prompts[row].0 = sequence;
                    next[row].0 = sequence;
                }
                server.prefill(&prompts[..batch]).unwrap();
                for _ in 0..3 {
                    server.decode(&next[..batch]).unwrap();
                }
                if length < 1000 || batch == 7 {
                    server.score(&windows[..batch], &mut log_probs).unwrap();
                }
                prompts[..batch].iter().for_each(|&(sequence, _)| server.release(sequence));
            });
            assert_eq!(count, 0, "{batch} prompts of {length} tokens");
        }
    }
}
