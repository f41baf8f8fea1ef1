//! From C text to functions in this process: the system's C compiler, a cache on disk, and the loader.
//! Must not know what the kernels compute, nor choose compiler flags: those come with the sources.

mod cache;
mod compiler;

pub use cache::{KernelCache, Note, default_folder};
pub use compiler::{Compiler, CompilerKind};

use std::ffi::{OsString, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cache::{Key, Place};

/// One C translation unit.
#[derive(Debug, Clone)]
pub struct CSource {
    /// For messages and file names; two sources may share one.
    pub name: String,
    /// The whole text. Part of the cache key, unlike the name.
    pub text: String,
}

/// A shared object loaded into this process; unloaded when dropped.
#[derive(Debug)]
pub struct Library {
    name: String,
    handle: libloading::Library,
}

impl Library {
    /// The name of the source that this was compiled from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of the function or object `name`. Valid as long as this library.
    ///
    /// # Safety
    /// The caller must use it with its true type, and not after the library is dropped.
    ///
    /// # Errors
    /// The library has no such symbol.
    pub unsafe fn symbol(&self, name: &str) -> Result<*const c_void, CompileError> {
        // SAFETY: only the address is taken; what it is used for is the caller's promise.
        let found = unsafe { self.handle.get::<*const c_void>(name).map(|symbol| symbol.try_as_raw_ptr()) };
        match found {
            Ok(Some(address)) if !address.is_null() => Ok(address.cast_const()),
            Ok(_) => Err(CompileError::Symbol {
                symbol: name.into(),
                library: self.name.clone(),
                cause: "its address is null".into(),
            }),
            Err(error) => Err(CompileError::Symbol {
                symbol: name.into(),
                library: self.name.clone(),
                cause: error.to_string(),
            }),
        }
    }
}

/// The libraries, in the order of the sources, and what it took to get them.
#[derive(Debug)]
pub struct Compiled {
    /// One library a source, in the same order.
    pub libraries: Vec<Library>,
    /// What was found and what was compiled.
    pub stats: CompileStats,
}

/// What one call of [`compile_all`] did.
#[derive(Debug, Clone, Default)]
pub struct CompileStats {
    /// Sources whose library was in the cache, or was made for an equal text in the same call.
    pub hits: usize,
    /// Runs of the compiler that gave a library.
    pub compiled: usize,
    /// Wall-clock seconds of the whole call.
    pub seconds: f64,
    /// Seconds in the compiler, summed over its parallel runs.
    pub compiler_seconds: f64,
    /// What the user should hear of and the call survived: a cache that cannot be written, a damaged file in it.
    pub warnings: Vec<String>,
}

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No C compiler was found.
    #[error(
        "no C compiler: tried {tried}. Install one (Debian, Ubuntu: `apt install gcc`; Fedora: `dnf install gcc`; \
         macOS: `xcode-select --install`), or set CC to its path"
    )]
    NoCompiler {
        /// The commands that were tried, with what came of each.
        tried: String,
    },
    /// The compiler ran and refused the source.
    #[error(
        "the C compiler failed on kernel `{name}` ({status}).\n  command: {command}\n  source kept at: {}\n{stderr}",
        source_path.as_deref().map_or("nowhere, the temporary folder is not writable".into(), Path::to_string_lossy)
    )]
    Failed {
        /// The source's name.
        name: String,
        /// The exit status in words.
        status: String,
        /// The command as run.
        command: String,
        /// Where the source is kept for inspection; `None` if there was no room.
        source_path: Option<PathBuf>,
        /// The first lines of what the compiler said.
        stderr: String,
    },
    /// The compiler could not be run at all.
    #[error("could not run the C compiler `{command}`: {source}")]
    Run {
        /// The command as run.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A fresh library could not be loaded.
    #[error("could not load the compiled kernel `{name}` from {}: {cause}", path.display())]
    Load {
        /// The source's name.
        name: String,
        /// The shared object.
        path: PathBuf,
        /// What the loader said.
        cause: String,
    },
    /// A file of the cache or of the temporary folder could not be written or read.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A library lacks a symbol.
    #[error("the compiled kernel `{library}` has no symbol `{symbol}`: {cause}")]
    Symbol {
        /// The symbol asked for.
        symbol: String,
        /// The library's name.
        library: String,
        /// What the loader said.
        cause: String,
    },
}

impl CompileError {
    /// Whether another folder may do better: a full disk, a folder that cannot be written or executed from.
    fn is_of_the_folder(&self) -> bool {
        match self {
            CompileError::File { .. } | CompileError::Load { .. } => true,
            CompileError::Failed { stderr, .. } => {
                ["No space left on device", "Disk quota exceeded", "Read-only file system"]
                    .iter()
                    .any(|cause| stderr.contains(cause))
            }
            _ => false,
        }
    }
}

