//! Native code against transformers: imported checkpoints, compiled and run,
//! must give what transformers got (tests/fixtures/README.md).

#[path = "support/saved.rs"]
mod saved;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{EntryOptions, Limits};
use diptych_ir::{EntryKind, UpdateRule};
use diptych_models::Registry;
use diptych_models::hugging_face::Checkpoint;
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{
    Binding, CpuExecutable, ParameterStore, Sequence, SharedMemory, load_kernels,
};
use safetensors::SafeTensors;
use saved::{FIXTURES, folder, numbers};

struct Loaded {
    compiled: CompiledProgram,
    store: ParameterStore,
    checkpoint: Checkpoint,
    width: VectorWidth,
}

fn load(name: &str, kinds: &[EntryKind]) -> Loaded {
    let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
    let width = VectorWidth::chosen().unwrap();
    let options = EntryOptions::new(width.panel(), width.blocking().rows, 2);
    let compiled = compile_program(checkpoint.program(), kinds, &AdamWOptions::default(), options).unwrap();
    let mut store = ParameterStore::new(&compiled.program, &compiled.layouts, width.panel(), true).unwrap();
    for &param in compiled.program.params.keys() {
        store.set(param, &checkpoint.load_param(param.as_str()).unwrap()).unwrap();
    }
    Loaded { compiled, store, checkpoint, width }
}

/// The expected gradients, read as a checkpoint is, against the gradient states.
fn gradients_agree(name: &str, loaded: &Loaded, expected: &SafeTensors<'_>) {
    let gradients =
        expected.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("grad.")?.to_owned(), tensor)));
    let place = tempfile::tempdir().unwrap();
    safetensors::serialize_to_file(gradients, None, &place.path().join("model.safetensors")).unwrap();
    std::fs::copy(folder(name).join("config.json"), place.path().join("config.json")).unwrap();
    let wanted = Checkpoint::open(place.path(), &Registry::zoo()).unwrap();
    for (&param, info) in &loaded.compiled.program.params {
        let wanted = wanted.load_param(param.as_str()).unwrap();
        let Ok(ours) = loaded.store.get(diptych_passes::differentiate::gradient_name(param)) else {
            assert!(wanted.iter().all(|&x| x == 0.0), "{name}: {param} has no gradient");
            continue;
        };
        if let UpdateRule::SignDescent { .. } = info.update {
            // No gradient elsewhere: here the excess of each expert's load, which is none over all of a layer.
            assert!(wanted.iter().all(|&x| x == 0.0) && ours.iter().any(|&x| x != 0.0), "{name}: {param}");
            assert!(ours.iter().sum::<f32>().abs() < 1e-3, "{name}: {param} is {ours:?}");
            continue;
        }
        let norm = wanted.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let error = ours.iter().zip(&wanted).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>().sqrt();
        assert!(
            error <= 1e-3 * norm + 1e-7,
            "{name}: the gradient of {param} is off by {error}, its norm is {norm}"
        );
    }
}

#[test]
fn score_and_gradients_are_those_of_transformers() {
    let pool = Pool::new(2).unwrap();
    let compiler = Compiler::find().unwrap();
    for name in FIXTURES {
        let loaded = load(name, &[EntryKind::Score, EntryKind::Train]);
        let texts = loaded.compiled.entries.values().flat_map(|entry| &entry.kernels);
        let kernels = load_kernels(
            texts,
            loaded.width,
            loaded.width.blocking(),
            &compiler,
            &KernelCache::standard(),
            2,
        )
        .unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let ids: Vec<i32> = numbers(&expected, "input_ids").iter().map(|&id| id as i32).collect();
        let (batch, time) = (2, 24);
        let limits = Limits { rows: 64, batch: 4 };
        let mut binding = Binding::new(limits, loaded.checkpoint.architecture().context());
        let sequence = Sequence { origin: 0, length: time, chunks: &[], state: 0 };
        binding.bind(&[sequence; 2]).unwrap();
        for kind in [EntryKind::Score, EntryKind::Train] {
            let entry = &loaded.compiled.entries[&kind];
            let mut run = CpuExecutable::load(
                entry,
                &kernels,
                &loaded.store,
                SharedMemory::default(),
                limits,
                2,
                loaded.width,
            )
            .unwrap();
            run.input::<i32>("tokens").unwrap()[..ids.len()].copy_from_slice(&ids);
            let targets: Vec<i32> =
                (0..ids.len()).map(|at| if at % time == time - 1 { -1 } else { ids[at + 1] }).collect();
            run.input::<i32>("targets").unwrap()[..ids.len()].copy_from_slice(&targets);
            if let Some(inverse) = run.input::<f32>("inverse_tokens") {
                inverse[0] = 1.0 / (batch * (time - 1)) as f32;
            }
            run.refresh(&pool, &binding);
            run.run(&pool, &binding);
            let loss =
                -run.root("log_prob").unwrap()[..ids.len()].iter().sum::<f32>() / (batch * (time - 1)) as f32;
            let wanted = numbers(&expected, "loss")[0];
            assert!(
                (loss / wanted - 1.0).abs() < 1e-4,
                "{name} {}: loss {loss} is not {wanted}",
                kind.name()
            );
            if kind == EntryKind::Train {
                gradients_agree(name, &loaded, &expected);
            }
        }
    }
}
