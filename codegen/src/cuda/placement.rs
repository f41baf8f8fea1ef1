//! Where the tiles of a kernel lie: in shared memory as long as there is room, what fits nowhere else in memory of the
//! block's own. It writes no text.

use super::Architecture;
use super::fragments::Fragments;
use super::lifetimes::{Lifetime, lifetimes};
use crate::tile::{Base, TileProgram};
use diptych_ir::DType;

/// Tiles begin at multiples of this many bytes.
pub(super) const ALIGNMENT: usize = 128;

/// Shared memory that functions of the prelude have for themselves. What is dynamic begins at the next multiple of so
/// much.
const RESERVED: usize = 1024;

/// Where a tile lies, in bytes from the start of that memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// In shared memory.
    Shared(usize),
    /// In memory of the block's own in the device's memory.
    Scratch(usize),
    /// In the registers of the warpgroup that works on it.
    Registers,
    /// Nowhere: nothing looks at it.
    Nowhere,
}

/// Where all tiles lie, and what that takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placement {
    pub(super) tiles: Vec<Room>,
    /// The size of each tile.
    pub(super) bytes: Vec<usize>,
    /// Shared memory in all.
    pub(super) shared_bytes: usize,
    /// Other memory of each block.
    pub(super) scratch_bytes: usize,
}

/// The type in which elements of a tile are stored. What is rounded to two bytes lies in two; all else takes four.
pub(super) fn element(program: &TileProgram, tile: usize) -> DType {
    match program.tiles[tile].values {
        narrow @ (DType::BF16 | DType::F16) => narrow,
        DType::I32 => DType::I32,
        DType::F32 | DType::I8 | DType::Bool => DType::F32,
    }
}

impl Placement {
    /// Places the tiles of a program behind `staged` bytes of shared memory. Tiles that are not needed at the same
    /// time share their place. While not all fit, the largest goes out: it is the one that is passed over least often
    /// for its size.
    pub(super) fn of(
        program: &TileProgram,
        architecture: Architecture,
        staged: usize,
        fragments: &Fragments,
    ) -> Placement {
        let lives = lifetimes(program);
        let size = |tile: usize| {
            let bytes = program.tiles[tile].elements * element(program, tile).bytes();
            bytes.next_multiple_of(ALIGNMENT)
        };
        let bytes: Vec<usize> = (0..program.tiles.len()).map(size).collect();
        let mut tiles = vec![Room::Nowhere; bytes.len()];
        let in_registers = |tile: usize| fragments.get(Base::Tile(tile)).is_some();
        let (held, mut inside): (Vec<usize>, Vec<usize>) =
            (0..bytes.len()).filter(|&tile| lives[tile].is_some()).partition(|&tile| in_registers(tile));
        held.into_iter().for_each(|tile| tiles[tile] = Room::Registers);
        inside.sort_by_key(|&tile| std::cmp::Reverse(bytes[tile]));
        let start = staged.next_multiple_of(ALIGNMENT);
        let mut scratch_bytes = 0;
        let shared_bytes = loop {
            // The largest first, or those that are needed first: what follows one another then takes turns.
            let mut in_time = inside.clone();
            in_time.sort_by_key(|&tile| lives[tile]);
            let [one, other] = [&inside, &in_time].map(|order| packed(order, &bytes, &lives, start));
            let (order, (offsets, end)) = if other.1 < one.1 { (&in_time, other) } else { (&inside, one) };
            if end + RESERVED <= architecture.shared_bytes() || inside.is_empty() {
                order.iter().zip(offsets).for_each(|(&tile, offset)| tiles[tile] = Room::Shared(offset));
                break end;
            }
            let largest = inside.remove(0);
            tiles[largest] = Room::Scratch(scratch_bytes);
            scratch_bytes += bytes[largest];
        };
        Placement { tiles, bytes, shared_bytes, scratch_bytes: scratch_bytes.next_multiple_of(256) }
    }

    /// Whether two bases may be the same memory.
    pub(super) fn meet(&self, one: Base, other: Base) -> bool {
        let (Base::Tile(a), Base::Tile(b)) = (one, other) else { return one == other };
        match (self.tiles[a], self.tiles[b]) {
            // Each thread looks at its own.
            (Room::Registers, _) | (_, Room::Registers) => false,
            _ if a == b => true,
            (Room::Shared(x), Room::Shared(y)) => x < y + self.bytes[b] && y < x + self.bytes[a],
            _ => false,
        }
    }
}

/// Where tiles begin if each is put at the first place where it meets none that lives at the same time, and the end.
fn packed(tiles: &[usize], bytes: &[usize], lives: &[Option<Lifetime>], start: usize) -> (Vec<usize>, usize) {
    let mut placed: Vec<(usize, usize)> = Vec::new();
    let mut end = start;
    for &tile in tiles {
        let together = |other: usize| match (lives[tile], lives[other]) {
            (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
            _ => false,
        };
        let mut others: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(other, _)| together(*other))
            .map(|&(other, offset)| (offset, offset + bytes[other]))
            .collect();
        others.sort_unstable();
        let mut offset = start;
        for (first, last) in others {
            if offset + bytes[tile] <= first {
                break;
            }
            offset = offset.max(last);
        }
        placed.push((tile, offset));
        end = end.max(offset + bytes[tile]);
    }
    (placed.into_iter().map(|(_, offset)| offset).collect(), end)
}
