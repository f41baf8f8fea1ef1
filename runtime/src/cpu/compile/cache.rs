//! The kernels on disk: which file holds what, how it gets there whole, how damage is noticed.
//! Must not know how to compile or load.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::{CSource, CompileError, Compiler, compiler::processor};

/// The folder of everything that can be made again: `$DIPTYCH_CACHE`, else `$XDG_CACHE_HOME/diptych`,
/// else `$HOME/.cache/diptych`. `None` if none of these variables is set. It need not exist.
pub fn default_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DIPTYCH_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("diptych")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/diptych")))
}

/// A folder of compiled kernels, shared by processes, each file named by what went into it and by its contents.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: Option<PathBuf>,
}

impl KernelCache {
    /// The folder `kernels` in the [`default_folder`].
    pub fn standard() -> Self {
        KernelCache { folder: default_folder().map(|folder| folder.join("kernels")) }
    }

    /// A folder of the caller's, made when first used.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        KernelCache { folder: Some(folder.into()) }
    }

    /// Where the kernels are kept, if anywhere.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// A short text about this processor that is kept beside the kernels, by the sources, flags and compiler that it
    /// depends on. `None` where nothing is kept.
    pub fn note<'a>(
        &self,
        name: &str,
        sources: impl IntoIterator<Item = &'a CSource>,
        flags: &[String],
        compiler: &Compiler,
    ) -> Option<Note> {
        let folder = self.folder.clone()?;
        let mut hash = Sha256::new();
        hash.update(processor());
        sources.into_iter().for_each(|source| hash.update(Key::of(source, flags, compiler).0));
        let path = folder.join(format!("{name}-{}.txt", &hex(&hash.finalize())[..32]));
        Some(Note { folder, path })
    }

    pub(super) fn open(&self) -> Result<Place, CompileError> {
        let Some(folder) = &self.folder else {
            return Err(CompileError::File {
                action: "find a folder for",
                path: "the kernel cache".into(),
                source: io::Error::other("none of DIPTYCH_CACHE, XDG_CACHE_HOME and HOME is set"),
            });
        };
        let failed = |action, source| CompileError::File { action, path: folder.clone(), source };
        create_private(folder).map_err(|source| failed("create", source))?;
        // The loader takes a path without a slash for a name to search for.
        let folder = folder.canonicalize().map_err(|source| failed("find", source))?;
        Place::in_folder(folder)
    }
}

/// A short text in the folder of kernels: see [`KernelCache::note`].
#[derive(Debug)]
pub struct Note {
    folder: PathBuf,
    path: PathBuf,
}

impl Note {
    /// The text, if there is one.
    pub fn read(&self) -> Option<String> {
        std::fs::read_to_string(&self.path).ok()
    }

