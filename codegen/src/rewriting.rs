//! Choosing the form of a program: those that the algebra finds are compared, by the additive model or once they are
//! fused and scheduled, and kept in order, so that the next can take the place of one that a pass refuses.

use crate::driver::{CompiledProgram, compile_chosen};
use crate::entry::{CompileError, EntryOptions};
use crate::stages::{Laps, Stages, lap_of_algebra};
use diptych_ir::{EntryKind, Program, verify};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{
    AlgebraReport, Binding, Form, Numerics, Objective, Part, additive_seconds, forms,
};
use diptych_passes::caches::CacheFormat;
use std::collections::HashMap;

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

impl Default for Rewriting<'_> {
    /// All entries alike, by the additive model.
    fn default() -> Self {
        Rewriting { algebra: true, objective: objective(), numerics: Numerics::Same, seconds: None }
    }
}

/// A form that may be compiled.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The form.
    pub form: Form,
    /// What its backward pass is rewritten for; it is left as it comes out if there is nothing.
    pub backward: Option<Objective>,
    /// Seconds of a run of each binding of the objective after fusion, if that was asked.
    pub fused: Option<Vec<f64>>,
}

impl Candidate {
    /// What its caches keep.
    pub fn keeps(&self) -> &[String] {
        &self.form.keeps
    }

    /// Whether all entries have it, with the same bits.
    pub fn is_shared(&self) -> bool {
        self.form.is_shared()
    }

    /// Seconds of a run of each binding, by the best model there is.
    pub fn seconds(&self) -> &[f64] {
        self.fused.as_ref().unwrap_or(&self.form.seconds)
    }
}

/// A form that could not be compiled, or would not do.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What its caches keep.
    pub keeps: Vec<String>,
    /// Whether all entries have it, with the same bits.
    pub shared: bool,
    /// Which op was refused, and why.
    pub problem: String,
    /// Whether that is of its rewritten backward pass alone, and it was compiled without.
    pub backward: bool,
}

impl Refused {
    fn new(form: &Form, problem: String) -> Refused {
        Refused { keeps: form.keeps.clone(), shared: form.is_shared(), problem, backward: false }
    }
}

/// A program as the algebra has left it, still to be differentiated and compiled.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// At least one: the chosen one first, then what is compiled if that cannot be.
    candidates: Vec<Candidate>,
    /// The forms that could not be compiled, and so were not compared.
    pub refused: Vec<Refused>,
    /// In which numbers caches keep what they keep, if not as the model says.
    caches: Option<CacheFormat>,
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

impl Rewritten {
    /// A form that was chosen otherwise than by [`rewrite`]: its backward pass, too, is rewritten for this objective,
    /// or left as it comes out if there is none.
    pub fn of_form(form: Form, backward: Option<Objective>) -> Rewritten {
        let candidates = vec![Candidate { form, backward, fused: None }];
        Rewritten { candidates, refused: Vec::new(), caches: None, stages: Vec::new() }
    }

    /// The same, with caches that keep numbers in this format; as the model says, without one. The form is the one that
    /// was chosen without.
    pub fn with_caches(self, caches: Option<CacheFormat>) -> Rewritten {
        Rewritten { caches, ..self }
    }

    /// In which numbers caches keep what they keep, if not as the model says.
    pub(crate) fn caches(&self) -> Option<CacheFormat> {
        self.caches
    }

    /// The forms that were compared, the best first: that is the chosen one.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The chosen one.
    pub(crate) fn chosen(&self) -> &Candidate {
        &self.candidates[0]
    }

    /// The program of training, and of all entries that have its form.
    pub fn program(&self) -> &Program {
        &self.parts()[0].program
    }

    /// What entries are compiled from, after the algebra and before differentiation: that of training first.
    pub fn parts(&self) -> &[Part] {
        &self.chosen().form.parts
    }

    /// What the caches of the chosen form keep.
    pub fn keeps(&self) -> &[String] {
        self.chosen().keeps()
    }

