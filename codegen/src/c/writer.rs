//! The C writer: a tile program becomes one C function. Here are its frame
//! (arguments, scratch, the instance's place in the grid) and addresses; nests
//! and other statements have files of their own.

use super::prelude::{DOT_ELEMENTS, blocks_prelude, c_type, kernel_prelude, suffix};
use super::step::STEP_TEXT;
use crate::tile::{Base, DimId, Extent, PackedView, RowMap, Stmt, TileProgram, View};
use diptych_ir::DType;
use diptych_ir::blocks::BlockFormat;
use diptych_passes::layout::{CHECKPOINT, Leading};
use std::fmt::Write;

/// A kernel as C text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KernelText {
    /// The C function's name.
    pub name: String,
    /// The function.
    pub text: String,
    /// Floats of scratch that its tiles take, without those of `dot`.
    pub scratch_floats: usize,
}

impl KernelText {
    /// The formats of the weights in blocks that it multiplies rows with.
    pub fn formats(&self) -> impl Iterator<Item = BlockFormat> + '_ {
        BlockFormat::ALL.into_iter().filter(|format| self.text.contains(&format!("step->dot_{format}(")))
    }

    /// The types of the right operands of its dots.
    pub fn elements(&self) -> impl Iterator<Item = DType> + '_ {
        let calls = |dtype: &DType| {
            let of = suffix(*dtype);
            self.text.contains(&format!("step->dot{of}("))
                || self.text.contains(&format!("step->dot_turned{of}("))
                || *dtype == DType::F32 && self.text.contains("step->dot_across(")
        };
        DOT_ELEMENTS.into_iter().filter(calls)
    }

    /// Whether it rounds rows to blocks.
    pub fn rounds(&self) -> bool {
        self.text.contains("step->round_blocks(")
    }

    /// Whether it reads single numbers of weights in blocks.
    fn reads_blocks(&self) -> bool {
        self.text.contains("element_of_")
    }
}

/// A whole file of kernels.
pub fn file_text<'a>(kernels: impl IntoIterator<Item = &'a KernelText>) -> String {
    let kernels: Vec<&KernelText> = kernels.into_iter().collect();
    let mut text = kernel_prelude();
    if kernels.iter().any(|kernel| kernel.reads_blocks()) {
        text.push_str(blocks_prelude());
    }
    text.push('\n');
    text.push_str(STEP_TEXT);
    for kernel in kernels {
        text.push('\n');
        text.push_str(&kernel.text);
    }
    text
}

/// Writes a program as a C function of the given name:
/// `void NAME(const struct step *, void *const *args, const int64_t *sizes, float *scratch, int64_t instance)`.
pub fn write(program: &TileProgram, name: &str) -> KernelText {
    let mut writer = Writer { program, text: String::new(), depth: 0 };
    writer.function(name);
    KernelText { name: name.to_owned(), text: writer.text, scratch_floats: program.scratch_floats() }
}

pub(super) struct Writer<'a> {
    pub(super) program: &'a TileProgram,
    text: String,
    depth: usize,
}

