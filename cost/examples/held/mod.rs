//! Programs with weights and caches in fewer bytes, as examples are told on the command line.

use diptych_codegen::driver::{CompiledProgram, compile_rewritten, rewrite_by_default};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{DType, EntryKind, Program};
use diptych_passes::AdamWOptions;
use diptych_passes::caches::CacheFormat;
use diptych_passes::{narrow_weights, weight_blocks};
use diptych_runtime::session::Device;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The program with all matrices that can be in this format held so: `f32`, `f16`, `bf16` or a format of blocks.
pub fn with_weights(program: &Program, format: &str) -> Result<Program> {
    let dtype = match format {
        "f32" => return Ok(program.clone()),
        "f16" => Some(DType::F16),
        "bf16" => Some(DType::BF16),
        _ => None,
    };
    if let Some(dtype) = dtype {
        let fits = narrow_weights::candidates(program).into_iter().filter(|(_, held)| held.is_ok());
        return Ok(narrow_weights::hold_narrow(program, &fits.map(|(name, _)| (name, dtype)).collect())?);
    }
    let format = BlockFormat::of_name(format).ok_or(format!("weights have no format `{format}`"))?;
    let fits = weight_blocks::candidates(program).into_iter().filter(|(_, along)| along.is_ok());
    Ok(weight_blocks::hold_in_blocks(program, &fits.map(|(name, _)| (name, format)).collect())?)
}

/// Entries of a program, with caches in this format: `f32`, `f16`, `bf16` or `q8`.
pub fn with_cache(
    program: &Program,
    format: &str,
    kinds: &[EntryKind],
    device: &Device,
) -> Result<CompiledProgram> {
    let caches = match format {
        "f32" => None,
        _ => Some(CacheFormat::of_name(format).ok_or(format!("caches have no format `{format}`"))?),
    };
    let rewritten = rewrite_by_default(program, device.options())?.with_caches(caches);
    Ok(compile_rewritten(&rewritten, kinds, &AdamWOptions::default(), device.options())?)
}
