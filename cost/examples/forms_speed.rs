//! What a model costs in the forms that the algebra can give it: as it is written, one form for all entries, and a form
//! for each. Decoding at several contexts and batches, in turns in one process, predicted and measured, with the bytes
//! that a step reads and writes; then a prompt and a training step.
//!
//! `cargo run --release -p diptych-cost --example forms_speed -- [--model latent-512] [--contexts 1,16,64,256,1024,4096]
//! [--batches 1,8] [--threads 2] [--rounds 5]`

use diptych_codegen::driver::{CompiledProgram, Rewriting, Rewritten, rewrite};
use diptych_cost::{Machine, RunSizes, Target, predict_binding, predict_entry};
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Binding, Numerics, Objective};
use diptych_runtime::decode::{SERVING, SequenceId, ServeOptions, Server};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn numbers(name: &str, default: &str) -> Outcome<Vec<usize>> {
    Ok(option(name, default).split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A form of the model, ready to run.
struct Loaded {
    name: &'static str,
    session: Session,
}

fn main() -> Outcome<()> {
    let (contexts, batches) = (numbers("--contexts", "1,16,64,256,1024,4096")?, numbers("--batches", "1,8")?);
    let rounds = option("--rounds", "5").parse::<usize>()?;
    let device = Device::cpu(Some(option("--threads", "2").parse()?))?;
    let architecture = Registry::zoo().preset(&option("--model", "latent-512"))?;
    let program = build(&*architecture)?;
    let machine = Target::load("reference-cpu")?.into_machine(None)?;
    let longest = contexts.iter().copied().max().unwrap_or(1);
    let objective = Objective {
        bindings: vec![
            Binding::new(EntryKind::Train, 8, 256, 256, 1.0),
            Binding::new(EntryKind::Prefill, 1, 256, 256, 1.0),
            Binding::new(EntryKind::Decode, 1, 1, longest, 1.0),
        ],
        ..Rewriting::default().objective
    };
    let mut loaded = Vec::new();
    for (name, algebra, numerics) in [
        ("as written", false, Numerics::Same),
        ("same", true, Numerics::Same),
        ("fast", true, Numerics::Fast),
    ] {
        let rewritten = chosen(&program, &objective, &machine, &device, algebra, numerics)?;
        let keeps = rewritten.compared.first().map(|form| form.keeps.join(", ")).unwrap_or_default();
        println!("{name}: keeps {keeps}");
        let mut session = Session::compile_rewritten(
            &device,
            &rewritten,
            architecture.context(),
            &SERVING,
            &AdamWOptions::default(),
        )?;
        for param in program.params.keys() {
            session.store.set(*param, &initialize(&program, param.as_str(), 1)?)?;
        }
        loaded.push(Loaded { name, session });
    }
    println!(
        "\ncontext batch | form: bytes of a step, predicted ms, measured ms (largest difference of logits from `as written`)"
    );
    for &batch in &batches {
        for &context in &contexts {
            decode(&loaded, &device, &machine, (batch, context), rounds, architecture.vocab())?;
        }
    }
    Ok(())
}

/// The form of the model that an objective chooses.
fn chosen(
    program: &Program,
    objective: &Objective,
    machine: &Machine,
    device: &Device,
    algebra: bool,
    numerics: Numerics,
) -> Outcome<Rewritten> {
    let seconds = |compiled: &CompiledProgram, binding: &Binding| {
        predict_binding(compiled, binding, machine, device.pool.threads())
    };
    let rewriting = Rewriting { algebra, objective: objective.clone(), numerics, seconds: Some(&seconds) };
    Ok(rewrite(program, &rewriting, device.options())?)
}

/// One line of the table: all forms decode in turns, so many sequences at once, each of which sees so many positions.
fn decode(
    loaded: &[Loaded],
    device: &Device,
    machine: &Machine,
    (batch, context): (usize, usize),
    rounds: usize,
    vocab: usize,
) -> Outcome<()> {
    let options =
        ServeOptions { rows: 512, batch, sequences: batch, cache_positions: batch * (context + rounds + 64) };
    let token = |at: usize| (at * 37 % vocab) as i32;
    let prompt: Vec<i32> = (1..context).map(token).collect();
    let mut servers = Vec::new();
    for form in loaded {
        let mut server = Server::new(device, &form.session, options)?;
        let sequences: Vec<SequenceId> = (0..batch).map(|_| server.start()).collect::<Result<_, _>>()?;
        if !prompt.is_empty() {
            for &sequence in &sequences {
                server.prefill(&[(sequence, &prompt)])?;
            }
        }
        servers.push((server, sequences));
    }
    let mut times = vec![Vec::new(); loaded.len()];
    let mut logits: Vec<Vec<f32>> = vec![Vec::new(); loaded.len()];
    for round in 0..rounds + 1 {
        for (number, (server, sequences)) in servers.iter_mut().enumerate() {
            let tokens: Vec<(SequenceId, i32)> =
                sequences.iter().enumerate().map(|(at, &sequence)| (sequence, token(at + round))).collect();
            let start = Instant::now();
            let found = server.decode(&tokens)?;
            // The first step warms up.
            if round > 0 {
                times[number].push(start.elapsed().as_secs_f64());
            }
            logits[number] = found.to_vec();
        }
    }
    print!("{context:7} {batch:5} |");
    for (number, form) in loaded.iter().enumerate() {
        let run = RunSizes::equal(batch, context.saturating_sub(1), 1);
        let entry = &form.session.compiled.entries[&EntryKind::Decode];
        let prediction = predict_entry(entry, machine, device.pool.threads(), &run);
        let difference =
            (logits[number].iter().zip(&logits[0])).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        print!(
            " {}: {:.2} MB, {:.3}, {:.3} ({difference:.1e});",
            form.name,
            prediction.work().bytes() / 1e6,
            prediction.seconds() * 1e3,
            median(&mut times[number]) * 1e3
        );
    }
    println!();
    Ok(())
}
