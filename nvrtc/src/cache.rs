//! Compiled kernels on disk: which file holds what, how it gets there whole, how damage is noticed.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::compile::{Compiled, Form, options};
use crate::error::NvrtcError;
use crate::library::Nvrtc;
use crate::target::Target;

/// A folder of compiled kernels, shared by threads and processes. A file is named by all that decides what is in it:
/// the text, its name, the target, the options and NVRTC. It may be removed at any time.
#[derive(Clone, Debug)]
pub struct KernelCache {
    folder: Option<PathBuf>,
}

/// What each file begins with; the number is that of the layout.
const MAGIC: &str = "diptych-nvrtc 2";

impl KernelCache {
    /// The folder `gpu-kernels` in `$DIPTYCH_CACHE`, else `$XDG_CACHE_HOME/diptych`, else `$HOME/.cache/diptych`.
    pub fn standard() -> KernelCache {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("DIPTYCH_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("diptych")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/diptych")));
        KernelCache { folder: folder.map(|folder| folder.join("gpu-kernels")) }
    }

    /// A folder of the caller's, made when first used.
    pub fn at(folder: impl Into<PathBuf>) -> KernelCache {
        KernelCache { folder: Some(folder.into()) }
    }

    /// Where the kernels are kept, if anywhere.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// As [`Nvrtc::compile`], or what that gave before. A damaged file is compiled again and replaced; a folder that
    /// cannot be used costs a warning.
    ///
    /// # Errors
    /// As those of [`Nvrtc::compile`].
    pub fn compile(
        &self,
        nvrtc: &Nvrtc,
        source: &str,
        name: &str,
        target: Target,
        form: Form,
    ) -> Result<Compiled, NvrtcError> {
        let Some(folder) = &self.folder else {
            let mut compiled = nvrtc.compile(source, name, target, form)?;
            let cause = "none of DIPTYCH_CACHE, XDG_CACHE_HOME and HOME is set";
            compiled.warnings.push(format!("GPU kernels are not kept for the next run: {cause}"));
            return Ok(compiled);
        };
        let path = folder.join(file_name(nvrtc, source, name, target, form));
        let mut warnings = Vec::new();
        match read(&path) {
            Ok(Some(Kept { log, ptx, cubin })) => {
                return Ok(Compiled { cached: true, ..Compiled::new(name, ptx, cubin, log)? });
            }
            Ok(None) => {}
            Err(cause) => {
                warnings
                    .push(format!("a file of the GPU kernel cache is replaced: {}: {cause}", path.display()));
            }
        }
        let compiled = nvrtc.compile(source, name, target, form)?;
        if let Err(error) = write(folder, &path, &compiled) {
            warnings
                .push(format!("GPU kernels are not kept for the next run: {}: {error}", folder.display()));
        }
        Ok(Compiled { warnings, ..compiled })
    }
}

fn file_name(nvrtc: &Nvrtc, source: &str, name: &str, target: Target, form: Form) -> String {
    let mut hash = Sha256::new();
    let identity = nvrtc.identity();
    let options = options(target, form);
    let parts = [MAGIC, &identity, source, name].into_iter().chain(options.iter().map(String::as_str));
    for part in parts {
        // Lengths keep the parts apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let form = match form {
        Form::Ptx => "ptx",
        Form::Cubin => "cubin",
        Form::Both => "ptx-and-cubin",
    };
    format!("{}.{form}", hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is in a file.
struct Kept {
    log: String,
    ptx: String,
    cubin: Vec<u8>,
}

/// What is in a file, `None` if there is none, or an error that says what is wrong with it.
fn read(path: &Path) -> Result<Option<Kept>, &'static str> {
    // If it is there and cannot be read, neither can it be written, which is told then.
    let Ok(file) = fs::read(path) else { return Ok(None) };
    let damaged = || "it was damaged";
    let end = file.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
    let (header, contents) = (&file[..end], &file[end + 1..]);
    let header = std::str::from_utf8(header).ok().and_then(|header| header.strip_prefix(MAGIC));
    let fields: Vec<&str> = header.ok_or_else(damaged)?.split_whitespace().collect();
    let [hash, log_bytes, ptx_bytes] = fields[..] else { return Err(damaged()) };
    if hash != hex(&Sha256::digest(contents)) {
        return Err(damaged());
    }
    let length = |text: &str| text.parse::<usize>().map_err(|_| damaged());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
    let (log, code) = contents.split_at_checked(length(log_bytes)?).ok_or_else(damaged)?;
    let (ptx, cubin) = code.split_at_checked(length(ptx_bytes)?).ok_or_else(damaged)?;
    Ok(Some(Kept { log: text(log)?, ptx: text(ptx)?, cubin: cubin.to_vec() }))
}

/// Writes beside and renames, so that a file is whole or not there.
fn write(folder: &Path, path: &Path, compiled: &Compiled) -> io::Result<()> {
    create_private(folder)?;
    let contents = [compiled.log.as_bytes(), compiled.ptx.as_bytes(), &compiled.cubin].concat();
    let hash = hex(&Sha256::digest(&contents));
    let mut file = tempfile::Builder::new().prefix("scratch-").tempfile_in(folder)?;
    writeln!(file, "{MAGIC} {hash} {} {}", compiled.log.len(), compiled.ptx.len())?;
    file.write_all(&contents)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What is loaded from here runs with the user's rights on the user's GPU, so others must not write here.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
