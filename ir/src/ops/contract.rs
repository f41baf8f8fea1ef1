//! `contract(xs…, over)`: the product of any number of operands, summed over
//! named axes. Matrix products, attention scores and their gradients are all
//! this op. It knows nothing of tiles or orders of evaluation.

use super::map::union;
use super::{Cast, Linearity, Op, Operator};
use crate::evaluate::{Context, Value, for_each_index};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// Product of the operands, summed over `over`. The sum walks the axes in this
/// order, the last fastest, and accumulates in f32.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Contract {
    /// The summed axes, outermost first.
    pub over: Vec<Axis>,
}

impl Operator for Contract {
    fn name(&self) -> &'static str {
        "contract"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        if operands.is_empty() {
            return Err(IrError::of("contract", "takes at least one operand"));
        }
        if let Some(other) = operands.iter().find(|ty| !(ty.dtype.is_float() || ty.dtype == DType::I8)) {
            return Err(IrError::of("contract", format!("multiplies floats or i8, but was given {other}")));
        }
        let axes = union("contract", operands)?;
        for (position, axis) in self.over.iter().enumerate() {
            if !axes.contains(*axis) || self.over[..position].contains(axis) {
                return Err(IrError::of(
                    "contract",
                    format!("cannot sum over {axis}: the operands have {axes}, each to be summed once"),
                ));
            }
        }
        Ok(TensorType::new(DType::F32, axes.without(&self.over)))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let over =
            self.over.iter().map(|&axis| Ok((axis.name, context.size(axis)?))).collect::<Result<Vec<_>>>()?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            // A sum over no axis is its only term, -0 too.
            let mut sum = if over.is_empty() { -0.0 } else { 0.0 };
            for_each_index(&over, &mut index.clone(), &mut |index| {
                sum += operands.iter().map(|operand| operand.at(index)).product::<f64>();
            });
            sum
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let operands = graph.operands(node);
        if operands.len() == 1 {
            return Ok(vec![Some(cotangent)]);
        }
        let cotangent = rounded_as(graph, &operands, cotangent)?;
        let mut gradients = Vec::with_capacity(operands.len());
        for position in 0..operands.len() {
            let mut factors = vec![cotangent];
            factors.extend(
                operands.iter().enumerate().filter(|(other, _)| *other != position).map(|(_, &id)| id),
            );
            let types: Vec<&TensorType> = factors.iter().map(|&factor| graph.ty(factor)).collect();
            let axes = union("contract", &types)?;
            let over = graph.ordered(axes.without(graph.axes(operands[position])).iter().copied());
            // An axis that only this operand has and that is summed is spread again by whoever adds the gradients.
            gradients.push(Some(graph.add(Contract { over }, &factors)?));
        }
        Ok(gradients)
    }

    fn linearity(&self) -> Linearity {
        Linearity::Each
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        let axes = union("contract", operands).unwrap_or_default();
        let points: f64 = axes.iter().map(|&axis| size(axis)).product();
        points * operands.len().max(2) as f64
    }

    fn attributes(&self) -> String {
        format!("over {}", text::list(&self.over, text::axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "contract")
            .then(|| text.after("over", Reader::axes).map(|over| Op::Contract(Contract { over })))
    }
}

/// The cotangent of a product as its gradients multiply it: where numbers of the product are rounded to bf16, so is its
/// cotangent, and gradients are products of bf16 as well. Sums of gradients stay in f32. It is not so for f16, whose range is
/// too small for cotangents.
fn rounded_as(graph: &mut Graph, operands: &[NodeId], cotangent: NodeId) -> Result<NodeId> {
    match operands.iter().any(|&operand| graph.ty(operand).dtype == DType::BF16) {
        true => graph.add(Cast(DType::BF16), &[cotangent]),
        false => Ok(cotangent),
    }
}
