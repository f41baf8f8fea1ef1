//! Sums over rows that are one product of stored values walk all rows within the product, not block by block: the result
//! then stays in registers, where it would be written and read again for each block. Its order of terms is the same.

use crate::tile::{Extent, Stmt, TileProgram};

/// As many rows as a sum walks at once: more than memory has room for, and few enough for an `int` to hold twice as many.
/// With more, it would go on from what is stored, as it does from block to block.
const ALL_ROWS: usize = 1 << 29;

/// Lets each stream over rows that holds nothing but a product take all rows at once.
pub(super) fn take_all_rows(program: &mut TileProgram) {
    for stmt in &program.body {
        let Stmt::Stream { dim, body, .. } = stmt else { continue };
        let sums = matches!(&body[..], [Stmt::Dot(dot)] if dot.k == [*dim]);
        let in_tiles = program.tiles.iter().any(|tile| tile.dims.contains(dim));
        if let (true, false, Extent::Rows { block, .. }) = (sums, in_tiles, &mut program.dims[*dim].extent) {
            *block = ALL_ROWS;
        }
    }
}
