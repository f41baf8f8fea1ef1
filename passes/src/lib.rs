//! Graph to graph: differentiation, algebra, layout, fusion and planning.
