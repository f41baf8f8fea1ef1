//! The entries of a model, from its logits: what is asked of the one graph when
//! training, scoring and serving. Gradients and updates are a pass's business.

use crate::{ModelBuilder, ModelError, Result, Tensor};
use diptych_ir::ops::Take;
use diptych_ir::{Axis, DType, Entry, EntryKind, Graph, IrError, NodeId, Op, Symbol};
use std::collections::HashMap;

/// Adds the roots of `score`, `train`, `prefill` and `decode`. The loss of `train` is the
/// cross-entropy and what the model adds to it, which is a root of its own, `auxiliary_loss`, if
/// there is any.
///
/// # Errors
/// When the logits are not f32[batch, time, one more axis].
pub(crate) fn define<'m>(m: &'m ModelBuilder, logits: Tensor<'m>) -> Result<Vec<Entry>> {
    let (batch, time) = (m.batch(), m.time());
    let none =
        || IrError::of("finish", "the model returned no logits: they are not of this builder's main region");
    let ty = logits.ty().ok_or_else(none)?;
    let rest = ty.axes.without(&[batch, time]);
    let (&[vocab], DType::F32, 3) = (&rest[..], ty.dtype, ty.axes.len()) else {
        let problem = format!("a model returns logits f32[batch, time, vocabulary], not {ty}");
        return Err(IrError::of("finish", problem).into());
    };
    let targets = m.input("targets", DType::I32, [batch, time]);
    let log_prob = targets.less(0.0).select(0.0, logits.log_softmax_at(targets, vocab));
    let cross_entropy = -log_prob.sum([batch, time]) * m.inverse_tokens();
    let auxiliary = m.added_to_loss()?;
    let loss = auxiliary.map_or(cross_entropy, |auxiliary| cross_entropy + auxiliary);
    let last = m.input("last", DType::I32, batch);
    let nodes = [logits, log_prob, loss, last].map(|tensor| tensor.place().map(|place| place.1));
    let [Some(logits), Some(log_prob), Some(loss), Some(last)] = nodes else { return Err(none().into()) };

    let mut training = vec![("loss", loss), ("log_prob", log_prob)];
    training.extend(auxiliary.and_then(Tensor::place).map(|place| ("auxiliary_loss", place.1)));

    let state = &mut *m.state.borrow_mut();
    let at_last = at_position(&mut state.program.main_mut().graph, logits, last, time, batch)?;
    let entry = |kind, roots: &[(&str, NodeId)]| Entry {
        kind,
        roots: roots.iter().map(|&(name, node)| (Symbol::new(name), node)).collect(),
        updates: Vec::new(),
    };
    Ok(vec![
        entry(EntryKind::Train, &training),
        entry(EntryKind::Score, &[("log_prob", log_prob)]),
        entry(EntryKind::Prefill, &[("logits", at_last)]),
        entry(EntryKind::Decode, &[("logits", at_last)]),
    ])
}

/// The value of `root` at one position of each sequence: `take(root, ids,
/// time)`, with the `take` moved towards the leaves past every op that acts
/// position by position, so that only that position is computed above it. It
/// stays above attention, whose kernels are the same for any number of positions.
pub(crate) fn at_position(
    graph: &mut Graph,
    root: NodeId,
    ids: NodeId,
    time: Axis,
    batch: Axis,
) -> Result<NodeId, ModelError> {
    let mut moved: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.ancestors(&[root]) {
        if !graph.axes(id).contains(time) {
            moved.insert(id, id);
            continue;
        }
        if graph.axes(id).iter().any(|&axis| axis.fixed_size().is_none() && axis != time && axis != batch) {
            continue;
        }
        let operands = graph.operands(id);
        let op = graph.op(id).clone();
        // What lies below a repeat, a history or attention need not be there once more.
        let known = operands.iter().all(|operand| moved.contains_key(operand));
        let copy = if known && position_by_position(&op, time, batch) {
            let operands: Vec<NodeId> = operands.iter().map(|operand| moved[operand]).collect();
            graph.add(op, &operands)?
        } else {
            graph.add(Take { axis: time }, &[id, ids])?
        };
        let node = graph.node(id);
        let (span, label) = (node.span, node.label);
        graph.annotate(copy, span, label);
        moved.insert(id, copy);
    }
    Ok(moved[&root])
}

/// Whether an op's value at a position depends on its operands at that
/// position of that sequence alone.
fn position_by_position(op: &Op, time: Axis, batch: Axis) -> bool {
    let free = |axes: &[Axis]| !axes.contains(&time) && !axes.contains(&batch);
    match op {
        Op::Map(_) | Op::Cast(_) => true,
        Op::Contract(contract) => free(&contract.over),
        Op::Reduce(reduce) => free(&reduce.over),
        Op::Take(take) => free(&[take.axis]),
        Op::TopK(top) => free(&[top.axis]),
        Op::Rename(rename) => free(&[rename.from, rename.to]),
        // Their axes are of fixed size, and a sequence axis is not.
        Op::Split(_) | Op::Merge(_) | Op::Slice(_) | Op::Concat(_) => true,
        _ => false,
    }
}
