//! Writes a group's computations down as statements: nests shared by all that
//! runs in one stage over one iteration space, dots, fills, and the fold of a
//! running maximum.

use super::places::{add_along, begin_at, take_along, times};
use super::stages::{Class, Computed, Fold, Lowering, Phase};
use super::{LowerError, Lowered, chunks, past};
use crate::tile::{Condition, DimId, Instr, Nest, Place, Stmt, StreamBounds, TileProgram, ValueId, View};
use diptych_ir::ops::Literal;
use diptych_ir::{DType, NodeId, Op, ReduceKind, ScalarFn};
use std::collections::{BTreeMap, HashMap};

/// A nest being built.
#[derive(Default)]
pub(super) struct NestBuilder {
    pub(super) body: Vec<Instr>,
    values: HashMap<NodeId, ValueId>,
}

impl NestBuilder {
    pub(super) fn push(&mut self, instr: Instr) -> ValueId {
        self.body.push(instr);
        self.body.len() - 1
    }
}

/// Statements by phase, stage and order within the stage.
#[derive(Default)]
pub(super) struct Schedule {
    nests: BTreeMap<(Phase, usize, Vec<DimId>), NestBuilder>,
    others: BTreeMap<(Phase, usize, Order), Vec<Stmt>>,
}

/// Order within a stage: fills, then nests and transposes, then dots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    First,
    Last,
}

impl Schedule {
    pub(super) fn nest(&mut self, phase: Phase, stage: usize, dims: &[DimId]) -> &mut NestBuilder {
        self.nests.entry((phase, stage, dims.to_vec())).or_default()
    }

    pub(super) fn push(&mut self, phase: Phase, stage: usize, order: Order, stmt: Stmt) {
        self.others.entry((phase, stage, order)).or_default().push(stmt);
    }

    pub(super) fn take_phase(&mut self, phase: Phase) -> Vec<Stmt> {
        let stages: std::collections::BTreeSet<usize> =
            (self.nests.keys().filter(|key| key.0 == phase).map(|key| key.1))
                .chain(self.others.keys().filter(|key| key.0 == phase).map(|key| key.1))
                .collect();
        let mut stmts = Vec::new();
        for stage in stages {
            stmts.extend(self.others.remove(&(phase, stage, Order::First)).unwrap_or_default());
            let keys: Vec<_> =
                self.nests.keys().filter(|key| key.0 == phase && key.1 == stage).cloned().collect();
            for key in keys {
                if let Some(nest) = self.nests.remove(&key) {
                    stmts.push(Stmt::Nest(Nest { dims: key.2, body: nest.body }));
                }
            }
            stmts.extend(self.others.remove(&(phase, stage, Order::Last)).unwrap_or_default());
        }
        stmts
    }
}

