//! `all_reduce`, `all_gather` and `reduce_scatter`: collectives over an axis of
//! the device mesh. They know no device, no message size and no algorithm.
//!
//! A mesh axis is an ordinary axis of a type, of fixed size: position `r` along
//! it is what rank `r` holds. A value *without* the axis is the same on every
//! rank. A rank computes on its own position only, so every op but a collective
//! keeps the mesh axes that its operands have; a value is *partial* when its sum
//! over the mesh axis is what is meant. `index(mesh)` is a rank's number, and a
//! `split` into a mesh axis costs no message: each rank keeps its own part.
//!
//! Adjoints, for the inner product over all axes, mesh axes included:
//!
//! | op | adjoint |
//! |---|---|
//! | `all_reduce` (sum) | none to send: every rank has the cotangent already |
//! | `all_gather` | `split`; after an `all_reduce` of the cotangent, a `reduce_scatter` |
//! | `reduce_scatter` | `all_gather` |
//! | `all_to_all` | the `all_to_all` back |
//! | `send` and `receive` | the same in the other direction |

use super::{Linearity, Literal, Map, Op, Operator, ReduceKind, ScalarFn, Split, elements, spread};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// Sum or maximum over the ranks of a mesh axis; every rank gets the result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllReduce {
    /// The mesh axis.
    pub mesh: Axis,
    /// How ranks' elements are combined.
    pub kind: ReduceKind,
}

/// The ranks' pieces one after the other, on every rank: element `i` of rank `r`
/// becomes element `r * piece + i`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllGather {
    /// The mesh axis.
    pub mesh: Axis,
    /// The axis of a rank's piece; its size is fixed.
    pub piece: Axis,
    /// The axis of the whole, as long as all pieces. It may keep the name.
    pub whole: Axis,
}

/// Sum over the ranks of a mesh axis, of which rank `r` gets piece `r`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReduceScatter {
    /// The mesh axis.
    pub mesh: Axis,
    /// The axis of the whole, as long as all pieces.
    pub whole: Axis,
    /// The axis of a rank's piece; its size is fixed. It may keep the name.
    pub piece: Axis,
}

/// The only operand, which must vary along the mesh axis, and the ranks of that axis.
pub(super) fn one_over<'a>(
    op: &str,
    mesh: Axis,
    operands: &[&'a TensorType],
) -> Result<(&'a TensorType, usize)> {
    let [operand] = operands else {
        return Err(IrError::of(op, format!("takes 1 operand, but was given {}", operands.len())));
    };
    let Some(ranks) = mesh.fixed_size() else {
        return Err(IrError::of(op, format!("the mesh axis {mesh} must have a fixed size")));
    };
    if !operand.axes.contains(mesh) {
        return Err(IrError::of(op, format!("{operand} is the same on every rank of {mesh}: nothing to do")));
    }
    Ok((operand, ranks))
}

/// This type with one axis in the place of another.
pub(super) fn exchange(op: &str, ty: &TensorType, from: Axis, to: Axis) -> Result<TensorType> {
    if !ty.axes.contains(from) {
        return Err(IrError::of(op, format!("{ty} has no axis {from}")));
    }
    ty.without_axis(from)
        .with_axis(to)
        .ok_or_else(|| IrError::of(op, format!("{ty} has an axis named {} already", to.name)))
}

/// Checks that a whole axis is cut into one piece for each rank.
pub(super) fn check_pieces(op: &str, ranks: usize, piece: Axis, whole: Axis) -> Result<()> {
    let pieces = piece.fixed_size().and_then(|size| size.checked_mul(ranks));
    if pieces.is_some() && pieces == whole.fixed_size() {
        return Ok(());
    }
    Err(IrError::of(
        op,
        format!("{ranks} pieces of {piece} do not make {whole}: sizes are fixed and multiply"),
    ))
}

fn floats(op: &str, ty: &TensorType) -> Result<()> {
    if ty.dtype.is_float() {
        Ok(())
    } else {
        Err(IrError::of(op, format!("takes floats, but was given {ty}")))
    }
}