    /// Seconds of each stage so far, in order.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// The same with those forms alone that give all entries the same bits.
    ///
    /// # Errors
    /// When none of them will do: why the first does not.
    pub fn with_same_bits(&self) -> Result<Rewritten, CompileError> {
        let mut same = self.clone();
        same.candidates.retain(Candidate::is_shared);
        same.refused.retain(|refused| refused.shared);
        match same.refused.first() {
            Some(first) if same.candidates.is_empty() => Err(CompileError::Unfit(first.problem.clone())),
            _ => Ok(same),
        }
    }

    /// What becomes of the best form that no pass refuses for these entries; if all are refused, why the best one was. If
    /// they train, each is tried first with its rewritten backward pass and then without.
    pub(crate) fn first_of_forms<T, E: Refusal>(
        &self,
        kinds: &[EntryKind],
        compile: impl Fn(&Rewritten) -> Result<T, E>,
    ) -> Result<T, E> {
        let (mut left, mut first, mut retried) = (self.clone(), None, false);
        loop {
            let error = match compile(&left) {
                Err(error) if error.refused().is_some() => error,
                done => return done,
            };
            let problem = error.refused().map(ToString::to_string).unwrap_or_default();
            let trains = kinds.iter().copied().any(EntryKind::trains);
            if left.candidates[0].backward.take().is_some() && trains {
                // Until it is known whether the rest of it will do.
                let refused = Refused::new(&left.candidates[0].form, problem);
                left.refused.push(Refused { backward: true, ..refused });
                retried = true;
            } else {
                if std::mem::take(&mut retried) {
                    left.refused.pop();
                }
                let refused = left.candidates.remove(0);
                left.refused.push(Refused::new(&refused.form, problem));
            }
            let error = first.unwrap_or(error);
            if left.candidates.is_empty() {
                return Err(error);
            }
            first = Some(error);
        }
    }
}

/// Of the forms that are compared once they are fused, so many of each kind (shared by all entries, or one for each) are
/// so with their backward passes rewritten, too: that takes longer than all else, and brings much the same in each.
const FINALISTS: usize = 2;

/// What a form must save, by the additive model alone, to be taken instead of the program as it is written: the model
/// knows nothing of fusion, so less says nothing.
const WORTH_REWRITING: f64 = 0.02;

/// Rows of a block, and threads, for which forms are compared, whatever those of the machine at hand: bits depend on the
/// form, and neither a search of blocks nor `--threads` may choose it.
const REFERENCE: (usize, usize) = (144, 2);

/// Compares forms once they are fused, each of them once.
pub struct Judge<'a> {
    bindings: Vec<Binding>,
    seconds: &'a SecondsOfRun<'a>,
    options: EntryOptions,
    known: HashMap<(Vec<String>, bool), Result<Vec<f64>, String>>,
}

impl<'a> Judge<'a> {
    /// A judge of what these bindings take in panels of such a width.
    pub fn new(bindings: &[Binding], seconds: &'a SecondsOfRun<'a>, panel: usize) -> Judge<'a> {
        let options = EntryOptions::new(panel, REFERENCE.0, REFERENCE.1);
        Judge { bindings: bindings.to_vec(), seconds, options, known: HashMap::new() }
    }

    /// Seconds of a run of each binding.
    ///
    /// # Errors
    /// Why the form cannot be compiled, or will not do.
    fn seconds(&mut self, form: &Form, backward: Option<&Objective>) -> Result<Vec<f64>, String> {
        let key = (form.printed(), backward.is_some());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found = self.compiled_seconds(form, backward);
        self.known.insert(key, found.clone());
        found
    }

    fn compiled_seconds(&self, form: &Form, backward: Option<&Objective>) -> Result<Vec<f64>, String> {
        let rewritten = Rewritten::of_form(form.clone(), backward.cloned());
        let kinds: Vec<EntryKind> = self.bindings.iter().map(|binding| binding.entry).collect();
        let compiled = compile_chosen(&rewritten, &kinds, &AdamWOptions::default(), self.options);
        let compiled = compiled.map_err(|error| error.to_string())?;
        self.bindings.iter().map(|binding| (self.seconds)(&compiled, binding)).collect()
    }
}

