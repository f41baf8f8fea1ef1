//! Pretraining: steps of a compiled program over micro-batches, held-out
//! scores, and checkpoints that resume bit for bit. It must not know where text
//! comes from, nor of terminals.

mod error;
mod identity;
mod options;
mod saved;
mod trainer;

pub use error::TrainError;
pub use identity::ModelIdentity;
pub use options::{Moments, OptimizerOptions, OptionsError, TrainOptions};
pub use saved::{SavedModel, load_parameters};
pub use trainer::{Plan, StepReport, TrainMemory, Trainer, WindowScore};
