//! Prints a program as text. It never fails: of a program that the verifier
//! would refuse it prints what there is, with `%missing` for absent nodes.

use super::{axis, list, name, number, ty};
use crate::{Entry, Initializer, NodeId, ParamInfo, Program, Region, Symbol, UpdateRule};
use std::collections::HashMap;

/// The text of a program; see the module for how it reads. Nodes are numbered
/// anew in each region: arguments first, then operands before users.
pub fn print(program: &Program) -> String {
    let mut text = format!("program {}\n", name(Symbol::new(&program.name)));
    for (symbol, bounds) in &program.bounds {
        text += &format!("size {} from {} to {}\n", name(*symbol), bounds.least, bounds.most);
    }
    for (symbol, info) in &program.params {
        text += &format!("param {}: {}\n", name(*symbol), param(info));
    }
    for (symbol, state) in &program.states {
        text += &format!("state {}: {}\n", name(*symbol), ty(state));
    }
    let mut main_numbers = HashMap::new();
    for (index, region) in program.regions.iter().enumerate() {
        let numbers = numbers(region);
        text += &format!("\nregion @{index} {} {{\n", name(region.name));
        text += &print_region(region, &numbers);
        text += "}\n";
        if index == 0 {
            main_numbers = numbers.into_iter().collect();
        }
    }
    for entry in &program.entries {
        text += &print_entry(entry, &main_numbers);
    }
    text
}

fn param(info: &ParamInfo) -> String {
    let mut sorted = info.order.clone();
    sorted.sort();
    let whole = sorted == info.ty.axes[..];
    let order = if whole { &info.order[..] } else { &info.ty.axes[..] };
    let mut text = format!("{}{}", info.ty.dtype, list(order, axis));
    text += &match info.initializer {
        Initializer::Constant(value) => format!(" constant {}", number(value)),
        Initializer::Normal { standard_deviation } => format!(" normal {}", number(standard_deviation)),
        Initializer::Uniform { bound } => format!(" uniform {}", number(bound)),
        Initializer::Between { least, most } => format!(" between {} and {}", number(least), number(most)),
    };
    text += &match info.update {
        UpdateRule::AdamW { decay: true } => " decay".to_owned(),
        UpdateRule::AdamW { decay: false } => String::new(),
        UpdateRule::SignDescent { rate } => format!(" sign_descent {}", number(rate)),
    };
    if let Some(layers) = info.layers {
        text += &format!(" stacked {}", axis(layers));
    }
    if !whole {
        text += &format!(" order {}", list(&info.order, axis));
    }
    if let Some(blocks) = &info.blocks {
        text += &format!(" blocks {} along {}", blocks.format, list(&blocks.along, axis));
    }
    text
}

/// The nodes of a region in the order of the text.
fn numbers(region: &Region) -> Vec<(NodeId, usize)> {
    let mut order: Vec<NodeId> =
        region.arguments.iter().copied().filter(|&id| region.graph.contains(id)).collect();
    let rest = region.graph.topological_order().into_iter().chain(region.graph.ids());
    let mut seen: std::collections::HashSet<NodeId> = order.iter().copied().collect();
    order.extend(rest.filter(|&id| seen.insert(id)));
    order.into_iter().enumerate().map(|(number, id)| (id, number)).collect()
}

fn node(id: NodeId, numbers: &HashMap<NodeId, usize>) -> String {
    numbers.get(&id).map_or_else(|| format!("%missing{}", id.index()), |number| format!("%{number}"))
}

fn print_region(region: &Region, order: &[(NodeId, usize)]) -> String {
    let graph = &region.graph;
    let numbers: HashMap<NodeId, usize> = order.iter().copied().collect();
    let mut text = format!("  axes {}\n", list(graph.axis_order(), name));
    for &(id, number) in order {
        let op = graph.op(id);
        text += &format!("  %{number}");
        if op.as_loop().is_none() {
            let ordered = graph.ordered(graph.axes(id).iter().copied());
            text += &format!(": {}{}", graph.ty(id).dtype, list(&ordered, axis));
        }
        text += &format!(" = {}", op.name());
        let operands = graph.operands(id);
        if !operands.is_empty() {
            let operands: Vec<String> = operands.iter().map(|&id| node(id, &numbers)).collect();
            text += &format!("({})", operands.join(", "));
        }
        let attributes = op.operator().attributes();
        if !attributes.is_empty() {
            text += &format!(" {attributes}");
        }
        if let Some(label) = graph.node(id).label {
            text += &format!("  # {}", name(label));
        }
        text += "\n";
    }
    text + &format!("  results {}\n", list(&region.results, |id| node(id, &numbers)))
}

fn print_entry(entry: &Entry, numbers: &HashMap<NodeId, usize>) -> String {
    let mut text = format!("\nentry {} {{\n", entry.kind.name());
    for (kind, rows) in [("root", &entry.roots), ("update", &entry.updates)] {
        for (symbol, id) in rows {
            text += &format!("  {kind} {} {}\n", name(*symbol), node(*id, numbers));
        }
    }
    text + "}\n"
}
