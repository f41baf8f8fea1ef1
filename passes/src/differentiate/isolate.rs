//! Gives `Train` its own copy of what it computes from its loops on. The
//! loops will yield what the backward pass needs, which no other entry should pay for.

use diptych_ir::{EntryKind, NodeId, Program, Result};
use std::collections::HashMap;

/// Copies, in the main region, every node that `Train`'s roots depend on and
/// that is a loop or depends on one, and points `Train`'s roots to the copies.
///
/// # Errors
/// When a node does not fit its operands.
pub(super) fn isolate(program: &mut Program) -> Result<()> {
    let Some(position) = program.entries.iter().position(|entry| entry.kind == EntryKind::Train) else {
        return Ok(());
    };
    let roots: Vec<NodeId> = program.entries[position].roots.iter().map(|root| root.1).collect();
    let graph = &mut program.main_mut().graph;
    let mut copies: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.ancestors(&roots) {
        let operands = graph.operands(id);
        let is_loop = graph.op(id).as_loop().is_some();
        if is_loop || operands.iter().any(|operand| copies.contains_key(operand)) {
            let mapped: Vec<NodeId> =
                operands.iter().map(|operand| *copies.get(operand).unwrap_or(operand)).collect();
            let node = graph.node(id).clone();
            let copy = graph.add(node.op, &mapped)?;
            graph.annotate(copy, node.span, node.label);
            copies.insert(id, copy);
        }
    }
    for root in &mut program.entries[position].roots {
        root.1 = *copies.get(&root.1).unwrap_or(&root.1);
    }
    Ok(())
}
