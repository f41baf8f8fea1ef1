//! The machine that the tests run on, measured for real: figures must agree with each other, not with a target,
//! since the machine may be busy.

use diptych_codegen::c::prelude::{LINK_FLAGS, VectorWidth, prelude};
use diptych_cost::{Kind, Machine, Measurement, Precision, ProbeError, ProbeSource, Target, measured};

fn with_source<T>(run: impl FnOnce(&ProbeSource) -> T) -> T {
    let flags = VectorWidth::chosen().unwrap().cc_flags();
    run(&ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS })
}

#[test]
fn figures_agree_with_each_other_and_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let threads = std::thread::available_parallelism().unwrap().get().min(2);
    let first: Measurement = with_source(|source| measured(source, threads, folder.path())).unwrap();
    println!("{}", toml::to_string(&first).unwrap());

    let rates = &first.rates;
    let peak = rates.peak_per_thread(Precision::F32);
    assert!(peak > 1e9, "a processor does more than a flop a nanosecond: {peak}");
    let scalar = &rates.scalar_per_second_per_thread;
    for slower in [scalar.divide, scalar.exponential, scalar.logarithm, scalar.trigonometric] {
        assert!(slower < scalar.arithmetic && slower > 0.0, "{scalar:?}");
    }
    assert!(scalar.arithmetic < 1.5 * peak, "an addition is not cheaper than half a multiply-add");

    let (nearest, memory) = (&rates.levels[0], rates.levels.last().unwrap());
    assert_eq!(memory.name, "DRAM");
    assert!(
        nearest.read.one_thread_bytes_per_second > 1.5 * memory.read.one_thread_bytes_per_second,
        "a first cache that reads no faster than memory was not measured: {:?}",
        rates.levels
    );
    for pair in rates.levels.windows(2) {
        assert!(pair[0].read.all_threads_bytes_per_second >= pair[1].read.all_threads_bytes_per_second);
        assert!(pair[0].capacity_bytes <= pair[1].capacity_bytes);
    }
    assert!(rates.dot_share(96.0, 256.0) > rates.dot_share(1.0, 16.0), "large tiles are faster");
    assert!(rates.barrier_seconds < 1e-2 && rates.launch_seconds < 1e-5);
    assert!(first.memory_bytes > 2f64.powi(27));

    // The second time comes from the file, and the file says the same.
    let second = with_source(|source| measured(source, threads, folder.path())).unwrap();
    assert_eq!(first, second);
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "nothing is left beside the file: {files:?}");

    // A target without speeds becomes a machine by them, and a description of it passes the checks.
    let target = Target::load("this-machine").unwrap();
    let machine: Machine =
        target.clone().into_machine(Some((first.rates.clone(), first.memory_bytes))).unwrap();
    assert_eq!(machine.kind, Kind::Cpu);
    let described = Target { memory_bytes: Some(first.memory_bytes), rates: Some(first.rates), ..target };
    let text = toml::to_string(&described).unwrap();
    assert_eq!(Target::parse(&text, "described").unwrap(), described);
}

#[test]
fn a_compiler_that_refuses_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let source = ProbeSource { prelude: "#error \"no vectors here\"", flags: &["-O1"], link_flags: &[] };
    let error = measured(&source, 1, folder.path()).unwrap_err().to_string();
    assert!(error.contains("no vectors here") && error.contains("probe.c"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is kept of a failure");
}

#[test]
fn a_missing_compiler_is_named() {
    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
    let error = ProbeError::NoCompiler { compiler: "cc".into(), source }.to_string();
    assert!(error.contains("`cc`") && error.contains("CC"), "{error}");
}
