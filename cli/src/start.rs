//! The start of a run: its first weights, one parameter at a time. It trains nothing.

use crate::failure::Result;
use diptych_ir::Program;
use diptych_models::initialize;
use diptych_runtime::train::Trainer;

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
