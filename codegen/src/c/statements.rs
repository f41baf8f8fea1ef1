//! Statements other than nests: dots, transposes, fills and the stream. It knows nothing of pointwise code.

use super::prelude::suffix;
use super::writer::{Writer, float, rows_of};
use crate::tile::{
    Base, Condition, DimId, Dot, Extent, PackedView, Place, Stmt, StreamBounds, Tile, View, Walk,
};
use diptych_passes::layout::{CHECKPOINT, bytes_of_256};

/// No loop walks a dimension: the start of the instance's range is meant.
fn at_start(_: DimId) -> Option<String> {
    None
}

impl Writer<'_> {
    pub(super) fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Nest(nest) => self.nest(nest),
            Stmt::Dot(dot) => self.dot(dot),
            Stmt::Transpose { rows, columns, from, to } => self.transpose(rows, columns, from, to),
            Stmt::Round { rows, over, from, to } => self.round(rows, over, from, to),
            Stmt::Fill { dims, place, value } => self.fill(dims, place, *value),
            Stmt::TopK { rows, along, ranks, from, to } => self.top_k(rows, (*along, *ranks), from, to),
            Stmt::AddRows(added) => self.add_rows(added),
            Stmt::Group { ids, leading, dims, count, order, starts, block } => {
                self.group(ids, *leading, dims, *count, (*order, *starts), *block);
            }
            Stmt::Stream { dim, bounds, body } => self.stream(*dim, *bounds, body),
            Stmt::Steps { dim, walk, body } => self.steps(*dim, *walk, body),
            Stmt::When { condition, yes, no } => self.when(*condition, yes, no),
        }
    }

    fn steps(&mut self, dim: DimId, walk: Walk, body: &[Stmt]) {
        let at = format!("{}_start", self.name(dim));
        let (up, down) = (
            |first: &str, end: &str| format!("for (int64_t {at} = {first}; {at} < {end}; {at}++) {{"),
            |first: &str, end: &str| format!("for (int64_t {at} = {end} - 1; {at} >= {first}; {at}--) {{"),
        );
        let (first, end) = ("first_row", "first_row + length");
        match walk {
            Walk::Forward => self.open(up(first, end)),
            Walk::Backward => self.open(down(first, end)),
            Walk::Replay => self.open(up("block_first", "block_end - 1")),
            Walk::BlockBackward => self.open(down("block_first", "block_end")),
            Walk::Blocks => {
                self.open(format!(
                    "for (int64_t block = (length - 1) / {CHECKPOINT}; block >= 0; block--) {{"
                ));
                self.line(format!("const int64_t block_first = first_row + block * {CHECKPOINT};"));
                self.line(format!("const int64_t block_end = least(block_first + {CHECKPOINT}, {end});"));
                self.line(format!("const int64_t {at} = block_first;"));
            }
        }
        for stmt in body {
            self.statement(stmt);
        }
        self.close();
    }

    fn when(&mut self, condition: Condition, yes: &[Stmt], no: &[Stmt]) {
        let holds = match condition {
            Condition::AtOrigin => "origin == 0".to_owned(),
            Condition::AtFirstTurn => "step->turn == 0".to_owned(),
            Condition::AtCheckpoint => format!("(position_start - first_row) % {CHECKPOINT} == 0"),
        };
        self.open(format!("if ({holds}) {{"));
        for stmt in yes {
            self.statement(stmt);
        }
        self.close();
        if !no.is_empty() {
            self.open("else {");
            for stmt in no {
                self.statement(stmt);
            }
            self.close();
        }
    }

    fn stream(&mut self, dim: DimId, bounds: StreamBounds, body: &[Stmt]) {
        let name = self.name(dim).to_owned();
        match self.program.dims[dim].extent {
            Extent::Rows { leading, block } => {
                let total = rows_of(leading);
                self.open(format!(
                    "for (int64_t {name}_start = 0; {name}_start < {total}; {name}_start += {block}) {{"
                ));
                self.line(format!("const int64_t {name}_count = least({block}, {total} - {name}_start);"));
            }
            Extent::Blocks { size, block } => {
                self.open(format!(
                    "for (int64_t {name}_start = 0; {name}_start < {size}; {name}_start += {block}) {{"
                ));
                self.line(format!("const int64_t {name}_count = least({block}, {size} - {name}_start);"));
            }
            Extent::Pairs { along, block, .. } => {
                let id = format!("{}_start", self.name(along));
                let [order, starts] = [0, 1].map(|arg| self.program.args[arg].name.clone());
                self.open(format!(
                    "for (int64_t {name}_first = {starts}[{id}]; {name}_first < {starts}[{id} + 1]; {name}_first += {block}) {{"
                ));
                self.line(format!(
                    "const int64_t {name}_count = least({block}, {starts}[{id} + 1] - {name}_first);"
                ));
                self.line(format!("const int32_t *{name}_ids = {order} + {name}_first;"));
            }
            Extent::Past { .. } => {
                let first = match bounds.window {
                    Some(window) => format!("most(0, time_position - {}) / CHUNK", window - 1),
                    None => "0".to_owned(),
                };
                let last = if bounds.causal { "time_position + time_count" } else { "origin + length" };
                self.line(format!(
                    "const int64_t first_chunk = {first}, end_chunk = ({last} + CHUNK - 1) / CHUNK;"
                ));
                self.open("for (int64_t chunk = first_chunk; chunk < end_chunk; chunk++) {");
                self.past_range("chunk");
            }
            Extent::Time => {
                let first = if bounds.causal { "most(0, past_position - origin) / CHUNK" } else { "0" };
                self.line(format!("const int64_t first_chunk = {first};"));
                let end = match bounds.window {
                    Some(window) => {
                        format!("least(length, most(0, past_position + past_count - 1 + {window} - origin))")
                    }
                    None => "length".to_owned(),
                };
                self.line(format!("const int64_t end_chunk = ({end} + CHUNK - 1) / CHUNK;"));
                self.open("for (int64_t chunk = first_chunk; chunk < end_chunk; chunk++) {");
                self.time_range("chunk");
            }
            Extent::Whole(_)
            | Extent::Flat { .. }
            | Extent::Choice { .. }
            | Extent::Sequence
            | Extent::Position => self.open("{"),
        }
        for stmt in body {
            self.statement(stmt);
        }
        self.close();
    }

    fn last_stride(view: &View, dims: &[DimId]) -> usize {
        dims.last().map_or(0, |&dim| view.stride(dim))
    }

    fn dot(&mut self, dot: &Dot) {
        for &dim in &dot.batch {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        let names: Vec<(DimId, String)> =
            dot.batch.iter().map(|&dim| (dim, format!("i_{}", self.name(dim)))).collect();
        let index = |dim: DimId| names.iter().find(|entry| entry.0 == dim).map(|entry| entry.1.clone());
        let a = self.address(&dot.a, &index);
        if let (Place::Packed(b @ PackedView { blocks: Some(format), .. }), Place::Strided(c)) =
            (&dot.b, &dot.c)
        {
            let (_, column) = self.packed_positions(b, &index);
            let (base, depth) = (&self.program.args[b.arg].name, b.depth);
            let (c, c_m) = (self.address(c, &index), Self::last_stride(c, &dot.m));
            let (m, n, a_m) = (self.counts(&dot.m), self.counts(&dot.n), Self::last_stride(&dot.a, &dot.m));
            let bytes = depth * bytes_of_256(*format) / 256;
            let b = format!("(const uint8_t *){base} + ({column}) * {bytes}");
            self.line(format!("step->dot_{format}({m}, {n}, {depth}, {a}, {a_m}, {b}, {c}, {c_m});"));
            for _ in &dot.batch {
                self.close();
            }
            return;
        }
        let (b, b_panel, b_k, b_padded, function) = match &dot.b {
            Place::Strided(view) => {
                let function = suffix(view.dtype);
                (
                    self.address(view, &index),
                    "PANEL".to_owned(),
                    Self::last_stride(view, &dot.k).to_string(),
                    0,
                    function,
                )
            }
            Place::Packed(view) => {
                let function = suffix(view.dtype);
                (
                    self.packed_address(view, &index),
                    format!("{} * PANEL", view.depth),
                    "PANEL".to_owned(),
                    1,
                    function,
                )
            }
        };
        let (c, c_m, c_panel, c_padded) = match &dot.c {
            Place::Strided(view) => (
                self.address(view, &index),
                Self::last_stride(view, &dot.m).to_string(),
                "PANEL".to_owned(),
                0,
            ),
            Place::Packed(view) => {
                (self.packed_address(view, &index), "PANEL".to_owned(), format!("{} * PANEL", view.depth), 1)
            }
        };
        let (m, n, k) = (self.counts(&dot.m), self.counts(&dot.n), self.counts(&dot.k));
        let (a_m, a_k) = (Self::last_stride(&dot.a, &dot.m), Self::last_stride(&dot.a, &dot.k));
        let accumulate = u8::from(dot.accumulate);
        if dot.across {
            self.line(format!("step->dot_across({m}, {n}, {k}, {a}, {a_m}, {a_k},"));
            self.line(format!(
                "    {b}, {b_panel}, {c}, {c_m}, {c_panel}, {c_padded}, {accumulate}, dot_scratch);"
            ));
        } else if let Some(from) = &dot.turned {
            let function = suffix(from.dtype);
            let (tile, from, b_n) = (b, self.address(from, &index), Self::last_stride(from, &dot.n));
            self.line(format!("step->dot_turned{function}({m}, {n}, {k}, {a}, {a_m}, {a_k}, {from}, {b_n},"));
            self.line(format!("    {tile}, {b_k}, {c}, {c_m}, {accumulate}, dot_scratch, step->dot);"));
        } else {
            self.line(format!("step->dot{function}({m}, {n}, {k}, {a}, {a_m}, {a_k},"));
            self.line(format!("    {b}, {b_panel}, {b_k}, {b_padded}, {c}, {c_m}, {c_panel}, {c_padded}, {accumulate}, dot_scratch);"));
        }
        for _ in &dot.batch {
            self.close();
        }
    }

    fn round(&mut self, rows: &[DimId], over: &[DimId], from: &View, to: &View) {
        let (m, k) = (self.counts(rows), self.counts(over));
        let (x, y) = (self.address(from, &at_start), self.address(to, &at_start));
        let (x_m, y_m) = (Self::last_stride(from, rows), Self::last_stride(to, rows));
        self.line(format!("step->round_blocks({m}, {k}, {x}, {x_m}, {y}, {y_m});"));
    }

    pub(super) fn packed_address(
        &self,
        view: &PackedView,
        index: &dyn Fn(DimId) -> Option<String>,
    ) -> String {
        let (k, n) = self.packed_positions(view, index);
        let base = &self.program.args[view.arg].name;
        match (k.as_str(), n.as_str()) {
            ("0", "0") => base.clone(),
            _ => format!("{base} + packed_offset({n}, {k}, {})", view.depth),
        }
    }

    fn transpose(&mut self, rows: &[DimId], columns: &[DimId], from: &Place, to: &View) {
        let (m, n) = (self.counts(columns), self.counts(rows));
        let target = self.address(to, &at_start);
        let ldd = Self::last_stride(to, rows);
        match from {
            Place::Strided(view) => {
                let function = format!("transpose_block{}", suffix(view.dtype));
                let (source, lds) = (self.address(view, &at_start), Self::last_stride(view, columns));
                self.line(format!("{function}({m}, {n}, {source}, {lds}, {target}, {ldd});"));
            }
            Place::Packed(view) => {
                let function = format!("transpose_block{}", suffix(view.dtype));
                let (k, first) = self.packed_positions(view, &at_start);
                let (base, depth) = (self.program.args[view.arg].name.clone(), view.depth);
                self.open(format!("for (int64_t column = 0; column < {n}; column += PANEL) {{"));
                self.line(format!("{function}({m}, least(PANEL, {n} - column), {base} + packed_offset({first} + column, {k}, {depth}), PANEL,"));
                self.line(format!("    {target} + column * {ldd}, {ldd});"));
                self.close();
            }
        }
    }

    /// The elements at the start of a tile that an instance uses: of its outermost dimension it may have fewer positions
    /// than the tile has room for.
    fn elements_used(&self, tile: &Tile) -> String {
        let long = |dim: &&DimId| self.program.dims[**dim].extent.constant() != Some(1);
        match tile.dims.iter().find(long) {
            Some(&dim) if self.program.dims[dim].extent.constant().is_none() => {
                let inner = tile.elements / self.program.dims[dim].extent.most().max(1);
                format!("{} * {inner}", self.count(dim))
            }
            _ => tile.elements.to_string(),
        }
    }

    fn fill(&mut self, dims: &[DimId], place: &Place, value: f32) {
        let value = float(value);
        match place {
            Place::Strided(view) if matches!(view.base, Base::Tile(_)) => {
                let Base::Tile(tile) = view.base else { return };
                let name = self.base(view.base);
                let elements = self.elements_used(&self.program.tiles[tile]);
                self.line(format!("for (int64_t i = 0; i < {elements}; i++) {name}[i] = {value};"));
            }
            Place::Strided(view) => {
                for &dim in dims {
                    let (name, count) = (self.name(dim).to_owned(), self.count(dim));
                    self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
                }
                let index = |dim: DimId| dims.contains(&dim).then(|| format!("i_{}", self.name(dim)));
                let address = self.address(view, &index);
                self.line(format!("*({address}) = {value};"));
                for _ in dims {
                    self.close();
                }
            }
            Place::Packed(view) => {
                let of = |strides: &[(DimId, usize)]| {
                    let dims: Vec<DimId> =
                        strides.iter().map(|entry| entry.0).filter(|dim| dims.contains(dim)).collect();
                    self.counts(&dims)
                };
                let (rows, columns) = (of(&view.k), of(&view.n));
                let (address, depth) = (self.packed_address(view, &at_start), view.depth);
                self.open(format!("for (int64_t column = 0; column < {columns}; column += PANEL) {{"));
                self.line(format!("float *panel = {address} + column * {depth};"));
                self.line(format!("for (int64_t i = 0; i < {rows} * PANEL; i++) panel[i] = {value};"));
                self.close();
            }
        }
    }
}
