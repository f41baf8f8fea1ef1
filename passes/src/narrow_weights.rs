//! Weights in f16 or bf16, for serving: which parameters can be held so, and the program that reads them. It rounds
//! nothing: whoever sets the parameters does.

use crate::layout::parameter_names;
use diptych_ir::ops::Cast;
use diptych_ir::{DType, Graph, IrError, NodeId, Op, Program, RegionId, Result, Symbol};
use std::collections::{BTreeMap, BTreeSet};

/// The parameters of more than one axis, or why one has to stay as it is.
pub fn candidates(program: &Program) -> BTreeMap<Symbol, std::result::Result<(), String>> {
    let matrices = program.params.iter().filter(|(_, info)| {
        info.ty.axes.len() > 1 + usize::from(info.layers.is_some()) && info.ty.dtype == DType::F32
    });
    let mut found: BTreeMap<Symbol, std::result::Result<(), String>> =
        matrices.map(|(&name, _)| (name, Ok(()))).collect();
    for ((region, id), name) in parameter_names(program) {
        let results = &program.region(region).results;
        let roots = program.entries.iter().flat_map(|entry| entry.roots.iter().chain(&entry.updates));
        let is_root = region == Program::MAIN && roots.into_iter().any(|root| root.1 == id);
        if let (Some(held), true) = (found.get_mut(&name), is_root || results.contains(&id)) {
            *held = Err("it is asked for itself".to_owned());
        }
        if let (Some(held), true) = (found.get_mut(&name), program.params[&name].blocks.is_some()) {
            *held = Err("it is held in blocks".to_owned());
        }
    }
    found
}

/// The program with these parameters held in a narrow type. What reads one reads the numbers that it holds, widened:
/// products are of f32 rows, summed in f32, and rows of it that are taken become f32.
///
/// # Errors
/// For a parameter that cannot be held so, and for a type that is not f16 or bf16: which, and why.
pub fn hold_narrow(program: &Program, types: &BTreeMap<Symbol, DType>) -> Result<Program> {
    let mut program = program.clone();
    let found = candidates(&program);
    for (&name, &dtype) in types {
        let wrong =
            |problem: &str| Err(IrError::Invalid(format!("`{name}` cannot be held in {dtype}: {problem}")));
        match found.get(&name) {
            _ if !matches!(dtype, DType::F16 | DType::BF16) => {
                return wrong("only f16 and bf16 hold weights");
            }
            Some(Ok(())) => {}
            Some(Err(problem)) => return wrong(problem),
            None => return wrong("it is no matrix of the model in f32"),
        }
        if let Some(info) = program.params.get_mut(&name) {
            info.ty.dtype = dtype;
        }
    }
    let places: BTreeMap<(RegionId, NodeId), Symbol> = parameter_names(&program).into_iter().collect();
    for ((region, id), name) in places {
        if let Some(&dtype) = types.get(&name) {
            widen_where_read(&mut program.region_mut(region).graph, id, dtype)?;
        }
    }
    for region in &mut program.regions {
        // What was read before, and is no more.
        let kept = [&region.arguments[..], &region.results].concat();
        region.graph.retain_ancestors(&kept);
    }
    diptych_ir::verify(&program)?;
    Ok(program)
}

/// Gives a parameter or a port its type. Contractions read it as it is, loops pass it on, and whatever else reads it, or
/// rows of it, reads them widened.
fn widen_where_read(graph: &mut Graph, id: NodeId, dtype: DType) -> Result<()> {
    let users = graph.users(id);
    let takes = |graph: &Graph, user: NodeId| {
        matches!(graph.op(user), Op::Take(_)) && graph.operands(user).first() == Some(&id)
    };
    let (taken, others): (Vec<NodeId>, Vec<NodeId>) = users.into_iter().partition(|&user| takes(graph, user));
    let mut reading = BTreeSet::new();
    for user in others {
        if !matches!(graph.op(user), Op::Contract(_)) && graph.op(user).as_loop().is_none() {
            reading.insert(user);
        }
    }
    // While it is still what its readers expect.
    if !reading.is_empty() {
        let wide = graph.add(Cast(DType::F32), &[id])?;
        replace_in(graph, &reading, id, wide)?;
    }
    graph.set_dtype(id, dtype);
    for take in taken {
        let rows = graph.add(graph.op(take).clone(), &graph.operands(take))?;
        graph.annotate(rows, graph.node(take).span, graph.node(take).label);
        let (products, reading): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
            graph.users(take).into_iter().partition(|&user| matches!(graph.op(user), Op::Contract(_)));
        replace_in(graph, &products, take, rows)?;
        if !reading.is_empty() {
            let wide = graph.add(Cast(DType::F32), &[rows])?;
            replace_in(graph, &reading, take, wide)?;
        }
    }
    Ok(())
}

/// Lets nodes read another node than they did.
pub(crate) fn replace_in(
    graph: &mut Graph,
    users: &BTreeSet<NodeId>,
    old: NodeId,
    new: NodeId,
) -> Result<()> {
    for &user in users {
        let mut operands = graph.operands(user);
        operands.iter_mut().filter(|operand| **operand == old).for_each(|operand| *operand = new);
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

    #[test]
    fn every_matrix_of_every_family_can_be_held() {
        for preset in ["llama-tiny", "gpt2-tiny", "mla-tiny", "moe-tiny", "hybrid-tiny", "mamba2-tiny"] {
            let whole = program(preset, json!({}));
            let types: BTreeMap<Symbol, DType> = candidates(&whole)
                .into_iter()
                .map(|(name, held)| (name, held.map(|()| DType::F16).unwrap()))
                .collect();
            assert!(types.len() > 4, "{preset}");
            let held = hold_narrow(&whole, &types).unwrap();
            for (name, info) in &held.params {
                let wanted = types.get(name).copied().unwrap_or(DType::F32);
                assert_eq!(info.ty.dtype, wanted, "{preset}: {name}");
            }
            let error = crate::differentiate(&held).unwrap_err().to_string();
            assert!(error.contains("for serving, not for training"), "{error}");
            let text = diptych_ir::text::print(&held);
            assert_eq!(diptych_ir::text::print(&diptych_ir::text::parse(&text).unwrap()), text);
        }
    }

    #[test]
    fn what_cannot_be_held_so_is_refused() {
        let whole = program("llama-tiny", json!({}));
        let refused = |name: &str, dtype: DType| {
            let types = BTreeMap::from([(Symbol::new(name), dtype)]);
            hold_narrow(&whole, &types).unwrap_err().to_string()
        };
        let integers = refused("layers.q", DType::I8);
        assert!(integers.contains("`layers.q` cannot be held in i8: only f16 and bf16"), "{integers}");
        let norm = refused("layers.attention_norm", DType::F16);
        assert!(norm.contains("no matrix of the model"), "{norm}");
    }
}
