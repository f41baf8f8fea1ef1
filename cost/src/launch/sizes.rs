//! The sizes that a run binds, and how often the statements of a tile program are done at them.
//! Sums over blocks and chunks are exact: ragged lengths, masks and windows count as they are.
//! It must not know what statements do.

use diptych_codegen::entry::Launch;
use diptych_codegen::tile::{CHUNK, DimId, Extent, StreamBounds, TileProgram};
use diptych_passes::layout::Leading;
use std::cell::RefCell;

/// A sequence of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Absolute position of its first new token: what its cache holds already.
    pub origin: usize,
    /// New tokens.
    pub length: usize,
}

/// What a run binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSizes {
    /// All sequences.
    pub sequences: Vec<Sequence>,
}

impl RunSizes {
    /// So many sequences of the same length, after as many cached positions each.
    pub fn equal(batch: usize, origin: usize, length: usize) -> RunSizes {
        RunSizes { sequences: vec![Sequence { origin, length }; batch] }
    }

    /// New tokens of all sequences.
    pub fn rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.length).sum()
    }

    /// Rows that the caches of these sequences take, in whole chunks.
    pub fn cached(&self) -> usize {
        let chunks = |sequence: &Sequence| (sequence.origin + sequence.length).div_ceil(CHUNK);
        self.sequences.iter().map(chunks).sum::<usize>() * CHUNK
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.sequences.len()
    }
}

/// Loops around a statement: the grid's and, within it, the stream's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct At {
    pub(super) stream: Option<(DimId, StreamBounds)>,
}

impl At {
    /// Outside the stream.
    pub(super) const INSTANCE: At = At { stream: None };
}

/// Sums over all visits of a chunk: how many, and how many positions of tokens, of the past, of pairs.
#[derive(Clone, Copy, Default)]
struct Visits {
    count: f64,
    time: f64,
    past: f64,
    pairs: f64,
    /// Chunks held, positions streamed past them in all, and past one of them at most.
    held_chunks: f64,
    streamed: f64,
    longest: f64,
}

/// A program at run-time sizes.
pub(super) struct Sizes<'a> {
    pub(super) program: &'a TileProgram,
    pub(super) launch: &'a Launch,
    pub(super) run: &'a RunSizes,
    /// Where instances that would do the same are taken to do it once between them: the blocks among which the
    /// statement that is being counted differs. Otherwise all count.
    pub(super) differs: RefCell<Option<Vec<DimId>>>,
}

