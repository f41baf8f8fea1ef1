//! Which weights are held in blocks, and in which format, as the user asked. It reads no weights.

use crate::arguments::Hold;
use crate::failure::{Failure, Result};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{Axis, Program, Symbol};
use diptych_models::{Checkpoint, Held};
use diptych_passes::weight_blocks::candidates;
use std::collections::{BTreeMap, BTreeSet};

/// What was chosen.
pub struct Chosen {
    /// The format of each parameter that is held in blocks.
    pub formats: BTreeMap<Symbol, BlockFormat>,
    /// Those whose blocks are the file's.
    pub stored: BTreeSet<Symbol>,
    /// Why other matrices are not in blocks, or not as in the file.
    notes: Vec<(Symbol, String)>,
}

/// What is known of a matrix: the axes along which blocks lie.
enum Found {
    Blocks(BlockFormat),
    /// Those of the file.
    Stored(BlockFormat),
    /// Those of the file could not be taken.
    Rounded(BlockFormat, String),
    Plain(String),
}

/// Chooses formats.
///
/// # Errors
/// When nothing is held in blocks then.
pub fn choose(program: &Program, hold: Hold, file: Option<&Checkpoint>) -> Result<Chosen> {
    let mut chosen = Chosen { formats: BTreeMap::new(), stored: BTreeSet::new(), notes: Vec::new() };
    for (name, along) in candidates(program) {
        let found = match (along, hold) {
            (Err(problem), _) => Found::Plain(problem),
            (Ok(_), Hold::F32) => Found::Plain("it is held in f32".to_owned()),
            (Ok(_), Hold::Q8) => Found::Blocks(BlockFormat::Q8_0),
            (Ok(_), Hold::Q4) if program.params[&name].layers.is_some() => Found::Blocks(BlockFormat::Q4_1),
            (Ok(_), Hold::Q4) => Found::Blocks(BlockFormat::Q8_0),
            (Ok(along), Hold::Stored) => stored(name, &along, file)?,
        };
        match found {
            Found::Blocks(format) => _ = chosen.formats.insert(name, format),
            Found::Stored(format) => {
                chosen.formats.insert(name, format);
                chosen.stored.insert(name);
            }
            Found::Rounded(format, note) => {
                chosen.formats.insert(name, format);
                chosen.notes.push((name, format!("{format}: {note}")));
            }
            Found::Plain(problem) => chosen.notes.push((name, format!("f32: {problem}"))),
        }
    }
    match chosen.formats.is_empty() {
        true => Err(Failure(format!("no weight can be held so\n{}", chosen.text()))),
        false => Ok(chosen),
    }
}

fn stored(name: Symbol, along: &[Axis], file: Option<&Checkpoint>) -> Result<Found> {
    let Some(file) = file else { return Ok(Found::Plain("the run holds it in f32".to_owned())) };
    Ok(match file.held(name.as_str(), along)? {
        Held::Blocks(format) => Found::Stored(format),
        Held::Plain => Found::Plain("the file does not hold it in blocks".to_owned()),
        Held::Otherwise => {
            Found::Plain("the file holds it in blocks along other axes, or in part".to_owned())
        }
        // A stack is computed by one kernel, in one format.
        Held::Mixed(formats) => {
            let formats: Vec<&str> = formats.into_iter().map(BlockFormat::name).collect();
            let note = format!("rounded anew, since the file's layers are in {}", formats.join(" and "));
            Found::Rounded(BlockFormat::Q8_0, note)
        }
    })
}

impl Chosen {
    /// For people: how many numbers are in each format, and what is not as one might expect.
    pub fn text(&self) -> String {
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, format) in &self.formats {
            names.entry(format.name()).or_default().push(name.as_str());
        }
        let rows = names.iter().map(|(format, names)| format!("weights in {format}: {}", names.join(", ")));
        let notes = self.notes.iter().map(|(name, note)| format!("`{name}` stays {note}"));
        rows.chain(notes).collect::<Vec<_>>().join("\n")
    }
}
