//! `split` and `merge`: an axis cut into several, and several joined into one.
//! They move no data unless the layout must.

use super::{Linearity, Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axes, Axis, Graph, IrError, NodeId, Result, TensorType};

/// Cuts an axis into several whose sizes multiply to its own, the first slowest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Split {
    /// The axis to cut.
    pub axis: Axis,
    /// Its parts, slowest first.
    pub into: Vec<Axis>,
}

/// Joins axes into one, the first slowest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Merge {
    /// The axes to join, slowest first.
    pub axes: Vec<Axis>,
    /// The joined axis.
    pub into: Axis,
}

fn check(op: &str, whole: Axis, parts: &[Axis]) -> Result<()> {
    let product = parts.iter().try_fold(1usize, |product, part| product.checked_mul(part.fixed_size()?));
    if product.is_none() || product != whole.fixed_size() {
        return Err(IrError::of(
            op,
            format!("{whole} is not {parts:?}: the sizes must be fixed and multiply to it"),
        ));
    }
    Ok(())
}

fn one<'a>(op: &str, operands: &[&'a TensorType]) -> Result<&'a TensorType> {
    match operands {
        [operand] => Ok(operand),
        _ => Err(IrError::of(op, format!("takes 1 operand, but was given {}", operands.len()))),
    }
}

impl Operator for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let operand = one("split", operands)?;
        if !operand.axes.contains(self.axis) {
            return Err(IrError::of("split", format!("{operand} has no axis {}", self.axis)));
        }
        check("split", self.axis, &self.into)?;
        let kept = operand.axes.without(&[self.axis]);
        let axes = Axes::new(kept.iter().chain(&self.into).copied()).map_err(|(axis, _)| {
            IrError::of("split", format!("{operand} would have two axes named {}", axis.name))
        })?;
        Ok(TensorType::new(operand.dtype, axes))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let whole = self
                .into
                .iter()
                .fold(0, |whole, part| whole * part.fixed_size().unwrap_or(1) + index.get(part.name));
            operands[0].at(&index.with(self.axis.name, whole))
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if !self.into.iter().any(|part| graph.axes(cotangent).contains(*part)) {
            return Ok(vec![Some(cotangent)]);
        }
        let cotangent = super::spread(graph, cotangent, &self.into)?;
        Ok(vec![Some(graph.add(Merge { axes: self.into.clone(), into: self.axis }, &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        format!("{} into {}", text::axis(self.axis), text::list(&self.into, text::axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "split")
            .then(|| Ok(Op::Split(Split { axis: text.axis()?, into: text.after("into", Reader::axes)? })))
    }
}

impl Operator for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let operand = one("merge", operands)?;
        if let Some(axis) = self.axes.iter().find(|axis| !operand.axes.contains(**axis)) {
            return Err(IrError::of("merge", format!("{operand} has no axis {axis}")));
        }
        check("merge", self.into, &self.axes)?;
        let kept = operand.axes.without(&self.axes);
        let axes = Axes::new(kept.iter().copied().chain([self.into])).map_err(|(axis, _)| {
            IrError::of("merge", format!("{operand} would have two axes named {}", axis.name))
        })?;
        Ok(TensorType::new(operand.dtype, axes))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let (mut parts, mut whole) = (index.clone(), index.get(self.into.name));
            for part in self.axes.iter().rev() {
                let size = part.fixed_size().unwrap_or(1);
                parts.set(part.name, whole % size);
                whole /= size;
            }
            operands[0].at(&parts)
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if !graph.axes(cotangent).contains(self.into) {
            return Ok(vec![Some(cotangent)]);
        }
        Ok(vec![Some(graph.add(Split { axis: self.into, into: self.axes.clone() }, &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn attributes(&self) -> String {
        format!("{} into {}", text::list(&self.axes, text::axis), text::axis(self.into))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "merge")
            .then(|| Ok(Op::Merge(Merge { axes: text.axes()?, into: text.after("into", Reader::axis)? })))
    }
}
