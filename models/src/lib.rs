//! The model definition language, the zoo of architectures, and import and
//! export of Hugging Face checkpoints. It ends at a verified program: it knows
//! no pass, no kernel and no device.

mod architecture;
mod dsl;
mod entries;
mod error;
pub mod hugging_face;
mod initialize;
pub mod zoo;

pub use architecture::{Architecture, Constructor, Family, Precision, Registry, build, parse_config};
pub use dsl::{AxisList, Linear, ModelBuilder, Operand, Rope, RopeScaling, RotaryTable, Tensor};
pub use error::{ModelError, Result};
pub use initialize::{count_parameters, initialize};
