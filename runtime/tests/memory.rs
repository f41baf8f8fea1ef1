//! What training may not keep: logits of more tokens than a turn has, and anything over two long axes; and that
//! entries leave nothing to one another in the memory that they share.

mod naive;

use diptych_codegen::driver::{compile_program, compile_program_plainly};
use diptych_codegen::entry::{EntryOptions, Limits, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{DType, EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::layout::{Layout, Leading};
use diptych_runtime::decode::{ServeOptions, Server};
use diptych_runtime::executor::{
    Binding, CacheRooms, CacheSize, Executable, Sequence, SharedMemory, Workspace,
};
use diptych_runtime::session::{Device, Session};

const CONTEXT: usize = 192;

#[test]
fn no_logits_are_stored_for_longer_than_a_turn() {
    for preset in ["llama-15m", "bench-multi-head", "bench-grouped-query", "bench-latent"] {
        let architecture = Registry::zoo().preset(preset).unwrap();
        let program = build(architecture.as_ref()).unwrap();
        let options = EntryOptions::new(32, 144, 2);
        let kinds = [EntryKind::Train, EntryKind::Score];
        let compiled = compile_program(&program, &kinds, &AdamWOptions::default(), options).unwrap();
        for (kind, entry) in &compiled.entries {
            for buffer in entry.buffers.iter().filter(|buffer| buffer.role == Role::Temporary) {
                let Layout::Dense { leading, order } = &buffer.layout else { continue };
                let wide = order.iter().any(|axis| axis.fixed_size() == Some(architecture.vocab()));
                let stored = format!("{preset}, {}: {:?}", kind.name(), buffer.layout);
                let bounded = buffer.turn.is_some_and(|rows| rows <= options.turn_rows) && kind.trains();
                assert!(*leading == Leading::None || !wide || bounded, "logits are stored: {stored}");
                assert!(*leading != Leading::Quadratic, "scores are stored: {stored}");
            }
        }
    }
}

/// The bits of all parameters and states after two steps, and of the scores then, with 0xff in every byte of the
/// workspace before each run if `spoilt`; and how many bytes have padding.
fn two_steps(device: &Device, preset: &str, kinds: &[EntryKind], spoilt: bool) -> (Vec<u32>, usize) {
    let program = build(&*Registry::zoo().preset(preset).unwrap()).unwrap();
    let mut session = Session::compile(device, &program, 64, kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 3).unwrap()).unwrap();
    }
    let limits = Limits { rows: 90, batch: 2 };
    let bound = |kind| device.memory_bound(&session.compiled.entries[kind], limits, CacheSize::default());
    let padded: usize = kinds.iter().map(|kind| bound(kind).padded).sum();
    let workspace = Workspace::new(kinds.iter().map(bound)).unwrap();
    let shared = SharedMemory { caches: None, workspace: Some(&workspace) };
    let mut binding = Binding::new(limits, 64);
    binding.bind(&[37, 53].map(|length| Sequence { origin: 0, length, chunks: &[], state: 0 })).unwrap();
    let load = |&kind| session.executable_in(device, kind, shared, limits).unwrap();
    let mut runs: Vec<Executable> = kinds.iter().map(load).collect();
    let mut found = Vec::new();
    for step in 0..2 {
        for run in &mut runs {
            for (name, stride) in [("tokens", 31), ("targets", 17)] {
                let ids = run.input::<i32>(name).unwrap_or_default().iter_mut().enumerate();
                ids.for_each(|(at, id)| *id = (at * stride + step) as i32 % 97);
            }
            for (name, value) in [
                ("inverse_tokens", 0.01),
                ("learning_rate", 0.01),
                ("bias_correction_mean", 0.1),
                ("bias_correction_variance", 0.05),
            ] {
                run.input::<f32>(name).into_iter().for_each(|input| input[0] = value);
            }
            if spoilt {
                workspace.fill(0xff).unwrap();
            }
            run.refresh(device, &binding).unwrap();
            run.run(device, &binding).unwrap();
            found.extend_from_slice(run.root("log_prob").unwrap_or_default());
        }
    }
    let names: Vec<_> = session.store.names().collect();
    names.into_iter().for_each(|name| found.extend(session.store.get(name).unwrap()));
    assert!(found.iter().all(|number| number.is_finite()), "{preset}");
    (found.into_iter().map(f32::to_bits).collect(), padded)
}

#[test]
fn what_lies_in_a_shared_workspace_changes_no_bit() {
    let device = Device::cpu(Some(2)).unwrap();
    let kinds = [EntryKind::Train, EntryKind::Update, EntryKind::Score, EntryKind::Accumulate];
    let mut padded = 0;
    // Their sizes fill no panel.
    for preset in ["llama-tiny", "gpt2-tiny", "mla-tiny"] {
        for kinds in [&kinds[..], &kinds[..3]] {
            let [clean, spoilt] = [false, true].map(|spoilt| two_steps(&device, preset, kinds, spoilt));
            assert!(clean == spoilt, "{preset}: a run depends on what another left in the workspace");
            padded += clean.1;
        }
    }
    assert!(padded > 0, "no value has padding, which this is about");
}

