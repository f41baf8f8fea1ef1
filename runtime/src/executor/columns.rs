//! The columns of a value that is held in blocks, and where each lies. It knows nothing of how numbers are rounded.

use super::blocks::Panels;
use super::parameters::Stored;
use diptych_ir::Axis;
use diptych_passes::layout::{Layout, product};

/// The columns of a value that is held in blocks: those of the first layer first.
#[derive(Clone, PartialEq, Debug)]
pub struct Columns {
    /// How blocks lie.
    pub panels: Panels,
    /// Columns of a layer.
    within_layer: usize,
    /// Sizes of the axes that count columns, slowest first, and how far positions along them are apart in the user's
    /// order.
    outer: Vec<(usize, usize)>,
    /// The same of the axes that count rows.
    rows: Vec<(usize, usize)>,
}

/// The position that so many steps along axes lead to, the last axis fastest.
fn position(axes: &[(usize, usize)], mut steps: usize) -> usize {
    let mut position = 0;
    for &(size, stride) in axes.iter().rev() {
        position += steps % size * stride;
        steps /= size;
    }
    position
}

/// The other way round.
fn steps(axes: &[(usize, usize)], position: usize) -> usize {
    axes.iter().fold(0, |steps, &(size, stride)| steps * size + position / stride % size)
}

impl Columns {
    /// The columns of a value, if it is held in blocks in panels of so many columns.
    pub(super) fn of(stored: &Stored, panel: usize) -> Option<Columns> {
        let Layout::Blocks { format, k, n } = &stored.layout else { return None };
        let panels = Panels { format: *format, depth: product(k), panel };
        let stride = |axis: &Axis| {
            let at = stored.order.iter().position(|other| other == axis).unwrap_or(0);
            (axis.fixed_size().unwrap_or(1), product(&stored.order[at + 1..]))
        };
        let outer: Vec<Axis> = stored.layers.into_iter().chain(n.iter().copied()).collect();
        Some(Columns {
            panels,
            within_layer: product(n),
            outer: outer.iter().map(stride).collect(),
            rows: k.iter().map(stride).collect(),
        })
    }

    /// Columns of all layers.
    pub fn count(&self) -> usize {
        self.outer.iter().map(|axis| axis.0).product()
    }

    /// Numbers of a column.
    pub fn depth(&self) -> usize {
        self.panels.depth
    }

    /// The position of a column's first number in the user's order.
    pub fn first(&self, column: usize) -> usize {
        position(&self.outer, column)
    }

    /// The positions of a column's numbers in the user's order.
    pub fn positions(&self, column: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.first(column);
        (0..self.depth()).map(move |row| first + position(&self.rows, row))
    }

    /// The column and the row of a position.
    pub(super) fn of_position(&self, position: usize) -> (usize, usize) {
        (steps(&self.outer, position), steps(&self.rows, position))
    }

    /// Where a column's panel begins, and the column within it.
    pub(super) fn place(&self, column: usize) -> (usize, usize) {
        let panel = self.panels.panel;
        let (layer, column) = (column / self.within_layer, column % self.within_layer);
        let panels = layer * self.within_layer.div_ceil(panel) + column / panel;
        (panels * self.panels.panel_bytes(), column % panel)
    }
}
