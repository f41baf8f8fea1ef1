//! The verifier of same bits: entries that a GPU runs sum in one way what several of them compute, and where one is made
//! to choose otherwise, that is found. Nothing is given to NVRTC.

use diptych_codegen::cuda::{Architecture, SameBitsError, verify_same_bits};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompileError, CompiledEntry, EntryOptions};
use diptych_codegen::lower::Sum;
use diptych_codegen::tile::{Dot, Extent, Instr, Stmt, TileProgram};
use diptych_ir::{DType, EntryKind, NodeId, RegionId};
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const KINDS: [EntryKind; 6] = [
    EntryKind::Train,
    EntryKind::Accumulate,
    EntryKind::Step,
    EntryKind::Score,
    EntryKind::Prefill,
    EntryKind::Decode,
];
const SERVING: [EntryKind; 3] = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];

fn compiled(
    preset: &str,
    changes: &Value,
    kinds: &[EntryKind],
    architecture: Architecture,
) -> Result<CompiledProgram, CompileError> {
    let registry = Registry::zoo();
    let preset = registry.preset(preset).expect("a preset");
    let mut config = preset.describe();
    config.as_object_mut().expect("fields").extend(changes.as_object().expect("fields").clone());
    let model = registry.architecture(preset.name(), &config).expect("an architecture");
    let program = build(&*model).expect("a program");
    compile_program(&program, kinds, &AdamWOptions::default(), EntryOptions::cuda(architecture))
}

/// The sums of an entry.
fn sums(entry: &CompiledEntry) -> BTreeSet<(RegionId, NodeId)> {
    let all = entry.all_launches().into_iter().flat_map(|launch| &launch.sums);
    all.map(|sum: &Sum| (sum.region, sum.node)).collect()
}

/// Compiling verifies. It is worth something only where entries have their sums in common: all that decoding sums, other
/// entries sum too.
fn check(preset: &str, changes: &Value, architecture: Architecture) {
    let program = compiled(preset, changes, &KINDS, architecture).unwrap_or_else(|error| panic!("{preset}: {error}"));
    let [train, score, prefill, decode] =
        [EntryKind::Train, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode]
            .map(|kind| sums(&program.entries[&kind]));
    assert!(decode.len() > 8, "{preset}: {}", decode.len());
    println!("{preset} {changes} {}: {:?} {}", architecture.name(), [&train, &score, &prefill, &decode].map(|x| x.len()), decode.intersection(&train).count());
    assert!(decode.is_subset(&prefill), "{preset}");
    assert!(decode.intersection(&score).count() + 2 >= decode.len());
}

#[test]
fn entries_of_the_zoo_sum_in_one_way() {
    for architecture in Architecture::ALL {
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny"] {
            for dtype in ["f32", "bf16"] {
                check(preset, &json!({ "dtype": dtype }), architecture);
            }
        }
    }
}
