//! Where another `libcuda.so` is on the path, the one that was loaded by its path is used all the same.

mod common;

use std::process::Command;

#[test]
fn the_library_that_was_loaded_first_is_found() {
    if std::env::var_os("DIPTYCH_INNER_TEST").is_some() {
        let (_library, context) = common::context("sm_90a");
        assert_eq!(context.name().unwrap(), "Virtual GPU (sm_90a)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("other.c");
    std::fs::write(&source, "int cuInit(unsigned flags) { return 100; }").unwrap();
    let other = folder.path().join("libcuda.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&other).arg(&source).status();
    if !built.is_ok_and(|status| status.success()) {
        println!("skipped: no C compiler");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["the_library_that_was_loaded_first_is_found", "--exact"])
        .env("DIPTYCH_INNER_TEST", "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
