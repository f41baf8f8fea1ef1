//! The whole-layer check: random small architectures, optimised under random objectives in every form that the
//! algebra offers, compute what they did as written, forward and in the gradients of all parameters.

mod random;

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{Axes, EntryKind, Initializer, Op, Program, Symbol, text, verify};
use diptych_passes::algebra::{Form, Objective, forms, optimize_backward};
use diptych_passes::normalize::divide_after_sums;
use diptych_passes::{differentiate, simplify};
use random::architecture::{TOKENS, architecture};
use random::numbers::Numbers;
use random::objective::{numerics, objective};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many architectures are checked.
const ARCHITECTURES: u64 = 500;
const TIME: usize = 4;

/// Random parameters, tokens and targets for two sequences of a program.
fn context(program: &Program, numbers: &mut Numbers) -> Context {
    let sizes = [("batch", 2), ("time", TIME), ("past", TIME)];
    let mut context =
        Context { sizes: sizes.map(|(name, size)| (name.into(), size)).into(), ..Context::default() };
    let shape = |context: &Context, axes: &Axes| context.shape(axes).expect("sizes");
    for (&name, info) in &program.params {
        let number = |numbers: &mut Numbers| match info.initializer {
            Initializer::Uniform { bound } => bound * numbers.signed(),
            Initializer::Normal { standard_deviation } => standard_deviation * numbers.signed(),
            Initializer::Between { least, most } => least + (most - least) * (0.5 + 0.5 * numbers.signed()),
            Initializer::Constant(value) => value + 0.3 * numbers.signed(),
        };
        let value = Value::build(shape(&context, &info.ty.axes), |_| number(numbers));
        context.params.insert(name, value);
    }
    for id in program.main().graph.ids() {
        let Op::Input(input) = program.main().graph.op(id) else { continue };
        let value = Value::build(shape(&context, &input.ty.axes), |_| match input.name.as_str() {
            "tokens" => numbers.below(TOKENS) as f64,
            "targets" => numbers.below(TOKENS + 1) as f64 - 1.0,
            "last" => numbers.below(TIME) as f64,
            _ => 1.0 / 8.0,
        });
        context.inputs.insert(input.name, value);
    }
    context
}

type Values = BTreeMap<Symbol, Value>;

fn run(program: &Program, kind: EntryKind, context: &Context) -> Result<Values, String> {
    let entry = program.entry(kind).ok_or(format!("no `{}`", kind.name()))?;
    let (names, roots): (Vec<_>, Vec<_>) = entry.roots.iter().chain(&entry.updates).copied().unzip();
    let values = evaluate(program, &roots, context).map_err(|error| error.to_string())?;
    Ok(names.into_iter().zip(values).collect())
}

/// Whether values agree: errors are at most `tolerance` in norm, relative to each value, or to what it would be if its
/// elements were a twentieth of the largest of all: some gradients are zero but for rounding. Of an element they are at
/// most twice as much of the largest: among thousands of numbers that are rounded to bf16 on the way, some are farther.
fn agree(before: &Values, after: &Values, tolerance: f64) -> Result<(), String> {
    let norm = |value: &mut dyn Iterator<Item = f64>| value.map(|x| x * x).sum::<f64>().sqrt();
    let all = before.values().flat_map(|value| value.data.iter().copied());
    let least = all.fold(0.0_f64, |most, x| most.max(x.abs())) / 20.0;
    if before.keys().ne(after.keys()) {
        return Err(format!("{:?} became {:?}", before.keys(), after.keys()));
    }
    for (name, before) in before {
        let after = &after[name];
        if before.axes != after.axes {
            return Err(format!("{name} has the axes {:?}, not {:?}", after.axes, before.axes));
        }
        let scale = norm(&mut before.data.iter().copied()).max(least * (before.data.len() as f64).sqrt());
        let differences = || before.data.iter().zip(&after.data).map(|(a, b)| a - b);
        let error = norm(&mut differences()) / scale;
        let largest = before.data.iter().fold(least, |most, x| most.max(x.abs()));
        let farthest = differences().fold(0.0_f64, |most, x| most.max(x.abs()));
        if error.is_nan() || error > tolerance || farthest > 2.0 * tolerance * largest {
            return Err(format!("{name} has an error of {error:.2e}:\n{before:?}\nbecame\n{after:?}"));
        }
    }
    Ok(())
}

