//! Brings contractions into the form that lowering takes: two operands, each
//! with an axis of its own; what is left over becomes products and sums. Every
//! result of a region becomes a value that some kernel computes. Divisions
//! move out of sums where that makes them fewer.

mod grouped;
mod heads;

pub use heads::sum_heads_apart;

use crate::fuse::is_view;
use crate::layout::Leading;
use diptych_ir::ops::{Cast, Contract, Literal, Map, Reduce, spread};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Program, ReduceKind, Region, Result, ScalarFn, Size};
use std::collections::HashSet;

/// Moves divisions out of the sums of every region, where the divisor has none
/// of the summed axes. It is to run before differentiation: the gradient of the
/// quotient then needs no second pass over what was summed.
///
/// # Errors
/// Only when an op refuses operands that it took before, which is a bug.
pub fn divide_after_sums(program: &Program) -> Result<Program> {
    let mut program = program.clone();
    for index in 0..program.regions.len() {
        for (old, new) in divide(&mut program.regions[index].graph)? {
            rename_roots(&mut program, index, old, new);
        }
    }
    Ok(program)
}

fn rename_roots(program: &mut Program, region: usize, old: NodeId, new: NodeId) {
    program.regions[region].results.iter_mut().filter(|root| **root == old).for_each(|root| *root = new);
    if region == 0 {
        let roots =
            program.entries.iter_mut().flat_map(|entry| entry.roots.iter_mut().chain(&mut entry.updates));
        roots.filter(|root| root.1 == old).for_each(|root| root.1 = new);
    }
}

/// Normalises every region. Names of nodes change; roots and results follow.
/// With `cached`, every `history` is one of a value that a kernel computes.
///
/// # Errors
/// Only when an op refuses operands that it took before, which is a bug.
pub fn normalize(program: &Program, cached: bool) -> Result<Program> {
    let mut program = program.clone();
    for index in 0..program.regions.len() {
        for id in program.regions[index].graph.topological_order() {
            let graph = &mut program.regions[index].graph;
            let form = match graph.op(id).clone() {
                Op::Contract(contract) => normal_form(graph, id, &contract)?,
                Op::Map(Map(ScalarFn::Detach)) => Some(graph.operands(id)[0]),
                Op::PutAdd(put) => grouped::put_add(graph, id, &put)?,
                _ => None,
            };
            let form = sum_in_turn(graph, form.unwrap_or(id))?.or(form);
            if let Some(form) = form {
                let (span, label) = (graph.node(id).span, graph.node(id).label);
                if graph.node(form).label.is_none() {
                    graph.annotate(form, span, label);
                }
                replace(graph, id, form)?;
                rename_roots(&mut program, index, id, form);
            }
        }
    }
    for index in 0..program.regions.len() {
        copy_results(&mut program, index)?;
        copy_repeat_operands(&mut program.regions[index])?;
        copy_merged_slices(&mut program.regions[index])?;
        if cached {
            copy_history_operands(&mut program.regions[index])?;
        }
    }
    Ok(program)
}

/// A copy of a value, as a node that a kernel computes.
fn copy(graph: &mut Graph, id: NodeId) -> Result<NodeId> {
    let dtype = graph.ty(id).dtype;
    graph.add(Cast(dtype), &[id])
}

/// Axes of a slice do not lie one within the other as those of a whole value do: what merges them merges a copy.
fn copy_merged_slices(region: &mut Region) -> Result<()> {
    for id in region.graph.topological_order() {
        let graph = &mut region.graph;
        if !matches!(graph.op(id), Op::Merge(_)) {
            continue;
        }
        let operand = graph.operands(id)[0];
        let (mut base, mut cut) = (operand, false);
        while is_view(graph.op(base)) && !matches!(graph.op(base), Op::Output(_) | Op::History(_)) {
            cut |= matches!(graph.op(base), Op::Slice(_));
            base = graph.operands(base)[0];
        }
        if cut {
            let copied = copy(graph, operand)?;
            graph.set_operands(id, &[copied])?;
        }
    }
    Ok(())
}

/// Whether a kernel computes a node, rather than reading it in place.
fn is_computed(graph: &Graph, id: NodeId) -> bool {
    let leaf =
        matches!(graph.op(id), Op::Input(_) | Op::Param(_) | Op::Argument(_) | Op::Literal(_) | Op::Index(_));
    !leaf && !is_view(graph.op(id))
}

