//! `history(x, time→past)`: a value at every position so far. This op is what
//! makes training, prefill and decode one graph: with no cache it is a rename,
//! with one it appends and reads.

use super::{Linearity, Op, Operator, Rename};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, Graph, IrError, NodeId, Result, TensorType};

/// The value at every position so far, along `past`. `window` bounds how many
/// of the last positions are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct History {
    /// The sequence axis of the operand.
    pub time: Axis,
    /// The axis of the result.
    pub past: Axis,
    /// How many positions are kept, if not all.
    pub window: Option<usize>,
    /// Which of the program's caches it is: entries that are rewritten apart share what they name alike.
    pub room: usize,
}

impl Operator for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        Rename { from: self.time, to: self.past }.infer(operands).map_err(|_| {
            IrError::of("history", format!("needs an operand with {} and without {}", self.time, self.past))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        if context.size(self.time)? != context.size(self.past)? {
            return Err(IrError::Evaluate(format!(
                "history: without a cache, {} and {} are equal",
                self.time, self.past
            )));
        }
        Rename { from: self.time, to: self.past }.evaluate(operands, ty, context)
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        Rename { from: self.time, to: self.past }.gradient(graph, node, cotangent)
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        let window = self.window.map(|window| format!(" window {window}")).unwrap_or_default();
        format!("{} to {}{window} room {}", text::axis(self.time), text::axis(self.past), self.room)
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "history").then(|| {
            let (time, past) = (text.axis()?, text.after("to", Reader::axis)?);
            let window = if text.has_word("window") { Some(text.whole()?) } else { None };
            Ok(Op::History(History { time, past, window, room: text.after("room", Reader::whole)? }))
        })
    }
}
