//! `compile --target` as a user meets it: sources, PTX, machine code and costs for GPUs that are not there, what is left
//! where NVIDIA's tools are not there either, and what is told of names that are no targets.

use diptych::runtime::session::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A very small model, whose products are for tensor cores.
const MODEL: [&str; 10] = [
    "compile",
    "--model",
    "llama-tiny",
    "--set",
    "model.dtype=bf16",
    "--set",
    "train.batch=2",
    "--set",
    "train.time=48",
    "--serve-context=40",
];

/// Compiles into `out`, looking for NVIDIA's tools in `cuda` alone, if it is named.
fn compile(folder: &Path, cuda: Option<&Path>, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.current_dir(folder).args(MODEL).args(["--out", "out"]).args(more);
    if let Some(cuda) = cuda {
        command.env("DIPTYCH_CUDA", cuda);
    }
    command.output().unwrap()
}

fn worked(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn costs(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("costs.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Where NVRTC is, or `None`, with a reason printed, where it is not installed. With `DIPTYCH_CUDA` set it must be there.
fn nvrtc() -> Option<PathBuf> {
    match diptych_nvrtc::find_nvrtc() {
        Ok(path) => Some(path),
        Err(error) => {
            assert!(error.named.is_none(), "{error}");
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn without_nvidia_s_tools_there_are_sources_and_predictions() {
    let place = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let table = worked(&compile(place.path(), Some(empty.path()), &["--target", "sm_80,h100,b200"]));
    for part in
        ["no PTX, no CUBIN", "setup/cuda.sh", "a training step of 2 × 48 tokens", "a100-80gb-sxm", "h100-sxm"]
    {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    for (name, architecture) in [("sm_80", "sm_80"), ("h100-sxm", "sm_90a"), ("b200", "sm_100a")] {
        let folder = place.path().join("out").join(name);
        let source = std::fs::read_to_string(folder.join("train.cu")).unwrap();
        assert!(source.contains("__global__") && source.contains(architecture), "{name}");
        for absent in ["train.ptx", "train.cubin", "train.c"] {
            assert!(!folder.join(absent).exists(), "{name}: {absent}");
        }
        assert!(std::fs::read_to_string(folder.join("decode.plan")).unwrap().starts_with("decode: "));
        let costs = costs(&folder);
        assert_eq!((&costs["target"], &costs["architecture"]), (&name.into(), &architecture.into()));
        assert!(costs["missing"][0].as_str().unwrap().contains("setup/cuda.sh"), "{}", costs["missing"]);
        assert!(costs["kernels"].as_object().unwrap().values().all(|kernel| kernel["resources"].is_null()));
        sums_add_up(&costs);
    }
    // The faster machine takes less.
    let total = |name: &str| {
        number(&costs(&place.path().join("out").join(name))["totals"][0]["sum"]["roofline_seconds"])
    };
    assert!(total("b200") < total("h100-sxm") && total("h100-sxm") < total("sm_80"));
}

/// What a user asks for is the sum of launches, none of which is faster than its roofline.
fn sums_add_up(costs: &Value) {
    let entries = costs["entries"].as_array().unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry["entry"] == name).unwrap();
    let sum = |entry: &Value, field: &str| {
        let launches = entry["launches"].as_array().unwrap().iter();
        launches.map(|launch| number(&launch["sum"][field])).sum::<f64>()
    };
    let close =
        |found: f64, wanted: f64| assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{found} {wanted}");
    for entry in entries {
        close(number(&entry["sum"]["flops"]), sum(entry, "flops"));
        for launch in entry["launches"].as_array().unwrap() {
            let sum = |field: &str| number(&launch["sum"][field]);
            assert!(sum("roofline_seconds") <= sum("predicted_seconds") * (1.0 + 1e-9), "{launch}");
            assert!(sum("tensor_core_flops") <= sum("flops") && number(&launch["blocks"]) >= 1.0, "{launch}");
            assert!(costs["kernels"].get(launch["kernel"].as_str().unwrap()).is_some(), "{launch}");
        }
    }
    let totals = costs["totals"].as_array().unwrap();
    if entries.len() == 1 {
        return assert_eq!(totals.len(), 1);
    }
    assert_eq!(totals.len(), 3);
    let step = sum(entry("train"), "predicted_seconds")
        + number(&entry("train")["copy_seconds"])
        + sum(entry("update"), "predicted_seconds")
        + number(&entry("update")["copy_seconds"]);
    close(number(&totals[0]["sum"]["predicted_seconds"]), step);
    close(number(&totals[0]["tokens_per_second"]), 96.0 / step);
    for (total, name) in totals.iter().zip(["train", "prefill", "decode"]) {
        let share = number(&total["share_of_peak"]);
        assert!(share > 0.0 && share < 1.0, "{name}: {share}");
        // All matrices are multiplied in bf16.
        let shares = number(&total["sum"]["tensor_core_flops"]) / number(&total["sum"]["flops"]);
        assert!(shares > 0.3 && shares < 1.0, "{name}: {shares}");
    }
}

#[test]
fn machine_code_says_what_kernels_use() {
    let Some(nvrtc) = nvrtc() else { return };
    let place = tempfile::tempdir().unwrap();
    let table = worked(&compile(place.path(), None, &["--target", "sm_90a", "--entry", "decode"]));
    // One target has no folder of its own.
    let folder = place.path().join("out");
    let ptx = std::fs::read_to_string(folder.join("decode.ptx")).unwrap();
    assert!(ptx.contains(".target sm_90a"));
    assert_eq!(&std::fs::read(folder.join("decode.cubin")).unwrap()[..4], b"\x7fELF");
    let found = costs(&folder);
    sums_add_up(&found);
    for (name, kernel) in found["kernels"].as_object().unwrap() {
        let used = &kernel["resources"];
        assert!((8.0..=255.0).contains(&number(&used["registers"])), "{name}: {used}");
        assert_eq!(number(&used["spill_store_bytes"]) + number(&used["spill_load_bytes"]), 0.0, "{name}");
        let (blocks, occupancy) = (number(&used["blocks_a_multiprocessor"]), number(&used["occupancy"]));
        assert_eq!(occupancy, blocks * number(&kernel["threads"]) / 2048.0, "{name}");
        assert!(blocks >= 1.0 && used["occupancy_limit"].is_string(), "{name}: {used}");
    }
    let kernels = || found["kernels"].as_object().unwrap().values();
    if diptych_nvrtc::find_nvdisasm().is_ok() {
        assert!(
            table.contains("MMA") && table.contains("in loop") && !table.contains("no instructions"),
            "{table}"
        );
        let on_tensor_cores = |kernel: &&Value| number(&kernel["instructions"]["tensor_core"]) > 0.0;
        assert!(kernels().filter(on_tensor_cores).count() > 3);
        for kernel in kernels().filter(on_tensor_cores) {
            let share = &kernel["instructions"]["main_loop_tensor_core_share"];
            assert!(share.is_null() || (0.0..1.0).contains(&number(share)), "{kernel}");
        }
    }

    // With NVRTC and no nvdisasm, registers are known and instructions are not.
    let lone = tempfile::tempdir().unwrap();
    std::fs::create_dir(lone.path().join("lib")).unwrap();
    std::os::unix::fs::symlink(&nvrtc, lone.path().join("lib").join(nvrtc.file_name().unwrap())).unwrap();
    let table = worked(&compile(
        place.path(),
        Some(lone.path()),
        &["--target", "sm_90a", "--entry", "decode", "--force"],
    ));
    assert!(table.contains("no instructions: nvdisasm") && table.contains("registers"), "{table}");
    let found = costs(&folder);
    assert!(
        found["kernels"]
            .as_object()
            .unwrap()
            .values()
            .all(|kernel| { kernel["instructions"].is_null() && !kernel["resources"].is_null() })
    );
}

#[test]
fn what_is_no_target_is_told_and_nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], expected: &[&str]| {
        let output = compile(place.path(), None, more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {told}");
        expected.iter().for_each(|part| assert!(told.contains(part), "{more:?}: no `{part}` in: {told}"));
    };
    refused(&["--target", "sm_103a"], &["no kernels are written for sm_103a yet", "sm_80, sm_90a, sm_100a"]);
    refused(&["--target", "virtual:sm_90a"], &["there is none", "h100-sxm"]);
    refused(&["--target", "sm_80,sm_80"], &["`sm_80` is named twice"]);
    refused(&["--target", "reference-cpu"], &["that is a CPU"]);
    refused(&["--target", "sm_80", "--entry", "serve"], &["no entry `serve`"]);
    refused(&["--device", "cuda:0"], &["--device"]);
    assert!(!place.path().join("out").exists(), "nothing is written before all targets are known");
    std::fs::create_dir(place.path().join("out")).unwrap();
    std::fs::write(place.path().join("out/kept.txt"), "mine").unwrap();
    refused(&["--target", "sm_80"], &["out exists", "--force"]);
    assert_eq!(std::fs::read_dir(place.path().join("out")).unwrap().count(), 1);
}

/// The default is code for the processor, as ever.
#[test]
fn without_a_target_it_is_the_processor() {
    let place = tempfile::tempdir().unwrap();
    assert!(Device::cpu(Some(1)).is_ok(), "tests need a C compiler");
    assert_eq!(worked(&compile(place.path(), None, &["--threads", "2"])), "");
    let read = |name: &str| std::fs::read_to_string(place.path().join("out").join(name)).unwrap();
    assert!(read("decode.c").contains("void ") && read("stages.txt").contains("decode: C text"));
    assert!(!place.path().join("out/costs.txt").exists());
}
