//! The ops: everything the compiler knows of one stands in its own file. To
//! add an op, add a file and a row to the table below.

mod all_to_all;
mod cast;
mod collective;
mod concat;
mod contract;
mod history;
mod leaves;
mod linearity;
mod loops;
mod map;
mod reduce;
mod rename;
mod repeat;
mod round_blocks;
mod scan;
mod send;
mod slice;
mod split;
mod take;
mod top_k;

pub use all_to_all::AllToAll;
pub use cast::Cast;
pub use collective::{AllGather, AllReduce, ReduceScatter};
pub use concat::Concat;
pub use contract::Contract;
pub use history::History;
pub use leaves::{Argument, Index, Input, Literal, Param};
pub use linearity::Linearity;
pub use loops::Loop;
pub(crate) use loops::loop_results;
pub use map::{Map, ScalarFn, round_randomly};
pub use reduce::{Reduce, ReduceKind};
pub use rename::Rename;
pub use repeat::{Output, Repeat};
pub use round_blocks::RoundBlocks;
pub use scan::{Replay, Scan};
pub use send::{Receive, Send};
pub use slice::Slice;
pub use split::{Merge, Split};
pub use take::{PutAdd, Take};
pub use top_k::TopK;

use crate::evaluate::{Context, Value};
use crate::text::Reader;
use crate::{Axes, Axis, DType, Graph, IrError, NodeId, Result, Size, TensorType};

/// Everything the compiler knows of an op.
pub trait Operator {
    /// The name in the text form.
    fn name(&self) -> &'static str;

    /// The type of the value, or what does not fit.
    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType>;

    /// The value, in f64.
    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value>;

    /// Adds to the graph the gradient of each operand, given the node and the
    /// gradient of its value; `None` for an operand that has none. Gradients are
    /// f32 and may leave out axes along which they are constant: see [`spread`].
    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>>;

    /// In which operands the value is linear.
    fn linearity(&self) -> Linearity {
        Linearity::None
    }

    /// Scalar floating-point operations; `size` gives an axis' size in elements.
    fn flops(&self, _operands: &[&TensorType], _ty: &TensorType, _size: &dyn Fn(Axis) -> f64) -> f64 {
        0.0
    }

    /// The mesh axis over which ranks exchange messages, if the op is a collective.
    fn mesh(&self) -> Option<Axis> {
        None
    }

    /// What the text form says of the op beside its name and operands; names and
    /// axes print by `text::name` and `text::axis`. `parse` reads it back.
    fn attributes(&self) -> String {
        String::new()
    }

    /// Reads the attributes of the op of this name; `None` if the name is another
    /// op's. `ty` is the type that the text gives the value.
    fn parse(name: &str, text: &mut Reader, ty: &TensorType) -> Option<Result<Op>>
    where
        Self: Sized;
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// An operation: one variant a file of this folder.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Op { $($(#[$doc])* $name($name),)* }

        impl Op {
            /// What the compiler knows of it.
            pub fn operator(&self) -> &dyn Operator {
                match self { $(Op::$name(op) => op,)* }
            }

            /// Reads the op of this name and its attributes; `None` if no op has the name.
            pub(crate) fn parse(name: &str, text: &mut Reader, ty: &TensorType) -> Option<Result<Op>> {
                $(if let Some(op) = $name::parse(name, text, ty) {
                    return Some(op);
                })*
                None
            }
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })*
    };
}

ops! {
    /// A named input, given by the caller of an entry.
    Input,
    /// A trained parameter.
    Param,
    /// A port of a repeat's body.
    Argument,
    /// Known numbers.
    Literal,
    /// Position along an axis.
    Index,
    /// A scalar function, pointwise.
    Map,
    /// Change of element type.
    Cast,
    /// Product of any number of operands, summed over axes.
    Contract,
    /// Sum or maximum over axes.
    Reduce,
    /// Gather along an axis.
    Take,
    /// The adjoint of a gather.
    PutAdd,
    /// Gives an axis another name.
    Rename,
    /// Cuts an axis into several.
    Split,
    /// Joins axes into one.
    Merge,
    /// A range of an axis.
    Slice,
    /// Operands one after the other along an axis.
    Concat,
    /// A value at every position so far.
    History,
    /// A stack of equal blocks.
    Repeat,
    /// A recurrence along a sequence axis.
    Scan,
    /// One of the results of a repeat or a scan.
    Output,
    /// Where the largest elements along an axis are.
    TopK,
    /// Activations as integers with a scale for each block.
    RoundBlocks,
    /// Sum or maximum over ranks, on every rank.
    AllReduce,
    /// The ranks' pieces, joined on every rank.
    AllGather,
    /// Sum over ranks, a piece for each.
    ReduceScatter,
    /// Another axis cut over the ranks.
    AllToAll,
    /// Starts a shift along a mesh axis.
    Send,
    /// Waits for what was sent.
    Receive,
}

