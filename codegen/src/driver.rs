//! The way of a program through all passes, to compiled entries. Every stage is
//! timed, so that compile time has owners. It touches no file and no device.

use crate::entry::{CompileError, CompiledEntry, EntryOptions, compile_entry_timed};
use crate::stages::{Laps, Stages};
use diptych_ir::{EntryKind, Program, verify};
use diptych_passes::algebra::{
    AlgebraReport, Binding, Form, Numerics, Objective, Part, RegionSeconds, additive_seconds, forms,
    optimize_backward,
};
use diptych_passes::fuse::StreamedAxes;
use diptych_passes::layout::Layouts;
use diptych_passes::normalize::{divide_after_sums, normalize};
use diptych_passes::rematerialize::{InBody, rematerialize};
use diptych_passes::{AdamWOptions, add_accumulate, add_adamw, differentiate, simplify};
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
    /// What equality saturation found: in the forward program, and in what only training uses. Empty if there was none.
    pub algebra: Vec<AlgebraReport>,
    /// What the caches keep, for people to read.
    pub keeps: Vec<String>,
    /// The forms that would have been better but could not be compiled.
    pub refused: Vec<Refused>,
    /// Seconds of each stage, in order.
    pub stages: Stages,
}

impl CompiledProgram {
    /// The program that an entry was compiled from.
    pub fn program_of(&self, kind: EntryKind) -> &Program {
        self.own.get(&kind).unwrap_or(&self.program)
    }
}

/// What the algebra weighs where nothing else is asked for: a desktop processor's
/// two cores, as much training as serving.
pub fn objective() -> Objective {
    Objective::typical(200e9, 25e9, 1.0, 1.0)
}

/// Seconds of a run of a binding, of a compiled program, or why that program will not do.
pub type SecondsOfRun<'a> = dyn Fn(&CompiledProgram, &Binding) -> Result<f64, String> + 'a;

/// How a program may be rewritten before it is compiled.
pub struct Rewriting<'a> {
    /// Whether it may be at all.
    pub algebra: bool,
    /// What is to be made small.
    pub objective: Objective,
    /// How far entries may differ.
    pub numerics: Numerics,
    /// Seconds of a run of a binding, of a compiled program: what picks among forms once they are fused. Without it
    /// the additive model does.
    pub seconds: Option<&'a SecondsOfRun<'a>>,
}

