//! One region: into an e-graph, saturated, one form chosen, and back. Nodes
//! that keep their form stay the nodes they were, with their lines and labels.

use super::cost::Rates;
use super::extract::{Candidate, Choice, Problem, costs, extract, reach};
use super::language::{EGraph, ENode, Facts, Known, add, canonical};
use super::liveness::Live;
use super::report::{Change, EntryCost, RegionReport, Seconds, expression};
use super::rules::Compiled;
use super::saturate::{Saturation, saturate};
use super::{AlgebraError, Objective};
use diptych_ir::{NodeId, Op, Program};
use egg::{Id, Language};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

/// What is to be done to a region.
pub(super) struct Task<'a> {
    pub program: &'a Program,
    pub index: usize,
    pub rules: &'a [Compiled],
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

impl Task<'_> {
    fn unsound(&self, problem: impl Into<String>) -> AlgebraError {
        AlgebraError::Unsound { region: self.program.regions[self.index].name, problem: problem.into() }
    }

    fn rates(&self) -> Vec<Rates<'_>> {
        let rates = self.objective.bindings.iter().map(|binding| {
            let passes = if super::cost::trains(binding.entry) { self.training_passes } else { 1.0 };
            Rates { objective: self.objective, binding, passes }
        });
        rates.collect()
    }

    /// The nodes that must be there: results, arguments and, in the main
    /// region, the roots of entries.
    fn roots(&self) -> Vec<NodeId> {
        let region = &self.program.regions[self.index];
        let mut roots = region.results.clone();
        if self.index == 0 {
            let entries = &self.program.entries;
            roots.extend(
                entries.iter().flat_map(|entry| entry.roots.iter().chain(&entry.updates)).map(|root| root.1),
            );
        }
        roots
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

/// Saturates the e-graph of a task, unless all of its nodes must stay.
///
/// # Errors
/// When a rule proves unsound.
pub(super) fn grow(task: &Task, saturated: &mut Saturated) -> Result<Saturation, AlgebraError> {
    let free = saturated.order.iter().any(|id| !task.frozen.contains(id));
    let rules = if free { task.rules } else { &[] };
    saturate(&mut saturated.egraph, rules, &task.objective.limits).map_err(|problem| task.unsound(problem))
}

/// Rewrites the region of a task in the program.
///
/// # Errors
/// When a rule proves unsound or the graph refuses a rewrite.
pub(super) fn optimize(task: &Task, program: &mut Program) -> Result<RegionReport, AlgebraError> {
    let mut seconds = Seconds::default();
    let mut clock = Instant::now();
    let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
    let mut saturated = build(task)?;
    seconds.build = lap();
    let saturation = grow(task, &mut saturated)?;
    seconds.saturate = lap();
    let selection = Selection::new(task, &saturated);
    let choice = extract(&selection.problem).choice;
    seconds.extract = lap();
    let changes = rebuild(task, &saturated, &selection, &choice, program)?;
    seconds.rebuild = lap();
    let after = costs(&selection.problem, &choice).unwrap_or_default();
    let before = costs_before(task, &saturated);
    let entries = task.objective.bindings.iter().zip(task.uses).zip(before.into_iter().zip(after));
    Ok(RegionReport {
        name: task.program.regions[task.index].name,
        fired: saturation.fired,
        nodes: saturated.egraph.total_number_of_nodes(),
        classes: saturated.egraph.number_of_classes(),
        rounds: saturation.rounds,
        stop: saturation.stop,
        costs: entries
            .map(|((binding, live), (before, after))| {
                let runs = live.runs[task.index];
                EntryCost { entry: binding.entry, before: before * runs, after: after * runs }
            })
            .collect(),
        changes,
        seconds,
    })
}

fn costs_before(task: &Task, saturated: &Saturated) -> Vec<f64> {
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
    pub numbers: HashMap<Id, usize>,
    pub nodes: Vec<Vec<ENode>>,
    /// The first node of the graph in each class.
    pub firsts: Vec<Option<NodeId>>,
}

impl Selection {
    pub fn new(task: &Task, saturated: &Saturated) -> Selection {
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
                !refers && (!is_open || Some(node) == first.as_ref())
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
        let roots = task.roots();
        let live_roots = |live: &Live| {
            roots
                .iter()
                .filter(|root| live.nodes[task.index].contains(root))
                .map(|&root| of_node(root))
                .collect()
        };
        let problem = Problem {
            classes,
            roots: task.uses.iter().map(live_roots).collect(),
            kept: roots.iter().map(|&root| of_node(root)).collect(),
            factors: (task.objective.bindings.iter().zip(task.uses))
                .map(|(binding, live)| binding.runs() * live.runs[task.index])
                .collect(),
            original,
        };
        Selection { problem, numbers, nodes, firsts }
    }
}

fn enode(egraph: &EGraph, saturated: &Saturated, graph: &diptych_ir::Graph, id: NodeId) -> ENode {
    let operands = graph.operands(id).iter().map(|operand| saturated.classes[operand]).collect();
    let node = ENode { op: canonical(&egraph.analysis, graph.op(id).clone()), operands };
    node.map_children(|id| egraph.find(id))
}

/// Puts the chosen forms into the program.
fn rebuild(
    task: &Task,
    saturated: &Saturated,
    selection: &Selection,
    choice: &Choice,
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
        let new = match had.get(&(class, node.clone())) {
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
                let new = graph.add(node.op.clone(), &operands)?;
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
    let region = &mut program.regions[task.index];
    region.results.iter_mut().for_each(|result| *result = renamed(*result));
    if task.index == 0 {
        for root in
            program.entries.iter_mut().flat_map(|entry| entry.roots.iter_mut().chain(&mut entry.updates))
        {
            root.1 = renamed(root.1);
        }
    }
    let region = &mut program.regions[task.index];
    let mut kept: Vec<NodeId> = task.roots().into_iter().map(renamed).collect();
    kept.extend(&region.arguments);
    region.graph.retain_ancestors(&kept);
    Ok(changes)
}
