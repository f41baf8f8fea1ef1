//! A virtual GPU as a user opens it, for tests of which each is a process of its own: a process has one driver.

use diptych_ir::{EntryKind, Program};
use diptych_models::initialize;
use diptych_nvrtc::Target;
use diptych_passes::AdamWOptions;
use diptych_runtime::cuda::CudaError;
use diptych_runtime::device::DeviceName;
use diptych_runtime::session::{Device, Session, SessionError};

/// The virtual GPU, or `None`, with a reason, where NVRTC is not installed. Where its folder is named, it must be
/// there.
pub fn virtual_gpu(target: Target) -> Option<Device> {
    let is_named = std::env::var_os("DIPTYCH_CUDA").is_some();
    match Device::open(DeviceName::Virtual(target), None) {
        Ok(device) => Some(device),
        Err(SessionError::Cuda(error @ CudaError::Nvrtc(_))) if !is_named => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Entries of a program with its initial parameters.
pub fn session(device: &Device, program: &Program, context: usize, kinds: &[EntryKind]) -> Session {
    let mut session = Session::compile(device, program, context, kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session
}
