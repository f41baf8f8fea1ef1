//! `slice`: a range of an axis.

use super::{Concat, Linearity, Literal, Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// The elements of `axis` from `start` on, as many as `into` has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slice {
    /// The axis cut from; its size is fixed.
    pub axis: Axis,
    /// First element.
    pub start: usize,
    /// The axis of the result; its size is fixed. It may keep the name.
    pub into: Axis,
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [operand] = operands else {
            return Err(IrError::of("slice", format!("takes 1 operand, but was given {}", operands.len())));
        };
        if !operand.axes.contains(self.axis) {
            return Err(IrError::of("slice", format!("{operand} has no axis {}", self.axis)));
        }
        match (self.axis.fixed_size(), self.into.fixed_size()) {
            (Some(size), Some(length)) if self.start.checked_add(length).is_some_and(|end| end <= size) => {}
            _ => {
                let problem = format!("{} from {} on do not lie within {}", self.into, self.start, self.axis);
                return Err(IrError::of("slice", problem));
            }
        }
        operand.without_axis(self.axis).with_axis(self.into).ok_or_else(|| {
            IrError::of("slice", format!("{operand} has an axis named {} already", self.into.name))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            operands[0].at(&index.with(self.axis.name, self.start + index.get(self.into.name)))
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let (size, length) = (self.axis.fixed_size().unwrap_or(0), self.into.fixed_size().unwrap_or(0));
        let zero = graph.add(Literal::scalar(DType::F32, 0.0), &[])?;
        let ends = [("before", self.start), ("after", size - self.start - length)];
        let [before, after] =
            ends.map(|(name, size)| Axis::fixed(&format!("{}.{name}", self.axis.name), size));
        let pieces = [(before, zero), (self.into, cotangent), (after, zero)];
        let pieces: Vec<_> = pieces.into_iter().filter(|(axis, _)| axis.fixed_size() != Some(0)).collect();
        let operands: Vec<NodeId> = pieces.iter().map(|piece| piece.1).collect();
        let pieces = pieces.into_iter().map(|piece| piece.0).collect();
        Ok(vec![Some(graph.add(Concat { pieces, into: self.axis }, &operands)?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        format!("{} from {} into {}", text::axis(self.axis), self.start, text::axis(self.into))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "slice").then(|| {
            let (axis, start) = (text.axis()?, text.after("from", Reader::whole)?);
            Ok(Op::Slice(Slice { axis, start, into: text.after("into", Reader::axis)? }))
        })
    }
}