/// Training as the compiler makes it of a forward program, up to the optimiser.
fn trained(forward: &Program, objective: &Objective) -> Result<Program, String> {
    let normal = divide_after_sums(forward).map_err(|error| error.to_string())?;
    let gradients =
        differentiate(&normal).and_then(|program| simplify(&program)).map_err(|error| error.to_string())?;
    let (optimized, _) = optimize_backward(&gradients, objective).map_err(|error| error.to_string())?;
    verify(&optimized).map_err(|error| error.to_string())?;
    Ok(optimized)
}

/// What an architecture computes as it was written.
struct Written {
    context: Context,
    values: BTreeMap<EntryKind, Values>,
    tolerance: f64,
}

impl Written {
    fn check(&self, form: &Form, objective: &Objective) -> Result<(), String> {
        for part in &form.parts {
            verify(&part.program).map_err(|error| error.to_string())?;
            for &kind in &part.entries {
                let trained = match kind {
                    EntryKind::Train => Some(trained(&part.program, objective)?),
                    _ => None,
                };
                let found = run(trained.as_ref().unwrap_or(&part.program), kind, &self.context)?;
                let told = |problem| format!("{}: {problem}\n{}", kind.name(), text::print(&part.program));
                agree(&self.values[&kind], &found, self.tolerance).map_err(told)?;
            }
        }
        Ok(())
    }
}

/// Checks the architecture of a seed; gives how many forms it has, and whether one differs from what was written.
fn check(seed: u64) -> Result<(usize, bool), String> {
    let drawn = architecture(seed, 64);
    let mut numbers = Numbers::new(seed, 12);
    let context = context(&drawn.program, &mut numbers);
    let gradients = differentiate(&drawn.program).map_err(|error| error.to_string())?;
    let kinds = drawn.program.entries.iter().map(|entry| entry.kind);
    let values =
        kinds.map(|kind| Ok((kind, run(&gradients, kind, &context)?))).collect::<Result<_, String>>()?;
    // Another order of sums may round a value, or a cotangent, to the neighbouring bf16, which shows in values of a few
    // elements; what the rules do is held exactly by the architectures of floats.
    let written = Written { context, values, tolerance: if drawn.low_precision { 5e-2 } else { 1e-8 } };
    let objective = objective(&mut numbers);
    let found =
        forms(&drawn.program, &objective, numerics(&mut numbers)).map_err(|error| error.to_string())?;
    let as_written = text::print(&drawn.program);
    let mut changed = false;
    for form in &found.forms {
        changed |= form.parts.iter().any(|part| text::print(&part.program) != as_written);
        written.check(form, &objective)?;
    }
    Ok((found.forms.len(), changed))
}

#[test]
fn random_architectures_keep_their_values_and_gradients() {
    let next = AtomicU64::new(0);
    let totals = Mutex::new((0, 0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= ARCHITECTURES {
                        break;
                    }
                    let outcome = check(seed);
                    let mut totals = totals.lock().expect("totals");
                    match outcome {
                        Ok((forms, changed)) => {
                            totals.0 += forms;
                            totals.1 += usize::from(changed);
                        }
                        Err(problem) => totals.2.push(format!("seed {seed}: {problem}")),
                    }
                }
            });
        }
    });
    let (forms, changed, wrong) = totals.into_inner().expect("totals");
    println!("{forms} forms of {ARCHITECTURES} architectures, {changed} of which were rewritten");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(changed * 10 > ARCHITECTURES as usize * 9, "only {changed} were rewritten");
    assert!(forms > ARCHITECTURES as usize * 3 / 2, "only {forms} forms");
}
