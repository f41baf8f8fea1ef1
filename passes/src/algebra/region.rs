//! One region: into an e-graph, and from a choice of forms back to a graph. Nodes
//! that keep their form stay the nodes they were, with their lines and labels.

use super::cost::Rates;
use super::extract::{Candidate, Choice, Problem, reach};
use super::language::{EGraph, ENode, Facts, Known, add, canonical};
use super::liveness::Live;
use super::report::{Change, expression};
use super::{AlgebraError, Objective};
use diptych_ir::ops::History;
use diptych_ir::{EntryKind, NodeId, Op, Program};
use egg::{Id, Language};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A region, and what is known of its use.
pub(super) struct Task<'a> {
    pub program: &'a Program,
    pub index: usize,
    pub objective: &'a Objective,
    /// What each binding of the objective uses.
    pub uses: &'a [Live],
    /// Nodes that must stay as they are.
    pub frozen: &'a HashSet<NodeId>,
    /// Arguments that depend on parameters only.
    pub param_arguments: &'a HashSet<usize>,
    /// Passes over each op that training is charged.
    pub training_passes: f64,
}

/// A history that may be kept in a cache: as an e-node of a class.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Kept {
    pub region: usize,
    pub class: usize,
    pub node: ENode,
}

/// Whose forms are to be chosen, and among which.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The weight of each binding's cost.
    pub factors: &'a [f64],
    /// The entries whose roots must be there.
    pub entries: &'a [EntryKind],
    /// The histories that may be kept, if not all that there are.
    pub histories: Option<&'a BTreeSet<Kept>>,
    /// Classes, by region, that are computed as they were or not at all.
    pub without: Option<&'a BTreeSet<(usize, usize)>>,
}

impl Task<'_> {
    pub fn unsound(&self, problem: impl Into<String>) -> AlgebraError {
        AlgebraError::Unsound { region: self.program.regions[self.index].name, problem: problem.into() }
    }

    pub fn rates(&self) -> Vec<Rates<'_>> {
        let rates = self.objective.bindings.iter().map(|binding| {
            let passes = if binding.entry.trains() { self.training_passes } else { 1.0 };
            Rates { objective: self.objective, binding, passes }
        });
        rates.collect()
    }

    /// The nodes that must be there: results and, in the main region, the roots of entries.
    fn roots(&self, entries: &[EntryKind]) -> Vec<NodeId> {
        let region = &self.program.regions[self.index];
        let all = &self.program.entries;
        let wanted = || all.iter().filter(|entry| entries.contains(&entry.kind));
        // The main region's results are what its entries ask for.
        let asked = self.index > 0 || wanted().count() == all.len();
        let results = region.results.iter().filter(|_| asked).copied();
        let of_entry = |entry: &'_ diptych_ir::Entry| -> Vec<NodeId> {
            entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect()
        };
        match self.index {
            0 => results.chain(wanted().flat_map(of_entry)).collect(),
            _ => results.collect(),
        }
    }
}

/// A region as an e-graph.
pub(super) struct Saturated {
    pub egraph: EGraph,
    /// The class of each node.
    pub classes: HashMap<NodeId, Id>,
    /// Nodes, operands first.
    pub order: Vec<NodeId>,
}

/// Builds the e-graph of a region.
///
/// # Errors
/// When a node does not fit its operands.
pub(super) fn build(task: &Task) -> Result<Saturated, AlgebraError> {
    let graph = &task.program.regions[task.index].graph;
    let params = task.program.params.keys().copied().collect();
    let mut egraph = EGraph::new(Known::new(graph, params, task.param_arguments.clone()));
    let mut classes: HashMap<NodeId, Id> = HashMap::new();
    let order = graph.topological_order();
    for &id in &order {
        let operands = graph.operands(id).iter().map(|operand| classes[operand]).collect();
        let class = add(&mut egraph, graph.op(id).clone(), operands);
        let class =
            class.ok_or_else(|| task.unsound(format!("node {} does not fit its operands", id.index())))?;
        classes.insert(id, class);
    }
    Ok(Saturated { egraph, classes, order })
}

