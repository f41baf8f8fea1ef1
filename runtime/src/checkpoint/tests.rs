//! Files written and read back, and files broken in every way that the errors tell apart.

use super::*;
use half::{bf16, f16};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
}

fn write(path: &Path, tensors: &[(TensorSpec, Vec<u8>)], metadata: &BTreeMap<String, String>) {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = CheckpointWriter::create(path, &specs, metadata).unwrap();
    for (spec, bytes) in tensors {
        writer.write(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// One F32 tensor [2, 2] named `a`, and one BF16 [3] named `b`.
fn small() -> Vec<(TensorSpec, Vec<u8>)> {
    let a: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let b: Vec<u8> = [1.0f32, -2.0, 0.5].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    vec![(spec("b", Dtype::BF16, &[3]), b), (spec("a", Dtype::F32, &[2, 2]), a)]
}

fn raw(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    std::fs::write(path, bytes).unwrap();
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    (folder, path)
}

#[test]
fn tensors_come_back_in_the_types_asked_for() {
    let (_folder, path) = folder();
    let mut tensors = small();
    tensors.push((spec("ids", Dtype::I32, &[2]), [7i32, -8].iter().flat_map(|x| x.to_le_bytes()).collect()));
    tensors.push((spec("seed", Dtype::U64, &[]), u64::MAX.to_le_bytes().to_vec()));
    tensors.push((spec("empty", Dtype::F32, &[0, 4]), Vec::new()));
    tensors.push((spec("half", Dtype::F16, &[1]), f16::from_f32(0.25).to_le_bytes().to_vec()));
    write(&path, &tensors, &BTreeMap::new());

    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "empty", "half", "ids", "seed"]);
    for (spec, bytes) in &tensors {
        let view = file.expect(&spec.name, spec.dtype, &spec.shape).unwrap();
        assert_eq!(view.bytes, bytes);
        let width = spec.dtype.bitsize() / 8;
        assert_eq!(view.bytes.as_ptr() as usize % width, 0, "{} must be aligned in the file", spec.name);
    }
    let mut floats = [0.0; 3];
    file.tensor("b").unwrap().read_f32(&mut floats).unwrap();
    assert_eq!(floats, [1.0, -2.0, 0.5]);
    file.tensor("half").unwrap().read_f32(&mut floats[..1]).unwrap();
    assert_eq!(floats[0], 0.25);
    let mut rounded = [bf16::ZERO; 4];
    file.tensor("a").unwrap().read_bf16(&mut rounded).unwrap();
    assert_eq!(rounded.map(bf16::to_f32), [1.0, 2.0, 3.0, 4.0]);
    let (mut ids, mut seed) = ([0; 2], [0]);
    file.tensor("ids").unwrap().read_i32(&mut ids).unwrap();
    file.tensor("seed").unwrap().read_u64(&mut seed).unwrap();
    assert_eq!((ids, seed), ([7, -8], [u64::MAX]));
    assert_eq!(file.tensor("seed").unwrap().elements(), 1);
}

#[test]
fn wrong_uses_are_told() {
    let (_folder, path) = folder();
    write(&path, &small(), &BTreeMap::new());
    let file = Checkpoint::open(&path).unwrap();
    let name = path.display();
    let view = |name| file.tensor(name).unwrap();
    for (error, expected) in [
        (file.tensor("aa").unwrap_err(), format!("{name} has no tensor `aa`")),
        (
            file.expect("a", Dtype::F32, &[4]).unwrap_err(),
            format!("{name}: tensor `a` has shape [2, 2], expected [4]"),
        ),
        (
            file.expect("a", Dtype::BF16, &[2, 2]).unwrap_err(),
            format!("{name}: tensor `a` has dtype F32, expected BF16"),
        ),
        (
            view("a").read_i32(&mut [0; 4]).unwrap_err(),
            format!("{name}: tensor `a` has dtype F32, expected I32"),
        ),
        (
            view("a").read_f32(&mut [0.0; 3]).unwrap_err(),
            format!("{name}: tensor `a` has shape [2, 2], expected [3]"),
        ),
    ] {
        assert_eq!(error.to_string(), expected);
    }
    write(&path, &[(spec("layers.0.attention.q", Dtype::F32, &[]), vec![0; 4])], &BTreeMap::new());
    let file = Checkpoint::open(&path).unwrap();
    let message = file.tensor("layer.0.attention.q").unwrap_err().to_string();
    assert!(message.ends_with("; the nearest is `layers.0.attention.q`"), "{message}");
}

#[test]
fn every_truncation_is_told() {
    let (_folder, path) = folder();
    write(&path, &small(), &BTreeMap::new());
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        let CheckpointError::Truncated { found, expected, .. } = error else { panic!("{length}: {error}") };
        assert_eq!(found, length as u64);
        assert!(expected > found && expected <= whole.len() as u64, "{error}");
    }
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    let (found, needed) = (whole.len() - 1, whole.len());
    let expected =
        format!("{} is truncated: {found} bytes, but the tensor `b` needs {needed}", path.display());
    assert_eq!(message, expected);
}

