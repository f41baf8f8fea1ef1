//! Native code against the evaluator: many programs compiled in one call of the
//! compiler, each run on ragged batches, in which a sequence must have the same
//! bits as alone. It does not say how programs come about.

use super::programs::{CONTEXT, Traits, program};
use super::reference::{Text, parameters, texts, values};
use super::update::padding_is_zero;
use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{EntryOptions, Limits, Role};
use diptych_ir::evaluate::Value;
use diptych_ir::{Axis, DType, EntryKind, Program, Symbol};
use diptych_passes::AdamWOptions;
use diptych_passes::differentiate::gradient_name;
use diptych_passes::layout::Layout;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{
    Binding, Executable, Kernels, ParameterStore, Sequence, SharedMemory, load_kernels,
};
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
}

/// A program on its way.
pub struct Case {
    pub(super) seed: u64,
    traits: Traits,
    program: Program,
    pub(super) compiled: CompiledProgram,
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
    let mut findings = Findings::default();
    let kinds: &[EntryKind] = match options.gradients {
        true => &[EntryKind::Score, EntryKind::Train, EntryKind::Update],
        false => &[EntryKind::Score],
    };
    let mut cases = Vec::new();
    for (seed, program, traits) in programs {
        let entry_options =
            EntryOptions { panel: options.width.panel(), tile_rows: options.width.tile_rows() };
        let compile = |kinds| compile_program(&program, kinds, &AdamWOptions::default(), entry_options);
        // If the gradients are refused, the forward pass is looked at all the same.
        let compiled = compile(kinds).or_else(|error| {
            findings.refused.push((seed, error.to_string()));
            compile(&[EntryKind::Score])
        });
        if let Ok(compiled) = compiled {
            cases.push(Case { seed, traits, program, compiled });
        }
    }
    let texts = cases.iter().flat_map(|case| case.compiled.entries.values()).flat_map(|entry| &entry.kernels);
    findings.kernels = texts.clone().count();
    let kernels = load_kernels(texts, options.width, compiler, cache, 2).expect("kernels that compile");
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

/// The rows of each root in a run, by root and sequence.
type Rows = BTreeMap<Symbol, Vec<Vec<f32>>>;

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
        self.check_score(&numbers, &store, kernels, pool, options)?;
        if self.compiled.entries.contains_key(&EntryKind::Train) {
            self.check_train(&numbers, &store, kernels, pool, options)?;
            self.check_update(&mut store, kernels, pool, options)?;
        }
        Ok(())
    }

    fn tolerance(&self) -> f64 {
        if self.traits.low_precision { 0.06 } else { 5e-4 }
    }

    fn check_score(
        &self,
        numbers: &BTreeMap<Symbol, Vec<f64>>,
        store: &ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<(), String> {
        let texts = texts(&self.program, EntryKind::Score, self.seed, options.budget);
        let mut run = Run::new(self, EntryKind::Score, store, kernels, options)?;
        let wanted: Vec<_> =
            texts.iter().map(|text| values(&self.program, EntryKind::Score, numbers, text)).collect();
        let all: Vec<&Text> = texts.iter().collect();
        let together = run.rows(&all, pool)?;
        for (&name, rows) in &together {
            for (rows, (wanted, text)) in rows.iter().zip(wanted.iter().zip(&texts)) {
                let wanted = run.in_rows(name, &wanted[&name]);
                let place = format!("score: {name} of {} positions", text.length);
                compare(&place, rows, &wanted, self.tolerance(), 0.0)?;
            }
        }
        let backwards: Vec<&Text> = texts.iter().rev().collect();
        let mixes = [backwards].into_iter().chain(texts.iter().map(|text| vec![text]));
        for mix in mixes {
            let found = run.rows(&mix, pool)?;
            for (name, rows) in found {
                for (rows, text) in rows.iter().zip(&mix) {
                    let at = texts.iter().position(|other| std::ptr::eq(other, *text)).expect("a text");
                    let same = rows.iter().zip(&together[&name][at]).all(|(a, b)| a.to_bits() == b.to_bits());
                    if !same {
                        let length = text.length;
                        return Err(format!(
                            "score: the bits of {name} of {length} positions depend on the batch"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_train(
        &self,
        numbers: &BTreeMap<Symbol, Vec<f64>>,
        store: &ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<(), String> {
        let graph = &self.compiled.program;
        let texts = texts(graph, EntryKind::Train, self.seed + 1, options.budget);
        let mut run = Run::new(self, EntryKind::Train, store, kernels, options)?;
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
        run.rows(&texts.iter().collect::<Vec<_>>(), pool)?;
        padding_is_zero(store, options.width.panel()).map_err(|problem| format!("train: {problem}"))?;
        let largest = wanted.values().flatten().fold(0.0_f64, |most, x| most.max(x.abs()));
        for (name, wanted) in wanted {
            let found = store.get(gradient_name(name)).map_err(|error| error.to_string())?;
            compare(
                &format!("train: gradient of {name}"),
                &found,
                &wanted,
                self.tolerance() * 2.0,
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

/// An entry that is run on texts.
struct Run<'a> {
    case: &'a Case,
    executable: Executable,
    binding: Binding,
    roots: Vec<(Symbol, Layout)>,
    kind: EntryKind,
    panel: usize,
}

impl Run<'_> {
    fn new<'a>(
        case: &'a Case,
        kind: EntryKind,
        store: &ParameterStore,
        kernels: &Kernels,
        options: Options,
    ) -> Result<Run<'a>, String> {
        let limits = Limits { rows: 5 * CONTEXT, batch: 5 };
        let entry = &case.compiled.entries[&kind];
        let executable =
            Executable::load(entry, kernels, store, SharedMemory::default(), limits, 1, options.width)
                .map_err(|error| error.to_string())?;
        let roots = entry.buffers.iter().filter_map(|buffer| match buffer.role {
            Role::Root(name) => Some((name, buffer.layout.clone())),
            _ => None,
        });
        let (binding, panel) = (Binding::new(limits, CONTEXT), options.width.panel());
        Ok(Run { case, executable, binding, roots: roots.collect(), kind, panel })
    }

    /// The fixed axes of an input or root, as a row of it lies.
    fn order(&self, axes: &[Axis]) -> Vec<Axis> {
        let fixed = axes.iter().copied().filter(|axis| axis.fixed_size().is_some());
        self.case.compiled.layouts.ordered(fixed)
    }

    /// A value of one sequence, as its rows lie.
    fn in_rows(&self, name: Symbol, value: &Value) -> Vec<f64> {
        let node =
            self.case.program.entry(self.kind).and_then(|entry| entry.root(name.as_str())).expect("a root");
        let axes: Vec<Axis> = self.case.program.main().graph.axes(node).to_vec();
        let mut order: Vec<Axis> = ["batch", "time"]
            .iter()
            .filter_map(|name| axes.iter().copied().find(|axis| axis.name.as_str() == *name))
            .collect();
        order.extend(self.order(&axes));
        value.in_order(&order)
    }

    /// A root of any type, as numbers.
    fn root(&self, name: &str) -> Option<Vec<f32>> {
        let run = &self.executable;
        let whole = || Some(run.root_as::<i32>(DType::I32, name)?.iter().map(|&x| x as f32).collect());
        let mask = || Some(run.root_as::<u8>(DType::Bool, name)?.iter().map(|&x| f32::from(x)).collect());
        run.root(name).map(<[f32]>::to_vec).or_else(whole).or_else(mask)
    }

    /// Runs the entry once on these texts.
    fn rows(&mut self, texts: &[&Text], pool: &Pool) -> Result<Rows, String> {
        let sequences: Vec<Sequence> =
            texts.iter().map(|text| Sequence { origin: 0, length: text.length, chunks: &[] }).collect();
        self.binding.bind(&sequences).map_err(|error| error.to_string())?;
        let graph = &self.case.program.main().graph;
        for id in graph.ids() {
            let diptych_ir::Op::Input(input) = graph.op(id) else { continue };
            let axes = input.ty.axes.to_vec();
            let fixed = self.order(&axes);
            let mut order: Vec<Axis> =
                ["batch", "time"].iter().filter_map(|name| input.ty.axes.get((*name).into())).collect();
            order.extend(fixed);
            let rows = texts.iter().flat_map(|text| text.inputs[&input.name].in_order(&order));
            let rows: Vec<f64> = if order.is_empty() { rows.take(1).collect() } else { rows.collect() };
            if input.ty.dtype == DType::I32 {
                if let Some(room) = self.executable.input::<i32>(input.name.as_str()) {
                    room.iter_mut().zip(&rows).for_each(|(room, &x)| *room = x as i32);
                }
            } else if let Some(room) = self.executable.input::<f32>(input.name.as_str()) {
                room.iter_mut().zip(&rows).for_each(|(room, &x)| *room = x as f32);
            }
        }
        self.executable.refresh(pool, &self.binding);
        self.executable.run(pool, &self.binding);
        let mut found = Rows::new();
        for (name, layout) in &self.roots {
            let numbers = self.root(name.as_str()).ok_or("a root is missing")?;
            if layout.leading() != diptych_passes::layout::Leading::Rows {
                continue;
            }
            let width = layout.row_elements(self.panel);
            let mut start = 0;
            for text in texts {
                let end = start + text.length * width;
                found.entry(*name).or_default().push(numbers[start..end].to_vec());
                start = end;
            }
        }
        Ok(found)
    }
}
