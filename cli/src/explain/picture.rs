//! Pictures of what the algebra did: each region that it changed, as the model
//! has it and as it is compiled, side by side on a page.

mod dot;
mod drawn;
mod page;
mod svg;
mod terms;
#[cfg(test)]
mod tests;

use crate::failure::Result;
use crate::output::write_file;
use diptych_codegen::driver::Rewritten;
use diptych_ir::{EntryKind, Program};
use diptych_passes::algebra::{EntryCost, Part};
use drawn::{Source, draw};
use std::collections::BTreeSet;
use std::path::Path;

/// A region before and after.
struct Pair {
    /// The region's name.
    region: String,
    /// The entries that have this form.
    entries: Vec<EntryKind>,
    /// What the region costs them, where the objective says how they run.
    costs: Vec<EntryCost>,
    /// As the model has it, in the language of graphviz.
    before: String,
    /// As it is compiled.
    after: String,
}

/// Draws each region that the algebra changed in what some entries are compiled from. An entry that the program does
/// not have is left out.
fn pairs(program: &Program, parts: &[Part], kinds: &[EntryKind]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for part in parts {
        let entries: Vec<EntryKind> =
            part.entries.iter().copied().filter(|kind| kinds.contains(kind)).collect();
        let (before, after) = (Source::new(program, &entries), Source::new(&part.program, &entries));
        for (index, report) in part.report.regions.iter().enumerate() {
            let drawn = |source| dot::dot(&draw(source, index, &before));
            let (graph_before, graph_after) = (drawn(&before), drawn(&after));
            // What is only written down in another way, such as one number for two that are equal, is the same here.
            if graph_before == graph_after {
                continue;
            }
            pairs.push(Pair {
                region: report.name.to_string(),
                entries: entries.clone(),
                costs: report.costs.iter().filter(|cost| entries.contains(&cost.entry)).copied().collect(),
                before: graph_before,
                after: graph_after,
            });
        }
    }
    pairs
}

/// Writes the pictures into a folder: `index.html`, and each graph as SVG and in the language of graphviz. Returns how
/// many regions there are.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, program: &Program, rewritten: &Rewritten, kinds: &[EntryKind]) -> Result<usize> {
    let pairs = pairs(program, rewritten.parts(), kinds);
    let mut names = BTreeSet::new();
    let mut shown = Vec::new();
    for pair in &pairs {
        let name = file_name(pair, &mut names);
        for (side, graph) in [("before", &pair.before), ("after", &pair.after)] {
            write_file(&folder.join(format!("{name}-{side}.dot")), graph.as_bytes())?;
            write_file(&folder.join(format!("{name}-{side}.svg")), svg::svg(graph)?.as_bytes())?;
        }
        shown.push((name, pair));
    }
    write_file(&folder.join("index.html"), page::html(&program.name, &shown).as_bytes())?;
    Ok(pairs.len())
}

/// What a pair's files begin with: region and entries, and a number where that is taken.
fn file_name(pair: &Pair, taken: &mut BTreeSet<String>) -> String {
    let kinds = pair.entries.iter().map(|kind| kind.name());
    let words: Vec<&str> = std::iter::once(pair.region.as_str()).chain(kinds).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let base: String = words.join("-").chars().map(plain).collect();
    let mut name = base.clone();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}