impl Lowering<'_> {
    /// The finished program, or two where a walk over positions is divided among threads.
    pub fn emit(mut self) -> Result<Vec<Lowered>, LowerError> {
        let mut schedule = Schedule::default();
        self.emit_nodes(&mut schedule)?;
        let mut before = schedule.take_phase(Phase::Before);
        let mut streamed = schedule.take_phase(Phase::Stream);
        let after = schedule.take_phase(Phase::After);
        if let Some(fold) = self.fold.clone() {
            let (starts, steps) = (self.fold_starts(&fold), self.fold_steps(&fold));
            if self.divides_chunks() {
                return self.divided(&fold, chunks::Parts { before, streamed, starts, steps, after });
            }
            before.extend(starts);
            streamed.extend(steps);
        }
        let mut body = before;
        if let Some(stream) = self.dims.stream {
            body.push(Stmt::Stream { dim: stream, bounds: self.bounds(), body: streamed });
        }
        body.extend(after);
        Ok(vec![self.finish(body)])
    }

    pub(super) fn finish(self, body: Vec<Stmt>) -> Lowered {
        let program = TileProgram {
            name: self.program_name(),
            notes: self.notes(),
            args: self.args,
            dims: self.dims.list,
            grid: self.dims.grid,
            tiles: self.tiles,
            tables: self.tables,
            body,
        };
        Lowered { program, args: self.sources, sums: self.sums }
    }

    /// Writes down every computation of the group.
    pub(super) fn emit_nodes(&mut self, schedule: &mut Schedule) -> Result<(), LowerError> {
        for &id in &self.group.nodes.clone() {
            let Computed { class, over_stream, .. } = self.computed[&id];
            if (self.context.goes_on)(id) && !(over_stream || class == Class::Scatter) {
                return Err(
                    self.error(id, "goes on from a state, but does not sum along its kernel's rows".into())
                );
            }
            match class {
                Class::Pointwise => self.emit_pointwise(schedule, id)?,
                Class::Concat => self.emit_concat(schedule, id)?,
                Class::Reduce => self.emit_reduce(schedule, id)?,
                Class::Dot => self.emit_dot(schedule, id)?,
                Class::Scatter => self.emit_scatter(schedule, id)?,
                Class::TopK => self.emit_top_k(schedule, id)?,
                Class::Round => self.emit_round(schedule, id)?,
            }
        }
        Ok(())
    }

    /// The value of a node at a point of a nest.
    pub(super) fn value(
        &mut self,
        nest: &mut NestBuilder,
        id: NodeId,
        phase: Phase,
    ) -> Result<ValueId, LowerError> {
        if let Some(&value) = nest.values.get(&id) {
            return Ok(value);
        }
        let operands = self.graph.operands(id);
        let value = match self.graph.op(id).clone() {
            Op::Literal(literal) if literal.axis.is_none() => nest.push(scalar(&literal)),
            Op::Index(index) => {
                let dim = self
                    .dims
                    .of(index.axis)
                    .ok_or_else(|| self.error(id, "counts along an axis that is not walked".into()))?;
                nest.push(Instr::Position(dim))
            }
            _ if self.is_free(id) && !matches!(self.graph.op(id), Op::Literal(_)) => {
                self.compute(nest, id, &operands, phase)?
            }
            Op::RoundBlocks(_) => {
                return Err(self.error(
                    id,
                    "is rounded for products with weights in blocks, and only these read it".into(),
                ));
            }
            _ => {
                let place = self.place(id, phase == Phase::After)?;
                let loaded = nest.push(Instr::Load(place));
                match self.fold.as_ref().is_some_and(|fold| fold.maximum == id) && phase == Phase::Stream {
                    // A chunk in which everything is masked has no maximum: any finite number serves.
                    true => finite(nest, loaded),
                    false => loaded,
                }
            }
        };
        nest.values.insert(id, value);
        Ok(value)
    }

    /// The result of a pointwise op on values of a nest.
    fn compute(
        &mut self,
        nest: &mut NestBuilder,
        id: NodeId,
        operands: &[NodeId],
        phase: Phase,
    ) -> Result<ValueId, LowerError> {
        match self.graph.op(id).clone() {
            Op::Map(map) => {
                let values = operands
                    .iter()
                    .map(|&operand| self.value(nest, operand, phase))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(match map.0 {
                    ScalarFn::Detach => values[0],
                    function => nest.push(Instr::Map(function, values)),
                })
            }
            Op::Cast(cast) => {
                let value = self.value(nest, operands[0], phase)?;
                Ok(match (self.graph.ty(operands[0]).dtype, cast.0) {
                    (from, to) if from == to => value,
                    (DType::I32 | DType::Bool, DType::F32) => nest.push(Instr::ToFloat(value)),
                    (DType::I32 | DType::Bool, to) => {
                        let float = nest.push(Instr::ToFloat(value));
                        nest.push(Instr::Round(to, float))
                    }
                    (_, to) if to.is_narrow() => nest.push(Instr::Round(to, value)),
                    _ => value,
                })
            }
            Op::Take(take) => self.compute_take(nest, id, take.axis, operands),
            op => Err(self.error(id, format!("{} is not pointwise", op.name()))),
        }
    }

    fn emit_pointwise(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let computed = self.computed[&id].clone();
        let nest = schedule.nest(computed.phase, computed.stage, &computed.dims);
        let operands = self.graph.operands(id);
        let value = self.compute(nest, id, &operands, computed.phase)?;
        nest.values.insert(id, value);
        if let Some(tile) = computed.tile {
            nest.push(Instr::Store(Place::Strided(tile), value));
        }
        if self.group.outputs.contains(&id) {
            let place = self.stored(id, true)?;
            nest.push(Instr::Store(place, value));
        }
        self.emit_caches(schedule, id)
    }

    /// Stores a value that has a tile to memory, if it is an output.
    pub(super) fn emit_store(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let computed = self.computed[&id].clone();
        if self.group.outputs.contains(&id) {
            let phase = if computed.over_stream { Phase::After } else { computed.phase };
            let nest = schedule.nest(phase, computed.stage + 1, &computed.dims);
            let value = self.value(nest, id, phase)?;
            let place = self.stored(id, true)?;
            schedule.nest(phase, computed.stage + 1, &computed.dims).push(Instr::Store(place, value));
        }
        self.emit_caches(schedule, id)
    }

    /// Appends a value to the caches of the histories that look at it.
    fn emit_caches(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let computed = self.computed[&id].clone();
        let phase = if computed.over_stream { Phase::After } else { computed.phase };
        for history in self.caches_of(id) {
            let operand = self.graph.operands(history)[0];
            let own = operand == id && computed.class == Class::Pointwise;
            let stage = if own { computed.stage } else { computed.stage + 1 };
            let dims = self.node_dims(operand);
            let nest = schedule.nest(phase, stage, &dims);
            let value = self.value(nest, operand, phase)?;
            let place = self.cache(history, true)?;
            schedule.nest(phase, stage, &dims).push(Instr::Store(place, value));
        }
        Ok(())
    }

    fn emit_concat(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let Op::Concat(concat) = self.graph.op(id).clone() else { return Ok(()) };
        let computed = self.computed[&id].clone();
        let into = self.dims.of(concat.into);
        let mut targets: Vec<Place> = computed.tile.clone().map(Place::Strided).into_iter().collect();
        if self.group.outputs.contains(&id) {
            targets.push(self.stored(id, true)?);
        }
        for ((operand, piece), start) in
            self.graph.operands(id).into_iter().zip(&concat.pieces).zip(concat.starts())
        {
            let piece = self.dims.of(*piece);
            let dims: Vec<DimId> = computed
                .dims
                .iter()
                .filter_map(|&dim| if Some(dim) == into { piece } else { Some(dim) })
                .collect();
            let nest = schedule.nest(computed.phase, computed.stage, &dims);
            let value = self.value(nest, operand, computed.phase)?;
            for target in &targets {
                let mut part = target.clone();
                let along = take_along(&mut part, into);
                begin_at(&mut part, times(along, start));
                add_along(&mut part, piece, along);
                nest.push(Instr::Store(part, value));
            }
        }
        self.emit_caches(schedule, id)
    }

    fn emit_reduce(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let Op::Reduce(reduce) = self.graph.op(id).clone() else { return Ok(()) };
        let computed = self.computed[&id].clone();
        let operand = self.graph.operands(id)[0];
        let walked = self.walked(id);
        let over: Vec<DimId> = walked.iter().copied().filter(|dim| !computed.dims.contains(dim)).collect();
        let into = computed.chunk.clone().or_else(|| computed.tile.clone());
        let into = into.ok_or_else(|| self.error(id, "has no tile".into()))?;
        let start = match reduce.kind {
            ReduceKind::Sum => 0.0,
            ReduceKind::Max => f32::NEG_INFINITY,
        };
        let accumulates = computed.over_stream && computed.chunk.is_none();
        let in_registers = over.len() == 1 && walked.last() == over.first();
        let place = Place::Strided(into.clone());
        if accumulates {
            self.start_sum(schedule, id, &computed.dims, &place, start)?;
        } else if !in_registers {
            let fill = Stmt::Fill { dims: computed.dims.clone(), place, value: start };
            schedule.push(computed.phase, computed.stage, Order::First, fill);
        }
        let nest = schedule.nest(computed.phase, computed.stage, &walked);
        let value = self.value(nest, operand, computed.phase)?;
        let (kind, fresh, sum) = (reduce.kind, in_registers && !accumulates, self.sum(id)?);
        nest.push(Instr::Reduce { kind, value, over, into, fresh, sum });
        self.emit_store(schedule, id)
    }

    /// What a sum along the stream starts from: a number, or what is stored where it goes on.
    pub(super) fn start_sum(
        &mut self,
        schedule: &mut Schedule,
        id: NodeId,
        dims: &[DimId],
        into: &Place,
        start: f32,
    ) -> Result<(), LowerError> {
        let goes_on = (self.context.goes_on)(id);
        let fill = Stmt::Fill { dims: dims.to_vec(), place: into.clone(), value: start };
        if !goes_on && !self.context.in_turns {
            schedule.push(Phase::Before, 0, Order::First, fill);
            return Ok(());
        }
        if !self.group.outputs.contains(&id) {
            return Err(self.error(id, "goes on from what is stored, but is not stored".into()));
        }
        let stored = self.stored(id, true)?;
        let mut held = Vec::new();
        if stored != *into {
            let mut nest = NestBuilder::default();
            let value = nest.push(Instr::Load(stored));
            nest.push(Instr::Store(into.clone(), value));
            held.push(Stmt::Nest(Nest { dims: dims.to_vec(), body: nest.body }));
        }
        if !goes_on {
            held = vec![Stmt::When { condition: Condition::AtFirstTurn, yes: vec![fill], no: held }];
        }
        held.into_iter().for_each(|stmt| schedule.push(Phase::Before, 0, Order::First, stmt));
        Ok(())
    }

    fn fold_starts(&self, fold: &Fold) -> Vec<Stmt> {
        let starts =
            [(fold.maximum, f32::NEG_INFINITY)].into_iter().chain(fold.sums.iter().map(|&sum| (sum, 0.0)));
        starts
            .filter_map(|(id, value)| {
                let computed = &self.computed[&id];
                let place = Place::Strided(computed.tile.clone()?);
                Some(Stmt::Fill { dims: computed.dims.clone(), place, value })
            })
            .collect()
    }

    /// Folds a chunk's maximum and sums, each from a fresh accumulator, into the running ones.
    fn fold_steps(&mut self, fold: &Fold) -> Vec<Stmt> {
        let maximum = self.computed[&fold.maximum].clone();
        let (Some(running), Some(chunk)) = (maximum.tile.clone(), maximum.chunk.clone()) else {
            return Vec::new();
        };
        let keep = self.new_tile("keep_factor", maximum.dims.clone(), DType::F32);
        let add = self.new_tile("add_factor", maximum.dims.clone(), DType::F32);
        let strided = |view: &View| Place::Strided(view.clone());
        let mut nest = NestBuilder::default();
        let old = nest.push(Instr::Load(strided(&running)));
        let new = nest.push(Instr::Load(strided(&chunk)));
        let most = nest.push(Instr::Map(ScalarFn::Max, vec![old, new]));
        let safe = finite(&mut nest, most);
        for (from, to) in [(old, &keep), (new, &add)] {
            // Where a chunk, or all before it, has no maximum, its sums are 0, and so is the factor.
            let difference = nest.push(Instr::Map(ScalarFn::Sub, vec![from, safe]));
            let factor = nest.push(Instr::Map(ScalarFn::Exp, vec![difference]));
            nest.push(Instr::Store(strided(to), factor));
        }
        nest.push(Instr::Store(strided(&running), most));
        let mut stmts = vec![Stmt::Nest(Nest { dims: maximum.dims, body: nest.body })];
        for sum in &fold.sums {
            let computed = self.computed[sum].clone();
            let (Some(running), Some(chunk)) = (computed.tile, computed.chunk) else { continue };
            let mut nest = NestBuilder::default();
            let mut scaled = |value: &View, factor: &View| {
                let value = nest.push(Instr::Load(strided(value)));
                let factor = nest.push(Instr::Load(strided(factor)));
                nest.push(Instr::Map(ScalarFn::Mul, vec![value, factor]))
            };
            let (kept, added) = (scaled(&running, &keep), scaled(&chunk, &add));
            let total = nest.push(Instr::Map(ScalarFn::Add, vec![kept, added]));
            nest.push(Instr::Store(strided(&running), total));
            stmts.push(Stmt::Nest(Nest { dims: computed.dims, body: nest.body }));
        }
        stmts
    }

    /// Which blocks of the stream count: those that the masks of all its
    /// reductions leave, where the masks agree; otherwise all.
    pub(super) fn bounds(&self) -> StreamBounds {
        let mut reductions = self.group.nodes.iter().filter(|id| self.computed[id].over_stream);
        let mut bounds = reductions.clone().map(|&id| self.mask_of(id));
        let first = bounds.next().unwrap_or_default();
        let agree = reductions.all(|&id| self.mask_of(id) == first);
        let mut bounds = if agree { first } else { StreamBounds::default() };
        if !self.context.history_is_rename {
            // What a cache does not keep is not there, whatever a mask says.
            let kept = self.group.nodes.iter().filter_map(|&id| past::kept(self.graph, id));
            bounds.window = bounds.window.into_iter().chain(kept).min();
        }
        bounds
    }

    /// What the mask says that a value has gone through, so that it counts for
    /// nothing elsewhere: it is minus infinity there, or zero, or a product with what is.
    fn mask_of(&self, id: NodeId) -> StreamBounds {
        let graph = self.graph;
        let operands = graph.operands(id);
        let of = |at: usize| self.mask_of(operands[at]);
        let any = |operands: &[NodeId]| {
            let masks = operands.iter().map(|&operand| self.mask_of(operand));
            masks.into_iter().find(|mask| *mask != StreamBounds::default()).unwrap_or_default()
        };
        match graph.op(id) {
            _ if !self.computed.contains_key(&id) => StreamBounds::default(),
            Op::Contract(_) => any(&operands),
            Op::Reduce(_) | Op::Cast(_) => of(0),
            Op::Map(map) => match map.0 {
                ScalarFn::Select => match graph.op(operands[2]) {
                    Op::Literal(literal) if matches!(literal.as_scalar(), Some(value) if value == f64::NEG_INFINITY || value == 0.0) => {
                        super::places::mask_bounds(graph, operands[0])
                    }
                    _ => StreamBounds::default(),
                },
                ScalarFn::Mul => any(&operands),
                ScalarFn::Exp | ScalarFn::Neg | ScalarFn::Div => of(0),
                // A row's maximum is taken away from what is masked.
                ScalarFn::Sub if !self.is_streamed_value(operands[1]) => of(0),
                ScalarFn::Add | ScalarFn::Sub if of(0) == of(1) => of(0),
                _ => StreamBounds::default(),
            },
            _ => StreamBounds::default(),
        }
    }

    /// Whether a value of the group varies along the stream.
    fn is_streamed_value(&self, id: NodeId) -> bool {
        let computed = self.computed.get(&id);
        computed
            .is_some_and(|computed| self.dims.stream.is_some_and(|stream| computed.dims.contains(&stream)))
    }

    pub(super) fn program_name(&self) -> String {
        if self.dims.flat.is_some() {
            return "pointwise".to_owned();
        }
        let mut parts: Vec<String> = Vec::new();
        for &id in &self.group.nodes {
            let op = self.graph.op(id);
            let key = matches!(op, Op::Contract(_) | Op::Reduce(_) | Op::PutAdd(_) | Op::Take(_));
            let part = match self.graph.node(id).label {
                Some(_) => self.name(id),
                None if key => op.name().to_owned(),
                None => continue,
            };
            if !parts.contains(&part) && parts.len() < 4 {
                parts.push(part);
            }
        }
        if parts.is_empty() {
            parts.push("pointwise".to_owned());
        }
        super::dims::identifier(&parts.join("_"))
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let note = |&id: &NodeId| {
            if self.dims.flat.is_some() {
                return self.graph.op(id).name().to_owned();
            }
            let label = self.graph.node(id).label.map(|label| format!("  ({label})")).unwrap_or_default();
            format!("{}: {}{label}", self.graph.op(id).name(), self.graph.ty(id))
        };
        self.group.nodes.iter().map(note).collect()
    }
}

fn scalar(literal: &Literal) -> Instr {
    let value = literal.as_scalar().unwrap_or(0.0);
    match literal.dtype {
        DType::I32 => Instr::Int(value as i32),
        DType::Bool => Instr::Truth(value != 0.0),
        DType::F32 | DType::BF16 | DType::F16 | DType::I8 => Instr::Float(value as f32),
    }
}

/// The value, or 0 where it is minus infinity.
fn finite(nest: &mut NestBuilder, value: ValueId) -> ValueId {
    let infinity = nest.push(Instr::Float(f32::NEG_INFINITY));
    let zero = nest.push(Instr::Float(0.0));
    let masked = nest.push(Instr::Map(ScalarFn::Equal, vec![value, infinity]));
    nest.push(Instr::Map(ScalarFn::Select, vec![masked, zero, value]))
}
