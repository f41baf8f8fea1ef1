//! Compiles C text behind the prelude with the system's compiler and loads it.
//! For the tests and benches of the prelude alone: the product has its own compiler driver and cache.

use diptych_codegen::c::prelude::{LINK_FLAGS, VectorWidth, clang_flags, prelude};
use libloading::Library;
use std::process::Command;

/// The widths that this machine can run; says which are left out.
pub fn widths() -> Vec<VectorWidth> {
    let (run, skip): (Vec<_>, Vec<_>) = VectorWidth::ALL.into_iter().partition(|width| width.is_supported());
    for width in skip {
        eprintln!("skipped {width:?}: this machine cannot run it");
    }
    run
}

/// Compiles the prelude followed by `source` with `$CC` (default `cc`), and loads the result.
pub fn load(width: VectorWidth, source: &str) -> Library {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("kernels.c");
    let object = folder.path().join("kernels.so");
    std::fs::write(&file, format!("{}{source}", prelude())).expect("a writable temporary folder");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(width.cc_flags()).args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
    if compiler.contains("clang") && width == VectorWidth::Avx512 {
        command.args(clang_flags());
    }
    let output = command.arg(&object).arg(&file).args(LINK_FLAGS).output().expect("a C compiler");
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library was just compiled from the prelude and has no initialisers.
    unsafe { Library::new(&object) }.expect("a loadable library")
}
