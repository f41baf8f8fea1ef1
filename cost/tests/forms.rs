//! What cost alone makes of latent attention that is written as its definition says.

use diptych_codegen::driver::{
    Candidate, CompiledProgram, Rewriting, Rewritten, compile_rewritten, objective, rewrite,
};
use diptych_codegen::entry::EntryOptions;
use diptych_cost::{Target, predict_binding};
use diptych_ir::{Axis, EntryKind, Op, Program};
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Binding, Class, Numerics, Objective};

const OPTIONS: EntryOptions = EntryOptions::new(16, 144, 2);

/// The sizes of the axes that products of pairs of positions sum over.
fn summed_by_scores(program: &Program) -> Vec<usize> {
    let along = |axis: &Axis, name: &str| axis.fixed_size().is_none() && axis.name.as_str() == name;
    let mut sizes = Vec::new();
    for graph in program.regions.iter().map(|region| &region.graph) {
        for id in graph.ids() {
            let Op::Contract(contract) = graph.op(id) else { continue };
            if ["past", "time"].iter().all(|name| graph.axes(id).iter().any(|axis| along(axis, name))) {
                sizes.extend(contract.over.iter().filter_map(|axis| axis.fixed_size()));
            }
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The model of which latent attention in this type is, compiled for much decoding with many positions, with the forms that
/// were compared.
fn compiled(dtype: &str, class: Class) -> (Rewritten, CompiledProgram) {
    let registry = Registry::zoo();
    let preset = registry.preset("latent-512").unwrap();
    let mut fields = preset.describe();
    fields["dtype"] = dtype.into();
    let program = build(&*registry.architecture(preset.name(), &fields).unwrap()).unwrap();
    let machine = Target::load("reference-cpu").unwrap().into_machine(None).unwrap();
    let objective = Objective {
        bindings: vec![
            Binding::new(EntryKind::Train, 2, 1024, 1024, 1.0),
            Binding::new(EntryKind::Prefill, 1, 256, 256, 0.5),
            Binding::new(EntryKind::Decode, 8, 1, 4096, 0.5),
        ],
        class,
        ..objective()
    };
    let seconds =
        |compiled: &CompiledProgram, binding: &Binding| Ok(predict_binding(compiled, binding, &machine, 2));
    let rewriting = Rewriting { objective, numerics: Numerics::Fast, seconds: Some(&seconds), algebra: true };
    let rewritten = rewrite(&program, &rewriting, OPTIONS).unwrap();
    let kinds = [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode];
    let compiled = compile_rewritten(&rewritten, &kinds, &AdamWOptions::default(), OPTIONS).unwrap();
    (rewritten, compiled)
}

#[test]
fn latents_are_expanded_in_training_and_absorbed_in_decoding() {
    let (rewritten, compiled) = compiled("f32", Class::Real);
    // Expanded keys have 64 numbers a head besides the 32 that are turned, values 64; a latent has 128.
    let of = |kind| summed_by_scores(compiled.program_of(kind));
    assert!(!of(EntryKind::Train).contains(&128), "{:?}", of(EntryKind::Train));
    assert!(of(EntryKind::Train).contains(&64), "{:?}", of(EntryKind::Train));
    assert!(!of(EntryKind::Decode).contains(&64), "{:?}", of(EntryKind::Decode));
    assert!(of(EntryKind::Decode).contains(&128), "{:?}", of(EntryKind::Decode));
    // A decoding step that expands all positions anew is far dearer.
    let written = |form: &&Candidate| form.keeps() == ["what the model says"];
    let as_written = rewritten.candidates().iter().find(written).unwrap();
    let chosen = &rewritten.candidates()[0];
    assert!(chosen.seconds()[2] * 5.0 < as_written.seconds()[2], "{chosen:?} {as_written:?}");
}

/// An expanded key is rounded; without it the result is another one, if a better one.
#[test]
fn rounded_latents_are_absorbed_on_request_only() {
    for (class, absorbed) in [(Class::Real, false), (Class::Approximate, true)] {
        let sizes = summed_by_scores(compiled("bf16", class).1.program_of(EntryKind::Decode));
        assert_eq!(sizes.contains(&128), absorbed, "{class:?}: {sizes:?}");
    }
}
