//! Further micro-batches of a training step: the entry `Accumulate`. A sum over tokens goes on where that of the
//! micro-batch before stopped, so that its order, and with it every bit of a gradient, is that of one large batch.
//! What is computed from such sums alone waits for the last of them: the optimiser's entry does it. It knows no
//! kernel and no memory.

mod continued;
mod expression;
#[cfg(test)]
mod tests;

pub use continued::{Continued, continued_sums};

use crate::differentiate::replace_uses;
use diptych_ir::ops::{Map, Output, Param, Repeat};
use diptych_ir::{Entry, EntryKind, IrError, NodeId, Op, Program, Result, ScalarFn, Symbol};
use expression::{Expression, Sum, expression, yielded_by};
use std::collections::{BTreeMap, BTreeSet};

/// Adds the entry `Accumulate` to a program with gradients and an optimiser, after all rewrites: the roots of
/// `Train`, and each of its updates added to what its state holds.
///
/// Where a gradient is no sum over tokens, but computed from several of them and from parameters (an embedding that
/// is also the head), `Train` and `Accumulate` keep each sum in a state `gradient_1.NAME`, `gradient_2.NAME`, …
/// instead, and `Update` computes the gradient from these.
///
/// # Errors
/// When the program has no gradients or no optimiser.
pub fn add_accumulate(program: &Program) -> Result<Program> {
    let missing = |what: &str| IrError::Invalid(format!("the program has no {what} to accumulate for"));
    if program.entry(EntryKind::Update).is_none() {
        return Err(missing("optimiser"));
    }
    let train = |program: &Program| program.entry(EntryKind::Train).cloned();
    let mut program = program.clone();
    let gradients = train(&program).ok_or_else(|| missing("entry `train`"))?.updates;
    yield_sums(&mut program, &gradients)?;

    let train = train(&program).ok_or_else(|| missing("entry `train`"))?;
    let mut updates = Vec::new();
    for (name, node) in train.updates {
        match expression(&program, node, &program.states[&name]) {
            Expression::Whole(node) => updates.push((name, node)),
            gradient => updates.extend(split(&mut program, name, &gradient)?),
        }
    }
    let mut sums = Vec::new();
    for &(name, node) in &updates {
        let ty = program.states[&name].clone();
        let graph = &mut program.main_mut().graph;
        let held = graph.add(Param { name, ty }, &[])?;
        sums.push((name, graph.add(Map(ScalarFn::Add), &[held, node])?));
    }
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Train) {
        entry.updates = updates.clone();
    }
    program.entries.push(Entry { kind: EntryKind::Accumulate, roots: train.roots, updates: sums });
    crate::simplify(&program)
}

/// Lets repeats yield the sums within their bodies that gradients are computed from.
fn yield_sums(program: &mut Program, gradients: &[(Symbol, NodeId)]) -> Result<()> {
    let mut wanted: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for &(name, node) in gradients {
        for Sum { node, in_body } in expression(program, node, &program.states[&name]).sums() {
            if let Some(inner) = in_body.filter(|&inner| yielded_by(program, node, inner).is_none()) {
                wanted.entry(node).or_default().insert(inner);
            }
        }
    }
    for (node, inner) in wanted {
        let operands = program.main().graph.operands(node);
        let Op::Repeat(repeat) = program.main().graph.op(node).clone() else { continue };
        let Repeat { body, layers, reverse, carried, stacked, .. } = repeat;
        let mut wider = program.region(body).clone();
        wider.results.extend(inner);
        let body = program.add_region(wider);
        let (carried, rest) = operands.split_at(carried);
        let (stacked, invariant) = rest.split_at(stacked);
        let outputs = program.add_repeat(Program::MAIN, body, layers, reverse, carried, stacked, invariant)?;
        for old in program.main().graph.users(node) {
            if let &Op::Output(Output { index }) = program.main().graph.op(old) {
                replace_uses(program, Program::MAIN, old, outputs[index])?;
            }
        }
    }
    Ok(())
}

/// Keeps the sums of a gradient in states of their own, and lets the optimiser compute it from these. Returns the
/// sums that are to be written.
fn split(program: &mut Program, name: Symbol, gradient: &Expression) -> Result<Vec<(Symbol, NodeId)>> {
    let owner = name.as_str().split_once('.').map_or(name.as_str(), |(_, owner)| owner);
    let ty = program.states[&name].clone();
    let mut parts = Vec::new();
    for (at, sum) in gradient.sums().into_iter().enumerate() {
        let part = Symbol::new(&format!("gradient_{}.{owner}", at + 1));
        let node = match sum.in_body {
            Some(inner) => yielded_by(program, sum.node, inner),
            None => Some(sum.node),
        };
        let node = node.ok_or_else(|| IrError::Invalid(format!("no layer yields the sums of `{name}`")))?;
        program.states.insert(part, ty.clone());
        let held = program.main_mut().graph.add(Param { name: part, ty: ty.clone() }, &[])?;
        parts.push((sum, part, node, held));
    }
    let held = |sum: Sum| parts.iter().find(|part| part.0 == sum).map(|part| part.3);
    let built = gradient.build(program, &held)?;
    let reads =
        |id: &NodeId| matches!(program.main().graph.op(*id), Op::Param(param) if param.name == name);
    let reading: Vec<NodeId> = program.main().graph.ids().into_iter().filter(reads).collect();
    for read in reading {
        replace_uses(program, Program::MAIN, read, built)?;
    }
    program.states.remove(&name);
    Ok(parts.into_iter().map(|(_, part, node, _)| (part, node)).collect())
}
