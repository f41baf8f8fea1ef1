//! Where kernels run in turns over the rows, or columns are divided among threads, no bit depends on how.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Limits, PlanStep};
use diptych_codegen::lower::BlockSizes;
use diptych_codegen::tile::CHUNK;
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::executor::{Binding, CacheRooms, CacheSize, Sequence};
use diptych_runtime::session::{Device, Session};
use serde_json::json;

const CONTEXT: usize = 256;
const LENGTHS: [usize; 2] = [157, 211];

fn program(tied: bool) -> Program {
    let registry = Registry::zoo();
    let architecture = registry.preset("llama-tiny").unwrap();
    let mut config = architecture.describe();
    // Many more columns than what is summed, so that logits are streamed.
    let changed = json!({ "vocab": 613, "tied": tied, "context": CONTEXT });
    config.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    build(&*registry.architecture(architecture.name(), &config).unwrap()).unwrap()
}

fn session(device: &Device, program: &Program, kinds: &[EntryKind], options: EntryOptions) -> Session {
    let compiled = compile_program(program, kinds, &AdamWOptions::default(), options).unwrap();
    let mut session = Session::load(device, compiled, CONTEXT).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session
}

fn turns(entry: &CompiledEntry) -> usize {
    entry.steps.iter().filter(|step| matches!(step, PlanStep::Turns { .. })).count()
}

/// The bits of the loss and of all gradients after one run of an entry.
fn trained(device: &Device, program: &Program, kind: EntryKind, options: EntryOptions) -> Vec<u32> {
    let session = session(device, program, &[EntryKind::Train, kind], options);
    assert!(turns(&session.compiled.entries[&kind]) > 0, "{}: the loss takes no turns", kind.name());
    let limits = Limits { rows: LENGTHS.iter().sum(), batch: LENGTHS.len() };
    let mut binding = Binding::new(limits, CONTEXT);
    binding.bind(&LENGTHS.map(|length| Sequence { origin: 0, length, chunks: &[], state: 0 })).unwrap();
    let mut run = session.executable(device, kind, None, limits).unwrap();
    for (name, stride) in [("tokens", 31), ("targets", 17)] {
        let ids = run.input::<i32>(name).unwrap().iter_mut().enumerate();
        ids.for_each(|(at, id)| *id = (at * stride % 613) as i32);
    }
    run.input::<f32>("inverse_tokens").unwrap()[0] = 1.0 / limits.rows as f32;
    run.run(device, &binding).unwrap();
    let mut bits: Vec<u32> = run.root("loss").unwrap().iter().map(|loss| loss.to_bits()).collect();
    let states = session.compiled.program.states.keys().filter(|name| name.as_str().starts_with("gradient"));
    for &state in states {
        bits.extend(session.store.get(state).unwrap().iter().map(|number| number.to_bits()));
    }
    assert!(bits.iter().skip(1).any(|&bits| bits != 0), "no gradient was left");
    bits
}

#[test]
fn rows_of_a_turn_and_of_a_block_change_no_bit_of_loss_and_gradients() {
    let device = Device::cpu(Some(2)).unwrap();
    for tied in [true, false] {
        let program = program(tied);
        for kind in [EntryKind::Train, EntryKind::Accumulate] {
            let of = |block_rows, turn_rows| {
                let blocks = BlockSizes::of_processor(block_rows);
                let options = EntryOptions { blocks, turn_rows, ..device.options() };
                trained(&device, &program, kind, options)
            };
            let at_once = of(144, 1000);
            for (block, turn) in [(144, 7), (144, 144), (144, 288), (24, 144), (288, 576), (288, 1000)] {
                assert!(
                    of(block, turn) == at_once,
                    "tied {tied}, {}: turns of {turn} rows in blocks of {block} give other bits",
                    kind.name()
                );
            }
        }
    }
}

#[test]
fn rows_of_a_block_change_no_bit_of_scores() {
    let device = Device::cpu(Some(2)).unwrap();
    let program = program(true);
    let scored = |block_rows: usize| -> Vec<u32> {
        let blocks = BlockSizes::of_processor(block_rows);
        let options = EntryOptions { blocks, ..device.options() };
        let session = session(&device, &program, &[EntryKind::Score], options);
        let limits = Limits { rows: LENGTHS.iter().sum(), batch: LENGTHS.len() };
        let mut binding = Binding::new(limits, CONTEXT);
        binding.bind(&LENGTHS.map(|length| Sequence { origin: 0, length, chunks: &[], state: 0 })).unwrap();
        let mut run = session.executable(&device, EntryKind::Score, None, limits).unwrap();
        for (name, stride) in [("tokens", 31), ("targets", 17)] {
            let ids = run.input::<i32>(name).unwrap().iter_mut().enumerate();
            ids.for_each(|(at, id)| *id = (at * stride % 613) as i32);
        }
        run.refresh(&device, &binding).unwrap();
        run.run(&device, &binding).unwrap();
        run.root("log_prob").unwrap().iter().map(|number| number.to_bits()).collect()
    };
    let usual = scored(144);
    assert!(usual.iter().any(|&bits| bits != 0));
    for rows in [12, 100, 288] {
        assert!(scored(rows) == usual, "blocks of {rows} rows give other bits");
    }
}

#[test]
fn the_threads_that_decoding_is_divided_among_change_no_bit() {
    let program = program(true);
    // As many threads as columns and chunks are divided among, and fewer.
    let decoded = |threads: usize, pool: usize| -> Vec<u32> {
        let device = Device::cpu(Some(pool)).unwrap();
        let kinds = [EntryKind::Prefill, EntryKind::Decode];
        let session = session(&device, &program, &kinds, EntryOptions { threads, ..device.options() });
        let limits = Limits { rows: 3, batch: 3 };
        let size = CacheSize { chunks: 9, sequences: 3 };
        let caches = CacheRooms::new(&session.compiled.entries[&EntryKind::Decode], size).unwrap();
        let mut run = session.executable(&device, EntryKind::Decode, Some(&caches), limits).unwrap();
        let mut binding = Binding::cached(limits, CONTEXT, size);
        let mut bits = Vec::new();
        // Three chunks of each sequence at last, which lie anywhere.
        let chunks = [[7, 0, 4], [2, 8, 1], [3, 6, 5]];
        for step in 0..2 * CHUNK + 3 {
            let sequence = |at: usize| Sequence { origin: step, length: 1, chunks: &chunks[at], state: at };
            binding.bind(&[0, 1, 2].map(sequence)).unwrap();
            let ids = run.input::<i32>("tokens").unwrap().iter_mut().enumerate();
            ids.for_each(|(at, id)| *id = ((at * 37 + step * 101) % 613) as i32);
            run.input::<i32>("last").into_iter().for_each(|last| last.fill(0));
            if step == 0 {
                run.refresh(&device, &binding).unwrap();
            }
            run.run(&device, &binding).unwrap();
            if !(5..CHUNK - 1).contains(&(step % CHUNK)) {
                bits.extend(run.root("logits").unwrap().iter().map(|logit| logit.to_bits()));
            }
        }
        bits
    };
    let one = decoded(1, 1);
    assert!(one.iter().any(|&bits| bits != 0));
    for (threads, pool) in [(2, 2), (3, 3), (5, 2), (16, 1)] {
        assert!(
            decoded(threads, pool) == one,
            "divided among {threads} threads, run by {pool}, decoding has other bits"
        );
    }
}
