//! Graph to graph: differentiation, algebra, layout, fusion and planning.

pub mod fuse;
pub mod layout;
pub mod normalize;