    /// Lets nobody else keep a text here, in this process or another, until what is given is dropped.
    ///
    /// # Errors
    /// When the folder cannot be written to, or the system has no locks there.
    pub fn alone(&self) -> io::Result<std::fs::File> {
        create_private(&self.folder)?;
        let file = std::fs::File::create(self.path.with_extension("lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Keeps a text in place of what is there.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        std::fs::write(file.path(), text)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// What is loaded from here runs with the user's rights, so others must not write here.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// What a library depends on: the text, the flags, the compiler, and the processor if the flags say `native`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) String);

impl Key {
    pub(super) fn of(source: &CSource, flags: &[String], compiler: &Compiler) -> Self {
        let native = flags.iter().any(|flag| flag.ends_with("=native"));
        let parts = [source.text.as_str(), &compiler.version, if native { processor() } else { "" }];
        let mut hash = Sha256::new();
        for part in parts.into_iter().chain(flags.iter().map(String::as_str)) {
            // Lengths keep the parts apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Key(hex(&hash.finalize()))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder in use by one call: what was there at the start, and a scratch folder that goes when it ends.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    known: HashMap<String, Vec<PathBuf>>,
    scratch: tempfile::TempDir,
}

/// A source on disk and the object to be made beside it.
#[derive(Debug)]
pub(super) struct Draft {
    pub source: PathBuf,
    pub object: PathBuf,
}

impl Place {
    fn in_folder(folder: PathBuf) -> Result<Self, CompileError> {
        let failed = |action, source| CompileError::File { action, path: folder.clone(), source };
        let scratch = tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(&folder)
            .map_err(|source| failed("write to", source))?;
        let mut known: HashMap<String, Vec<PathBuf>> = HashMap::new();
        for entry in std::fs::read_dir(&folder).map_err(|source| failed("read", source))? {
            let path = entry.map_err(|source| failed("read", source))?.path();
            if path.extension().is_some_and(|extension| extension == "so")
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
                && let Some((key, _)) = stem.split_once('-')
            {
                known.entry(key.to_owned()).or_default().push(path);
            }
        }
        Ok(Place { folder, known, scratch })
    }

    /// A folder of this call's own, gone with it. Loaded libraries outlive their files.
    pub(super) fn temporary() -> Result<Self, CompileError> {
        let scratch = tempfile::Builder::new().prefix("diptych-kernels-").tempdir().map_err(|source| {
            CompileError::File { action: "make a folder in", path: std::env::temp_dir(), source }
        })?;
        Ok(Place { folder: scratch.path().to_path_buf(), known: HashMap::new(), scratch })
    }

    /// The files there for `key`: those seen at the start, and what this call has kept since.
    pub(super) fn find(&self, key: &Key) -> Vec<PathBuf> {
        let mut found = self.known.get(&key.0).cloned().unwrap_or_default();
        if found.is_empty()
            && let Ok(pointer) = std::fs::read_to_string(self.scratch.path().join(&key.0))
        {
            found.push(PathBuf::from(pointer));
        }
        found
    }

    pub(super) fn draft(&self, source: &CSource) -> Result<Draft, CompileError> {
        // Names are for people: perf and debuggers show them.
        let name: String = source
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
            .take(60)
            .collect();
        // Folders keep drafts apart, not names: compilers put the file's name into the object, whose contents
        // should depend on the source alone.
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let folder = self.scratch.path().join(DRAFTS.fetch_add(1, Ordering::Relaxed).to_string());
        let failed = |action, path: &Path, source| CompileError::File { action, path: path.into(), source };
        std::fs::create_dir(&folder).map_err(|error| failed("create", &folder, error))?;
        let draft =
            Draft { source: folder.join(format!("{name}.c")), object: folder.join(format!("{name}.so")) };
        std::fs::write(&draft.source, &source.text).map_err(|error| failed("write", &draft.source, error))?;
        Ok(draft)
    }

    /// Moves the object of a draft to its lasting name. The name tells the contents, so that several
    /// processes may do this at once and a reader can tell a damaged file.
    pub(super) fn keep(&self, key: &Key, draft: &Draft) -> Result<PathBuf, CompileError> {
        let failed = |action, path: &Path, source| CompileError::File { action, path: path.into(), source };
        let contents = content_hash(&draft.object).map_err(|error| failed("read", &draft.object, error))?;
        let path = self.folder.join(format!("{}-{contents}.so", key.0));
        std::fs::rename(&draft.object, &path).map_err(|error| failed("create", &path, error))?;
        let pointer = self.scratch.path().join(&key.0);
        if let Some(text) = path.to_str() {
            std::fs::write(&pointer, text).map_err(|error| failed("write", &pointer, error))?;
        }
        Ok(path)
    }
}

impl Draft {
    /// Copies the source to where it outlives the call, and says where.
    pub(super) fn keep_source(&self) -> io::Result<PathBuf> {
        let name = self.source.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let file = tempfile::Builder::new().prefix(&format!("diptych-{name}-")).suffix(".c").tempfile()?;
        std::fs::copy(&self.source, file.path())?;
        Ok(file.keep()?.1)
    }
}

fn content_hash(path: &Path) -> io::Result<String> {
    Ok(hex(&Sha256::digest(std::fs::read(path)?))[..32].to_owned())
}

/// Whether a kept file still has the contents that its name tells.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let expected = stem.split_once('-').map_or("", |(_, contents)| contents);
    let found = content_hash(path).map_err(|error| error.to_string())?;
    if found == expected { Ok(()) } else { Err(format!("its contents hash to {found}, not to {expected}")) }
}
