//! What the tests of this folder share: NVRTC, or a printed reason to skip.

use diptych_nvrtc::{Compiled, Form, Nvrtc, Target, find_nvdisasm, find_nvrtc};

/// NVRTC, or `None`, with a reason printed, where it is not installed. With `DIPTYCH_CUDA` set it must be there.
pub fn nvrtc() -> Option<Nvrtc> {
    match find_nvrtc() {
        Ok(path) => Some(Nvrtc::open(&path).unwrap()),
        Err(error) => skip(error),
    }
}

/// As [`nvrtc`], if nvdisasm is there too.
#[allow(dead_code)]
pub fn nvrtc_and_nvdisasm() -> Option<Nvrtc> {
    match find_nvdisasm() {
        Ok(_) => nvrtc(),
        Err(error) => skip(error),
    }
}

fn skip<T>(error: diptych_nvrtc::NotFound) -> Option<T> {
    assert!(error.named.is_none(), "{error}");
    println!("skipped: {error}");
    None
}

/// A file of `kernels/`, compiled to CUBIN.
#[allow(dead_code)]
pub fn cubin(nvrtc: &Nvrtc, source: &str, target: Target) -> Compiled {
    nvrtc.compile(source, "kernel.cu", target, Form::Cubin).unwrap_or_else(|error| panic!("{error}"))
}
