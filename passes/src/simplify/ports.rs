//! Ports of loops that nobody reads: results that no node uses, operands that
//! the body does not need, and bodies that no loop runs.

use diptych_ir::ops::{Argument, Output, Repeat, Replay, Scan};
use diptych_ir::{Graph, NodeId, Op, Program, Region, RegionId, Result};
use std::collections::{HashMap, HashSet};

/// Which ports of a body stay. What is carried always does.
struct Ports {
    arguments: Vec<bool>,
    results: Vec<bool>,
}

/// Removes from a program the ports of loops and the regions that nobody needs.
///
/// # Errors
/// When the program is not well-formed.
pub(super) fn drop_unused(program: &mut Program) -> Result<()> {
    let kept = kept_ports(program);
    let mut regions: Vec<RegionId> = kept.keys().copied().chain([Program::MAIN]).collect();
    regions.sort_unstable();
    let places: HashMap<RegionId, RegionId> =
        regions.iter().enumerate().map(|(place, &old)| (old, RegionId(place as u32))).collect();
    let mut rebuilt = Vec::new();
    let mut main = HashMap::new();
    for &id in &regions {
        let (region, map) = rebuild(program.region(id), kept.get(&id), &kept, &places)?;
        rebuilt.push(region);
        if id == Program::MAIN {
            main = map;
        }
    }
    program.regions = rebuilt;
    for entry in &mut program.entries {
        for (_, root) in entry.roots.iter_mut().chain(&mut entry.updates) {
            *root = main[root];
        }
    }
    Ok(())
}

/// The ports that stay, of each body that some loop runs. A loop's body comes
/// after the region around it has been looked at.
fn kept_ports(program: &Program) -> HashMap<RegionId, Ports> {
    let mut kept: HashMap<RegionId, Ports> = HashMap::new();
    let mut waiting = vec![Program::MAIN];
    while let Some(id) = waiting.pop() {
        let region = program.region(id);
        let results: Vec<NodeId> = match kept.get(&id) {
            Some(ports) => chosen(&region.results, &ports.results),
            None => region.results.clone(),
        };
        let needed: HashSet<NodeId> = region.graph.ancestors(&results).into_iter().collect();
        if let Some(ports) = kept.get_mut(&id) {
            for (keep, argument) in ports.arguments.iter_mut().zip(&region.arguments) {
                *keep |= needed.contains(argument);
            }
        }
        for &node in &needed {
            let Some(looped) = region.graph.op(node).as_loop() else { continue };
            let body = program.region(looped.body);
            let carried = |count: usize| (0..count).map(|position| position < looped.carried).collect();
            let ports = kept.entry(looped.body).or_insert_with(|| Ports {
                arguments: carried(body.arguments.len()),
                results: carried(body.results.len()),
            });
            for user in region.graph.users(node).into_iter().filter(|user| needed.contains(user)) {
                if let Op::Output(output) = region.graph.op(user) {
                    ports.results[output.index] = true;
                }
            }
            // What is replayed needs what its states depend on.
            if let Op::Scan(Scan { replay: Some(replay), .. }) = region.graph.op(node) {
                for &operand in replay.operands.iter().flatten() {
                    ports.arguments[operand] = true;
                }
            }
            waiting.push(looped.body);
        }
    }
    kept
}

/// The items that are kept.
fn chosen<T: Clone>(items: &[T], keep: &[bool]) -> Vec<T> {
    items.iter().zip(keep).filter(|(_, keep)| **keep).map(|(item, _)| item.clone()).collect()
}

/// How many of the first positions are kept before this one.
fn shifted(keep: &[bool], position: usize) -> usize {
    keep[..position].iter().filter(|keep| **keep).count()
}

fn rebuild(
    region: &Region,
    own: Option<&Ports>,
    kept: &HashMap<RegionId, Ports>,
    places: &HashMap<RegionId, RegionId>,
) -> Result<(Region, HashMap<NodeId, NodeId>)> {
    let old = &region.graph;
    let mut graph = Graph::new();
    for &axis in old.axis_order() {
        graph.declare_axis(axis);
    }
    let (arguments, results) = match own {
        Some(ports) => (chosen(&region.arguments, &ports.arguments), chosen(&region.results, &ports.results)),
        None => (region.arguments.clone(), region.results.clone()),
    };
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    let roots: Vec<NodeId> = arguments.iter().chain(&results).copied().collect();
    // An operand that a body does not need may have no node here any more.
    for id in needed(old, &roots, kept) {
        let node = old.node(id);
        let mut operands = old.operands(id);
        let op = match node.op.clone() {
            Op::Argument(argument) => {
                let index = own.map_or(argument.index, |ports| shifted(&ports.arguments, argument.index));
                Op::from(Argument { index, ..argument })
            }
            Op::Output(output) => match old.op(operands[0]).as_loop() {
                Some(looped) => {
                    Op::from(Output { index: shifted(&kept[&looped.body].results, output.index) })
                }
                None => Op::from(output),
            },
            Op::Repeat(repeat) => {
                let ports = &kept[&repeat.body];
                operands = chosen(&operands, &ports.arguments);
                let stacked = shifted(&ports.arguments, repeat.carried + repeat.stacked) - repeat.carried;
                let results = chosen(&repeat.results, &ports.results);
                Op::from(Repeat { body: places[&repeat.body], stacked, results, ..repeat })
            }
            Op::Scan(scan) => {
                let ports = &kept[&scan.body];
                operands = chosen(&operands, &ports.arguments);
                let sequenced = shifted(&ports.arguments, scan.carried + scan.sequenced) - scan.carried;
                let results = chosen(&scan.results, &ports.results);
                let before = scan.results.len() - scan.kept;
                let left = results.len() - shifted(&ports.results, before);
                let replay = scan.replay.map(|replay| Replay {
                    body: places[&replay.body],
                    operands: chosen(&replay.operands, &kept[&replay.body].arguments)
                        .into_iter()
                        .map(|operand| operand.map(|operand| shifted(&ports.arguments, operand)))
                        .collect(),
                    ..replay
                });
                Op::from(Scan { body: places[&scan.body], sequenced, kept: left, replay, results, ..scan })
            }
            other => other,
        };
        let operands: Vec<NodeId> = operands.iter().map(|operand| map[operand]).collect();
        let new = graph.add(op, &operands)?;
        graph.annotate(new, node.span, node.label);
        map.insert(id, new);
    }
    let moved = |ids: &[NodeId]| ids.iter().map(|id| map[id]).collect::<Vec<NodeId>>();
    let (arguments, results) = (moved(&arguments), moved(&results));
    Ok((Region { name: region.name, graph, arguments, results }, map))
}

/// What the roots depend on through the ports that are kept, operands first.
fn needed(graph: &Graph, roots: &[NodeId], kept: &HashMap<RegionId, Ports>) -> Vec<NodeId> {
    let (mut seen, mut stack) = (HashSet::new(), roots.to_vec());
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        let operands = graph.operands(id);
        match graph.op(id).as_loop().and_then(|looped| kept.get(&looped.body)) {
            Some(ports) => stack.extend(chosen(&operands, &ports.arguments)),
            None => stack.extend(operands),
        }
    }
    graph.topological_order().into_iter().filter(|id| seen.contains(id)).collect()
}
