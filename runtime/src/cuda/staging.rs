//! What goes to a GPU and comes back in each run: inputs and the tables of its binding, copied together, and the roots.
//! Each lies at the same place in memory of the host that stays where it is and in memory of the GPU.

use super::error::{CudaError, could_not};
use super::gpu::Gpu;
use super::memory::{DeviceBytes, PinnedBytes};
use crate::executor::Binding;
use crate::executor::resolve::{RunSize, even_turns};
use cudarc::driver::{CudaStream, result};
use diptych_codegen::cuda::step::StepTables;
use diptych_codegen::entry::{CompiledEntry, Limits, PlanStep, Role};
use diptych_codegen::tile::CHUNK;
use std::collections::{BTreeMap, BTreeSet};

/// Buffers begin at multiples of this, in bytes.
const ALIGNMENT: usize = 256;

/// Some buffers, on the host and on the GPU.
#[derive(Debug)]
pub(super) struct Twins {
    host: PinnedBytes,
    gpu: DeviceBytes,
    places: BTreeMap<usize, (usize, usize)>,
}

impl Twins {
    /// Room for buffers by number, of so many bytes, and for others before them.
    fn new(
        gpu: &Gpu,
        before: usize,
        buffers: impl Iterator<Item = (usize, usize)>,
    ) -> Result<Twins, CudaError> {
        let mut end = before.next_multiple_of(ALIGNMENT);
        let mut places = BTreeMap::new();
        for (id, bytes) in buffers {
            places.insert(id, (end, bytes));
            end = (end + bytes).next_multiple_of(ALIGNMENT);
        }
        let host = PinnedBytes::zeroed(gpu.context(), end)?;
        Ok(Twins { host, gpu: DeviceBytes::zeroed(gpu.context(), end, "inputs and roots")?, places })
    }

    /// Those of an entry's roots.
    pub fn of_roots(gpu: &Gpu, entry: &CompiledEntry, limits: Limits) -> Result<Twins, CudaError> {
        Self::new(gpu, 0, buffers(entry, limits, |role| matches!(role, Role::Root(_))))
    }

    /// Where a buffer begins on the GPU.
    pub fn pointer(&self, id: usize) -> Option<*mut u8> {
        self.places.get(&id).map(|place| self.gpu.pointer().wrapping_add(place.0))
    }

    /// A buffer on the host.
    pub fn elements<T: bytemuck::Pod>(&self, id: usize) -> Option<&[T]> {
        let &(start, bytes) = self.places.get(&id)?;
        Some(bytemuck::cast_slice(
            &self.host.as_slice()[start..start + bytes / size_of::<T>() * size_of::<T>()],
        ))
    }

    /// A buffer on the host, to change.
    pub fn elements_mut<T: bytemuck::Pod>(&mut self, id: usize) -> Option<&mut [T]> {
        let &(start, bytes) = self.places.get(&id)?;
        let end = start + bytes / size_of::<T>() * size_of::<T>();
        Some(bytemuck::cast_slice_mut(&mut self.host.as_mut_slice()[start..end]))
    }

    /// Copies the first bytes of a buffer to the host, when the stream comes to it.
    pub fn download(&self, stream: &CudaStream, id: usize, most: usize) -> Result<(), CudaError> {
        let Some(&(start, bytes)) = self.places.get(&id).filter(|place| place.1.min(most) > 0) else {
            return Ok(());
        };
        // SAFETY: both have so many bytes there, stay where they are, and nobody reads them before the run has ended.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.host.as_ptr().add(start), bytes.min(most));
            result::memcpy_dtoh_async(to, self.gpu.address() + start as u64, stream.cu_stream())
        }
        .map_err(could_not("copy roots from the GPU"))
    }
}

fn buffers(
    entry: &CompiledEntry,
    limits: Limits,
    wanted: fn(&Role) -> bool,
) -> impl Iterator<Item = (usize, usize)> {
    let buffers = entry.buffers.iter().enumerate().filter(move |(_, buffer)| wanted(&buffer.role));
    buffers.map(move |(id, buffer)| (id, buffer.bytes(limits, entry.panel)))
}

/// The tables of runs, and the inputs.
#[derive(Debug)]
pub(super) struct Given {
    twins: Twins,
    context: usize,
    limits: Limits,
    /// The most rows of a turn, of each kind of turns that the entry has; and which of the structs is its first one's.
    /// The first struct of all is that of the whole run.
    turns: Vec<(usize, usize)>,
    /// Where each table begins.
    starts: [usize; 10],
}

impl Given {
    /// Room for runs of at most these sizes, with sequences of at most `context` positions.
    pub fn new(gpu: &Gpu, entry: &CompiledEntry, limits: Limits, context: usize) -> Result<Given, CudaError> {
        let mut structs = 1;
        let mut turns = Vec::new();
        for rows in kinds_of_turns(entry) {
            turns.push((rows, structs));
            structs += limits.rows.div_ceil(rows).max(1);
        }
        let mut end = structs * size_of::<StepTables>();
        let starts = table_lengths(limits, context).map(|length| {
            let start = end.next_multiple_of(16);
            end = start + length * size_of::<i32>();
            start
        });
        let inputs = buffers(entry, limits, |role| matches!(role, Role::Input(_)));
        Ok(Given { twins: Twins::new(gpu, end, inputs)?, context, limits, turns, starts })
    }

