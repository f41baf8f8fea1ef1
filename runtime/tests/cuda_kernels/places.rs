//! Where the elements of a value lie in a buffer, for the sequences of a run.

use diptych_codegen::entry::Buffer;
use diptych_codegen::tile::CHUNK;
use diptych_ir::Symbol;
use diptych_ir::evaluate::{Index, Value, for_each_index};
use diptych_passes::layout::Leading;
use std::ops::Range;

/// The sequences of a run.
pub struct Bound {
    /// Where each begins, and how long it is.
    pub sequences: Vec<(usize, usize)>,
    /// The chunks of each in the caches, if there are caches.
    pub chunks: Vec<Vec<i32>>,
    /// How many tokens there are to choose from.
    pub vocab: usize,
}

/// Positions of each sequence that are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Those that the run computes.
    New,
    /// Those before.
    Old,
    /// Both.
    All,
}

impl Bound {
    /// The rows of the run.
    pub fn rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.1).sum()
    }

    fn first_row(&self, sequence: usize) -> usize {
        self.sequences[..sequence].iter().map(|sequence| sequence.1).sum()
    }

    /// The rows of a buffer that belong to some sequences, with the index of each in a value of these sequences alone.
    /// None where rows are of another kind.
    fn rows_of(
        &self,
        leading: Leading,
        sequences: Range<usize>,
        positions: Positions,
    ) -> Option<Vec<(usize, Index)>> {
        let index = |at: &[(&str, usize)]| {
            let mut index = Index::default();
            at.iter().for_each(|&(name, position)| index.set(name.into(), position));
            index
        };
        let first = sequences.start;
        Some(match leading {
            Leading::None => vec![(0, Index::default())],
            Leading::Batch => sequences.map(|at| (at, index(&[("batch", at - first)]))).collect(),
            Leading::Rows => sequences
                .flat_map(|at| {
                    let ((origin, length), row) = (self.sequences[at], self.first_row(at));
                    (0..length).map(move |step| (row + step, at, origin + step))
                })
                .map(|(row, at, position)| (row, index(&[("batch", at - first), ("time", position)])))
                .collect(),
            Leading::Past => sequences
                .flat_map(|at| {
                    let (origin, length) = self.sequences[at];
                    let of = match positions {
                        Positions::New => origin..origin + length,
                        Positions::Old => 0..origin,
                        Positions::All => 0..origin + length,
                    };
                    of.map(move |position| {
                        let row = match self.chunks.get(at) {
                            Some(chunks) => chunks[position / CHUNK] as usize * CHUNK + position % CHUNK,
                            None => self.first_row(at) + position,
                        };
                        (row, at, position)
                    })
                })
                .map(|(row, at, position)| (row, index(&[("batch", at - first), ("past", position)])))
                .collect(),
            Leading::Checkpoints | Leading::Chunks | Leading::Quadratic => return None,
        })
    }

    /// Elements of a buffer, counted from a slot's first, with what they are in a value of some of the sequences. None
    /// where the buffer has rows of a kind that no value of the graph has.
    pub fn placed(
        &self,
        (buffer, panel, slot_elements): (&Buffer, usize, usize),
        value: &Value,
        sequences: Range<usize>,
        positions: Positions,
    ) -> Option<Vec<(usize, f64)>> {
        let fixed: Vec<(Symbol, usize)> =
            buffer.layout.axes().iter().map(|axis| (axis.name, axis.fixed_size().unwrap_or(1))).collect();
        let within = |name: Symbol| {
            matches!(name.as_str(), "batch" | "time" | "past") || fixed.iter().any(|axis| axis.0 == name)
        };
        // Layers have a slot each.
        let layers: Vec<(Symbol, usize)> =
            value.axes.iter().copied().filter(|axis| !within(axis.0)).collect();
        assert!(layers.len() <= 1, "{:?} in {:?}", value.axes, buffer.layout);
        let width = buffer.layout.row_elements(panel);
        let rows = self.rows_of(buffer.layout.leading(), sequences, positions)?;
        let mut found = Vec::new();
        for slot in 0..layers.first().map_or(1, |axis| axis.1) {
            for (row, index) in &rows {
                let start = slot * slot_elements + row * width;
                let mut index = match layers.first() {
                    Some(&(name, _)) => index.with(name, slot),
                    None => index.clone(),
                };
                for_each_index(&fixed, &mut index, &mut |index| {
                    let offset = buffer.layout.offset(panel, &|axis| index.get(axis.name));
                    found.push((start + offset, value.at(index)));
                });
            }
        }
        Some(found)
    }
}