impl Op {
    /// The name in the text form.
    pub fn name(&self) -> &'static str {
        self.operator().name()
    }

    /// The mesh axis over which ranks exchange messages, if it is a collective.
    pub fn mesh(&self) -> Option<Axis> {
        self.operator().mesh()
    }
}

/// Adds to the graph the sum of a gradient over those axes of a result that
/// its operand lacks. Along an axis that the gradient leaves out it is constant,
/// so there the sum is a product with the axis' size.
pub(crate) fn sum_to(graph: &mut Graph, gradient: NodeId, result: &Axes, operand: &Axes) -> Result<NodeId> {
    let held = graph.axes(gradient).clone();
    let over = graph.ordered(held.without(operand).iter().copied());
    let left_out = result.without(operand).without(&held);
    let mut sum = gradient;
    if !over.is_empty() {
        sum = graph.add(Reduce { kind: ReduceKind::Sum, over }, &[sum])?;
    }
    let fixed: usize = left_out.iter().filter_map(|axis| axis.fixed_size()).product();
    if fixed != 1 {
        let count = graph.add(Literal::scalar(DType::F32, fixed as f64), &[])?;
        sum = graph.add(Map(ScalarFn::Mul), &[sum, count])?;
    }
    let run_time: Vec<Axis> = left_out.iter().copied().filter(|axis| axis.fixed_size().is_none()).collect();
    if !run_time.is_empty() {
        let each = run_time_ones(graph, &run_time, result)?;
        let over = graph.ordered(run_time);
        let count = graph.add(Reduce { kind: ReduceKind::Sum, over }, &[each])?;
        sum = graph.add(Map(ScalarFn::Mul), &[sum, count])?;
    }
    Ok(sum)
}

/// Adds the axes that a gradient lacks, by multiplication with ones: a gradient
/// is allowed to leave out axes along which it is constant.
///
/// # Errors
/// When the gradient has another axis of the same name.
pub fn spread(graph: &mut Graph, gradient: NodeId, axes: &[Axis]) -> Result<NodeId> {
    let mut spread = gradient;
    let held = graph.axes(gradient).clone();
    let left_out = || axes.iter().copied().filter(|axis| !held.contains(*axis));
    let run_time: Vec<Axis> = left_out().filter(|axis| axis.fixed_size().is_none()).collect();
    if !run_time.is_empty() {
        let ones = run_time_ones(graph, &run_time, axes)?;
        spread = graph.add(Map(ScalarFn::Mul), &[spread, ones])?;
    }
    for axis in left_out() {
        if let Some(size) = axis.fixed_size() {
            let ones = graph.add(Literal::table(DType::F32, axis, &vec![1.0; size])?, &[])?;
            spread = graph.add(Map(ScalarFn::Mul), &[spread, ones])?;
        }
    }
    Ok(spread)
}

/// The symbol of the axis of sequences. How far another run-time axis goes depends on the sequence.
const SEQUENCES: &str = "batch";

/// Adds ones over run-time axes, of those that a value has. Their sizes are not
/// known yet, so that there is no table: a position is compared with itself. A
/// position is one of a sequence: together, the axes have as many points as
/// all sequences have positions, and not as many as if all were of one length.
fn run_time_ones(graph: &mut Graph, axes: &[Axis], of: &[Axis]) -> Result<NodeId> {
    let is_of_sequences = |axis: Axis| axis.size == Size::Symbolic(SEQUENCES.into());
    let sequences = of.iter().copied().find(|&axis| is_of_sequences(axis));
    let (whole, along): (Vec<Axis>, Vec<Axis>) = axes.iter().partition(|&&axis| is_of_sequences(axis));
    let indices: Vec<Index> = match along[..] {
        [] => whole.into_iter().map(|axis| Index { axis, origin: None }).collect(),
        _ => along.into_iter().map(|axis| Index { axis, origin: sequences }).collect(),
    };
    let mut everywhere: Option<NodeId> = None;
    for index in indices {
        let index = graph.add(index, &[])?;
        let same = graph.add(Map(ScalarFn::Equal), &[index, index])?;
        everywhere = Some(match everywhere {
            Some(before) => graph.add(Map(ScalarFn::And), &[before, same])?,
            None => same,
        });
    }
    let everywhere = everywhere.ok_or_else(|| IrError::Invalid("ones over no axes were asked for".into()))?;
    graph.add(Cast(DType::F32), &[everywhere])
}

/// The number of elements of a type.
pub(crate) fn elements(ty: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
    ty.axes.iter().map(|&axis| size(axis)).product()
}