/// A history of what no kernel computes is one of a copy: the kernel that computes a value appends it to its cache.
fn copy_history_operands(region: &mut Region) -> Result<()> {
    for id in region.graph.topological_order() {
        let graph = &mut region.graph;
        if !matches!(graph.op(id), Op::History(_)) {
            continue;
        }
        let operand = graph.operands(id)[0];
        let mut base = operand;
        while is_view(graph.op(base)) && !matches!(graph.op(base), Op::Output(_) | Op::History(_)) {
            base = graph.operands(base)[0];
        }
        if !is_computed(graph, base) {
            let copied = copy(graph, operand)?;
            graph.set_operands(id, &[copied])?;
        }
    }
    Ok(())
}

/// How many values the repeat of a region carries, if it runs forward: then a
/// carried argument may be what a layer yields, since the stack can hold what is carried.
fn carried_forward(program: &Program, index: usize) -> usize {
    let repeats = program.regions.iter().flat_map(|region| {
        region.graph.ids().into_iter().filter_map(|id| match region.graph.op(id) {
            Op::Repeat(repeat) => Some(repeat.clone()),
            _ => None,
        })
    });
    let own = repeats.filter(|repeat| repeat.body.0 as usize == index && !repeat.reverse);
    own.map(|repeat| repeat.carried).min().unwrap_or(0)
}

/// The results of a region that are states which a scan of it keeps for replays.
fn kept_states(program: &Program, index: usize) -> std::ops::Range<usize> {
    let scans = program.regions.iter().flat_map(|region| {
        region.graph.ids().into_iter().filter_map(|id| match region.graph.op(id) {
            Op::Scan(scan) if scan.body.0 as usize == index => Some(scan.kept),
            _ => None,
        })
    });
    let results = program.regions[index].results.len();
    results - scans.min().unwrap_or(0).min(results)..results
}

/// Whether a node is a result of a scan, which the scan's kernel stores where it is wanted.
fn is_of_scan(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.op(id), Op::Output(_)) && matches!(graph.op(graph.operands(id)[0]), Op::Scan(_))
}

/// Results that no kernel computes, or that are results twice, are copied; but
/// see `carried_forward`.
fn copy_results(program: &mut Program, index: usize) -> Result<()> {
    let mut seen = HashSet::new();
    let carried = carried_forward(program, index);
    let kept = kept_states(program, index);
    for position in (0..program.regions[index].results.len()).filter(|position| !kept.contains(position)) {
        let region = &mut program.regions[index];
        let id = region.results[position];
        let argument =
            position >= carried && region.arguments.iter().take(carried).any(|&argument| argument == id);
        let fresh = seen.insert(id);
        let stored = is_computed(&region.graph, id) || is_of_scan(&region.graph, id);
        if fresh && (stored || argument && index > 0) {
            continue;
        }
        region.results[position] = copy(&mut region.graph, id)?;
    }
    if index > 0 {
        return Ok(());
    }
    let graph = &mut program.regions[0].graph;
    for entry in &mut program.entries {
        // A gradient may be part of another value, as that of one of several weights that are used as one.
        for (_, id) in entry.roots.iter_mut().chain(&mut entry.updates) {
            if !is_computed(graph, *id) && !matches!(graph.op(*id), Op::Output(_)) {
                *id = copy(graph, *id)?;
            }
        }
    }
    Ok(())
}

