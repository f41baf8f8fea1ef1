//! The graph that everything in Diptych stands on: named axes with symbolic
//! sizes, types, ops, programs of regions, the verifier, the text form, and
//! the reference evaluator in f64. It knows no device, no layout and no thread.

mod axis;
pub mod blocks;
mod error;
pub mod evaluate;
mod graph;
pub mod ops;
mod program;
mod symbol;
pub mod text;
mod types;
mod verify;

pub use axis::{Axes, Axis, Size};
pub use error::{IrError, Result, Span};
pub use graph::{Graph, Node, NodeId};
pub use ops::{Loop, Op, Operator, ReduceKind, ScalarFn};
pub use program::{Bounds, Entry, EntryKind, Initializer, ParamInfo, Program, Region, RegionId, UpdateRule};
pub use symbol::Symbol;
pub use types::{DType, TensorType};
pub use verify::verify;
