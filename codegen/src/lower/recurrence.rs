//! A recurrence as a tile program: an instance walks the positions of one
//! sequence in order, with what it carries in scratch tiles; a step's
//! computations are nests over tiles as in any other group. States that another
//! recurrence kept at some positions are had again by running its steps. It
//! knows nothing of what a step computes.

mod step;

use super::dims::{self, Dims};
use super::stages::{Lowering, Step};
use super::{Context, LowerError, Lowered, Source};
use crate::tile::{
    Arg, Base, Condition, DimId, PackedView, Place, RowMap, Stmt, Tile, TileProgram, View, Walk,
};
use diptych_ir::ops::{Replay, Scan};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Region};
use diptych_passes::fuse::{Group, GroupKind, constant, in_place, is_view};
use diptych_passes::layout::{CHECKPOINT, Layout, Leading, product};
use std::collections::HashSet;

/// Floats of a carried value that an instance holds at most, if it can be
/// divided: two thirds of a first cache.
const STATE_FLOATS: usize = 8192;
/// Floats of a block of the last axis, where an instance could do with one.
const LEAST_BLOCK: usize = 64;

/// Lowers a scan.
pub(super) fn lower(group: &Group, context: &Context) -> Result<Lowered, LowerError> {
    let parent = &context.program.region(context.region).graph;
    let node = group.nodes[0];
    let error = |problem: String| {
        let label = parent.node(node).label.map(|label| format!(" `{label}`")).unwrap_or_default();
        LowerError { node: format!("scan{label}"), problem }
    };
    let Op::Scan(scan) = parent.op(node) else { return Err(error("is not a scan".into())) };
    let outputs: Vec<(usize, NodeId)> = (group.outputs.iter())
        .filter_map(|&id| match parent.op(id) {
            Op::Output(output) => Some((output.index, id)),
            _ => None,
        })
        .collect();
    let cached = !context.history_is_rename;
    if cached && scan.reverse {
        return Err(error("runs from the last position to the first, which no cache can carry on".into()));
    }
    let body = context.program.region(scan.body);
    let kept = scan.results.len() - scan.kept;
    let wanted: Vec<usize> =
        (0..kept).filter(|&at| at < scan.carried || outputs.iter().any(|output| output.0 == at)).collect();
    let nodes = computed(body, wanted.iter().map(|&at| body.results[at])).map_err(error)?;
    let (each, block) = instances(scan, body, &nodes, context);
    let inner = Group {
        kind: GroupKind::Scan,
        nodes,
        outputs: wanted.iter().filter(|&&at| at >= scan.carried).map(|&at| body.results[at]).collect(),
    };
    let dense = |id: NodeId| context.layouts.dense(body.graph.ty(id));
    let free = free(body);
    let of_body = Context { region: scan.body, layout: &dense, in_place: &free, ..*context };
    let mut lowering = empty(&inner, &of_body, dims::of_recurrence(&each, block));
    let ports = Ports { node, scan, parent, context, operands: parent.operands(node) };

    let mut states = Vec::new();
    for &argument in &body.arguments[..scan.carried] {
        let dims = lowering.node_dims(argument);
        let name = format!("state_{}", lowering.name(argument));
        states.push(lowering.new_tile(&name, dims, body.graph.ty(argument).dtype));
    }
    let mut step = Step {
        moving: moving(body, scan.carried + scan.sequenced, &inner.outputs),
        carried: (0..scan.carried).map(|at| (body.arguments[at], body.results[at])).collect(),
        next: vec![None; scan.carried],
        ..Step::default()
    };
    let history = match &scan.replay {
        Some(replay) => history(&mut lowering, &ports, replay)?,
        None => Vec::new(),
    };
    for (at, &argument) in body.arguments.iter().enumerate() {
        let replayed = history.iter().find(|history| history.operand == at);
        let place = match replayed {
            _ if at < scan.carried => Place::Strided(states[at].clone()),
            Some(history) => Place::Strided(history.now.clone()),
            None => ports.operand(&mut lowering, at)?,
        };
        step.ports.insert(argument, place);
    }
    for &(at, output) in outputs.iter().filter(|output| (scan.carried..kept).contains(&output.0)) {
        let place = ports.place(&mut lowering, output, true)?;
        step.ports.insert(body.results[at], place);
    }
    lowering.step = Some(step);
    let (before, mut steps) = lowering.steps()?;
    for &(at, output) in outputs.iter().filter(|output| output.0 >= kept) {
        let carried = body.arguments.iter().position(|&argument| argument == body.results[at]);
        let carried = carried.filter(|&carried| carried < scan.carried);
        let carried = carried.ok_or_else(|| error("keeps what it does not carry".into()))?;
        let place = ports.place(&mut lowering, output, true)?;
        let keep = lowering.copy(&states[carried], place);
        steps.insert(0, Stmt::When { condition: Condition::AtCheckpoint, yes: vec![keep], no: Vec::new() });
    }
    let mut stmts = ports.start(&mut lowering, &states, cached)?;
    stmts.extend(before);
    let (_, position) = lowering.dims.steps.ok_or_else(|| error("has no positions".into()))?;
    let walked = match &scan.replay {
        Some(replay) => {
            let (again, replayed) = ports.replay(&mut lowering, replay, &history)?;
            stmts.extend(again);
            let mut blocks: Vec<Stmt> = Vec::new();
            for history in &history {
                let from = ports.kept(&mut lowering, history.operand)?;
                blocks.push(lowering.copy_from(from, &history.now));
            }
            blocks.push(Stmt::Steps { dim: position, walk: Walk::Replay, body: replayed });
            blocks.push(Stmt::Steps { dim: position, walk: Walk::BlockBackward, body: steps });
            Stmt::Steps { dim: position, walk: Walk::Blocks, body: blocks }
        }
        None => {
            let walk = if scan.reverse { Walk::Backward } else { Walk::Forward };
            Stmt::Steps { dim: position, walk, body: steps }
        }
    };
    stmts.push(walked);
    for (at, state) in states.iter().enumerate() {
        let output = outputs.iter().find(|output| output.0 == at).map(|output| output.1);
        let stored = output.map(|output| ports.place(&mut lowering, output, true)).transpose()?;
        let slot = if cached { Some(ports.state(&mut lowering, at, true)?) } else { None };
        for place in stored.into_iter().chain(slot) {
            stmts.push(lowering.copy(state, place));
        }
    }
    let label = parent.node(node).label.map_or("", |label| label.as_str().rsplit('.').next().unwrap_or(""));
    let name =
        dims::identifier(&format!("scan_{}", if label.is_empty() { body.name.as_str() } else { label }));
    let notes = lowering.notes();
    let program = TileProgram {
        name,
        notes,
        args: lowering.args,
        dims: lowering.dims.list,
        grid: lowering.dims.grid,
        tiles: lowering.tiles,
        tables: lowering.tables,
        body: stmts,
    };
    Ok(Lowered { program, args: lowering.sources, sums: lowering.sums })
}