/// Compiles and loads every source, at most `jobs` at a time (0 counts as 1), with `flags` for each.
/// `-shared -fPIC` and the names of the files are added here.
///
/// What the cache holds is not compiled again. A damaged file there is replaced. If the cache's folder
/// cannot be used, a temporary folder serves for this call and the statistics carry a warning.
///
/// # Errors
/// The first source, in order, that could not be compiled or loaded.
pub fn compile_all(
    compiler: &Compiler,
    sources: &[CSource],
    flags: &[String],
    cache: &KernelCache,
    jobs: usize,
) -> Result<Compiled, CompileError> {
    let start = Instant::now();
    let mut warnings = Vec::new();
    let place = match cache.open() {
        Ok(place) => place,
        Err(error) => {
            warnings.push(format!("kernels are not kept for the next run: {error}"));
            Place::temporary()?
        }
    };
    let keys: Vec<Key> = sources.iter().map(|source| Key::of(source, flags, compiler)).collect();
    let first_with_key = |index: usize| keys[..index].iter().position(|key| *key == keys[index]);
    // Equal texts wait until the first of them is compiled.
    let (unique, repeated): (Vec<usize>, Vec<usize>) =
        (0..sources.len()).partition(|&index| first_with_key(index).is_none());

    let call = Call { compiler, flags, place: &place, fallback: Mutex::new(None) };
    let run = |indices: &[usize], outcomes: &mut [Option<Result<Made, CompileError>>]| {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(outcomes);
        let job = || {
            while let Some(&index) = indices.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = call.make(&sources[index], &keys[index]);
                let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                done[index] = Some(outcome);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..jobs.clamp(1, 256).min(indices.len().max(1)) {
                scope.spawn(job);
            }
            job();
        });
    };
    let mut outcomes: Vec<Option<Result<Made, CompileError>>> = sources.iter().map(|_| None).collect();
    run(&unique, &mut outcomes);
    run(&repeated, &mut outcomes);

    let mut stats = CompileStats { warnings, ..CompileStats::default() };
    let mut libraries = Vec::with_capacity(sources.len());
    for made in outcomes.into_iter().flatten() {
        let made = made?;
        libraries.push(made.library);
        match made.compiler_time {
            Some(time) => {
                stats.compiled += 1;
                stats.compiler_seconds += time.as_secs_f64();
            }
            None => stats.hits += 1,
        }
        for warning in made.warnings {
            if !stats.warnings.contains(&warning) {
                stats.warnings.push(warning);
            }
        }
    }
    stats.seconds = start.elapsed().as_secs_f64();
    Ok(Compiled { libraries, stats })
}

struct Made {
    library: Library,
    /// None: it was in the cache.
    compiler_time: Option<Duration>,
    warnings: Vec<String>,
}

struct Call<'a> {
    compiler: &'a Compiler,
    flags: &'a [String],
    place: &'a Place,
    /// Made by the first source that the place failed; dropped, with its files, when all are loaded.
    fallback: Mutex<Option<Place>>,
}

impl Call<'_> {
    fn make(&self, source: &CSource, key: &Key) -> Result<Made, CompileError> {
        let mut warnings = Vec::new();
        for path in self.place.find(key) {
            match load(source, &path) {
                Ok(library) => return Ok(Made { library, compiler_time: None, warnings }),
                Err(error) => {
                    warnings.push(format!("a damaged file in the kernel cache was replaced: {error}"));
                    // If it cannot be removed, the compiled one takes its place by rename.
                    drop(std::fs::remove_file(&path));
                }
            }
        }
        let (library, time) = match self.compile_in(self.place, source, key) {
            Err(error) if error.is_of_the_folder() => {
                let cause = match error {
                    CompileError::Failed { stderr, source_path, .. } => {
                        // The source is not at fault, so it need not be inspected.
                        source_path.map(std::fs::remove_file);
                        stderr.trim().to_owned()
                    }
                    error => error.to_string(),
                };
                warnings.push(format!("kernels are not kept for the next run: {cause}"));
                let mut fallback = self.fallback.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let place = match fallback.take() {
                    Some(place) => place,
                    None => Place::temporary()?,
                };
                let place = fallback.insert(place);
                self.compile_in(place, source, key)?
            }
            outcome => outcome?,
        };
        Ok(Made { library, compiler_time: Some(time), warnings })
    }

    fn compile_in(
        &self,
        place: &Place,
        source: &CSource,
        key: &Key,
    ) -> Result<(Library, Duration), CompileError> {
        let start = Instant::now();
        let draft = place.draft(source)?;
        self.run_compiler(source, &draft)?;
        let time = start.elapsed();
        let path = place.keep(key, &draft)?;
        Ok((load(source, &path)?, time))
    }

    fn run_compiler(&self, source: &CSource, draft: &cache::Draft) -> Result<(), CompileError> {
        let mut arguments: Vec<OsString> = self.flags.iter().map(OsString::from).collect();
        arguments.extend(["-shared", "-fPIC", "-o"].map(OsString::from));
        arguments.push(draft.object.clone().into());
        arguments.push(draft.source.clone().into());
        let command = self.compiler.describe(&arguments);
        let output = self
            .compiler
            .command()
            .args(&arguments)
            .output()
            .map_err(|error| CompileError::Run { command: command.clone(), source: error })?;
        if output.status.success() && draft.object.is_file() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut lines = said.lines();
        let mut stderr: String = lines.by_ref().take(20).map(|line| format!("  {line}\n")).collect();
        match lines.count() {
            0 => {}
            more => stderr.push_str(&format!("  … and {more} more lines\n")),
        }
        Err(CompileError::Failed {
            name: source.name.clone(),
            status: output.status.to_string(),
            command,
            source_path: draft.keep_source().ok(),
            stderr,
        })
    }
}

fn load(source: &CSource, path: &Path) -> Result<Library, CompileError> {
    let failed =
        |cause: String| CompileError::Load { name: source.name.clone(), path: path.to_path_buf(), cause };
    // A damaged object can kill the process inside the loader, so its contents are checked first.
    cache::check(path).map_err(failed)?;
    // SAFETY: the contents are those that the compiler wrote for this text; generated kernels have no constructors.
    let handle = unsafe { libloading::Library::new(path) }.map_err(|error| failed(error.to_string()))?;
    Ok(Library { name: source.name.clone(), handle })
}

#[cfg(test)]
mod tests;
