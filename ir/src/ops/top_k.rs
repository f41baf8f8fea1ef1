//! `top_k(x, axis, k)`: where the largest elements along an axis are. Routing and
//! sampling fetch the values themselves with `take`.

use super::{Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// The positions along `axis` of its largest elements, as many as `into` has:
/// largest first, the lower position first among equals. NaN comes after every
/// number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopK {
    /// The axis that is searched.
    pub axis: Axis,
    /// The axis of the result, by rank; its size is fixed.
    pub into: Axis,
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [operand] = operands else {
            return Err(IrError::of("top_k", format!("takes 1 operand, but was given {}", operands.len())));
        };
        if !operand.axes.contains(self.axis) {
            return Err(IrError::of("top_k", format!("{operand} has no axis {}", self.axis)));
        }
        if operand.dtype == DType::Bool {
            return Err(IrError::of("top_k", format!("takes numbers, but was given {operand}")));
        }
        let Some(k) = self.into.fixed_size() else {
            return Err(IrError::of("top_k", format!("k must be a fixed size, not that of {}", self.into)));
        };
        if self.axis.fixed_size().is_some_and(|size| size < k) {
            return Err(IrError::of("top_k", format!("{} has no {k} elements to choose", self.axis)));
        }
        let ids = TensorType::new(DType::I32, operand.axes.without(&[self.axis]));
        ids.with_axis(self.into).ok_or_else(|| {
            IrError::of("top_k", format!("{operand} has an axis named {} already", self.into.name))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let (size, k) = (context.size(self.axis)?, context.size(self.into)?);
        if size < k {
            return Err(IrError::Evaluate(format!("top_k: {k} of the {size} elements of {}", self.axis)));
        }
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let element = |id: usize| operands[0].at(&index.with(self.axis.name, id));
            let mut ids: Vec<usize> = (0..size).collect();
            // The sort is stable: among equals the lower id stays first.
            ids.sort_by(|&left, &right| {
                let (left, right) = (element(left), element(right));
                right.partial_cmp(&left).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
            });
            ids[index.get(self.into.name)] as f64
        }))
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Ok(vec![None])
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        operands.first().map_or(0.0, |ty| super::elements(ty, size))
    }

    fn attributes(&self) -> String {
        format!("along {} into {}", text::axis(self.axis), text::axis(self.into))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "top_k").then(|| {
            let axis = text.after("along", Reader::axis)?;
            Ok(Op::TopK(TopK { axis, into: text.after("into", Reader::axis)? }))
        })
    }
}
