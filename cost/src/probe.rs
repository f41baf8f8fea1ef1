//! The loops that measure a machine: C text, compiled as generated kernels are and loaded into the process.
//! The text before them (vectors, functions, the contraction) is the kernels' own and comes from the caller.
//! It must not keep time or know what the figures mean.

pub(crate) mod crew;

pub use crew::MemoryReader;

use sha2::{Digest, Sha256};
use std::ffi::c_int;
use std::path::PathBuf;
use std::process::Command;

/// What can go wrong before anything is measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no compiler, or it may not be run.
    #[error("cannot run the C compiler `{compiler}`: {source}; install one, or name it in CC")]
    NoCompiler {
        /// As called.
        compiler: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It refused the text.
    #[error("`{command}` failed on the loops that measure this machine:\n{message}")]
    Compile {
        /// The whole command.
        command: String,
        /// What it said.
        message: String,
    },
    /// The result cannot be written or loaded.
    #[error("cannot load the loops that measure this machine from {}: {message}", path.display())]
    Load {
        /// The shared library, or its folder.
        path: PathBuf,
        /// Reason.
        message: String,
    },
}

/// How to compile the loops: as kernels are compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSource<'a> {
    /// C text that defines vectors, functions and `dot`: the prelude of generated kernels.
    pub prelude: &'a str,
    /// Flags of the C compiler, instruction set and width of vectors among them.
    pub flags: &'a [&'a str],
    /// Libraries to link with.
    pub link_flags: &'a [&'a str],
}

impl ProbeSource<'_> {
    /// Changes with everything that the figures depend on apart from the machine: text and flags.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.prelude);
        hash.update(PROBE);
        for flag in self.flags.iter().chain(self.link_flags) {
            hash.update([0]);
            hash.update(flag);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

const PROBE: &str = include_str!("probe/loops.c");

type Times = unsafe extern "C" fn(i64) -> i64;

/// The loops, loaded. Dropping it unloads them.
pub struct ProbeLibrary {
    pub(crate) pin: unsafe extern "C" fn(c_int) -> c_int,
    pub(crate) thread_seconds: unsafe extern "C" fn() -> f64,
    pub(crate) cache_bytes: unsafe extern "C" fn(c_int) -> i64,
    pub(crate) allocate: unsafe extern "C" fn(i64) -> *mut f32,
    pub(crate) free: unsafe extern "C" fn(*mut f32),
    pub(crate) multiply_add: Times,
    pub(crate) arithmetic: Times,
    pub(crate) divide: Times,
    pub(crate) exponential: Times,
    pub(crate) logarithm: Times,
    pub(crate) trigonometric: Times,
    pub(crate) read: unsafe extern "C" fn(i64, *const f32, i64),
    pub(crate) write: unsafe extern "C" fn(i64, *mut f32, i64),
    pub(crate) dot: unsafe extern "C" fn(i64, i64, i64, i64, *const f32, *const f32, *mut f32, *mut f32),
    pub(crate) panel_columns: unsafe extern "C" fn() -> i64,
    pub(crate) dot_scratch_bytes: unsafe extern "C" fn() -> i64,
    _library: libloading::Library,
}

impl ProbeLibrary {
    /// Compiles the loops with the system's C compiler (`CC`, else `cc`), in a folder of its own that is gone
    /// afterwards, and loads them.
    pub fn compile(source: &ProbeSource) -> Result<ProbeLibrary, ProbeError> {
        let load_error =
            |path: &std::path::Path, message: String| ProbeError::Load { path: path.into(), message };
        let folder = tempfile::Builder::new()
            .prefix("diptych-probe")
            .tempdir()
            .map_err(|error| load_error(&std::env::temp_dir(), error.to_string()))?;
        let (text, library) = (folder.path().join("probe.c"), folder.path().join("probe.so"));
        std::fs::write(&text, format!("{}\n{PROBE}", source.prelude))
            .map_err(|error| load_error(&text, error.to_string()))?;

        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(source.flags).args(["-D_GNU_SOURCE", "-shared", "-fPIC", "-o"]);
        command.arg(&library).arg(&text).args(source.link_flags);
        let output = command
            .output()
            .map_err(|source| ProbeError::NoCompiler { compiler: compiler.clone(), source })?;
        if !output.status.success() {
            return Err(ProbeError::Compile {
                command: format!("{command:?}"),
                message: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        // SAFETY: the library is what was just compiled from text that runs nothing when loaded, and each
        // symbol is taken at the type that this text gives it.
        unsafe { ProbeLibrary::load(&library) }.map_err(|error| load_error(&library, error.to_string()))
    }

    unsafe fn load(path: &std::path::Path) -> Result<ProbeLibrary, libloading::Error> {
        // SAFETY: see `compile`. The function pointers live as long as `_library` beside them.
        unsafe {
            let library = libloading::Library::new(path)?;
            Ok(ProbeLibrary {
                pin: *library.get(b"probe_pin")?,
                thread_seconds: *library.get(b"probe_thread_seconds")?,
                cache_bytes: *library.get(b"probe_cache_bytes")?,
                allocate: *library.get(b"probe_allocate")?,
                free: *library.get(b"probe_free")?,
                multiply_add: *library.get(b"probe_multiply_add")?,
                arithmetic: *library.get(b"probe_arithmetic")?,
                divide: *library.get(b"probe_divide")?,
                exponential: *library.get(b"probe_exponential")?,
                logarithm: *library.get(b"probe_logarithm")?,
                trigonometric: *library.get(b"probe_trigonometric")?,
                read: *library.get(b"probe_read")?,
                write: *library.get(b"probe_write")?,
                dot: *library.get(b"probe_dot")?,
                panel_columns: *library.get(b"probe_panel_columns")?,
                dot_scratch_bytes: *library.get(b"probe_dot_scratch_bytes")?,
                _library: library,
            })
        }
    }
}
