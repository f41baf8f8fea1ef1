//! What training may not keep: logits, and anything over two long axes; and that
//! entries leave nothing to one another in the memory that they share.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{EntryOptions, Limits, Role};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::layout::{Layout, Leading};
use diptych_runtime::executor::{Binding, Executable, Sequence, SharedMemory, Workspace};
use diptych_runtime::session::{Device, Session};

#[test]
fn no_logits_are_stored_in_training() {
    for preset in ["llama-15m", "bench-multi-head", "bench-grouped-query", "bench-latent"] {
        let architecture = Registry::zoo().preset(preset).unwrap();
        let program = build(architecture.as_ref()).unwrap();
        let options = EntryOptions { panel: 32, tile_rows: 12 };
        let kinds = [EntryKind::Train, EntryKind::Score];
        let compiled = compile_program(&program, &kinds, &AdamWOptions::default(), options).unwrap();
        for (kind, entry) in &compiled.entries {
            for buffer in entry.buffers.iter().filter(|buffer| buffer.role == Role::Temporary) {
                let Layout::Dense { leading, order } = &buffer.layout else { continue };
                let wide = order.iter().any(|axis| axis.fixed_size() == Some(architecture.vocab()));
                let stored = format!("{preset}, {}: {:?}", kind.name(), buffer.layout);
                assert!(*leading == Leading::None || !wide, "logits are stored: {stored}");
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
    let bound = |kind| {
        Executable::memory_bound(
            &session.compiled.entries[kind],
            limits,
            CacheSize::default(),
            2,
            device.width,
        )
    };
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
                workspace.fill(0xff);
            }
            run.refresh(&device.pool, &binding);
            run.run(&device.pool, &binding);
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
