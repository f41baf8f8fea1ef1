//! PTX and machine code of a program's kernels, as files, and what NVIDIA's tools say of each kernel. Where a tool is not
//! there, less is known, and that is told. It predicts nothing.

use crate::failure::Result;
use crate::output::{tell, write_file};
use diptych_codegen::cuda::{Architecture, file_text};
use diptych_codegen::driver::CompiledProgram;
use diptych_nvrtc::{Form, KernelCache, KernelCode, KernelResources, Nvrtc, NvrtcError, disassemble};
use std::collections::BTreeMap;
use std::path::Path;

/// What is known of machine code.
#[derive(Default)]
pub struct MachineCode {
    /// What each kernel uses, by its name.
    pub resources: BTreeMap<String, KernelResources>,
    /// What each kernel is made of, by its name.
    pub instructions: BTreeMap<String, KernelCode>,
    /// What is not known, and what to do about it.
    pub missing: Vec<String>,
}

/// Writes sources of all entries, and PTX and CUBIN where NVRTC is there.
///
/// # Errors
/// When NVRTC refuses a kernel, or a file cannot be written.
pub fn write(compiled: &CompiledProgram, architecture: Architecture, folder: &Path) -> Result<MachineCode> {
    let mut code = MachineCode::default();
    let nvrtc = Nvrtc::find();
    if let Err(error) = &nvrtc {
        code.missing.push(format!("no PTX, no CUBIN, no registers, no instructions: {error}"));
    }
    let mut nvrtc = nvrtc.ok();
    let cache = KernelCache::standard();
    let target = architecture.name().parse()?;
    let mut can_disassemble = true;
    for (kind, entry) in &compiled.entries {
        let name = format!("{}.cu", kind.name());
        let text = file_text(&entry.device_kernels);
        write_file(&folder.join(&name), text.as_bytes())?;
        let Some(found) = &nvrtc else { continue };
        tell(format!(
            "compiling {} kernels of `{}` for {architecture}",
            entry.device_kernels.len(),
            kind.name()
        ));
        let compiled = match cache.compile(found, &text, &name, target, Form::Both) {
            // Too old for the target: as good as none.
            Err(error @ NvrtcError::TargetUnknown { .. }) => {
                code.missing.push(format!("no PTX, no CUBIN, no registers, no instructions: {error}"));
                nvrtc = None;
                continue;
            }
            other => other?,
        };
        write_file(&folder.join(format!("{}.ptx", kind.name())), compiled.ptx.as_bytes())?;
        write_file(&folder.join(format!("{}.cubin", kind.name())), &compiled.cubin)?;
        if can_disassemble {
            match disassemble(&compiled.cubin) {
                Ok(kernels) => {
                    code.instructions.extend(kernels.into_iter().map(|code| (code.name.clone(), code)))
                }
                Err(error) => {
                    can_disassemble = false;
                    code.missing.push(format!("no instructions: {error}"));
                }
            }
        }
        code.resources.extend(compiled.kernels.into_iter().map(|kernel| (kernel.name.clone(), kernel)));
    }
    Ok(code)
}
