//! What goes wrong on a GPU is told: a faulty kernel by its name and with what the check found, memory that does not
//! suffice with how much there is, parameters that were not copied, a missing NVRTC, a missing virtual GPU. One test,
//! since the process has one driver, whose errors stay.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::Limits;
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_nvrtc::Target;
use diptych_passes::AdamWOptions;
use diptych_runtime::cuda::CudaError;
use diptych_runtime::decode::{DecodeError, ServeOptions, Server, Window};
use diptych_runtime::device::DeviceName;
use diptych_runtime::executor::{Binding, RunError, Sequence};
use diptych_runtime::session::{Device, Session, SessionError};
use std::process::Command;

const INNER: &str = "DIPTYCH_INNER_TEST_OF_FAULTS";
const TEST: &str = "what_goes_wrong_is_told";

fn open() -> Result<Device, SessionError> {
    Device::open(DeviceName::Virtual(Target::SM_80), None)
}

/// What this test's program is told when it asks for a virtual GPU, from another place, or with another environment.
fn told(program: &std::path::Path, variable: (&str, &str)) -> String {
    let output = Command::new(program)
        .args([TEST, "--exact", "--nocapture"])
        .env(INNER, "1")
        .env(variable.0, variable.1)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn session(device: &Device, program: &Program, spoil: impl FnOnce(&mut String)) -> Session {
    let kinds = [EntryKind::Score];
    let mut compiled = compile_program(program, &kinds, &AdamWOptions::default(), device.options()).unwrap();
    let kernels = &mut compiled.entries.get_mut(&EntryKind::Score).unwrap().device_kernels;
    let middle = kernels.len() / 2;
    spoil(&mut kernels[middle].text);
    let mut session = Session::load(device, compiled, 64).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session
}

#[test]
fn what_goes_wrong_is_told() {
    if std::env::var_os(INNER).is_some() {
        println!("{}", open().err().map_or_else(|| "it is there".to_owned(), |error| error.to_string()));
        return;
    }
    let this = std::env::current_exe().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("program");
    std::fs::copy(&this, &copy).unwrap();
    let text = told(&copy, ("UNUSED", ""));
    for part in ["virtual GPU's driver is not found", "diptych_virtual_driver", "cargo build"] {
        assert!(text.contains(part), "{text}");
    }

    let device = match open() {
        Ok(device) => device,
        Err(SessionError::Cuda(error @ CudaError::Nvrtc(_)))
            if std::env::var_os("DIPTYCH_CUDA").is_none() =>
        {
            return println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    let text = told(&this, ("DIPTYCH_CUDA", elsewhere.path().to_str().unwrap()));
    assert!(text.contains("NVRTC") && text.contains("setup/cuda.sh"), "{text}");

    let program = build(&*Registry::zoo().preset("llama-tiny").unwrap()).unwrap();
    let text: Vec<i32> = (0..40).map(|at| at * 7 % 97).collect();
    let windows = [Window { tokens: &text, targets: &text }];
    let mut scores = Vec::new();

    // Memory.
    let whole = session(&device, &program, |_| {});
    let room = ServeOptions { batch: 1, sequences: 1, rows: 30 << 20, cache_positions: 64 };
    match Server::new(&device, &whole, room) {
        Err(DecodeError::Session(SessionError::Cuda(
            error @ CudaError::OutOfMemory { bytes, free, total, .. },
        ))) => {
            assert!(bytes > free && free <= total && error.to_string().contains("smaller batch"), "{error}");
        }
        other => panic!("{:?}", other.err()),
    }

    // Parameters.
    let limits = Limits { rows: 64, batch: 1 };
    let mut run = whole.executable(&device, EntryKind::Score, None, limits).unwrap();
    let mut binding = Binding::new(limits, 64);
    binding.bind(&[Sequence { origin: 0, length: 40, chunks: &[], state: 0 }]).unwrap();
    match run.run(&device, &binding) {
        Err(RunError::Cuda(error @ CudaError::NotUploaded(_))) => {
            assert!(error.to_string().contains("upload"))
        }
        other => panic!("{other:?}"),
    }
    whole.store.upload().unwrap();
    run.refresh(&device, &binding).unwrap();
    run.run(&device, &binding).unwrap();
    let cpu = Device::cpu(Some(1)).unwrap();
    assert!(matches!(run.run(&cpu, &binding), Err(RunError::OtherDevice(_))));
    let mut long = Binding::new(limits, 1000);
    long.bind(&[Sequence { origin: 0, length: 40, chunks: &[], state: 0 }]).unwrap();
    assert!(matches!(
        run.run(&device, &long),
        Err(RunError::Cuda(CudaError::Context { found: 1000, expected: 64 }))
    ));

    // A kernel that writes where nothing is.
    let start = "const step_tables step = *tables;";
    let faulty = session(&device, &program, |text| {
        assert!(text.contains(start), "{text}");
        *text = text.replace(start, "const step_tables step = *tables; *(int *)64 = 1;");
    });
    let kernels = &faulty.compiled.entries[&EntryKind::Score].device_kernels;
    let name = &kernels[kernels.len() / 2].name;
    let room = ServeOptions { rows: 64, batch: 1, sequences: 1, cache_positions: 64 };
    let mut server = Server::new(&device, &faulty, room).unwrap();
    match server.score(&windows, &mut scores) {
        Err(DecodeError::Session(SessionError::Run(RunError::Cuda(error @ CudaError::Launch { .. })))) => {
            let said = error.to_string();
            let parts =
                ["OutOfBounds", "block (", "lane", "CUDA_ERROR_ILLEGAL_ADDRESS", "entry `score`", name];
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
        other => panic!("{other:?}"),
    }
    // What it wrote before is not to be trusted.
    assert!(server.score(&windows, &mut scores).unwrap_err().to_string().contains("an earlier run failed"));
}
