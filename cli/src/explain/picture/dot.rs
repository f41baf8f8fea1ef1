//! A drawing in the language of graphviz.

use super::drawn::{Drawing, Kind};
use std::fmt::Write;

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] = [
        Kind::Parameter,
        Kind::Derived,
        Kind::Activation,
        Kind::Contraction,
        Kind::Cache,
        Kind::CacheContraction,
    ];

    /// The colour of its boxes.
    pub fn colour(self) -> &'static str {
        match self {
            Kind::Parameter => "#bfe3c0",
            Kind::Derived => "#e3f0b2",
            Kind::Activation => "#f4f5f7",
            Kind::Contraction => "#bcd7f5",
            Kind::Cache => "#fde3c5",
            Kind::CacheContraction => "#f7b27a",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Parameter => "a parameter",
            Kind::Derived => "computed from parameters alone: once, at load, when serving",
            Kind::Activation => "of the tokens of the run",
            Kind::Contraction => "a contraction (a matrix product) of these",
            Kind::Cache => "over all positions so far",
            Kind::CacheContraction => "a contraction over all positions so far",
        }
    }
}

/// The graph as text. Arrows stand in the order of the boxes that they end in, operands before users.
pub fn dot(drawing: &Drawing) -> String {
    let mut out =
        String::from("digraph {\n  node [shape=box, style=filled, fontname=monospace, fontsize=11]\n");
    for (at, value) in drawing.boxes.iter().enumerate() {
        let label: Vec<String> = value.lines.iter().map(|line| escaped(line)).collect();
        let (label, colour) = (label.join("\\n"), value.kind.colour());
        let width = if value.new { 3 } else { 1 };
        // Writing to a string does not fail.
        let _ = writeln!(out, "  n{at} [label=\"{label}\", fillcolor=\"{colour}\", penwidth={width}]");
    }
    for (from, to) in &drawing.arrows {
        let _ = writeln!(out, "  n{from} -> n{to}");
    }
    out.push_str("}\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
