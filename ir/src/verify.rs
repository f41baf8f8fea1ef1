//! The verifier: what a well-formed program is. It runs between any two
//! passes in tests and debug builds, and mends nothing.

use crate::ops::{Scan, loop_results};
use crate::{
    Axis, DType, Entry, Initializer, IrError, NodeId, Op, ParamInfo, Program, Region, Result, Size, Symbol,
    TensorType, UpdateRule,
};
use std::collections::{BTreeMap, BTreeSet};

/// Checks a whole program:
///
/// - every symbolic size has bounds; names are unique, and an input has one type wherever it is read;
/// - a parameter's order is one of its axes, the layer axis first;
/// - regions refer to each other without a cycle, and ports are used as declared;
/// - every node's type is what its op infers, and operands of loops fit the body;
/// - histories of one room keep values of one type for as long;
/// - only collectives cross the ranks of a mesh axis, and a `send` is met by a `receive`;
/// - roots are values of the main region, and updates have the type of what they update.
///
/// # Errors
/// The first thing that is wrong: where it is and what would be right.
pub fn verify(program: &Program) -> Result<()> {
    verify_declarations(program)?;
    verify_references(program)?;
    program.regions.iter().try_for_each(verify_ports)?;
    let nodes = || {
        program.regions.iter().flat_map(|region| region.graph.ids().into_iter().map(move |id| (region, id)))
    };
    let mesh: BTreeSet<Axis> = nodes().filter_map(|(region, id)| region.graph.op(id).mesh()).collect();
    verify_rooms(nodes())?;
    let mut inputs = BTreeMap::new();
    for region in &program.regions {
        verify_region(program, region, &mesh, &mut inputs)?;
    }
    for (position, entry) in program.entries.iter().enumerate() {
        if program.entries[..position].iter().any(|other| other.kind == entry.kind) {
            return invalid(format!("two entries `{}`: there is one of a kind", entry.kind.name()));
        }
        verify_entry(program, entry)?;
    }
    Ok(())
}

fn invalid<T>(problem: String) -> Result<T> {
    Err(IrError::Invalid(problem))
}

fn verify_rooms<'p>(nodes: impl Iterator<Item = (&'p Region, NodeId)>) -> Result<()> {
    let mut rooms: BTreeMap<usize, (&TensorType, Option<usize>)> = BTreeMap::new();
    for (region, id) in nodes {
        let Op::History(history) = region.graph.op(id) else { continue };
        let kept = (region.graph.ty(id), history.window);
        let known = *rooms.entry(history.room).or_insert(kept);
        if known != kept {
            let (room, [one, other]) =
                (history.room, [known, kept].map(|(ty, window)| format!("{ty} ({window:?})")));
            return invalid(format!("room {room} is a history of {one} and of {other}: each has its own"));
        }
    }
    Ok(())
}

fn verify_declarations(program: &Program) -> Result<()> {
    if let Some((symbol, bounds)) = program.bounds.iter().find(|(_, bounds)| bounds.least > bounds.most) {
        let (least, most) = (bounds.least, bounds.most);
        return invalid(format!("size `{symbol}` is at least {least} and at most {most}"));
    }
    for (name, info) in &program.params {
        if program.states.contains_key(name) {
            return invalid(format!("`{name}` is both a parameter and a state: names are unique"));
        }
        if let Err(problem) = verify_param(info).and_then(|()| verify_sizes(program, &info.ty)) {
            return invalid(format!("parameter `{name}`: {problem}"));
        }
    }
    for (name, ty) in &program.states {
        if let Err(problem) = verify_sizes(program, ty) {
            return invalid(format!("state `{name}`: {problem}"));
        }
    }
    Ok(())
}

fn verify_param(info: &ParamInfo) -> Result<(), String> {
    let mut sorted = info.order.clone();
    sorted.sort();
    if sorted != info.ty.axes[..] {
        return Err(format!("the order {:?} is not one of the axes {}", info.order, info.ty.axes));
    }
    if info.layers.is_some_and(|layers| info.order.first() != Some(&layers)) {
        return Err(format!(
            "the layer axis {:?} comes first, but the order is {:?}",
            info.layers, info.order
        ));
    }
    if let Some(blocks) = &info.blocks {
        let own = |axis: &Axis| info.ty.axes.contains(*axis) && Some(*axis) != info.layers;
        if let Some(axis) = blocks.along.iter().find(|axis| !own(axis)) {
            return Err(format!("its blocks lie along {axis}, which is none of its axes within a layer"));
        }
        let (depth, elements) = (blocks.depth(), blocks.format.elements());
        if depth == 0 || !depth.is_multiple_of(elements) || info.ty.dtype != DType::F32 {
            return Err(format!(
                "{depth} numbers of {} are no whole blocks of {elements} f32, as {} has them",
                info.ty, blocks.format
            ));
        }
    }
    if let UpdateRule::SignDescent { rate } = info.update
        && !(rate.is_finite() && rate > 0.0)
    {
        return Err(format!("it changes by {rate} at a step, which is not a positive finite number"));
    }
    match info.initializer {
        Initializer::Constant(_) => Ok(()),
        Initializer::Between { least, most } => {
            match least.is_finite() && most.is_finite() && least <= most {
                true => Ok(()),
                false => Err(format!("it starts between {least} and {most}, which is no range")),
            }
        }
        Initializer::Normal { standard_deviation: width } | Initializer::Uniform { bound: width } => {
            let sound = width.is_finite() && width >= 0.0;
            if sound { Ok(()) } else { Err(format!("a spread of {width} is not a finite number from 0 on")) }
        }
    }
}

