//! Which kinds of work the launches of a small zoo do: each kind that a model must have is found, and none that
//! it cannot have.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::EntryOptions;
use diptych_codegen::family::Family;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use std::collections::BTreeSet;

fn families(family: &str, preset: &str, vocab: usize, kind: EntryKind) -> BTreeSet<Family> {
    let registry = Registry::zoo();
    let mut config = registry.preset(preset).unwrap().describe();
    config["vocab"] = vocab.into();
    let program = build(&*registry.architecture(family, &config).unwrap()).unwrap();
    let options = EntryOptions::new(32, 144, 2);
    let compiled = compile_program(&program, &[kind], &AdamWOptions::default(), options).unwrap();
    let entry = &compiled.entries[&kind];
    entry.launches().into_iter().map(|launch| Family::of(compiled.program_of(kind), entry, launch)).collect()
}

#[test]
fn each_model_has_the_families_that_it_must_have() {
    use Family::*;
    let trained = [Products, WeightGradients, Loss];
    let models = [
        ("llama", "llama-tiny", vec![Attention], vec![Routed, Recurrence]),
        ("moe", "moe-tiny", vec![Attention, Routed], vec![Recurrence]),
        ("hybrid", "mamba2-tiny", vec![Recurrence], vec![Attention, Routed]),
    ];
    for (family, preset, has, lacks) in models {
        // With logits that are stored, and with logits that are not.
        for vocab in [97, 2048] {
            let train = families(family, preset, vocab, EntryKind::Train);
            let decode = families(family, preset, vocab, EntryKind::Decode);
            for wanted in trained.iter().chain(&has) {
                assert!(train.contains(wanted), "{preset}, {vocab}: no {wanted:?} in {train:?}");
            }
            for kind in has.iter().chain(&[Products]) {
                assert!(decode.contains(kind), "{preset}, {vocab}: no {kind:?} in {decode:?}");
            }
            for unwanted in lacks.iter().chain(&[Optimizer]) {
                assert!(!train.contains(unwanted) && !decode.contains(unwanted), "{preset}: {unwanted:?}");
            }
            assert!(!decode.contains(&Loss) && !decode.contains(&WeightGradients), "{decode:?}");
            let update = families(family, preset, vocab, EntryKind::Update);
            assert_eq!(update, BTreeSet::from([Optimizer]));
        }
    }
}
