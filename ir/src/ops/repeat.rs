//! `repeat(region, layers)`: a stack of equal blocks, compiled once whatever
//! the depth. Evaluation and types of the body are the program's business.

use super::{Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, RegionId, Result, TensorType};

/// Runs a region once for each layer. Operands: the carried values, then the
/// stacked ones (a slice each layer), then the invariant ones. Results: the
/// carried values, then what each layer yields, stacked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Repeat {
    /// The body.
    pub body: RegionId,
    /// The axis that counts layers.
    pub layers: Axis,
    /// Whether the last layer runs first.
    pub reverse: bool,
    /// How many operands are carried from layer to layer.
    pub carried: usize,
    /// How many operands are stacked.
    pub stacked: usize,
    /// Types of the results.
    pub results: Vec<TensorType>,
}

/// One of the results of a repeat or a scan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Output {
    /// Position among the results.
    pub index: usize,
}

impl Operator for Repeat {
    fn name(&self) -> &'static str {
        "repeat"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        if operands.len() < self.carried.saturating_add(self.stacked) {
            let (carried, stacked) = (self.carried, self.stacked);
            return Err(IrError::of(
                "repeat",
                format!("{} operands for {carried} carried and {stacked} stacked", operands.len()),
            ));
        }
        Ok(TensorType::scalar(DType::F32))
    }

    fn evaluate(&self, _: &[&Value], _: &TensorType, _: &Context) -> Result<Value> {
        Err(IrError::Evaluate("a repeat is evaluated within its program".into()))
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Err(IrError::of("repeat", "is differentiated within its program"))
    }

    fn attributes(&self) -> String {
        let reverse = if self.reverse { " reverse" } else { "" };
        let (body, layers) = (self.body.0, text::axis(self.layers));
        let results: Vec<&TensorType> = self.results.iter().collect();
        format!(
            "@{body} over {layers}{reverse} carried {} stacked {} yields {}",
            self.carried,
            self.stacked,
            text::list(&results, text::ty)
        )
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "repeat").then(|| {
            Ok(Op::Repeat(Repeat {
                body: text.region()?,
                layers: text.after("over", Reader::axis)?,
                reverse: text.has_word("reverse"),
                carried: text.after("carried", Reader::whole)?,
                stacked: text.after("stacked", Reader::whole)?,
                results: text.after("yields", |text| text.list(Reader::ty))?,
            }))
        })
    }
}

impl Operator for Output {
    fn name(&self) -> &'static str {
        "output"
    }

    fn infer(&self, _: &[&TensorType]) -> Result<TensorType> {
        Err(IrError::of("output", "has the type that its loop says"))
    }

    fn evaluate(&self, _: &[&Value], _: &TensorType, _: &Context) -> Result<Value> {
        Err(IrError::Evaluate("an output is evaluated with its loop".into()))
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Err(IrError::of("output", "is differentiated within its program"))
    }

    fn attributes(&self) -> String {
        self.index.to_string()
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "output").then(|| Ok(Op::Output(Output { index: text.whole()? })))
    }
}
