//! The start of a run: its first weights, one parameter at a time, and how much
//! memory it will take in all. It trains nothing.

use crate::failure::Result;
use diptych_data::Prepared;
use diptych_ir::Program;
use diptych_models::initialize;
use diptych_runtime::train::Trainer;

/// What a process takes beside the figures that are exact: the code of the
/// kernels, their threads' stacks, buffers of files.
const CODE_AND_STACKS: u64 = 8 << 20;

/// Gives a trainer the weights that follow from the seed.
///
/// # Errors
/// When the trainer is of another program.
pub fn initialize_trainer(trainer: &mut Trainer<'_>, program: &Program, seed: u64) -> Result<()> {
    let mut failure = None;
    let done = trainer.initialize(|name| {
        initialize(program, name, seed).unwrap_or_else(|error| {
            failure = Some(error);
            Vec::new()
        })
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(done?),
    }
}

/// Bytes that a run takes beside what the trainer knows of: a copy of the
/// largest parameter (when it is set, and when a checkpoint is written), the
/// tokens, which are mapped from disk, and the code.
pub fn memory_beside(program: &Program, prepared: &Prepared) -> u64 {
    let elements = |order: &[diptych_ir::Axis]| -> usize {
        order.iter().map(|axis| axis.fixed_size().unwrap_or(1)).product()
    };
    let largest = program.params.values().map(|info| elements(&info.order)).max().unwrap_or(0);
    let file = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let tokens = file(prepared.training.path()) + file(prepared.held_out.path());
    (largest * size_of::<f32>()) as u64 + tokens + CODE_AND_STACKS
}
