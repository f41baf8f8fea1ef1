//! `all_to_all`: changes which axis is cut over the ranks of a mesh axis, as
//! expert dispatch and sequence-parallel attention need. See `collective.rs` for
//! what a mesh axis means.

use super::collective::{check_pieces, exchange, one_over};
use super::{Linearity, Op, Operator, spread};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, Graph, NodeId, Result, TensorType};

/// Each rank cuts its `cut` axis into one `part` a rank and sends part `r` to
/// rank `r`, which puts what it gets one after the other, by sender, along
/// `joined`: `y[r, part: i, joined: q * piece + j] = x[q, cut: r * part + i, piece: j]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllToAll {
    /// The mesh axis.
    pub mesh: Axis,
    /// The axis that is whole before; its size is fixed.
    pub cut: Axis,
    /// What is left of it on a rank. It may keep the name.
    pub part: Axis,
    /// The axis that is in pieces before; its size is fixed.
    pub piece: Axis,
    /// Its whole. It may keep the name.
    pub joined: Axis,
}

impl AllToAll {
    /// The exchange that undoes this one.
    pub fn back(self) -> AllToAll {
        AllToAll { mesh: self.mesh, cut: self.joined, part: self.piece, piece: self.part, joined: self.cut }
    }
}

impl Operator for AllToAll {
    fn name(&self) -> &'static str {
        "all_to_all"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let (operand, ranks) = one_over("all_to_all", self.mesh, operands)?;
        check_pieces("all_to_all", ranks, self.part, self.cut)?;
        check_pieces("all_to_all", ranks, self.piece, self.joined)?;
        let cut = exchange("all_to_all", operand, self.cut, self.part)?;
        exchange("all_to_all", &cut, self.piece, self.joined)
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let (part, piece) = (context.size(self.part)?, context.size(self.piece)?);
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let (rank, joined) = (index.get(self.mesh.name), index.get(self.joined.name));
            let cut = rank * part + index.get(self.part.name);
            let source = index.with(self.mesh.name, joined / piece);
            operands[0].at(&source.with(self.cut.name, cut).with(self.piece.name, joined % piece))
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let cotangent = spread(graph, cotangent, &[self.mesh, self.part, self.joined])?;
        Ok(vec![Some(graph.add(self.back(), &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        let [mesh, cut, part] = [self.mesh, self.cut, self.part].map(text::axis);
        let [piece, joined] = [self.piece, self.joined].map(text::axis);
        format!("over {mesh} cut {cut} into {part} join {piece} into {joined}")
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "all_to_all").then(|| {
            let mesh = text.after("over", Reader::axis)?;
            let cut = text.after("cut", Reader::axis)?;
            let part = text.after("into", Reader::axis)?;
            let piece = text.after("join", Reader::axis)?;
            let joined = text.after("into", Reader::axis)?;
            Ok(Op::AllToAll(AllToAll { mesh, cut, part, piece, joined }))
        })
    }
}
