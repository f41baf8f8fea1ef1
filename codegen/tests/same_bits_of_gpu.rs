//! The verifier of same bits: entries that a GPU runs sum in one way what several of them compute, and where one is
//! made to choose otherwise, that is found. Nothing is given to NVRTC.

use diptych_codegen::cuda::{Architecture, SameBitsError, verify_same_bits};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompileError, CompiledEntry, EntryOptions};
use diptych_codegen::identity::Identity;
use diptych_codegen::lower::Sum;
use diptych_codegen::tile::{Dot, Extent, Instr, Stmt, TileProgram};
use diptych_ir::{DType, EntryKind};
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
    let optimizer = AdamWOptions { clip_norm: None, ..AdamWOptions::default() };
    compile_program(&program, kinds, &optimizer, EntryOptions::cuda(architecture))
}

/// The sums of an entry.
fn sums(entry: &CompiledEntry) -> BTreeSet<Identity> {
    let all = entry.all_launches().into_iter().flat_map(|launch| &launch.sums);
    all.map(|sum: &Sum| sum.identity).collect()
}

/// Compiling verifies. It is worth something only where entries have their sums in common: all that decoding sums, the
/// others sum too.
fn check(preset: &str, changes: &Value, kinds: &[EntryKind], architecture: Architecture) {
    let program =
        compiled(preset, changes, kinds, architecture).unwrap_or_else(|error| panic!("{preset}: {error}"));
    let [train, score, prefill, decode] =
        [EntryKind::Train, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode]
            .map(|kind| sums(&program.entries[&kind]));
    assert!(decode.len() >= 10, "{preset}: {}", decode.len());
    for (name, sums) in [("prefill", prefill), ("score", score), ("train", train)] {
        let shared = decode.intersection(&sums).count();
        println!("{preset} on {architecture}: {shared} of the {} sums of decode are in {name}", decode.len());
        assert_eq!(shared, decode.len(), "{preset}: {name}");
    }
}

#[test]
fn entries_of_the_zoo_sum_in_one_way() {
    for architecture in Architecture::ALL {
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny"] {
            for dtype in ["f32", "bf16"] {
                check(preset, &json!({ "dtype": dtype }), &KINDS, architecture);
            }
        }
    }
}

/// Experts and recurrences, as far as there is GPU code for them.
#[test]
fn entries_of_the_rest_of_the_zoo_sum_in_one_way() {
    let architecture = Architecture::Sm90a;
    for preset in ["moe-tiny", "moe-latent-tiny", "hybrid-tiny", "gated-linear-tiny", "mamba2-tiny"] {
        check(preset, &json!({ "dtype": "bf16" }), &KINDS, architecture);
    }
}

#[test]
fn entries_of_production_size_sum_in_one_way() {
    let size = json!({
        "dtype": "bf16", "embed": 4096, "hidden": 14336, "heads": 32, "key_value_heads": 8, "head_dim": 128,
        "context": 8192, "vocab": 128256, "layers": 2,
    });
    for architecture in Architecture::ALL {
        check("llama-tiny", &size, &KINDS, architecture);
    }
}

/// The first statement of decoding that sums what scoring sums too and that `change` takes is changed, and the verifier
/// must tell.
fn found(change: &mut dyn FnMut(&mut TileProgram, &[usize]) -> Option<usize>) -> (String, SameBitsError) {
    let program = compiled("llama-tiny", &json!({ "dtype": "bf16" }), &SERVING, Architecture::Sm80).unwrap();
    let mut entries = program.entries;
    let scored = sums(&entries[&EntryKind::Score]);
    let decode = entries.get_mut(&EntryKind::Decode).expect("decode");
    let launches: Vec<(usize, Vec<Sum>)> =
        decode.all_launches().iter().map(|launch| (launch.kernel, launch.sums.clone())).collect();
    for (kernel, sums) in launches {
        let shared = |sum: &Sum| scored.contains(&sum.identity);
        let allowed: Vec<usize> = (0..sums.len()).filter(|&at| shared(&sums[at])).collect();
        if let Some(sum) = change(&mut decode.programs[kernel], &allowed) {
            let error =
                verify_same_bits(entries.values(), Architecture::Sm80).expect_err("another way to sum");
            return (sums[sum].name.clone(), error);
        }
    }
    panic!("nothing to change");
}

