//! What the algebra did to each region, for people to read.

use diptych_ir::{EntryKind, Graph, NodeId, Op, Symbol};
use std::collections::BTreeMap;
use std::fmt;

/// What was done to a program.
#[derive(Clone, Debug, Default)]
pub struct AlgebraReport {
    /// One for each region of the program, in order.
    pub regions: Vec<RegionReport>,
}

/// What was done to a region.
#[derive(Clone, Debug)]
pub struct RegionReport {
    /// Its name.
    pub name: Symbol,
    /// How often each rule brought something new.
    pub fired: BTreeMap<&'static str, usize>,
    /// E-nodes at the end of saturation.
    pub nodes: usize,
    /// E-classes at the end of saturation.
    pub classes: usize,
    /// Rounds of all rules.
    pub rounds: usize,
    /// Why saturation ended.
    pub stop: StopReason,
    /// Predicted cost of the region in each binding of the objective, in its order.
    pub costs: Vec<EntryCost>,
    /// The rewrites that were taken.
    pub changes: Vec<Change>,
    /// Where the time went.
    pub seconds: Seconds,
}

/// Predicted seconds of one run of an entry in a region (all its layers), in the additive model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EntryCost {
    /// The entry.
    pub entry: EntryKind,
    /// As the region was.
    pub before: f64,
    /// As it is.
    pub after: f64,
}

/// A value that is computed in another way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The name of the value, if it has one.
    pub label: Option<Symbol>,
    /// How it was computed.
    pub before: String,
    /// How it is computed.
    pub after: String,
}

/// Why saturation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// No rule brings anything new.
    Saturated,
    /// The limit of e-nodes.
    Nodes,
    /// The limit of rounds.
    Rounds,
    /// The limit of matching steps.
    Steps,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopReason::Saturated => "saturated",
            StopReason::Nodes => "stopped by the limit of e-nodes",
            StopReason::Rounds => "stopped by the limit of rounds",
            StopReason::Steps => "stopped by the limit of matching steps",
        })
    }
}

/// Wall-clock seconds of each stage.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Seconds {
    /// From the graph to the e-graph.
    pub build: f64,
    /// Saturation.
    pub saturate: f64,
    /// The choice of one form.
    pub extract: f64,
    /// Back to a graph.
    pub rebuild: f64,
}

impl Seconds {
    /// Each stage by name, in order.
    pub fn parts(&self) -> [(&'static str, f64); 4] {
        [
            ("build", self.build),
            ("saturate", self.saturate),
            ("extract", self.extract),
            ("rebuild", self.rebuild),
        ]
    }
}

/// What all that was done to a region took.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RegionSeconds {
    /// The region's name.
    pub name: Symbol,
    /// Where the time went.
    pub seconds: Seconds,
}

impl AlgebraReport {
    /// What each region took.
    pub fn seconds(&self) -> impl Iterator<Item = RegionSeconds> {
        self.regions.iter().map(|region| RegionSeconds { name: region.name, seconds: region.seconds })
    }
}

impl fmt::Display for AlgebraReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in &self.regions {
            let (nodes, classes, rounds) = (region.nodes, region.classes, region.rounds);
            writeln!(
                f,
                "region {}: {nodes} e-nodes in {classes} classes after {rounds} rounds, {}",
                region.name, region.stop
            )?;
            let taken = region.seconds.parts().map(|(stage, seconds)| format!("{stage} {seconds:.3} s"));
            writeln!(f, "  took: {}", taken.join(", "))?;
            for cost in &region.costs {
                let (before, after) = (cost.before * 1e3, cost.after * 1e3);
                writeln!(f, "  {}: {before:.4} ms -> {after:.4} ms", cost.entry.name())?;
            }
            let mut fired: Vec<(&str, usize)> =
                region.fired.iter().map(|(&name, &count)| (name, count)).collect();
            fired.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
            let fired: Vec<String> = fired.iter().map(|(name, count)| format!("{name}×{count}")).collect();
            if !fired.is_empty() {
                writeln!(f, "  fired: {}", fired.join(", "))?;
            }
            for change in &region.changes {
                let label = change.label.map(|label| format!("{label}: ")).unwrap_or_default();
                writeln!(f, "  {label}{}\n    -> {}", change.before, change.after)?;
            }
        }
        Ok(())
    }
}

/// A node as an expression, its operands to this depth; deeper ones by label or number.
pub(super) fn expression(graph: &Graph, id: NodeId, depth: usize) -> String {
    let node = graph.node(id);
    let name = |id: NodeId| match graph.node(id).label {
        Some(label) => format!("{label}"),
        None => format!("%{}", id.index()),
    };
    let over = |axes: &[diptych_ir::Axis]| {
        let axes: Vec<String> = axes.iter().map(|axis| axis.name.to_string()).collect();
        format!("[{}]", axes.join(", "))
    };
    let head = match &node.op {
        Op::Param(param) => return param.name.to_string(),
        Op::Input(input) => return input.name.to_string(),
        Op::Argument(_) | Op::Output(_) | Op::Index(_) => return name(id),
        op if op.as_loop().is_some() => return name(id),
        Op::Literal(literal) => {
            return literal.as_scalar().map_or_else(|| name(id), |value| value.to_string());
        }
        Op::Contract(contract) => format!("contract{}", over(&contract.over)),
        Op::Reduce(reduce) => format!("{}{}", node.op.name(), over(&reduce.over)),
        op => op.name().to_owned(),
    };
    if depth == 0 {
        return name(id);
    }
    let operands: Vec<String> =
        graph.operands(id).into_iter().map(|operand| expression(graph, operand, depth - 1)).collect();
    format!("{head}({})", operands.join(", "))
}