fn verify_sizes(program: &Program, ty: &TensorType) -> Result<(), String> {
    for axis in &ty.axes {
        if let Size::Symbolic(symbol) = axis.size
            && !program.bounds.contains_key(&symbol)
        {
            return Err(format!("the size `{symbol}` of {ty} has no bounds in the program"));
        }
    }
    Ok(())
}

/// Checks that loops name regions that exist, never the main one, and that no
/// region runs itself.
fn verify_references(program: &Program) -> Result<()> {
    if program.regions.is_empty() {
        return invalid("a program has at least its main region".into());
    }
    let mut bodies: Vec<BTreeSet<usize>> = Vec::new();
    for region in &program.regions {
        let ops = region.graph.ids().into_iter().filter_map(|id| region.graph.op(id).as_loop());
        bodies.push(ops.map(|looped| looped.body.0 as usize).collect());
        if let Some(body) = bodies.iter().flatten().find(|&&body| body == 0 || body >= program.regions.len())
        {
            return invalid(format!("region `{}` runs region {body}, which is no body", region.name));
        }
    }
    let reached = |start: usize| {
        let mut reached = bodies[start].clone();
        let mut waiting: Vec<usize> = reached.iter().copied().collect();
        while let Some(body) = waiting.pop() {
            waiting.extend(bodies[body].iter().copied().filter(|&next| reached.insert(next)));
        }
        reached
    };
    match (0..bodies.len()).find(|&region| reached(region).contains(&region)) {
        Some(region) => invalid(format!("region `{}` runs itself", program.regions[region].name)),
        None => Ok(()),
    }
}

/// Checks that a region's ports are nodes of it, as loops that run it rely on.
fn verify_ports(region: &Region) -> Result<()> {
    let graph = &region.graph;
    for (index, &id) in region.arguments.iter().enumerate() {
        if !graph.contains(id) || !matches!(graph.op(id), Op::Argument(argument) if argument.index == index) {
            return invalid(format!(
                "region `{}`: argument {index} is not a node that reads it",
                region.name
            ));
        }
    }
    if let Some(missing) = region.results.iter().find(|&&id| !graph.contains(id)) {
        return invalid(format!("region `{}`: result {} is not a node of it", region.name, missing.index()));
    }
    Ok(())
}

fn verify_region<'a>(
    program: &Program,
    region: &'a Region,
    mesh: &BTreeSet<Axis>,
    inputs: &mut BTreeMap<Symbol, &'a TensorType>,
) -> Result<()> {
    let graph = &region.graph;
    let order = graph.topological_order();
    if order.len() != graph.len() {
        return invalid(format!("region `{}` has a cycle", region.name));
    }
    for id in order {
        let checked = verify_node(program, region, id)
            .and_then(|()| verify_messages(region, id, mesh))
            .and_then(|()| verify_sizes(program, graph.ty(id)));
        if let Err(problem) = checked {
            let label = graph.node(id).label.map(|label| format!(" (`{label}`)")).unwrap_or_default();
            let place = format!("region `{}`, node {}{label}", region.name, id.index());
            return invalid(format!("{place}: {problem}"));
        }
        if let Op::Input(input) = graph.op(id)
            && let Some(other) = inputs.insert(input.name, &input.ty)
            && *other != input.ty
        {
            return invalid(format!("input `{}` is read as {other} and as {}", input.name, input.ty));
        }
    }
    Ok(())
}

