//! Where elements are, as CUDA expressions: positions along dimensions, and addresses in arguments, tiles and tables.
//! Indices are of 32 bits; where rows of a run are counted, or elements of a tensor are more, addresses are of 64.

use super::passes::along_text;
use super::placement::element;
use super::writer::Writer;
use crate::tile::{Along, Base, DimId, Extent, PackedView, Place, RowMap, View};
use diptych_ir::DType;
use diptych_passes::layout::CHECKPOINT;
use std::fmt::Write;

/// The index of each dimension that a loop walks.
pub(super) type Index<'a> = &'a dyn Fn(DimId) -> Option<String>;

/// No loop walks a dimension: the start of the instance's range is meant.
pub(super) fn at_start(_: DimId) -> Option<String> {
    None
}

impl Writer<'_> {
    pub(super) fn name(&self, dim: DimId) -> &str {
        &self.program.dims[dim].name
    }

    pub(super) fn extent(&self, dim: DimId) -> Extent {
        self.program.dims[dim].extent
    }

    /// Whether an instance sees one position of a dimension, so that nothing walks it.
    pub(super) fn is_single(&self, dim: DimId) -> bool {
        self.extent(dim).constant() == Some(1) && !matches!(self.extent(dim), Extent::Choice { .. })
    }

    /// The index of each of these dimensions, by the name of its loop.
    pub(super) fn walked<'b>(&'b self, dims: &'b [DimId]) -> impl Fn(DimId) -> Option<String> + 'b {
        let walked = move |dim| dims.contains(&dim) && !self.is_single(dim);
        move |dim| walked(dim).then(|| format!("i_{}", self.name(dim)))
    }

    /// The number of positions of a dimension that this instance looks at.
    pub(super) fn count(&self, dim: DimId) -> String {
        match self.extent(dim).constant() {
            Some(size) => size.to_string(),
            None => format!("{}_count", self.name(dim)),
        }
    }

    /// The number of positions of dimensions that lie as one.
    pub(super) fn counts(&self, dims: &[DimId]) -> String {
        let (mut constant, mut counts) = (1, Vec::new());
        for &dim in dims {
            match self.extent(dim).constant() {
                Some(size) => constant *= size,
                None => counts.push(self.count(dim)),
            }
        }
        if constant != 1 || counts.is_empty() {
            counts.push(constant.to_string());
        }
        counts.join(" * ")
    }

    /// All positions of a fixed axis.
    pub(super) fn positions(&self, dim: DimId) -> usize {
        match self.extent(dim) {
            Extent::Blocks { size, .. } => size,
            extent => extent.most(),
        }
    }

    /// The run-time row of a pair.
    pub(super) fn row_of_pair(&self, dim: DimId, index: &str) -> String {
        match self.extent(dim) {
            Extent::Pairs { each: 1, .. } => format!("{}_ids[{index}]", self.name(dim)),
            Extent::Pairs { each, .. } => format!("({}_ids[{index}] / {each})", self.name(dim)),
            _ => index.to_owned(),
        }
    }

    /// First position of a dimension, in its axis or its rows; `None` for 0.
    fn start(&self, dim: DimId) -> Option<String> {
        match self.extent(dim) {
            Extent::Whole(_) | Extent::Pairs { .. } | Extent::Choice { .. } => None,
            _ => Some(format!("{}_start", self.name(dim))),
        }
    }

    /// The position of a dimension in an array: absolute in memory, relative in a tile; `index` gives the loop's own
    /// part, if a loop walks it.
    fn position(&self, dim: DimId, tile: bool, index: Index<'_>) -> Option<String> {
        let at = |dim: DimId| index(dim).unwrap_or_else(|| "0".to_owned());
        match self.extent(dim) {
            Extent::Pairs { .. } if tile => return index(dim),
            Extent::Pairs { .. } => return Some(self.row_of_pair(dim, &at(dim))),
            Extent::Choice { pair, size, stride } => {
                let ids = format!("{}_ids[{}]", self.name(pair), at(pair));
                return Some(match stride {
                    1 => format!("({ids} % {size})"),
                    _ => format!("({ids} / {stride} % {size})"),
                });
            }
            _ => {}
        }
        let start = match (tile, self.extent(dim)) {
            (true, Extent::Position) => Some(format!("({}_start - block_first)", self.name(dim))),
            (true, _) => None,
            (false, _) => self.start(dim),
        };
        match (start, index(dim)) {
            (Some(start), Some(index)) => Some(format!("({start} + {index})")),
            (Some(start), None) => Some(start),
            (None, index) => index,
        }
    }

    /// The position of a dimension in memory: where the instance's range begins, and how far a loop has come.
    pub(super) fn place_of(&self, dim: DimId, index: Index<'_>) -> Option<String> {
        self.position(dim, false, index)
    }

    /// Whether a dimension's positions in memory are counted over a whole run, so that 32 bits may not do for an address.
    fn is_long(&self, dim: DimId) -> bool {
        !self.extent(dim).is_fixed()
    }

    /// Whether the last position of a fixed dimension is farther in memory than 32 bits count.
    fn is_far(&self, dim: DimId, stride: usize) -> bool {
        let positions = match self.extent(dim) {
            Extent::Choice { size, .. } => size,
            _ => self.positions(dim),
        };
        is_far(positions, stride)
    }

    /// The type of what a view looks at, as it is stored.
    pub(super) fn stored_type(&self, view: &View) -> DType {
        match view.base {
            Base::Tile(_) if view.dtype == DType::I32 => DType::I32,
            Base::Tile(tile) => element(self.program, tile),
            Base::Arg(_) | Base::Table(_) => view.dtype,
        }
    }

    /// The address of a view's element; `index` gives each loop's position.
    pub(super) fn address(&self, view: &View, index: Index<'_>) -> String {
        let tile = matches!(view.base, Base::Tile(_));
        let mut text = match view.base {
            Base::Arg(arg) => self.program.args[arg].name.clone(),
            Base::Tile(tile) if view.dtype == DType::I32 && element(self.program, tile) != DType::I32 => {
                format!("(int *){}", self.program.tiles[tile].name)
            }
            Base::Tile(tile) => self.program.tiles[tile].name.clone(),
            Base::Table(table) => self.table(table),
        };
        if let Some(row) = self.staggered_row(view.base) {
            text.push_str(&self.in_staggered_rows(view, row, index));
            return text;
        }
        if view.offset > 0 {
            let _ = write!(text, " + {}", view.offset);
        }
        for &(dim, stride) in view.strides.iter().filter(|entry| entry.1 > 0) {
            let Some(position) = self.position(dim, tile, index) else { continue };
            let position = self.mapped(view, dim, position);
            let _ = match stride {
                1 => write!(text, " + {position}"),
                _ if !tile && (self.is_long(dim) || self.is_far(dim, stride)) => {
                    write!(text, " + (long long){position} * {stride}")
                }
                _ => write!(text, " + {position} * {stride}"),
            };
        }
        text
    }

    /// How many elements a row of a tile has whose rows are staggered.
    pub(super) fn staggered_row(&self, base: Base) -> Option<usize> {
        match base {
            Base::Tile(tile) => self.staggered.get(&tile).copied(),
            Base::Arg(_) | Base::Table(_) => None,
        }
    }

    /// Where in such a tile an element of a view is: its row, and its place in that.
    fn in_staggered_rows(&self, view: &View, row: usize, index: Index<'_>) -> String {
        let terms = |first: usize, strides: &dyn Fn(usize) -> Option<usize>| {
            let steps = view.strides.iter().filter_map(|&(dim, stride)| {
                let stride = strides(stride).filter(|&stride| stride > 0)?;
                let position = self.mapped(view, dim, self.position(dim, true, index)?);
                Some(if stride == 1 { position } else { format!("{position} * {stride}") })
            });
            let first = (first > 0).then(|| first.to_string());
            first.into_iter().chain(steps).collect::<Vec<String>>().join(" + ")
        };
        let rows = terms(view.offset / row, &|stride| (stride % row == 0).then_some(stride / row));
        let within = terms(view.offset % row, &|stride| (stride % row != 0).then_some(stride));
        let rows = if rows.is_empty() { rows } else { format!(" + staggered({rows}, {row})") };
        if within.is_empty() { rows } else { format!("{rows} + {within}") }
    }

    /// A position as a view's rows have it.
    fn mapped(&self, view: &View, dim: DimId, position: String) -> String {
        let has_rows = matches!(
            (self.extent(dim), view.rows),
            (Extent::Rows { .. } | Extent::Time, _)
                | (Extent::Past { .. }, RowMap::Chunk)
                | (Extent::Sequence, RowMap::State)
                | (Extent::Position, RowMap::Checkpoint)
        );
        match view.rows {
            _ if !has_rows => position,
            RowMap::InOrder => position,
            RowMap::State => format!("step.sequence_state[{position}]"),
            // Sequences of any lengths have rows of their own, in order.
            RowMap::Checkpoint => format!(
                "(first_row / {CHECKPOINT} + sequence_start + ({position} - first_row) / {CHECKPOINT})"
            ),
            RowMap::Chunk => "(past_start / CHUNK)".to_owned(),
            RowMap::Cache => format!("step.row_cache[{position}]"),
            RowMap::Chosen(arg) => {
                format!("(step.sequence_row[{position}] + {}[{position}])", self.program.args[arg].name)
            }
        }
    }

    /// The k and n of a packed view's element.
    pub(super) fn packed_positions(&self, view: &PackedView, index: Index<'_>) -> (String, String) {
        let sum = |first: usize, strides: &[(DimId, usize)]| {
            let steps = strides.iter().filter_map(|&(dim, stride)| {
                let position = self.position(dim, false, index)?;
                Some(if stride == 1 { position } else { format!("{position} * {stride}") })
            });
            let first = (first > 0).then(|| first.to_string());
            let terms: Vec<String> = first.into_iter().chain(steps).collect();
            if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
        };
        (sum(view.first.0, &view.k), sum(view.first.1, &view.n))
    }

    /// The address of an element of a place.
    pub(super) fn element(&self, place: &Place, index: Index<'_>) -> String {
        match place {
            Place::Strided(view) => self.address(view, index),
            Place::Packed(view) => {
                let (k, n) = self.packed_positions(view, index);
                self.packed_element(view, &k, &n)
            }
        }
    }

    fn packed_element(&self, view: &PackedView, k: &str, n: &str) -> String {
        format!("{} + in_panels({k}, {n}, {})", self.program.args[view.arg].name, view.depth)
    }

    /// The address of an element of a table row that an id names.
    pub(super) fn element_at(&self, table: &Place, id: &str, along: Along, index: Index<'_>) -> String {
        let step = along_text(along, id);
        match (table, along) {
            (Place::Strided(view), Along::Stride(_)) => {
                format!("{} + (long long){step}", self.address(view, index))
            }
            (Place::Strided(view), _) => self.address(view, index),
            (Place::Packed(view), along) => {
                let (k, n) = self.packed_positions(view, index);
                match along {
                    Along::PackedN(_) => self.packed_element(view, &k, &format!("{n} + {step}")),
                    Along::PackedK(_) | Along::Stride(_) => {
                        self.packed_element(view, &format!("{k} + {step}"), &n)
                    }
                }
            }
        }
    }

    /// The absolute position along a dimension, in its axis or its sequence.
    pub(super) fn position_text(&self, dim: DimId, index: Index<'_>) -> String {
        let at = |dim: DimId| index(dim).unwrap_or_else(|| "0".to_owned());
        let further = index(dim).map(|index| format!(" + {index}")).unwrap_or_default();
        let name = self.name(dim);
        match self.extent(dim) {
            Extent::Pairs { .. } => format!("step.row_position[{}]", self.row_of_pair(dim, &at(dim))),
            Extent::Choice { .. } => self.position(dim, false, index).unwrap_or_else(|| "0".to_owned()),
            Extent::Rows { .. } => format!("step.row_position[{name}_start{further}]"),
            Extent::Time => format!("time_position{further}"),
            Extent::Past { .. } => format!("past_position{further}"),
            Extent::Sequence => "sequence_start".to_owned(),
            Extent::Position => format!("origin + {name}_start - first_row"),
            Extent::Whole(_) => index(dim).unwrap_or_else(|| "0".to_owned()),
            Extent::Blocks { .. } | Extent::Flat { .. } => format!("{name}_start{further}"),
        }
    }

    /// The absolute position of the row that an argument names, of a sequence.
    pub(super) fn position_of(&self, dim: DimId, chosen: usize, index: Index<'_>) -> String {
        let sequence = match index(dim) {
            Some(index) => format!("{}_start + {index}", self.name(dim)),
            None => format!("{}_start", self.name(dim)),
        };
        let chosen = &self.program.args[chosen].name;
        format!("step.row_position[step.sequence_row[{sequence}] + {chosen}[{sequence}]]")
    }
}

/// Whether the last of so many positions is farther than 32 bits count.
pub(super) fn is_far(positions: usize, stride: usize) -> bool {
    positions.saturating_sub(1).saturating_mul(stride) > i32::MAX as usize
}

/// The name of an element type in CUDA.
pub(super) fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::I8 => "i8",
        DType::I32 => "int",
        DType::Bool => "truth",
    }
}

/// A float literal with exactly this value.
pub(super) fn float(value: f32) -> String {
    match value {
        _ if value.is_nan() => "NO_NUMBER".to_owned(),
        _ if value == f32::INFINITY => "INFINITE".to_owned(),
        _ if value == f32::NEG_INFINITY => "-INFINITE".to_owned(),
        _ if value == value.trunc() && value.abs() < 1e9 => format!("{value:.1}f"),
        _ => format!("{value:e}f"),
    }
}
