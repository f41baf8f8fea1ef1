//! Reverse-mode differentiation, graph to graph: the `Train` entry gets the
//! gradient of every parameter that its loss depends on. It knows no optimiser,
//! no layout and no memory plan; what a layer keeps is decided in `policy`.

mod accumulate;
mod activity;
mod isolate;
mod loops;
mod policy;
mod recurrences;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use loops::replace_uses;

use diptych_ir::ops::{Literal, spread};
use diptych_ir::{DType, EntryKind, IrError, Op, Program, Result, Symbol, TensorType};
use std::collections::{BTreeMap, HashSet};

/// The name of the state that holds the gradient of a parameter.
pub fn gradient_name(param: Symbol) -> Symbol {
    Symbol::new(&format!("gradient.{param}"))
}

/// Adds to the program the gradient of the `Train` entry's root `loss`, an f32
/// scalar, by every parameter that it depends on.
///
/// Each gradient has the parameter's axes, in f32, and is an update of the
/// state `gradient.NAME`. What `Train` computes from a loop on becomes its own,
/// in regions named `….train` and `….backward`, so that no other entry keeps
/// what only the backward pass needs.
///
/// # Errors
/// When there is no `Train` entry with such a loss, when it has updates
/// already, or when a parameter is read within a loop's body instead of being
/// one of its operands.
pub fn differentiate(program: &Program) -> Result<Program> {
    differentiate_keeping(program, policy::saves)
}

/// As [`differentiate`], with another policy of what loops keep.
fn differentiate_keeping(program: &Program, saves: policy::Policy) -> Result<Program> {
    let mut program = program.clone();
    let train = program
        .entry(EntryKind::Train)
        .ok_or_else(|| IrError::Invalid("no entry `train` to differentiate".into()))?;
    if !train.updates.is_empty() {
        return Err(IrError::Invalid("the entry `train` is differentiated already".into()));
    }
    if let Some((name, info)) = program.params.iter().find(|(_, info)| info.ty.dtype != DType::F32) {
        let problem =
            format!("`{name}` is held in {}, which is for serving, not for training", info.ty.dtype);
        return Err(IrError::Invalid(problem));
    }
    isolate::isolate(&mut program)?;
    let roots = program.entry(EntryKind::Train).map(|entry| entry.roots.clone()).unwrap_or_default();
    let loss = roots.iter().find(|root| root.0.as_str() == "loss").map(|root| root.1);
    let loss = loss.ok_or_else(|| IrError::Invalid("the entry `train` has no root `loss`".into()))?;
    let ty = program.main().graph.ty(loss);
    if *ty != TensorType::scalar(DType::F32) {
        return Err(IrError::Invalid(format!("the loss must be an f32 scalar, not {ty}")));
    }

    let active = activity::activity(&program, Program::MAIN, &[]);
    let one = program.main_mut().graph.add(Literal::scalar(DType::F32, 1.0), &[])?;
    let mut forward: HashSet<_> = program.main().graph.ids().into_iter().collect();
    let gradients = sweep::sweep(&mut program, Program::MAIN, &[(loss, one)], &active, &mut forward, saves)?;

    let mut by_name = BTreeMap::new();
    for (&node, &gradient) in gradients.iter().collect::<BTreeMap<_, _>>() {
        if let Op::Param(param) = program.main().graph.op(node) {
            by_name.entry(param.name).or_insert_with(Vec::new).push(gradient);
        }
    }
    let mut updates = Vec::new();
    for (name, parts) in by_name {
        let state = gradient_name(name);
        let ty = TensorType::new(DType::F32, program.params[&name].ty.axes.clone());
        let graph = &mut program.main_mut().graph;
        let gradient = accumulate::sum(graph, &parts)?;
        let gradient = spread(graph, gradient, &ty.axes)?;
        updates.push((state, gradient));
        program.states.insert(state, ty);
    }
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Train) {
        entry.updates = updates.clone();
    }
    crate::simplify::drop_unused_nodes(&mut program);
    if cfg!(debug_assertions) {
        diptych_ir::verify(&program)?;
    }
    Ok(program)
}