fn verify_node(program: &Program, region: &Region, id: NodeId) -> Result<(), String> {
    let graph = &region.graph;
    let (op, ty, operands) = (graph.op(id), graph.ty(id), graph.operands(id));
    if let Op::Output(output) = op {
        let looped = match operands[..] {
            [operand] => graph.op(operand).as_loop(),
            _ => None,
        };
        return match looped.map(|looped| looped.results.get(output.index)) {
            None => Err("an output of something that is no loop".into()),
            Some(result) if result == Some(ty) => Ok(()),
            Some(result) => Err(format!("output {} is {result:?}, but the node says {ty}", output.index)),
        };
    }
    if operands.iter().any(|&operand| graph.op(operand).as_loop().is_some()) {
        return Err(format!("{} reads a loop, not one of its outputs", op.name()));
    }
    let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
    let inferred = op.operator().infer(&types).map_err(|error| error.to_string())?;
    if inferred != *ty {
        return Err(format!("{} gives {inferred}, but the node says {ty}", op.name()));
    }
    if let Some(looped) = op.as_loop() {
        let body = program.region(looped.body);
        let (carried, sequenced) = (looped.carried, looped.sequenced);
        let results = loop_results(looped.name, body, looped.over, carried, sequenced, &types)
            .map_err(|error| error.to_string())?;
        if results != looped.results {
            return Err(format!(
                "the {} says {:?}, but its body gives {results:?}",
                looped.name, looped.results
            ));
        }
    }
    if let Op::Scan(scan) = op {
        verify_replay(program, scan, operands.len())?;
    }
    match op {
        Op::Argument(_) if std::ptr::eq(region, program.main()) => {
            Err("the main region takes no argument: entries bind inputs".into())
        }
        Op::Argument(argument) if region.arguments.get(argument.index) != Some(&id) => {
            Err(format!("argument {} is not that of its region", argument.index))
        }
        Op::Param(param) => match stored(program, param.name) {
            Some(known) if *known == param.ty => Ok(()),
            Some(known) => Err(format!("`{}` is {known}, but is read as {}", param.name, param.ty)),
            None => Err(format!("`{}` is neither a parameter nor a state", param.name)),
        },
        _ => Ok(()),
    }
}

/// Checks that what a scan keeps is there, and that a replay is given what its body takes.
fn verify_replay(program: &Program, scan: &Scan, operands: usize) -> Result<(), String> {
    if scan.kept > scan.results.len() - scan.carried.min(scan.results.len()) {
        let yielded = scan.results.len() - scan.carried;
        return Err(format!("the scan keeps {} of the {yielded} values that it yields", scan.kept));
    }
    let Some(replay) = &scan.replay else { return Ok(()) };
    let Some(body) = program.regions.get(replay.body.0 as usize) else {
        return Err(format!("the scan replays region {}, which is not there", replay.body.0));
    };
    let (takes, given) = (body.arguments.len(), replay.operands.len());
    if takes != given || replay.carried > takes || replay.carried > body.results.len() {
        return Err(format!("the scan replays `{}`, which takes {takes} arguments, with {given}", body.name));
    }
    match replay.operands.iter().flatten().find(|&&operand| operand >= operands) {
        Some(operand) => Err(format!("the scan replays from operand {operand} of {operands}")),
        None => Ok(()),
    }
}

/// The type of a parameter or state.
fn stored(program: &Program, name: Symbol) -> Option<&TensorType> {
    program.params.get(&name).map(|info| &info.ty).or_else(|| program.states.get(&name))
}

/// Checks that values cross ranks by collectives only.
fn verify_messages(region: &Region, id: NodeId, mesh: &BTreeSet<Axis>) -> Result<(), String> {
    let graph = &region.graph;
    let (op, operands) = (graph.op(id), graph.operands(id));
    match (op.as_loop(), op) {
        (Some(looped), _) if mesh.contains(&looped.over) => {
            return Err(format!(
                "the {} runs along {}, a mesh axis: ranks run at once",
                looped.name, looped.over
            ));
        }
        (Some(_), _) | (None, Op::Output(_)) => return Ok(()),
        _ => {}
    }
    for &operand in &operands {
        let gone = graph.axes(operand).without(graph.axes(id));
        if let Some(axis) = gone.iter().find(|&&axis| mesh.contains(&axis) && op.mesh() != Some(axis)) {
            return Err(format!("{} takes away the mesh axis {axis}: only a collective may", op.name()));
        }
        let sent = matches!(graph.op(operand), Op::Send(_));
        if sent && !matches!(op, Op::Receive(_)) {
            return Err(format!("{} reads a value in flight: a `receive` comes first", op.name()));
        }
    }
    if let Op::Receive(receive) = op {
        let sent = operands
            .iter()
            .all(|&operand| matches!(graph.op(operand), Op::Send(send) if send.mesh == receive.mesh));
        if !sent {
            return Err(format!("receives over {} what no `send` over it has sent", receive.mesh));
        }
    }
    Ok(())
}

fn verify_entry(program: &Program, entry: &Entry) -> Result<()> {
    let graph = &program.main().graph;
    let kind = entry.kind.name();
    for (rows, what) in [(&entry.roots, "root"), (&entry.updates, "update")] {
        let mut names = BTreeSet::new();
        for &(name, id) in rows {
            if !names.insert(name) {
                return invalid(format!("{kind} has two {what}s named `{name}`"));
            }
            if !graph.contains(id) {
                return invalid(format!("{what} `{name}` of {kind} is not a node of the main region"));
            }
            if graph.op(id).as_loop().is_some() || matches!(graph.op(id), Op::Send(_)) {
                let op = graph.op(id).name();
                return invalid(format!("{what} `{name}` of {kind} is a {op}, which is no value"));
            }
        }
    }
    for &(name, id) in &entry.updates {
        match stored(program, name) {
            None => {
                return invalid(format!("{kind} updates `{name}`, which is neither a parameter nor a state"));
            }
            Some(ty) if ty != graph.ty(id) => {
                return invalid(format!("{kind} updates `{name}`, which is {ty}, with {}", graph.ty(id)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
