//! PTX text to statements with resolved registers, variables and labels. Knows the grammar, not what instructions mean.

mod body;
mod lexer;
mod parser;

pub(crate) use parser::{SHARED_START, parse, type_size};

use std::collections::HashMap;

/// A line of the CUDA source, where NVRTC was run with `-lineinfo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceLine {
    /// Name of the file, as the compiler was told.
    pub file: std::sync::Arc<str>,
    /// Line from 1.
    pub line: u32,
    /// Lines of the calls that the code was inlined through, innermost first; empty for code of the kernel itself.
    pub inlined_at: Vec<u32>,
}

impl SourceLine {
    /// The line in the body of the kernel itself: the outermost call for inlined code.
    pub fn kernel_line(&self) -> u32 {
        self.inlined_at.last().copied().unwrap_or(self.line)
    }
}

impl std::fmt::Display for SourceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        for line in &self.inlined_at {
            write!(f, " (inlined at {line})")?;
        }
        Ok(())
    }
}

/// Which register file a register lives in. 8- to 32-bit values share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    Predicate,
    Narrow,
    Wide,
}

/// A virtual register of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Register {
    pub class: Class,
    pub index: u32,
}

/// State space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Parameter,
    Constant,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(Register),
    /// `!%p1`.
    Not(Register),
    /// The bits of a number; negative ones as 64-bit two's complement.
    Immediate(u64),
    /// A variable, a special register, or a label.
    Name(String),
    /// `[base + offset]`, or `[base, {coordinates}]` of tensor copies.
    Address {
        base: Box<Operand>,
        offset: i64,
        coordinates: Vec<Operand>,
    },
    Vector(Vec<Operand>),
    /// `%r1|%p1`.
    Pair(Box<Operand>, Box<Operand>),
}

#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Predicate register and the value of it for which the statement is executed.
    pub guard: Option<(Register, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// Index into [`Kernel::source_lines`].
    pub source: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variable {
    pub space: Space,
    pub offset: u64,
    pub size: u64,
}

/// A parameter of a kernel: where it stands in the parameter buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the PTX.
    pub name: String,
    /// Offset in the parameter buffer, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub statements: Vec<Statement>,
    /// Label to index of the statement that follows it.
    pub labels: HashMap<String, usize>,
    /// Number of registers of each class, in the order of [`Class`].
    pub registers: [u32; 3],
    /// Variables in shared, local and parameter space; module variables too.
    pub variables: HashMap<String, Variable>,
    /// Bytes of static shared memory, from the start of the window.
    pub static_shared: u32,
    /// Alignment that the dynamic shared memory must have.
    pub dynamic_alignment: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// `.maxntid` or `.reqntid`, multiplied out; 0 where not given.
    pub maximum_threads: u32,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`, multiplied out.
    pub cluster_size: u32,
    pub source_lines: Vec<SourceLine>,
}

/// A variable of the module in global or constant space.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModuleVariable {
    pub name: String,
    pub constant: bool,
    pub alignment: u64,
    pub bytes: Vec<u8>,
    /// False where the text gives no value: CUDA zeroes those as well.
    pub initialised: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub target: String,
    pub variables: Vec<ModuleVariable>,
    pub kernels: Vec<Kernel>,
}