impl Writer<'_> {
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        for _ in 0..self.depth {
            self.text.push_str("    ");
        }
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    pub(super) fn open(&mut self, text: impl AsRef<str>) {
        self.line(text);
        self.depth += 1;
    }

    pub(super) fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    fn function(&mut self, name: &str) {
        self.line("/* Fuses:");
        for note in self.program.notes.clone() {
            self.line(format!(" *   {note}"));
        }
        let grid: Vec<String> = self.program.grid.iter().map(|&dim| self.describe(dim)).collect();
        let grid = if grid.is_empty() { "one instance".to_owned() } else { grid.join(" x ") };
        self.line(format!(" * Grid: {grid}. */"));
        self.open(format!(
            "void {name}(const struct step *step, void *const *args, const int64_t *sizes, float *scratch, int64_t instance) {{"
        ));
        self.line("(void)step, (void)sizes, (void)scratch;");
        for (position, arg) in self.program.args.clone().iter().enumerate() {
            let constant = if arg.written { "" } else { "const " };
            let dtype = c_type(arg.dtype);
            self.line(format!("{constant}{dtype} *{} = args[{position}];", arg.name));
        }
        let mut offset = 0;
        for tile in self.program.tiles.clone() {
            let dims: Vec<&str> = tile.dims.iter().map(|&dim| self.program.dims[dim].name.as_str()).collect();
            self.line(format!("float *{} = scratch + {offset}; /* [{}] */", tile.name, dims.join(", ")));
            offset += tile.elements.next_multiple_of(16);
        }
        if self.program.body.iter().any(uses_dot) {
            self.line(format!("float *dot_scratch = scratch + {offset};"));
        }
        for (position, table) in self.program.tables.clone().iter().enumerate() {
            let numbers: Vec<String> = table.iter().map(|&number| float(number)).collect();
            self.line(format!(
                "static const float table_{position}[{}] = {{{}}};",
                table.len(),
                numbers.join(", ")
            ));
        }
        self.instance();
        for stmt in &self.program.body {
            self.statement(stmt);
        }
        self.close();
    }

    fn describe(&self, dim: DimId) -> String {
        let dim = &self.program.dims[dim];
        match dim.extent {
            Extent::Blocks { size, block } => format!("{} ({size} in blocks of {block})", dim.name),
            Extent::Rows { block, .. } => format!("{}s in blocks of at most {block}", dim.name),
            Extent::Flat { block } => format!("{}s in blocks of {block}", dim.name),
            Extent::Pairs { block, .. } => format!("{}s sorted by id, in blocks of {block}", dim.name),
            Extent::Choice { size, .. } => format!("{} ({size})", dim.name),
            Extent::Time | Extent::Past { .. } => format!("chunks of {} of each sequence", dim.name),
            Extent::Sequence | Extent::Position => format!("{}s", dim.name),
            Extent::Whole(size) => format!("{} ({size})", dim.name),
        }
    }

    /// The instance's ranges, the last dimension of the grid fastest.
    fn instance(&mut self) {
        let grid = self.program.grid.clone();
        if grid.is_empty() {
            self.line("(void)instance;");
        }
        let extents: Vec<Extent> = grid.iter().map(|&dim| self.program.dims[dim].extent).collect();
        // Sequences have as many chunks of tokens, and of positions so far, as they are long.
        let pairs = match extents.iter().find(|extent| matches!(extent, Extent::Time | Extent::Past { .. })) {
            Some(Extent::Past { .. }) => "past_block",
            _ => "block",
        };
        let sequences =
            self.program.dims.iter().any(|dim| matches!(dim.extent, Extent::Time | Extent::Past { .. }));
        for (position, &dim) in grid.iter().enumerate().rev() {
            let name = self.name(dim).to_owned();
            let first = position == 0;
            let (block, rest) = if first { ("instance".to_owned(), None) } else { (String::new(), Some(())) };
            let place = |count: String| match rest {
                None => block.clone(),
                Some(()) => format!("instance % ({count})"),
            };
            match self.program.dims[dim].extent {
                Extent::Blocks { size, block } => {
                    let count = size.div_ceil(block);
                    self.line(format!(
                        "const int64_t {name}_start = {} * {block};",
                        place(count.to_string())
                    ));
                    self.line(format!("const int64_t {name}_count = least({block}, {size} - {name}_start);"));
                    if !first {
                        self.line(format!("instance /= {count};"));
                    }
                }
                Extent::Rows { leading, block } => {
                    let total = rows_of(leading);
                    self.line(format!(
                        "const int64_t {name}_block = even_block({total}, {block}, step->threads);"
                    ));
                    let count = format!("({total} + {name}_block - 1) / {name}_block");
                    self.line(format!(
                        "const int64_t {name}_start = {} * {name}_block;",
                        place(count.clone())
                    ));
                    self.line(format!(
                        "const int64_t {name}_count = least({name}_block, {total} - {name}_start);"
                    ));
                    if !first {
                        self.line(format!("instance /= {count};"));
                    }
                }
                Extent::Flat { block } => {
                    self.line(format!("const int64_t {name}_start = instance * {block};"));
                    self.line(format!(
                        "const int64_t {name}_count = least({block}, sizes[0] - {name}_start);"
                    ));
                }
                Extent::Time | Extent::Past { .. } => {
                    self.line(format!("const int64_t pair = {};", place(format!("step->{pairs}s"))));
                    if !first {
                        self.line(format!("instance /= step->{pairs}s;"));
                    }
                }
                Extent::Pairs { along, block, .. } => self.pair_block(&name, along, block),
                Extent::Sequence => {
                    self.line(format!("const int64_t {name}_start = {};", place("step->batch".to_owned())));
                    if !first {
                        self.line("instance /= step->batch;");
                    }
                    self.line(format!("const int64_t first_row = step->sequence_row[{name}_start];"));
                    self.line(format!(
                        "const int64_t length = step->sequence_row[{name}_start + 1] - first_row;"
                    ));
                    self.line(format!("const int64_t origin = step->sequence_origin[{name}_start];"));
                    self.line("(void)origin;");
                }
                Extent::Whole(_) | Extent::Choice { .. } | Extent::Position => {}
            }
        }
        for dim in self.program.dims.clone() {
            if let Extent::Flat { .. } = dim.extent
                && grid.is_empty()
            {
                self.line(format!("const int64_t {0}_start = 0, {0}_count = sizes[0];", dim.name));
            }
        }
        if sequences {
            self.line(format!("const int64_t sequence = step->{pairs}_sequence[pair];"));
            self.line("const int64_t first_row = step->sequence_row[sequence];");
            self.line("const int64_t length = step->sequence_row[sequence + 1] - first_row;");
            self.line("const int64_t origin = step->sequence_origin[sequence];");
            self.line("const int32_t *chunk_row = step->chunk_row + sequence * step->chunk_stride;");
            for extent in extents {
                match extent {
                    Extent::Time => self.time_range("step->block_index[pair]"),
                    Extent::Past { window } => {
                        self.past_range("step->past_block_index[pair]");
                        if self.walks_whole_time() {
                            self.time_range("0");
                        }
                        if let Some(window) = window {
                            self.line(format!(
                                "if (past_chunk < most(0, origin - {}) / CHUNK) return;",
                                window - 1
                            ));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// The block of pairs that an instance has, and the id that they share. There are at most as many
    /// blocks as instances; to the others nothing is left.
    fn pair_block(&mut self, name: &str, along: DimId, block: usize) {
        let (id, ids) = (self.name(along).to_owned(), self.positions(along));
        let [order, starts] = [0, 1].map(|arg| self.program.args[arg].name.clone());
        self.line(format!("const int32_t *first_block = {starts} + {ids} + 1;"));
        self.line(format!("if (instance >= first_block[{ids}]) return;"));
        self.line(format!("int64_t {id}_start = 0;"));
        self.line(format!(
            "for (int64_t end = {ids}; {id}_start + 1 < end;) {{ const int64_t middle = ({id}_start + end) / 2; if (first_block[middle] <= instance) {id}_start = middle; else end = middle; }}"
        ));
        self.line(format!(
            "const int64_t {name}_first = {starts}[{id}_start] + (instance - first_block[{id}_start]) * {block};"
        ));
        self.line(format!(
            "const int64_t {name}_count = least({block}, {starts}[{id}_start + 1] - {name}_first);"
        ));
        self.line(format!("const int32_t *{name}_ids = {order} + {name}_first;"));
    }

    /// All positions of a fixed axis.
    pub(super) fn positions(&self, dim: DimId) -> usize {
        match self.program.dims[dim].extent {
            Extent::Blocks { size, .. } => size,
            extent => extent.most(),
        }
    }

    /// The run-time row of a pair.
    pub(super) fn row_of_pair(&self, dim: DimId, index: &str) -> String {
        match self.program.dims[dim].extent {
            Extent::Pairs { each: 1, .. } => format!("(int64_t){}_ids[{index}]", self.name(dim)),
            Extent::Pairs { each, .. } => format!("(int64_t)({}_ids[{index}] / {each})", self.name(dim)),
            _ => index.to_owned(),
        }
    }

    /// Whether the tokens of a sequence are there as a whole, and not divided or streamed: there is one.
    fn walks_whole_time(&self) -> bool {
        let TileProgram { dims, grid, tiles, body, .. } = self.program;
        let Some(time) = dims.iter().position(|dim| dim.extent == Extent::Time) else { return false };
        let apart = |stmt: &Stmt| matches!(stmt, Stmt::Stream { dim, .. } if *dim == time);
        let walks = |stmt: &Stmt| matches!(stmt, Stmt::Nest(nest) if nest.dims.contains(&time));
        !grid.contains(&time)
            && !body.iter().any(apart)
            && (tiles.iter().any(|tile| tile.dims.contains(&time)) || body.iter().any(walks))
    }

    pub(super) fn time_range(&mut self, chunk: &str) {
        self.line(format!("const int64_t time_first = {chunk} * CHUNK;"));
        self.line("const int64_t time_start = first_row + time_first, time_position = origin + time_first;");
        self.line("const int64_t time_count = least(CHUNK, length - time_first);");
    }

    pub(super) fn past_range(&mut self, chunk: &str) {
        self.line(format!("const int64_t past_chunk = {chunk}, past_position = past_chunk * CHUNK;"));
        self.line("const int64_t past_start = chunk_row[past_chunk];");
        self.line("const int64_t past_count = least(CHUNK, origin + length - past_position);");
    }

    pub(super) fn name(&self, dim: DimId) -> &str {
        &self.program.dims[dim].name
    }

    /// The number of positions of a dimension that this instance looks at.
    pub(super) fn count(&self, dim: DimId) -> String {
        match self.program.dims[dim].extent {
            Extent::Whole(size) => size.to_string(),
            _ => format!("{}_count", self.name(dim)),
        }
    }

    /// The number of positions of dimensions that lie as one.
    pub(super) fn counts(&self, dims: &[DimId]) -> String {
        let counts: Vec<String> = dims.iter().map(|&dim| self.count(dim)).collect();
        if counts.is_empty() { "1".to_owned() } else { counts.join(" * ") }
    }

    /// First position of a dimension, in its axis or its rows; `None` for 0.
    pub(super) fn start(&self, dim: DimId) -> Option<String> {
        match self.program.dims[dim].extent {
            Extent::Whole(_) => None,
            Extent::Pairs { .. } | Extent::Choice { .. } => None,
            _ => Some(format!("{}_start", self.name(dim))),
        }
    }

    /// The C expression of an array's start.
    pub(super) fn base(&self, base: Base) -> String {
        match base {
            Base::Arg(arg) => self.program.args[arg].name.clone(),
            Base::Tile(tile) => self.program.tiles[tile].name.clone(),
            Base::Table(table) => format!("table_{table}"),
        }
    }

    /// The position of a dimension in an array: absolute in memory, relative in
    /// a tile; `index` gives the loop's own part, if a loop walks it.
    fn position(&self, dim: DimId, tile: bool, index: &dyn Fn(DimId) -> Option<String>) -> Option<String> {
        match self.program.dims[dim].extent {
            Extent::Pairs { .. } if tile => return index(dim),
            Extent::Pairs { .. } => {
                return Some(self.row_of_pair(dim, &index(dim).unwrap_or_else(|| "0".to_owned())));
            }
            Extent::Choice { pair, size, stride } => {
                let index = index(pair).unwrap_or_else(|| "0".to_owned());
                return Some(format!("(int64_t)({}_ids[{index}] / {stride} % {size})", self.name(pair)));
            }
            _ => {}
        }
        let extent = self.program.dims[dim].extent;
        let start = match (tile, extent) {
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

    /// The address of a view's element; `index` gives each loop's position.
    pub(super) fn address(&self, view: &View, index: &dyn Fn(DimId) -> Option<String>) -> String {
        let tile = matches!(view.base, Base::Tile(_));
        let mut text = self.base(view.base);
        if tile && view.dtype == DType::I32 {
            text = format!("(int32_t *){text}");
        }
        if view.offset > 0 {
            let _ = write!(text, " + {}", view.offset);
        }
        for &(dim, stride) in &view.strides {
            let Some(mut position) = self.position(dim, tile, index) else { continue };
            if stride == 0 {
                continue;
            }
            let extent = self.program.dims[dim].extent;
            let mapped = matches!(
                (extent, view.rows),
                (Extent::Rows { .. } | Extent::Time, _)
                    | (Extent::Past { .. }, RowMap::Chunk)
                    | (Extent::Sequence, RowMap::State)
                    | (Extent::Position, RowMap::Checkpoint)
            );
            if mapped {
                position = match view.rows {
                    RowMap::State => format!("(int64_t)step->sequence_state[{position}]"),
                    // Sequences of any lengths have rows of their own, in order.
                    RowMap::Checkpoint => format!(
                        "(first_row / {CHECKPOINT} + sequence_start + ({position} - first_row) / {CHECKPOINT})"
                    ),
                    RowMap::InOrder => position,
                    RowMap::Chunk => "(past_start / CHUNK)".to_owned(),
                    RowMap::Cache => format!("(int64_t)step->row_cache[{position}]"),
                    RowMap::Chosen(arg) => {
                        format!(
                            "((int64_t)step->sequence_row[{position}] + {}[{position}])",
                            self.program.args[arg].name
                        )
                    }
                };
            }
            let _ = if stride == 1 {
                write!(text, " + {position}")
            } else {
                write!(text, " + {position} * {stride}")
            };
        }
        text
    }

    /// The k and n of a packed view's element.
    pub(super) fn packed_positions(
        &self,
        view: &PackedView,
        index: &dyn Fn(DimId) -> Option<String>,
    ) -> (String, String) {
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
}

/// The number of run-time rows.
pub(super) fn rows_of(leading: Leading) -> &'static str {
    match leading {
        Leading::Batch => "step->batch",
        _ => "step->rows",
    }
}

fn uses_dot(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Dot(_) => true,
        Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => body.iter().any(uses_dot),
        Stmt::When { yes, no, .. } => yes.iter().chain(no).any(uses_dot),
        _ => false,
    }
}

/// A float literal of C with exactly this value.
pub(super) fn float(value: f32) -> String {
    match value {
        _ if value.is_nan() => "__builtin_nanf(\"\")".to_owned(),
        _ if value == f32::INFINITY => "__builtin_inff()".to_owned(),
        _ if value == f32::NEG_INFINITY => "-__builtin_inff()".to_owned(),
        _ if value == value.trunc() && value.abs() < 1e9 => format!("{value:.1}f"),
        _ => format!("{value:e}f"),
    }
}
