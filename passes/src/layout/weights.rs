//! Which values without run-time axes are weights of contractions with run-time
//! rows, and the panels in which those are to lie: parameters, and what is
//! derived from them. It knows no kernel and decides for no parameter.

use super::{Layout, Layouts, Leading, leading, parameter_names};
use diptych_ir::ops::Contract;
use diptych_ir::{Axis, Graph, NodeId, Op, Program, Region, RegionId, Symbol};
use std::collections::{HashMap, HashSet};

/// A value, by region and node.
type Value = (RegionId, NodeId);

/// The panels that weights ask for, each for the first contraction that uses it.
#[derive(Debug, Default)]
pub struct Weights {
    /// Of parameters, without the layer axis.
    pub params: HashMap<Symbol, Layout>,
    /// Of values that are computed, and of arguments that are given such a value.
    pub derived: HashMap<Value, Layout>,
}

impl Weights {
    /// Looks at every contraction of a program, in the order of computation.
    ///
    /// What a weight is computed from element by element asks for the same layout, so that a flat kernel makes it;
    /// so do the pieces of a concatenation, which then is a copy of panels.
    pub fn of(program: &Program, layouts: &Layouts) -> Weights {
        let mut search = Search {
            program,
            names: parameter_names(program),
            givers: givers(program),
            fixed: fixed(program),
            weights: Weights::default(),
        };
        for (index, region) in program.regions.iter().enumerate() {
            for id in region.graph.topological_order() {
                let Op::Contract(contract) = region.graph.op(id) else { continue };
                for (operand, layout) in packed_operands(region, id, contract, layouts) {
                    search.want((RegionId(index as u32), operand), &layout);
                }
            }
        }
        search.weights
    }
}

/// The operands of a contraction that it reads as weights, with the panels that suit it.
fn packed_operands(
    region: &Region,
    id: NodeId,
    contract: &Contract,
    layouts: &Layouts,
) -> Vec<(NodeId, Layout)> {
    let graph = &region.graph;
    let operands = graph.operands(id);
    let walks_rows =
        |&operand: &NodeId| has_rows(graph, operand) || leading(graph.axes(operand)) == Ok(Leading::Past);
    if operands.len() != 2 || !operands.iter().any(walks_rows) {
        return Vec::new();
    }
    let panels = |&operand: &NodeId| {
        let others: Vec<NodeId> = operands.iter().copied().filter(|&other| other != operand).collect();
        let (operand, chosen) = chosen_weight(graph, &operands, operand);
        let axes = graph.axes(operand);
        // A matrix that ids choose is a run of rows in each panel.
        let summed = contract.over.iter().copied().filter(|axis| axes.contains(*axis));
        let k: Vec<Axis> = chosen.into_iter().chain(summed).collect();
        // Axes that both have are walked one by one, each of their positions with panels of its own.
        let walked = |axis: &Axis| others.iter().any(|&other| graph.axes(other).contains(*axis));
        let (walked, own): (Vec<Axis>, Vec<Axis>) =
            axes.without(&k).iter().copied().partition(|axis| walked(axis));
        let n = [layouts.ordered(walked), layouts.ordered(own)].concat();
        let is_matrix = k.len() > usize::from(chosen.is_some()) && !n.is_empty() && axes.len() > 1;
        (is_matrix && leading(axes) == Ok(Leading::None)).then_some((operand, Layout::Packed { k, n }))
    };
    operands.iter().filter_map(panels).collect()
}

fn has_rows(graph: &Graph, id: NodeId) -> bool {
    matches!(leading(graph.axes(id)), Ok(Leading::Rows | Leading::Batch))
}

/// The table of an operand that takes weights for rows, with the axis of the ids; else the operand itself.
fn chosen_weight(graph: &Graph, operands: &[NodeId], operand: NodeId) -> (NodeId, Option<Axis>) {
    match graph.op(operand) {
        Op::Take(take) if operands.iter().all(|&operand| has_rows(graph, operand)) => {
            (graph.operands(operand)[0], Some(take.axis))
        }
        _ => (operand, None),
    }
}

/// What each invariant argument of a repeat is given. A body that several repeats run is left out.
fn givers(program: &Program) -> HashMap<Value, Value> {
    let mut givers = HashMap::new();
    let mut bodies = HashSet::new();
    for (index, region) in program.regions.iter().enumerate() {
        let graph = &region.graph;
        for id in graph.ids() {
            let Op::Repeat(repeat) = graph.op(id) else { continue };
            let arguments = &program.region(repeat.body).arguments;
            if !bodies.insert(repeat.body) {
                givers.retain(|argument: &Value, _| argument.0 != repeat.body);
                continue;
            }
            let ports = graph.operands(id).into_iter().zip(arguments);
            for (operand, &argument) in ports.skip(repeat.carried + repeat.stacked) {
                givers.insert((repeat.body, argument), (RegionId(index as u32), operand));
            }
        }
    }
    givers
}