fn empty<'a>(group: &'a Group, context: &'a Context<'a>, dims: Dims) -> Lowering<'a> {
    Lowering {
        group,
        context,
        graph: &context.program.region(context.region).graph,
        dims,
        sources: Vec::new(),
        sums: Vec::new(),
        args: Vec::new(),
        tiles: Vec::new(),
        tables: Vec::new(),
        computed: Default::default(),
        fold: None,
        step: None,
    }
}

/// The nodes of a body that are computed for these results, operands first.
fn computed(body: &Region, results: impl Iterator<Item = NodeId>) -> Result<Vec<NodeId>, String> {
    let graph = &body.graph;
    let results: Vec<NodeId> = results.collect();
    let mut nodes = Vec::new();
    for id in graph.ancestors(&results) {
        let op = graph.op(id);
        let sequences = |axes: &[Axis]| axes.iter().any(|axis| axis.fixed_size().is_none());
        let mixes = match op {
            Op::Contract(contract) => sequences(&contract.over),
            Op::Reduce(reduce) => sequences(&reduce.over),
            Op::Take(take) => sequences(&[take.axis]),
            Op::Rename(rename) => sequences(&[rename.from, rename.to]),
            _ => false,
        };
        match op {
            _ if mixes => return Err(format!("{} in its step mixes sequences or positions", op.name())),
            Op::Repeat(_) | Op::Scan(_) | Op::Output(_) | Op::History(_) | Op::Input(_) | Op::Param(_) => {
                return Err(format!("has a {} in its step: let the step be given its value", op.name()));
            }
            // A result that would be free elsewhere is computed here all the same.
            _ if results.contains(&id) => nodes.push(id),
            Op::Argument(_) => {}
            op if is_view(op) || in_place(graph, id) => {}
            _ => nodes.push(id),
        }
    }
    Ok(nodes)
}

/// What a step computes wherever it reads it.
fn free(body: &Region) -> HashSet<NodeId> {
    body.graph.ids().into_iter().filter(|&id| in_place(&body.graph, id)).collect()
}