/// What the region cost in each binding as it was, in seconds a run.
pub(super) fn costs_before(task: &Task, saturated: &Saturated) -> Vec<f64> {
    let graph = &task.program.regions[task.index].graph;
    let facts = |id: NodeId| &saturated.egraph[saturated.egraph.find(saturated.classes[&id])].data;
    let costs = task.rates().into_iter().zip(task.uses).map(|(rates, live)| {
        let used = saturated.order.iter().filter(|id| live.nodes[task.index].contains(id));
        let seconds = used.map(|&id| {
            let operands: Vec<&Facts> = graph.operands(id).into_iter().map(facts).collect();
            if task.frozen.contains(&id) { 0.0 } else { rates.seconds(graph.op(id), &operands, facts(id)) }
        });
        // From positive zero: the sum of nothing is otherwise a negative one.
        seconds.fold(0.0, |sum, second| sum + second)
    });
    costs.collect()
}

/// The extraction problem, and what its numbers stand for.
pub(super) struct Selection {
    pub problem: Problem,
    /// How often the region runs where it runs most, which the problem's costs leave out.
    pub scale: f64,
    pub numbers: HashMap<Id, usize>,
    pub nodes: Vec<Vec<ENode>>,
    /// The first node of the graph in each class.
    pub firsts: Vec<Option<NodeId>>,
}

