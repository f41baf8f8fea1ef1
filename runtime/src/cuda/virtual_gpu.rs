//! The virtual GPU's driver: where its library is, and that cudarc is given it rather than NVIDIA's.

use super::error::CudaError;
use diptych_nvrtc::Target;
use libloading::Library;
use std::collections::BTreeSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{CStr, CString, c_char};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

/// The function by which the library is told what it is to be, and by which it is known.
const CONFIGURE: &CStr = c"diptych_virtual_gpu_configure";
type Configure = unsafe extern "C" fn(*const c_char, usize) -> u32;

/// The function that gives what the last check found, and lets launches be possible again.
const DIAGNOSTIC: &CStr = c"diptych_virtual_gpu_take_diagnostic";
type TakeDiagnostic = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// The function that makes bytes undefined again.
const FORGET: &CStr = c"diptych_virtual_gpu_forget";
type Forget = unsafe extern "C" fn(u64, usize) -> u32;

/// Opens the library for a virtual GPU of an architecture, so that cudarc, which opens it by name, is given this one.
///
/// # Errors
/// When it is not there, or is not what it should be.
pub(super) fn open(target: Target) -> Result<(), CudaError> {
    let program = std::env::current_exe().unwrap_or_default();
    let looked_for = places(&program);
    // Cargo may leave several: the last that was built counts.
    let built = |path: &&PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    let Some(path) = looked_for.iter().filter(|path| path.is_file()).max_by_key(built) else {
        return Err(CudaError::NoVirtualGpu { looked_for });
    };
    let refused = |cause: String| CudaError::VirtualGpu { path: path.clone(), cause };
    // SAFETY: the library's constructors have no preconditions. It stays loaded, so that its name is known.
    let library = unsafe { Library::new(path) }.map_err(|error| refused(error.to_string()))?;
    let library = ManuallyDrop::new(library);
    if !is_ours(&library) {
        return Err(refused("it is another library of that name".to_owned()));
    }
    let name = CString::new(target.to_string()).map_err(|error| refused(error.to_string()))?;
    // SAFETY: the function of this name has this type, and the text lives through the call.
    let status = unsafe {
        let configure = library.get::<Configure>(CONFIGURE).map_err(|error| refused(error.to_string()))?;
        configure(name.as_ptr(), 0)
    };
    match status {
        0 => Ok(()),
        status => Err(refused(format!("it has no {target} (status {status})"))),
    }
}

/// Where the library is looked for: beside the program, and in the folders where cargo puts what it builds.
fn places(program: &Path) -> Vec<PathBuf> {
    let folder = program.parent().unwrap_or(Path::new("."));
    let above = folder.parent().filter(|_| folder.ends_with("deps") || folder.ends_with("examples"));
    let deps = above.unwrap_or(folder).join("deps");
    let name = format!("{DLL_PREFIX}diptych_virtual_driver{DLL_SUFFIX}");
    let folders = BTreeSet::from([folder, above.unwrap_or(folder), &deps]);
    folders.into_iter().map(|folder| folder.join(&name)).collect()
}

/// Whether a driver's library is that of the virtual GPU.
pub(super) fn is_ours(library: &Library) -> bool {
    // SAFETY: looked up, not called.
    unsafe { library.get::<*const ()>(CONFIGURE) }.is_ok()
}

/// What the virtual GPU found wrong with the last launch; `None` if nothing, or on another GPU. A second call finds
/// nothing.
pub(super) fn take_diagnostic() -> Option<String> {
    // SAFETY: the driver was loaded; the function of this name has this type, and writes no more than it is told that
    // there is room for.
    unsafe {
        let library = cudarc::driver::sys::culib();
        let take = library.get::<TakeDiagnostic>(DIAGNOSTIC).ok()?;
        let length = take(std::ptr::null_mut(), 0);
        let mut text = vec![0_u8; length + 1];
        take(text.as_mut_ptr().cast(), text.len());
        text.truncate(length);
        (length > 0).then(|| String::from_utf8_lossy(&text).into_owned())
    }
}

/// Makes bytes of a virtual GPU undefined again, so that who reads what another run left there is found. Does nothing
/// on another GPU.
pub(super) fn forget(start: *mut u8, bytes: usize) {
    // SAFETY: the driver was loaded; the function of this name has this type. What it refuses is no memory of its own,
    // of which nothing can be found out either.
    unsafe {
        if let Ok(forget) = cudarc::driver::sys::culib().get::<Forget>(FORGET) {
            forget(start as u64, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_beside_programs_and_above_tests() {
        let of = |program: &str| -> Vec<PathBuf> {
            let found = places(Path::new(program));
            assert!(found.iter().all(|path| path.to_string_lossy().contains("diptych_virtual_driver")));
            found.iter().map(|path| path.parent().unwrap().to_owned()).collect()
        };
        assert_eq!(of("/opt/bin/diptych"), ["/opt/bin", "/opt/bin/deps"].map(PathBuf::from));
        let of_test = of("/project/target/release/deps/some_test-1234");
        assert_eq!(of_test, ["/project/target/release", "/project/target/release/deps"].map(PathBuf::from));
    }
}
