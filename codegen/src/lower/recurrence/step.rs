//! The step of a recurrence: its statements, and where the next of each carried
//! value is computed: where the present one lies if nothing reads that later,
//! beside it otherwise. It knows nothing of what is around the recurrence.

use super::tile_dims;
use crate::lower::LowerError;
use crate::lower::emit::{NestBuilder, Schedule};
use crate::lower::stages::{Class, Lowering, Phase, Step};
use crate::tile::{DimId, Instr, Nest, Place, Stmt, View};
use diptych_ir::NodeId;
use diptych_passes::fuse::is_view;
use std::collections::HashSet;

impl Lowering<'_> {
    /// The statements before all steps, and those of a step.
    pub(super) fn steps(&mut self) -> Result<(Vec<Stmt>, Vec<Stmt>), LowerError> {
        self.order()?;
        let mut schedule = Schedule::default();
        let step = self.step.take().unwrap_or_default();
        let carried = step.carried.clone();
        let in_place = step.in_place.clone();
        self.step = Some(step);
        // What is overwritten where it lies is read first.
        for &(argument, result) in carried.iter().filter(|pair| in_place.contains(&pair.1)) {
            let computed = &self.computed[&result];
            let (stage, dims) = (computed.stage, computed.dims.clone());
            let nest = schedule.nest(Phase::Stream, stage, &dims);
            self.value(nest, argument, Phase::Stream)?;
        }
        self.emit_nodes(&mut schedule)?;
        let before = schedule.take_phase(Phase::Before);
        let mut steps = schedule.take_phase(Phase::Stream);
        for (at, &(argument, result)) in carried.iter().enumerate() {
            let (to, tile) = (self.next_state(at, argument), self.computed[&result].tile.clone());
            if let (Some(to), Some(tile)) = (to, tile)
                && to != tile
            {
                steps.push(self.copy(&tile, Place::Strided(to)));
            }
        }
        Ok((before, steps))
    }

    /// Where the next of a carried value is to be.
    fn next_state(&self, at: usize, argument: NodeId) -> Option<View> {
        let step = self.step.as_ref()?;
        match (&step.next[at], step.ports.get(&argument)) {
            (Some(next), _) => Some(next.clone()),
            (None, Some(Place::Strided(view))) => Some(view.clone()),
            _ => None,
        }
    }

    /// Whether a node is the next of a carried value.
    pub(in crate::lower) fn is_carried(&self, id: NodeId) -> bool {
        self.step.as_ref().is_some_and(|step| step.carried.iter().any(|pair| pair.1 == id))
    }

    /// Where a node is computed if it is the next of a carried value, and can be computed there.
    pub(in crate::lower) fn state_tile(&self, id: NodeId) -> Option<View> {
        let step = self.step.as_ref()?;
        let at = step.carried.iter().position(|pair| pair.1 == id)?;
        let pointwise = self.computed[&id].class == Class::Pointwise;
        let apart = step.next[at].is_some() && pointwise;
        (apart || step.in_place.contains(&id)).then(|| self.next_state(at, step.carried[at].0))?
    }

    /// Finds the carried values whose next can be computed where the present one lies: pointwise, with every
    /// reader of the present one in an earlier stage, or at the same point.
    pub(in crate::lower) fn find_in_place(&mut self) {
        let Some(step) = self.step.take() else { return };
        let mut in_place = HashSet::new();
        for (at, &(argument, result)) in step.carried.iter().enumerate() {
            let next = self.computed[&result].clone();
            if step.next[at].is_some() || next.class != Class::Pointwise {
                continue;
            }
            let group = self.group;
            let early = group.nodes.iter().all(|&id| {
                let reads = self.reads_argument(id, argument);
                let Some(viewed) = reads else { return true };
                let reader = self.computed[&id].clone();
                let walked =
                    if reader.class == Class::Reduce { self.walked(id) } else { reader.dims.clone() };
                let together = matches!(reader.class, Class::Pointwise | Class::Reduce)
                    && !viewed
                    && walked == next.dims
                    && reader.stage == next.stage;
                reader.phase == Phase::Stream && (reader.stage < next.stage || together)
            });
            if early {
                in_place.insert(result);
            }
        }
        self.step = Some(Step { in_place, ..step });
    }

    /// Whether a node reads an argument of the body, and if so whether through a view.
    fn reads_argument(&self, id: NodeId, argument: NodeId) -> Option<bool> {
        let mut found = None;
        let mut stack: Vec<(NodeId, bool)> =
            self.graph.operands(id).into_iter().map(|operand| (operand, false)).collect();
        while let Some((operand, viewed)) = stack.pop() {
            if operand == argument {
                found = Some(found.unwrap_or(false) || viewed);
            } else if self.group.nodes.contains(&operand) {
                continue;
            } else if is_view(self.graph.op(operand)) {
                stack.extend(self.graph.operands(operand).into_iter().map(|operand| (operand, true)));
            } else {
                stack.extend(self.graph.operands(operand).into_iter().map(|operand| (operand, viewed)));
            }
        }
        found
    }

    pub(super) fn copy(&mut self, from: &View, to: Place) -> Stmt {
        let dims = self.walkable(from);
        let mut nest = NestBuilder::default();
        let value = nest.push(Instr::Load(Place::Strided(from.clone())));
        nest.push(Instr::Store(to, value));
        Stmt::Nest(Nest { dims, body: nest.body })
    }

    pub(super) fn copy_from(&mut self, from: Place, to: &View) -> Stmt {
        let dims = self.walkable(to);
        let mut nest = NestBuilder::default();
        let value = nest.push(Instr::Load(from));
        nest.push(Instr::Store(Place::Strided(to.clone()), value));
        Stmt::Nest(Nest { dims, body: nest.body })
    }

    /// The dimensions of a tile that a loop walks.
    fn walkable(&self, tile: &View) -> Vec<DimId> {
        tile_dims(tile).into_iter().filter(|dim| !self.dims.single.contains(dim)).collect()
    }
}
