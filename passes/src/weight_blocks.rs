//! Weights in blocks, for serving: which parameters can be held so, and the program that computes with them. It
//! chooses no format and packs nothing.

use crate::layout::{Leading, leading, parameter_names};
use diptych_ir::blocks::{BLOCK, BlockFormat, Blocks};
use diptych_ir::ops::RoundBlocks;
use diptych_ir::{Axis, Graph, IrError, NodeId, Op, Program, RegionId, Result, Symbol};
use std::collections::{BTreeMap, HashMap};

/// The parameters of more than one axis, each with the axes along which its blocks would lie, or why it has to stay
/// as it is. Every product of rows with it sums over these axes; beside that, rows of it may be taken.
pub fn candidates(program: &Program) -> BTreeMap<Symbol, std::result::Result<Vec<Axis>, String>> {
    let matrix = |name: &Symbol| {
        let info = &program.params[name];
        info.ty.axes.len() > 1 + usize::from(info.layers.is_some())
    };
    let mut found = BTreeMap::new();
    for name in program.params.keys().copied().filter(matrix) {
        found.insert(name, Err("no product of rows reads it".to_owned()));
    }
    let mut refused: BTreeMap<Symbol, String> = BTreeMap::new();
    let mut taken: Vec<(Symbol, Axis)> = Vec::new();
    for ((region, id), name) in parameter_names(program).into_iter().collect::<BTreeMap<_, _>>() {
        let graph = &program.region(region).graph;
        let is_root = program.entries.iter().flat_map(|entry| entry.roots.iter().chain(&entry.updates));
        if region == Program::MAIN && is_root.into_iter().any(|root| root.1 == id) {
            refused.insert(name, "it is asked for itself".to_owned());
        }
        for user in graph.users(id) {
            match (graph.op(user), found.get_mut(&name)) {
                (_, None) | (Op::Repeat(_), _) => {}
                (Op::Take(take), _) if graph.operands(user)[0] == id => taken.push((name, take.axis)),
                (op, Some(along)) => match summed(graph, user, id) {
                    Some(over) if along.as_ref().is_ok_and(|known| *known != over) => {
                        refused.insert(name, "products sum over different axes of it".to_owned());
                    }
                    Some(over) => *along = Ok(over),
                    None => {
                        refused.insert(name, format!("{} reads it otherwise than rows' products", op.name()));
                    }
                },
            }
        }
    }
    for (name, along) in &mut found {
        if let Ok(axes) = along
            && taken.iter().any(|(other, axis)| other == name && axes.contains(axis))
        {
            refused.insert(*name, "rows are taken along the axis that products sum over".to_owned());
        }
        if let Some(problem) = refused.remove(name) {
            *along = Err(problem);
        }
        if let Ok(axes) = along {
            let depth: usize = axes.iter().map(|axis| axis.fixed_size().unwrap_or(0)).product();
            if depth == 0 || !depth.is_multiple_of(BLOCK) {
                *along = Err(format!("{depth} numbers are summed, which is no multiple of {BLOCK}"));
            }
        }
    }
    found
}

/// The axes over which a node multiplies rows of tokens or sequences with a weight, if that is all it does.
fn summed(graph: &Graph, user: NodeId, weight: NodeId) -> Option<Vec<Axis>> {
    let Op::Contract(contract) = graph.op(user) else { return None };
    let operands = graph.operands(user);
    let [rows] = operands.iter().copied().filter(|&other| other != weight).collect::<Vec<_>>()[..] else {
        return None;
    };
    let (of_rows, of_weight) = (graph.axes(rows), graph.axes(weight));
    let shared = of_rows.iter().filter(|axis| of_weight.contains(**axis)).count();
    let whole = shared == contract.over.len() && of_weight.contains_all(&contract.over);
    let fits = operands.len() == 2
        && whole
        && of_rows.contains_all(&contract.over)
        && of_weight.len() > contract.over.len()
        && matches!(leading(of_rows), Ok(Leading::Rows | Leading::Batch))
        && graph.ty(rows).dtype == diptych_ir::DType::F32;
    fits.then(|| contract.over.clone())
}

/// The program with these parameters held in blocks: rows are rounded before they are multiplied with them.
///
/// # Errors
/// For a parameter that cannot be held so, or not in the format: which, and why.
pub fn hold_in_blocks(program: &Program, formats: &BTreeMap<Symbol, BlockFormat>) -> Result<Program> {
    let mut program = program.clone();
    let found = candidates(&program);
    for (&name, &format) in formats {
        let wrong =
            |problem: &str| IrError::Invalid(format!("`{name}` cannot be held in {format}: {problem}"));
        let along = match found.get(&name) {
            Some(Ok(along)) => along.clone(),
            Some(Err(problem)) => return Err(wrong(problem)),
            None => return Err(wrong("it is no matrix of the model")),
        };
        let blocks = Blocks { format, along };
        if !blocks.depth().is_multiple_of(format.elements()) {
            let (depth, elements) = (blocks.depth(), format.elements());
            return Err(wrong(&format!("{depth} numbers are no whole blocks of {elements}")));
        }
        if let Some(info) = program.params.get_mut(&name) {
            info.blocks = Some(blocks);
        }
    }
    for ((region, id), name) in sorted(parameter_names(&program)) {
        if formats.contains_key(&name) {
            round_rows(&mut program, region, id)?;
        }
    }
    diptych_ir::verify(&program)?;
    Ok(program)
}

