//! What kernels and entries take on a machine: target descriptions, measurement, roofline, money.
//!
//! A machine meets kernels only as amounts of work ([`Work`]); what work there is comes from tile programs
//! alone, so it is right whatever was fused. It must not know ops, and it runs nothing.
//!
//! Reading order: [`work`] (what is to be done), [`machine`] (how fast each kind of it goes),
//! [`target`] (machines described in files), [`roofline`] (the two put together), [`gpu`] (the same where
//! the machine cuts kernels its own way), [`floor`] and [`occupancy`] (what bounds a GPU's kernels), [`launch`] (the work of a
//! tile program at run-time sizes), [`entry`] (all launches of an entry, in order), [`step`] (a training step) and [`binding`] (an entry as an objective weighs it), then [`memory`],
//! [`utilisation`], [`money`] and [`model`] (what a user asks about).
#![warn(missing_docs)]

pub mod binding;
pub mod entry;
pub mod floor;
pub mod gpu;
pub mod launch;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod model;
pub mod money;
pub mod occupancy;
pub mod probe;
pub mod ratios;
pub mod roofline;
pub mod step;
pub mod target;
pub mod utilisation;
pub mod work;

pub use binding::{predict_binding, serving_bytes, sizes_of};
pub use entry::{EntryPrediction, LaunchPrediction, predict_entry};
pub use floor::{Floor, product_seconds, tensor_core_flops};
pub use launch::{RunSizes, Sequence, Whole, launch_work, whole_work};
pub use machine::{DotShare, GpuRates, Kind, Machine, MemoryLevel, Network, Precision, Price, Rates};
pub use measure::{MeasureError, Measurement, measure, measured};
pub use model::{JobCost, JobKind, ModelCost, TrainingMemory};
pub use occupancy::{Limit, Multiprocessor, Occupancy};
pub use probe::{MemoryReader, ProbeError, ProbeLibrary, ProbeSource};
pub use ratios::{RatioPoint, RatioSweep, sweep_ratios};
pub use roofline::{Bound, Breakdown, Prediction, predict};
pub use step::{StepSizes, predict_step};
pub use target::{Target, TargetError};
pub use work::{Direction, Dot, ScalarOps, Traffic, Work};
