//! What a user is told where there is no driver to use: with libraries made for the test, each in a process of its own,
//! since a process loads one driver.

use super::*;
use std::path::Path;
use std::process::Command;

/// In the inner process: what to ask for.
const ASKED: &str = "DIPTYCH_INNER_TEST_OF_DRIVERS";

/// A driver whose functions do nothing, but for those of its version and its start.
fn source(functions: &[&str], version: i32, init: i32) -> String {
    let mut text = format!(
        "int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}\n\
         int cuInit(unsigned flags) {{ return {init}; }}\n\
         int cuDeviceGetCount(int *count) {{ *count = 0; return 0; }}\n\
         int cuGetErrorName(int error, const char **name) {{ *name = \"CUDA_ERROR_MADE_UP\"; return 0; }}\n\
         int cuGetErrorString(int error, const char **text) {{ *text = \"made up\"; return 0; }}\n"
    );
    for name in functions {
        if !text.contains(&format!("int {name}(")) {
            text.push_str(&format!("int {name}(void) {{ return 1; }}\n"));
        }
    }
    text
}

/// What a process is told that asks for a GPU and finds this library, if any; `None` where there is no C compiler.
fn told(library: Option<&str>) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    if let Some(source) = library {
        let file = folder.path().join("driver.c");
        std::fs::write(&file, source).unwrap();
        let out = folder.path().join("libcuda.so");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(out).arg(file).status();
        built.ok().filter(|status| status.success())?;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["cuda::driver::tests::what_is_asked_for_in_a_process_of_its_own", "--exact", "--nocapture"])
        .env(ASKED, folder.path())
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_is_asked_for_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(ASKED) else { return };
    // Where nothing was put into the folder, a driver of the machine's own may be found.
    let made = Path::new(&folder).join("libcuda.so").exists();
    for _ in 0..2 {
        match crate::cuda::Gpu::open(3) {
            Ok(gpu) => println!("a GPU: {}", gpu.name()),
            Err(error) => println!("{error}"),
        }
    }
    println!("made {made}");
}

#[test]
fn users_are_told_what_is_wrong_with_their_driver() {
    let all = source(&FUNCTIONS, 13_000, 0);
    let cases: [(String, &[&str]); 5] = [
        (source(&[], 11_040, 0), &["too old", "CUDA 11.4", "is missing"]),
        (source(&FUNCTIONS, 11_080, 0), &["too old", "CUDA 11.8", "12.0 is the oldest"]),
        (source(&FUNCTIONS, 13_000, 100), &["no GPU 3", "the driver finds none", "CUDA_VISIBLE_DEVICES"]),
        (source(&FUNCTIONS, 13_000, 803), &["could not start", "made up (CUDA_ERROR_MADE_UP)"]),
        (all.replace("*count = 0", "*count = 2"), &["no GPU 3", "there are 2, from `cuda:0` on"]),
    ];
    for (source, parts) in cases {
        let Some(text) = told(Some(&source)) else { return println!("skipped: no C compiler") };
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(parts[0])).collect();
        assert_eq!(lines.len(), 2, "told the same each time: {text}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{text}");
    }
}

#[test]
fn without_a_driver_users_are_told_what_to_install() {
    let text = told(None).unwrap();
    // Where the machine has a driver, what it finds is its own affair, as long as nothing panics.
    let said = ["no NVIDIA driver", "apt install nvidia-driver", "--device cpu"];
    assert!(
        text.contains("a GPU:") || text.contains("no GPU") || said.iter().all(|part| text.contains(part)),
        "{text}"
    );
}

#[test]
fn code_for_a_newer_driver_is_refused_with_what_would_be_right() {
    check_code(13_000, 13, "13.5").unwrap();
    check_code(13_010, 12, "12.9").unwrap();
    let error = check_code(12_040, 13, "13.5").unwrap_err().to_string();
    for said in ["CUDA 12.4", "NVRTC 13.5", "CUDA 13.0", "setup/cuda.sh --cuda 12", "DIPTYCH_CUDA"] {
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn versions_are_named_as_people_know_them() {
    assert_eq!([12_000, 12_040, 13_010].map(version_name), ["12.0", "12.4", "13.1"]);
}
