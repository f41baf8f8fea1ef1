//! A stand-in for NVIDIA's `libcuda`: the part of the CUDA driver API that `cudarc` uses, on the virtual GPU.
//!
//! Load it by its path before the first call of `cudarc`, whose own search for `libcuda.so` then finds it. Its file has
//! another name, so that it is never taken for the real one: cargo puts its folder on the library path of what it runs.
//! Everything runs when it is called, on the calling thread: streams and events keep books only. A failed check is printed on the standard error and returned as an error of the driver, which, as on a GPU,
//! stays until the process ends, or until [`extra::diptych_virtual_gpu_take_diagnostic`] takes it. Functions that are
//! not built return `CUDA_ERROR_NOT_SUPPORTED` and say so.
//!
//! Modules have to be PTX: what cannot be executed here is machine code. A program knows the device by its name, which
//! starts with `Virtual GPU`, or by the functions in [`extra`], which no other `libcuda` has.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod absent;
mod context;
pub mod extra;
mod graph;
mod launch;
mod memory;
mod module;
mod query;
mod status;
mod stream;

pub(crate) use status::Status;

use diptych_virtual_gpu::{Configuration, Device, Module, Target};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

/// `CUresult`.
type CudaResult = u32;
/// Every opaque handle of the API.
type Handle = *mut c_void;

/// A kernel of a loaded module.
#[derive(Clone)]
struct Function {
    module: Arc<Module>,
    kernel: usize,
    /// What `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` was set to.
    dynamic_shared: u32,
}

/// All that the driver keeps.
struct Driver {
    target: Target,
    memory_bytes: usize,
    configuration: Configuration,
    initialised: bool,
    device: Option<Device>,
    /// The error that stays, and its text.
    failed: Option<(Status, String)>,
    next_handle: usize,
    modules: HashMap<usize, Arc<Module>>,
    functions: HashMap<usize, Function>,
    streams: HashMap<usize, stream::Stream>,
    events: HashMap<usize, stream::Event>,
    captures: HashMap<usize, Vec<graph::Action>>,
    graphs: HashMap<usize, Vec<graph::Action>>,
    /// Whether there is no memory for another instance of a graph.
    refuses_graphs: bool,
    host_blocks: HashMap<usize, std::alloc::Layout>,
    /// Counters by kernel, in the order of first launches.
    launches: Vec<extra::KernelLaunches>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

impl Driver {
    fn new() -> Self {
        let asked = std::env::var("DIPTYCH_VIRTUAL_GPU").ok();
        let target = match asked.as_deref().map(str::parse) {
            Some(Ok(target)) => target,
            Some(Err(problem)) => {
                eprintln!("virtual GPU: DIPTYCH_VIRTUAL_GPU: {problem}; it is sm_90a then");
                Target::Sm90a
            }
            None => Target::Sm90a,
        };
        Driver {
            target,
            memory_bytes: 16 << 30,
            configuration: Configuration::default(),
            initialised: false,
            device: None,
            failed: None,
            next_handle: 0x1000,
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            refuses_graphs: false,
            host_blocks: HashMap::new(),
            launches: Vec::new(),
        }
    }

    /// A number for a handle; never null.
    fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    fn device(&mut self) -> &mut Device {
        let (target, bytes) = (self.target, self.memory_bytes);
        self.device.get_or_insert_with(|| Device::new(target, bytes))
    }
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs the body of an entry point on the driver's state. A panic becomes an error: it must not leave through C.
fn with(body: impl FnOnce(&mut Driver) -> Result<(), Status>) -> CudaResult {
    let run = std::panic::AssertUnwindSafe(|| {
        let mut driver = lock();
        body(driver.get_or_insert_with(Driver::new))
    });
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => Status::Success as u32,
        Ok(Err(status)) => status as u32,
        Err(_) => Status::Unknown as u32,
    }
}

/// As `with`, for calls that need an initialised driver that has not failed.
fn with_device(body: impl FnOnce(&mut Driver) -> Result<(), Status>) -> CudaResult {
    with(|driver| {
        if !driver.initialised {
            return Err(Status::NotInitialized);
        }
        match &driver.failed {
            Some((status, _)) => Err(*status),
            None => body(driver),
        }
    })
}

/// Writes a result through a pointer that the caller gave.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Status> {
    if place.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: the caller of the API promises that the pointer is good for a write.
    unsafe { place.write(value) };
    Ok(())
}

/// Says why an error is returned.
fn complain(status: Status, text: impl std::fmt::Display) -> Status {
    eprintln!("virtual GPU: {text}");
    status
}
