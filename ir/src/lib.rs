//! The graph: named axes, types, ops, programs of regions, the verifier, the text form and the reference evaluator.
