//! What is computed again in the backward pass instead of being kept changes no bit, and takes less memory.

use diptych_codegen::driver::{CompiledProgram, rewrite_by_default};
use diptych_codegen::entry::Limits;
use diptych_codegen::within::{Limit, WithinError, compile_within};
use diptych_ir::{Axis, EntryKind};
use diptych_models::{Architecture, Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::plan::place;
use diptych_runtime::executor::{Binding, Sequence};
use diptych_runtime::session::{Device, Session};
use std::collections::BTreeMap;

/// Sequences of more than one chunk of attention.
const LENGTHS: [usize; 2] = [131, 70];
const LIMITS: Limits = Limits { rows: LENGTHS[0] + LENGTHS[1], batch: 2 };

fn model(preset: &str) -> Box<dyn Architecture> {
    let registry = Registry::zoo();
    let architecture = registry.preset(preset).unwrap();
    let mut config = architecture.describe();
    config["context"] = LENGTHS[0].into();
    registry.architecture(architecture.name(), &config).unwrap()
}

fn arena(compiled: &CompiledProgram) -> usize {
    place(&compiled.entries[&EntryKind::Train].lifetimes(LIMITS, 0)).bytes
}

/// The bits of the loss and of every gradient after a step.
fn gradients(device: &Device, preset: &str, compiled: CompiledProgram) -> BTreeMap<String, Vec<u32>> {
    let architecture = model(preset);
    let program = build(&*architecture).unwrap();
    let mut session = Session::load(device, compiled, architecture.context()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 5).unwrap()).unwrap();
    }
    let mut train = session.executable(device, EntryKind::Train, None, LIMITS).unwrap();
    let mut binding = Binding::new(LIMITS, architecture.context());
    let sequence = |length| Sequence { origin: 0, length, chunks: &[], state: 0 };
    binding.bind(&LENGTHS.map(sequence)).unwrap();
    let token = |at: usize| (at * at * 7 % architecture.vocab()) as i32;
    for (name, ahead) in [("tokens", 0), ("targets", 1)] {
        let values = train.input::<i32>(name).unwrap();
        values.iter_mut().enumerate().for_each(|(at, value)| *value = token(at + ahead));
    }
    train.input::<f32>("inverse_tokens").unwrap()[0] = 1.0 / LIMITS.rows as f32;
    train.refresh(device, &binding).unwrap();
    train.run(device, &binding).unwrap();
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    let mut found = BTreeMap::from([("loss".to_owned(), bits(&train.root("loss").unwrap()[..1]))]);
    for name in session.store.names().filter(|name| name.as_str().starts_with("gradient.")) {
        found.insert(name.to_string(), bits(&session.store.get(name).unwrap()));
    }
    found
}

#[test]
fn no_bit_of_attention_changes_within_any_limit() {
    no_bit_changes(&["gpt2-tiny", "mla-tiny"]);
}

#[test]
fn no_bit_of_experts_changes_within_any_limit() {
    no_bit_changes(&["moe-tiny", "moe-latent-tiny"]);
}

#[test]
fn no_bit_of_recurrences_changes_within_any_limit() {
    no_bit_changes(&["hybrid-tiny", "mamba2-tiny"]);
}

fn no_bit_changes(presets: &[&str]) {
    let device = Device::cpu(Some(2)).unwrap();
    for &preset in presets {
        let architecture = model(preset);
        let program = build(&*architecture).unwrap();
        let size = |axis: Axis| axis.fixed_size().unwrap_or(LENGTHS[0]) as f64;
        let compile = |bytes: usize| {
            let memory = |compiled: &CompiledProgram, _| arena(compiled);
            // One batch that is not cut: only recomputation can help.
            let limit = Limit { bytes, batch: 1, memory: &memory, seconds: &|_, _| 0.0, size: &size };
            let options = device.options();
            compile_within(
                &rewrite_by_default(&program, options).unwrap(),
                &[EntryKind::Train],
                &AdamWOptions::default(),
                options,
                &limit,
            )
        };
        let (everything, choice) = compile(usize::MAX).unwrap();
        assert!(choice.recomputed.is_empty());
        let most = arena(&everything);
        let of_parameters = |compiled: &CompiledProgram| {
            let params = compiled.program.params.keys().copied();
            params.map(|name| (name, compiled.layouts.params[&name].clone())).collect::<Vec<_>>()
        };
        let layouts = of_parameters(&everything);
        let expected = gradients(&device, preset, everything);
        let Err(WithinError::TooLittle { least, .. }) = compile(0) else {
            panic!("{preset}: nothing was refused")
        };
        assert!(least < most, "{preset}: {least} of {most}");
        for bytes in [(most + least) / 2, least] {
            let (compiled, choice) = compile(bytes).unwrap();
            assert!(arena(&compiled) <= bytes && !choice.recomputed.is_empty(), "{preset}: {bytes}");
            // The optimiser's sums over whole weights go in the order in which they are stored.
            assert_eq!(of_parameters(&compiled), layouts, "{preset}: {bytes}");
            let names: Vec<_> = choice.recomputed.iter().map(|value| value.label).collect();
            let found = gradients(&device, preset, compiled);
            // What is computed from sums of another shape waits for the optimiser's entry.
            assert!(found.len() * 3 > expected.len() * 2, "{preset} within {bytes}: {:?}", found.keys());
            for (name, found) in found {
                assert!(expected[&name] == found, "{preset} within {bytes}: {name} differs, with {names:?}");
            }
        }
    }
}
