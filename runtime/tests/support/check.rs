//! Native code against the evaluator: many programs compiled in one call of the
//! compiler, each run on ragged batches, in which a sequence must have the same
//! bits as alone. It does not say how programs come about.

use super::programs::{Traits, program};
use super::reference::{Text, parameters, texts, values};
use super::run::{Piece, Rows, Run, same_bits};
use super::serving::add_probes;
use super::update::padding_is_zero;
use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::driver::{CompiledProgram, compile_program_for, objective};
use diptych_codegen::entry::{CompileError, EntryOptions};
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::Objective;
use diptych_passes::differentiate::gradient_name;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{Kernels, ParameterStore, load_kernels};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a check found.
#[derive(Default, Debug)]
pub struct Findings {
    /// Programs that native code and the evaluator agree on.
    pub agreed: usize,
    /// Kernels that were compiled.
    pub kernels: usize,
    /// Seeds whose program the compiler refused, and what it said.
    pub refused: Vec<(u64, String)>,
    /// Seeds whose program the compiler refuses to serve only, and what it said.
    pub unserved: Vec<(u64, String)>,
    /// Seeds whose program computes something else, and what.
    pub wrong: Vec<(u64, String)>,
}

/// What is checked.
#[derive(Clone, Copy)]
pub struct Options {
    /// The vector width.
    pub width: VectorWidth,
    /// Evaluator's steps to spend on each program and entry.
    pub budget: f64,
    /// Whether gradients and the optimiser's step are checked too.
    pub gradients: bool,
    /// Whether prefill and decoding are checked too.
    pub serving: bool,
}

/// A program on its way.
pub struct Case {
    pub(super) seed: u64,
    pub(super) traits: Traits,
    pub(super) program: Program,
    /// What trains: gradients are held against its own.
    training: Program,
    pub(super) tolerance: f64,
    pub(super) compiled: CompiledProgram,
}

/// A way to compile entries of a program.
pub type Compile<'a> = dyn Fn(&[EntryKind], EntryOptions) -> Result<CompiledProgram, CompileError> + 'a;

/// A program to be checked.
pub struct Candidate<'a> {
    /// Of its parameters and texts.
    pub seed: u64,
    /// As it was written, with the roots that are compared.
    pub program: Program,
    /// What is known of it.
    pub traits: Traits,
    /// How far results may be from the evaluator's, of the largest.
    pub tolerance: f64,
    /// The program with gradients that native ones are held against, if not what was compiled.
    pub training: Option<Program>,
    /// Compiles it.
    pub compile: Box<Compile<'a>>,
}

/// Checks the programs of these seeds.
pub fn check(seeds: &[u64], options: Options, compiler: &Compiler, cache: &KernelCache) -> Findings {
    let of_seed = |&seed: &u64| {
        let (program, traits) = program(seed);
        (seed, program, traits)
    };
    check_programs(seeds.iter().map(of_seed), options, compiler, cache)
}

/// Checks programs, each with a seed for its parameters and texts.
pub fn check_programs(
    programs: impl IntoIterator<Item = (u64, Program, Traits)>,
    options: Options,
    compiler: &Compiler,
    cache: &KernelCache,
) -> Findings {
    check_programs_for(programs, options, &objective(), compiler, cache)
}

/// The same, compiled for an objective.
pub fn check_programs_for(
    programs: impl IntoIterator<Item = (u64, Program, Traits)>,
    options: Options,
    objective: &Objective,
    compiler: &Compiler,
    cache: &KernelCache,
) -> Findings {
    let candidates = programs.into_iter().map(|(seed, mut program, traits)| {
        if options.serving {
            add_probes(&mut program);
        }
        let written = program.clone();
        let compile = move |kinds: &[EntryKind], options: EntryOptions| {
            compile_program_for(&written, kinds, &AdamWOptions::default(), options, objective)
        };
        let tolerance = if traits.low_precision { 0.06 } else { 5e-4 };
        Candidate { seed, program, traits, tolerance, training: None, compile: Box::new(compile) }
    });
    check_candidates(candidates, options, compiler, cache)
}

/// Checks programs that are compiled in ways of their own.
pub fn check_candidates<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    options: Options,
    compiler: &Compiler,
    cache: &KernelCache,
) -> Findings {
    let mut findings = Findings::default();
    let mut kinds = vec![EntryKind::Score];
    if options.gradients {
        kinds.extend([EntryKind::Train, EntryKind::Update]);
    }
    let mut cases = Vec::new();
    for Candidate { seed, program, traits, tolerance, training, compile } in candidates {
        // So few rows that the texts take several turns.
        let entry_options = EntryOptions {
            turn_rows: 7,
            ..EntryOptions::new(options.width.panel(), options.width.blocking().rows, 2)
        };
        // If the gradients are refused, the forward pass is looked at all the same.
        let compiled = compile(&kinds, entry_options).or_else(|error| {
            findings.refused.push((seed, error.to_string()));
            compile(&[EntryKind::Score], entry_options)
        });
        let served = compiled.and_then(|compiled| {
            if !options.serving {
                return Ok(compiled);
            }
            let trained: Vec<EntryKind> = compiled.entries.keys().copied().collect();
            let all = [&trained[..], &[EntryKind::Prefill, EntryKind::Decode]].concat();
            compile(&all, entry_options).or_else(|error| {
                findings.unserved.push((seed, error.to_string()));
                Ok(compiled)
            })
        });
        if let Ok(compiled) = served {
            let training = training.unwrap_or_else(|| compiled.program.clone());
            cases.push(Case { seed, traits, program, training, tolerance, compiled });
        }
    }
    let texts = cases.iter().flat_map(|case| case.compiled.entries.values()).flat_map(|entry| &entry.kernels);
    findings.kernels = texts.clone().count();
    let kernels = load_kernels(texts, options.width, options.width.blocking(), compiler, cache, 2)
        .expect("kernels that compile");
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(&mut findings);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let pool = Pool::new(1).expect("a thread");
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = case.check(&kernels, &pool, options);
                    let mut findings = shared.lock().expect("findings");
                    match outcome {
                        Ok(()) => findings.agreed += 1,
                        Err(problem) => findings.wrong.push((case.seed, problem)),
                    }
                }
            });
        }
    });
    findings
}