fn dots(body: &mut [Stmt]) -> Vec<&mut Dot> {
    let mut found = Vec::new();
    for stmt in body {
        match stmt {
            Stmt::Dot(dot) => found.push(dot),
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => found.extend(dots(body)),
            _ => {}
        }
    }
    found
}

/// Changes the first allowed dot that `change` takes, and gives which sum it is.
fn of_dots(change: &mut dyn FnMut(&mut Dot) -> bool) -> (String, SameBitsError) {
    found(&mut |program, allowed| {
        let mut dots = dots(&mut program.body);
        dots.retain(|dot| allowed.contains(&dot.sum));
        dots.into_iter().find_map(|dot| change(dot).then_some(dot.sum))
    })
}

fn check_error((sum, error): (String, SameBitsError), what: [&str; 2]) {
    let text = error.to_string();
    println!("{text}");
    assert_eq!(error.sum, sum);
    assert!(error.of.iter().any(|found| found.entry == EntryKind::Decode), "{text}");
    assert!(what.iter().zip(error.of.iter()).all(|(what, found)| found.way.contains(what)), "{text}");
    assert!(text.contains(&sum) && text.contains("`decode`") && text.contains(&error.of[1].kernel), "{text}");
}

#[test]
fn a_dot_of_other_instructions_is_found() {
    let other_family = of_dots(&mut |dot| {
        let narrow = dot.values == [DType::BF16; 2];
        dot.values = if narrow { [DType::F32; 2] } else { dot.values };
        narrow
    });
    check_error(other_family, ["Mma of 16 k", "MultiplyAdd of 1 k"]);
    let other_parts = of_dots(&mut |dot| {
        let narrow = dot.values == [DType::BF16; 2];
        dot.values = if narrow { [DType::BF16, DType::F32] } else { dot.values };
        narrow
    });
    check_error(other_parts, ["1 x 1 parts", "1 x 3 parts"]);
}

#[test]
fn a_dot_of_which_sides_change_is_none_of_others() {
    // The weight may stand on the side of the rows.
    let program = compiled("llama-tiny", &json!({ "dtype": "bf16" }), &SERVING, Architecture::Sm80).unwrap();
    let mut entries = program.entries;
    let decode = entries.get_mut(&EntryKind::Decode).expect("decode");
    for program in &mut decode.programs {
        dots(&mut program.body).into_iter().for_each(|dot| dot.values.reverse());
    }
    verify_same_bits(entries.values(), Architecture::Sm80).unwrap();
}

#[test]
fn a_sum_that_is_cut_otherwise_is_found() {
    let goes_on = of_dots(&mut |dot| {
        dot.accumulate = !dot.accumulate;
        true
    });
    check_error(goes_on, ["", "on from what is there"]);
    let cut = |extent: Extent| match extent {
        Extent::Whole(size) | Extent::Blocks { size, .. } if size > 8 => {
            Some(Extent::Blocks { size, block: size / 2 })
        }
        _ => None,
    };
    let dot_in_blocks = found(&mut |program, allowed| {
        let of_dots =
            dots(&mut program.body).into_iter().map(|dot| (dot.sum, dot.k.clone())).collect::<Vec<_>>();
        let (sum, dim) = of_dots.into_iter().find_map(|(sum, k)| {
            let dim = k.into_iter().find(|&dim| cut(program.dims[dim].extent).is_some())?;
            allowed.contains(&sum).then_some((sum, dim))
        })?;
        program.dims[dim].extent = cut(program.dims[dim].extent)?;
        Some(sum)
    });
    check_error(dot_in_blocks, ["k over", "in blocks of"]);
    let reduction_in_blocks = found(&mut |program, allowed| {
        let (sum, dim) = program.body.iter().find_map(|stmt| {
            let Stmt::Nest(nest) = stmt else { return None };
            nest.body.iter().find_map(|instr| match instr {
                Instr::Reduce { over, sum, .. } if allowed.contains(sum) => Some((*sum, *over.last()?)),
                _ => None,
            })
        })?;
        program.dims[dim].extent = cut(program.dims[dim].extent)?;
        Some(sum)
    });
    check_error(reduction_in_blocks, ["lanes over", "in blocks of"]);
}
