//! The run-time binding of an entry: which sequences there are, how long, and
//! in which chunks of the cache their past lies. All tables are made once, for
//! the largest run, and filled anew for each.

use super::resolve::RunSize;
use diptych_codegen::c::prelude::{BLOCK_FUNCTIONS, DOT_FUNCTIONS};
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
    /// Place of its state of recurrences; 0 where there is no cache.
    pub state: usize,
}

/// What a cache has room for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheSize {
    /// Chunks of positions, of all sequences together.
    pub chunks: usize,
    /// Sequences whose recurrences' states it holds.
    pub sequences: usize,
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
    /// A past that is nowhere to be read.
    #[error("sequence {sequence} begins at position {origin} and has no cache for what comes before")]
    NoPast {
        /// Which sequence.
        sequence: usize,
        /// Where it begins.
        origin: usize,
    },
    /// A chunk that the cache does not have.
    #[error("sequence {sequence} has chunk {found} of a cache of {chunks} chunks, numbered from 0 on")]
    NoChunk {
        /// Which sequence.
        sequence: usize,
        /// The chunk.
        found: i32,
        /// Chunks of the cache.
        chunks: usize,
    },
    /// A state that the cache does not have.
    #[error("sequence {sequence} has state {found} of a cache of {sequences} states, numbered from 0 on")]
    NoState {
        /// Which sequence.
        sequence: usize,
        /// The state.
        found: usize,
        /// States of the cache.
        sequences: usize,
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
    cache: CacheSize,
    chunk_stride: usize,
    rows: usize,
    batch: usize,
    row_position: Vec<i32>,
    row_cache: Vec<i32>,
    sequence_row: Vec<i32>,
    sequence_origin: Vec<i32>,
    block_sequence: Vec<i32>,
    block_index: Vec<i32>,
    past_block_sequence: Vec<i32>,
    past_block_index: Vec<i32>,
    chunk_row: Vec<i32>,
    sequence_state: Vec<i32>,
}

impl Binding {
    /// Tables for runs of at most these sizes without a cache, with sequences of at most `context` positions.
    pub fn new(limits: Limits, context: usize) -> Binding {
        Self::cached(limits, context, CacheSize::default())
    }

    /// As [`Binding::new`], for runs with a cache of this size, in which every sequence has its own place.
    pub fn cached(limits: Limits, context: usize, cache: CacheSize) -> Binding {
        let chunk_stride = context.div_ceil(CHUNK);
        let blocks = limits.rows.div_ceil(CHUNK) + limits.batch;
        Binding {
            limits,
            context,
            cache,
            chunk_stride,
            rows: 0,
            batch: 0,
            row_position: vec![0; limits.rows],
            row_cache: vec![0; limits.rows],
            sequence_row: vec![0; limits.batch + 1],
            sequence_origin: vec![0; limits.batch],
            block_sequence: Vec::with_capacity(blocks),
            block_index: Vec::with_capacity(blocks),
            past_block_sequence: Vec::with_capacity(limits.batch * chunk_stride),
            past_block_index: Vec::with_capacity(limits.batch * chunk_stride),
            chunk_row: vec![0; limits.batch * chunk_stride],
            sequence_state: vec![0; limits.batch],
        }
    }

    /// The bytes that the tables for such runs take.
    pub fn bytes_for(limits: Limits, context: usize) -> usize {
        let blocks = limits.rows.div_ceil(CHUNK) + limits.batch;
        let chunks = limits.batch * context.div_ceil(CHUNK);
        (2 * limits.rows + 3 * limits.batch + 1 + 2 * blocks + 3 * chunks) * size_of::<i32>()
    }

