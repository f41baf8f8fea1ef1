//! One GPU that is opened twice and used by two threads at once, one of which drops what it loaded kernels with before it runs
//! them: both compute what one alone does.

use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_nvrtc::Target;
use diptych_passes::AdamWOptions;
use diptych_runtime::cuda::CudaError;
use diptych_runtime::device::DeviceName;
use diptych_runtime::executor::{Binding, Executable, Sequence};
use diptych_runtime::session::{Device, Session, SessionError};

const LIMITS: diptych_codegen::entry::Limits = diptych_codegen::entry::Limits { rows: 64, batch: 1 };

/// The entry `score`, without the session that has its kernels and parameters.
fn load(device: &Device, program: &Program) -> Executable {
    let kinds = [EntryKind::Score];
    let mut session = Session::compile(device, program, 64, &kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session.store.upload().unwrap();
    session.executable(device, EntryKind::Score, None, LIMITS).unwrap()
}

/// Bits of log-probabilities of texts of some lengths, each so often that it is captured and replayed.
fn run(device: &Device, run: &mut Executable) -> Vec<u32> {
    let mut found = Vec::new();
    let mut binding = Binding::new(LIMITS, 64);
    for length in [40, 7, 33] {
        for time in 0..4 {
            binding.bind(&[Sequence { origin: 0, length, chunks: &[], state: 0 }]).unwrap();
            for (name, stride) in [("tokens", 31), ("targets", 17)] {
                let ids = run.input::<i32>(name).unwrap()[..length].iter_mut().enumerate();
                ids.for_each(|(at, id)| *id = ((at + time) * stride % 97) as i32);
            }
            if found.is_empty() {
                run.refresh(device, &binding).unwrap();
            }
            run.run(device, &binding).unwrap();
            found.extend(run.root("log_prob").unwrap()[..length].iter().map(|number| number.to_bits()));
        }
    }
    found
}

#[test]
fn a_gpu_that_is_opened_twice_serves_both() {
    let open = || Device::open(DeviceName::Virtual(Target::SM_80), None);
    let one = match open() {
        Ok(device) => device,
        Err(SessionError::Cuda(error @ CudaError::Nvrtc(_)))
            if std::env::var_os("DIPTYCH_CUDA").is_none() =>
        {
            return println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    let program = build(&*Registry::zoo().preset("llama-tiny").unwrap()).unwrap();
    let alone = run(&one, &mut load(&one, &program));
    let other = open().unwrap();
    let both: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads = [&one, &other].map(|device| {
            let program = &program;
            scope.spawn(move || run(device, &mut load(device, program)))
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(both.iter().all(|bits| *bits == alone));
    // What a device gave does not need it any more.
    let mut left = load(&one, &program);
    drop(one);
    assert_eq!(run(&other, &mut left), alone);
}