/// What was found for texts, scored together.
pub struct Scored {
    pub(super) texts: Vec<Text>,
    pub(super) rows: Rows,
}

impl Case {
    fn check(&self, kernels: &Kernels, pool: &Pool, options: Options) -> Result<(), String> {
        let numbers = parameters(&self.program, self.seed);
        let panel = options.width.panel();
        let mut store = ParameterStore::new(&self.compiled.program, &self.compiled.layouts, panel, true)
            .map_err(|error| error.to_string())?;
        for (&name, numbers) in &numbers {
            let numbers: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
            store.set(name, &numbers).map_err(|error| error.to_string())?;
        }
        let found = self.check_score(&numbers, &store, kernels, pool, options)?;
        if self.compiled.entries.contains_key(&EntryKind::Decode) {
            self.check_serving(&found, &numbers, &store, kernels, pool, options)?;
        }
        if self.compiled.entries.contains_key(&EntryKind::Train) {
            self.check_train(&numbers, &store, kernels, pool, options)?;
            self.check_update(&mut store, kernels, pool, options)?;
        }
        Ok(())
    }

    /// Scores texts, and gives back what each text has.
    fn check_score(
        &self,
        numbers: &BTreeMap<Symbol, Vec<f64>>,
        store: &ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<Scored, String> {
        let texts = texts(&self.program, EntryKind::Score, self.seed, options.budget);
        let mut run = Run::new(self, EntryKind::Score, (store, None), kernels, pool, options)?;
        let wanted: Vec<_> =
            texts.iter().map(|text| values(&self.program, EntryKind::Score, numbers, text)).collect();
        let all: Vec<Piece> = texts.iter().map(Piece::whole).collect();
        let together = run.rows(&all, pool)?;
        for (&name, rows) in &together {
            for (rows, (wanted, text)) in rows.iter().zip(wanted.iter().zip(&texts)) {
                let wanted = run.in_rows(name, &wanted[&name]);
                let place = format!("score: {name} of {} positions", text.length);
                compare(&place, rows, &wanted, self.tolerance, 0.0)?;
            }
        }
        let backwards: Vec<Piece> = texts.iter().rev().map(Piece::whole).collect();
        let mixes = [backwards].into_iter().chain(texts.iter().map(|text| vec![Piece::whole(text)]));
        for mix in mixes {
            let found = run.rows(&mix, pool)?;
            for (name, rows) in found {
                for (rows, Piece { text, .. }) in rows.iter().zip(&mix) {
                    let at = texts.iter().position(|other| std::ptr::eq(other, *text)).expect("a text");
                    if !same_bits(rows, &together[&name][at]) {
                        let length = text.length;
                        return Err(format!(
                            "score: the bits of {name} of {length} positions depend on the batch"
                        ));
                    }
                }
            }
        }
        Ok(Scored { texts, rows: together })
    }

    fn check_train(
        &self,
        numbers: &BTreeMap<Symbol, Vec<f64>>,
        store: &ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<(), String> {
        let graph = &self.training;
        let texts = texts(graph, EntryKind::Train, self.seed + 1, options.budget);
        let mut run = Run::new(self, EntryKind::Train, (store, None), kernels, pool, options)?;
        let mut wanted: BTreeMap<Symbol, Vec<f64>> = BTreeMap::new();
        for text in &texts {
            let found = values(graph, EntryKind::Train, numbers, text);
            for (&name, info) in &graph.params {
                let Some(value) = found.get(&gradient_name(name)) else { continue };
                let value = value.in_order(&info.order);
                let sum = wanted.entry(name).or_insert_with(|| vec![0.0; value.len()]);
                sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += x);
            }
        }
        run.rows(&texts.iter().map(Piece::whole).collect::<Vec<_>>(), pool)?;
        padding_is_zero(store, options.width.panel()).map_err(|problem| format!("train: {problem}"))?;
        let largest = wanted.values().flatten().fold(0.0_f64, |most, x| most.max(x.abs()));
        for (name, wanted) in wanted {
            let found = store.get(gradient_name(name)).map_err(|error| error.to_string())?;
            compare(
                &format!("train: gradient of {name}"),
                &found,
                &wanted,
                self.tolerance * 2.0,
                largest * 5e-2,
            )?;
        }
        Ok(())
    }
}

/// Whether numbers are those that are wanted, up to `tolerance` of the largest of them or of `floor`.
///
/// # Errors
/// Which is not.
pub fn compare(place: &str, found: &[f32], wanted: &[f64], tolerance: f64, floor: f64) -> Result<(), String> {
    if found.len() != wanted.len() {
        return Err(format!("{place}: {} numbers instead of {}", found.len(), wanted.len()));
    }
    let scale = wanted.iter().fold(floor.max(0.05), |most: f64, x| most.max(x.abs()));
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (f64::from(found) - wanted).abs();
        // Written so that what is no number fails.
        if error.is_nan() || error > tolerance * scale {
            return Err(format!("{place}: [{at}] is {found}, not {wanted} (largest {scale})"));
        }
    }
    Ok(())
}
