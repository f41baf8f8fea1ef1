//! Tile programs, the lowering of fused groups to them, and the C writer.

pub mod c;
mod condense;
pub mod driver;
pub mod entry;
pub mod family;
pub mod lower;
mod rewriting;
pub mod stages;
pub mod tile;
pub mod within;
