//! What can go wrong between a text and its machine code, said so that the user can mend it.

use std::fmt;
use std::path::PathBuf;

use crate::target::Target;

/// Why a kernel could not be compiled or taken apart.
#[derive(Debug, thiserror::Error)]
pub enum NvrtcError {
    /// NVRTC or nvdisasm is not on this machine.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// NVRTC is there and cannot be loaded.
    #[error(
        "could not load NVRTC from {}: {cause}. Install another with setup/cuda.sh, or set DIPTYCH_CUDA to a CUDA \
         folder of this machine's kind.",
        path.display()
    )]
    Load {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        cause: String,
    },
    /// NVRTC lacks a function that came with a later release.
    #[error(
        "{} has no function `{function}`: it is older than CUDA 11.2. Install a newer one with setup/cuda.sh, or set \
         DIPTYCH_CUDA to a newer CUDA folder.",
        path.display()
    )]
    Function {
        /// The library.
        path: PathBuf,
        /// The function that it lacks.
        function: &'static str,
    },
    /// A call of NVRTC failed for a reason that is not in the text.
    #[error("NVRTC's {function} failed: {cause}")]
    Call {
        /// The function called.
        function: &'static str,
        /// NVRTC's word for it.
        cause: String,
    },
    /// The name of a target is none.
    #[error(
        "`{name}` is not a GPU target: write sm_ and two or three digits, with an `a` or `f` after them for \
         instructions of that architecture or family alone, such as sm_80, sm_90a or sm_100a"
    )]
    TargetName {
        /// As written.
        name: String,
    },
    /// This NVRTC does not compile for the target.
    #[error("NVRTC {version} ({}) does not compile for {target}: it does for {}", path.display(), supported.join(", "))]
    TargetUnknown {
        /// What was asked for.
        target: Target,
        /// NVRTC's version.
        version: String,
        /// Where it was found.
        path: PathBuf,
        /// What it compiles for, without what is for one architecture or family alone.
        supported: Vec<String>,
    },
    /// A text cannot be handed to NVRTC.
    #[error("{what} of the kernel `{name}` has a NUL character at byte {position}; text cannot")]
    Nul {
        /// The source or its name.
        what: &'static str,
        /// The source's name.
        name: String,
        /// Where.
        position: usize,
    },
    /// NVRTC refused the text.
    #[error("NVRTC refused `{name}` for {target}:\n{log}")]
    Refused {
        /// The source's name.
        name: String,
        /// What it was compiled for.
        target: Target,
        /// What NVRTC said, with the lines that it speaks of.
        log: String,
    },
    /// NVRTC's report of what kernels use is not as expected.
    #[error("NVRTC's report on `{name}` could not be read: {cause}\n{log}")]
    Report {
        /// The source's name.
        name: String,
        /// What was not as expected.
        cause: String,
        /// The report.
        log: String,
    },
    /// nvdisasm could not be run, or refused the CUBIN.
    #[error("{} failed on a CUBIN of {bytes} bytes: {cause}", path.display())]
    Disassembler {
        /// The program.
        path: PathBuf,
        /// How long the CUBIN is.
        bytes: usize,
        /// What it or the system said.
        cause: String,
    },
}

/// One of NVIDIA's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The compiler, a library.
    Nvrtc,
    /// The disassembler, a program.
    Nvdisasm,
}

/// That a tool is nowhere that was looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// What was looked for.
    pub tool: Tool,
    /// The folder that `DIPTYCH_CUDA` names, if it is set.
    pub named: Option<PathBuf>,
    /// Where was looked, in order; folders that are not there are left out.
    pub looked_in: Vec<PathBuf>,
}

impl std::error::Error for NotFound {}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.tool {
            Tool::Nvrtc => "NVRTC (libnvrtc.so), which compiles kernels for GPUs",
            Tool::Nvdisasm => "nvdisasm, which shows the instructions of kernels for GPUs",
        };
        match &self.named {
            Some(folder) => write!(
                f,
                "{what}, is not in {}, which DIPTYCH_CUDA names. Name a folder that setup/cuda.sh filled or one of \
                 CUDA's own, or unset DIPTYCH_CUDA.",
                folder.display()
            )?,
            None => write!(
                f,
                "{what}, was not found. Install it with setup/cuda.sh, or set DIPTYCH_CUDA to the folder of a CUDA \
                 toolkit."
            )?,
        }
        match self.looked_in.as_slice() {
            [] => write!(f, " No folder where it might be is there."),
            folders => {
                // The path may have dozens.
                let shown: Vec<String> =
                    folders.iter().take(8).map(|path| path.display().to_string()).collect();
                write!(f, " Looked in {}", shown.join(", "))?;
                match folders.len() - shown.len() {
                    0 => write!(f, "."),
                    more => write!(f, " and {more} other folders."),
                }
            }
        }
    }
}
