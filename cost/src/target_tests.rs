//! Every built-in target loads and makes sense; every kind of wrong file is refused by name and key.

use super::*;

#[test]
fn built_in_targets_load_and_round_trip() {
    for name in Target::built_in_names() {
        let target = Target::load(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(target.name, name);
        let text = toml::to_string(&target).unwrap();
        assert_eq!(Target::parse(&text, "round trip").unwrap(), target);
        match target.into_machine(None) {
            Ok(machine) => assert!(machine.peak_flops_per_second(Precision::Bf16) > 1e11),
            Err(error) => assert!(name == "this-machine", "{error}"),
        }
    }
}

#[test]
fn data_sheet_figures_are_those_of_the_whole_chip() {
    let h100 = Target::load("h100-sxm").unwrap().into_machine(None).unwrap();
    assert!((h100.peak_flops_per_second(Precision::Bf16) / 989e12 - 1.0).abs() < 1e-3);
    // A precision without a unit of its own runs in the next wider one.
    assert_eq!(h100.peak_flops_per_second(Precision::Fp4), h100.peak_flops_per_second(Precision::Fp8));
    assert_eq!(h100.rates.levels.last().unwrap().read.all_threads_bytes_per_second, 3.35e12);
}

#[test]
fn a_gpu_says_what_its_code_is_compiled_for() {
    let name = |architecture| Target::of_architecture(architecture).map(|target| target.name);
    assert_eq!(name("sm_80").as_deref(), Some("a100-80gb-sxm"));
    assert_eq!(name("sm_90a").as_deref(), Some("h100-sxm"));
    assert_eq!(name("sm_75"), None);
    for name in Target::built_in_names() {
        let target = Target::load(name).unwrap();
        assert_eq!(target.architecture.is_some(), target.kind == Kind::Gpu, "{name}");
    }
    let wrong = refusal(|text| text.replace("\"sm_90a\"", "\"hopper\""));
    assert_eq!(wrong, "my.toml: `architecture` is \"hopper\"; it must be that of a GPU, such as \"sm_90a\"");
    let no_gpu = refusal(|text| text.replace("kind = \"gpu\"", "kind = \"cpu\""));
    assert!(no_gpu.contains("`architecture` is \"sm_90a\"; it must be absent"), "{no_gpu}");
}

fn refusal(change: impl Fn(String) -> String) -> String {
    let text = include_str!("../../targets/h100-sxm.toml").to_string();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change must change something");
    Target::parse(&changed, "my.toml").unwrap_err().to_string()
}

#[test]
fn wrong_files_are_refused_by_file_and_key() {
    let unknown = refusal(|text| text.replace("memory_bytes", "memory_size"));
    assert!(unknown.contains("my.toml") && unknown.contains("unknown field `memory_size`"), "{unknown}");
    let missing = refusal(|text| text.replace("kind = \"gpu\"\n", ""));
    assert!(missing.contains("my.toml") && missing.contains("missing field `kind`"), "{missing}");
    let negative = refusal(|text| text.replace("per_hour = 3.24", "per_hour = -3.24"));
    assert_eq!(negative, "my.toml: `price.per_hour` is -3.24; it must be a positive number");
    let nested = refusal(|text| text.replace("capacity_bytes = 5e07", "capacity_bytes = -1.0"));
    assert_eq!(nested, "my.toml: `rates.levels[1].capacity_bytes` is -1; it must be a positive number");
    let no_f32 =
        refusal(|text| text.lines().filter(|line| !line.starts_with("f32")).collect::<Vec<_>>().join("\n"));
    assert!(no_f32.contains("`rates.peak_flops_per_second_per_thread.f32` is missing"), "{no_f32}");
    let typed = refusal(|text| text.replace("threads = 132", "threads = \"many\""));
    assert!(typed.contains("threads = \"many\"") && typed.contains("expected usize"), "{typed}");
    let share = refusal(|text| text.replace("share_of_peak = 0.803", "share_of_peak = 1.2"));
    assert!(share.contains("`rates.dot_shares[0].share_of_peak` is 1.2; it must be above 0"), "{share}");
    let memory = refusal(|text| text.replace("share_of_memory_rate = 0.872", "share_of_memory_rate = 0"));
    assert!(memory.contains("`rates.gpu.share_of_memory_rate` is 0; it must be above 0"), "{memory}");
    let currency = refusal(|text| text.replace("\"USD\"", "\"dollars\""));
    assert!(currency.contains("`price.currency`") && currency.contains("USD"), "{currency}");
}

#[test]
fn unknown_names_and_unmeasured_targets_are_told() {
    assert_eq!(Target::load("h100").unwrap(), Target::load("h100-sxm").unwrap());
    let unknown = Target::load("h1000").unwrap_err().to_string();
    assert!(unknown.contains("`h1000`") && unknown.contains("h100-sxm"), "{unknown}");
    let absent = Target::load("no/such/file.toml").unwrap_err().to_string();
    assert!(absent.starts_with("no/such/file.toml: cannot be read"), "{absent}");
    let unmeasured = Target::load("this-machine").unwrap().into_machine(None).unwrap_err().to_string();
    assert!(unmeasured.contains("`this-machine`") && unmeasured.contains("`rates`"), "{unmeasured}");
}

#[test]
fn what_nothing_backs_is_named_and_is_there() {
    // The figures of the reference were measured, if on another machine than the one at hand.
    for name in Target::built_in_names().filter(|name| !["this-machine", "reference-cpu"].contains(name)) {
        let target = Target::load(name).unwrap();
        for key in ["rates.scalar_per_second_per_thread", "rates.levels[0]"] {
            assert!(target.unmeasured.contains_key(key), "{name} does not say what its {key} is");
        }
        let machine = target.into_machine(None).unwrap();
        assert!(!machine.unmeasured.is_empty(), "a machine keeps what its target says");
    }
    let wrong = refusal(|text| text.replace("\"rates.levels[0]\"", "\"rates.levels[7]\""));
    assert_eq!(wrong, "my.toml: `unmeasured` is \"rates.levels[7]\"; it must be a key of this file");
}
