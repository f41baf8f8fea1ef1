//! `rename`: gives an axis another name. It moves no data.

use super::{Linearity, Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, Graph, IrError, NodeId, Result, TensorType};

/// Gives the axis `from` the name of `to`. Sizes must be equal when the
/// program runs; fixed ones are checked at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Rename {
    /// The axis as it is.
    pub from: Axis,
    /// The axis as it shall be.
    pub to: Axis,
}

impl Operator for Rename {
    fn name(&self) -> &'static str {
        "rename"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [operand] = operands else {
            return Err(IrError::of("rename", format!("takes 1 operand, but was given {}", operands.len())));
        };
        if !operand.axes.contains(self.from) {
            return Err(IrError::of("rename", format!("{operand} has no axis {}", self.from)));
        }
        if let (Some(from), Some(to)) = (self.from.fixed_size(), self.to.fixed_size())
            && from != to
        {
            return Err(IrError::of(
                "rename",
                format!("{} cannot become {}: the sizes differ", self.from, self.to),
            ));
        }
        operand.without_axis(self.from).with_axis(self.to).ok_or_else(|| {
            IrError::of("rename", format!("{operand} has an axis named {} already", self.to.name))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            operands[0].at(&index.with(self.from.name, index.get(self.to.name)))
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if !graph.axes(cotangent).contains(self.to) {
            return Ok(vec![Some(cotangent)]);
        }
        Ok(vec![Some(graph.add(Rename { from: self.to, to: self.from }, &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        format!("{} to {}", text::axis(self.from), text::axis(self.to))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "rename")
            .then(|| Ok(Op::Rename(Rename { from: text.axis()?, to: text.after("to", Reader::axis)? })))
    }
}
