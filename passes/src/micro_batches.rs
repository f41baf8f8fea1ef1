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
use expression::{Expression, Sum, expression, type_of, yielded_by};
use std::collections::{BTreeMap, BTreeSet};

/// Adds the entry `Accumulate` to a program with gradients and an optimiser, after all rewrites: the roots of
/// `Train`, and each of its updates added to what its state holds.
///
/// Where a gradient is no sum over tokens, but computed from some of them and from parameters (an embedding that is
/// also the head), `Train` and `Accumulate` keep these sums in states `gradient_1.NAME`, `gradient_2.NAME`, …
/// instead, and `Update` computes the gradient from them.
///
/// # Errors
/// When the program has no gradients or no optimiser.
pub fn add_accumulate(program: &Program) -> Result<Program> {
    let missing = |what: &str| IrError::Invalid(format!("the program has no {what} to accumulate for"));
    if program.entry(EntryKind::Update).is_none() {
        return Err(missing("optimiser"));
    }
    let mut program = program.clone();
    yield_sums(&mut program)?;
    let train = program.entry(EntryKind::Train).cloned().ok_or_else(|| missing("entry `train`"))?;
    let (mut updates, kept, composed) = states(&program, &train.updates);
    for &(sum, state) in &kept {
        let node = match sum.in_body {
            Some(inner) => yielded_by(&program, sum.node, inner),
            None => Some(sum.node),
        };
        updates.push((state, node.ok_or_else(|| IrError::Invalid(format!("no layer yields `{state}`")))?));
        if let (false, Some(ty)) = (program.states.contains_key(&state), type_of(&program, sum)) {
            program.states.insert(state, ty);
        }
    }
    let mut done = Vec::new();
    for (name, gradient) in &composed {
        let node = compose(&mut program, *name, gradient, &kept)?;
        // A gradient of its own would take as much memory again as a sum that nothing else is computed from.
        let used = |sum: Sum| composed.iter().filter(|(_, other)| other.sums().contains(&sum)).count();
        let alone = |held: &&(Sum, Symbol)| held.1.as_str().starts_with("gradient_") && used(held.0) == 1;
        let holder = kept.iter().filter(|held| gradient.sums().contains(&held.0)).find(alone);
        let ty = program.main().graph.ty(node);
        done.extend(holder.filter(|held| program.states[&held.1] == *ty).map(|held| (held.1, node)));
    }
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Update) {
        entry.updates.append(&mut done);
    }
    let mut sums = Vec::new();
    for &(name, node) in &updates {
        let held = read(&mut program, name)?;
        sums.push((name, program.main_mut().graph.add(Map(ScalarFn::Add), &[held, node])?));
    }
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Train) {
        entry.updates = updates.clone();
    }
    program.entries.push(Entry { kind: EntryKind::Accumulate, roots: train.roots, updates: sums });
    crate::simplify(&program)
}

/// Lets repeats yield the sums within their bodies that gradients are computed from.
fn yield_sums(program: &mut Program) -> Result<()> {
    let mut wanted: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    let gradients = program.entry(EntryKind::Train).map(|entry| &entry.updates[..]).unwrap_or_default();
    for sum in gradients.iter().flat_map(|gradient| expression(program, gradient.1).sums()) {
        let inner = sum.in_body.filter(|&inner| yielded_by(program, sum.node, inner).is_none());
        wanted.entry(sum.node).or_default().extend(inner);
    }
    for (node, inner) in wanted.into_iter().filter(|wanted| !wanted.1.is_empty()) {
        let operands = program.main().graph.operands(node);
        let Op::Repeat(repeat) = program.main().graph.op(node).clone() else { continue };
        let Repeat { body, layers, reverse, carried, stacked, .. } = repeat;
        let mut wider = program.region(body).clone();
        wider.results.extend(inner);
        let body = program.add_region(wider);
        let (carried, rest) = operands.split_at(carried);
        let (stacked, invariant) = rest.split_at(stacked);
        let outputs =
            program.add_repeat(Program::MAIN, body, layers, reverse, carried, stacked, invariant)?;
        for old in program.main().graph.users(node) {
            if let &Op::Output(Output { index }) = program.main().graph.op(old) {
                replace_uses(program, Program::MAIN, old, outputs[index])?;
            }
        }
    }
    Ok(())
}

type Updates = Vec<(Symbol, NodeId)>;
type Kept = Vec<(Sum, Symbol)>;
type Composed = Vec<(Symbol, Expression)>;

/// What is kept from micro-batch to micro-batch: gradients as they are, sums with the states that hold them, and the
/// gradients that are computed from these.
fn states(program: &Program, gradients: &[(Symbol, NodeId)]) -> (Updates, Kept, Composed) {
    let (mut updates, mut kept, mut composed) = (Updates::new(), Kept::new(), Composed::new());
    for &(name, node) in gradients {
        match expression(program, node) {
            Expression::Whole(node) => updates.push((name, node)),
            gradient => match gradient.as_sum() {
                Some(sum) => kept.push((sum, name)),
                None => composed.push((name, gradient)),
            },
        }
    }
    let mut parts: BTreeMap<Symbol, usize> = BTreeMap::new();
    for (name, gradient) in &composed {
        for sum in gradient.sums() {
            if kept.iter().all(|known| known.0 != sum) {
                let part = parts.entry(*name).or_default();
                *part += 1;
                let owner = name.as_str().split_once('.').map_or(name.as_str(), |(_, owner)| owner);
                kept.push((sum, Symbol::new(&format!("gradient_{part}.{owner}"))));
            }
        }
    }
    let holds = |sum: &Sum| kept.iter().any(|known| known.0 == *sum);
    let (composed, others): (Composed, Composed) =
        composed.into_iter().partition(|(_, gradient)| gradient.sums().iter().all(holds));
    let node_of = |name: Symbol| gradients.iter().find(|gradient| gradient.0 == name).copied();
    updates.extend(others.into_iter().filter_map(|(name, _)| node_of(name)));
    kept.retain(|(sum, state)| {
        let used = composed.iter().any(|(_, gradient)| gradient.sums().contains(sum));
        used || program.states.contains_key(state)
    });
    (updates, kept, composed)
}

/// Lets the optimiser compute a gradient from the states of its sums, instead of reading it. Returns the gradient.
fn compose(program: &mut Program, name: Symbol, gradient: &Expression, kept: &Kept) -> Result<NodeId> {
    let mut held = Vec::new();
    for sum in gradient.sums() {
        let state = kept.iter().find(|known| known.0 == sum).map(|known| known.1);
        let state = state.ok_or_else(|| IrError::Invalid(format!("a sum of `{name}` is kept nowhere")))?;
        held.push((sum, read(program, state)?));
    }
    let node =
        gradient.build(program, &|sum| held.iter().find(|known| known.0 == sum).map(|known| known.1))?;
    let reads = |id: &NodeId| matches!(program.main().graph.op(*id), Op::Param(param) if param.name == name);
    let reading: Vec<NodeId> = program.main().graph.ids().into_iter().filter(reads).collect();
    for read in reading {
        replace_uses(program, Program::MAIN, read, node)?;
    }
    program.states.remove(&name);
    Ok(node)
}

/// A node that reads a state.
fn read(program: &mut Program, state: Symbol) -> Result<NodeId> {
    let ty = program.states[&state].clone();
    program.main_mut().graph.add(Param { name: state, ty }, &[])
}
