//! `concat`: operands one after the other along an axis.

use super::{Linearity, Op, Operator, Slice};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axes, Axis, Graph, IrError, NodeId, Result, TensorType};

/// Operand `i` fills the next stretch of `into`, as long as `pieces[i]`. An
/// operand without that axis has the same value all along its stretch.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Concat {
    /// The operands' axes; their sizes are fixed.
    pub pieces: Vec<Axis>,
    /// The axis of the result.
    pub into: Axis,
}

impl Concat {
    /// Where each piece starts along the result's axis, in elements.
    pub fn starts(&self) -> Vec<usize> {
        let sizes = self.pieces.iter().map(|piece| piece.fixed_size().unwrap_or(0));
        sizes.scan(0, |start, size| Some(std::mem::replace(start, *start + size))).collect()
    }
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        if operands.len() != self.pieces.len() || operands.is_empty() {
            let problem = format!("{} pieces, but {} operands", self.pieces.len(), operands.len());
            return Err(IrError::of("concat", problem));
        }
        let total =
            self.pieces.iter().try_fold(0usize, |total, piece| total.checked_add(piece.fixed_size()?));
        if total.is_none() || total != self.into.fixed_size() {
            return Err(IrError::of("concat", format!("{:?} do not add up to {}", self.pieces, self.into)));
        }
        let dtype = operands[0].dtype;
        let mut axes = Axes::none();
        for (operand, &piece) in operands.iter().zip(&self.pieces) {
            if operand.dtype != dtype {
                return Err(IrError::of("concat", format!("operands must be of one type, not {operands:?}")));
            }
            if let Some(own) = operand.axes.get(piece.name).filter(|&own| own != piece) {
                let problem = format!("{operand} has an axis {own}, which is not the piece {piece}");
                return Err(IrError::of("concat", problem));
            }
            let rest = operand.axes.without(&[piece]);
            axes = axes.union(&rest).map_err(|(left, right)| {
                IrError::of(
                    "concat",
                    format!("axis {left} in one operand and {right} in another: {operands:?}"),
                )
            })?;
        }
        let ty = TensorType::new(dtype, axes);
        ty.with_axis(self.into).ok_or_else(|| {
            IrError::of("concat", format!("{ty} has an axis named {} already", self.into.name))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let starts = self.starts();
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let position = index.get(self.into.name);
            let piece = starts.iter().rposition(|&start| start <= position).unwrap_or(0);
            operands[piece].at(&index.with(self.pieces[piece].name, position - starts[piece]))
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let operands = graph.operands(node);
        let constant = !graph.axes(cotangent).contains(self.into);
        let rest = graph.ty(node).without_axis(self.into);
        let parts =
            self.starts().into_iter().zip(&self.pieces).zip(operands).map(|((start, &piece), operand)| {
                let part = match constant {
                    true => cotangent,
                    false => graph.add(Slice { axis: self.into, start, into: piece }, &[cotangent])?,
                };
                let axes = graph.axes(operand).clone();
                let whole = rest.with_axis(piece).ok_or_else(|| {
                    let problem = format!("no gradient: {rest} has an axis named {} already", piece.name);
                    IrError::of("concat", problem)
                })?;
                super::sum_to(graph, part, &whole.axes, &axes).map(Some)
            });
        parts.collect()
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        format!("{} into {}", text::list(&self.pieces, text::axis), text::axis(self.into))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "concat")
            .then(|| Ok(Op::Concat(Concat { pieces: text.axes()?, into: text.after("into", Reader::axis)? })))
    }
}