/// A session of a program whose values over the past are computed as the model says.
fn plain_session(device: &Device, program: &Program, kinds: &[EntryKind]) -> Session {
    let compiled =
        compile_program_plainly(program, kinds, &AdamWOptions::default(), device.options()).unwrap();
    let mut session = Session::load(device, compiled, CONTEXT).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session
}

#[test]
fn values_over_the_past_take_workspace_of_the_size_of_a_cache_once_for_all_layers() {
    let limits = Limits { rows: 2, batch: 2 };
    let [one, two] = [1, 2].map(|threads| {
        let device = Device::cpu(Some(threads)).unwrap();
        let session = plain_session(&device, &naive::latent(DType::F32, None), &[EntryKind::Decode]);
        (device, session)
    });
    let growth = |(device, session): &(Device, Session)| {
        let arena = |chunks| {
            let cache = CacheSize { chunks, sequences: 2 };
            let entry = &session.compiled.entries[&EntryKind::Decode];
            device.memory_bound(entry, limits, cache).arena
        };
        // As many chunks as fill whole lines of memory, to which buffers are aligned.
        arena(48) - arena(16)
    };
    // Keys and values of three heads: f32[20] and f32[10]. Where threads share chunks, a maximum, a sum and a sum of
    // values are left of each.
    let of_positions = CHUNK * 3 * (20 + 10);
    assert_eq!(growth(&one), 32 * of_positions * size_of::<f32>());
    assert_eq!(growth(&two), 32 * (of_positions + 3 * (1 + 1 + 10)) * size_of::<f32>());
    let (device, session) = &one;
    let bound = |cache_positions| {
        let options = ServeOptions { rows: 2, batch: 2, sequences: 2, cache_positions };
        let server = Server::new(device, session, options).unwrap();
        (server.memory().total() - server.cache_bytes(), server.cache_bytes_per_token())
    };
    let (small, large) = (bound(16 * CHUNK), bound(48 * CHUNK));
    assert_eq!(large.0 - small.0, growth(&one), "what a server says that it takes");
    // Two layers, each with a latent of 24 and a rotated key of 8.
    assert_eq!((small.1, large.1), (2 * (24 + 8) * size_of::<f32>(), 2 * (24 + 8) * size_of::<f32>()));
}

/// The bits of the logits of two texts, a prompt in pieces and then a token at a time, with every byte of the
/// workspace set before each run.
fn decoded(device: &Device, program: &Program, byte: u8) -> Vec<u32> {
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let session = plain_session(device, program, &kinds);
    let size = CacheSize { chunks: 6, sequences: 2 };
    let caches = CacheRooms::new(&session.compiled.entries[&EntryKind::Decode], size).unwrap();
    let limits = Limits { rows: 100, batch: 2 };
    let bound = |kind| {
        let entry = &session.compiled.entries[kind];
        device.memory_bound(entry, limits, size)
    };
    let workspace = Workspace::new(kinds.iter().map(bound)).unwrap();
    let shared = SharedMemory { caches: Some(&caches), workspace: Some(&workspace) };
    let [mut prefill, mut decode] =
        kinds.map(|kind| session.executable_in(device, kind, shared, limits).unwrap());
    let mut binding = Binding::cached(limits, CONTEXT, size);
    let mut found = Vec::new();
    for start in [0, 50, 100].into_iter().chain(150..160) {
        let length = if start < 150 { 50 } else { 1 };
        let run = if start < 150 { &mut prefill } else { &mut decode };
        let chunks = [[4, 0, 2], [1, 5, 3]];
        let sequence = |state: usize| Sequence { origin: start, length, chunks: &chunks[state], state };
        binding.bind(&[sequence(0), sequence(1)]).unwrap();
        for (at, token) in run.input::<i32>("tokens").unwrap()[..2 * length].iter_mut().enumerate() {
            *token = ((start + at) * 31 % 61) as i32;
        }
        if let Some(last) = run.input::<i32>("last") {
            last.fill(length as i32 - 1);
        }
        workspace.fill(byte).unwrap();
        run.refresh(device, &binding).unwrap();
        run.run(device, &binding).unwrap();
        found.extend_from_slice(run.root("logits").unwrap());
    }
    assert!(found.iter().all(|number| number.is_finite()));
    found.into_iter().map(f32::to_bits).collect()
}

#[test]
fn what_is_computed_over_the_past_is_written_before_it_is_read() {
    let device = Device::cpu(Some(1)).unwrap();
    for program in [naive::latent(DType::F32, Some(40)), naive::everything(DType::F32)] {
        let [clean, spoilt] = [0, 0xff].map(|byte| decoded(&device, &program, byte));
        assert!(clean == spoilt, "a run depends on what another left in the workspace");
    }
}
