//! The way of a program through all passes, to compiled entries. Every stage is
//! timed, so that compile time has owners. It touches no file and no device.

use crate::cuda;
use crate::entry::{CompileError, CompiledEntry, EntryOptions, Language, compile_entry_timed};
pub use crate::rewriting::{
    Candidate, Judge, Refused, Rewriting, Rewritten, SecondsOfRun, as_written, candidates, objective,
    rewrite, rewrite_by_default,
};
use crate::stages::{Laps, Stages, lap_of_algebra};
use diptych_ir::{EntryKind, Program, verify};
use diptych_passes::algebra::{AlgebraReport, Objective, Part, RegionSeconds, optimize_backward};
use diptych_passes::caches::keep_in;
use diptych_passes::fuse::StreamedAxes;
use diptych_passes::layout::Layouts;
use diptych_passes::normalize::{divide_after_sums, normalize};
use diptych_passes::rematerialize::{InBody, rematerialize};
use diptych_passes::{
    AdamWOptions, add_accumulate, add_adamw, add_step, differentiate, keep_step_alone, simplify,
};
use std::collections::{BTreeMap, BTreeSet};

/// A program with its compiled entries.
#[derive(Clone, Debug)]
pub struct CompiledProgram {
    /// After all passes: what all entries share or, if each has a form of its own, that of training.
    pub program: Program,
    /// The programs of the entries that have a form of their own.
    pub own: BTreeMap<EntryKind, Program>,
    /// How parameters are stored, the same for all entries.
    pub layouts: Layouts,
    /// The entries.
    pub entries: BTreeMap<EntryKind, CompiledEntry>,
    /// What equality saturation found, where there was any.
    pub algebra: Vec<Rewrote>,
    /// What the caches keep, for people to read.
    pub keeps: Vec<String>,
    /// The forms that would have been better but could not be compiled.
    pub refused: Vec<Refused>,
    /// Seconds of each stage, in order.
    pub stages: Stages,
}

/// What equality saturation did, and to what.
#[derive(Clone, Debug)]
pub struct Rewrote {
    /// The entries, before differentiation.
    pub entries: Vec<EntryKind>,
    /// Whether to what only their gradients use.
    pub backward: bool,
    /// What it did.
    pub report: AlgebraReport,
}

impl CompiledProgram {
    /// The program that an entry was compiled from.
    pub fn program_of(&self, kind: EntryKind) -> &Program {
        self.own.get(&kind).unwrap_or(&self.program)
    }
}

/// Compiles entries of a program; if one of them trains, with gradients and the optimiser.
///
/// # Errors
/// When the program cannot be compiled: which op, and why.
pub fn compile_program(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
) -> Result<CompiledProgram, CompileError> {
    compile_rewritten(&rewrite_by_default(program, options)?, kinds, optimizer, options)
}

/// As [`compile_program`], with an objective of one's own.
///
/// # Errors
/// As said there, and when the objective lacks a size.
pub fn compile_program_for(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
    objective: &Objective,
) -> Result<CompiledProgram, CompileError> {
    let rewriting = Rewriting { objective: objective.clone(), ..Rewriting::default() };
    compile_rewritten(&rewrite(program, &rewriting, options)?, kinds, optimizer, options)
}

/// As [`compile_program`], with every product in the order in which the model has it: no equality saturation.
///
/// # Errors
/// As said there.
pub fn compile_program_plainly(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
) -> Result<CompiledProgram, CompileError> {
    let rewriting = Rewriting { algebra: false, ..Rewriting::default() };
    compile_rewritten(&rewrite(program, &rewriting, options)?, kinds, optimizer, options)
}

/// Compiles entries of a program whose form is chosen; if a pass refuses that form for these entries, the best one that none
/// refuses. (Entries that are compiled apart may then have forms of their own: what must have the same bits is
/// compiled together.)
///
/// # Errors
/// When a pass refuses all forms: which op, and why, of the chosen one.
pub fn compile_rewritten(
    rewritten: &Rewritten,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
) -> Result<CompiledProgram, CompileError> {
    rewritten.first_of_forms(kinds, |rewritten| compile_chosen(rewritten, kinds, optimizer, options))
}

/// Compiles the chosen form, and no other.
pub(crate) fn compile_chosen(
    rewritten: &Rewritten,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
) -> Result<CompiledProgram, CompileError> {
    Passed::through(rewritten, kinds, optimizer)?.compile(kinds, options, &BTreeSet::new())
}

/// A program after the passes that rewrite it, before it is laid out and divided into kernels.
pub(crate) struct Passed {
    /// What is trained, and all entries that share its form, first.
    parts: Vec<PassedPart>,
    layouts: Layouts,
    algebra: Vec<Rewrote>,
    keeps: Vec<String>,
    refused: Vec<Refused>,
    stages: Stages,
}

struct PassedPart {
    program: Program,
    streamed: StreamedAxes,
    layouts: Layouts,
}

