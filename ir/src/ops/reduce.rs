//! `reduce(kind, x, over)`: sum or maximum over axes.

use super::{Linearity, Map, Op, Operator, ScalarFn, elements};
use crate::evaluate::{Context, Value, for_each_index};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// How elements are combined.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ReduceKind {
    /// Their sum, in f32.
    Sum,
    /// The largest.
    Max,
}

/// Sum or maximum over axes, walked in this order, the last fastest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reduce {
    /// How elements are combined.
    pub kind: ReduceKind,
    /// The axes that go, outermost first.
    pub over: Vec<Axis>,
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "reduce_sum",
            ReduceKind::Max => "reduce_max",
        }
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [operand] = operands else {
            return Err(IrError::of(
                self.name(),
                format!("takes 1 operand, but was given {}", operands.len()),
            ));
        };
        if !operand.dtype.is_float() {
            return Err(IrError::of(self.name(), format!("takes floats, but was given {operand}")));
        }
        for (position, axis) in self.over.iter().enumerate() {
            if !operand.axes.contains(*axis) || self.over[..position].contains(axis) {
                return Err(IrError::of(self.name(), format!("no axis {axis} in {operand}")));
            }
        }
        Ok(TensorType::new(DType::F32, operand.axes.without(&self.over)))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let over =
            self.over.iter().map(|&axis| Ok((axis.name, context.size(axis)?))).collect::<Result<Vec<_>>>()?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let mut result = match self.kind {
                // A sum over no axis is its only term, -0 too.
                ReduceKind::Sum if over.is_empty() => -0.0,
                ReduceKind::Sum => 0.0,
                ReduceKind::Max => f64::NEG_INFINITY,
            };
            for_each_index(&over, &mut index.clone(), &mut |index| {
                let x = operands[0].at(index);
                result = match self.kind {
                    ReduceKind::Sum => result + x,
                    ReduceKind::Max => {
                        if x > result {
                            x
                        } else {
                            result
                        }
                    }
                };
            });
            result
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        match self.kind {
            // Broadcast along the summed axes is implied by the operand's type.
            ReduceKind::Sum => Ok(vec![Some(cotangent)]),
            ReduceKind::Max => {
                let x = graph.operands(node)[0];
                let zero = graph.add(super::Literal::scalar(DType::F32, 0.0), &[])?;
                let largest = graph.add(Map(ScalarFn::Equal), &[x, node])?;
                Ok(vec![Some(graph.add(Map(ScalarFn::Select), &[largest, cotangent, zero])?)])
            }
        }
    }

    fn linearity(&self) -> Linearity {
        if self.kind == ReduceKind::Sum { Linearity::All } else { Linearity::None }
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        operands.first().map_or(0.0, |ty| elements(ty, size))
    }

    fn attributes(&self) -> String {
        format!("over {}", text::list(&self.over, text::axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        let kind = match name {
            "reduce_sum" => ReduceKind::Sum,
            "reduce_max" => ReduceKind::Max,
            _ => return None,
        };
        Some(text.after("over", Reader::axes).map(|over| Op::Reduce(Reduce { kind, over })))
    }
}