/// Operands of loops must be values as they are stored. What several values that repeats carry start from is made
/// for each if it is one number: each may be stored in another way, as gradients are that start from zero.
fn copy_repeat_operands(region: &mut Region) -> Result<()> {
    let mut starts = HashSet::new();
    for id in region.graph.topological_order() {
        let carried = match region.graph.op(id) {
            Op::Repeat(_) => 0,
            Op::Scan(scan) => scan.carried,
            _ => continue,
        };
        let mut operands = region.graph.operands(id);
        for (position, operand) in operands.iter_mut().enumerate() {
            let graph = &mut region.graph;
            // What a recurrence starts from need not be stored if it is one number.
            if position < carried && crate::fuse::constant(graph, *operand).is_some() {
                continue;
            }
            let carried_by_repeat = matches!(graph.op(id), Op::Repeat(repeat) if position < repeat.carried);
            if carried_by_repeat
                && !starts.insert(*operand)
                && let Some(number) = crate::fuse::constant(graph, *operand)
            {
                let (dtype, axes) = (graph.ty(*operand).dtype, graph.axes(*operand).clone());
                let number = graph.add(Literal::scalar(DType::F32, number), &[])?;
                let start = spread(graph, number, &axes)?;
                *operand = if dtype == DType::F32 { start } else { graph.add(Cast(dtype), &[start])? };
            }
            let view = is_view(graph.op(*operand)) && !matches!(graph.op(*operand), Op::Output(_));
            if view || matches!(graph.op(*operand), Op::Literal(_) | Op::Index(_)) {
                *operand = copy(graph, *operand)?;
            }
        }
        region.graph.set_operands(id, &operands)?;
    }
    Ok(())
}

/// Makes every user of `old` use `new`, which has the same type.
pub(crate) fn replace(graph: &mut Graph, old: NodeId, new: NodeId) -> Result<()> {
    for user in graph.users(old) {
        if user != new {
            let operands: Vec<NodeId> = graph
                .operands(user)
                .into_iter()
                .map(|operand| if operand == old { new } else { operand })
                .collect();
            graph.set_operands(user, &operands)?;
        }
    }
    Ok(())
}

/// `contract(x / d, y…)` is `contract(x, y…) / d` where `d` has none of the
/// summed axes and the sum has fewer elements than the quotient.
fn divide(graph: &mut Graph) -> Result<Vec<(NodeId, NodeId)>> {
    let mut replaced = Vec::new();
    for id in graph.topological_order() {
        let Op::Contract(contract) = graph.op(id).clone() else { continue };
        let mut operands = graph.operands(id);
        let mut divisors = Vec::new();
        for operand in &mut operands {
            if let Op::Map(Map(ScalarFn::Div)) = graph.op(*operand)
                && let [x, d] = graph.operands(*operand)[..]
                && contract.over.iter().all(|axis| !graph.axes(d).contains(*axis))
                && graph.axes(x) == graph.axes(*operand)
                && weight(graph.axes(x)) > weight(graph.axes(id))
            {
                divisors.push(d);
                *operand = x;
            }
        }
        if divisors.is_empty() {
            continue;
        }
        let sum = graph.add(contract, &operands)?;
        let quotient =
            divisors.into_iter().try_fold(sum, |value, d| graph.add(Map(ScalarFn::Div), &[value, d]))?;
        replace(graph, id, quotient)?;
        replaced.push((id, quotient));
    }
    Ok(replaced)
}

/// A size for comparisons, where run-time axes count as long ones.
fn weight(axes: &[Axis]) -> f64 {
    let size = |axis: &Axis| match axis.size {
        Size::Fixed(size) => size as f64,
        Size::Symbolic(_) => 4096.0,
    };
    axes.iter().map(size).product()
}

/// The normal form of a contraction that is not in it.
fn normal_form(graph: &mut Graph, id: NodeId, contract: &Contract) -> Result<Option<NodeId>> {
    let mut factors = graph.operands(id);
    let mut changed = false;
    if let Some(form) = grouped::contraction(graph, id, contract)? {
        return Ok((form != id).then_some(form));
    }
    // An axis that one factor alone has and that is summed is summed there.
    for position in 0..factors.len() {
        let others = |axis: Axis| {
            factors.iter().enumerate().any(|(other, &id)| other != position && graph.axes(id).contains(axis))
        };
        let own: Vec<Axis> = (contract.over.iter().copied())
            .filter(|&axis| graph.axes(factors[position]).contains(axis) && !others(axis))
            .collect();
        if !own.is_empty() {
            factors[position] =
                graph.add(Reduce { kind: ReduceKind::Sum, over: own }, &[factors[position]])?;
            changed = true;
        }
    }
    let shared = |graph: &Graph, factors: &[NodeId]| -> Vec<Axis> {
        (contract.over.iter().copied())
            .filter(|&axis| factors.iter().any(|&factor| graph.axes(factor).contains(axis)))
            .collect()
    };
    // More than two factors: join the cheapest pair, until two are left.
    while factors.len() > 2 {
        changed = true;
        let (left, right) = cheapest_pair(graph, &factors, &contract.over);
        let rest: Vec<NodeId> =
            (0..factors.len()).filter(|&i| i != left && i != right).map(|i| factors[i]).collect();
        let pair = [factors[left], factors[right]];
        let over: Vec<Axis> = shared(graph, &pair)
            .into_iter()
            .filter(|&axis| rest.iter().all(|&factor| !graph.axes(factor).contains(axis)))
            .collect();
        let joined = pair_product(graph, pair, over)?;
        factors = rest;
        factors.push(joined);
    }
    let over = shared(graph, &factors);
    match factors[..] {
        [x] if over.is_empty() => Ok(Some(x)),
        [x] => Ok(Some(graph.add(Reduce { kind: ReduceKind::Sum, over }, &[x])?)),
        [left, right] if changed || !is_matrix_product(graph, [left, right], &over) => {
            pair_product(graph, [left, right], over).map(Some)
        }
        _ => Ok(None),
    }
}

