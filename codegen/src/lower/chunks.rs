//! A walk over the positions so far in two programs, where each sequence has one token and threads would otherwise wait:
//! one computes what is left of each chunk, an instance a chunk; the other folds that in order, as the undivided walk
//! does. It computes the same values with the same statements: the same bits.

use super::emit::NestBuilder;
use super::stages::{Fold, Lowering, Phase};
use super::{Context, LowerError, Lowered};
use crate::condense::{remove_arguments, touches};
use crate::tile::{Base, Extent, Instr, Nest, Place, Stmt};
use diptych_ir::{NodeId, Op, ReduceKind};
use diptych_passes::fuse::{Group, GroupKind, StreamAxis};
use diptych_passes::layout::symbol;

/// The statements of a walk.
pub(super) struct Parts {
    /// What is done once, before it.
    pub before: Vec<Stmt>,
    /// What is done for each chunk.
    pub streamed: Vec<Stmt>,
    /// What the fold starts from.
    pub starts: Vec<Stmt>,
    /// How a chunk is folded.
    pub steps: Vec<Stmt>,
    /// What is done once, after it.
    pub after: Vec<Stmt>,
}

/// Whether threads are to share the chunks of a group: it folds a maximum along the positions so far while it holds few
/// tokens.
pub(super) fn are_shared(group: &Group, context: &Context) -> bool {
    let graph = &context.program.region(context.region).graph;
    let along_past = |id: &NodeId| match graph.op(*id) {
        Op::Reduce(reduce) if reduce.kind == ReduceKind::Max => {
            reduce.over.iter().any(|&axis| symbol(axis) == Some("past"))
        }
        _ => false,
    };
    let shares = context.few_rows.is_some_and(|threads| threads > 1) && !context.history_is_rename;
    match &group.kind {
        GroupKind::Stream(axes) if shares => {
            (axes.across, axes.along) == (StreamAxis::Time, StreamAxis::Past)
                && group.nodes.iter().any(along_past)
        }
        _ => false,
    }
}

impl Lowering<'_> {
    /// Whether chunks are divided among instances: where there are few tokens, and all that the walk leaves is folded.
    pub(super) fn divides_chunks(&self) -> bool {
        let Some(fold) = &self.fold else { return false };
        let folded = |id: &NodeId| *id == fold.maximum || fold.sums.contains(id);
        let mut left = self.group.nodes.iter().filter(|id| self.computed[id].over_stream);
        // What is computed before the walk is computed by each of its instances: it must be stored nowhere.
        let stored = |id: &NodeId| self.group.outputs.contains(id) || !self.caches_of(*id).is_empty();
        let mut before = self.group.nodes.iter().filter(|id| self.computed[id].phase == Phase::Before);
        // Where positions see later ones, a run has to have all of a text.
        let causal = self.bounds().causal;
        are_shared(self.group, self.context) && causal && left.all(folded) && !before.any(stored)
    }

    /// The two programs.
    pub(super) fn divided(mut self, fold: &Fold, parts: Parts) -> Result<Vec<Lowered>, LowerError> {
        let Parts { before, mut streamed, starts, steps, after } = parts;
        let Some((time, past)) = self.dims.sequence else {
            return Err(self.error(fold.maximum, "is folded along no positions".to_owned()));
        };
        let bounds = self.bounds();
        let tiles = |stmts: &[Stmt], tile: usize| stmts.iter().any(|stmt| touches(stmt, &[Base::Tile(tile)]));
        let mut body = Vec::new();
        // What is computed once is computed by both, where both need it.
        if (0..self.tiles.len()).any(|tile| tiles(&before, tile) && tiles(&after, tile)) {
            body.extend(before.iter().cloned());
        }
        body.extend(starts);
        let mut folded = Vec::new();
        for id in [fold.maximum].into_iter().chain(fold.sums.iter().copied()) {
            let computed = self.computed[&id].clone();
            let chunk =
                computed.chunk.ok_or_else(|| self.error(id, "is folded, but has no tile".to_owned()))?;
            let left = self.left_of_chunks(id, true)?;
            streamed.push(copy(&computed.dims, Place::Strided(chunk.clone()), left.clone()));
            folded.push(copy(&computed.dims, left, Place::Strided(chunk)));
        }
        folded.extend(steps);
        body.push(Stmt::Stream { dim: past, bounds, body: folded });
        body.extend(after);
        let name = self.program_name();
        let mut fold = self.finish(body);
        let mut chunks = fold.clone();
        fold.program.name = format!("{name}_fold");
        chunks.program.name = format!("{name}_chunks");
        chunks.program.body = before.into_iter().chain(streamed).collect();
        chunks.program.dims[past].extent = Extent::Past { window: bounds.window };
        chunks.program.grid.iter_mut().filter(|dim| **dim == time).for_each(|dim| *dim = past);
        for lowered in [&mut chunks, &mut fold] {
            let kept = remove_arguments(&mut lowered.program);
            let mut kept = kept.into_iter();
            lowered.args.retain(|_| kept.next().unwrap_or(true));
        }
        Ok(vec![chunks, fold])
    }
}

fn copy(dims: &[usize], from: Place, to: Place) -> Stmt {
    let mut nest = NestBuilder::default();
    let value = nest.push(Instr::Load(from));
    nest.push(Instr::Store(to, value));
    Stmt::Nest(Nest { dims: dims.to_vec(), body: nest.body })
}
