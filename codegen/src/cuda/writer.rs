//! The CUDA writer: a tile program becomes one kernel. Here are its frame (arguments, tiles, the instance's place in
//! the grid, who does what) and barriers; nests and other statements have files of their own.

use super::addresses::{float, type_name};
use super::barriers::{Pending, Touched};
use super::dots::Staging;
use super::exchange::exchanged;
use super::fragments::Fragments;
use super::padding::{Laid, padded};
use super::passes::has_long_rows;
use super::placement::{Placement, Room, element};
use super::prelude::prelude;
use super::ranges::Ranges;
use super::warpgroups::Ring;
use super::{Architecture, CudaError, TensorMap};
use crate::tile::{DimId, Extent, Stmt, StreamBounds, TileProgram};
use diptych_passes::layout::Leading;
use std::collections::BTreeMap;

/// Threads that do a block's work. One number for all kernels: eight warps, of which a multiprocessor holds eight
/// blocks' worth.
pub(super) const THREADS: usize = 256;

/// Threads of a warpgroup: so many more has a block whose operands a producer copies.
const WARPGROUP: usize = 128;

/// A kernel as CUDA text, and what its launch takes: see [`super::step`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KernelText {
    /// The kernel's name.
    pub name: String,
    /// The kernel, without the prelude.
    pub text: String,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// Other memory of a block, for tiles that do not fit there.
    pub scratch_bytes: usize,
    /// The names of these tiles.
    pub scratch_tiles: Vec<String>,
    /// Tensors of which boxes are copied to shared memory by TMA, in the order of the parameter `maps`.
    pub maps: Vec<TensorMap>,
}

/// A whole file of kernels.
pub fn file_text<'a>(kernels: impl IntoIterator<Item = &'a KernelText>) -> String {
    let texts: Vec<&str> = kernels.into_iter().map(|kernel| kernel.text.as_str()).collect();
    let mut text = prelude(texts.iter().copied());
    for kernel in texts {
        text.push('\n');
        text.push_str(kernel);
    }
    text
}

/// Writes a program as a kernel of the given name, called as [`super::step`] says.
///
/// # Errors
/// When the program has a statement that no GPU code is written for.
pub fn write(program: &TileProgram, name: &str, architecture: Architecture) -> Result<KernelText, CudaError> {
    let error = |problem: String| CudaError { kernel: name.to_owned(), problem };
    let exchanged = exchanged(program);
    let (held, fragments) = Fragments::of_held(&exchanged, architecture);
    let program = held.as_ref().unwrap_or(&exchanged);
    let forms = [padded(program, architecture, &fragments), Laid::plain(program)];
    let (Laid { program, staggered }, staging, placement) = placed(&forms, architecture, &fragments);
    let program = &**program;
    let pending = Pending::default().at_loop(program, &program.body, &placement).map_err(error)?;
    let mut writer = Writer {
        program,
        architecture,
        staging,
        placement,
        staggered,
        fragments,
        name: name.to_owned(),
        text: String::new(),
        depth: 0,
        pending,
        maps: Vec::new(),
        whole_chunk: None,
        ranges: Ranges::default(),
        produces: false,
    };
    writer.kernel().map_err(error)?;
    let in_scratch = |tile: &usize| matches!(writer.placement.tiles[*tile], Room::Scratch(_));
    let scratch_tiles = (0..program.tiles.len()).filter(in_scratch);
    Ok(KernelText {
        name: name.to_owned(),
        threads: writer.threads(),
        shared_bytes: writer.placement.shared_bytes,
        scratch_bytes: writer.placement.scratch_bytes,
        scratch_tiles: scratch_tiles.map(|tile| program.tiles[tile].name.clone()).collect(),
        text: writer.text,
        maps: writer.maps,
    })
}

