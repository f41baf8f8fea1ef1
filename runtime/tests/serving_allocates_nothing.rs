//! After load, no step of serving allocates on the heap (and so none runs a
//! compiler): counted by an allocator of this test's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use diptych_ir::EntryKind;
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use diptych_runtime::session::{Device, Session};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many times `work` allocates: the fewest of three runs, since the test harness has threads of its own.
fn allocations(mut work: impl FnMut()) -> usize {
    let mut least = usize::MAX;
    for _ in 0..3 {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        work();
        least = least.min(ALLOCATIONS.load(Ordering::Relaxed) - before);
    }
    least
}

/// One test, since the count is the whole process's.
#[test]
fn prompts_and_batches_of_any_size_allocate_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 10]))) > 0, "the counter must count");

    let registry = Registry::zoo();
    let mut config = registry.preset("llama-tiny").unwrap().describe();
    config["context"] = 1100.into();
    let program = build(&*registry.architecture("llama", &config).unwrap()).unwrap();
    let device = Device::cpu(Some(2)).unwrap();
    let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let mut session = Session::compile(&device, &program, 1100, &kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 3).unwrap()).unwrap();
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