impl Rewritten {
    /// A form that was chosen otherwise than by [`rewrite`]: its backward pass, too, is rewritten for this objective,
    /// or left as it comes out if there is none.
    pub fn of_form(form: Form, objective: Option<Objective>) -> Rewritten {
        let (others, compared, refused, stages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Rewritten { form, objective, others, compared, refused, stages }
    }

    /// The program of training, and of all entries that have its form.
    pub fn program(&self) -> &Program {
        &self.form.parts[0].program
    }

    /// What entries are compiled from, after the algebra and before differentiation: that of training first.
    pub fn parts(&self) -> &[Part] {
        &self.form.parts
    }

    /// What the caches of the chosen form keep.
    pub fn keeps(&self) -> &[String] {
        &self.form.keeps
    }

    /// Seconds of each stage so far, in order.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// What becomes of the best form that no pass refuses; if all are refused, why the best one was.
    pub(crate) fn first_of_forms<T, E: Refusal>(
        &self,
        compile: impl Fn(&Rewritten) -> Result<T, E>,
    ) -> Result<T, E> {
        let first = match compile(self) {
            Err(error) if error.refused().is_some() => error,
            done => return done,
        };
        let mut other = self.clone();
        other.refused.extend(first.refused().map(|error| Refused::new(&self.form, error)));
        for (form, backward) in &self.others {
            (other.form, other.objective) = (form.clone(), backward.clone());
            match compile(&other) {
                Err(error) => match error.refused() {
                    Some(refused) => other.refused.push(Refused::new(form, refused)),
                    None => return Err(error),
                },
                done => return done,
            }
        }
        Err(first)
    }
}

impl Default for Rewriting<'_> {
    /// All entries alike, by the additive model.
    fn default() -> Self {
        Rewriting { algebra: true, objective: objective(), numerics: Numerics::Same, seconds: None }
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

/// Chooses the form of a program that [`compile_program`] compiles.
///
/// # Errors
/// When the program is malformed.
pub fn rewrite_by_default(program: &Program, options: EntryOptions) -> Result<Rewritten, CompileError> {
    rewrite(program, &Rewriting::default(), options)
}

/// A program as the algebra has left it, still to be differentiated and compiled.
#[derive(Clone, Debug)]
pub struct Rewritten {
    form: Form,
    /// What is to be made small in the backward pass, if that is rewritten, too.
    objective: Option<Objective>,
    /// The other forms, the best first: what is compiled if the chosen one cannot be.
    others: Vec<(Form, Option<Objective>)>,
    /// The forms that were compared, with what each costs over the model's life, the chosen one first.
    pub compared: Vec<Compared>,
    /// The forms that could not be compiled, and so were not compared.
    pub refused: Vec<Refused>,
    /// Seconds of each stage.
    stages: Stages,
}

/// Errors some of which say that a pass has refused a form, so that another may do.
pub(crate) trait Refusal {
    fn refused(&self) -> Option<&CompileError>;
}

impl Refusal for CompileError {
    fn refused(&self) -> Option<&CompileError> {
        Some(self)
    }
}

/// A form that could not be compiled.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What its caches keep.
    pub keeps: Vec<String>,
    /// Whether all entries have it, with the same bits.
    pub shared: bool,
    /// Which op was refused, and why.
    pub problem: String,
}

impl Refused {
    fn new(form: &Form, error: &CompileError) -> Refused {
        Refused { keeps: form.keeps.clone(), shared: form.is_shared(), problem: error.to_string() }
    }
}

/// A form that was compared.
#[derive(Clone, Debug)]
pub struct Compared {
    /// What its caches keep.
    pub keeps: Vec<String>,
    /// Whether all entries have it, with the same bits.
    pub shared: bool,
    /// Seconds of a run of each binding of the objective, in the additive model.
    pub additive: Vec<f64>,
    /// The same after fusion, if that was asked.
    pub fused: Option<Vec<f64>>,
}

impl Compared {
    /// Seconds of a run of each binding, by the best model there is.
    pub fn seconds(&self) -> &[f64] {
        self.fused.as_ref().unwrap_or(&self.additive)
    }
}

/// Of the forms that are compared once they are fused, so many are so with their backward passes rewritten, too.
const FINALISTS: usize = 3;

/// A form that is compared, and what its backward pass is rewritten for.
type Candidate = (Compared, Form, Option<Objective>);

/// Chooses the form of a program. Where the cost after fusion is asked for, a form that cannot be compiled for all entries
/// of the objective, or will not do, is dropped. By the additive model alone nothing is compiled here: then [`compile_rewritten`]
/// drops what it cannot compile.
///
/// # Errors
/// When the program is malformed, or no form of it can be compiled: why the best could not.
pub fn rewrite(
    program: &Program,
    rewriting: &Rewriting,
    options: EntryOptions,
) -> Result<Rewritten, CompileError> {
    let mut stages = Vec::new();
    let mut laps = Laps::new(&mut stages);
    verify(program)?;
    laps.lap("verify");
    let objective = &rewriting.objective;
    // Each with what its backward pass is rewritten for.
    let mut found: Vec<(Form, Option<Objective>)> = Vec::new();
    if rewriting.algebra {
        let forms = forms(program, objective, rewriting.numerics)?;
        lap_of_algebra(&mut laps, "algebra", &forms.seconds);
        found.extend(forms.forms.into_iter().map(|form| (form, Some(objective.clone()))));
    }
    // What is best in the additive model may be worse after fusion than nothing at all.
    if !rewriting.algebra || rewriting.seconds.is_some() {
        found.push((as_written(program, objective)?, None));
    }
    laps.lap("algebra");
    let kinds: Vec<EntryKind> = objective.bindings.iter().map(|binding| binding.entry).collect();
    let judged = |form: &Form, backward: Option<Objective>, seconds: &SecondsOfRun| {
        let rewritten = Rewritten::of_form(form.clone(), backward);
        let compiled = compile_rewritten(&rewritten, &kinds, &AdamWOptions::default(), options)?;
        let of_run = |binding| seconds(&compiled, binding).map_err(CompileError::Unfit);
        objective.bindings.iter().map(of_run).collect::<Result<Vec<f64>, CompileError>>()
    };
    let (mut candidates, mut refused, mut first_error): (Vec<Candidate>, _, _) =
        (Vec::new(), Vec::new(), None);
    for (form, backward) in found {
        let fused = rewriting.seconds.map(|seconds| judged(&form, None, seconds)).transpose();
        match fused {
            Ok(fused) => {
                let (keeps, shared, additive) = (form.keeps.clone(), form.is_shared(), form.seconds.clone());
                candidates.push((Compared { keeps, shared, additive, fused }, form, backward));
            }
            Err(error) => {
                refused.push(Refused::new(&form, &error));
                first_error.get_or_insert(error);
            }
        }
    }
    let by_total = |a: &Candidate, b: &Candidate| {
        objective.total(a.0.seconds()).total_cmp(&objective.total(b.0.seconds()))
    };
    candidates.sort_by(by_total);
    // Rewriting the backward pass takes longer than all else, and brings much the same in every form.
    if let Some(seconds) = rewriting.seconds {
        for (compared, form, backward) in candidates.iter_mut().take(FINALISTS) {
            match judged(form, backward.clone(), seconds) {
                Ok(fused) => compared.fused = Some(fused),
                Err(_) => *backward = None,
            }
        }
        candidates.sort_by(by_total);
    }
    let (compared, mut forms): (Vec<Compared>, Vec<_>) =
        candidates.into_iter().map(|(compared, form, backward)| (compared, (form, backward))).unzip();
    if rewriting.algebra && rewriting.seconds.is_none() {
        forms.push((as_written(program, objective)?, None));
    }
    laps.lap("comparison of forms");
    let mut forms = forms.into_iter();
    let (form, backward) = match (forms.next(), first_error) {
        (Some(chosen), _) => chosen,
        (None, Some(error)) => return Err(error),
        (None, None) => (as_written(program, objective)?, None),
    };
    Ok(Rewritten { form, objective: backward, others: forms.collect(), compared, refused, stages })
}

/// The form of a program that nothing was done to.
///
/// # Errors
/// When the objective lacks a size, or when the program is malformed.
pub fn as_written(program: &Program, objective: &Objective) -> Result<Form, CompileError> {
    let entries = program.entries.iter().map(|entry| entry.kind).collect();
    let part = Part { entries, program: program.clone(), report: AlgebraReport::default() };
    let mut form = Form { parts: vec![part], keeps: Vec::new(), seconds: Vec::new() };
    form.seconds = additive_seconds(&form, objective)?;
    form.keeps = vec!["what the model says".to_owned()];
    Ok(form)
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
    rewritten.first_of_forms(|rewritten| {
        Passed::through(rewritten, kinds, optimizer)?.compile(kinds, options, &BTreeSet::new())
    })
}

/// A program after the passes that rewrite it, before it is laid out and divided into kernels.
pub(crate) struct Passed {
    /// What is trained, and all entries that share its form, first.
    parts: Vec<PassedPart>,
    layouts: Layouts,
    algebra: Vec<AlgebraReport>,
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
        let mut stages = rewritten.stages.clone();
        let mut laps = Laps::new(&mut stages);
        let form = &rewritten.form;
        let reports = form.parts.iter().map(|part| part.report.clone());
        let mut algebra: Vec<AlgebraReport> = reports.filter(|_| rewritten.objective.is_some()).collect();
        let mut parts: Vec<PassedPart> = Vec::new();
        let mut shared: Option<Layouts> = None;
        for part in &form.parts {
            let training =
                kinds.iter().copied().any(EntryKind::trains) && part.entries.contains(&EntryKind::Train);
            let mut program = divide_after_sums(&part.program)?;
            laps.lap("divisions");
            if training {
                program = differentiate(&program)?;
                laps.lap("differentiate");
                program = add_adamw(&program, optimizer)?;
                laps.lap("optimizer");
            }
            program = simplify(&program)?;
            laps.lap("simplify");
            if let (true, Some(objective)) = (training, &rewritten.objective) {
                let (rewritten, backward) = optimize_backward(&program, objective)?;
                program = rewritten;
                let seconds: Vec<RegionSeconds> = backward.seconds().collect();
                lap_of_algebra(&mut laps, "backward algebra", &seconds);
                algebra.push(backward);
            }
            if training && kinds.contains(&EntryKind::Accumulate) {
                program = add_accumulate(&program)?;
                laps.lap("micro-batches");
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

/// What equality saturation took, region by region.
fn lap_of_algebra(laps: &mut Laps<'_>, name: &str, seconds: &[RegionSeconds]) {
    let of_region = |region: &RegionSeconds| {
        let of = region.name;
        region.seconds.parts().map(move |(part, seconds)| (format!("{name}, {of}: {part}"), seconds))
    };
    let parts: Vec<(String, f64)> = seconds.iter().flat_map(of_region).collect();
    laps.lap_of(parts.iter().map(|part| (part.0.as_str(), part.1)), &format!("{name}, the rest"));
}
