//! `take` and `put_add`: a gather along an axis, and its adjoint.

use super::{Linearity, Map, Op, Operator, ScalarFn};
use crate::evaluate::{Context, Value, for_each_index};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// `take(table, ids)`: for each id, the table's slice there. Axes that table
/// and ids share are walked together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Take {
    /// The table's axis that ids point along.
    pub axis: Axis,
}

/// `put_add(ids, values…)`: zeros over `axis` and the axes of the values that
/// are not in `over`, to which each value (the product of the operands, where
/// there are several) is added at its id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PutAdd {
    /// The axis that ids point along.
    pub axis: Axis,
    /// The axes of the ids that are summed over, outermost first.
    pub over: Vec<Axis>,
}

fn check_ids(op: &str, ids: &Value, axis: Axis, context: &Context) -> Result<()> {
    let size = context.size(axis)?;
    match ids.data.iter().find(|&&id| id < 0.0 || id >= size as f64) {
        Some(id) => Err(IrError::Evaluate(format!("{op}: id {id} is outside of the axis {axis}"))),
        None => Ok(()),
    }
}

impl Operator for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let [table, ids] = operands else {
            return Err(IrError::of(
                "take",
                format!("takes a table and ids, but was given {} operands", operands.len()),
            ));
        };
        if !table.axes.contains(self.axis) {
            return Err(IrError::of("take", format!("the table {table} has no axis {}", self.axis)));
        }
        if ids.dtype != DType::I32 || ids.axes.get(self.axis.name).is_some() {
            return Err(IrError::of(
                "take",
                format!("ids must be i32 without the axis {}, not {ids}", self.axis),
            ));
        }
        let axes = super::map::union("take", &[&table.without_axis(self.axis), ids])?;
        Ok(TensorType::new(table.dtype, axes))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        check_ids("take", operands[1], self.axis, context)?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            operands[0].at(&index.with(self.axis.name, operands[1].at(index) as usize))
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let [table, ids] = graph.operands(node)[..] else { return Ok(Vec::new()) };
        let over = graph.ordered(graph.axes(ids).without(graph.axes(table)).iter().copied());
        let put = graph.add(PutAdd { axis: self.axis, over }, &[ids, cotangent])?;
        Ok(vec![Some(put), None])
    }

    fn linearity(&self) -> Linearity {
        Linearity::In(&[0])
    }

    fn attributes(&self) -> String {
        format!("along {}", text::axis(self.axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "take").then(|| text.after("along", Reader::axis).map(|axis| Op::Take(Take { axis })))
    }
}

impl Operator for PutAdd {
    fn name(&self) -> &'static str {
        "put_add"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let (Some(ids), values @ [first, ..]) = (operands.first(), operands.get(1..).unwrap_or_default())
        else {
            return Err(IrError::of(
                "put_add",
                format!("takes ids and values, but was given {} operands", operands.len()),
            ));
        };
        let wrong = values.iter().find(|values| !values.dtype.is_float());
        if ids.dtype != DType::I32 || wrong.is_some() {
            let values = wrong.unwrap_or(first);
            return Err(IrError::of(
                "put_add",
                format!("takes i32 ids and float values, not {ids} and {values}"),
            ));
        }
        let axes = super::map::union("put_add", operands)?;
        if let Some(axis) = self.over.iter().find(|axis| !ids.axes.contains(**axis)) {
            return Err(IrError::of("put_add", format!("cannot sum over {axis}: the ids are {ids}")));
        }
        let ty = TensorType::new(DType::F32, axes.without(&self.over));
        ty.with_axis(self.axis).ok_or_else(|| {
            IrError::of("put_add", format!("{ty} has an axis named {} already", self.axis.name))
        })
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        check_ids("put_add", operands[0], self.axis, context)?;
        let mut result = Value::build(context.shape(&ty.axes)?, |_| 0.0);
        let mut axes = Vec::new();
        for operand in operands {
            axes.extend(
                operand.axes.iter().filter(|axis| !axes.contains(*axis)).copied().collect::<Vec<_>>(),
            );
        }
        for_each_index(&axes, &mut Default::default(), &mut |index| {
            let target = index.with(self.axis.name, operands[0].at(index) as usize);
            let offset = result.offset(&target);
            result.data[offset] += operands[1..].iter().map(|values| values.at(index)).product::<f64>();
        });
        Ok(result)
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let operands = graph.operands(node);
        let ids = operands[0];
        let part = match graph.axes(cotangent).contains(self.axis) {
            true => graph.add(Take { axis: self.axis }, &[cotangent, ids])?,
            false => cotangent,
        };
        let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
        let all = super::map::union("put_add", &types)?;
        let mut gradients = vec![None];
        for position in 1..operands.len() {
            let mut product = part;
            for (_, &other) in operands.iter().enumerate().skip(1).filter(|(other, _)| *other != position) {
                product = graph.add(Map(ScalarFn::Mul), &[product, other])?;
            }
            let wanted = graph.axes(operands[position]).clone();
            gradients.push(Some(super::sum_to(graph, product, &all, &wanted)?));
        }
        Ok(gradients)
    }

    fn linearity(&self) -> Linearity {
        Linearity::In(&[1])
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        let axes = super::map::union("put_add", operands).unwrap_or_default();
        let points: f64 = axes.iter().map(|&axis| size(axis)).product();
        points * operands.len().saturating_sub(1) as f64
    }

    fn attributes(&self) -> String {
        format!("along {} over {}", text::axis(self.axis), text::list(&self.over, text::axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "put_add").then(|| {
            let axis = text.after("along", Reader::axis)?;
            Ok(Op::PutAdd(PutAdd { axis, over: text.after("over", Reader::axes)? }))
        })
    }
}
