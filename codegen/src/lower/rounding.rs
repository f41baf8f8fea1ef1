//! Rounded rows: where their blocks lie, and what they are rounded from. It knows no weight.

use super::LowerError;
use super::emit::{Order, Schedule};
use super::places::row_major;
use super::stages::{Lowering, Phase};
use crate::tile::{Base, DimId, Place, RowMap, Stmt, Tile, View};
use diptych_ir::blocks::BLOCK;
use diptych_ir::{DType, NodeId, Op};
use diptych_passes::layout::ROUNDED_WORDS;

impl Lowering<'_> {
    /// The dimensions of a rounded value's rows, and those that are cut into blocks.
    fn parts(&mut self, id: NodeId) -> (Vec<DimId>, Vec<DimId>) {
        let mut over = Vec::new();
        if let Op::RoundBlocks(round) = self.graph.op(id).clone() {
            over = round.over.into_iter().filter_map(|axis| self.dims.of(axis)).collect();
        }
        let rows = self.node_dims(id).into_iter().filter(|dim| !over.contains(dim)).collect();
        (rows, over)
    }

    /// A tile for the blocks of a rounded value.
    pub(super) fn rounded_tile(&mut self, id: NodeId) -> View {
        let (rows, over) = self.parts(id);
        let depth: usize = over.iter().map(|&dim| self.dims.most(dim)).product();
        let words = depth / BLOCK * ROUNDED_WORDS;
        let mut strides = row_major(&rows, |dim| self.dims.most(dim));
        strides.iter_mut().for_each(|entry| entry.1 *= words);
        let elements = rows.iter().map(|&dim| self.dims.most(dim)).product::<usize>() * words;
        let name = format!("{}_t{}", self.name(id), self.tiles.len());
        let dims = [rows, over].concat();
        self.tiles.push(Tile { name, dims, elements, values: DType::F32 });
        let base = Base::Tile(self.tiles.len() - 1);
        View { base, dtype: DType::F32, offset: 0, strides, rows: RowMap::InOrder }
    }

    /// Rounds a value to its tile and to where it is stored, as far as there are such.
    pub(super) fn emit_round(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let computed = self.computed[&id].clone();
        let operand = self.graph.operands(id)[0];
        let (rows, over) = self.parts(id);
        let (phase, after) = (computed.phase, computed.phase == Phase::After);
        let from = match self.place(operand, after)? {
            Place::Strided(view) if self.is_rounded_as_it_lies(&view, &rows, &over) => view,
            _ => self.copied(schedule, operand, &[&rows[..], &over].concat(), after, computed.stage)?,
        };
        let mut targets: Vec<View> = computed.tile.into_iter().collect();
        if self.group.outputs.contains(&id) {
            match self.stored(id, true)? {
                Place::Strided(view) => targets.push(view),
                Place::Packed(_) => return Err(self.error(id, "is rounded, and cannot be packed".into())),
            }
        }
        for to in targets {
            let stmt = Stmt::Round { rows: rows.clone(), over: over.clone(), from: from.clone(), to };
            schedule.push(phase, computed.stage, Order::Last, stmt);
        }
        Ok(())
    }

    /// Whether elements are f32, one after the other in the order of blocks, and rows lie as one.
    fn is_rounded_as_it_lies(&self, view: &View, rows: &[DimId], over: &[DimId]) -> bool {
        view.dtype == DType::F32
            && view.rows == RowMap::InOrder
            && over.last().is_none_or(|&dim| view.stride(dim) == 1)
            && self.runs_as_one(view, over)
            && self.runs_as_one(view, rows)
            && !self.is_scattered(&Place::Strided(view.clone()))
    }
}
