//! The verifier of same bits: entries that a GPU runs sum in one way what several of them compute, and where one is
//! made to choose otherwise, that is found. Nothing is given to NVRTC.

use diptych_codegen::cuda::{Architecture, SameBitsError, verify_same_bits};
use diptych_codegen::driver::{CompiledProgram, compile_program, compile_program_plainly};
use diptych_codegen::entry::{CompileError, CompiledEntry, EntryOptions};
use diptych_codegen::identity::{Identity, identities};
use diptych_codegen::lower::Sum;
use diptych_codegen::tile::{Dot, Extent, Instr, Stmt, TileProgram};
use diptych_ir::{DType, EntryKind, NodeId, Op, Program};
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_passes::normalize::{normalize, sum_heads_apart};
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

fn program(preset: &str, changes: &Value) -> Program {
    let registry = Registry::zoo();
    let preset = registry.preset(preset).expect("a preset");
    let mut config = preset.describe();
    config.as_object_mut().expect("fields").extend(changes.as_object().expect("fields").clone());
    let model = registry.architecture(preset.name(), &config).expect("an architecture");
    build(&*model).expect("a program")
}

fn compiled(
    preset: &str,
    changes: &Value,
    kinds: &[EntryKind],
    architecture: Architecture,
) -> Result<CompiledProgram, CompileError> {
    let program = program(preset, changes);
    let optimizer = AdamWOptions { clip_norm: None, ..AdamWOptions::default() };
    compile_program(&program, kinds, &optimizer, EntryOptions::cuda(architecture))
}

/// The sums of an entry.
fn sums(entry: &CompiledEntry) -> BTreeSet<Identity> {
    let all = entry.all_launches().into_iter().flat_map(|launch| &launch.sums);
    all.map(|sum: &Sum| sum.identity).collect()
}

/// The contractions of an entry's graph, whatever its kernels sum.
fn contractions(compiled: &CompiledProgram, kind: EntryKind) -> BTreeSet<Identity> {
    let mut program = compiled.program_of(kind).clone();
    program.entries.retain(|entry| entry.kind == kind);
    let program = sum_heads_apart(&normalize(&program, kind.cached()).unwrap()).unwrap();
    let roots: Vec<NodeId> = program.entry(kind).unwrap().roots.iter().map(|root| root.1).collect();
    let sums = |op: &Op| matches!(op, Op::Contract(contract) if !contract.over.is_empty());
    let all = identities(&program, &roots).into_iter();
    all.filter(|((region, node), _)| sums(program.region(*region).graph.op(*node)))
        .map(|(_, identity)| identity)
        .collect()
}

/// What the verifier has compared among these entries has to be all that is wanted.
fn check_compared<'a>(
    entries: impl IntoIterator<Item = &'a CompiledEntry>,
    wanted: &BTreeSet<Identity>,
    architecture: Architecture,
) {
    let entries: Vec<&CompiledEntry> = entries.into_iter().collect();
    let compared =
        verify_same_bits(entries.iter().copied(), architecture).unwrap_or_else(|error| panic!("{error}"));
    let all: BTreeSet<usize> = (0..entries.len()).collect();
    for identity in wanted {
        let found = compared.get(identity).map(|sum| (&sum.name, &sum.entries));
        assert_eq!(found.map(|found| found.1), Some(&all), "{:?}", found.map(|found| found.0));
    }
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
    // Not one contraction that scoring and serving have in common is passed over.
    let scored = contractions(&program, EntryKind::Score);
    for kind in [EntryKind::Prefill, EntryKind::Decode] {
        let served = contractions(&program, kind);
        assert!(served.len() >= 5 && served.is_subset(&scored), "{preset}: {}", kind.name());
        println!("{preset} on {architecture}: {} contractions of score and {}", served.len(), kind.name());
        check_compared([EntryKind::Score, kind].map(|kind| &program.entries[&kind]), &served, architecture);
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

#[test]
fn a_trainer_and_a_server_that_are_compiled_apart_sum_in_one_way() {
    for architecture in Architecture::ALL {
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny", "moe-tiny"] {
            let of = |kinds: &[EntryKind]| {
                compiled(preset, &json!({ "dtype": "bf16" }), kinds, architecture).unwrap()
            };
            let (trainer, server) = (of(&[EntryKind::Train, EntryKind::Score]), of(&SERVING));
            let scores = [&trainer, &server].map(|program| &program.entries[&EntryKind::Score]);
            let sums = scores.map(sums);
            assert!(sums[0] == sums[1] && sums[0].len() >= 10, "{preset}: {}", sums[0].len());
            check_compared(scores, &sums[0], architecture);
            let decode = &server.entries[&EntryKind::Decode];
            let served = contractions(&server, EntryKind::Decode);
            for kind in [EntryKind::Train, EntryKind::Score] {
                check_compared([&trainer.entries[&kind], decode], &served, architecture);
            }
        }
    }
}

/// In what order the graph has the operands of a contraction, or of a product or a sum of two, changes no bit.
#[test]
fn contractions_with_operands_in_another_order_are_compared() {
    let architecture = Architecture::Sm90a;
    let program = program("llama-tiny", &json!({ "dtype": "bf16" }));
    let mut other = program.clone();
    let mut exchanged = 0;
    for region in &mut other.regions {
        for id in region.graph.topological_order() {
            let mut operands = region.graph.operands(id);
            if matches!(region.graph.op(id), Op::Contract(_)) && operands.len() > 1 {
                operands.reverse();
                region.graph.set_operands(id, &operands).unwrap();
                exchanged += 1;
            }
        }
    }
    assert!(exchanged >= 5);
    let compile = |program: &Program, kind: EntryKind| {
        let options = EntryOptions::cuda(architecture);
        compile_program_plainly(program, &[kind], &AdamWOptions::default(), options).unwrap()
    };
    let (score, decode) = (compile(&program, EntryKind::Score), compile(&other, EntryKind::Decode));
    let served = contractions(&decode, EntryKind::Decode);
    assert!(served.len() >= 5);
    check_compared(
        [&score.entries[&EntryKind::Score], &decode.entries[&EntryKind::Decode]],
        &served,
        architecture,
    );
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

#[test]
fn a_sum_over_other_axes_is_found() {
    // Another axis of the same size.
    let other_axis = found(&mut |program, allowed| {
        let of_dots = dots(&mut program.body).into_iter().filter(|dot| allowed.contains(&dot.sum));
        let of_dots: Vec<(usize, Vec<usize>)> = of_dots.map(|dot| (dot.sum, dot.k.clone())).collect();
        of_dots.into_iter().find_map(|(sum, k)| {
            let dim = k.into_iter().find(|&dim| {
                program.dims[dim].axis.is_some() && program.dims[dim].extent.constant() != Some(1)
            })?;
            program.dims[dim].axis = Some("elsewhere".into());
            Some(sum)
        })
    });
    check_error(other_axis, ["k over", "elsewhere="]);
    // Two axes of one size, so that only their names tell.
    let other_order = found(&mut |program, allowed| {
        let sizes: Vec<Option<usize>> = program.dims.iter().map(|dim| dim.extent.constant()).collect();
        let alike = |k: &[usize]| k.len() > 1 && sizes[k[0]] == sizes[k[1]] && sizes[k[0]] > Some(1);
        let mut dots = dots(&mut program.body).into_iter();
        let dot = dots.find(|dot| allowed.contains(&dot.sum) && alike(&dot.k))?;
        dot.k.swap(0, 1);
        Some(dot.sum)
    });
    check_error(other_order, ["over kv_head=2 x group=2", "over group=2 x kv_head=2"]);
}
