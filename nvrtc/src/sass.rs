//! The instructions of a CUBIN's kernels, through nvdisasm.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::NvrtcError;
use crate::loops::{MainLoop, TENSOR_CORE, main_loop};
use crate::toolkit::find_nvdisasm;

/// What a kernel is made of. An opcode is counted by its first word: `HMMA` for `HMMA.16816.F32.BF16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCode {
    /// The kernel's name.
    pub name: String,
    /// How many instructions it has, with those of functions that it calls, without what fills its end.
    pub instructions: u64,
    /// How many there are of each opcode.
    pub opcodes: BTreeMap<String, u64>,
    /// The innermost loop with tensor-core instructions, if there is any.
    pub main_loop: Option<MainLoop>,
}

impl KernelCode {
    /// How many instructions of an opcode there are.
    pub fn count(&self, opcode: &str) -> u64 {
        self.opcodes.get(opcode).copied().unwrap_or(0)
    }

    /// How many instructions are for the tensor cores.
    pub fn tensor_core(&self) -> u64 {
        TENSOR_CORE.iter().map(|opcode| self.count(opcode)).sum()
    }
}

/// The kernels of a CUBIN, in its order.
///
/// # Errors
/// When nvdisasm is not found (see [`find_nvdisasm`]), cannot be run, or refuses the CUBIN: it must be as new as the
/// NVRTC that made it.
pub fn disassemble(cubin: &[u8]) -> Result<Vec<KernelCode>, NvrtcError> {
    let nvdisasm = find_nvdisasm()?;
    let failed =
        |cause: String| NvrtcError::Disassembler { path: nvdisasm.clone(), bytes: cubin.len(), cause };
    let text = run(&nvdisasm, cubin).map_err(failed)?;
    let Listing(_, functions) = serde_json::from_slice(&text).map_err(|error| {
        failed(format!("its JSON is not as expected (version 13.5 is known to work): {error}"))
    })?;
    Ok(functions.into_iter().map(kernel_code).collect())
}

fn run(nvdisasm: &Path, cubin: &[u8]) -> Result<Vec<u8>, String> {
    let mut file = tempfile::Builder::new()
        .prefix("diptych-")
        .suffix(".cubin")
        .tempfile()
        .map_err(|error| format!("no temporary file: {error}"))?;
    file.write_all(cubin).map_err(|error| format!("writing {}: {error}", file.path().display()))?;
    let output = Command::new(nvdisasm)
        .arg("--emit-json")
        .arg(file.path())
        .output()
        .map_err(|error| format!("it could not be run: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    Err(format!("{}: {}", output.status, said.concat()))
}

/// What nvdisasm prints: something about the file, and the functions.
#[derive(Deserialize)]
struct Listing(IgnoredAny, Vec<Function>);

#[derive(Deserialize)]
struct Function {
    #[serde(rename = "function-name")]
    name: String,
    #[serde(rename = "sass-instructions")]
    instructions: Vec<Instruction>,
}

/// One instruction. All are 16 bytes long.
#[derive(Debug, Deserialize)]
pub(crate) struct Instruction {
    pub opcode: String,
    /// `@P0`, `@!UP1`: under which condition it is executed.
    pub predicate: Option<String>,
    #[serde(default)]
    pub operands: String,
}

impl Instruction {
    /// The opcode without its modifiers.
    pub(crate) fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }
}

fn kernel_code(mut function: Function) -> KernelCode {
    let used = function.instructions.iter().rposition(|instruction| instruction.base() != "NOP");
    function.instructions.truncate(used.map_or(0, |last| last + 1));
    KernelCode {
        instructions: function.instructions.len() as u64,
        opcodes: opcodes(&function.instructions),
        main_loop: main_loop(&function.instructions),
        name: function.name,
    }
}

pub(crate) fn opcodes<'a>(instructions: impl IntoIterator<Item = &'a Instruction>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for instruction in instructions {
        *counts.entry(instruction.base().to_owned()).or_default() += 1;
    }
    counts
}
