//! `benches/gpu.sh` on the virtual GPU with small sizes, as it will run on a GPU, and what it says where there is none.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn script(folder: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu.sh");
    let binary = env!("CARGO_BIN_EXE_diptych");
    let mut command = Command::new("bash");
    command.current_dir(folder).arg(script).args(["--binary", binary, "--out", "found"]).args(arguments);
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn on_the_virtual_gpu_all_is_right_and_times_say_that_they_mean_nothing() {
    let place = tempfile::tempdir().unwrap();
    let output = script(place.path(), &["--device", "virtual:sm_90a", "--small"]);
    let told = told(&output);
    if !output.status.success() && told.contains("NVRTC") && std::env::var_os("DIPTYCH_CUDA").is_none() {
        return println!("skipped: {told}");
    }
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{table}");
    for part in [
        "ITS TIMES SAY NOTHING",
        "roofline",
        "PyTorch",
        "Not timed: it does not run on a virtual GPU",
        "score, bits",
    ] {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    assert!(!table.contains("WRONG"), "{table}");
    let text = std::fs::read_to_string(place.path().join("found/kernels.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["times_count"], &found["machine"]), (&false.into(), &"h100-sxm".into()));
    let checks = found["checks"].as_array().unwrap();
    let models: std::collections::BTreeSet<&str> =
        checks.iter().map(|check| check["model"].as_str().unwrap()).collect();
    assert_eq!(models.into_iter().collect::<Vec<_>>(), ["gpt2-tiny", "llama-tiny", "mla-tiny"]);
    // An error that is none would mean that nothing was compared.
    let mut errors = checks.iter().filter(|check| check["measure"] == "relative-error");
    assert!(errors.clone().count() >= 9 && errors.all(|check| check["found"].as_f64() > Some(0.0)), "{text}");
    let works = found["works"].as_array().unwrap();
    assert_eq!(works.len(), 3);
    for work in works {
        let lines = work["lines"].as_array().unwrap();
        assert!(lines.len() > 5, "{work}");
        assert!(lines.iter().all(|line| line["seconds"].as_f64() > Some(0.0)), "{work}");
        assert!(lines.iter().all(|line| line["roofline_seconds"].as_f64() > Some(0.0)), "{work}");
    }
}

#[test]
fn what_is_missing_is_told_and_is_no_success() {
    let place = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], expected: &[&str]| {
        let output = script(place.path(), arguments);
        let told = told(&output);
        assert!(!output.status.success(), "{arguments:?}: {told}");
        assert!(expected.iter().any(|part| told.contains(part)), "{arguments:?}: {told}");
    };
    // No machine has so many GPUs; most have no driver.
    refused(&["--device", "cuda:99"], &["no NVIDIA driver", "no GPU 99"]);
    refused(&["--device", "cpu"], &["--kernels is about GPUs"]);
    refused(&["--device", "virtual:sm_90a"], &["add --small", "NVRTC"]);
    refused(&["--binary", "missing"], &["missing is no program"]);
    refused(&["--out"], &["--out needs a value"]);
    assert!(!place.path().join("found/kernels.json").exists());
    std::fs::create_dir_all(place.path().join("found")).unwrap();
    std::fs::write(place.path().join("found/kept"), "mine").unwrap();
    refused(&["--device", "cuda:99"], &["found exists and is not empty"]);
}
