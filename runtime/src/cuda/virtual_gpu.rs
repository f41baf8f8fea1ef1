//! The virtual GPU's driver: where its library is, and that cudarc is given it rather than NVIDIA's.

use super::error::CudaError;
use diptych_nvrtc::Target;
use libloading::Library;
use std::ffi::{CStr, c_char};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

/// The function by which the library is known. It gives the diagnostic of the last launch that failed, or null.
const DIAGNOSTIC: &CStr = c"diptych_virtual_gpu_diagnostic";

/// The variable by which the library is told what it is to be.
const ARCHITECTURE: &str = "DIPTYCH_VIRTUAL_GPU";

/// Opens the library for a virtual GPU of an architecture, so that cudarc, which opens it by name, is given this one.
///
/// # Errors
/// When it is not there, or is not what it should be.
pub(super) fn open(target: Target) -> Result<(), CudaError> {
    let program = std::env::current_exe().unwrap_or_default();
    let looked_for = places(&program);
    let Some(path) = looked_for.iter().find(|path| path.is_file()) else {
        return Err(CudaError::NoVirtualGpu { looked_for });
    };
    let refused = |cause: String| CudaError::VirtualGpu { path: path.clone(), cause };
    // SAFETY: the library's constructors have no preconditions. It stays loaded, so that its name is known.
    let library = unsafe { Library::new(path) }.map_err(|error| refused(error.to_string()))?;
    let library = ManuallyDrop::new(library);
    if !is_ours(&library) {
        return Err(refused("it is another library of that name".to_owned()));
    }
    // SAFETY: done once, while the process has no other use of the driver; threads of the program's own that read the
    // environment meanwhile are none of this library's.
    unsafe { std::env::set_var(ARCHITECTURE, target.to_string()) };
    Ok(())
}

/// Where the library is looked for: beside the program, and beside the folder in which cargo puts tests and examples.
fn places(program: &Path) -> Vec<PathBuf> {
    let folder = program.parent().unwrap_or(Path::new("."));
    let above = folder.parent().filter(|_| folder.ends_with("deps") || folder.ends_with("examples"));
    let folders = [Some(folder), above].into_iter().flatten();
    folders.flat_map(|folder| ["libcuda.so.1", "libcuda.so"].map(|name| folder.join(name))).collect()
}

/// Whether a driver's library is that of the virtual GPU.
pub(super) fn is_ours(library: &Library) -> bool {
    // SAFETY: looked up, not called.
    unsafe { library.get::<*const ()>(DIAGNOSTIC) }.is_ok()
}

/// What the virtual GPU found wrong with the last launch; `None` if nothing, or on another GPU.
pub(super) fn diagnostic() -> Option<String> {
    // SAFETY: the driver was loaded; the function takes nothing and gives a text that stays until the next launch.
    unsafe {
        let library = cudarc::driver::sys::culib();
        let text = library.get::<unsafe extern "C" fn() -> *const c_char>(DIAGNOSTIC).ok()?();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_beside_programs_and_above_tests() {
        let of = |program: &str| places(Path::new(program));
        assert_eq!(
            of("/opt/bin/diptych"),
            ["/opt/bin/libcuda.so.1", "/opt/bin/libcuda.so"].map(PathBuf::from)
        );
        let of_test = of("/work/target/release/deps/some_test-1234");
        assert_eq!(
            of_test[2..],
            ["/work/target/release/libcuda.so.1", "/work/target/release/libcuda.so"].map(PathBuf::from)
        );
    }
}
