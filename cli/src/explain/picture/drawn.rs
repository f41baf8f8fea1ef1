//! What is drawn of a region: boxes with text, and arrows between them. Small
//! steps become part of their users' text, so that a layer fits on a page. It knows no place on it.

use super::terms::Term;
use diptych_ir::ops::Map;
use diptych_ir::{Axis, Graph, NodeId, Op, Program, Region, ScalarFn};
use diptych_passes::algebra::{live, parameter_arguments};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A region as boxes and arrows.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Operands before users.
    pub boxes: Vec<Value>,
    /// From a box to one that uses it; by that box.
    pub arrows: Vec<(usize, usize)>,
}

/// A value in a box.
#[derive(Clone, Debug)]
pub struct Value {
    /// What it is called, how it is computed, and its axes.
    pub lines: Vec<String>,
    /// What kind of value it is.
    pub kind: Kind,
    /// Whether only the algebra has it.
    pub new: bool,
}

/// What kind of value it is: what colour it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A parameter.
    Parameter,
    /// Computed from parameters alone: once, at load, when serving.
    Derived,
    /// Of new tokens.
    Activation,
    /// A contraction of new tokens.
    Contraction,
    /// Over all positions so far.
    Cache,
    /// A contraction over all positions so far.
    CacheContraction,
}

/// A program with what is to be known to draw it.
pub struct Source<'a> {
    program: &'a Program,
    /// The nodes that are used, by region.
    used: Vec<HashSet<NodeId>>,
    parameters: Vec<HashSet<usize>>,
    /// The axes of positions so far.
    past: BTreeSet<Axis>,
}

impl<'a> Source<'a> {
    /// A program with the nodes that its entries of `kinds` use.
    pub fn new(program: &'a Program, kinds: &[diptych_ir::EntryKind]) -> Source<'a> {
        let entries = program.entries.iter().filter(|entry| kinds.contains(&entry.kind));
        let roots = entries.flat_map(|entry| entry.roots.iter().chain(&entry.updates));
        let roots: Vec<NodeId> = roots.map(|root| root.1).collect();
        let nodes = program
            .regions
            .iter()
            .flat_map(|region| region.graph.ids().into_iter().map(|id| region.graph.op(id)));
        let past = nodes.filter_map(|op| match op {
            Op::History(history) => Some(history.past),
            _ => None,
        });
        Source {
            program,
            used: live(program, &roots, &|_| 1.0).nodes,
            parameters: parameter_arguments(program),
            past: past.collect(),
        }
    }

    /// The region of this number.
    pub fn region(&self, index: usize) -> &'a Region {
        &self.program.regions[index]
    }

    /// Whether this program computes a value of a region as the other one does: the algebra keeps the id of what it
    /// leaves as it was. What only stands in another room of the caches is no other value.
    fn has(&self, index: usize, graph: &Graph, id: NodeId) -> bool {
        let own = &self.region(index).graph;
        let same = |own_id: NodeId| match (own.op(own_id), graph.op(id)) {
            (Op::History(own_op), Op::History(op)) => {
                (own_op.time, own_op.past, own_op.window) == (op.time, op.past, op.window)
            }
            (own_op, op) => own_op == op,
        };
        let kept = own.contains(id) && same(id);
        let elsewhere = || {
            let operands = graph.operands(id);
            let known = operands.iter().all(|&operand| own.contains(operand));
            let users = operands.first().filter(|_| known).map(|&operand| own.users(operand));
            users.into_iter().flatten().any(|user| same(user) && own.operands(user) == operands)
        };
        kept || matches!(graph.op(id), Op::History(_)) && elsewhere()
    }
}

