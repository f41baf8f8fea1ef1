//! Statements other than nests and dots: transposes, fills, rounding, and what holds other statements. It knows nothing
//! of what is done at a point.

use super::addresses::float;
use super::barriers::touched;
use super::ranges::Ranges;
use super::warpgroups::multiply;
use super::writer::{Writer, rows_of};
use crate::tile::{Condition, DimId, Extent, Place, Stmt, StreamBounds, View, Walk};
use diptych_ir::blocks::BLOCK;
use diptych_passes::layout::{CHECKPOINT, ROUNDED_WORDS};

impl Writer<'_> {
    pub(super) fn statement(&mut self, stmt: &Stmt) -> Result<(), String> {
        if self.produces && !multiply(self.program, std::slice::from_ref(stmt), self.architecture) {
            return Ok(());
        }
        // What is known before a loop or a condition need not hold in it, or after it.
        let holds_others = matches!(stmt, Stmt::Stream { .. } | Stmt::Steps { .. } | Stmt::When { .. });
        if holds_others {
            self.ranges = Ranges::default();
        }
        self.own_statement(stmt)?;
        match holds_others {
            true => self.ranges = Ranges::default(),
            false => self.ranges.after(self.program, stmt),
        }
        Ok(())
    }

    fn own_statement(&mut self, stmt: &Stmt) -> Result<(), String> {
        match stmt {
            Stmt::Nest(nest) => return self.nest(nest),
            Stmt::Dot(dot) => return self.dot(dot),
            Stmt::Stream { dim, bounds, body } => return self.stream(*dim, *bounds, body),
            Stmt::Steps { dim, walk, body } => return self.steps(*dim, *walk, body),
            Stmt::When { condition, yes, no } => return self.when(*condition, yes, no),
            _ => self.wait_before(&touched(stmt)),
        }
        match stmt {
            Stmt::Transpose { rows, columns, from, to } => self.transpose(rows, columns, from, to)?,
            Stmt::Round { rows, over, from, to } => self.round(rows, over, from, to),
            Stmt::Fill { dims, place, value } => self.fill(dims, place, *value)?,
            Stmt::TopK { rows, along, ranks, from, to } => self.top_k(rows, (*along, *ranks), from, to),
            Stmt::AddRows(added) => self.add_rows(added),
            Stmt::Group { ids, leading, dims, count, order, starts, block } => {
                self.group(ids, *leading, dims, *count, (*order, *starts), *block);
            }
            _ => {}
        }
        Ok(())
    }

    /// The body of a loop that is already open.
    fn turns(&mut self, body: &[Stmt]) -> Result<(), String> {
        let entry = self.pending.clone().at_loop(self.program, body, &self.placement)?;
        self.pending = entry.clone();
        self.ranges = Ranges::default();
        for stmt in body {
            self.statement(stmt)?;
        }
        self.close();
        self.pending = std::mem::take(&mut self.pending).or(&entry);
        Ok(())
    }

    fn steps(&mut self, dim: DimId, walk: Walk, body: &[Stmt]) -> Result<(), String> {
        let at = format!("{}_start", self.name(dim));
        let (up, down) = (
            |first: &str, end: &str| format!("for (int {at} = {first}; {at} < {end}; {at}++) {{"),
            |first: &str, end: &str| format!("for (int {at} = {end} - 1; {at} >= {first}; {at}--) {{"),
        );
        let (first, end) = ("first_row", "first_row + length");
        match walk {
            Walk::Forward => self.open(up(first, end)),
            Walk::Backward => self.open(down(first, end)),
            Walk::Replay => self.open(up("block_first", "block_end - 1")),
            Walk::BlockBackward => self.open(down("block_first", "block_end")),
            Walk::Blocks => {
                self.open(format!("for (int kept = (length - 1) / {CHECKPOINT}; kept >= 0; kept--) {{"));
                self.line(format!("const int block_first = first_row + kept * {CHECKPOINT};"));
                self.line(format!("const int block_end = smaller(block_first + {CHECKPOINT}, {end});"));
                self.line(format!("const int {at} = block_first;"));
            }
        }
        self.turns(body)
    }

    fn when(&mut self, condition: Condition, yes: &[Stmt], no: &[Stmt]) -> Result<(), String> {
        let holds = match condition {
            Condition::AtOrigin => "origin == 0".to_owned(),
            Condition::AtFirstTurn => "step.turn == 0".to_owned(),
            Condition::AtCheckpoint => format!("(position_start - first_row) % {CHECKPOINT} == 0"),
        };
        let before = self.pending.clone();
        self.open(format!("if ({holds}) {{"));
        for stmt in yes {
            self.statement(stmt)?;
        }
        self.close();
        let after = std::mem::replace(&mut self.pending, before);
        self.ranges = Ranges::default();
        if !no.is_empty() {
            self.open("else {");
            for stmt in no {
                self.statement(stmt)?;
            }
            self.close();
        }
        self.pending = std::mem::take(&mut self.pending).or(&after);
        Ok(())
    }

    fn stream(&mut self, dim: DimId, bounds: StreamBounds, body: &[Stmt]) -> Result<(), String> {
        let name = self.name(dim).to_owned();
        let blocks = |total: &str, block: usize| {
            format!("for (int {name}_start = 0; {name}_start < {total}; {name}_start += {block}) {{")
        };
        let count = |total: &str, block: usize| {
            format!("const int {name}_count = smaller({block}, {total} - {name}_start);")
        };
        match self.extent(dim) {
            Extent::Rows { leading, block } => {
                let total = rows_of(leading);
                // All rows in one turn are as many as there are.
                let block = block.min(1 << 30);
                self.open(blocks(total, block));
                self.line(count(total, block));
            }
            Extent::Blocks { size, block } => {
                self.open(blocks(&size.to_string(), block));
                if size % block != 0 {
                    self.line(count(&size.to_string(), block));
                }
            }
            Extent::Pairs { along, block, .. } => {
                let id = format!("{}_start", self.name(along));
                let [order, starts] = [0, 1].map(|arg| self.program.args[arg].name.clone());
                self.open(format!(
                    "for (int {name}_first = {starts}[{id}]; {name}_first < {starts}[{id} + 1]; {name}_first += {block}) {{"
                ));
                self.line(format!(
                    "const int {name}_count = smaller({block}, {starts}[{id} + 1] - {name}_first);"
                ));
                self.line(format!("const int *const {name}_ids = {order} + {name}_first;"));
            }
            Extent::Past { .. } => {
                let first = match bounds.window {
                    Some(window) => format!("larger(0, time_position - {}) / CHUNK", window - 1),
                    None => "0".to_owned(),
                };
                let last = if bounds.causal { "time_position + time_count" } else { "origin + length" };
                self.line(format!("const int first_chunk = {first};"));
                self.line(format!("const int end_chunk = ({last} + CHUNK - 1) / CHUNK;"));
                self.open("for (int chunk = first_chunk; chunk < end_chunk; chunk++) {");
                self.whole_chunks(dim, bounds, body)?;
                self.past_range("chunk");
            }
            Extent::Time => {
                let first = if bounds.causal { "larger(0, past_position - origin) / CHUNK" } else { "0" };
                let end = match bounds.window {
                    Some(window) => {
                        format!(
                            "smaller(length, larger(0, past_position + past_count - 1 + {window} - origin))"
                        )
                    }
                    None => "length".to_owned(),
                };
                self.line(format!("const int first_chunk = {first};"));
                self.line(format!("const int end_chunk = ({end} + CHUNK - 1) / CHUNK;"));
                self.open("for (int chunk = first_chunk; chunk < end_chunk; chunk++) {");
                self.whole_chunks(dim, bounds, body)?;
                self.time_range("chunk");
            }
            Extent::Whole(_)
            | Extent::Flat { .. }
            | Extent::Choice { .. }
            | Extent::Sequence
            | Extent::Position => self.open("{"),
        }
        self.turns(body)
    }

    /// Where tiles are in registers, chunks that have all positions, and of which none is masked, have a loop of their
    /// own within that over all: neither needs to be asked of each element.
    fn whole_chunks(&mut self, dim: DimId, bounds: StreamBounds, body: &[Stmt]) -> Result<(), String> {
        if self.fragments.rows.is_none() || self.produces {
            return Ok(());
        }
        let along_past = matches!(self.extent(dim), Extent::Past { .. });
        let (first, end) = match (along_past, bounds.causal) {
            (true, true) => ("0", "(time_position + 1) / CHUNK"),
            (true, false) => ("0", "(origin + length) / CHUNK"),
            (false, true) => ("larger(0, past_position - origin + 2 * CHUNK - 2) / CHUNK", "length / CHUNK"),
            (false, false) => ("0", "length / CHUNK"),
        };
        // A window may end the chunks of tokens before those that are whole.
        self.open(format!("for (; chunk >= {first} && chunk < smaller(end_chunk, {end}); chunk++) {{"));
        self.whole_chunk = Some(bounds);
        match along_past {
            true => self.past_range("chunk"),
            false => self.time_range("chunk"),
        }
        self.turns(body)?;
        self.whole_chunk = None;
        self.line("if (chunk == end_chunk) break;");
        Ok(())
    }

    /// Elements one by one: neighbouring threads read neighbouring elements.
    fn transpose(
        &mut self,
        rows: &[DimId],
        columns: &[DimId],
        from: &Place,
        to: &View,
    ) -> Result<(), String> {
        self.refuse_panels(from)?;
        let dims = [columns, rows].concat();
        self.open_points(&dims);
        let source = self.element(from, &self.walked(&dims));
        let target = self.address(to, &self.walked(&dims));
        self.line(format!("store({target}, load({source}));"));
        self.close();
        Ok(())
    }

    fn fill(&mut self, dims: &[DimId], place: &Place, value: f32) -> Result<(), String> {
        self.refuse_panels(place)?;
        if let Place::Strided(view) = place
            && self.fragments.get(view.base).is_some()
        {
            self.fill_fragment(view, value);
            return Ok(());
        }
        self.open_points(dims);
        let target = self.element(place, &self.walked(dims));
        self.line(format!("store({target}, {});", float(value)));
        self.close();
        Ok(())
    }

    /// Each lane of a warp has one of the numbers of a block: see [`ROUNDED_WORDS`] for what is kept of them.
    fn round(&mut self, rows: &[DimId], over: &[DimId], from: &View, to: &View) {
        let (m, k) = (self.counts(rows), self.counts(over));
        let stride = |view: &View| rows.last().map_or(0, |&dim| view.stride(dim));
        let (source, target) = (self.at_start(from), self.at_start(to));
        let warps = self.workers() / 32;
        self.open(format!(
            "for (int part = threadIdx.x / 32; part < {m} * ({k} / {BLOCK}); part += {warps}) {{"
        ));
        self.line(format!("const int row = part / ({k} / {BLOCK}), in_row = part % ({k} / {BLOCK});"));
        self.line(format!(
            "round_block({source} + (long long)row * {} + in_row * {BLOCK}, {target} + (long long)row * {} + in_row * {ROUNDED_WORDS});",
            stride(from),
            stride(to)
        ));
        self.close();
    }
}
