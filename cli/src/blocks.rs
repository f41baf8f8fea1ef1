//! In which numbers each weight is held, as the user asked: blocks, or narrow ones. It reads no weights.

use crate::arguments::Hold;
use crate::failure::{Failure, Result};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{Axis, DType, Program, Symbol};
use diptych_models::{Checkpoint, Held};
use diptych_passes::{narrow_weights, weight_blocks};
use std::collections::{BTreeMap, BTreeSet};

/// What was chosen.
pub struct Chosen {
    /// The format of each parameter that is held in blocks.
    pub formats: BTreeMap<Symbol, BlockFormat>,
    /// Those whose blocks are the file's.
    pub stored: BTreeSet<Symbol>,
    /// The type of each parameter that is held in a narrow one.
    pub types: BTreeMap<Symbol, DType>,
    /// Why other matrices are in f32, or not as in the file.
    notes: Vec<(Symbol, String)>,
}

/// What is known of a matrix.
enum Found {
    Blocks(BlockFormat),
    /// Those of the file.
    Stored(BlockFormat),
    /// Those of the file could not be taken.
    Rounded(BlockFormat, String),
    Narrow(DType),
    Plain(String),
}

/// Chooses formats.
///
/// # Errors
/// When nothing is held otherwise than in f32 then.
pub fn choose(program: &Program, hold: Hold, file: Option<&Checkpoint>) -> Result<Chosen> {
    let mut chosen = Chosen {
        formats: BTreeMap::new(),
        stored: BTreeSet::new(),
        types: BTreeMap::new(),
        notes: Vec::new(),
    };
    let narrow = narrow_weights::candidates(program);
    for (name, along) in weight_blocks::candidates(program) {
        let narrow =
            narrow.get(&name).cloned().unwrap_or_else(|| Err("it is computed in another type".to_owned()));
        let of_type = |dtype: DType| match narrow.clone() {
            Ok(()) => Found::Narrow(dtype),
            Err(problem) => Found::Plain(problem),
        };
        let found = match (along, hold) {
            (_, Hold::F16) => of_type(DType::F16),
            (_, Hold::Bf16) => of_type(DType::BF16),
            (along, Hold::Stored) => match stored(name, along, file)? {
                Found::Narrow(dtype) => of_type(dtype),
                found => found,
            },
            (Err(problem), _) => Found::Plain(problem),
            (Ok(_), Hold::F32) => Found::Plain("it is held in f32".to_owned()),
            (Ok(_), Hold::Q8) => Found::Blocks(BlockFormat::Q8_0),
            (Ok(_), Hold::Q4) if program.params[&name].layers.is_some() => Found::Blocks(BlockFormat::Q4_1),
            (Ok(_), Hold::Q4) => Found::Blocks(BlockFormat::Q8_0),
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
            Found::Narrow(dtype) => _ = chosen.types.insert(name, dtype),
            Found::Plain(problem) => chosen.notes.push((name, format!("f32: {problem}"))),
        }
    }
    match chosen.formats.is_empty() && chosen.types.is_empty() {
        true => Err(Failure(format!("no weight can be held so\n{}", chosen.text()))),
        false => Ok(chosen),
    }
}

/// As the file has it, where blocks would lie along these axes, or cannot for this reason.
fn stored(
    name: Symbol,
    along: std::result::Result<Vec<Axis>, String>,
    file: Option<&Checkpoint>,
) -> Result<Found> {
    let Some(file) = file else { return Ok(Found::Plain("the run holds it in f32".to_owned())) };
    let axes = along.as_deref().unwrap_or_default();
    Ok(match (file.held(name.as_str(), axes)?, along) {
        (Held::Plain(DType::F32), _) => {
            Found::Plain("the file does not hold all of it in one narrower type".to_owned())
        }
        (Held::Plain(dtype), _) => Found::Narrow(dtype),
        (_, Err(problem)) => Found::Plain(problem),
        (Held::Blocks(format), Ok(_)) => Found::Stored(format),
        (Held::Otherwise, Ok(_)) => {
            Found::Plain("the file holds it in blocks along other axes, or in part".to_owned())
        }
        // A stack is computed by one kernel, in one format.
        (Held::Mixed(formats), Ok(_)) => {
            let formats: Vec<&str> = formats.into_iter().map(BlockFormat::name).collect();
            let note = format!("rounded anew, since the file's layers are in {}", formats.join(" and "));
            Found::Rounded(BlockFormat::Q8_0, note)
        }
    })
}

impl Chosen {
    /// For people: which weights are in each format, and what is not as one might expect.
    pub fn text(&self) -> String {
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let formats = self.formats.iter().map(|(name, format)| (format.name(), name));
        for (format, name) in formats.chain(self.types.iter().map(|(name, dtype)| (dtype.name(), name))) {
            names.entry(format).or_default().push(name.as_str());
        }
        let rows = names.iter().map(|(format, names)| format!("weights in {format}: {}", names.join(", ")));
        let notes = self.notes.iter().map(|(name, note)| format!("`{name}` stays {note}"));
        rows.chain(notes).collect::<Vec<_>>().join("\n")
    }
}