/// In an order that does not depend on hashes.
fn sorted(names: HashMap<(RegionId, NodeId), Symbol>) -> BTreeMap<(RegionId, NodeId), Symbol> {
    names.into_iter().collect()
}

/// Rounds what is multiplied with a weight, once for all products of it.
fn round_rows(program: &mut Program, region: RegionId, weight: NodeId) -> Result<()> {
    let graph = &mut program.region_mut(region).graph;
    for user in graph.users(weight) {
        let Op::Contract(contract) = graph.op(user).clone() else { continue };
        let mut operands = graph.operands(user);
        for operand in operands.iter_mut().filter(|operand| **operand != weight) {
            let rounding = Op::RoundBlocks(RoundBlocks { over: contract.over.clone() });
            let known = graph.users(*operand).into_iter().find(|&other| *graph.op(other) == rounding);
            *operand = match known {
                Some(known) => known,
                None => graph.add(rounding, &[*operand])?,
            };
        }
        graph.set_operands(user, &operands)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_models::{Registry, build};
    use serde_json::json;

    fn program(preset: &str, change: serde_json::Value) -> Program {
        let registry = Registry::zoo();
        let architecture = registry.preset(preset).unwrap();
        let mut config = architecture.describe();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        build(&*registry.architecture(architecture.name(), &config).unwrap()).unwrap()
    }

    fn formats(program: &Program, format: BlockFormat) -> BTreeMap<Symbol, BlockFormat> {
        candidates(program).into_iter().filter(|row| row.1.is_ok()).map(|row| (row.0, format)).collect()
    }

    #[test]
    fn products_of_rows_alone_are_held_in_blocks() {
        let sizes = json!({ "embed": 64, "head_dim": 16, "hidden": 40, "tied": true });
        let found = candidates(&program("llama-tiny", sizes));
        let names = |axes: &[Axis]| axes.iter().map(|axis| axis.name.to_string()).collect::<Vec<_>>();
        let of = |name: &str| found[&Symbol::new(name)].clone();
        assert_eq!(names(&of("layers.q").unwrap()), ["embed"]);
        assert_eq!(names(&of("layers.o").unwrap()), ["kv_head", "group", "head_dim"]);
        assert_eq!(
            names(&of("embedding").unwrap()),
            ["embed"],
            "the logits' weight, of which rows are taken too"
        );
        assert!(of("layers.down").unwrap_err().contains("40 numbers are summed"));
        assert!(!found.contains_key(&Symbol::new("layers.attention_norm")), "a norm's weight is no matrix");
        // Experts are chosen by ids, and what latents are expanded to is computed over the past.
        let experts = candidates(&program("moe-tiny", json!({ "embed": 64 })));
        let problems: Vec<&String> = experts.values().filter_map(|along| along.as_ref().err()).collect();
        assert!(problems.iter().any(|problem| problem.contains("no product of rows")), "{problems:?}");
    }

    #[test]
    fn rows_are_rounded_once_for_all_products_that_share_them() {
        let whole = program("llama-tiny", json!({ "embed": 64, "head_dim": 16, "hidden": 96 }));
        let held = hold_in_blocks(&whole, &formats(&whole, BlockFormat::Q8_0)).unwrap();
        let body = held.regions.iter().find(|region| region.name.as_str() == "layers").unwrap();
        let of = |wanted: fn(&Op) -> bool| {
            body.graph.ids().into_iter().filter(|&id| wanted(body.graph.op(id))).count()
        };
        // Of what goes to q, k and v, to o, to gate and up, and to down.
        assert_eq!(of(|op| matches!(op, Op::RoundBlocks(_))), 4);
        let info = &held.params[&Symbol::new("layers.q")];
        assert_eq!(info.blocks.as_ref().map(|blocks| blocks.format), Some(BlockFormat::Q8_0));
        let error = crate::differentiate(&held).unwrap_err().to_string();
        assert!(error.contains("for serving, not for training"), "{error}");
    }

    #[test]
    fn what_cannot_be_held_so_is_refused() {
        let whole = program("llama-tiny", json!({ "embed": 64, "head_dim": 16, "hidden": 40 }));
        let refused = |name: &str, format: BlockFormat| {
            let formats = BTreeMap::from([(Symbol::new(name), format)]);
            hold_in_blocks(&whole, &formats).unwrap_err().to_string()
        };
        let down = refused("layers.down", BlockFormat::Q8_0);
        assert!(down.contains("`layers.down` cannot be held in q8_0: 40 numbers"), "{down}");
        let short = refused("layers.q", BlockFormat::Q4K);
        assert!(short.contains("64 numbers are no whole blocks of 256"), "{short}");
        let unknown = refused("layers.x", BlockFormat::Q8_0);
        assert!(unknown.contains("no matrix of the model"), "{unknown}");
    }
}
