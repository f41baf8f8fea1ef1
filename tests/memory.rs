//! The memory that commands say they will take, against what the system saw
//! them have: never more, and not much less.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a command that must succeed; the bound that it told and its peak resident memory, in bytes.
fn bound_and_peak(folder: &Path, arguments: &[&str]) -> (f64, f64) {
    let told = std::fs::File::create(folder.join("told")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.current_dir(folder).args(arguments).args(["--threads", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(told).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0;
    // The system keeps the highest mark until the process ends, but counts the compilers that it starts by themselves.
    let ended = loop {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        if let Some(mark) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = mark.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0;
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let told = std::fs::read_to_string(folder.join("told")).unwrap();
    assert!(ended.success(), "{arguments:?}: {told}");
    let (_, bound) = told.split_once("at most ").unwrap_or_else(|| panic!("no bound in: {told}"));
    let mut words = bound.split(' ');
    let number: f64 = words.next().unwrap().parse().unwrap();
    let unit = match words.next().unwrap() {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        other => panic!("what is a {other}? {told}"),
    };
    (number * unit, peak)
}

fn within(what: &str, (bound, peak): (f64, f64), least: f64) {
    let share = peak / bound;
    println!("{what}: {:.1} of {:.1} MiB", peak / 1048576.0, bound / 1048576.0);
    // The bound is told in three digits.
    assert!(share < 1.005 && share > least, "{what}: {peak} bytes are {share} of the bound, {bound}");
}

#[test]
fn runs_take_what_they_say() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let text: String =
        (0..400).map(|at| format!("Line {at} of a text about {} things.\n\n", at * 7 % 13)).collect();
    std::fs::write(path.join("text.txt"), text).unwrap();
    // Six million parameters: what a process has anyway is small beside them.
    let config = "[model]\npreset = 'llama-15m'\nvocab = 300\n[train]\nsteps = 2\nbatch = 4\ntime = 128\n\
                  warmup_steps = 1\nevaluate_tokens = 1000\n[text]\ndata = 'text.txt'\n";
    std::fs::write(path.join("large.toml"), config).unwrap();
    let train = ["train", "--config", "large.toml", "--out", "large"];
    within("train", bound_and_peak(path, &train), 0.8);
    let accumulate = [&train[..4], &["many", "--accumulation", "2"]].concat();
    within("train with micro-batches", bound_and_peak(path, &accumulate), 0.8);
    let resume = ["train", "--resume", "large", "--steps", "3"];
    within("train --resume", bound_and_peak(path, &resume), 0.8);
    let generate = ["generate", "--checkpoint", "large", "--prompt", "Line 1", "--tokens", "100"];
    within("generate", bound_and_peak(path, &generate), 0.8);
    let score = ["score", "--checkpoint", "large", "--data", "text.txt", "--window", "128"];
    within("score", bound_and_peak(path, &score), 0.7);

    let small = config.replace("llama-15m", "llama-tiny").replace("128", "64");
    std::fs::write(path.join("small.toml"), small).unwrap();
    // What the process has anyway is most of it.
    let train = ["train", "--config", "small.toml", "--out", "small"];
    within("train a small model", bound_and_peak(path, &train), 0.5);
    let generate = ["generate", "--checkpoint", "small", "--tokens", "20"];
    within("generate from a small model", bound_and_peak(path, &generate), 0.5);
}
