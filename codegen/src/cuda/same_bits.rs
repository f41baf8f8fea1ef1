//! The verifier of same bits: what several entries of a program sum, each sums in one way. It looks at what was
//! decided (tile programs, and how the writer takes them), not at text.

use super::Architecture;
use super::dots::{Arithmetic, arithmetic};
use super::passes::passes;
use crate::entry::{CompiledEntry, Launch};
use crate::identity::Identity;
use crate::lower::Sum;
use crate::tile::{CHUNK, Dim, DimId, Extent, Instr, Nest, Stmt, TileProgram};
use diptych_ir::{EntryKind, ReduceKind, Symbol};
use diptych_passes::layout::Leading;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Two entries sum in different ways what both compute, so that their bits would differ.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{sum}` would have other bits {} than {}: a fault of the compiler, which the model's configuration helps to find",
    .of[1], .of[0]
)]
pub struct SameBitsError {
    /// The contraction or the reduction.
    pub sum: String,
    /// Two kernels that compute it, of two entries or of one.
    pub of: Box<[SummedIn; 2]>,
}

/// Where a sum is computed, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SummedIn {
    /// The entry.
    pub entry: EntryKind,
    /// The kernel.
    pub kernel: String,
    /// What its bits depend on.
    pub way: String,
}

impl std::fmt::Display for SummedIn {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(text, "in `{}` (kernel {}: {})", self.entry.name(), self.kernel, self.way)
    }
}

/// What the bits of a sum depend on, beside what is summed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Way {
    /// A dot.
    Dot { arithmetic: Arithmetic, over: Vec<Summed>, goes_on: bool },
    /// A reduction: the lanes that share it, or one thread.
    Reduce { kind: ReduceKind, lanes: Option<usize>, over: Vec<Summed>, goes_on: bool },
    /// Several in turn.
    Each(Vec<Way>),
}

/// A summed dimension: which axis it is, if a fixed one, and how much of it is summed at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Summed {
    axis: Option<Symbol>,
    span: Span,
}

impl std::fmt::Display for Summed {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.axis {
            Some(axis) => write!(text, "{}={}", axis.as_str(), self.span),
            None => write!(text, "{}", self.span),
        }
    }
}

/// How much of a dimension is summed at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Span {
    /// All.
    Whole(usize),
    /// Blocks of a fixed axis.
    Blocks { size: usize, block: usize },
    /// Blocks of run-time rows.
    Rows { leading: Leading, block: usize },
    /// Blocks of pairs of a row and an id.
    Pairs(usize),
    /// Chunks of a sequence's tokens.
    Time,
    /// Chunks of a sequence's positions so far.
    Past,
    /// Blocks of a value without run-time axes.
    Flat(usize),
    /// One position.
    One,
}

impl Span {
    fn of(extent: Extent) -> Span {
        match extent {
            Extent::Whole(size) => Span::Whole(size),
            Extent::Blocks { size, block } if block >= size => Span::Whole(size),
            Extent::Blocks { size, block } => Span::Blocks { size, block },
            Extent::Rows { leading, block } => Span::Rows { leading, block },
            Extent::Pairs { block, .. } => Span::Pairs(block),
            Extent::Time => Span::Time,
            Extent::Past { .. } => Span::Past,
            Extent::Flat { block } => Span::Flat(block),
            Extent::Choice { .. } | Extent::Sequence | Extent::Position => Span::One,
        }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Span::Whole(size) => write!(text, "{size}"),
            Span::Blocks { size, block } => write!(text, "{size} in blocks of {block}"),
            Span::Rows { leading, block } => write!(text, "rows ({leading:?}) in blocks of {block}"),
            Span::Pairs(block) => write!(text, "pairs in blocks of {block}"),
            Span::Time => write!(text, "tokens in chunks of {CHUNK}"),
            Span::Past => write!(text, "positions in chunks of {CHUNK}"),
            Span::Flat(block) => write!(text, "elements in blocks of {block}"),
            Span::One => write!(text, "one position"),
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spans = |over: &[Summed]| over.iter().map(Summed::to_string).collect::<Vec<_>>().join(" x ");
        let then = |goes_on: bool| if goes_on { ", on from what is there" } else { "" };
        match self {
            Way::Dot { arithmetic: Arithmetic { family, instruction_k, parts }, over, goes_on } => write!(
                text,
                "{family:?} of {instruction_k} k over {}, in {} x {} parts{}",
                spans(over),
                parts[0],
                parts[1],
                then(*goes_on)
            ),
            Way::Reduce { kind, lanes, over, goes_on } => {
                let lanes = lanes.map_or("one thread".to_owned(), |lanes| format!("{lanes} lanes"));
                write!(text, "{kind:?} by {lanes} over {}{}", spans(over), then(*goes_on))
            }
            Way::Each(ways) => {
                write!(text, "{}", ways.iter().map(Way::to_string).collect::<Vec<_>>().join(", then "))
            }
        }
    }
}

/// A sum that was compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// What it is called, for people.
    pub name: String,
    /// Which of the entries compute it, by position.
    pub entries: BTreeSet<usize>,
}

/// Checks that entries that were compiled for an architecture, together or apart, sum in one way what several of them
/// compute: contractions with one family of instructions, one k of an instruction, one number of parts, and the summed
/// dimensions in one order and cut alike; reductions with one number of lanes, and the same of their dimensions. Returns
/// the sums that more entries than one compute.
///
/// # Errors
/// The first sum for which two entries, or two kernels of one, differ.
pub fn verify_same_bits<'a>(
    entries: impl IntoIterator<Item = &'a CompiledEntry>,
    architecture: Architecture,
) -> Result<BTreeMap<Identity, Compared>, SameBitsError> {
    let mut known: HashMap<Identity, Found> = HashMap::new();
    let mut compared: BTreeMap<Identity, Compared> = BTreeMap::new();
    for (position, entry) in entries.into_iter().enumerate() {
        for launch in entry.all_launches() {
            let program = &entry.programs[launch.kernel];
            for (sum, way) in ways(program, launch, architecture) {
                let kernel = entry.kernel_name(launch.kernel);
                let found = Found { entry: entry.kind, kernel, way };
                let first = known.entry(sum.identity).or_insert_with(|| found.clone());
                if first.way != found.way {
                    let of = [&*first, &found].map(|found| SummedIn {
                        entry: found.entry,
                        kernel: found.kernel.to_owned(),
                        way: found.way.to_string(),
                    });
                    return Err(SameBitsError { sum: sum.name.clone(), of: Box::new(of) });
                }
                let new = || Compared { name: sum.name.clone(), entries: BTreeSet::new() };
                compared.entry(sum.identity).or_insert_with(new).entries.insert(position);
            }
        }
    }
    compared.retain(|_, sum| sum.entries.len() > 1);
    Ok(compared)
}

/// How a sum is computed, and where.
#[derive(Clone)]
struct Found<'a> {
    entry: EntryKind,
    kernel: &'a str,
    way: Way,
}

/// How a launch sums what it sums.
fn ways<'l>(program: &TileProgram, launch: &'l Launch, architecture: Architecture) -> Vec<(&'l Sum, Way)> {
    let mut of: Vec<Vec<Way>> = vec![Vec::new(); launch.sums.len()];
    collect(program, &program.body, architecture, &mut |sum, way| of[sum].push(way));
    let all = launch.sums.iter().zip(of).filter(|(_, ways)| !ways.is_empty());
    all.map(|(sum, mut ways)| {
        ways.dedup();
        (sum, if ways.len() == 1 { ways.remove(0) } else { Way::Each(ways) })
    })
    .collect()
}

fn collect(
    program: &TileProgram,
    body: &[Stmt],
    architecture: Architecture,
    found: &mut dyn FnMut(usize, Way),
) {
    let spans = |dims: &[DimId]| -> Vec<Summed> {
        let summed = dims.iter().map(|&dim| {
            let Dim { axis, extent, .. } = program.dims[dim];
            Summed { axis, span: Span::of(extent) }
        });
        summed.filter(|summed| !matches!(summed.span, Span::Whole(1) | Span::One)).collect()
    };
    for stmt in body {
        match stmt {
            Stmt::Dot(dot) => {
                let arithmetic = arithmetic(program, dot, architecture);
                found(dot.sum, Way::Dot { arithmetic, over: spans(&dot.k), goes_on: dot.accumulate });
            }
            Stmt::Nest(nest) => reductions(program, nest, &spans, found),
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => {
                collect(program, body, architecture, found)
            }
            Stmt::When { yes, no, .. } => {
                collect(program, yes, architecture, found);
                collect(program, no, architecture, found);
            }
            _ => {}
        }
    }
}

fn reductions(
    program: &TileProgram,
    nest: &Nest,
    spans: &dyn Fn(&[DimId]) -> Vec<Summed>,
    found: &mut dyn FnMut(usize, Way),
) {
    // What has no passes was refused by the writer.
    let passes = passes(program, nest).unwrap_or_default();
    for (id, instr) in nest.body.iter().enumerate() {
        let Instr::Reduce { kind, fresh, sum, .. } = instr else { continue };
        let Some(pass) = passes.iter().find(|pass| pass.does[id]) else { continue };
        let (kind, over, goes_on) = (*kind, spans(&pass.serial), !fresh);
        found(*sum, Way::Reduce { kind, lanes: pass.lanes(program, nest), over, goes_on });
    }
}