#[test]
fn every_bad_header_is_told_apart() {
    let (_folder, path) = folder();
    let entry = |name: &str, dtype: &str, shape: &str, range: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{range}}}"#)
    };
    let good = entry("a", "F32", "[2]", "[0,8]");
    type Check = fn(&CheckpointError) -> bool;
    let cases: [(String, usize, Check, &str); 13] = [
        (
            entry("a", "F33", "[2]", "[0,8]"),
            8,
            |e| matches!(e, CheckpointError::UnknownDtype { .. }),
            "`a` has the unknown dtype F33",
        ),
        (
            entry("a", "F32", "[3]", "[0,8]"),
            8,
            |e| matches!(e, CheckpointError::WrongLength { .. }),
            "`a` of F32 [3] takes 12 bytes, but its range 0..8 has 8 bytes",
        ),
        (
            entry("a", "F32", "[2]", "[8,0]"),
            8,
            |e| matches!(e, CheckpointError::WrongLength { .. }),
            "range 8..0 has 0 bytes",
        ),
        (
            entry("a", "F32", "[18446744073709551615,8]", "[0,8]"),
            8,
            |e| matches!(e, CheckpointError::WrongLength { .. }),
            "countable",
        ),
        (entry("a", "F4", "[3]", "[0,2]"), 2, |e| matches!(e, CheckpointError::WrongLength { .. }), "whole"),
        (
            good.clone() + "," + &entry("b", "F32", "[2]", "[4,12]"),
            12,
            |e| matches!(e, CheckpointError::Overlap { .. }),
            "`a` and `b` overlap: bytes 0..8 and 4..12",
        ),
        (
            good.clone() + "," + &entry("b", "F32", "[2]", "[0,8]"),
            8,
            |e| matches!(e, CheckpointError::Overlap { .. }),
            "`a` and `b` overlap",
        ),
        (
            good.clone() + "," + &entry("b", "F32", "[2]", "[12,20]"),
            20,
            |e| matches!(e, CheckpointError::Gap { .. }),
            "bytes 8..12 of the data belong to no tensor (before tensor `b`)",
        ),
        (
            good.clone(),
            11,
            |e| matches!(e, CheckpointError::Gap { .. }),
            "bytes 8..11 of the data belong to no tensor (before the end",
        ),
        (
            entry("a", "F32", "[2]", "[1000,1008]"),
            8,
            |e| matches!(e, CheckpointError::Gap { .. }),
            "bytes 0..1000",
        ),
        (
            r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#.into(),
            8,
            |e| matches!(e, CheckpointError::Header { .. }),
            "entry for `a`",
        ),
        (r#""a":5"#.into(), 0, |e| matches!(e, CheckpointError::Header { .. }), "entry for `a`"),
        ("nonsense".into(), 0, |e| matches!(e, CheckpointError::Header { .. }), "not a JSON object"),
    ];
    for (entries, data, is_right, expected) in cases {
        raw(&path, &format!("{{{entries}}}"), data);
        let error = Checkpoint::open(&path).unwrap_err();
        let message = error.to_string();
        assert!(is_right(&error), "{entries}: {error:?}");
        assert!(message.contains(expected) && message.contains(path.to_str().unwrap()), "{message}");
    }
    raw(&path, &format!("{{{good}}}"), 8);
    Checkpoint::open(&path).unwrap();
    std::fs::write(&path, [0xff; 64]).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("at most 100000000"));
    let message = Checkpoint::open(&path.with_extension("gone")).unwrap_err().to_string();
    assert!(message.contains("could not open") && message.contains("No such file"), "{message}");
}

