//! The text of nests over tiles in registers: each thread walks its own elements, which are two rows of its warp's 16,
//! eight apart, and of each group of eight columns two. Loops are unrolled, so that an element is a register. What is
//! not there is computed, too, but neither loaded nor stored, and no part of a sum.

use super::addresses::float;
use super::fragments::several;
use super::nest::{Points, Sum, join_name, neutral};
use super::passes::{lanes, passes};
use super::writer::Writer;
use crate::kinds::{Kind, kinds};
use crate::tile::{DimId, Extent, Nest, Place, View};
use diptych_ir::ReduceKind;

impl Writer<'_> {
    /// A nest over tiles in registers, which has one pass.
    pub(super) fn nest_of_fragments(&mut self, nest: &Nest) -> Result<(), String> {
        let Some(rows) = self.fragments.rows else { return Ok(()) };
        let columns = several(self.program, &nest.dims).into_iter().find(|dim| *dim != rows);
        for pass in &passes(self.program, nest)? {
            let points = Points { nest, pass, kinds: kinds(nest), held: true };
            let Some(columns) = columns else {
                self.open_own_rows(rows);
                // The four threads that share a row do the same, and one of them stores.
                self.line("const bool there = row_there && threadIdx.x % 4 == 0;");
                self.body(&points)?;
                self.close();
                continue;
            };
            let (elements, sums) = (self.own_elements(columns), points.sums());
            if !sums.is_empty() {
                self.open("{");
            }
            for sum in &sums {
                let room = elements.next_multiple_of(self.own_lanes(columns));
                self.line(format!("float r{}[2][{room}];", sum.id));
            }
            self.open_own_columns(columns, elements);
            self.open_own_rows(rows);
            self.line("const bool there = row_there && column_there;");
            self.body(&points)?;
            self.close();
            self.close();
            if !sums.is_empty() {
                self.open_own_rows(rows);
                sums.iter().for_each(|sum| self.joined_elements(sum, columns));
                self.close();
                self.close();
            }
        }
        Ok(())
    }

    /// A tile in registers becomes a number.
    pub(super) fn fill_fragment(&mut self, view: &View, value: f32) {
        let name = self.tile_name(view);
        self.line(format!("{name}.fill({});", float(value)));
    }

    /// A tile in registers and which of its elements is at hand, if a place is one.
    pub(super) fn register(&self, place: &Place) -> Option<[String; 2]> {
        let Place::Strided(view) = place else { return None };
        let held = self.fragments.held(self.program, view)?;
        let name = self.tile_name(view);
        Some(match (held.columns, held.first) {
            (None, _) => [name, "half".to_owned()],
            (Some(_), 0) => [name, "half, e".to_owned()],
            (Some(_), first) => [name, format!("half, e + {}", first / 4)],
        })
    }

    /// Under what condition an element of memory is looked at where nests are walked over registers.
    pub(super) fn guard(&self, place: &Place, dims: &[DimId], stores: bool) -> &'static str {
        let rows = self.fragments.rows;
        let columns = several(self.program, dims).into_iter().find(|dim| Some(*dim) != rows);
        let varies = |dim: DimId| match place {
            Place::Strided(view) => view.stride(dim) > 0,
            Place::Packed(_) => true,
        };
        match columns {
            Some(_) if stores => "there",
            Some(dim) if varies(dim) && rows.is_some_and(varies) => "there",
            Some(dim) if varies(dim) => "column_there",
            None if stores => "there",
            _ => "row_there",
        }
    }

    /// Declares the tiles in registers.
    pub(super) fn held_tiles(&mut self) {
        for (position, tile) in self.program.tiles.iter().enumerate() {
            let Some(fragment) = self.fragments.get(crate::tile::Base::Tile(position)) else { continue };
            let dims: Vec<&str> = tile.dims.iter().map(|&dim| self.name(dim)).collect();
            let dims = dims.join(", ");
            match fragment.width {
                0 => self.line(format!("fragment_rows {}; // [{dims}]", tile.name)),
                width if fragment.narrow => {
                    self.line(format!("fragment_bf16<{width}> {}; // [{dims}]", tile.name));
                }
                width => self.line(format!("fragment<{width}> {}; // [{dims}]", tile.name)),
            }
        }
        self.line("// The thread's rows and columns of these begin here.");
        self.line("const int own_row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;");
        self.line("const int own_column = threadIdx.x % 4 * 2;");
    }

    pub(super) fn tile_name(&self, view: &View) -> String {
        match view.base {
            crate::tile::Base::Tile(tile) => self.program.tiles[tile].name.clone(),
            _ => String::new(),
        }
    }

    fn open_own_rows(&mut self, rows: DimId) {
        let name = self.name(rows).to_owned();
        self.line("#pragma unroll");
        self.open("for (int half = 0; half < 2; half++) {");
        self.line(format!("const int i_{name} = own_row + half * 8;"));
        self.line(format!("const bool row_there = i_{name} < {};", self.count(rows)));
    }

    fn open_own_columns(&mut self, dim: DimId, elements: usize) {
        let name = self.name(dim).to_owned();
        self.line("#pragma unroll");
        self.open(format!("for (int e = 0; e < {elements}; e++) {{"));
        self.line(format!("const int i_{name} = own_column + e / 2 * 8 + e % 2;"));
        self.line(format!("const bool column_there = i_{name} < {};", self.count(dim)));
    }

    /// Elements of a row that a thread has.
    fn own_elements(&self, dim: DimId) -> usize {
        self.extent(dim).most().div_ceil(8) * 2
    }

    /// Elements of a row that a thread has among those of all lanes.
    fn own_lanes(&self, dim: DimId) -> usize {
        lanes(self.extent(dim).most()).clamp(8, 32) / 4
    }

    /// The sum of a row, over the thread's elements and then over the four threads that share it, in the tree in which
    /// the lanes of a row would have it: see `prelude/lanes.cu`.
    fn joined_elements(&mut self, sum: &Sum<'_>, columns: DimId) {
        let (own, elements) = (self.own_lanes(columns), self.own_elements(columns));
        for element in elements..elements.next_multiple_of(own) {
            self.line(format!("r{}[half][{element}] = {};", sum.id, neutral(sum.kind)));
        }
        let join = join_name(sum.kind);
        let total = format!("over_quad<{}, {join}>(r{}[half])", own * 4, sum.id);
        // As a chain that starts from zero, it is never minus zero.
        let total = if sum.kind == ReduceKind::Sum { format!("0.0f + {total}") } else { total };
        let place = Place::Strided(sum.into.clone());
        let rows: Vec<DimId> = self.fragments.rows.into_iter().collect();
        let (register, address) = (self.register(&place), self.element(&place, &self.walked(&rows)));
        let there = match &register {
            Some([tile, at]) => format!("{tile}.get({at})"),
            None => format!("(row_there ? load({address}) : {})", neutral(sum.kind)),
        };
        let whole = match sum.fresh {
            true => total,
            false => format!("{join}::join({there}, {total})"),
        };
        match register {
            Some([tile, at]) => self.line(format!("{tile}.put({at}, {whole});")),
            None => {
                self.line(format!("const float whole{} = {whole};", sum.id));
                if !sum.fresh {
                    self.line("__syncwarp();");
                }
                self.line(format!(
                    "if (row_there && threadIdx.x % 4 == 0) store({address}, whole{});",
                    sum.id
                ));
            }
        }
    }
}

/// The number that stands for what is not there.
pub(super) fn absent(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "0.0f",
        Kind::Int => "0",
        Kind::Mask => "false",
    }
}

/// Whether the position along a dimension is read from memory.
pub(super) fn is_stored(extent: Extent) -> bool {
    matches!(extent, Extent::Rows { .. } | Extent::Pairs { .. } | Extent::Choice { .. })
}
