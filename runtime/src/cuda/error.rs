//! What can go wrong between a program and a GPU, said so that the user can mend it.

use cudarc::driver::DriverError;
use diptych_nvrtc::NvrtcError;
use std::path::PathBuf;

/// Why there is no GPU to run on, or why a run on it failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// No driver.
    #[error(
        "no NVIDIA driver: its library, libcuda.so.1 (nvcuda.dll), is not found. Where there is an NVIDIA GPU, install \
         its driver (Debian, Ubuntu: `apt install nvidia-driver`; containers: start them with `--gpus all`); \
         otherwise choose `--device cpu`, or `--device virtual:sm_80` to run GPU code on a virtual GPU"
    )]
    NoDriver,
    /// A driver of another kind was loaded.
    #[error(
        "another CUDA driver than the one asked for was loaded: {found}. Take the folder that it is in out of \
         LD_LIBRARY_PATH"
    )]
    OtherDriver {
        /// Which it is.
        found: &'static str,
    },
    /// The driver is older than its functions that are called, or than the compiler's code.
    #[error(
        "the NVIDIA driver is too old: it is of CUDA {found}, and {needed}. Install a newer driver (`nvidia-smi` \
         names the one at hand)"
    )]
    DriverTooOld {
        /// The version of CUDA that it says it supports.
        found: String,
        /// What needs a newer one, and which.
        needed: String,
    },
    /// There is no GPU of that number, or none at all.
    #[error("no GPU {index}: {}", there_are(*.count))]
    NoDevice {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is older than what code is generated for.
    #[error(
        "GPU {index}, {name}, is of compute capability {capability}; Diptych generates code for 8.0 (A100) and later"
    )]
    GpuTooOld {
        /// Its number.
        index: usize,
        /// What it is.
        name: String,
        /// Its compute capability.
        capability: String,
    },
    /// A block of the GPU can have less shared memory than code is generated for.
    #[error(
        "GPU {index}, {name}, gives a block {found} bytes of shared memory; Diptych generates code for {needed}, which \
         A100 (8.0), H100 (9.0) and later GPUs for servers have"
    )]
    GpuTooSmall {
        /// Its number.
        index: usize,
        /// What it is.
        name: String,
        /// Bytes of shared memory that a block can have.
        found: usize,
        /// What kernels may need.
        needed: usize,
    },
    /// The process runs on a driver of another kind.
    #[error(
        "this process runs on {first} already and cannot run on {asked} as well: the CUDA driver is loaded once. Start \
         another process"
    )]
    Fixed {
        /// What it runs on.
        first: String,
        /// What was asked for.
        asked: String,
    },
    /// The library of the virtual GPU is not there.
    #[error(
        "the virtual GPU's driver is not found; looked for {}. Build it with `cargo build --release -p \
         diptych-virtual-driver`, or put it beside the program",
        list(.looked_for)
    )]
    NoVirtualGpu {
        /// The files that were looked for.
        looked_for: Vec<PathBuf>,
    },
    /// The library of the virtual GPU is there and cannot be used.
    #[error("the virtual GPU's driver, {}, cannot be used: {cause}", path.display())]
    VirtualGpu {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// NVRTC is missing, or refuses a kernel.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// The driver refuses compiled kernels.
    #[error("the CUDA driver refuses the compiled kernels of `{file}`: {cause}")]
    Module {
        /// The file of kernels, or the kernel.
        file: String,
        /// Its word for why.
        cause: String,
    },
    /// A block of a kernel needs more shared memory than the GPU has for one.
    #[error(
        "kernel `{kernel}` needs {needed} bytes of shared memory for a block, and this GPU gives {most}: code is \
         generated for A100 (sm_80), H100 (sm_90a) and B200 (sm_100a)"
    )]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// What it needs.
        needed: usize,
        /// What there is.
        most: usize,
    },
    /// An entry asks for what is not there.
    #[error("cannot load entry `{entry}` on the GPU: {problem}")]
    Missing {
        /// The entry.
        entry: &'static str,
        /// What is not there.
        problem: String,
    },
    /// Not enough memory on the GPU.
    #[error(
        "the GPU has not enough memory: {bytes} bytes are needed for {what}, and of {total} bytes {free} are free. \
         Choose a smaller batch, context or cache, or end what else runs on it"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How many bytes were asked for.
        bytes: usize,
        /// Bytes that are free.
        free: usize,
        /// All of the GPU's.
        total: usize,
    },
    /// A kernel cannot be launched, or failed and said so at once.
    #[error("kernel `{kernel}` of entry `{entry}` failed: {cause}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// The entry that launched it.
        entry: &'static str,
        /// The driver's word for it, and of the virtual GPU what its check found.
        cause: String,
    },
    /// A kernel copies boxes of a tensor that the driver cannot describe.
    #[error(
        "kernel `{kernel}` of entry `{entry}` cannot have a tensor map of its argument `{argument}`: {problem}; this is a fault of the compiler, which the model's configuration helps to find"
    )]
    TensorMap {
        /// The kernel.
        kernel: String,
        /// The entry that launches it.
        entry: &'static str,
        /// The argument.
        argument: String,
        /// What is wrong, with addresses and strides in bytes.
        problem: String,
    },
    /// Some kernel of a run failed, and it is not known which.
    #[error(
        "a kernel of entry `{entry}` failed: {cause}. Run with the environment variable CUDA_LAUNCH_BLOCKING=1 to learn \
         which; the GPU's memory is lost to this process"
    )]
    Run {
        /// The entry.
        entry: &'static str,
        /// The driver's word for it.
        cause: String,
    },
    /// Parameters were set and are not on the GPU yet.
    #[error("parameter `{0}` was set and not copied to the GPU: call `ParameterStore::upload` before a run")]
    NotUploaded(String),
    /// What a failed run wrote is neither old nor new.
    #[error(
        "parameters and states on the GPU are not to be trusted, since a run that writes them failed: load them again"
    )]
    Lost,
    /// A run with longer sequences than the entry was loaded for.
    #[error("the binding is for contexts of {found} positions, and the entry was loaded for {expected}")]
    Context {
        /// The most positions that the binding's tables have room for.
        found: usize,
        /// The most that the executable's have.
        expected: usize,
    },
    /// Another call of the driver failed.
    #[error("the CUDA driver could not {action}: {cause}")]
    Driver {
        /// What it was to do.
        action: &'static str,
        /// Its word for why not.
        cause: String,
    },
}

fn there_are(count: usize) -> String {
    match count {
        0 => "the driver finds none (a container must be started with `--gpus all`; CUDA_VISIBLE_DEVICES may hide \
              them)"
            .to_owned(),
        1 => "there is one, `cuda:0`".to_owned(),
        _ => format!("there are {count}, from `cuda:0` on"),
    }
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// The driver's name of an error and its sentence. To be called only once the driver is there.
pub(crate) fn cause(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// Makes of a driver's error one that says what was to be done.
pub(crate) fn could_not(action: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Driver { action, cause: cause(error) }
}
