//! Failed checks come back as errors of the driver, stay, and can be read.

mod common;

use common::{AXPY, context, take_diagnostic};
use cudarc::driver::{LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

#[test]
fn a_failed_check_is_an_error_that_stays() {
    let (library, context) = context("sm_80");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    let stream = context.new_stream().unwrap();
    let axpy = context.load_module(Ptx::from_src(AXPY)).unwrap().load_function("axpy").unwrap();
    let x = stream.clone_htod(&[1.0f32; 100]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(100).unwrap();
    let config = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    let mut launch = |n: u32| unsafe {
        stream.launch_builder(&axpy).arg(&x).arg(&mut y).arg(&1.0f32).arg(&n).launch(config).map(|_| ())
    };
    launch(100).unwrap();
    assert_eq!(take_diagnostic(&library), "");
    let error = launch(101).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(launch(100).unwrap_err().0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(stream.synchronize().is_err() && stream.clone_dtoh(&x).is_err());
    let text = take_diagnostic(&library);
    assert!(
        text.contains("OutOfBounds in kernel axpy, block (3, 0, 0), warp 0, lane 4, PTX line 20"),
        "{text}"
    );
    assert!(text.contains("offset 400 of the allocation of 400 bytes"), "{text}");
    // cudarc keeps an error that a destructor met, and returns it once.
    let _ = context.check_err();
    launch(100).unwrap();

    // What is not built says so, and what is wrong is refused before anything runs.
    assert_eq!(unsafe { sys::cuProfilerStart() }, sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
    let wrong = AXPY.replace("fma.rn.f32", "fma.rn.f32.wrong");
    let error = context.load_module(Ptx::from_src(wrong)).unwrap_err();
    assert!(format!("{error:?}").contains("INVALID_PTX"), "{error:?}");
    let large = AXPY.replace("sm_80", "sm_90a");
    assert!(context.load_module(Ptx::from_src(large)).is_err());
}
