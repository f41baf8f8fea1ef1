//! Models with a large vocabulary never store all logits of a training step: the loss takes turns over the rows.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{EntryOptions, PlanStep};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;

/// Models with fewer ids are tests of their own kinds of layers.
const LARGE: u64 = 8192;

fn has_turns(steps: &[PlanStep]) -> bool {
    steps.iter().any(|step| match step {
        PlanStep::Turns { .. } => true,
        PlanStep::Repeat { body, .. } => has_turns(body),
        PlanStep::Launch(_) | PlanStep::Together(_) | PlanStep::Copy { .. } => false,
    })
}

#[test]
fn the_loss_of_every_model_with_a_large_vocabulary_takes_turns() {
    let registry = Registry::zoo();
    let mut found = 0;
    for (preset, _) in registry.families().flat_map(|family| &family.presets) {
        let architecture = registry.preset(preset).unwrap();
        if architecture.describe()["vocab"].as_u64().unwrap() < LARGE {
            continue;
        }
        let program = build(&*architecture).unwrap();
        let options = EntryOptions::new(32, 144, 2);
        let compiled =
            compile_program(&program, &[EntryKind::Train], &AdamWOptions::default(), options).unwrap();
        assert!(has_turns(&compiled.entries[&EntryKind::Train].steps), "{preset}");
        found += 1;
    }
    assert!(found >= 16, "{found} presets have a large vocabulary");
}