/// The nodes of a body that differ from position to position: what depends on
/// one of the first arguments, and what is stored at each.
fn moving(body: &Region, arguments: usize, stored: &[NodeId]) -> HashSet<NodeId> {
    let mut moving: HashSet<NodeId> = body.arguments[..arguments].iter().copied().collect();
    for id in body.graph.topological_order() {
        if stored.contains(&id) || body.graph.operands(id).iter().any(|operand| moving.contains(operand)) {
            moving.insert(id);
        }
    }
    moving.extend(&body.results);
    moving
}

/// Which axes can be instances, since nothing in a step moves or sums them and
/// all that leaves it has them: those that each instance has one position of,
/// and one that is cut in blocks.
fn instances(
    scan: &Scan,
    body: &Region,
    nodes: &[NodeId],
    context: &Context,
) -> (Vec<Axis>, Option<(Axis, usize)>) {
    let group = Group { kind: GroupKind::Scan, nodes: nodes.to_vec(), outputs: Vec::new() };
    let Some(first) = scan.results.first() else { return (Vec::new(), None) };
    let independent = |&axis: &Axis| {
        axis.fixed_size().is_some()
            && scan.results.iter().all(|result| result.axes.contains(axis))
            && dims::unmoved(&group, &body.graph, axis)
    };
    let of_replay = |&axis: &Axis| match &scan.replay {
        Some(replay) => {
            let body = context.program.region(replay.body);
            let states = &body.results[..replay.carried];
            let nodes = body.graph.ancestors(states);
            let group = Group { kind: GroupKind::Scan, nodes, outputs: Vec::new() };
            states.iter().all(|&state| body.graph.axes(state).contains(axis))
                && dims::unmoved(&group, &body.graph, axis)
        }
        None => true,
    };
    let ordered = context.layouts.ordered(first.axes.iter().copied());
    let mut each: Vec<Axis> = ordered.into_iter().filter(independent).filter(of_replay).collect();
    let elements = |result: &diptych_ir::TensorType| -> usize {
        let rest = result.axes.without(&each);
        rest.iter().filter_map(|axis| axis.fixed_size()).product()
    };
    let rest = scan.results[..scan.carried].iter().map(elements).max().unwrap_or(1);
    // The last axis is the one along which vectors run: it stays whole, or in long blocks.
    let last = context.layouts.ordered(first.axes.iter().copied()).last().copied();
    let block = each.last().copied().filter(|&axis| Some(axis) == last).map(|axis| {
        each.pop();
        let size = axis.fixed_size().unwrap_or(1);
        let fits = |&block: &usize| {
            size.is_multiple_of(block) && block >= LEAST_BLOCK.min(size) && block * rest <= STATE_FLOATS
        };
        let least = dims::choose_block(size, 1, LEAST_BLOCK, 1);
        (axis, (1..=size).rev().find(fits).unwrap_or(least))
    });
    (each, block.filter(|&(axis, block)| axis.fixed_size().is_some_and(|size| block < size)))
}

/// Copies of a block's states, one a position, that are had again from the first.
struct History {
    /// Which operand of the scan.
    operand: usize,
    /// Which of the values that the other scan carries.
    carried: usize,
    /// The state at the position at hand.
    now: View,
    /// That at the next.
    next: View,
}

fn history(lowering: &mut Lowering, ports: &Ports, replay: &Replay) -> Result<Vec<History>, LowerError> {
    let missing = || lowering_error(ports, "is given no state to replay from");
    let mut found = Vec::new();
    for carried in 0..replay.carried {
        let operand = replay.operands[carried].ok_or_else(missing)?;
        let argument = ports.body().arguments[operand];
        let dims = lowering.node_dims(argument);
        let name = format!("states_{}", lowering.name(argument));
        let mut now = lowering.new_tile(&name, dims, ports.body().graph.ty(argument).dtype);
        let Base::Tile(tile) = now.base else { continue };
        let (_, position) = lowering.dims.steps.ok_or_else(missing)?;
        let Tile { dims, elements, .. } = &mut lowering.tiles[tile];
        let one = *elements;
        dims.insert(0, position);
        *elements *= CHECKPOINT + 1;
        now.strides.insert(0, (position, one));
        let next = View { offset: one, ..now.clone() };
        found.push(History { operand, carried, now, next });
    }
    Ok(found)
}

