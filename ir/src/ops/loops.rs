//! What `repeat` and `scan` share: a region run once for each position along an
//! axis, with values carried from one run to the next, and how operands and
//! results meet the ports of its body. It knows no graph around the loop.

use super::Op;
use crate::{Axis, IrError, Region, RegionId, Result, TensorType};

/// A loop over a region, whichever op it is. Its operands are the carried
/// values as they start, the sequenced ones (sliced along the axis), then the
/// invariant ones; its results are the carried values at the end, then what
/// each run yields, along the axis.
#[derive(Clone, Copy, Debug)]
pub struct Loop<'a> {
    /// The op's name.
    pub name: &'static str,
    /// The body.
    pub body: RegionId,
    /// The axis that counts the runs.
    pub over: Axis,
    /// Whether the last position runs first.
    pub reverse: bool,
    /// How many operands, and results, are carried.
    pub carried: usize,
    /// How many operands are sliced along the axis.
    pub sequenced: usize,
    /// Types of the results.
    pub results: &'a [TensorType],
}

impl Op {
    /// The loop, if the op is one.
    pub fn as_loop(&self) -> Option<Loop<'_>> {
        match self {
            Op::Repeat(repeat) => Some(Loop {
                name: "repeat",
                body: repeat.body,
                over: repeat.layers,
                reverse: repeat.reverse,
                carried: repeat.carried,
                sequenced: repeat.stacked,
                results: &repeat.results,
            }),
            Op::Scan(scan) => Some(Loop {
                name: "scan",
                body: scan.body,
                over: scan.over,
                reverse: scan.reverse,
                carried: scan.carried,
                sequenced: scan.sequenced,
                results: &scan.results,
            }),
            _ => None,
        }
    }
}

/// The types that a loop over this body yields, given operands of these types.
///
/// # Errors
/// When an operand does not fit its port, or a carried value comes back as another type.
pub(crate) fn loop_results(
    name: &str,
    body: &Region,
    over: Axis,
    carried: usize,
    sequenced: usize,
    operands: &[&TensorType],
) -> Result<Vec<TensorType>> {
    let wrong = |problem: String| Err(IrError::of(name, problem));
    if body.arguments.len() != operands.len() {
        let (takes, given) = (body.arguments.len(), operands.len());
        return wrong(format!("the body `{}` takes {takes} arguments, but {given} were given", body.name));
    }
    if carried > body.results.len() || carried.saturating_add(sequenced) > operands.len() {
        let (given, yielded) = (operands.len(), body.results.len());
        return wrong(format!(
            "{carried} carried and {sequenced} sliced values, but {given} operands and {yielded} results"
        ));
    }
    for (position, (&operand, &argument)) in operands.iter().zip(&body.arguments).enumerate() {
        let wanted = body.graph.ty(argument);
        let given = match position >= carried && position < carried + sequenced {
            true if operand.axes.contains(over) => operand.without_axis(over),
            true => return wrong(format!("operand {position} is {operand}: no axis {over} to slice")),
            false => operand.clone(),
        };
        if given != *wanted {
            return wrong(format!("argument {position} is {wanted}, but was given {given}"));
        }
    }
    let results = body.results.iter().enumerate().map(|(position, &id)| {
        let ty = body.graph.ty(id);
        if position >= carried {
            return ty.with_axis(over).ok_or_else(|| {
                let problem =
                    format!("result {position} is {ty}: it has an axis named {} already", over.name);
                IrError::of(name, problem)
            });
        }
        let argument = body.graph.ty(body.arguments[position]);
        if argument == ty {
            return Ok(ty.clone());
        }
        let problem =
            format!("value {position} is carried: given as {argument}, it cannot come back as {ty}");
        Err(IrError::of(name, problem))
    });
    results.collect()
}
