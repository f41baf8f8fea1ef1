//! What kernels and entries take on a machine: target descriptions, measurement, roofline, money.
//!
//! It knows kernels only as amounts of work ([`Work`]); it must not know graphs, ops, plans or devices.
//!
//! Reading order: [`work`] (what is to be done), [`machine`] (how fast each kind of it goes),
//! [`target`] (machines described in files), [`roofline`] (the two put together), then [`memory`],
//! [`utilisation`] and [`money`] (what a user asks about).
#![warn(missing_docs)]

pub mod machine;
pub mod measure;
pub mod memory;
pub mod money;
pub mod probe;
pub mod roofline;
pub mod target;
pub mod utilisation;
pub mod work;

pub use machine::{DotShare, Kind, Machine, MemoryLevel, Network, Precision, Price, Rates};
pub use measure::{MeasureError, Measurement, measure, measured};
pub use probe::{ProbeError, ProbeLibrary, ProbeSource};
pub use roofline::{Bound, Breakdown, Prediction, predict};
pub use target::{Target, TargetError};
pub use work::{Direction, Dot, ScalarOps, Traffic, Work};