    /// Binds a run to these sequences, no two of which have a chunk in common. Allocates nothing.
    ///
    /// # Errors
    /// When they do not fit what was planned for; the binding is then as it was.
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
        let (rows, batch) = self.check(sequences.clone())?;
        (self.rows, self.batch) = (rows, batch);
        self.block_sequence.clear();
        self.block_index.clear();
        self.past_block_sequence.clear();
        self.past_block_index.clear();
        let mut row = 0;
        for (number, sequence) in sequences.enumerate() {
            self.sequence_row[number] = row as i32;
            self.sequence_origin[number] = sequence.origin as i32;
            self.sequence_state[number] = sequence.state as i32;
            for chunk in 0..(sequence.origin + sequence.length).div_ceil(CHUNK) {
                // Without a cache, a run's own rows stand for one.
                let first = match sequence.chunks.get(chunk) {
                    Some(&cached) => cached as usize * CHUNK,
                    None => row + chunk * CHUNK,
                };
                self.chunk_row[number * self.chunk_stride + chunk] = first as i32;
                self.past_block_sequence.push(number as i32);
                self.past_block_index.push(chunk as i32);
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

    /// Rows and sequences of a run, if it fits.
    fn check<'s>(
        &self,
        sequences: impl Iterator<Item = Sequence<'s>>,
    ) -> Result<(usize, usize), BindingError> {
        let (mut rows, mut batch) = (0usize, 0);
        for (sequence, Sequence { origin, length, chunks, state }) in sequences.enumerate() {
            if length == 0 {
                return Err(BindingError::Empty(sequence));
            }
            let end = origin.saturating_add(length);
            if end > self.context {
                return Err(BindingError::TooLong { sequence, length: end, context: self.context });
            }
            let needed = end.div_ceil(CHUNK);
            let cached = self.cache.chunks > 0 || !chunks.is_empty();
            if !cached && origin > 0 {
                return Err(BindingError::NoPast { sequence, origin });
            }
            if cached && chunks.len() < needed {
                return Err(BindingError::Chunks { sequence, needed, given: chunks.len() });
            }
            let bad =
                |chunk: &&i32| usize::try_from(**chunk).map_or(true, |chunk| chunk >= self.cache.chunks);
            if let Some(&found) = chunks.iter().take(needed).find(bad) {
                return Err(BindingError::NoChunk { sequence, found, chunks: self.cache.chunks });
            }
            if cached && state >= self.cache.sequences {
                let sequences = self.cache.sequences;
                return Err(BindingError::NoState { sequence, found: state, sequences });
            }
            (rows, batch) = (rows.saturating_add(length), batch + 1);
        }
        if rows > self.limits.rows || batch > self.limits.batch {
            let (most_rows, most_batch) = (self.limits.rows, self.limits.batch);
            return Err(BindingError::TooLarge { rows, batch, most_rows, most_batch });
        }
        Ok((rows, batch))
    }

    /// Tokens of the run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sequences of the run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The size of the cache of whose places its runs may name any.
    pub fn cache(&self) -> CacheSize {
        self.cache
    }

    /// Pairs of a sequence and a chunk of its tokens.
    pub fn blocks(&self) -> usize {
        self.block_index.len()
    }

    /// The most positions of a sequence.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// How large the run is.
    pub(crate) fn size(&self) -> RunSize {
        let past_blocks = self.past_block_index.len();
        RunSize { rows: self.rows, batch: self.batch, blocks: self.blocks(), past_blocks }
    }

    /// All tables, as far as the run at hand fills them, in the order of a GPU's struct.
    pub(crate) fn in_order(&self) -> [&[i32]; 10] {
        let (rows, batch) = (self.rows, self.batch);
        [
            &self.row_position[..rows],
            &self.row_cache[..rows],
            &self.sequence_row[..=batch],
            &self.sequence_origin[..batch],
            &self.block_sequence,
            &self.block_index,
            &self.past_block_sequence,
            &self.past_block_index,
            &self.chunk_row[..batch * self.chunk_stride],
            &self.sequence_state[..batch],
        ]
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
            past_blocks: self.past_block_index.len() as i64,
            past_block_sequence: self.past_block_sequence.as_ptr(),
            past_block_index: self.past_block_index.as_ptr(),
            chunk_row: self.chunk_row.as_ptr(),
            sequence_state: self.sequence_state.as_ptr(),
            threads: 1,
            turn: 0,
            dots: [std::ptr::null(); DOT_FUNCTIONS.len()],
            in_blocks: [std::ptr::null(); BLOCK_FUNCTIONS.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let limits = Limits { rows: 100, batch: 2 };
        let mut binding = Binding::cached(limits, 200, CacheSize { chunks: 5, sequences: 2 });
        let one = |origin, length, chunks| Sequence { origin, length, chunks, state: 0 };
        binding.bind(&[one(60, 10, &[4, 0]), one(0, 3, &[2])]).unwrap();
        let tables = |binding: &Binding| {
            let Binding { row_position, row_cache, sequence_row, sequence_origin, .. } = binding;
            let sequences = (sequence_row.clone(), sequence_origin.clone(), binding.chunk_row.clone());
            let blocks = [&binding.block_sequence, &binding.block_index].map(Vec::clone);
            let past_blocks = [&binding.past_block_sequence, &binding.past_block_index].map(Vec::clone);
            (
                binding.rows(),
                binding.batch(),
                row_position.clone(),
                row_cache.clone(),
                sequences,
                (blocks, past_blocks),
            )
        };
        let before = tables(&binding);
        assert_eq!((before.0, before.1, &before.3[8..13]), (13, 2, &[4, 5, 128, 129, 130][..]));
        let (blocks, past_blocks) = &before.5;
        assert_eq!(*blocks, [vec![0, 1], vec![0, 0]]);
        assert_eq!(*past_blocks, [vec![0, 0, 1], vec![0, 1, 0]]);
        let good = one(0, 5, &[1]);
        let bad = [
            (one(0, 0, &[1]), BindingError::Empty(1)),
            (one(190, 11, &[1, 2, 3, 4]), BindingError::TooLong { sequence: 1, length: 201, context: 200 }),
            (
                one(usize::MAX, 2, &[1]),
                BindingError::TooLong { sequence: 1, length: usize::MAX, context: 200 },
            ),
            (one(0, 1, &[]), BindingError::Chunks { sequence: 1, needed: 1, given: 0 }),
            (one(64, 1, &[1]), BindingError::Chunks { sequence: 1, needed: 2, given: 1 }),
            (one(64, 1, &[1, 5]), BindingError::NoChunk { sequence: 1, found: 5, chunks: 5 }),
            (one(0, 1, &[-1]), BindingError::NoChunk { sequence: 1, found: -1, chunks: 5 }),
            (Sequence { state: 2, ..good }, BindingError::NoState { sequence: 1, found: 2, sequences: 2 }),
            (
                one(0, 96, &[1, 2]),
                BindingError::TooLarge { rows: 101, batch: 2, most_rows: 100, most_batch: 2 },
            ),
        ];
        for (sequence, expected) in bad {
            assert_eq!(binding.bind(&[good, sequence]), Err(expected));
            assert!(tables(&binding) == before, "{sequence:?} changed the binding");
        }
        let mut uncached = Binding::new(limits, 200);
        let refused = BindingError::NoChunk { sequence: 0, found: 1, chunks: 0 };
        assert_eq!(uncached.bind(&[good]), Err(refused));
        let refused = BindingError::NoPast { sequence: 0, origin: 64 };
        assert_eq!(uncached.bind(&[one(64, 1, &[])]), Err(refused));
        assert_eq!(uncached.bind(&[one(0, 70, &[])]), Ok(()));
    }
}