impl Passed {
    pub(crate) fn through(
        rewritten: &Rewritten,
        kinds: &[EntryKind],
        optimizer: &AdamWOptions,
    ) -> Result<Passed, CompileError> {
        let mut stages = rewritten.stages().clone();
        let mut laps = Laps::new(&mut stages);
        let Candidate { form, backward, .. } = rewritten.chosen();
        let mut algebra: Vec<Rewrote> = Vec::new();
        let mut rewrote = |part: &Part, backward: bool, report: &AlgebraReport| {
            let (entries, report) = (part.entries.clone(), report.clone());
            algebra.push(Rewrote { entries, backward, report });
        };
        let mut parts: Vec<PassedPart> = Vec::new();
        let mut shared: Option<Layouts> = None;
        for part in &form.parts {
            if !part.report.regions.is_empty() {
                rewrote(part, false, &part.report);
            }
            let training =
                kinds.iter().copied().any(EntryKind::trains) && part.entries.contains(&EntryKind::Train);
            let mut program = divide_after_sums(&part.program)?;
            laps.lap("divisions");
            if let Some(format) = rewritten.caches() {
                program = keep_in(&program, format)?;
                laps.lap("caches");
            }
            if training {
                program = differentiate(&program)?;
                laps.lap("differentiate");
                program = add_adamw(&program, optimizer)?;
                laps.lap("optimizer");
            }
            program = simplify(&program)?;
            laps.lap("simplify");
            if let (true, Some(objective)) = (training, backward) {
                let (rewritten, backward) = optimize_backward(&program, objective)?;
                program = rewritten;
                let seconds: Vec<RegionSeconds> = backward.seconds().collect();
                lap_of_algebra(&mut laps, "backward algebra", &seconds);
                rewrote(part, true, &backward);
            }
            if training && kinds.contains(&EntryKind::Accumulate) {
                program = add_accumulate(&program)?;
                laps.lap("micro-batches");
            }
            if training && kinds.contains(&EntryKind::Step) {
                program = add_step(&program)?;
                let apart = |kind: &EntryKind| kind.trains() && *kind != EntryKind::Step;
                if !kinds.iter().any(apart) {
                    program = keep_step_alone(&program)?;
                }
                laps.lap("one step");
            }
            // What is streamed, and in what order sums over whole weights go, decides bits: they are chosen now, and
            // are the same whatever is computed again, and whether the program is trained or not.
            let layouts = shared.get_or_insert_with(|| Layouts::choose(&program)).alongside(&program);
            laps.lap("layout");
            let streamed = StreamedAxes::of(&normalize(&program, false)?)?;
            laps.lap("long axes");
            if !kinds.iter().copied().any(EntryKind::trains) {
                // Layers may add to the training loss what no other entry should compute.
                program.entries.retain(|entry| !entry.kind.trains());
                program = simplify(&program)?;
                laps.lap("simplify for serving");
            }
            parts.push(PassedPart { program, streamed, layouts });
        }
        let layouts = shared.unwrap_or_default();
        let (keeps, refused) = (form.keeps.clone(), rewritten.refused.clone());
        Ok(Passed { parts, layouts, algebra, keeps, refused, stages })
    }

    /// The program that is trained.
    pub(crate) fn trained(&self) -> &Program {
        &self.parts[0].program
    }

    /// The rest of the way; backward passes compute `recomputed` again.
    pub(crate) fn compile(
        &self,
        kinds: &[EntryKind],
        options: EntryOptions,
        recomputed: &BTreeSet<InBody>,
    ) -> Result<CompiledProgram, CompileError> {
        let mut stages = self.stages.clone();
        let mut laps = Laps::new(&mut stages);
        let program = rematerialize(self.trained(), recomputed)?;
        laps.lap("recomputation");
        verify(&program)?;
        laps.lap("verify");
        let (mut entries, mut own) = (BTreeMap::new(), BTreeMap::new());
        for &kind in kinds {
            let apart = self.parts[1..].iter().find(|part| part.program.entry(kind).is_some());
            let part = apart.unwrap_or(&self.parts[0]);
            let from = apart.map_or(&program, |part| &part.program);
            let (entry, seconds) = compile_entry_timed(from, kind, &part.layouts, &part.streamed, options)?;
            entries.insert(kind, entry);
            own.extend(apart.map(|part| (kind, part.program.clone())));
            let name = |part: &str| format!("{}: {part}", kind.name());
            let parts = seconds.parts().map(|(part, seconds)| (name(part), seconds));
            laps.lap_of(parts.iter().map(|part| (part.0.as_str(), part.1)), &name("normalize"));
        }
        if let Language::Cuda(architecture) = options.language {
            // Entries of one form have the same bits.
            let of_form = |form: &&PassedPart, entry: &&CompiledEntry| match own.contains_key(&entry.kind) {
                true => form.program.entry(entry.kind).is_some(),
                false => std::ptr::eq(*form, &self.parts[0]),
            };
            for form in &self.parts {
                let of_form = entries.values().filter(|entry| of_form(&form, entry));
                cuda::verify_same_bits(of_form, architecture)?;
            }
            laps.lap("same bits");
        }
        Ok(CompiledProgram {
            program,
            own,
            layouts: self.layouts.clone(),
            entries,
            algebra: self.algebra.clone(),
            keeps: self.keeps.clone(),
            refused: self.refused.clone(),
            stages,
        })
    }
}
