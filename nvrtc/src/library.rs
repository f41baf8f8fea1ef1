//! NVRTC's library: loading it and calling it. Must not know which options kernels need, nor read its log.
//!
//! The dozen functions are loaded here rather than through cudarc, which panics where the library or one of its symbols
//! is missing and tries only the names of the CUDA version that it was built for. The library is loaded by its path and
//! stays: anything that opens it later by its plain name, as cudarc does, is given this one.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

use crate::error::NvrtcError;
use crate::toolkit::find_nvrtc;

/// NVRTC, loaded. Loading it twice costs little.
#[derive(Debug)]
pub struct Nvrtc {
    functions: Functions,
    path: PathBuf,
    version: (i32, i32),
    capabilities: Vec<u32>,
    bytes: u64,
}

type Handle = *mut c_void;
type Status = c_int;

#[derive(Clone, Copy, Debug)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    supported_count: unsafe extern "C" fn(*mut c_int) -> Status,
    supported: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    log: Text,
    ptx: Text,
    cubin: Text,
}

/// Two functions that give one of a program's texts: its size, and the text.
#[derive(Clone, Copy, Debug)]
struct Text {
    name: &'static str,
    size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    get: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
}

/// What one run of the compiler left.
#[derive(Debug)]
pub(crate) struct Run {
    /// Whether the text was accepted.
    pub accepted: bool,
    /// What the compiler said.
    pub log: String,
    /// The PTX. Also of a text that only the assembler refused.
    pub ptx: String,
    /// The CUBIN; empty if the options ask for PTX alone.
    pub cubin: Vec<u8>,
}

impl Nvrtc {
    /// Finds NVRTC (see [`find_nvrtc`]) and loads it.
    ///
    /// # Errors
    /// When it is not found, cannot be loaded, or is too old.
    pub fn find() -> Result<Nvrtc, NvrtcError> {
        Nvrtc::open(&find_nvrtc()?)
    }

    /// Loads the library at this path.
    ///
    /// # Errors
    /// When it cannot be loaded or is too old.
    pub fn open(path: &Path) -> Result<Nvrtc, NvrtcError> {
        let failed = |cause: String| NvrtcError::Load { path: path.to_path_buf(), cause };
        // A path without a slash would be searched for.
        let path = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let bytes = path.metadata().map_err(|error| failed(error.to_string()))?.len();
        // SAFETY: NVRTC's constructors have no preconditions. It is never unloaded, so its functions stay.
        let library = unsafe { Library::new(&path) }.map_err(|error| failed(error.to_string()))?;
        let library = ManuallyDrop::new(library);
        let functions = Functions::of(&library, &path)?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the pointers are to live integers, and to as many as the library said that there are.
        let capabilities = unsafe {
            functions.check("nvrtcVersion", (functions.version)(&mut major, &mut minor))?;
            functions.check("nvrtcGetNumSupportedArchs", (functions.supported_count)(&mut count))?;
            let mut found: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
            functions.check("nvrtcGetSupportedArchs", (functions.supported)(found.as_mut_ptr()))?;
            found
        };
        let capabilities = capabilities.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
        Ok(Nvrtc { functions, path, version: (major, minor), capabilities, bytes })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `13.5`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The compute capabilities, times ten, that it compiles for.
    pub fn capabilities(&self) -> &[u32] {
        &self.capabilities
    }

    /// What tells this NVRTC from others. It does not tell its patch release; its size does.
    pub(crate) fn identity(&self) -> String {
        format!("NVRTC {} of {} bytes", self.version(), self.bytes)
    }

    /// Runs the compiler once. Threads may do so together.
    pub(crate) fn run(&self, source: &CStr, name: &CStr, options: &[CString]) -> Result<Run, NvrtcError> {
        let functions = &self.functions;
        let mut program = Program { functions, handle: ptr::null_mut() };
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(options.len()).unwrap_or(c_int::MAX);
        // SAFETY: the texts and the list live through the calls, and no headers are handed over.
        let status = unsafe {
            let (source, name) = (source.as_ptr(), name.as_ptr());
            let created = (functions.create)(&mut program.handle, source, name, 0, ptr::null(), ptr::null());
            functions.check("nvrtcCreateProgram", created)?;
            (functions.compile)(program.handle, count, options.as_ptr())
        };
        // Every failure that the text or the options cause is told in the log.
        let log = text(program.read(functions.log)?);
        if status != 0 && log.trim().is_empty() {
            functions.check("nvrtcCompileProgram", status)?;
        }
        let accepted = status == 0;
        // Of a refused text there may be no PTX, which is no error of its own.
        let ptx = program.read(functions.ptx).map(text).or_else(|error| match accepted {
            true => Err(error),
            false => Ok(String::new()),
        })?;
        let cubin = if accepted { program.read(functions.cubin)? } else { Vec::new() };
        Ok(Run { accepted, log, ptx, cubin })
    }
}

/// Texts end with a NUL.
fn text(mut bytes: Vec<u8>) -> String {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Program<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl Program<'_> {
    fn read(&self, text: Text) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: the program lives, and the buffer is as long as the library said.
        unsafe {
            self.functions.check(text.name, (text.size)(self.handle, &mut size))?;
            let mut bytes = vec![0_u8; size];
            if size > 0 {
                self.functions.check(text.name, (text.get)(self.handle, bytes.as_mut_ptr().cast()))?;
            }
            Ok(bytes)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the handle is the library's own and is not used again. What could fail is that it is not.
            unsafe { (self.functions.destroy)(&mut self.handle) };
        }
    }
}

impl Functions {
    fn of(library: &Library, path: &Path) -> Result<Functions, NvrtcError> {
        let text = |name, size| -> Result<Text, NvrtcError> {
            Ok(Text { name, size: symbol(library, path, size)?, get: symbol(library, path, name)? })
        };
        Ok(Functions {
            version: symbol(library, path, "nvrtcVersion")?,
            error_string: symbol(library, path, "nvrtcGetErrorString")?,
            supported_count: symbol(library, path, "nvrtcGetNumSupportedArchs")?,
            supported: symbol(library, path, "nvrtcGetSupportedArchs")?,
            create: symbol(library, path, "nvrtcCreateProgram")?,
            destroy: symbol(library, path, "nvrtcDestroyProgram")?,
            compile: symbol(library, path, "nvrtcCompileProgram")?,
            log: text("nvrtcGetProgramLog", "nvrtcGetProgramLogSize")?,
            ptx: text("nvrtcGetPTX", "nvrtcGetPTXSize")?,
            cubin: text("nvrtcGetCUBIN", "nvrtcGetCUBINSize")?,
        })
    }

    fn check(&self, function: &'static str, status: Status) -> Result<(), NvrtcError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library answers every number with a text of its own that stays.
        let cause = unsafe {
            let text = (self.error_string)(status);
            if text.is_null() {
                format!("status {status}")
            } else {
                CStr::from_ptr(text).to_string_lossy().into()
            }
        };
        Err(NvrtcError::Call { function, cause })
    }
}

fn symbol<T: Copy>(library: &Library, path: &Path, name: &'static str) -> Result<T, NvrtcError> {
    // SAFETY: the types in `Functions` are those of nvrtc.h, unchanged since they came, and all are function pointers.
    unsafe { library.get::<T>(name) }
        .map(|symbol| *symbol)
        .map_err(|_| NvrtcError::Function { path: path.to_path_buf(), function: name })
}