impl Judge<'_> {
    /// The forms that will do, the best for an objective of the same bindings first, and those that will not.
    pub fn compare(
        &mut self,
        found: Vec<Candidate>,
        objective: &Objective,
    ) -> (Vec<Candidate>, Vec<Refused>) {
        let (mut candidates, mut refused) = (Vec::new(), Vec::new());
        for mut candidate in found {
            match self.seconds(&candidate.form, None) {
                Ok(seconds) => {
                    candidate.fused = Some(seconds);
                    candidates.push(candidate);
                }
                Err(problem) => refused.push(Refused::new(&candidate.form, problem)),
            }
        }
        let total = |seconds: &[f64]| objective.total(seconds);
        let order = |a: &Candidate, b: &Candidate| total(a.seconds()).total_cmp(&total(b.seconds()));
        candidates.sort_by(order);
        let mut finalists = [FINALISTS; 2];
        for candidate in &mut candidates {
            let Some(backward) = candidate.backward.as_ref() else { continue };
            let left = &mut finalists[usize::from(candidate.is_shared())];
            let known = self.known.contains_key(&(candidate.form.printed(), true));
            if *left == 0 && !known {
                candidate.backward = None;
                continue;
            }
            *left = left.saturating_sub(1);
            match self.seconds(&candidate.form, Some(backward)) {
                Ok(seconds) if total(&seconds) <= total(candidate.seconds()) => {
                    candidate.fused = Some(seconds)
                }
                _ => candidate.backward = None,
            }
        }
        candidates.sort_by(order);
        (candidates, refused)
    }
}

/// The forms of a program that may be the best for an objective, its backward pass to be rewritten for `backward`: those
/// that the algebra finds, and the program as it is written, since what is best in the additive model may be worse
/// after fusion than nothing at all.
pub fn candidates(forms: Vec<Form>, written: &Form, backward: &Objective) -> Vec<Candidate> {
    let candidate = |form| Candidate { form, backward: Some(backward.clone()), fused: None };
    forms.into_iter().chain([written.clone()]).map(candidate).collect()
}

/// Chooses the form of a program. Where the cost after fusion is asked for, a form that cannot be compiled for all entries
/// of the objective, or will not do, is dropped. By the additive model alone nothing is compiled here: then
/// [`compile_rewritten`](crate::driver::compile_rewritten) drops what it cannot compile. Of the options only the panel has
/// a say: a form depends on no machine.
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
    if program.params.values().any(|info| info.is_for_serving()) {
        // What is held in fewer bytes cannot be folded, merged or absorbed: its numbers are what they are. Nor is it trained.
        let mut serving = objective.clone();
        serving.bindings.retain(|binding| !binding.entry.trains());
        let form = as_written(program, &serving)?;
        return Ok(Rewritten {
            candidates: vec![Candidate { form, backward: None, fused: None }],
            refused: Vec::new(),
            caches: None,
            stages,
        });
    }
    let written = as_written(program, objective)?;
    let mut found = vec![Candidate { form: written.clone(), backward: None, fused: None }];
    if rewriting.algebra {
        let forms = forms(program, objective, rewriting.numerics)?;
        lap_of_algebra(&mut laps, "algebra", &forms.seconds);
        found = candidates(forms.forms, &written, objective);
    }
    laps.lap("algebra");
    let mut refused = Vec::new();
    if let Some(seconds) = rewriting.seconds {
        let mut judge = Judge::new(&objective.bindings, seconds, options.panel);
        (found, refused) = judge.compare(found, objective);
        laps.lap("comparison of forms");
    } else {
        let total = |candidate: &Candidate| objective.total(&candidate.form.seconds);
        if let [best, .., written] = &found[..]
            && total(best) > (1.0 - WORTH_REWRITING) * total(written)
        {
            found.insert(0, written.clone());
        }
        if let Some(written) = found.last_mut() {
            // Nothing else is sure to be compiled as it is.
            written.backward = None;
        }
    }
    match refused.first() {
        Some(first) if found.is_empty() => Err(CompileError::Unfit(first.problem.clone())),
        _ => Ok(Rewritten { candidates: found, refused, caches: None, stages }),
    }
}

/// Chooses the form of a program that [`compile_program`](crate::driver::compile_program) compiles.
///
/// # Errors
/// When the program is malformed.
pub fn rewrite_by_default(program: &Program, options: EntryOptions) -> Result<Rewritten, CompileError> {
    rewrite(program, &Rewriting::default(), options)
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
