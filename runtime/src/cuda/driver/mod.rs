//! The CUDA driver's library: which one this process has, and whether it is new enough. It is asked for before cudarc
//! calls it, since cudarc panics where the library or one of its functions is missing, and loads it once for all.

use super::error::{CudaError, cause, could_not};
use super::virtual_gpu;
use cudarc::driver::{DriverError, result, sys};
use diptych_nvrtc::Target;
use std::sync::{Mutex, PoisonError};

/// Which driver a process has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// NVIDIA's.
    Nvidia,
    /// That of the virtual GPU, which is of this architecture.
    Virtual(Target),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Nvidia => f.write_str("NVIDIA's driver"),
            Kind::Virtual(target) => write!(f, "the virtual GPU {target}"),
        }
    }
}

/// The driver that was loaded, for good.
static LOADED: Mutex<Option<Kind>> = Mutex::new(None);

/// The oldest version of CUDA whose driver has all that is called, as the driver counts: 12.0.
const OLDEST: i32 = 12_000;

/// What is called of the driver: by this crate, and by cudarc for it.
const FUNCTIONS: [&str; 45] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyHtoD_v2",
    "cuMemsetD8_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

/// Loads the driver, if that was not done, and starts it. What fails before a library is loaded fixes nothing.
///
/// # Errors
/// When there is none, it is too old, it does not start, or the process has one of another kind.
pub(crate) fn load(kind: Kind) -> Result<(), CudaError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match *loaded {
        Some(first) if first != kind => {
            return Err(CudaError::Fixed { first: first.to_string(), asked: kind.to_string() });
        }
        Some(_) => return start(),
        None => {}
    }
    match kind {
        // SAFETY: opens libraries by the driver's names; their constructors have no preconditions.
        Kind::Nvidia if !unsafe { sys::is_culib_present() } => return Err(CudaError::NoDriver),
        Kind::Nvidia => {}
        Kind::Virtual(target) => virtual_gpu::open(target)?,
    }
    // From here on cudarc has a library for good: the one that its search finds.
    *loaded = Some(kind);
    // SAFETY: some library of these names is there, as was just seen.
    let library = unsafe { sys::culib() };
    let found = match virtual_gpu::is_ours(library) {
        true => "that of the virtual GPU",
        false => "NVIDIA's",
    };
    let expected = matches!(kind, Kind::Virtual(_));
    if virtual_gpu::is_ours(library) != expected {
        *loaded = None;
        return Err(CudaError::OtherDriver { found });
    }
    // SAFETY: the functions are looked up, not called.
    let has = |name: &&str| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok();
    if let Some(lacking) = FUNCTIONS.iter().find(|name| !has(name)) {
        *loaded = None;
        let needed = format!("its function `{lacking}`, of CUDA {}, is missing", version_name(OLDEST));
        return Err(CudaError::DriverTooOld { found: version_of(has(&"cuDriverGetVersion")), needed });
    }
    start()
}

/// The version as the driver tells it, if it can be asked.
fn version_of(can_be_asked: bool) -> String {
    match can_be_asked.then(version) {
        Some(Ok(version)) => version_name(version),
        _ => "before 2.2".to_owned(),
    }
}

/// Starts the driver. Doing so again costs nothing.
fn start() -> Result<(), CudaError> {
    let version = version()?;
    if version < OLDEST {
        let needed = format!("12.0 is the oldest that will do ({} was released in 2022)", "R525");
        return Err(CudaError::DriverTooOld { found: version_name(version), needed });
    }
    match result::init() {
        Ok(()) => Ok(()),
        // What the driver says where there is no GPU; to be told with the number that was asked for.
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(()),
        Err(error) => Err(CudaError::Driver { action: "start", cause: cause(error) }),
    }
}

/// The newest version of CUDA that the driver supports, as it counts: 12040 for 12.4.
pub(crate) fn version() -> Result<i32, CudaError> {
    let mut version = 0;
    // SAFETY: the pointer is to a live integer, and the function may be called at any time.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(could_not("tell its version"))?;
    Ok(version)
}

/// For people.
pub(crate) fn version_name(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// How many GPUs there are.
pub(crate) fn count() -> Result<usize, CudaError> {
    match result::device::get_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_NOT_INITIALIZED)) => {
            Ok(0)
        }
        Err(error) => Err(could_not("count GPUs")(error)),
    }
}

/// Refuses machine code of a newer major version of CUDA than the driver knows: it would not load.
///
/// # Errors
/// With what would be right.
pub(crate) fn check_code(version: i32, nvrtc_major: i32, nvrtc_version: &str) -> Result<(), CudaError> {
    if version / 1000 >= nvrtc_major {
        return Ok(());
    }
    let found = version_name(version);
    let needed = format!(
        "NVRTC {nvrtc_version} makes code for drivers of CUDA {nvrtc_major}.0 and later; or install an NVRTC of CUDA \
         {major} (`setup/cuda.sh --cuda {major}`; one elsewhere is named by DIPTYCH_CUDA)",
        major = version / 1000
    );
    Err(CudaError::DriverTooOld { found, needed })
}

#[cfg(test)]
mod tests;
