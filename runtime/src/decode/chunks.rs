//! The cache's chunks: which are free, and which each sequence has, in order of
//! position. Every `history` has a room of its own, and one table serves them
//! all. It knows no kernel and no token.

use diptych_codegen::tile::CHUNK;

/// Chunk ids that no sequence has.
#[derive(Debug)]
pub(super) struct FreeChunks {
    free: Vec<i32>,
    total: usize,
}

impl FreeChunks {
    /// So many chunks, all free.
    pub fn new(total: usize) -> FreeChunks {
        FreeChunks { free: (0..total as i32).rev().collect(), total }
    }

    /// How many are free.
    pub fn count(&self) -> usize {
        self.free.len()
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.total
    }
}

/// A sequence's positions so far, and where they are cached.
#[derive(Debug)]
pub(super) struct ChunkTable {
    /// Positions so far.
    pub length: usize,
    /// The chunk of each 64 positions from 0 on; what stands for one that was given back is never read.
    pub chunks: Vec<i32>,
    /// The chunks before this one were given back.
    dropped: usize,
}

impl ChunkTable {
    /// An empty table with room for this many positions.
    pub fn new(context: usize) -> ChunkTable {
        ChunkTable { length: 0, chunks: Vec::with_capacity(context.div_ceil(CHUNK)), dropped: 0 }
    }

    /// Chunks that are to be had before there is room for so many positions.
    pub fn missing(&self, positions: usize) -> usize {
        positions.div_ceil(CHUNK).saturating_sub(self.chunks.len())
    }

    /// Takes chunks until there is room for so many positions. Allocates nothing.
    ///
    /// # Errors
    /// How many chunks were missing, when there were not enough; then none is taken.
    pub fn reserve(&mut self, positions: usize, free: &mut FreeChunks) -> Result<(), usize> {
        let missing = self.missing(positions);
        if missing > free.count() {
            return Err(missing);
        }
        let rest = free.count() - missing;
        self.chunks.extend(free.free.drain(rest..).rev());
        Ok(())
    }

    /// Gives back the chunks that no later position sees, each seeing `window`
    /// positions with its own the last.
    pub fn drop_unseen(&mut self, window: usize, free: &mut FreeChunks) {
        let first_seen = (self.length + 1).saturating_sub(window) / CHUNK;
        for chunk in self.dropped..first_seen.min(self.chunks.len()) {
            free.free.push(self.chunks[chunk]);
            self.dropped = chunk + 1;
        }
    }

    /// Gives all chunks back.
    pub fn clear(&mut self, free: &mut FreeChunks) {
        free.free.extend(self.chunks.drain(..).skip(self.dropped));
        (self.length, self.dropped) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_in_order_and_all_come_back() {
        let mut free = FreeChunks::new(4);
        let (mut one, mut two) = (ChunkTable::new(1000), ChunkTable::new(1000));
        one.reserve(1, &mut free).unwrap();
        two.reserve(65, &mut free).unwrap();
        one.reserve(64, &mut free).unwrap();
        assert_eq!((&one.chunks[..], &two.chunks[..], free.count()), (&[0][..], &[1, 2][..], 1));
        assert_eq!(one.reserve(3 * CHUNK, &mut free), Err(2));
        assert_eq!((one.chunks.len(), free.count()), (1, 1), "a refused request takes nothing");
        one.reserve(2 * CHUNK, &mut free).unwrap();
        one.clear(&mut free);
        two.clear(&mut free);
        assert_eq!(free.count(), free.total());
    }

    #[test]
    fn what_no_window_reaches_is_given_back_once() {
        let mut free = FreeChunks::new(10);
        let mut table = ChunkTable::new(1000);
        table.reserve(3 * CHUNK, &mut free).unwrap();
        table.length = CHUNK + 8;
        table.drop_unseen(10, &mut free);
        assert_eq!(free.count(), 7, "the next token, at position 72, sees positions 63 to 72");
        table.length = CHUNK + 9;
        table.drop_unseen(10, &mut free);
        table.drop_unseen(10, &mut free);
        assert_eq!(free.count(), 8);
        table.clear(&mut free);
        assert_eq!(free.count(), 10);
        let mut ids = free.free.clone();
        ids.sort_unstable();
        assert_eq!(ids, (0..10).collect::<Vec<i32>>());
    }
}