impl Selection {
    pub fn new(task: &Task, saturated: &Saturated, wanted: Wanted) -> Selection {
        let egraph = &saturated.egraph;
        let graph = &task.program.regions[task.index].graph;
        let mut ids: Vec<Id> = egraph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let numbers: HashMap<Id, usize> = ids.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let number = |id: Id| numbers[&egraph.find(id)];
        let of_node = |id: NodeId| number(saturated.classes[&id]);

        // The e-nodes that the graph has. Of equal values the first stands for
        // all, a frozen one before others: its operands are earlier still, so this has no cycle.
        let mut had: HashMap<ENode, NodeId> = HashMap::new();
        let mut firsts: Vec<Option<NodeId>> = vec![None; ids.len()];
        let mut frozen = vec![false; ids.len()];
        let is_frozen = |id: &NodeId| task.frozen.contains(id);
        for &id in saturated
            .order
            .iter()
            .filter(|id| is_frozen(id))
            .chain(saturated.order.iter().filter(|id| !is_frozen(id)))
        {
            had.entry(enode(egraph, saturated, graph, id)).or_insert(id);
            firsts[of_node(id)].get_or_insert(id);
            frozen[of_node(id)] |= is_frozen(&id);
        }
        let pinned = super::twins::pinned(graph);
        let kept_form: HashSet<usize> = pinned.into_iter().map(of_node).collect();
        // A sum over tokens that is a result, such as a weight's gradient, goes on from one micro-batch to the next: it
        // stays such a sum.
        let is_fixed = |id: NodeId| graph.axes(id).iter().all(|axis| axis.fixed_size().is_some());
        let sums: HashSet<usize> = (task.roots(wanted.entries).into_iter())
            .filter(|&root| sums_over_run(graph.op(root)) && is_fixed(root))
            .map(of_node)
            .collect();
        let rates = task.rates();
        let mut nodes: Vec<Vec<ENode>> = Vec::with_capacity(ids.len());
        let mut classes = Vec::with_capacity(ids.len());
        let mut original = Vec::with_capacity(ids.len());
        for (class, &id) in ids.iter().enumerate() {
            let first = firsts[class].map(|first| enode(egraph, saturated, graph, first));
            let mut kept: Vec<ENode> = match (&first, frozen[class] || kept_form.contains(&class)) {
                (Some(first), true) => vec![first.clone()],
                _ => egraph[id].nodes.clone(),
            };
            // What refers to its own class computes nothing, and a product of
            // three or more stands for its trees: it is no form of its own.
            kept.retain(|node| {
                let is_open = matches!(node.op, Op::Contract(_)) && node.operands.len() > 2;
                let refers = node.operands.iter().any(|&operand| egraph.find(operand) == id);
                let allowed = |histories: &BTreeSet<Kept>| {
                    histories.contains(&Kept { region: task.index, class, node: (*node).clone() })
                };
                let kept = !matches!(node.op, Op::History(_)) || wanted.histories.is_none_or(allowed);
                let fixed = wanted.without.is_some_and(|without| without.contains(&(task.index, class)));
                let free = !fixed || had.contains_key(node);
                let goes_on = !sums.contains(&class) || sums_over_run(&node.op);
                kept && free && goes_on && !refers && (!is_open || Some(node) == first.as_ref())
            });
            original.push(first.and_then(|first| kept.iter().position(|node| *node == first)));
            let candidates = kept.iter().map(|node| {
                let operands: Vec<&Facts> =
                    node.operands.iter().map(|&id| &egraph[egraph.find(id)].data).collect();
                let cost = |rates: &Rates| match frozen[class] {
                    true => 0.0,
                    false => rates.seconds(&node.op, &operands, &egraph[id].data),
                };
                Candidate {
                    operands: node.operands.iter().map(|&id| number(id)).collect(),
                    costs: rates.iter().map(cost).collect(),
                    original: had.contains_key(node) || matches!(node.op, Op::Literal(_)),
                }
            });
            classes.push(candidates.collect());
            nodes.push(kept);
        }
        let roots = task.roots(wanted.entries);
        let live_roots = |live: &Live| {
            roots
                .iter()
                .filter(|root| live.nodes[task.index].contains(root))
                .map(|&root| of_node(root))
                .collect()
        };
        // Layers do not change what is best for one: costs are those of a layer, in any depth the very same numbers.
        let scale = task.uses.iter().map(|live| live.runs[task.index]).fold(0.0, f64::max);
        let share = |live: &Live| if scale > 0.0 { live.runs[task.index] / scale } else { 0.0 };
        let problem = Problem {
            classes,
            roots: task.uses.iter().map(live_roots).collect(),
            kept: roots.iter().map(|&root| of_node(root)).collect(),
            factors: (task.objective.bindings.iter().zip(task.uses).zip(wanted.factors))
                .map(|((binding, live), factor)| binding.runs() * share(live) * factor)
                .collect(),
            original,
        };
        Selection { problem, scale, numbers, nodes, firsts }
    }

    /// The histories that a choice keeps for what these roots need.
    pub fn histories(&self, task: &Task, choice: &Choice, roots: &[usize]) -> BTreeSet<Kept> {
        let used = reach(&self.problem, choice, roots).unwrap_or_default();
        let kept = used.into_iter().filter_map(|class| {
            let node = self.nodes[class].get(choice[class]?)?;
            let node = matches!(node.op, Op::History(_)).then(|| node.clone())?;
            Some(Kept { region: task.index, class, node })
        });
        kept.collect()
    }
}

/// Whether an op sums over tokens or sequences.
fn sums_over_run(op: &Op) -> bool {
    let over = match op {
        Op::Contract(contract) => &contract.over,
        Op::Reduce(reduce) => &reduce.over,
        op => return matches!(op, Op::PutAdd(_)),
    };
    over.iter().any(|axis| axis.fixed_size().is_none())
}

fn enode(egraph: &EGraph, saturated: &Saturated, graph: &diptych_ir::Graph, id: NodeId) -> ENode {
    let operands = graph.operands(id).iter().map(|operand| saturated.classes[operand]).collect();
    let node = ENode { op: canonical(&egraph.analysis, graph.op(id).clone()), operands };
    node.map_children(|id| egraph.find(id))
}