impl Operator for AllReduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "all_reduce_sum",
            ReduceKind::Max => "all_reduce_max",
        }
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let (operand, _) = one_over(self.name(), self.mesh, operands)?;
        floats(self.name(), operand)?;
        Ok(TensorType::new(DType::F32, operand.axes.without(&[self.mesh])))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let ranks = context.size(self.mesh)?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let all = (0..ranks).map(|rank| operands[0].at(&index.with(self.mesh.name, rank)));
            match self.kind {
                ReduceKind::Sum => all.sum(),
                ReduceKind::Max => all.fold(f64::NEG_INFINITY, |most, x| if x > most { x } else { most }),
            }
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if self.kind == ReduceKind::Sum {
            // That the gradient is the same on every rank is implied by the operand's type.
            return Ok(vec![Some(cotangent)]);
        }
        let operand = graph.operands(node)[0];
        let zero = graph.add(Literal::scalar(DType::F32, 0.0), &[])?;
        let largest = graph.add(Map(ScalarFn::Equal), &[operand, node])?;
        Ok(vec![Some(graph.add(Map(ScalarFn::Select), &[largest, cotangent, zero])?)])
    }

    fn linearity(&self) -> Linearity {
        if self.kind == ReduceKind::Sum { Linearity::All } else { Linearity::None }
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        operands.first().map_or(0.0, |ty| elements(ty, size))
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        format!("over {}", text::axis(self.mesh))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        let kind = match name {
            "all_reduce_sum" => ReduceKind::Sum,
            "all_reduce_max" => ReduceKind::Max,
            _ => return None,
        };
        Some(text.after("over", Reader::axis).map(|mesh| Op::AllReduce(AllReduce { mesh, kind })))
    }
}

impl Operator for AllGather {
    fn name(&self) -> &'static str {
        "all_gather"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let (operand, ranks) = one_over("all_gather", self.mesh, operands)?;
        check_pieces("all_gather", ranks, self.piece, self.whole)?;
        exchange("all_gather", &operand.without_axis(self.mesh), self.piece, self.whole)
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let piece = context.size(self.piece)?;
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let whole = index.get(self.whole.name);
            let source = index.with(self.mesh.name, whole / piece).with(self.piece.name, whole % piece);
            operands[0].at(&source)
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        if !graph.axes(cotangent).contains(self.whole) {
            return Ok(vec![Some(cotangent)]);
        }
        let split = Split { axis: self.whole, into: vec![self.mesh, self.piece] };
        Ok(vec![Some(graph.add(split, &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        let [mesh, piece, whole] = [self.mesh, self.piece, self.whole].map(text::axis);
        format!("over {mesh} from {piece} into {whole}")
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "all_gather").then(|| {
            let mesh = text.after("over", Reader::axis)?;
            let piece = text.after("from", Reader::axis)?;
            Ok(Op::AllGather(AllGather { mesh, piece, whole: text.after("into", Reader::axis)? }))
        })
    }
}

impl Operator for ReduceScatter {
    fn name(&self) -> &'static str {
        "reduce_scatter"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let (operand, ranks) = one_over("reduce_scatter", self.mesh, operands)?;
        floats("reduce_scatter", operand)?;
        check_pieces("reduce_scatter", ranks, self.piece, self.whole)?;
        let ty = exchange("reduce_scatter", operand, self.whole, self.piece)?;
        Ok(TensorType::new(DType::F32, ty.axes))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let (ranks, piece) = (context.size(self.mesh)?, context.size(self.piece)?);
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            let whole = index.get(self.mesh.name) * piece + index.get(self.piece.name);
            let index = index.with(self.whole.name, whole);
            (0..ranks).map(|rank| operands[0].at(&index.with(self.mesh.name, rank))).sum()
        }))
    }

    fn gradient(&self, graph: &mut Graph, _: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let cotangent = spread(graph, cotangent, &[self.mesh, self.piece])?;
        let gather = AllGather { mesh: self.mesh, piece: self.piece, whole: self.whole };
        Ok(vec![Some(graph.add(gather, &[cotangent])?)])
    }

    fn linearity(&self) -> Linearity {
        Linearity::All
    }

    fn flops(&self, operands: &[&TensorType], _: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        operands.first().map_or(0.0, |ty| elements(ty, size))
    }

    fn mesh(&self) -> Option<Axis> {
        Some(self.mesh)
    }

    fn attributes(&self) -> String {
        let [mesh, whole, piece] = [self.mesh, self.whole, self.piece].map(text::axis);
        format!("over {mesh} from {whole} into {piece}")
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "reduce_scatter").then(|| {
            let mesh = text.after("over", Reader::axis)?;
            let whole = text.after("from", Reader::axis)?;
            Ok(Op::ReduceScatter(ReduceScatter { mesh, whole, piece: text.after("into", Reader::axis)? }))
        })
    }
}