fn lowering_error(ports: &Ports, problem: &str) -> LowerError {
    let label = ports.parent.node(ports.node).label;
    let label = label.map(|label| format!(" `{label}`")).unwrap_or_default();
    LowerError { node: format!("scan{label}"), problem: problem.to_owned() }
}

/// A scan among the nodes around it.
struct Ports<'a> {
    node: NodeId,
    scan: &'a Scan,
    parent: &'a Graph,
    context: &'a Context<'a>,
    operands: Vec<NodeId>,
}

impl Ports<'_> {
    fn body(&self) -> &Region {
        self.context.program.region(self.scan.body)
    }

    /// Where an operand lies.
    fn operand(&self, lowering: &mut Lowering, at: usize) -> Result<Place, LowerError> {
        self.place(lowering, self.operands[at], false)
    }

    fn argument(&self, lowering: &mut Lowering, source: Source, dtype: DType, write: bool) -> usize {
        if let Some(known) = lowering.sources.iter().position(|known| *known == source) {
            lowering.args[known].written |= write;
            return known;
        }
        let name = match source {
            Source::State { index, .. } => format!("carried_{index}"),
            Source::Value(id)
            | Source::Cache(id)
            | Source::Chunks(id)
            | Source::Order(id, _)
            | Source::Starts(id, _) => {
                let label = self.parent.node(id).label.map(|label| label.to_string());
                let label = label.unwrap_or_else(|| self.parent.op(id).name().to_owned());
                format!("{}_{}", dims::identifier(&label), id.index())
            }
        };
        lowering.sources.push(source);
        lowering.args.push(Arg { name, dtype, written: write });
        lowering.sources.len() - 1
    }

    /// Where a value around the scan lies, as a step sees it.
    fn place(&self, lowering: &mut Lowering, id: NodeId, write: bool) -> Result<Place, LowerError> {
        let dtype = self.parent.ty(id).dtype;
        let layout = (self.context.layout)(id);
        let arg = self.argument(lowering, Source::Value(id), dtype, write);
        self.lie(lowering, arg, dtype, layout)
    }

    fn lie(
        &self,
        lowering: &mut Lowering,
        arg: usize,
        dtype: DType,
        layout: Layout,
    ) -> Result<Place, LowerError> {
        let (sequence, position) =
            lowering.dims.steps.ok_or_else(|| lowering_error(self, "has no positions"))?;
        let mut nested = |axes: &[Axis]| {
            let mut stride = 1;
            let mut strides: Vec<(DimId, usize)> = Vec::new();
            for &axis in axes.iter().rev() {
                strides.extend(lowering.dims.of(axis).map(|dim| (dim, stride)));
                stride *= axis.fixed_size().unwrap_or(1);
            }
            strides.reverse();
            strides
        };
        match layout {
            Layout::Dense { leading, order } => {
                let mut strides = nested(&order);
                let (row, rows) = match leading {
                    Leading::None => (None, RowMap::InOrder),
                    Leading::Batch => (Some(sequence), RowMap::InOrder),
                    Leading::Rows => (Some(position), RowMap::InOrder),
                    Leading::Checkpoints => (Some(position), RowMap::Checkpoint),
                    Leading::Past | Leading::Chunks | Leading::Quadratic => {
                        return Err(lowering_error(self, "is given positions so far, which no step sees"));
                    }
                };
                strides.extend(row.map(|row| (row, product(&order))));
                Ok(Place::Strided(View { base: Base::Arg(arg), dtype, offset: 0, strides, rows }))
            }
            Layout::Blocks { .. } | Layout::Rounded { .. } => {
                Err(lowering_error(self, "is given blocks of integers, which no step reads"))
            }
            Layout::Packed { k, n } => Ok(Place::Packed(PackedView {
                arg,
                dtype,
                blocks: None,
                depth: product(&k),
                first: (0, 0),
                k: nested(&k),
                n: nested(&n),
            })),
        }
    }

    /// Where the states that another scan kept lie.
    fn kept(&self, lowering: &mut Lowering, at: usize) -> Result<Place, LowerError> {
        let id = self.operands[at];
        let ty = self.parent.ty(id);
        let Layout::Dense { order, .. } = self.context.layouts.dense(ty) else {
            return Err(lowering_error(self, "is given packed states"));
        };
        let arg = self.argument(lowering, Source::Value(id), ty.dtype, false);
        self.lie(lowering, arg, ty.dtype, Layout::Dense { leading: Leading::Checkpoints, order })
    }

    /// Where the sequences' states of a carried value lie.
    fn state(&self, lowering: &mut Lowering, index: usize, write: bool) -> Result<Place, LowerError> {
        let ty = &self.scan.results[index];
        let source = Source::State { scan: self.node, index };
        let arg = self.argument(lowering, source, ty.dtype, write);
        let mut place = self.lie(lowering, arg, ty.dtype, self.context.layouts.dense(ty))?;
        if let Place::Strided(view) = &mut place {
            view.rows = RowMap::State;
        }
        Ok(place)
    }

    /// Sets what is carried to what it starts from: what the scan is given, or
    /// where the sequence has a past, the state that this left.
    fn start(&self, lowering: &mut Lowering, states: &[View], cached: bool) -> Result<Vec<Stmt>, LowerError> {
        let (mut fresh, mut carried) = (Vec::new(), Vec::new());
        for (at, state) in states.iter().enumerate() {
            fresh.push(match constant(self.parent, self.operands[at]) {
                Some(value) => {
                    let dims = tile_dims(state);
                    Stmt::Fill { dims, place: Place::Strided(state.clone()), value: value as f32 }
                }
                None => {
                    let from = self.operand(lowering, at)?;
                    lowering.copy_from(from, state)
                }
            });
            if cached {
                let from = self.state(lowering, at, false)?;
                carried.push(lowering.copy_from(from, state));
            }
        }
        Ok(match cached && !states.is_empty() {
            true => vec![Stmt::When { condition: Condition::AtOrigin, yes: fresh, no: carried }],
            false => fresh,
        })
    }

    /// The statements that give the next states from those at hand: those
    /// before all steps, and those of a step.
    fn replay(
        &self,
        lowering: &mut Lowering,
        replay: &Replay,
        history: &[History],
    ) -> Result<(Vec<Stmt>, Vec<Stmt>), LowerError> {
        let body = self.context.program.region(replay.body);
        let results = body.results[..replay.carried].iter().copied();
        let nodes = computed(body, results).map_err(|problem| lowering_error(self, &problem))?;
        let inner = Group { kind: GroupKind::Scan, nodes, outputs: Vec::new() };
        let dense = |id: NodeId| self.context.layouts.dense(body.graph.ty(id));
        let free = free(body);
        let context = Context { region: replay.body, layout: &dense, in_place: &free, ..*self.context };
        let dims = std::mem::replace(&mut lowering.dims, dims::of_recurrence(&[], None));
        let mut again = empty(&inner, &context, dims);
        // Both write one program.
        let share = |to: &mut Lowering, from: &mut Lowering| {
            to.sources = std::mem::take(&mut from.sources);
            to.sums = std::mem::take(&mut from.sums);
            to.args = std::mem::take(&mut from.args);
            to.tiles = std::mem::take(&mut from.tiles);
            to.tables = std::mem::take(&mut from.tables);
        };
        share(&mut again, lowering);
        // What an argument that is a state itself stands for is sequenced there, carried here.
        let sequenced = |at: &Option<usize>| {
            at.is_some_and(|at| (self.scan.carried..self.scan.carried + self.scan.sequenced).contains(&at))
        };
        let mut step = Step {
            carried: (0..replay.carried).map(|at| (body.arguments[at], body.results[at])).collect(),
            next: history.iter().map(|history| Some(history.next.clone())).collect(),
            ..Step::default()
        };
        let moves: HashSet<NodeId> = (body.arguments.iter().zip(&replay.operands))
            .filter(|(_, operand)| sequenced(operand))
            .map(|(&argument, _)| argument)
            .collect();
        step.moving = moving_from(body, moves);
        for (at, (&argument, operand)) in body.arguments.iter().zip(&replay.operands).enumerate() {
            let known = history.iter().find(|history| history.carried == at && at < replay.carried);
            let place = match (known, operand) {
                (Some(history), _) => Place::Strided(history.now.clone()),
                (None, Some(operand)) => self.operand(&mut again, *operand)?,
                (None, None) => continue,
            };
            step.ports.insert(argument, place);
        }
        again.step = Some(step);
        let stmts = again.steps()?;
        share(lowering, &mut again);
        lowering.dims = again.dims;
        Ok(stmts)
    }
}

fn moving_from(body: &Region, mut moving: HashSet<NodeId>) -> HashSet<NodeId> {
    for id in body.graph.topological_order() {
        if body.graph.operands(id).iter().any(|operand| moving.contains(operand)) {
            moving.insert(id);
        }
    }
    moving.extend(&body.results);
    moving
}

fn tile_dims(view: &View) -> Vec<DimId> {
    view.strides.iter().map(|entry| entry.0).collect()
}
