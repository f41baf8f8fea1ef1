//! `round_blocks(x, over)`: activations as 8-bit integers with a scale for each block of 32, which is what
//! contractions with weights in blocks multiply. It knows nothing of weights.

use super::{Op, Operator, elements};
use crate::blocks::{BLOCK, activation_scale};
use crate::evaluate::{Context, Value, for_each_index};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// The elements over these axes, in order (the last fastest), are cut into blocks of 32. Each block has the f32
/// scale `largest magnitude / 127`, and its elements become that scale times the integer nearest to
/// `x * (127 / largest magnitude)`, the even one of two that are as near.
///
/// A contraction of such a value with a weight in blocks sums within each block of the weight exactly, in integers, and
/// over blocks in order by one chain of f32 fused multiply-adds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RoundBlocks {
    /// The axes along which blocks lie, outermost first.
    pub over: Vec<Axis>,
}

impl Operator for RoundBlocks {
    fn name(&self) -> &'static str {
        "round_blocks"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let error = |problem: String| Err(IrError::of("round_blocks", problem));
        let [operand] = operands else {
            return error(format!("takes 1 operand, but was given {}", operands.len()));
        };
        if operand.dtype != DType::F32 {
            return error(format!("rounds f32, but was given {operand}"));
        }
        for (position, axis) in self.over.iter().enumerate() {
            if !operand.axes.contains(*axis) || self.over[..position].contains(axis) {
                return error(format!("no axis {axis} in {operand}"));
            }
        }
        match self.over.iter().map(|axis| axis.fixed_size()).product::<Option<usize>>() {
            Some(depth) if depth > 0 && depth.is_multiple_of(BLOCK) => Ok((*operand).clone()),
            Some(depth) => error(format!("needs whole blocks of {BLOCK} elements, not {depth}")),
            None => error(format!("needs axes of fixed size, not {:?}", self.over)),
        }
    }

    fn evaluate(&self, operands: &[&Value], _: &TensorType, context: &Context) -> Result<Value> {
        let over =
            self.over.iter().map(|&axis| Ok((axis.name, context.size(axis)?))).collect::<Result<Vec<_>>>()?;
        let x = operands[0];
        let mut rounded = x.clone();
        let kept: Vec<_> = x.axes.iter().copied().filter(|axis| !over.contains(axis)).collect();
        for_each_index(&kept, &mut Default::default(), &mut |row| {
            let mut places = Vec::new();
            for_each_index(&over, &mut row.clone(), &mut |index| places.push(x.offset(index)));
            for block in places.chunks(BLOCK) {
                let sizes = block.iter().map(|&place| (x.data[place] as f32).abs());
                // What is no number makes the block none.
                let largest =
                    sizes.fold(0.0_f32, |most, size| if most.is_nan() || size <= most { most } else { size });
                let (scale, inverse) = activation_scale(largest);
                for &place in block {
                    let whole = (x.data[place] as f32 * inverse).round_ties_even();
                    rounded.data[place] = f64::from(whole) * f64::from(scale);
                }
            }
        });
        Ok(rounded)
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Err(IrError::of(
            "round_blocks",
            "has no gradient: weights in blocks are for serving, not for training",
        ))
    }

    fn flops(&self, _: &[&TensorType], ty: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        2.0 * elements(ty, size)
    }

    fn attributes(&self) -> String {
        format!("over {}", text::list(&self.over, text::axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "round_blocks")
            .then(|| text.after("over", Reader::axes).map(|over| Op::RoundBlocks(RoundBlocks { over })))
    }
}
