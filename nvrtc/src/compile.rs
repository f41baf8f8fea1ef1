//! One text to PTX, CUBIN or both: the options that all kernels are compiled with, and what comes of it.

use std::ffi::CString;

use crate::error::NvrtcError;
use crate::library::{Nvrtc, Run};
use crate::quote::quoted;
use crate::resources::{KernelResources, resources};
use crate::target::{Features, Target};

/// What to compile to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// PTX, the text of a virtual machine, with the source line of each instruction.
    Ptx,
    /// Machine code for one architecture, which the assembler has checked.
    Cubin,
    /// The same PTX, and machine code that knows the source line of each instruction, of one compilation.
    Both,
}

impl Form {
    fn has_ptx(self) -> bool {
        self != Form::Cubin
    }

    fn has_cubin(self) -> bool {
        self != Form::Ptx
    }
}

/// A compiled text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The PTX; empty where none was asked for.
    pub ptx: String,
    /// The machine code; empty where none was asked for.
    pub cubin: Vec<u8>,
    /// What NVRTC said: warnings, and of a CUBIN what each kernel uses.
    pub log: String,
    /// What each kernel uses, in the order of the log. PTX has no registers yet, so of PTX there is none.
    pub kernels: Vec<KernelResources>,
    /// Whether it came from a cache.
    pub cached: bool,
    /// What was wrong with the cache, if anything.
    pub warnings: Vec<String>,
}

impl Compiled {
    pub(crate) fn new(name: &str, ptx: String, cubin: Vec<u8>, log: String) -> Result<Compiled, NvrtcError> {
        let kernels = match cubin.is_empty() {
            true => Vec::new(),
            false => resources(&log).map_err(|cause| NvrtcError::Report {
                name: name.to_owned(),
                cause,
                log: log.clone(),
            })?,
        };
        Ok(Compiled { ptx, cubin, log, kernels, cached: false, warnings: Vec::new() })
    }

    /// What the kernel of this name uses.
    pub fn kernel(&self, name: &str) -> Option<&KernelResources> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

const LINE_INFO: &str = "--generate-line-info";

/// The same bits everywhere are a promise, so nothing is fused, flushed or approximated but where the text says so.
pub(crate) fn options(target: Target, form: Form) -> Vec<String> {
    let architecture = if form.has_cubin() { target.to_string() } else { target.virtual_name() };
    let exact = ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];
    let lines = form.has_ptx().then_some(LINE_INFO);
    let report = form.has_cubin().then_some("--ptxas-options=-v");
    let options = exact.into_iter().chain(lines).chain(report).map(String::from);
    [format!("--gpu-architecture={architecture}")].into_iter().chain(options).collect()
}

impl Nvrtc {
    /// Compiles CUDA C++ that includes no header. `name` is how messages and line numbers call the text. Kernels that
    /// are `extern "C"` keep their names. Multiplications and additions are not fused (write `fmaf`), divisions and
    /// square roots are rounded correctly, and subnormal numbers are kept.
    ///
    /// [`KernelCache::compile`](crate::KernelCache::compile) does the same once only.
    ///
    /// # Errors
    /// When NVRTC refuses the text, with its log and the lines that it speaks of; when it does not know the target;
    /// when the text or its name holds a NUL.
    pub fn compile(
        &self,
        source: &str,
        name: &str,
        target: Target,
        form: Form,
    ) -> Result<Compiled, NvrtcError> {
        self.check_target(target)?;
        let mut options = options(target, form);
        let run = self.run_on(source, name, &options)?;
        if run.accepted {
            let ptx = if form.has_ptx() { without_folder(&run.ptx, name) } else { String::new() };
            let cubin = if form.has_cubin() { run.cubin } else { Vec::new() };
            return Compiled::new(name, ptx, cubin, run.log);
        }
        // The assembler counts lines of PTX. What it refused is compiled once more to know which lines of the source
        // they are.
        let run = match form {
            Form::Cubin if !run.ptx.is_empty() => {
                options.push(LINE_INFO.into());
                self.run_on(source, name, &options)?
            }
            _ => run,
        };
        Err(NvrtcError::Refused { name: name.into(), target, log: quoted(&run.log, &run.ptx, source, name) })
    }

    fn run_on(&self, source: &str, name: &str, options: &[String]) -> Result<Run, NvrtcError> {
        let text = |what, text: &str| {
            CString::new(text).map_err(|error| NvrtcError::Nul {
                what,
                name: name.replace('\0', "\\0"),
                position: error.nul_position(),
            })
        };
        let options =
            options.iter().map(|option| text("an option", option)).collect::<Result<Vec<_>, _>>()?;
        self.run(&text("the source", source)?, &text("the name", name)?, &options)
    }

    fn check_target(&self, target: Target) -> Result<(), NvrtcError> {
        // Code for one architecture or family alone came with 9.0.
        let exists = target.features == Features::Portable || target.capability >= 90;
        if exists && self.capabilities().contains(&target.capability) {
            return Ok(());
        }
        let supported = self.capabilities().iter().map(|number| format!("sm_{number}")).collect();
        let (version, path) = (self.version(), self.path().to_path_buf());
        Err(NvrtcError::TargetUnknown { target, version, path, supported })
    }
}

/// NVRTC puts the working directory before the name of the source, so that the same text would come out differently
/// elsewhere.
fn without_folder(ptx: &str, name: &str) -> String {
    let Ok(folder) = std::env::current_dir() else { return ptx.to_owned() };
    let within = format!("\"{}/{name}\"", folder.display());
    let mut lines: Vec<String> = Vec::new();
    for line in ptx.lines() {
        let is_file = line.trim_start().starts_with(".file");
        lines.push(if is_file { line.replace(&within, &format!("\"{name}\"")) } else { line.to_owned() });
    }
    lines.join("\n") + "\n"
}
