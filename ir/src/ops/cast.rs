//! `cast`: another element type. Rounding happens here and nowhere else.

use super::{Linearity, Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::Reader;
use crate::{DType, Graph, IrError, NodeId, Result, TensorType};

/// Changes the element type; to bf16, f16 and i8 it rounds to nearest, ties to even, as [`DType::round`] does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Cast(
    /// The type to give.
    pub DType,
);

impl Operator for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [operand] = operands else {
            return Err(IrError::of("cast", format!("takes 1 operand, but was given {}", operands.len())));
        };
        if self.0.is_float() || operand.dtype == self.0 || self.0 == DType::I8 && operand.dtype.is_float() {
            return Ok(TensorType::new(self.0, operand.axes.clone()));
        }
        let problem = format!("cannot turn {operand} into {}: only into floats, and floats into i8", self.0);
        Err(IrError::of("cast", problem))
    }

    fn evaluate(&self, operands: &[&Value], _: &TensorType, _: &Context) -> Result<Value> {
        let mut value = operands[0].clone();
        if self.0.is_narrow() {
            value.data.iter_mut().for_each(|x| *x = f64::from(self.0.round(*x as f32)));
        }
        Ok(value)
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if self.0 == DType::I8 {
            return Err(IrError::of("cast", "into i8 has no gradient: it is for serving, not for training"));
        }
        let dtype = graph.ty(graph.operands(node)[0]).dtype;
        // The gradient of a rounded value is kept as it is: it accumulates in f32.
        Ok(vec![dtype.is_float().then_some(cotangent)])
    }

    fn linearity(&self) -> Linearity {
        if self.0 == DType::F32 { Linearity::All } else { Linearity::None }
    }

    fn parse(name: &str, _: &mut Reader, ty: &TensorType) -> Option<Result<Op>> {
        (name == "cast").then_some(Ok(Op::Cast(Cast(ty.dtype))))
    }
}