/// Puts the chosen forms into the program, which has the wanted entries alone. `rooms` numbers the caches.
pub(super) fn rebuild(
    task: &Task,
    saturated: &Saturated,
    selection: &Selection,
    choice: &Choice,
    rooms: &dyn Fn(&Kept) -> Option<usize>,
    program: &mut Program,
) -> Result<Vec<Change>, AlgebraError> {
    let problem = &selection.problem;
    let egraph = &saturated.egraph;
    let before = &task.program.regions[task.index].graph;
    let number = |id: NodeId| selection.numbers[&egraph.find(saturated.classes[&id])];
    let order =
        reach(problem, choice, &problem.kept).ok_or_else(|| task.unsound("the chosen forms have a cycle"))?;
    let mut had: HashMap<(usize, ENode), NodeId> = HashMap::new();
    for &id in &saturated.order {
        had.entry((number(id), enode(egraph, saturated, before, id))).or_insert(id);
    }
    let graph = &mut program.regions[task.index].graph;
    let mut made: BTreeMap<usize, NodeId> = BTreeMap::new();
    let mut changed = Vec::new();
    for class in order {
        let Some(node) = choice[class].and_then(|candidate| selection.nodes[class].get(candidate)) else {
            continue;
        };
        let first = selection.firsts[class];
        if let Some(first) = first.filter(|first| task.frozen.contains(first)) {
            made.insert(class, first);
            continue;
        }
        let op = match &node.op {
            Op::History(history) => {
                let room = rooms(&Kept { region: task.index, class, node: node.clone() });
                room.map_or_else(|| node.op.clone(), |room| History { room, ..*history }.into())
            }
            op => op.clone(),
        };
        let keeps = |old: &NodeId| match before.op(*old) {
            Op::History(_) => *before.op(*old) == op,
            _ => true,
        };
        let new = match had.get(&(class, node.clone())).filter(|old| keeps(old)) {
            Some(&old) => {
                let operands: Vec<NodeId> =
                    before.operands(old).iter().map(|&operand| made[&number(operand)]).collect();
                if operands != before.operands(old) {
                    graph.set_operands(old, &operands)?;
                }
                old
            }
            None => {
                let mut operands: Vec<Id> = node.operands.clone();
                if node.discriminant().is_commutative() {
                    // Activations before weights, as people write them.
                    operands.sort_by_key(|&id| (egraph[id].data.param_only, selection.numbers[&id]));
                }
                let operands: Vec<NodeId> = operands.iter().map(|id| made[&selection.numbers[id]]).collect();
                let new = graph.add(op, &operands)?;
                if let Some(first) = first {
                    let (span, label) = (before.node(first).span, before.node(first).label);
                    graph.annotate(new, span, label);
                    changed.push((first, new));
                }
                new
            }
        };
        made.insert(class, new);
    }
    let changes = changed
        .into_iter()
        .map(|(old, new)| Change {
            label: before.node(old).label,
            before: expression(before, old, 3),
            after: expression(graph, new, 3),
        })
        .collect();
    let renamed = |id: NodeId| if task.frozen.contains(&id) { id } else { made[&number(id)] };
    let all = program.entries.len() == task.program.entries.len();
    let mut asked = Vec::new();
    if task.index == 0 {
        let entries = program.entries.iter_mut();
        for root in entries.flat_map(|entry| entry.roots.iter_mut().chain(&mut entry.updates)) {
            root.1 = renamed(root.1);
            asked.push(root.1);
        }
    }
    let region = &mut program.regions[task.index];
    match task.index > 0 || all {
        true => region.results.iter_mut().for_each(|result| *result = renamed(*result)),
        false => {
            asked.sort_unstable();
            asked.dedup();
            region.results = asked.clone();
        }
    }
    let kept: Vec<NodeId> = region.results.iter().chain(&region.arguments).chain(&asked).copied().collect();
    region.graph.retain_ancestors(&kept);
    Ok(changes)
}