impl Sizes<'_> {
    pub(super) fn extent(&self, dim: DimId) -> Extent {
        self.program.dims[dim].extent
    }

    pub(super) fn is_sequence(&self, dim: DimId) -> bool {
        matches!(self.extent(dim), Extent::Time | Extent::Past { .. })
    }

    /// All positions of a dimension, over its blocks.
    pub(super) fn total(&self, dim: DimId) -> f64 {
        let total = match self.extent(dim) {
            Extent::Sequence => self.run.batch(),
            // Of each sequence, on average.
            Extent::Position => return self.run.rows() as f64 / self.run.batch().max(1) as f64,
            Extent::Whole(size) | Extent::Blocks { size, .. } => size,
            Extent::Choice { .. } => 1,
            Extent::Pairs { leading, each, .. } => self.rows(leading) * each,
            Extent::Rows { leading, .. } => self.rows(leading),
            Extent::Time => self.run.rows(),
            Extent::Flat { .. } => self.launch.flat,
            Extent::Past { window } => {
                let seen =
                    |sequence: &Sequence| sequence.origin + sequence.length - first_seen(sequence, 0, window);
                self.run.sequences.iter().map(seen).sum()
            }
        };
        total as f64
    }

    /// Blocks of a dimension; of a sequence's, those of all sequences.
    pub(super) fn blocks(&self, dim: DimId) -> f64 {
        match self.extent(dim) {
            Extent::Whole(_) | Extent::Choice { .. } => 1.0,
            Extent::Sequence | Extent::Position => self.total(dim),
            Extent::Time | Extent::Past { .. } => self.visits(At::INSTANCE).count,
            // The last block of each id is half full, if there are more pairs than fit in one.
            Extent::Pairs { block, .. } => {
                let used = self.used_ids(dim).unwrap_or(1.0);
                used.max(self.total(dim) / block as f64 + used / 2.0)
            }
            Extent::Blocks { block, .. } | Extent::Rows { block, .. } | Extent::Flat { block } => {
                (self.total(dim) / block as f64).ceil()
            }
        }
    }

    fn rows(&self, leading: Leading) -> usize {
        if leading == Leading::Batch { self.run.batch() } else { self.run.rows() }
    }

    /// How many different ids the pairs of a dimension are expected to have, if each row chooses its own
    /// at random: of E ids, of which a row has k, n rows have E (1 - (1 - k/E)^n).
    /// None for a dimension that is not of pairs.
    pub(super) fn used_ids(&self, pair: DimId) -> Option<f64> {
        let Extent::Pairs { leading, each, along, .. } = self.extent(pair) else { return None };
        let ids = self.total(along);
        let missed = (1.0 - each as f64 / ids).max(0.0).powf(self.rows(leading) as f64);
        Some(ids * (1.0 - missed))
    }

    /// The dimension of the pairs that have one position each along a dimension.
    pub(super) fn pairs_along(&self, along: DimId) -> Option<DimId> {
        (0..self.program.dims.len())
            .find(|&dim| matches!(self.extent(dim), Extent::Pairs { along: theirs, .. } if theirs == along))
    }

    /// Which part of the rows that pairs of a dimension name are different ones: a row has several ids.
    pub(super) fn different_rows(&self, dim: DimId) -> f64 {
        match self.extent(dim) {
            Extent::Pairs { each, .. } => 1.0 / each as f64,
            _ => 1.0,
        }
    }

    pub(super) fn is_choice(&self, dim: DimId) -> bool {
        matches!(self.extent(dim), Extent::Choice { .. })
    }

    /// Instances of the launch.
    pub(super) fn instances(&self) -> f64 {
        self.program.grid.iter().map(|&dim| self.blocks(dim)).product()
    }

    /// Loops around a statement, outermost first.
    pub(super) fn loops(&self, at: At) -> Vec<DimId> {
        self.program.grid.iter().copied().chain(at.stream.map(|stream| stream.0)).collect()
    }

    /// How often a loop's body is done for each time that the loop is reached.
    pub(super) fn iterations(&self, dim: DimId, at: At) -> f64 {
        match at.stream {
            Some((stream, _)) if stream == dim && self.is_sequence(dim) => {
                self.visits(at).count / self.visits(At::INSTANCE).count
            }
            // Blocks of one id's pairs.
            Some((stream, _)) if stream == dim && matches!(self.extent(dim), Extent::Pairs { .. }) => {
                let Extent::Pairs { along, .. } = self.extent(dim) else { return 1.0 };
                (self.blocks(dim) / self.total(along)).max(1.0)
            }
            _ => self.blocks(dim),
        }
    }

    /// How often a statement within these loops is done, each time counted as many times as the product of the
    /// positions of `dims` that it then sees. Blocks among which it does
    /// not differ repeat it only for how the work was divided, see [`Sizes::differs`].
    pub(super) fn points(&self, dims: &[DimId], at: At) -> f64 {
        let loops = self.loops(at);
        let mut points = 1.0;
        // Pairs of all ids are counted by the pairs.
        let by_pairs = |dim: DimId| self.pairs_along(dim).is_some_and(|pair| loops.contains(&pair));
        for &dim in loops.iter().filter(|&&dim| !self.is_sequence(dim) && !by_pairs(dim)) {
            points *= match (dims.contains(&dim), &*self.differs.borrow()) {
                (true, _) => self.total(dim),
                (false, Some(differs)) if !differs.contains(&dim) => 1.0,
                (false, _) => self.blocks(dim),
            };
        }
        let within = |dim: DimId| !loops.contains(&dim) && !by_pairs(dim);
        for &dim in dims.iter().filter(|&&dim| !self.is_sequence(dim) && within(dim)) {
            points *= self.total(dim);
        }
        if loops.iter().any(|&dim| self.is_sequence(dim)) {
            let sees_time = dims.iter().any(|&dim| self.extent(dim) == Extent::Time);
            let sees_past = dims.iter().any(|&dim| matches!(self.extent(dim), Extent::Past { .. }));
            let visits = self.visits(at);
            points *= match (sees_time, sees_past) {
                (false, false) => visits.count,
                (true, false) => visits.time,
                (false, true) => visits.past,
                (true, true) => visits.pairs,
            };
        }
        points
    }

    /// Positions of dimensions that a statement sees each time, on average.
    pub(super) fn mean(&self, dims: &[DimId], at: At) -> f64 {
        let times = self.points(&[], at);
        if times > 0.0 { self.points(dims, at) / times } else { 0.0 }
    }

    /// Distinct positions that all visits together see.
    pub(super) fn distinct(&self, dim: DimId, at: At) -> f64 {
        match (self.extent(dim), at.stream) {
            (Extent::Past { .. }, Some((stream, bounds))) if stream == dim => {
                let seen = self.run.sequences.iter().map(|sequence| {
                    let first = first_seen(sequence, 0, bounds.window);
                    sequence.origin + sequence.length - first
                });
                seen.sum::<usize>() as f64
            }
            (Extent::Blocks { .. }, _) => match self.pairs_along(dim) {
                Some(pair) if !self.program.grid.contains(&dim) => {
                    self.used_ids(pair).unwrap_or_else(|| self.total(dim))
                }
                _ => self.total(dim),
            },
            _ => self.total(dim),
        }
    }

    /// The most positions that stream past a held chunk, and how many do on average.
    pub(super) fn streamed_positions(&self, at: At) -> (f64, f64) {
        let visits = self.visits(at);
        (visits.longest, visits.streamed / visits.held_chunks.max(1.0))
    }

    fn visits(&self, at: At) -> Visits {
        let held_past = self.program.grid.iter().find_map(|&dim| match self.extent(dim) {
            Extent::Past { window } => Some(window),
            _ => None,
        });
        let mut visits = Visits::default();
        for equal in self.run.sequences.chunk_by(|one, other| one == other) {
            let (sequence, times) = (&equal[0], equal.len() as f64);
            let end = sequence.origin + sequence.length;
            // The range of positions so far, or of new tokens, that instances hold in chunks.
            let range = match held_past {
                Some(window) => first_seen(sequence, 0, window)..end,
                None => 0..sequence.length,
            };
            for start in range.step_by(CHUNK) {
                // What the instance holds, and the range that it streams in chunks.
                let (held, streamed) = if held_past.is_some() {
                    let held = CHUNK.min(end - start);
                    let streamed = at.stream.map(|(_, bounds)| {
                        let causal = start.saturating_sub(sequence.origin) / CHUNK * CHUNK;
                        let first = if bounds.causal { causal } else { 0 };
                        let last = bounds.window.map_or(sequence.length, |window| {
                            let last = (start + held - 1 + window).saturating_sub(sequence.origin);
                            last.next_multiple_of(CHUNK).min(sequence.length)
                        });
                        (first, last.max(first))
                    });
                    (held, streamed)
                } else {
                    let held = CHUNK.min(sequence.length - start);
                    let streamed = at.stream.map(|(_, bounds)| {
                        let last = if bounds.causal { sequence.origin + start + held } else { end };
                        (first_seen(sequence, start, bounds.window), last.next_multiple_of(CHUNK).min(end))
                    });
                    (held, streamed)
                };
                let held = held as f64;
                let (count, positions) = match streamed {
                    // Beside each chunk of positions so far stand all new tokens.
                    None if held_past.is_some() => (1.0, sequence.length as f64),
                    None => (1.0, 0.0),
                    Some((first, last)) => {
                        ((last.div_ceil(CHUNK) - first / CHUNK) as f64, (last - first) as f64)
                    }
                };
                let (time, past) =
                    if held_past.is_some() { (positions, held * count) } else { (held * count, positions) };
                visits.count += times * count;
                visits.time += times * time;
                visits.past += times * past;
                visits.pairs += times * held * positions;
                visits.held_chunks += times;
                visits.streamed += times * positions;
                visits.longest = visits.longest.max(positions);
            }
        }
        visits
    }
}

/// First position, of a whole chunk, that the chunk of tokens from `start` on looks at.
fn first_seen(sequence: &Sequence, start: usize, window: Option<usize>) -> usize {
    let position = sequence.origin + start;
    window.map_or(0, |window| (position + 1).saturating_sub(window) / CHUNK * CHUNK)
}
