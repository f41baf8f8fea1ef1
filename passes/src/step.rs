//! The optimiser within the backward pass: the entry `Step`. Where the update of a parameter needs nothing but its own
//! gradient, it need not wait for the others: in a stack of layers each is updated as soon as the backward pass has been
//! there, and its gradients make room for those of the next. It knows no kernel and no memory.

mod sink;
#[cfg(test)]
mod tests;

use crate::differentiate::gradient_name;
use diptych_ir::ops::{Cast, Literal, Map, Param};
use diptych_ir::{DType, Entry, EntryKind, IrError, NodeId, Op, Program, Result, ScalarFn, Symbol};
use std::collections::{HashMap, HashSet};

/// Adds the entry `Step` to a program with gradients and an optimiser: the roots of `Train` and of `Update`, and the
/// updates of `Update` computed from the gradients themselves. Where the loss is not finite, parameters and moments stay
/// what they were.
///
/// What repeats of the backward pass yield, and only updates and sums over layers read, is read within their bodies.
///
/// # Errors
/// When the program has no gradients or no optimiser, or when an update needs the gradients of other parameters, as it
/// does where gradients are clipped by their common norm.
pub fn add_step(program: &Program) -> Result<Program> {
    let mut program = program.clone();
    let [train, update] = [EntryKind::Train, EntryKind::Update].map(|kind| {
        let missing = || IrError::Invalid(format!("the program has no entry `{}`", kind.name()));
        program.entry(kind).cloned().ok_or_else(missing)
    });
    let (train, update) = (train?, update?);
    let loss = train.root("loss").ok_or_else(|| IrError::Invalid("`train` has no root `loss`".into()))?;
    check_local(&program, &update)?;
    let roots: Vec<NodeId> = update.roots.iter().chain(&update.updates).map(|root| root.1).collect();
    let read = with_gradients(&mut program, &roots, &train.updates)?;
    let finite = is_finite(&mut program, loss)?;
    let mut updates = Vec::new();
    for (name, new) in update.updates {
        let old = held(&mut program, name)?;
        let graph = &mut program.main_mut().graph;
        let guarded = graph.add(Map(ScalarFn::Select), &[finite, read[&new], old])?;
        let guarded = match graph.ty(old).dtype {
            DType::F32 => guarded,
            dtype => graph.add(Cast(dtype), &[guarded])?,
        };
        updates.push((name, guarded));
    }
    let of_update = update.roots.into_iter().map(|(name, root)| (name, read[&root]));
    let roots = train.roots.into_iter().chain(of_update).collect();
    program.entries.push(Entry { kind: EntryKind::Step, roots, updates });
    let mut program = crate::simplify(&program)?;
    sink::sink(&mut program)?;
    crate::simplify(&program)
}

/// Takes away the entries `Train` and `Update`, whose place `Step` has taken, and the states of gradients, which nothing
/// else reads.
///
/// # Errors
/// When the program is not well-formed.
pub fn keep_step_alone(program: &Program) -> Result<Program> {
    let mut program = program.clone();
    program.entries.retain(|entry| !entry.kind.trains() || entry.kind == EntryKind::Step);
    let gradients: Vec<Symbol> = program.params.keys().map(|&name| gradient_name(name)).collect();
    program.states.retain(|state, _| !gradients.contains(state));
    crate::simplify(&program)
}

/// Refuses updates that read gradients of other parameters.
fn check_local(program: &Program, update: &Entry) -> Result<()> {
    let graph = &program.main().graph;
    let gradients: HashSet<Symbol> = program.params.keys().map(|&name| gradient_name(name)).collect();
    for &(name, node) in &update.updates {
        // A parameter's own name may have a point, and another's after it.
        let owner = program.owner(name).filter(|_| !program.params.contains_key(&name));
        let own = gradient_name(owner.unwrap_or(name));
        let others = graph.ancestors(&[node]).into_iter().find_map(|id| match graph.op(id) {
            Op::Param(param) if param.name != own && gradients.contains(&param.name) => Some(param.name),
            _ => None,
        });
        if let Some(other) = others {
            let problem =
                format!("the update of `{name}` needs `{other}`: it can only follow the whole backward pass");
            return Err(IrError::Invalid(problem));
        }
    }
    Ok(())
}

/// Copies what these nodes compute from the states of gradients, with the gradients in their place. Returns where each
/// node went.
fn with_gradients(
    program: &mut Program,
    roots: &[NodeId],
    gradients: &[(Symbol, NodeId)],
) -> Result<HashMap<NodeId, NodeId>> {
    let graph = &mut program.main_mut().graph;
    let mut copies: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.ancestors(roots) {
        let node = graph.node(id).clone();
        if let Op::Param(param) = &node.op {
            let gradient = gradients.iter().find(|gradient| gradient.0 == param.name);
            copies.insert(id, gradient.map_or(id, |gradient| gradient.1));
            continue;
        }
        let operands = graph.operands(id);
        let moved: Vec<NodeId> = operands.iter().map(|operand| copies[operand]).collect();
        let copy = match moved == operands {
            true => id,
            false => {
                let copy = graph.add(node.op, &moved)?;
                graph.annotate(copy, node.span, node.label);
                copy
            }
        };
        copies.insert(id, copy);
    }
    Ok(copies)
}

/// Whether a number is neither infinite nor no number: its product with 0 is 0.
fn is_finite(program: &mut Program, number: NodeId) -> Result<NodeId> {
    let graph = &mut program.main_mut().graph;
    let zero = graph.add(Literal::scalar(DType::F32, 0.0), &[])?;
    let product = graph.add(Map(ScalarFn::Mul), &[number, zero])?;
    graph.add(Map(ScalarFn::Equal), &[product, zero])
}

/// A node that reads a parameter or a state.
fn held(program: &mut Program, name: Symbol) -> Result<NodeId> {
    let ty = program.params.get(&name).map(|info| &info.ty).or_else(|| program.states.get(&name)).cloned();
    let ty =
        ty.ok_or_else(|| IrError::Invalid(format!("`{name}` is updated, but is no parameter or state")))?;
    program.main_mut().graph.add(Param { name, ty }, &[])
}