/// A sum over positions and positions so far, as one over the latter and one over the rest. Rows of positions
/// so far alone are summed at once, as rows of tokens are.
fn sum_in_turn(graph: &mut Graph, id: NodeId) -> Result<Option<NodeId>> {
    let over = match graph.op(id) {
        Op::Contract(contract) => &contract.over,
        Op::Reduce(reduce) => &reduce.over,
        _ => return Ok(None),
    };
    let (inner, rest): (Vec<Axis>, Vec<Axis>) =
        over.iter().copied().partition(|&axis| crate::layout::symbol(axis) == Some("past"));
    let operands = graph.operands(id);
    let pairs = |&operand: &NodeId| crate::layout::leading(graph.axes(operand)) == Ok(Leading::Quadratic);
    let in_turn = !inner.is_empty() && rest.iter().any(|&axis| crate::layout::symbol(axis).is_some());
    if !in_turn || !operands.iter().any(pairs) {
        return Ok(None);
    }
    match graph.op(id).clone() {
        Op::Reduce(Reduce { kind, .. }) => {
            let inner = graph.add(Reduce { kind, over: inner }, &operands)?;
            graph.add(Reduce { kind, over: rest }, &[inner]).map(Some)
        }
        // What of the other axes the operands share stays, to be summed with the rows.
        _ => {
            let inner = graph.add(Contract { over: inner }, &operands)?;
            graph.add(Reduce { kind: ReduceKind::Sum, over: rest }, &[inner]).map(Some)
        }
    }
}

/// Both operands have an axis of their own, and they share a summed one.
fn is_matrix_product(graph: &Graph, [left, right]: [NodeId; 2], over: &[Axis]) -> bool {
    let own = |x: NodeId, y: NodeId| graph.axes(x).iter().any(|&axis| !graph.axes(y).contains(axis));
    !over.is_empty() && own(left, right) && own(right, left)
}

fn pair_product(graph: &mut Graph, pair: [NodeId; 2], over: Vec<Axis>) -> Result<NodeId> {
    if is_matrix_product(graph, pair, &over) || grouped::takes_weights(graph, pair, &over) {
        let contract = Contract { over };
        let product = graph.add(contract.clone(), &pair)?;
        return Ok(grouped::contraction(graph, product, &contract)?.unwrap_or(product));
    }
    let product = graph.add(Map(ScalarFn::Mul), &pair)?;
    if over.is_empty() { Ok(product) } else { graph.add(Reduce { kind: ReduceKind::Sum, over }, &[product]) }
}

fn cheapest_pair(graph: &Graph, factors: &[NodeId], over: &[Axis]) -> (usize, usize) {
    let mut best = (f64::INFINITY, (0, 1));
    for left in 0..factors.len() {
        for right in left + 1..factors.len() {
            let Ok(union) = graph.axes(factors[left]).union(graph.axes(factors[right])) else { continue };
            let needed = |axis: Axis| {
                !over.contains(&axis)
                    || (0..factors.len())
                        .any(|i| i != left && i != right && graph.axes(factors[i]).contains(axis))
            };
            let kept: Vec<Axis> = union.iter().copied().filter(|&axis| needed(axis)).collect();
            let cost = weight(&union) + weight(&kept);
            if cost < best.0 {
                best = (cost, (left, right));
            }
        }
    }
    best.1
}
