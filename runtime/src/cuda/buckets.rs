//! For which sizes of runs one captured graph serves: kernels read the very size from memory, so a graph that launches
//! enough blocks for a larger run computes a smaller one as well.

use crate::executor::resolve::RunSize;
use std::time::Instant;

/// The largest size of the bucket that a run is in. Where rows are walked in turns, a graph is for so many rows alone,
/// since there are more turns for more.
pub(super) fn bucket(size: RunSize, largest: RunSize, in_turns: bool) -> RunSize {
    let up = |size: usize, largest: usize| round_up(size).min(largest).max(size);
    RunSize {
        rows: if in_turns { size.rows } else { up(size.rows, largest.rows) },
        batch: up(size.batch, largest.batch),
        blocks: up(size.blocks, largest.blocks),
        past_blocks: up(size.past_blocks, largest.past_blocks),
    }
}

/// The next number of two binary digits and zeros, so that at most a third of the blocks find nothing to do.
fn round_up(size: usize) -> usize {
    let step = (1 << size.max(1).ilog2()) / 2;
    size.next_multiple_of(step.max(1))
}

/// What is kept for the buckets of one entry, the last used first to stay.
#[derive(Debug)]
pub(super) struct Buckets<G> {
    entries: Vec<Entry<G>>,
    most: usize,
}

#[derive(Debug)]
struct Entry<G> {
    bucket: RunSize,
    used: Instant,
    kept: Kept<G>,
}

/// What there is for the runs of a bucket.
#[derive(Debug)]
enum Kept<G> {
    Nothing,
    Graph(G),
    /// There was no memory for a graph.
    Refused,
}

/// What to do with a run.
#[derive(Debug)]
pub(super) enum Choice<'g, G> {
    /// The first of its bucket: it may be the only one, and capturing costs more than it saves. Or one of a bucket for
    /// which there can be no graph.
    Launch,
    /// Capture it, and keep that.
    Capture,
    /// There is a graph.
    Replay(&'g G),
}

impl<G> Buckets<G> {
    /// Room for graphs of so many buckets.
    pub fn new(most: usize) -> Self {
        Buckets { entries: Vec::with_capacity(most), most }
    }

    /// What to do with a run of this bucket now.
    pub fn choose(&mut self, bucket: RunSize) -> Choice<'_, G> {
        let now = Instant::now();
        match self.entries.iter().position(|entry| entry.bucket == bucket) {
            Some(at) => {
                self.entries[at].used = now;
                match &self.entries[at].kept {
                    Kept::Nothing => Choice::Capture,
                    Kept::Graph(graph) => Choice::Replay(graph),
                    Kept::Refused => Choice::Launch,
                }
            }
            None => {
                if self.entries.len() == self.most
                    && let Some(oldest) = (0..self.most).min_by_key(|&at| self.entries[at].used)
                {
                    self.entries.swap_remove(oldest);
                }
                self.entries.push(Entry { bucket, used: now, kept: Kept::Nothing });
                Choice::Launch
            }
        }
    }

    /// Keeps the graph of a bucket that was chosen before.
    pub fn keep(&mut self, bucket: RunSize, graph: G) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.bucket == bucket) {
            entry.kept = Kept::Graph(graph);
        }
    }

    /// There is no memory for the graph of a bucket that was chosen before: its runs are launched.
    pub fn refuse(&mut self, bucket: RunSize) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.bucket == bucket) {
            entry.kept = Kept::Refused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: usize, batch: usize, blocks: usize, past_blocks: usize) -> RunSize {
        RunSize { rows, batch, blocks, past_blocks }
    }

    #[test]
    fn a_bucket_holds_its_runs_and_is_little_larger() {
        let largest = size(500, 64, 70, 4096);
        for n in 1..=500 {
            let found = bucket(size(n, n.min(64), n.min(70), 8 * n), largest, false);
            assert!(found.rows >= n && found.rows <= (n * 3).div_ceil(2).min(500), "{n}: {found:?}");
            assert!(found.past_blocks >= 8 * n && found.past_blocks <= 12 * n && found.past_blocks <= 4096);
            // The bucket of a bucket is itself.
            assert_eq!(bucket(found, largest, false), found);
        }
        let few: std::collections::HashSet<usize> =
            (1..=4096).map(|n| bucket(size(1, 1, 1, n), largest, false).past_blocks).collect();
        assert_eq!(few.len(), 24);
        assert_eq!(bucket(size(333, 3, 3, 3), largest, true), size(333, 3, 3, 3));
    }

    #[test]
    fn the_second_run_of_a_bucket_is_captured_and_the_oldest_bucket_goes() {
        let mut buckets = Buckets::new(2);
        let [a, b, c] = [1, 2, 3].map(|rows| size(rows, 1, 1, 1));
        assert!(matches!(buckets.choose(a), Choice::Launch));
        assert!(matches!(buckets.choose(a), Choice::Capture));
        buckets.keep(a, "a");
        assert!(matches!(buckets.choose(b), Choice::Launch));
        assert!(matches!(buckets.choose(a), Choice::Replay(&"a")));
        // b was used longest ago.
        assert!(matches!(buckets.choose(c), Choice::Launch));
        assert!(matches!(buckets.choose(a), Choice::Replay(&"a")));
        assert!(matches!(buckets.choose(b), Choice::Launch));
        assert!(matches!(buckets.choose(c), Choice::Launch));
        buckets.refuse(c);
        assert!(matches!(buckets.choose(c), Choice::Launch));
        assert!(matches!(buckets.choose(c), Choice::Launch));
    }
}
