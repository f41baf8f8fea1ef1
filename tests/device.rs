//! `--device` as a user meets it: a run on the virtual GPU from text to generated tokens, beside the CPU, and what is
//! told where a command or a name does not fit.

use std::path::Path;
use std::process::{Command, Output};

fn diptych(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diptych")).current_dir(folder).args(arguments).output().unwrap()
}

/// What a command prints, or what it tells of its failure.
fn ran(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = diptych(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(told) }
}

fn refused(folder: &Path, arguments: &[&str], expected: &[&str]) {
    let output = diptych(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
    for part in expected {
        assert!(told.contains(part), "{arguments:?}: no `{part}` in: {told}");
    }
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let text: String =
        (0..100).map(|at| format!("Line {at} of a text about {} things.\n\n", at * 7 % 13)).collect();
    std::fs::write(place.path().join("text.txt"), text).unwrap();
    let config = "[model]\npreset = 'llama-tiny'\nvocab = 300\n[train]\nsteps = 4\nbatch = 2\nwarmup_steps = 1\n\
                  [text]\ndata = 'text.txt'\n";
    std::fs::write(place.path().join("run.toml"), config).unwrap();
    place
}

#[test]
fn a_run_on_the_virtual_gpu_is_that_of_the_cpu() {
    let place = place();
    let folder = place.path();
    let train = |device: &str, out: &str| {
        ran(folder, &["train", "--config", "run.toml", "--device", device, "--out", out, "--threads", "2"])
    };
    if let Err(told) = train("virtual:sm_80", "gpu") {
        let missing = told.contains("NVRTC") && std::env::var_os("DIPTYCH_CUDA").is_none();
        assert!(missing, "{told}");
        return println!("skipped: {told}");
    }
    train("cpu", "cpu").unwrap();
    let metrics = |run: &str| -> Vec<f64> {
        let lines = std::fs::read_to_string(folder.join(run).join("metrics.jsonl")).unwrap();
        let value = |line: &str| -> Option<f64> {
            serde_json::from_str::<serde_json::Value>(line).ok()?["loss"].as_f64()
        };
        lines.lines().filter_map(value).collect()
    };
    let [of_gpu, of_cpu] = ["gpu", "cpu"].map(metrics);
    assert_eq!((of_gpu.len(), of_cpu.len()), (4, 4));
    for (gpu, cpu) in of_gpu.iter().zip(&of_cpu) {
        assert!((gpu / cpu - 1.0).abs() < 1e-4, "{of_gpu:?} {of_cpu:?}");
    }
    // A checkpoint does not know where it was trained.
    let on = |device: &str, arguments: &[&str]| {
        ran(folder, &[arguments, &["--checkpoint", "gpu", "--device", device]].concat()).unwrap()
    };
    let score = ["score", "--data", "text.txt", "--most-tokens", "300"];
    assert_eq!(on("virtual:sm_80", &score), on("cpu", &score));
    let generate = ["generate", "--prompt", "Line 7 of", "--tokens", "5", "--temperature", "0"];
    assert_eq!(on("virtual:sm_90a", &generate), on("cpu", &generate));
}

#[test]
fn devices_that_cannot_be_had_are_told() {
    let place = place();
    let folder = place.path();
    refused(
        folder,
        &["train", "--config", "run.toml", "--device", "gpu"],
        &["`gpu` is no device", "virtual:sm_90a"],
    );
    refused(
        folder,
        &["explain", "--config", "run.toml", "--device", "cuda"],
        &["--device cuda:0", "not measured yet"],
    );
    refused(folder, &["bench", "--device", "virtual:sm_80"], &["--device virtual:sm_80", "not measured yet"]);
    // No machine has so many. Without a driver that is told, with it how many GPUs there are.
    let told = ran(folder, &["train", "--config", "run.toml", "--device", "cuda:99"]).unwrap_err();
    assert!(told.contains("no NVIDIA driver") || told.contains("no GPU 99"), "{told}");
    assert!(!folder.join("runs").exists(), "nothing is written before the device is there");
}
