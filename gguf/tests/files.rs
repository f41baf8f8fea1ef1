//! Whole files: what is written is read, and what is truncated, damaged or made up is refused without
//! a panic, whatever its bytes.

mod support;

use diptych_gguf::{File, Format};
use proptest::prelude::*;
use std::path::Path;
use support::{Gguf, Value};

fn sample() -> Gguf {
    let mut file = Gguf::default();
    file.set("general.architecture", "llama");
    file.set("some.count", Value::U32(7));
    file.set("some.byte", Value::U8(3));
    file.set("some.negative", Value::I32(-1));
    file.set("some.large", Value::U64(u64::MAX));
    file.set("some.small", Value::F32(1e-5));
    file.set("some.flag", Value::Bool(true));
    file.set("some.words", Value::Texts(vec!["a".to_owned(), "é".to_owned(), String::new()]));
    file.set("some.scores", Value::Floats(vec![0.5, -1.0]));
    file.set("some.kinds", Value::Integers(vec![1, 1, 1]));
    file.set("some.layers", Value::Integers(vec![1, 2]));
    file.tensor_f32("one", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    file.tensor("two", &[2, 32], 8, vec![0; 68]);
    file.tensor("odd", &[1, 32], 6, vec![0; 22]);
    file
}

/// Opens a file with these bytes, and reads all of it in every way.
fn open(folder: &Path, bytes: &[u8]) -> Result<File, String> {
    let path = folder.join("file.gguf");
    std::fs::write(&path, bytes).unwrap();
    let file = File::open(&path).map_err(|error| error.to_string())?;
    for key in file.keys() {
        let _ = (file.string(key), file.boolean(key), file.float(key), file.one_count(key));
        let _ = (file.strings(key), file.floats(key), file.counts(key));
    }
    for info in file.tensors().values() {
        let Ok(format) = info.format else { continue };
        let bytes = &file.map()[info.bytes.clone()];
        let elements: usize = info.shape.iter().product();
        let read = format.reader();
        let _ = (read(bytes, 0), read(bytes, elements - 1));
    }
    Ok(file)
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path(), &sample().bytes()).unwrap();
    assert_eq!(file.string("general.architecture").unwrap().as_deref(), Some("llama"));
    assert_eq!(file.count("some.count").unwrap(), Some(7));
    assert_eq!(file.count("some.byte").unwrap(), Some(3));
    assert_eq!(file.one_count("some.kinds").unwrap(), Some(1));
    assert_eq!(file.float("some.small").unwrap(), Some(1e-5));
    assert_eq!(file.boolean("some.flag").unwrap(), Some(true));
    assert_eq!(file.strings("some.words").unwrap().unwrap(), ["a", "é", ""]);
    assert_eq!(file.floats("some.scores").unwrap().unwrap(), [0.5, -1.0]);
    assert_eq!(file.count("absent").unwrap(), None);
    let one = &file.tensors()["one"];
    assert_eq!((one.shape.as_slice(), one.format), (&[2, 3][..], Ok(Format::F32)));
    let read = Format::F32.reader();
    assert_eq!(read(&file.map()[one.bytes.clone()], 5), 6.0);
    assert_eq!(file.tensors()["two"].bytes.len(), 68);
    assert_eq!(file.tensors()["odd"].format, Err(6));
    for (told, expected) in [
        (file.string("some.count").unwrap_err(), "`some.count` is of type U32; it must be a string"),
        (file.count("some.negative").unwrap_err(), "`some.negative` is -1"),
        (file.one_count("some.layers").unwrap_err(), "`some.layers` differs between layers"),
        (file.floats("some.words").unwrap_err(), "`some.words` is an array of 3 String"),
        (file.counts("some.count").unwrap_err(), "it must be an array"),
    ] {
        assert!(told.to_string().contains(expected), "{told}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = sample().bytes();
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let find = |text: &str| bytes.windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
    let (flag, one, two) = (find("some.flag") + 9, find("one") + 3, find("two") + 3);
    let mut twice = sample();
    twice.metadata.push(twice.metadata[0].clone());
    let mut same = sample();
    same.tensors.push(same.tensors[0].clone());
    for (bytes, expected) in [
        (patched(0, b"GGML"), "does not begin with `GGUF`"),
        (patched(4, &1u32.to_le_bytes()), "version 1"),
        (patched(4, &3u32.to_be_bytes()), "big-endian"),
        (patched(8, &u64::MAX.to_le_bytes()), "file.gguf: t"),
        (patched(16, &u64::MAX.to_le_bytes()), "truncated"),
        (patched(24, &u64::MAX.to_le_bytes()), "truncated"),
        (patched(32, b"\xff"), "is not UTF-8"),
        (patched(flag, &13u32.to_le_bytes()), "`some.flag` has the unknown type 13"),
        (patched(one, &0u32.to_le_bytes()), "tensor `one` has 0 dimensions"),
        (patched(one, &5u32.to_le_bytes()), "tensor `one` has 5 dimensions"),
        (patched(one + 4, &0u64.to_le_bytes()), "tensor `one` (F32) has the dimensions [0, 2]"),
        (patched(one + 4, &u64::MAX.to_le_bytes()), "no file can hold"),
        (patched(one + 24, &(1u64 << 40).to_le_bytes()), "tensor `one` (F32) takes 24 bytes"),
        (patched(one + 24, &(u64::MAX - 31).to_le_bytes()), "it is truncated"),
        (patched(one + 24, &4u64.to_le_bytes()), "no multiple of the alignment"),
        (patched(two + 4, &33u64.to_le_bytes()), "tensor `two` (Q8_0) has rows of 33"),
        (twice.bytes(), "the key `general.architecture` is there twice"),
        (same.bytes(), "the tensor `one` is there twice"),
        (Vec::new(), "file.gguf"),
    ] {
        let told = open(folder.path(), &bytes).err().unwrap_or_default();
        assert!(told.contains(expected), "{expected}: {told}");
    }
    for alignment in [0u32, 24] {
        let mut file = sample();
        file.set("general.alignment", Value::U32(alignment));
        let told = open(folder.path(), &file.bytes()).err().unwrap_or_default();
        assert!(told.contains("power of two"), "{told}");
    }
    assert!(File::open(folder.path()).unwrap_err().to_string().contains("name the .gguf itself"));
    let absent = File::open(&folder.path().join("absent.gguf")).unwrap_err().to_string();
    assert!(absent.contains("absent.gguf"), "{absent}");
}

#[test]
fn files_cut_anywhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = sample();
    file.tensors.pop();
    let bytes = file.bytes();
    for length in 0..bytes.len() {
        assert!(open(folder.path(), &bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    open(folder.path(), &bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(5), ..ProptestConfig::default() })]

    /// Bytes changed anywhere in the header, single ones and whole numbers.
    #[test]
    fn damaged_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1usize..9), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = sample().bytes();
        for (at, with, width) in changes {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&with.to_le_bytes()[..end - at]);
        }
        let _ = open(folder.path(), &bytes);
    }
}
