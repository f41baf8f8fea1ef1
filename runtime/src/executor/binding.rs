//! The run-time binding of an entry: which sequences there are, how long, and
//! in which chunks of the cache their past lies. All tables are made once, for
//! the largest run, and filled anew for each.

use diptych_codegen::c::step::StepTables;
use diptych_codegen::entry::Limits;
use diptych_codegen::tile::CHUNK;

/// A sequence of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence<'a> {
    /// Absolute position of its first new token.
    pub origin: usize,
    /// New tokens.
    pub length: usize,
    /// The cache chunks of positions from 0 on; empty where there is no cache.
    pub chunks: &'a [i32],
}

/// Why sequences cannot be run together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindingError {
    /// More tokens or sequences than planned for.
    #[error(
        "{rows} tokens in {batch} sequences are more than the {most_rows} in {most_batch} that memory was planned for"
    )]
    TooLarge {
        /// Tokens asked for.
        rows: usize,
        /// Sequences asked for.
        batch: usize,
        /// Tokens planned for.
        most_rows: usize,
        /// Sequences planned for.
        most_batch: usize,
    },
    /// A sequence with no token.
    #[error("sequence {0} has no token")]
    Empty(usize),
    /// Longer than the model allows.
    #[error("sequence {sequence} would be {length} tokens long; the model's context is {context}")]
    TooLong {
        /// Which sequence.
        sequence: usize,
        /// Its length with its past.
        length: usize,
        /// The longest allowed.
        context: usize,
    },
    /// A cache without room.
    #[error("sequence {sequence} needs {needed} chunks of cache, but has {given}")]
    Chunks {
        /// Which sequence.
        sequence: usize,
        /// Chunks that its positions take.
        needed: usize,
        /// Chunks that it was given.
        given: usize,
    },
}

/// The tables of a run.
#[derive(Debug)]
pub struct Binding {
    limits: Limits,
    context: usize,
    chunk_stride: usize,
    rows: usize,
    batch: usize,
    row_position: Vec<i32>,
    row_cache: Vec<i32>,
    sequence_row: Vec<i32>,
    sequence_origin: Vec<i32>,
    block_sequence: Vec<i32>,
    block_index: Vec<i32>,
    chunk_row: Vec<i32>,
}

impl Binding {
    /// Tables for runs of at most these sizes, with sequences of at most `context` positions.
    pub fn new(limits: Limits, context: usize) -> Binding {
        let chunk_stride = context.div_ceil(CHUNK);
        let blocks = limits.rows.div_ceil(CHUNK) + limits.batch;
        Binding {
            limits,
            context,
            chunk_stride,
            rows: 0,
            batch: 0,
            row_position: vec![0; limits.rows],
            row_cache: vec![0; limits.rows],
            sequence_row: vec![0; limits.batch + 1],
            sequence_origin: vec![0; limits.batch],
            block_sequence: Vec::with_capacity(blocks),
            block_index: Vec::with_capacity(blocks),
            chunk_row: vec![0; limits.batch * chunk_stride],
        }
    }

    /// Binds a run to these sequences. Allocates nothing.
    ///
    /// # Errors
    /// When they do not fit what was planned for; the binding is then unusable
    /// until the next call that succeeds.
    pub fn bind(&mut self, sequences: &[Sequence]) -> Result<(), BindingError> {
        self.bind_each(sequences.iter().copied())
    }

    /// As [`Binding::bind`], for sequences that lie in no slice.
    ///
    /// # Errors
    /// As said there.
    pub fn bind_each<'s>(
        &mut self,
        sequences: impl Iterator<Item = Sequence<'s>> + Clone,
    ) -> Result<(), BindingError> {
        let (rows, batch) =
            sequences.clone().fold((0, 0), |(rows, batch), sequence| (rows + sequence.length, batch + 1));
        if rows > self.limits.rows || batch > self.limits.batch {
            let (most_rows, most_batch) = (self.limits.rows, self.limits.batch);
            return Err(BindingError::TooLarge { rows, batch, most_rows, most_batch });
        }
        (self.rows, self.batch) = (rows, batch);
        self.block_sequence.clear();
        self.block_index.clear();
        let mut row = 0;
        for (number, sequence) in sequences.enumerate() {
            let end = sequence.origin + sequence.length;
            if sequence.length == 0 {
                return Err(BindingError::Empty(number));
            }
            if end > self.context {
                return Err(BindingError::TooLong { sequence: number, length: end, context: self.context });
            }
            let needed = end.div_ceil(CHUNK);
            let cached = !sequence.chunks.is_empty();
            if cached && sequence.chunks.len() < needed {
                return Err(BindingError::Chunks { sequence: number, needed, given: sequence.chunks.len() });
            }
            self.sequence_row[number] = row as i32;
            self.sequence_origin[number] = sequence.origin as i32;
            for chunk in 0..needed {
                let first =
                    if cached { sequence.chunks[chunk] as usize * CHUNK } else { row + chunk * CHUNK };
                self.chunk_row[number * self.chunk_stride + chunk] = first as i32;
            }
            for offset in 0..sequence.length {
                let position = sequence.origin + offset;
                let first = self.chunk_row[number * self.chunk_stride + position / CHUNK];
                self.row_position[row + offset] = position as i32;
                self.row_cache[row + offset] = first + (position % CHUNK) as i32;
            }
            for block in 0..sequence.length.div_ceil(CHUNK) {
                self.block_sequence.push(number as i32);
                self.block_index.push(block as i32);
            }
            row += sequence.length;
        }
        self.sequence_row[batch] = row as i32;
        Ok(())
    }

    /// Tokens of the run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sequences of the run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Pairs of a sequence and a chunk of its tokens.
    pub fn blocks(&self) -> usize {
        self.block_index.len()
    }

    /// The tables as kernels see them, without the functions they call; valid while the binding is neither moved in memory nor bound anew.
    pub fn tables(&self) -> StepTables {
        StepTables {
            rows: self.rows as i64,
            batch: self.batch as i64,
            blocks: self.blocks() as i64,
            chunk_stride: self.chunk_stride as i64,
            row_position: self.row_position.as_ptr(),
            row_cache: self.row_cache.as_ptr(),
            sequence_row: self.sequence_row.as_ptr(),
            sequence_origin: self.sequence_origin.as_ptr(),
            block_sequence: self.block_sequence.as_ptr(),
            block_index: self.block_index.as_ptr(),
            chunk_row: self.chunk_row.as_ptr(),
            dot: std::ptr::null(),
            dot_bf16: std::ptr::null(),
        }
    }
}
