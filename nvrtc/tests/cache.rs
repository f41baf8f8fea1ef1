//! The cache of compiled kernels, with the real compiler and a folder for each test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::nvrtc;
use diptych_nvrtc::{Compiled, Form, KernelCache, Nvrtc, Target};

const SOURCE: &str = "extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n";

fn compile(cache: &KernelCache, nvrtc: &Nvrtc, source: &str, target: Target, form: Form) -> Compiled {
    cache.compile(nvrtc, source, "twice.cu", target, form).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_was_compiled_once_is_found_again_and_all_that_decides_it_is_in_the_key() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path().join("deep/kernels"));
    let other = SOURCE.replace("2.0f", "3.0f");
    let asked = [
        (SOURCE, Target::SM_80, Form::Ptx),
        (SOURCE, Target::SM_80, Form::Both),
        (SOURCE, Target::SM_80, Form::Cubin),
        (SOURCE, Target::SM_90A, Form::Cubin),
        (&other, Target::SM_90A, Form::Cubin),
    ];
    let first = asked.map(|(source, target, form)| compile(&cache, &nvrtc, source, target, form));
    let again = asked.map(|(source, target, form)| compile(&cache, &nvrtc, source, target, form));
    for (first, again) in first.iter().zip(&again) {
        assert!(!first.cached && again.cached);
        assert_eq!(*again, Compiled { cached: true, ..first.clone() });
    }
    let renamed = cache.compile(&nvrtc, SOURCE, "other.cu", Target::SM_80, Form::Ptx).unwrap();
    assert!(!renamed.cached, "its lines have another name");
    assert_eq!(again[2].kernel("twice").unwrap().spill_stores, 0);
    assert_eq!(files(cache.folder().unwrap()).len(), 6, "scratch files must not stay");
}

#[test]
fn damaged_files_are_compiled_again() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    let whole = compile(&cache, &nvrtc, SOURCE, Target::SM_80, Form::Cubin);
    let path = files(folder.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let longer = [bytes.as_slice(), b"more"].concat();
    let header =
        String::from_utf8_lossy(&bytes).replacen("diptych-nvrtc 2", "diptych-nvrtc 0", 1).into_bytes();
    for damage in [Vec::new(), b"text".to_vec(), bytes[..bytes.len() / 2].to_vec(), flipped, longer, header] {
        fs::write(&path, damage).unwrap();
        let made = compile(&cache, &nvrtc, SOURCE, Target::SM_80, Form::Cubin);
        assert!(!made.cached && made.warnings[0].contains("damaged"), "{:?}", made.warnings);
        assert_eq!(made.cubin, whole.cubin);
        assert!(compile(&cache, &nvrtc, SOURCE, Target::SM_80, Form::Cubin).cached);
    }
    assert_eq!(files(folder.path()), [path]);
}

#[test]
fn an_unusable_folder_costs_a_warning_only() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let made = compile(&KernelCache::at(file.join("kernels")), &nvrtc, SOURCE, Target::SM_80, Form::Ptx);
    assert!(!made.ptx.is_empty());
    assert!(made.warnings[0].contains("not kept for the next run"), "{:?}", made.warnings);
}

#[test]
fn refused_texts_leave_nothing() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    cache.compile(&nvrtc, "nonsense", "bad.cu", Target::SM_80, Form::Cubin).unwrap_err();
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn threads_may_share_a_folder() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    let expected = nvrtc.compile(SOURCE, "twice.cu", Target::SM_80, Form::Cubin).unwrap().cubin;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let made = compile(&cache, &nvrtc, SOURCE, Target::SM_80, Form::Cubin);
                assert_eq!((made.cubin, made.warnings), (expected.clone(), Vec::new()));
            });
        }
    });
    assert_eq!(files(folder.path()).len(), 1);
}
