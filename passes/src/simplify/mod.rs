//! Local rewrites that are always good and change no bit of any value: equal
//! nodes become one, what nobody uses goes, and the table of `rules` is applied
//! from the leaves up. It searches nothing; choices are the algebra's business.

mod ports;
mod rules;
#[cfg(test)]
mod tests;

use diptych_ir::ops::Map;
use diptych_ir::{Graph, NodeId, Op, Program, Region, RegionId, Result, ScalarFn};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The program, simplified: the same entries, with the same bits. Nodes get new
/// ids; a region that no loop runs any more goes, and so do operands and
/// results of a loop that nobody reads.
///
/// # Errors
/// When the program is not well-formed.
pub fn simplify(program: &Program) -> Result<Program> {
    simplify_noting(program).map(|(program, _)| program)
}

/// As [`simplify`]; also names the rules that fired.
fn simplify_noting(program: &Program) -> Result<(Program, BTreeSet<&'static str>)> {
    let mut program = program.clone();
    let mut fired = BTreeSet::new();
    drop_unused_nodes(&mut program);
    for region in 0..program.regions.len() {
        let region = RegionId(region as u32);
        let (rebuilt, map) = rebuild(program.region(region), &mut fired)?;
        *program.region_mut(region) = rebuilt;
        if region == Program::MAIN {
            for entry in &mut program.entries {
                for (_, root) in entry.roots.iter_mut().chain(&mut entry.updates) {
                    *root = map[root];
                }
            }
        }
    }
    ports::drop_unused(&mut program)?;
    drop_unused_nodes(&mut program);
    if cfg!(debug_assertions) {
        diptych_ir::verify(&program)?;
    }
    Ok((program, fired))
}

/// Makes the main region's results the roots and updates of all entries, and
/// removes what none of them depends on.
pub(crate) fn drop_unused_nodes(program: &mut Program) {
    let entries = program.entries.iter();
    let mut roots: Vec<NodeId> =
        entries.flat_map(|entry| entry.roots.iter().chain(&entry.updates)).map(|root| root.1).collect();
    let mut seen = HashSet::new();
    roots.retain(|root| seen.insert(*root));
    program.main_mut().graph.retain_ancestors(&roots);
    program.main_mut().results = roots;
}

/// The region built anew through the rules, and where each needed node went.
fn rebuild(region: &Region, fired: &mut BTreeSet<&'static str>) -> Result<(Region, HashMap<NodeId, NodeId>)> {
    let old = &region.graph;
    let mut builder = Builder { graph: Graph::new(), known: HashMap::new(), fired: BTreeSet::new() };
    for &axis in old.axis_order() {
        builder.graph.declare_axis(axis);
    }
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    let needed = old.ancestors(&region.results).into_iter().filter(|id| !region.arguments.contains(id));
    for id in region.arguments.iter().copied().chain(needed) {
        let node = old.node(id);
        let operands: Vec<NodeId> = old.operands(id).iter().map(|operand| map[operand]).collect();
        let new = builder.add(node.op.clone(), &operands)?;
        if builder.graph.node(new).label.is_none() {
            builder.graph.annotate(new, node.span, node.label);
        }
        map.insert(id, new);
    }
    fired.append(&mut builder.fired);
    let mut graph = builder.graph;
    let arguments: Vec<NodeId> = region.arguments.iter().map(|id| map[id]).collect();
    let results: Vec<NodeId> = region.results.iter().map(|id| map[id]).collect();
    graph.retain_ancestors(&[&arguments[..], &results].concat());
    Ok((Region { name: region.name, graph, arguments, results }, map))
}

/// A graph to which nodes are added through the rules, each but once.
struct Builder {
    graph: Graph,
    known: HashMap<(Op, Vec<NodeId>), NodeId>,
    fired: BTreeSet<&'static str>,
}

impl Builder {
    /// A node with the value of this op on these operands.
    fn add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> Result<NodeId> {
        let op = op.into();
        let mut key = operands.to_vec();
        if let Op::Map(Map(ScalarFn::Add | ScalarFn::Mul | ScalarFn::Equal | ScalarFn::And | ScalarFn::Or)) =
            op
        {
            key.sort_unstable();
        }
        let key = (op, key);
        if let Some(&known) = self.known.get(&key) {
            return Ok(known);
        }
        let op = key.0.clone();
        let mut result = None;
        for rule in rules::RULES {
            let found = (rule.apply)(self, &op, operands)?;
            if let Some(found) = found
                && self.has_type_of(found, &op, operands)?
            {
                self.fired.insert(rule.name);
                result = Some(found);
                break;
            }
        }
        let result = match result {
            Some(result) => result,
            None => self.graph.add(op, operands)?,
        };
        self.known.insert(key, result);
        Ok(result)
    }

    /// Whether a node may stand for an op: a rule knows values, and a type may
    /// still differ (an operand of fewer axes, or of bf16 where the op gives f32).
    fn has_type_of(&self, found: NodeId, op: &Op, operands: &[NodeId]) -> Result<bool> {
        let types: Vec<_> = operands.iter().map(|&operand| self.graph.ty(operand)).collect();
        Ok(op.operator().infer(&types)? == *self.graph.ty(found))
    }
}