/// Draws a region; what `before` does not have is new.
pub fn draw(source: &Source, index: usize, before: &Source) -> Drawing {
    let region = source.region(index);
    let graph = &region.graph;
    let used = &source.used[index];
    let order: Vec<NodeId> = graph.topological_order().into_iter().filter(|id| used.contains(id)).collect();
    let ends: HashSet<NodeId> = match index {
        0 => source.program.entries.iter().flat_map(|entry| &entry.roots).map(|root| root.1).collect(),
        _ => region.results.iter().copied().collect(),
    };
    let kinds = kinds(source, index, &order);
    let new: HashSet<NodeId> = order.iter().copied().filter(|&id| !before.has(index, graph, id)).collect();
    let mut painter = Painter { region, ends: &ends, used, kinds: &kinds, new: &new, seen: HashMap::new() };
    let (mut boxes, mut arrows) = (Vec::new(), Vec::new());
    let mut places: HashMap<NodeId, usize> = HashMap::new();
    for id in order {
        let term = painter.term(id);
        let from: BTreeSet<NodeId> =
            graph.operands(id).iter().flat_map(|operand| painter.seen[operand].from.clone()).collect();
        if painter.folds(id, &term) {
            painter.seen.insert(id, Seen { term, from });
            continue;
        }
        let place = boxes.len();
        arrows.extend(from.iter().map(|source| (places[source], place)));
        boxes.push(Value { lines: painter.lines(id, &term), kind: kinds[&id], new: new.contains(&id) });
        places.insert(id, place);
        let term = match graph.operands(id).is_empty() {
            true => term,
            false => Term::name(painter.name(id)),
        };
        painter.seen.insert(id, Seen { term, from: [id].into() });
    }
    Drawing { boxes, arrows }
}

/// What users see of a value.
struct Seen {
    term: Term,
    /// The boxes that it is computed from; its own, if it has one.
    from: BTreeSet<NodeId>,
}

struct Painter<'a> {
    region: &'a Region,
    ends: &'a HashSet<NodeId>,
    used: &'a HashSet<NodeId>,
    kinds: &'a HashMap<NodeId, Kind>,
    new: &'a HashSet<NodeId>,
    seen: HashMap<NodeId, Seen>,
}

/// The longest text, in characters, that a chain of pointwise steps may become.
const LONGEST_CHAIN: usize = 64;
/// Characters of a line in a box.
const LINE: usize = 30;

