//! What can go wrong before a kernel runs. What goes wrong while one runs is a [`Diagnostic`](crate::Diagnostic).

use crate::diagnostic::Diagnostic;

/// Why a PTX text was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// The text is not PTX as this crate reads it.
    #[error("PTX line {line}: {problem}")]
    Syntax {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What is wrong there.
        problem: String,
    },
    /// An instruction, or a form of it, that is not modelled.
    #[error("PTX line {line}, kernel {kernel}: `{opcode}` is not modelled: {problem}")]
    Unsupported {
        /// Line of the PTX text, from 1.
        line: u32,
        /// Kernel that holds the instruction.
        kernel: String,
        /// The opcode with its modifiers.
        opcode: String,
        /// What of it is not modelled.
        problem: String,
    },
    /// The module was compiled for a target that the device does not run.
    #[error("the PTX is for {found}, this device is {device}: {problem}")]
    Target {
        /// `.target` of the module.
        found: String,
        /// The device's target.
        device: String,
        /// Which targets it runs.
        problem: String,
    },
}

impl LoadError {
    pub(crate) fn syntax(line: u32, problem: impl Into<String>) -> Self {
        LoadError::Syntax { line, problem: problem.into() }
    }
}

/// Why a launch did not complete.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// The launch itself is wrong (sizes, parameters): nothing was executed.
    #[error("kernel {kernel} cannot be launched: {problem}")]
    Invalid {
        /// Name of the kernel.
        kernel: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A check failed while the kernel ran.
    #[error(transparent)]
    Fault(#[from] Box<Diagnostic>),
}

/// Why a copy from or to the device's memory was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MemoryError {
    /// No allocation holds these bytes.
    #[error("{length} bytes at {address:#x} are not within one allocation{near}")]
    OutOfBounds {
        /// First byte asked for.
        address: u64,
        /// Number of bytes asked for.
        length: usize,
        /// The nearest allocation, in words; may be empty.
        near: String,
    },
    /// The address to be freed is not that of an allocation.
    #[error("{0:#x} is not the start of an allocation")]
    NotAnAllocation(u64),
    /// The device has less memory than asked for.
    #[error("out of memory: {asked} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
}
