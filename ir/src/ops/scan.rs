//! `scan(init, x, along time, step)`: a recurrence along a sequence axis. State
//! space models, linear attention and gated delta rules are this op. It knows
//! nothing of chunks; evaluation and types of the body are the program's business.

use super::{Op, Operator, Output, loop_results};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Program, RegionId, Result, TensorType};

/// Runs a region once for each position along `over`, in order. Operands: the
/// carried values as they start, then the sequenced ones (the body gets the
/// slice at its position, without the axis), then the invariant ones. Results:
/// the carried values after the last position, then what each position yields,
/// along `over`. A body that needs its position is given `index(over)` as a
/// sequenced operand.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Scan {
    /// The body.
    pub body: RegionId,
    /// The sequence axis.
    pub over: Axis,
    /// Whether the last position runs first.
    pub reverse: bool,
    /// How many operands are carried from position to position.
    pub carried: usize,
    /// How many operands are sliced along the axis.
    pub sequenced: usize,
    /// How many of the last results are carried values as they come in, one for
    /// each position, that only the [`Replay`]s of other scans read. A back end
    /// need not hold them all.
    pub kept: usize,
    /// How the states among the sequenced operands can be had again, if they are
    /// what another scan has kept.
    pub replay: Option<Replay>,
    /// Which of the program's recurrences it is: entries that are rewritten apart share the states of what they name alike.
    pub room: usize,
    /// Types of the results.
    pub results: Vec<TensorType>,
}

/// What a scan that walks the other way is told of the one whose states it
/// reads: from the states at some position, the body's runs give those after it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Replay {
    /// The body whose carried values are read.
    pub body: RegionId,
    /// How many values it carries. The operands given for these are sequenced,
    /// and hold each carried value as it comes in.
    pub carried: usize,
    /// For each argument of the body, the operand of this scan that it is
    /// given; none for one that no carried value depends on.
    pub operands: Vec<Option<usize>>,
}

impl Program {
    /// Adds to `parent` a scan of `body` along `over`, and returns one node for
    /// each result: the carried values at the end, then the yielded sequences.
    ///
    /// # Errors
    /// When arguments or carried results do not match the operands.
    pub fn add_scan(
        &mut self,
        parent: RegionId,
        body: RegionId,
        over: Axis,
        reverse: bool,
        carried: &[NodeId],
        sequenced: &[NodeId],
        invariant: &[NodeId],
    ) -> Result<Vec<NodeId>> {
        let operands: Vec<NodeId> = [carried, sequenced, invariant].concat();
        let graph = &self.region(parent).graph;
        let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
        let (carried, sequenced) = (carried.len(), sequenced.len());
        let results = loop_results("scan", self.region(body), over, carried, sequenced, &types)?;
        let count = results.len();
        let scans = self.regions.iter().flat_map(|region| {
            region.graph.ids().into_iter().filter_map(|id| match region.graph.op(id) {
                Op::Scan(scan) => Some(scan.room + 1),
                _ => None,
            })
        });
        let room = scans.max().unwrap_or(0);
        let scan = Scan { body, over, reverse, carried, sequenced, kept: 0, replay: None, room, results };
        let graph = &mut self.region_mut(parent).graph;
        let node = graph.add(scan, &operands)?;
        (0..count).map(|index| graph.add(Output { index }, &[node])).collect()
    }
}

impl Operator for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        if operands.len() < self.carried.saturating_add(self.sequenced) {
            let (carried, sequenced) = (self.carried, self.sequenced);
            let problem =
                format!("{} operands for {carried} carried and {sequenced} sequenced", operands.len());
            return Err(IrError::of("scan", problem));
        }
        Ok(TensorType::scalar(DType::F32))
    }

    fn evaluate(&self, _: &[&Value], _: &TensorType, _: &Context) -> Result<Value> {
        Err(IrError::Evaluate("a scan is evaluated within its program".into()))
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Err(IrError::of("scan", "is differentiated within its program"))
    }

    fn attributes(&self) -> String {
        let reverse = if self.reverse { " reverse" } else { "" };
        let (body, over) = (self.body.0, text::axis(self.over));
        let results: Vec<&TensorType> = self.results.iter().collect();
        let kept = if self.kept > 0 { format!(" kept {}", self.kept) } else { String::new() };
        let replay = self.replay.as_ref().map(|replay| {
            // Operands count from 1: 0 stands for none.
            let operands: Vec<usize> =
                replay.operands.iter().map(|operand| operand.map_or(0, |operand| operand + 1)).collect();
            let operands = text::list(&operands, |operand: usize| operand.to_string());
            format!(" replays @{} carried {} given {operands}", replay.body.0, replay.carried)
        });
        format!(
            "@{body} along {over}{reverse} carried {} sequenced {}{kept}{} room {} yields {}",
            self.carried,
            self.sequenced,
            replay.unwrap_or_default(),
            self.room,
            text::list(&results, text::ty)
        )
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "scan").then(|| {
            Ok(Op::Scan(Scan {
                body: text.region()?,
                over: text.after("along", Reader::axis)?,
                reverse: text.has_word("reverse"),
                carried: text.after("carried", Reader::whole)?,
                sequenced: text.after("sequenced", Reader::whole)?,
                kept: if text.has_word("kept") { text.whole()? } else { 0 },
                replay: if text.has_word("replays") { Some(parse_replay(text)?) } else { None },
                room: text.after("room", Reader::whole)?,
                results: text.after("yields", |text| text.list(Reader::ty))?,
            }))
        })
    }
}

fn parse_replay(text: &mut Reader) -> Result<Replay> {
    let body = text.region()?;
    let carried = text.after("carried", Reader::whole)?;
    let operands: Vec<usize> = text.after("given", |text| text.list(Reader::whole))?;
    Ok(Replay {
        body,
        carried,
        operands: operands.into_iter().map(|operand| operand.checked_sub(1)).collect(),
    })
}