impl Painter<'_> {
    /// The name that other boxes know a value by: the user's, within the region, or its number.
    fn name(&self, id: NodeId) -> String {
        let node = self.region.graph.node(id);
        let of_region = format!("{}.", self.region.name);
        match (&node.op, node.label) {
            (Op::Param(param), _) => param.name.to_string(),
            (Op::Input(input), _) => input.name.to_string(),
            (_, Some(label)) => label.as_str().strip_prefix(&of_region).unwrap_or(label.as_str()).to_owned(),
            _ => format!("%{}", id.index()),
        }
    }

    fn term(&self, id: NodeId) -> Term {
        let graph = &self.region.graph;
        let operands: Vec<Term> =
            graph.operands(id).iter().map(|operand| self.seen[operand].term.clone()).collect();
        match graph.op(id) {
            // A product often has the name of its weight.
            Op::Param(_) | Op::Argument(_) if self.kinds[&id] == Kind::Parameter => {
                Term::name(format!("@{}", self.name(id)))
            }
            Op::Param(_) | Op::Input(_) | Op::Argument(_) => Term::name(self.name(id)),
            Op::Output(output) => {
                let of = operands.first().map(|operand| operand.text.clone()).unwrap_or_default();
                Term::name(if output.index == 0 { of } else { format!("{of}[{}]", output.index) })
            }
            op => match op.as_loop() {
                Some(looped) => Term::name(format!("{} over {}", looped.name, looped.over)),
                None => Term::of(op, &operands),
            },
        }
    }

    /// Whether a value has no box, but is part of its users' text.
    fn folds(&self, id: NodeId, term: &Term) -> bool {
        let graph = &self.region.graph;
        let users: Vec<NodeId> =
            graph.users(id).into_iter().filter(|user| self.used.contains(user)).collect();
        let named = graph.node(id).label.is_some();
        let into_loop = users.iter().any(|&user| graph.op(user).as_loop().is_some());
        match graph.op(id) {
            // Without a box, nobody would see these.
            _ if users.is_empty() || self.ends.contains(&id) => false,
            Op::Literal(_) | Op::Index(_) | Op::Output(_) => true,
            Op::Cast(_)
            | Op::Rename(_)
            | Op::Split(_)
            | Op::Merge(_)
            | Op::Slice(_)
            | Op::Map(Map(ScalarFn::Detach)) => !named && !into_loop,
            Op::Map(_) | Op::Reduce(_) => {
                let alike = |user: NodeId| {
                    self.kinds[&user] == self.kinds[&id] && self.new.contains(&user) == self.new.contains(&id)
                };
                let step = |user: NodeId| {
                    matches!(
                        graph.op(user),
                        Op::Map(_) | Op::Reduce(_) | Op::Split(_) | Op::Cast(_) | Op::Concat(_)
                    )
                };
                match users[..] {
                    [user] => {
                        !named && alike(user) && step(user) && term.text.chars().count() <= LONGEST_CHAIN
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// What stands in a box.
    fn lines(&self, id: NodeId, term: &Term) -> Vec<String> {
        let graph = &self.region.graph;
        let mut title = match graph.operands(id).is_empty() {
            true => term.text.clone(),
            false => self.name(id),
        };
        if self.ends.contains(&id) {
            title.push_str(" ⇒ result");
        }
        let mut lines = vec![title];
        match graph.op(id) {
            Op::Argument(_) if self.kinds[&id] != Kind::Parameter => lines.push("given".to_owned()),
            Op::Argument(_) | Op::Param(_) | Op::Input(_) => {}
            _ => lines.extend(broken(&term.text, LINE)),
        }
        if graph.op(id).as_loop().is_none() {
            let axis = |axis: Axis| match axis.fixed_size() {
                Some(size) => format!("{}={size}", axis.name),
                None => axis.name.to_string(),
            };
            // What has one element says nothing of a size.
            let axes =
                graph.ordered(graph.axes(id).iter().copied().filter(|axis| axis.fixed_size() != Some(1)));
            let axes = axes.into_iter().map(axis);
            let axes: Vec<String> = axes.collect();
            let axes = if axes.is_empty() { "a number".to_owned() } else { format!("[{}]", axes.join(" ")) };
            lines.extend(broken(&axes, LINE));
        }
        lines
    }
}

/// A text in lines of at most so many characters, where its words allow it.
fn broken(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn kinds(source: &Source, index: usize, order: &[NodeId]) -> HashMap<NodeId, Kind> {
    let graph = &source.region(index).graph;
    let runs_over_past = |id: NodeId| {
        let operands = graph.operands(id);
        let values = operands.into_iter().chain([id]);
        // A loop is given much that it does not run over.
        graph.op(id).as_loop().is_none()
            && values.into_iter().any(|value| graph.axes(value).iter().any(|axis| source.past.contains(axis)))
    };
    let mut kinds: HashMap<NodeId, Kind> = HashMap::new();
    for &id in order {
        let of_parameters = |id: NodeId| {
            let operands = graph.operands(id);
            let derived = |operand: &NodeId| matches!(kinds[operand], Kind::Parameter | Kind::Derived);
            operands.iter().all(derived) && graph.op(id).as_loop().is_none()
        };
        let contracts = matches!(graph.op(id), Op::Contract(_));
        let kind = match graph.op(id) {
            Op::Param(param) if source.program.params.contains_key(&param.name) => Kind::Parameter,
            Op::Argument(argument) if source.parameters[index].contains(&argument.index) => Kind::Parameter,
            Op::Literal(_) => Kind::Derived,
            Op::Param(_) | Op::Input(_) | Op::Argument(_) | Op::Index(_) if runs_over_past(id) => Kind::Cache,
            Op::Param(_) | Op::Input(_) | Op::Argument(_) | Op::Index(_) => Kind::Activation,
            _ if of_parameters(id) => Kind::Derived,
            _ if runs_over_past(id) && contracts => Kind::CacheContraction,
            _ if runs_over_past(id) => Kind::Cache,
            _ if contracts => Kind::Contraction,
            _ => Kind::Activation,
        };
        kinds.insert(id, kind);
    }
    kinds
}