#[test]
fn a_writer_keeps_to_its_plan_and_leaves_the_old_file_until_the_end() {
    let (folder, path) = folder();
    std::fs::write(&path, "old").unwrap();
    let specs = [spec("a", Dtype::F32, &[2]), spec("b", Dtype::F32, &[1])];
    let create = |specs: &[TensorSpec]| CheckpointWriter::create(&path, specs, &BTreeMap::new());
    let mut writer = create(&specs).unwrap();
    writer.write("a", &[0; 8]).unwrap();
    assert!(writer.write("a", &[0; 8]).unwrap_err().to_string().contains("`a` was written twice"));
    assert!(writer.write("c", &[]).unwrap_err().to_string().contains("`c` was not announced"));
    assert!(writer.write("b", &[0; 8]).unwrap_err().to_string().contains("`b` of F32 [1] takes 4 bytes"));
    assert!(writer.finish().unwrap_err().to_string().contains("`b` was announced and not written"));
    drop(create(&specs).unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    for (specs, expected) in [
        (vec![specs[0].clone(), specs[0].clone()], "two tensors are named `a`"),
        (vec![spec("__metadata__", Dtype::F32, &[1])], "keeps for itself"),
        (vec![spec("a", Dtype::F32, &[usize::MAX, 2])], "no countable number of bytes"),
        (vec![spec("a", Dtype::F32, &[1 << 57]), spec("b", Dtype::F32, &[1])], "bytes needed"),
        (
            ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| spec(name, Dtype::U8, &[1 << 60])).to_vec(),
            "together",
        ),
    ] {
        let message = create(&specs).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
}

#[test]
fn the_state_of_a_run_comes_back() {
    let (_folder, path) = folder();
    let state = RunState {
        architecture: "llama-1a2b".into(),
        step: 12,
        tokens_seen: u64::MAX,
        data_seed: 3,
        config: r#"{"text":"\"quoted\" ü"}"#.into(),
    };
    write(&path, &small(), &state.to_metadata());
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(RunState::of(&file).unwrap(), state);
    assert_eq!(RunState::of_architecture(&file, "llama-1a2b").unwrap(), state);
    let message = RunState::of_architecture(&file, "gpt2-99").unwrap_err().to_string();
    assert!(message.contains("fingerprint llama-1a2b, expected gpt2-99"), "{message}");

    let mut metadata = state.to_metadata();
    metadata.insert(keys::STEP.into(), "twelve".into());
    write(&path, &small(), &metadata);
    let message = RunState::of(&Checkpoint::open(&path).unwrap()).unwrap_err().to_string();
    assert!(message.contains(r#"`diptych.step` is "twelve"; expected a whole number"#), "{message}");
    write(&path, &small(), &BTreeMap::new());
    let message = RunState::of(&Checkpoint::open(&path).unwrap()).unwrap_err().to_string();
    assert!(message.contains("`diptych.architecture` is missing"), "{message}");
}

#[test]
fn models_in_several_files_are_one() {
    let (folder, _) = folder();
    let tensor = |name: &str, value: f32| (spec(name, Dtype::F32, &[1]), value.to_le_bytes().to_vec());
    let at = |name: &str| folder.path().join(name);
    write(&at("model-1.safetensors"), &[tensor("a", 1.0), tensor("b", 2.0)], &BTreeMap::new());
    write(&at("model-2.safetensors"), &[tensor("c", 3.0)], &BTreeMap::new());
    let message = TensorFiles::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("2 such files"), "{message}");

    let index = at("model.safetensors.index.json");
    let write_index = |c: &str, name: &str| {
        let map = format!(r#""a":"model-1.safetensors","b":"model-1.safetensors","{name}":"{c}""#);
        std::fs::write(&index, format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{map}}}}}"#))
            .unwrap();
    };
    write_index("model-2.safetensors", "c");
    for path in [folder.path(), index.as_path()] {
        let files = TensorFiles::open(path).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((files.files().len(), files.path()), (2, index.as_path()));
        let mut value = [0.0];
        files.tensor("c").unwrap().read_f32(&mut value).unwrap();
        assert_eq!(value, [3.0]);
        let message = files.tensor("d").unwrap_err().to_string();
        assert!(message.contains("index.json has no tensor `d`"), "{message}");
    }
    for (file, name, expected) in [
        ("model-3.safetensors", "c", "could not open"),
        ("model-2.safetensors", "d", "model-2.safetensors has no tensor `d`"),
        ("../model-2.safetensors", "c", "beside the index"),
        ("/etc/passwd", "c", "beside the index"),
        ("..", "c", "beside the index"),
    ] {
        write_index(file, name);
        let message = TensorFiles::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    std::fs::write(&index, "[]").unwrap();
    let message = TensorFiles::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is not an index of safetensors files"), "{message}");
}

#[test]
fn a_single_file_and_an_empty_folder_are_known() {
    let (folder, path) = folder();
    let message = TensorFiles::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("expected model.safetensors") && message.contains("no .safetensors file"),
        "{message}"
    );
    write(&folder.path().join("weights.safetensors"), &small(), &BTreeMap::new());
    assert_eq!(TensorFiles::open(folder.path()).unwrap().names().count(), 2);
    write(&path, &small()[..1], &BTreeMap::new());
    assert_eq!(TensorFiles::open(folder.path()).unwrap().names().count(), 1);
    assert_eq!(TensorFiles::open(&path).unwrap().files().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: proptest::test_runner::RngSeed::Fixed(5),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_set_of_tensors_comes_back_and_any_damage_is_survived(
        tensors in prop::collection::btree_map(
            ".{0,12}",
            (prop::sample::select(vec![Dtype::F32, Dtype::BF16, Dtype::I32, Dtype::U64, Dtype::U8]), prop::collection::vec(0usize..5, 0..4)),
            0..8,
        ),
        metadata in prop::collection::btree_map(".{0,8}", ".{0,8}", 0..4),
        position in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (_folder, path) = folder();
        let tensors: Vec<(TensorSpec, Vec<u8>)> = tensors.into_iter().map(|(name, (dtype, shape))| {
            let bytes = vec![name.len() as u8; byte_count(dtype, &shape).unwrap()];
            (TensorSpec { name, dtype, shape }, bytes)
        }).collect();
        write(&path, &tensors, &metadata);
        let file = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(file.names().count(), tensors.len());
        for (spec, bytes) in &tensors {
            prop_assert_eq!(file.expect(&spec.name, spec.dtype, &spec.shape).unwrap().bytes, bytes);
        }
        for (key, value) in &metadata {
            prop_assert_eq!(file.metadata(key), Some(value.as_str()));
        }
        // A flipped bit gives an error or another valid file, never a panic.
        drop(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(file) = Checkpoint::open(&path) {
            for name in file.names() {
                file.tensor(name).unwrap();
            }
        }
    }
}
