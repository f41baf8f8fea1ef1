//! The model definition language: handles to values over named axes, and the
//! layers that models are written in. It makes graphs and evaluates nothing.

mod attention;
mod builder;
mod experts;
mod layers;
mod losses;
mod repeat;
mod rotary;
mod scan;
mod tensor;

pub use builder::{AxisList, ModelBuilder};
pub use layers::Linear;
pub use rotary::{Rope, RopeScaling, RotaryTable};
pub use tensor::{Operand, Tensor};