/// The first of these forms of a program, and as many slots of a ring, as let all tiles lie in shared memory. What is
/// worth most is three slots, so that copies are under way while a slot is multiplied; then rows of tiles in
/// different banks.
fn placed<'p>(
    forms: &'p [Laid<'p>; 2],
    architecture: Architecture,
    fragments: &Fragments,
) -> (&'p Laid<'p>, Staging, Placement) {
    let place = |form: &'p Laid<'p>, staging: Staging| {
        let placement = Placement::of(&form.program, architecture, staging.total(), fragments);
        (form, staging, placement)
    };
    let all = |enough: bool| {
        let choices = move |form: &'p Laid<'p>| {
            let choices = Staging::choices(&form.program, architecture, fragments);
            choices
                .into_iter()
                .filter(move |staging| staging.has_enough_slots() == enough)
                .map(move |staging| (form, staging))
        };
        forms.iter().flat_map(choices)
    };
    let fits = |placed: &(&Laid<'_>, Staging, Placement)| placed.2.scratch_bytes == 0;
    let mut placed = all(true).chain(all(false)).map(|(form, staging)| place(form, staging));
    // Where nothing fits, three slots, and the largest tiles elsewhere.
    let otherwise = || {
        let [form, _] = forms;
        let choices = Staging::choices(&form.program, architecture, fragments);
        let staging = choices.iter().rfind(|staging| staging.has_enough_slots()).unwrap_or(&choices[0]);
        place(form, *staging)
    };
    placed.find(fits).unwrap_or_else(otherwise)
}

pub(super) struct Writer<'a> {
    pub(super) program: &'a TileProgram,
    pub(super) architecture: Architecture,
    pub(super) staging: Staging,
    pub(super) placement: Placement,
    /// Tiles whose rows are staggered, and how many elements a row has: see `padding`.
    pub(super) staggered: &'a BTreeMap<usize, usize>,
    pub(super) fragments: Fragments,
    name: String,
    text: String,
    depth: usize,
    pub(super) pending: Pending,
    maps: Vec<TensorMap>,
    /// What is known of tiles in registers.
    pub(super) ranges: Ranges,
    /// Where each chunk at hand has all positions: whether a causal mask lets all of them count.
    pub(super) whole_chunk: Option<StreamBounds>,
    /// Whether what is written is the producer's part: only what it copies, and the loops around that.
    pub(super) produces: bool,
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

    /// Lets all threads wait, if what is touched next asks for it.
    pub(super) fn wait_before(&mut self, next: &Touched) {
        if !self.produces && self.pending.waits_before(next, &self.placement) {
            let wait = self.wait();
            self.line(wait);
        }
    }

    /// The name of a table of numbers.
    pub(super) fn table(&self, table: usize) -> String {
        format!("{}_table_{table}", self.name)
    }

    /// The address of a tensor map of the launch, which the kernel has from now on.
    pub(super) fn map(&mut self, map: TensorMap) -> Result<String, String> {
        map.check()?;
        let known = self.maps.iter().position(|known| *known == map);
        let at = known.unwrap_or(self.maps.len());
        if known.is_none() {
            self.maps.push(map);
        }
        Ok(format!("maps + {at}"))
    }

    /// Threads that do the block's work: of a warpgroup, where it keeps tiles in its registers.
    pub(super) fn workers(&self) -> usize {
        if self.fragments.rows.is_some() { WARPGROUP } else { THREADS }
    }

    /// Lets all of these wait for one another.
    pub(super) fn wait(&self) -> String {
        match self.workers() {
            THREADS => "workers_wait();".to_owned(),
            workers => format!("workers_wait<{workers}>();"),
        }
    }

    fn threads(&self) -> usize {
        self.workers() + if self.staging.ring.is_some() { WARPGROUP } else { 0 }
    }

    /// Blocks that share a multiprocessor. Where shared memory lets two of them, registers have to as well: 128 a thread.
    /// Several products, one that goes on from sums in several tiles, or one with tiles elsewhere, keep more addresses
    /// than that; two warpgroups have all registers.
    fn blocks_together(&self) -> usize {
        let many = super::dots::count(&self.program.body) > 1
            || super::dots::goes_on_in_tiles(self.program, self.architecture)
            || self.placement.scratch_bytes > 0;
        let most = match self.staging.ring {
            Some(_) if self.fragments.rows.is_none() => 1,
            None if many => 1,
            _ => 2,
        };
        self.architecture.blocks_of(self.placement.shared_bytes).clamp(1, most)
    }

    fn kernel(&mut self) -> Result<(), String> {
        self.header();
        for (position, table) in self.program.tables.iter().enumerate() {
            let numbers: Vec<String> = table.iter().map(|&number| float(number)).collect();
            let (name, length) = (self.table(position), table.len());
            self.line(format!("__device__ const float {name}[{length}] = {{{}}};", numbers.join(", ")));
        }
        let (threads, together) = (self.threads(), self.blocks_together());
        self.line(format!("extern \"C\" __global__ void __launch_bounds__({threads}, {together})"));
        let signature = self.text.len();
        self.depth += 1;
        self.line("const step_tables step = *tables;");
        self.tiles();
        if has_long_rows(self.program, &self.program.body)? {
            self.line(format!("__shared__ float parts[{}];", THREADS / 32));
        }
        match self.staging.ring {
            Some(ring) => self.roles(ring)?,
            None => self.work()?,
        }
        self.close();
        // Which maps there are is known from the body.
        self.text.insert_str(signature, &self.signature());
        Ok(())
    }

    /// What a block's consumers do, and its producer.
    fn roles(&mut self, ring: Ring) -> Result<(), String> {
        let workers = self.workers();
        self.line(format!("{} slots{{shared, 0, 0}};", ring.text(workers)));
        self.line("if (threadIdx.x == 0) slots.set_up();");
        self.take_tensor_memory();
        self.line("__syncthreads();");
        self.open(format!("if (threadIdx.x < {workers}) {{"));
        let [consumer, producer] = super::warpgroups::registers(workers);
        // One warpgroup of consumers alone on a multiprocessor has as many registers as threads can have.
        let shares = workers == THREADS || self.blocks_together() > 1;
        if shares {
            self.line(format!("consume<{consumer}>();"));
        }
        self.open_tensor_memory();
        if self.fragments.rows.is_some() {
            self.held_tiles();
        }
        self.work()?;
        self.give_back_tensor_memory();
        self.depth -= 1;
        self.open("} else {");
        if shares {
            self.line(format!("copy<{producer}>();"));
        }
        self.line(format!("if (threadIdx.x > {workers}) return;"));
        let first = self.text.len();
        self.produces = true;
        self.work()?;
        self.produces = false;
        let depth = "    ".repeat(self.depth);
        let acquired: String =
            (0..self.maps.len()).map(|at| format!("{depth}acquire_map(maps + {at});\n")).collect();
        self.text.insert_str(first, &acquired);
        self.close();
        Ok(())
    }

    /// The loop over instances, with all statements.
    fn work(&mut self) -> Result<(), String> {
        let stops = self.instances();
        for stmt in &self.program.body {
            self.statement(stmt)?;
        }
        if stops {
            self.close();
        }
        Ok(())
    }

    /// The kernel's name and parameters.
    fn signature(&self) -> String {
        let mut parameters = vec![
            "const step_tables *tables".to_owned(),
            "unsigned char *scratch".into(),
            "long long flat".into(),
        ];
        if !self.maps.is_empty() {
            parameters.push("const tensor_map *maps".into());
        }
        for arg in &self.program.args {
            let constant = if arg.written { "" } else { "const " };
            parameters.push(format!("{constant}{} *{}", type_name(arg.dtype), arg.name));
        }
        format!("{}({}) {{\n", self.name, parameters.join(", "))
    }

    /// What is fused, how it is cut, and where tiles lie.
    fn header(&mut self) {
        self.line("// Fuses:");
        for note in self.program.notes.clone() {
            self.line(format!("//   {note}"));
        }
        let grid: Vec<String> = self.program.grid.iter().map(|&dim| self.describe(dim)).collect();
        let grid = if grid.is_empty() { "one instance".to_owned() } else { grid.join(" x ") };
        self.line(format!("// Grid: {grid}; blocks take instances in turn."));
        let architecture = self.architecture;
        let (shared, most) = (self.placement.shared_bytes, architecture.shared_bytes());
        self.line(format!(
            "// Shared memory: {shared} bytes of the {most} that a block of {architecture} can have."
        ));
        if let Some(Ring { slots, slot_bytes, .. }) = self.staging.ring {
            self.line(format!("// Ring: {slots} slots of {slot_bytes} bytes."));
        }
        if let Some(columns) = self.tensor_columns() {
            self.line(format!("// Tensor memory: {columns} columns."));
        }
        let scratch: Vec<String> = (0..self.program.tiles.len())
            .filter(|&tile| matches!(self.placement.tiles[tile], Room::Scratch(_)))
            .map(|tile| format!("{} ({} bytes)", self.program.tiles[tile].name, self.placement.bytes[tile]))
            .collect();
        if !scratch.is_empty() {
            self.line(format!("// Too large for that, and in the device's memory: {}.", scratch.join(", ")));
        }
    }

    fn describe(&self, dim: DimId) -> String {
        let name = self.name(dim);
        match self.extent(dim) {
            Extent::Blocks { size, block } => format!("{name} ({size} in blocks of {block})"),
            Extent::Rows { block, .. } => format!("{name}s in blocks of {block}"),
            Extent::Flat { block } => format!("{name}s in blocks of {block}"),
            Extent::Pairs { block, .. } => format!("{name}s sorted by id, in blocks of {block}"),
            Extent::Choice { size, .. } | Extent::Whole(size) => format!("{name} ({size})"),
            Extent::Time | Extent::Past { .. } => format!("chunks of {} of each sequence", name),
            Extent::Sequence | Extent::Position => format!("{name}s"),
        }
    }

    fn tiles(&mut self) {
        if self.placement.shared_bytes > 0 {
            // 1024: what a swizzled operand of wgmma asks for.
            self.line("extern __shared__ __align__(1024) unsigned char shared[];");
        }
        for (position, tile) in self.program.tiles.iter().enumerate() {
            let dims: Vec<&str> = tile.dims.iter().map(|&dim| self.name(dim)).collect();
            let (dims, dtype) = (dims.join(", "), type_name(element(self.program, position)));
            let place = match self.placement.tiles[position] {
                Room::Shared(offset) => format!("shared + {offset}"),
                Room::Scratch(offset) => {
                    format!("scratch + (long long)blockIdx.x * {} + {offset}", self.placement.scratch_bytes)
                }
                Room::Registers | Room::Nowhere => continue,
            };
            self.line(format!("{dtype} *const {} = ({dtype} *)({place}); // [{dims}]", tile.name));
        }
    }

    /// The loop over instances, and an instance's ranges, the last dimension of the grid fastest. Returns whether a
    /// loop was opened.
    fn instances(&mut self) -> bool {
        for dim in &self.program.dims.clone() {
            if let (Extent::Flat { .. }, true) = (dim.extent, self.program.grid.is_empty()) {
                self.line(format!("const long long {0}_start = 0, {0}_count = flat;", dim.name));
            }
        }
        if self.program.grid.is_empty() {
            return self.first_block_alone();
        }
        let grid = self.program.grid.clone();
        let counts: Vec<String> = grid.iter().map(|&dim| self.instances_of(dim)).collect();
        self.line(format!("const int instances = {};", counts.join(" * ")));
        self.open("for (int block = blockIdx.x; block < instances; block += gridDim.x) {");
        let mut rest = "block".to_owned();
        let mut skips: Vec<String> = Vec::new();
        for (position, &dim) in grid.iter().enumerate().rev() {
            let own = if position == 0 { rest.clone() } else { format!("{rest} % {}", counts[position]) };
            self.range(dim, &own);
            if position > 0 {
                let left = format!("left_of_{}", self.name(dim));
                self.line(format!("const int {left} = {rest} / {};", counts[position]));
                rest = left;
            }
        }
        self.sequences(&grid, &mut skips);
        skips.iter().for_each(|skip| self.line(skip));
        true
    }

    /// How many instances a dimension of the grid gives.
    fn instances_of(&self, dim: DimId) -> String {
        match self.extent(dim) {
            Extent::Blocks { size, block } => size.div_ceil(block).to_string(),
            Extent::Rows { leading, block } => format!("(({} + {}) / {block})", rows_of(leading), block - 1),
            Extent::Flat { block } => format!("(int)((flat + {}) / {block})", block - 1),
            Extent::Time => "step.blocks".to_owned(),
            Extent::Past { .. } => "step.past_blocks".to_owned(),
            // Each id's blocks begin anew; how many there are in all stands behind where they begin.
            Extent::Pairs { along, .. } => {
                let ids = self.positions(along);
                format!("{}[{}]", self.program.args[1].name, 2 * ids + 1)
            }
            Extent::Sequence => "step.batch".to_owned(),
            Extent::Whole(_) | Extent::Choice { .. } | Extent::Position => "1".to_owned(),
        }
    }

    /// The range of a dimension of the grid, given the number of its block.
    fn range(&mut self, dim: DimId, own: &str) {
        let name = self.name(dim).to_owned();
        match self.extent(dim) {
            Extent::Blocks { size, block } if size == block => {
                self.line(format!("const int {name}_start = 0;"));
            }
            Extent::Blocks { block: 1, .. } => self.line(format!("const int {name}_start = {own};")),
            Extent::Blocks { size, block } => {
                self.line(format!("const int {name}_start = {} * {block};", bracketed(own)));
                if size % block != 0 {
                    self.line(format!("const int {name}_count = smaller({block}, {size} - {name}_start);"));
                }
            }
            Extent::Rows { leading, block } => {
                self.line(format!("const int {name}_start = {} * {block};", bracketed(own)));
                let total = rows_of(leading);
                self.line(format!("const int {name}_count = smaller({block}, {total} - {name}_start);"));
            }
            Extent::Flat { block } => {
                self.line(format!("const long long {name}_start = (long long){} * {block};", bracketed(own)));
                self.line(format!(
                    "const int {name}_count = flat - {name}_start < {block} ? (int)(flat - {name}_start) : {block};"
                ));
            }
            Extent::Time | Extent::Past { .. } => self.line(format!("const int pair = {own};")),
            Extent::Pairs { along, block, .. } => self.pair_block(&name, own, along, block),
            Extent::Sequence => {
                self.line(format!("const int {name}_start = {own};"));
                self.line(format!("const int first_row = step.sequence_row[{name}_start];"));
                self.line(format!("const int length = step.sequence_row[{name}_start + 1] - first_row;"));
                self.line(format!("const int origin = step.sequence_origin[{name}_start];"));
            }
            Extent::Whole(_) | Extent::Choice { .. } | Extent::Position => {}
        }
    }

    /// The chunks of tokens, or of positions so far, of an instance's sequence.
    fn sequences(&mut self, grid: &[DimId], skips: &mut Vec<String>) {
        let long = |extent: Extent| matches!(extent, Extent::Time | Extent::Past { .. });
        if !self.program.dims.iter().any(|dim| long(dim.extent)) {
            return;
        }
        let extents: Vec<Extent> = grid.iter().map(|&dim| self.extent(dim)).collect();
        let pairs = match extents.iter().find(|extent| long(**extent)) {
            Some(Extent::Past { .. }) => "past_block",
            _ => "block",
        };
        self.line(format!("const int sequence = step.{pairs}_sequence[pair];"));
        self.line("const int first_row = step.sequence_row[sequence];");
        self.line("const int length = step.sequence_row[sequence + 1] - first_row;");
        self.line("const int origin = step.sequence_origin[sequence];");
        self.line("const int *const chunk_row = step.chunk_row + (long long)sequence * step.chunk_stride;");
        for extent in extents {
            match extent {
                Extent::Time => self.time_range("step.block_index[pair]"),
                Extent::Past { window } => {
                    self.past_range("step.past_block_index[pair]");
                    if self.walks_whole_time() {
                        self.time_range("0");
                    }
                    skips.extend(window.map(|window| {
                        format!("if (past_chunk < larger(0, origin - {}) / CHUNK) continue;", window - 1)
                    }));
                }
                _ => {}
            }
        }
    }

    /// The block of pairs that an instance has, and the id that they share.
    fn pair_block(&mut self, name: &str, own: &str, along: DimId, block: usize) {
        let (id, ids) = (self.name(along).to_owned(), self.positions(along));
        let [order, starts] = [0, 1].map(|arg| self.program.args[arg].name.clone());
        self.line(format!("const int *const first_block = {starts} + {};", ids + 1));
        self.line(format!("const int pair_block = {own};"));
        self.line(format!("int {id}_start = 0;"));
        self.open(format!("for (int end = {ids}; {id}_start + 1 < end;) {{"));
        self.line(format!("const int middle = ({id}_start + end) / 2;"));
        self.line(format!("if (first_block[middle] <= pair_block) {id}_start = middle;"));
        self.line("else end = middle;");
        self.close();
        self.line(format!(
            "const int {name}_first = {starts}[{id}_start] + (pair_block - first_block[{id}_start]) * {block};"
        ));
        self.line(format!(
            "const int {name}_count = smaller({block}, {starts}[{id}_start + 1] - {name}_first);"
        ));
        self.line(format!("const int *const {name}_ids = {order} + {name}_first;"));
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
        let count = if self.whole_chunk.is_some() { "CHUNK" } else { "smaller(CHUNK, length - time_first)" };
        self.line(format!("const int time_first = {chunk} * CHUNK;"));
        self.line("const int time_start = first_row + time_first, time_position = origin + time_first;");
        self.line(format!("const int time_count = {count};"));
    }

    pub(super) fn past_range(&mut self, chunk: &str) {
        let count = match self.whole_chunk {
            Some(_) => "CHUNK",
            None => "smaller(CHUNK, origin + length - past_position)",
        };
        self.line(format!("const int past_chunk = {chunk}, past_position = past_chunk * CHUNK;"));
        self.line("const int past_start = chunk_row[past_chunk];");
        self.line(format!("const int past_count = {count};"));
    }
}

/// The number of run-time rows.
pub(super) fn rows_of(leading: Leading) -> &'static str {
    match leading {
        Leading::Batch => "step.batch",
        _ => "step.rows",
    }
}

fn bracketed(text: &str) -> String {
    if text.contains(' ') { format!("({text})") } else { text.to_owned() }
}