/// The values that lie as others do: roots, what repeats carry, and what recurrences are given.
fn fixed(program: &Program) -> HashSet<Value> {
    let mut fixed = HashSet::new();
    for entry in &program.entries {
        fixed.extend(entry.roots.iter().chain(&entry.updates).map(|root| (Program::MAIN, root.1)));
    }
    for (index, region) in program.regions.iter().enumerate() {
        let own = RegionId(index as u32);
        for id in region.graph.ids() {
            let operands = region.graph.operands(id);
            match region.graph.op(id) {
                Op::Repeat(repeat) => {
                    fixed.extend(operands[..repeat.carried].iter().map(|&operand| (own, operand)));
                    let results = &program.region(repeat.body).results[..repeat.carried];
                    fixed.extend(results.iter().map(|&result| (repeat.body, result)));
                }
                Op::Scan(_) => fixed.extend(operands.iter().map(|&operand| (own, operand))),
                _ => {}
            }
        }
    }
    fixed
}

struct Search<'a> {
    program: &'a Program,
    names: HashMap<Value, Symbol>,
    givers: HashMap<Value, Value>,
    fixed: HashSet<Value>,
    weights: Weights,
}

impl Search<'_> {
    /// Asks for a layout of a value; what it gets is what was asked for first, if it can have any.
    fn want(&mut self, value: Value, layout: &Layout) -> Option<Layout> {
        if let Some(&name) = self.names.get(&value) {
            return Some(self.weights.params.entry(name).or_insert_with(|| layout.clone()).clone());
        }
        if let Some(known) = self.weights.derived.get(&value) {
            return Some(known.clone());
        }
        let (region, id) = value;
        let program = self.program;
        let graph = &program.region(region).graph;
        if self.fixed.contains(&value) || leading(graph.axes(id)) != Ok(Leading::None) {
            return None;
        }
        let operands = graph.operands(id);
        match graph.op(id) {
            Op::Argument(_) => {
                let giver = *self.givers.get(&value)?;
                let given = self.want(giver, layout)?;
                self.weights.derived.insert(value, given.clone());
                return Some(given);
            }
            Op::Contract(_) | Op::Reduce(_) => {
                self.weights.derived.insert(value, layout.clone());
            }
            Op::Map(_) | Op::Cast(_) => {
                self.weights.derived.insert(value, layout.clone());
                for operand in operands {
                    if graph.axes(operand) == graph.axes(id) {
                        self.want((region, operand), layout);
                    }
                }
            }
            Op::Concat(concat) => {
                self.weights.derived.insert(value, layout.clone());
                for (operand, &piece) in operands.into_iter().zip(&concat.pieces) {
                    if let Some(layout) = with(layout, &[concat.into], &[piece])
                        && graph.axes(operand).contains(piece)
                    {
                        self.want((region, operand), &layout);
                    }
                }
            }
            // A view has no storage of its own.
            Op::Rename(rename) => {
                let inner = with(layout, &[rename.to], &[rename.from])?;
                self.want((region, operands[0]), &inner)?;
                return None;
            }
            Op::Merge(merge) => {
                let inner = with(layout, &[merge.into], &merge.axes)?;
                self.want((region, operands[0]), &inner)?;
                return None;
            }
            Op::Split(split) => {
                let inner = with(layout, &split.into, &[split.axis])?;
                self.want((region, operands[0]), &inner)?;
                return None;
            }
            _ => return None,
        }
        Some(layout.clone())
    }
}

/// A packed layout with one run of axes, which must lie one within the other, in place of another.
fn with(layout: &Layout, run: &[Axis], by: &[Axis]) -> Option<Layout> {
    let Layout::Packed { k, n } = layout else { return None };
    let replaced = |axes: &[Axis]| {
        let start = axes.windows(run.len()).position(|window| window == run)?;
        Some([&axes[..start], by, &axes[start + run.len()..]].concat())
    };
    match (replaced(k), replaced(n)) {
        (Some(k), _) => Some(Layout::Packed { k, n: n.clone() }),
        (None, Some(n)) => Some(Layout::Packed { k: k.clone(), n }),
        (None, None) => None,
    }
}
