//! `send` and `receive`: a shift along a mesh axis, as pipelines and rings need.
//! They are two ops so that work can be scheduled between them. See
//! `collective.rs` for what a mesh axis means.

use super::collective::one_over;
use super::{Linearity, Op, Operator, spread};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, Graph, NodeId, Result, TensorType};

/// Starts sending each rank's value to the rank `shift` further along the mesh
/// axis. Its value is in flight: only `receive` may take it. A rank to which
/// nobody sends (never in a ring) receives zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Send {
    /// The mesh axis; its size is fixed.
    pub mesh: Axis,
    /// How many ranks further, or back if negative.
    pub shift: i64,
    /// Whether the first rank comes after the last.
    pub ring: bool,
}

/// Waits for what its operand, a `send`, has sent to each rank.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Receive {
    /// The mesh axis.
    pub mesh: Axis,
}

impl Send {
    /// The rank that sends to this one, if any does.
    pub fn source(self, rank: usize, ranks: usize) -> Option<usize> {
        let (rank, ranks) = (rank as i128, ranks as i128);
        let source = rank - i128::from(self.shift);
        match self.ring {
            true if ranks > 0 => Some(source.rem_euclid(ranks) as usize),
            _ => (0..ranks).contains(&source).then_some(source as usize),
        }
    }
}

impl Operator for Send {
    fn name(&self) -> &'static str {
        "send"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        Ok(one_over("send", self.mesh, operands)?.0.clone())
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let ranks = context.size(self.mesh)?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let source = self.source(index.get(self.mesh.name), ranks);
            source.map_or(0.0, |rank| operands[0].at(&index.with(self.mesh.name, rank)))
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let cotangent = spread(graph, cotangent, &[self.mesh])?;
        let back = Send { shift: self.shift.saturating_neg(), ..*self };
        let sent = graph.add(back, &[cotangent])?;
        Ok(vec![Some(graph.add(Receive { mesh: self.mesh }, &[sent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        let ring = if self.ring { " ring" } else { "" };
        format!("over {} by {}{ring}", text::axis(self.mesh), self.shift)
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "send").then(|| {
            let mesh = text.after("over", Reader::axis)?;
            let shift = text.after("by", Reader::whole)?;
            Ok(Op::Send(Send { mesh, shift, ring: text.has_word("ring") }))
        })
    }
}

impl Operator for Receive {
    fn name(&self) -> &'static str {
        "receive"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        Ok(one_over("receive", self.mesh, operands)?.0.clone())
    }

    fn evaluate(&self, operands: &[&Value], _: &TensorType, _: &Context) -> Result<Value> {
        Ok(operands[0].clone())
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        // The send that it waits for sends the gradient back.
        Ok(vec![Some(cotangent)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        format!("over {}", text::axis(self.mesh))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "receive")
            .then(|| text.after("over", Reader::axis).map(|mesh| Op::Receive(Receive { mesh })))
    }
}