    /// The inputs.
    pub fn inputs(&mut self) -> &mut Twins {
        &mut self.twins
    }

    /// Where an input begins on the GPU.
    pub fn pointer(&self, id: usize) -> Option<*mut u8> {
        self.twins.pointer(id)
    }

    /// Whether rows are walked in turns.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Writes down a binding, to be copied. Allocates nothing.
    ///
    /// # Errors
    /// When its sequences may be longer than there is room for.
    pub fn bind(&mut self, binding: &Binding) -> Result<(), CudaError> {
        let size = binding.size();
        let [most, found] = [self.context, binding.context()];
        if found.div_ceil(CHUNK) > most.div_ceil(CHUNK) {
            return Err(CudaError::Context { found, expected: most });
        }
        let starts = self.starts;
        let address = |table: usize| self.twins.gpu.address() + starts[table] as u64;
        let number = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
        let whole = StepTables {
            rows: number(size.rows),
            batch: number(size.batch),
            blocks: number(size.blocks),
            past_blocks: number(size.past_blocks),
            chunk_stride: number(found.div_ceil(CHUNK)),
            turn: 0,
            row_position: address(0),
            row_cache: address(1),
            sequence_row: address(2),
            sequence_origin: address(3),
            block_sequence: address(4),
            block_index: address(5),
            past_block_sequence: address(6),
            past_block_index: address(7),
            chunk_row: address(8),
            sequence_state: address(9),
        };
        self.put(0, whole);
        for kind in 0..self.turns.len() {
            let (most, first) = self.turns[kind];
            let (rows, turns) = even_turns(size.rows, most);
            for turn in 0..turns {
                let start = turn * rows;
                let row_position = whole.row_position + (start * size_of::<i32>()) as u64;
                let rows = number(rows.min(size.rows - start.min(size.rows)));
                self.put(first + turn, StepTables { rows, turn: number(turn), row_position, ..whole });
            }
        }
        let host = self.twins.host.as_mut_slice();
        for (table, start) in binding.in_order().into_iter().zip(starts) {
            host[start..start + size_of_val(table)].copy_from_slice(bytemuck::cast_slice(table));
        }
        Ok(())
    }

    fn put(&mut self, position: usize, tables: StepTables) {
        // SAFETY: a struct of integers without gaps, which is as long as its bytes.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const tables).cast::<u8>(), size_of::<StepTables>()) };
        let start = position * size_of::<StepTables>();
        self.twins.host.as_mut_slice()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Where the struct of a run is on the GPU; of a turn, given the most rows of its kind.
    pub fn tables(&self, turn: Option<(usize, usize)>) -> u64 {
        let first = |most: usize| self.turns.iter().find(|kind| kind.0 == most).map_or(0, |kind| kind.1);
        let position = turn.map_or(0, |(most, turn)| first(most) + turn);
        self.twins.gpu.address() + (position * size_of::<StepTables>()) as u64
    }

    /// Copies all to the GPU, when the stream comes to it.
    pub fn upload(&self, stream: &CudaStream) -> Result<(), CudaError> {
        // SAFETY: both have so many bytes and stay where they are; nobody changes them before the run has ended.
        unsafe {
            result::memcpy_htod_async(
                self.twins.gpu.address(),
                self.twins.host.as_slice(),
                stream.cu_stream(),
            )
        }
        .map_err(could_not("copy inputs to the GPU"))
    }

    /// The largest size that a run can have.
    pub fn largest(&self) -> RunSize {
        let Limits { rows, batch } = self.limits;
        let past_blocks = batch * self.context.div_ceil(CHUNK);
        RunSize { rows, batch, blocks: rows.div_ceil(CHUNK) + batch, past_blocks }
    }
}

/// Numbers of each table, in the order of [`Binding::in_order`].
fn table_lengths(limits: Limits, context: usize) -> [usize; 10] {
    let Limits { rows, batch } = limits;
    let (blocks, chunks) = (rows.div_ceil(CHUNK) + batch, batch * context.div_ceil(CHUNK));
    [rows, rows, batch + 1, batch, blocks, blocks, chunks, chunks, chunks, batch]
}

/// The most rows of a turn, of each kind of turns.
fn kinds_of_turns(entry: &CompiledEntry) -> BTreeSet<usize> {
    fn collect(steps: &[PlanStep], kinds: &mut BTreeSet<usize>) {
        for step in steps {
            match step {
                PlanStep::Turns { rows, body } => {
                    kinds.insert(*rows);
                    collect(body, kinds);
                }
                PlanStep::Repeat { body, .. } => collect(body, kinds),
                PlanStep::Launch(_) | PlanStep::Together(_) | PlanStep::Copy { .. } => {}
            }
        }
    }
    let mut kinds = BTreeSet::new();
    collect(&entry.steps, &mut kinds);
    collect(&entry.load_steps, &mut kinds);
    kinds
}
