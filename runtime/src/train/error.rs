//! What can go wrong with a run of training, each with what would be right.

use super::options::OptionsError;
use crate::checkpoint::CheckpointError;
use crate::cuda::CudaError;
use crate::executor::{BindingError, LoadError, OutOfMemory, ParameterError, RunError};
use crate::schedule::ScheduleError;
use crate::session::SessionError;
use diptych_codegen::entry::CompileError;
use diptych_codegen::within::WithinError;
use diptych_ir::Symbol;
use std::path::PathBuf;

/// Why training cannot start, go on, be saved or be resumed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The options contradict each other or the model.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The learning rate's schedule is none.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The program cannot be compiled or loaded.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The run does not fit into the memory that it may take.
    #[error("the run takes at least {least} bytes, more than the {allowed} that it may")]
    Memory {
        /// The limit.
        allowed: usize,
        /// The least limit that works.
        least: usize,
        /// States for whose sake a batch is not cut: their gradients would have other bits.
        whole: Vec<Symbol>,
    },
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A parameter was given with another number of elements.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The sequences do not fit.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The data hold a token that the model does not have.
    #[error("{what} {found} of {place} is not in the model's vocabulary of {vocabulary} tokens")]
    Token {
        /// `token` or `target`.
        what: &'static str,
        /// The id.
        found: i32,
        /// Where it stands.
        place: String,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// Nothing to learn from.
    #[error("step {step} has no target: every target of its {micro_batches} micro-batches is negative")]
    NoTargets {
        /// The step, from 0.
        step: u64,
        /// Its micro-batches.
        micro_batches: usize,
    },
    /// A held-out window is empty or longer than planned for.
    #[error("held-out window {window} has {length} tokens; it must have 1 to {time}")]
    Window {
        /// Which.
        window: usize,
        /// Its tokens.
        length: usize,
        /// The most.
        time: usize,
    },
    /// The loss or the gradient is no number: the run has diverged.
    #[error(
        "step {step}: {what} is {found}; {state}. Lower the learning rate, or go on from a checkpoint before it"
    )]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// `the loss` or `the gradient's norm`.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What became of the parameters.
        state: &'static str,
    },
    /// The checkpoint is of another model.
    #[error("{} is a checkpoint of another model: {difference}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The first difference, both sides of it.
        difference: String,
    },
    /// The checkpoint was trained in another way, with which it could not go on as it would have.
    #[error(
        "{} was trained with `{option}` {found}, but the run has {expected}: a resumed run keeps it; \
         to go on in another way, start a new run from its weights",
        path.display()
    )]
    OtherOptions {
        /// The file.
        path: PathBuf,
        /// The option.
        option: &'static str,
        /// In the file, as JSON.
        found: String,
        /// In the run, as JSON.
        expected: String,
    },
}

impl From<CompileError> for TrainError {
    fn from(error: CompileError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<CudaError> for TrainError {
    fn from(error: CudaError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<RunError> for TrainError {
    fn from(error: RunError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<WithinError> for TrainError {
    fn from(error: WithinError) -> Self {
        match error {
            WithinError::Compile(error) => error.into(),
            WithinError::TooLittle { allowed, least, whole } => TrainError::Memory { allowed, least, whole },
        }
    }
}

impl From<LoadError> for TrainError {
    fn from(error: LoadError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<OutOfMemory> for TrainError {
    fn from(error: OutOfMemory) -> Self {
        SessionError::from(error).into()
    }
}
