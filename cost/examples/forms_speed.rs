//! What a model costs in the forms that the algebra can give it: as it is written, one form for all entries (the best of those
//! with large caches, which keep keys and values rather than what they are computed from, and the best of all), and a form
//! for each. All forms run in turns in one process:
//! training and a prompt first, then decoding at several contexts and batches, predicted and measured, with the bytes that
//! a step reads and writes.
//!
//! `cargo run --release -p diptych-cost --example forms_speed -- [--model latent-512] [--with '{"hidden": 64}']
//! [--contexts 1,16,64,256,1024,4096] [--batches 1,8] [--threads 2] [--rounds 5]`

mod algebra;

use algebra::{Loaded, Model, Outcome, head, in_turns, median, ms, number, objective, option, row};
use diptych_codegen::driver::{CompiledProgram, Rewriting, Rewritten, compile_rewritten, rewrite};
use diptych_codegen::entry::Role;
use diptych_cost::{Machine, RunSizes, Target, predict_binding, predict_entry};
use diptych_ir::EntryKind;
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Binding, Numerics, forms as algebra_forms};
use diptych_runtime::decode::{SERVING, SequenceId, ServeOptions, Server};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

fn numbers(name: &str, default: &str) -> Outcome<Vec<usize>> {
    Ok(option(name, default).split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// A form of the model.
struct Form {
    name: &'static str,
    rewritten: Rewritten,
}

fn main() -> Outcome<()> {
    let (contexts, batches) = (numbers("--contexts", "1,16,64,256,1024,4096")?, numbers("--batches", "1,8")?);
    let rounds = number("--rounds", 5)?;
    let device = Device::cpu(Some(number("--threads", 2)?))?;
    let model =
        Model::with(&option("--model", "latent-512"), &serde_json::from_str(&option("--with", "{}"))?)?;
    let machine = Target::load("reference-cpu")?.into_machine(None)?;
    let longest = contexts.iter().copied().max().unwrap_or(1);
    let bindings = [
        Binding::new(EntryKind::Train, 8, 256, 256, 1.0),
        Binding::new(EntryKind::Prefill, 1, 256, 256, 1.0),
        Binding::new(EntryKind::Decode, 1, 1, longest, 1.0),
    ];
    let mut forms = Vec::new();
    for (name, algebra, numerics) in [
        ("as written", false, Numerics::Same),
        ("same", true, Numerics::Same),
        ("fast", true, Numerics::Fast),
    ] {
        let rewritten = chosen(&model, &bindings, &machine, &device, algebra, numerics)?;
        forms.push(Form { name, rewritten });
    }
    if let Some(rewritten) = with_large_caches(&model, &bindings, &machine, &device)? {
        forms.insert(1, Form { name: "same, large caches", rewritten });
    }
    for Form { name, rewritten } in &forms {
        println!("{name}: keeps {}", rewritten.keeps().join(", "));
    }
    training(&forms, &model, &bindings[..2], &device, &machine, rounds)?;
    println!(
        "\nDecoding: MB that a step reads and writes, predicted / measured ms; last, the largest difference of logits from `as written`.\n"
    );
    let names = forms.iter().map(|form| form.name);
    head(&["batch", "context"].into_iter().chain(names).chain(["difference"]).collect::<Vec<_>>());
    let mut sessions = Vec::new();
    for form in &forms {
        let (context, optimizer) = (model.architecture.context(), AdamWOptions::default());
        let mut session =
            Session::compile_rewritten(&device, &form.rewritten, context, &SERVING, &optimizer)?;
        for (name, values) in &model.parameters {
            session.store.set(*name, values)?;
        }
        sessions.push(session);
    }
    for &batch in &batches {
        for &context in &contexts {
            decode(&sessions, &device, &machine, (batch, context), rounds, model.architecture.vocab())?;
        }
    }
    Ok(())
}

/// The form of the model that an objective chooses.
fn chosen(
    model: &Model,
    bindings: &[Binding],
    machine: &Machine,
    device: &Device,
    algebra: bool,
    numerics: Numerics,
) -> Outcome<Rewritten> {
    let seconds = |compiled: &CompiledProgram, binding: &Binding| {
        Ok(predict_binding(compiled, binding, machine, device.threads()))
    };
    let objective = objective(bindings.to_vec());
    let rewriting = Rewriting { algebra, objective, numerics, seconds: Some(&seconds) };
    Ok(rewrite(&model.program, &rewriting, device.options())?)
}

/// Of the forms that all entries share, and whose caches take at least half as much again as the smallest, the one that
/// decodes the fastest as predicted.
fn with_large_caches(
    model: &Model,
    bindings: &[Binding],
    machine: &Machine,
    device: &Device,
) -> Outcome<Option<Rewritten>> {
    let (objective, options) = (objective(bindings.to_vec()), device.options());
    let decode = &bindings[2];
    let mut found = Vec::new();
    for form in algebra_forms(&model.program, &objective, Numerics::Same)?.forms {
        let rewritten = Rewritten::of_form(form, Some(objective.clone()));
        let Ok(compiled) = compile_rewritten(&rewritten, &[decode.entry], &AdamWOptions::default(), options)
        else {
            continue;
        };
        let entry = &compiled.entries[&decode.entry];
        let caches = entry.buffers.iter().filter(|buffer| matches!(buffer.role, Role::Cache { .. }));
        let elements: usize =
            caches.map(|buffer| buffer.slots * buffer.layout.row_elements(entry.panel)).sum();
        let seconds = predict_binding(&compiled, decode, machine, device.threads());
        found.push((elements, seconds, rewritten));
    }
    let least = found.iter().map(|form| form.0).min().unwrap_or(0);
    found.retain(|form| 2 * form.0 >= 3 * least);
    Ok(found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).map(|form| form.2))
}

/// Runs of the entries that see no cache of others.
fn training(
    forms: &[Form],
    model: &Model,
    bindings: &[Binding],
    device: &Device,
    machine: &Machine,
    rounds: usize,
) -> Outcome<()> {
    println!("\nMilliseconds of a run, predicted / measured.\n");
    head(&["entry"].into_iter().chain(forms.iter().map(|form| form.name)).collect::<Vec<_>>());
    let loaded = forms.iter().map(|form| Loaded::new(device, model, &form.rewritten, bindings));
    let mut loaded = loaded.collect::<Outcome<Vec<Loaded>>>()?;
    for binding in bindings {
        let mut turns: Vec<&mut Loaded> = loaded.iter_mut().collect();
        let times = in_turns(device, &mut turns, binding.entry, rounds);
        let cells = loaded.iter().zip(times).map(|(form, times)| {
            let predicted = predict_binding(&form.session.compiled, binding, machine, device.threads());
            format!("{} / {}", ms(predicted), ms(median(&times)))
        });
        row([binding.entry.name().to_owned()].into_iter().chain(cells));
    }
    Ok(())
}

/// One line of the table: all forms decode in turns, so many sequences at once, each of which sees so many positions.
fn decode(
    sessions: &[Session],
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
    for session in sessions {
        let mut server = Server::new(device, session, options)?;
        let sequences: Vec<SequenceId> = (0..batch).map(|_| server.start()).collect::<Result<_, _>>()?;
        if !prompt.is_empty() {
            for &sequence in &sequences {
                server.prefill(&[(sequence, &prompt)])?;
            }
        }
        servers.push((server, sequences));
    }
    let mut times = vec![Vec::new(); sessions.len()];
    let mut logits: Vec<Vec<f32>> = vec![Vec::new(); sessions.len()];
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
    let apart = |(a, b): (&f32, &f32)| (a - b).abs();
    let difference = logits.iter().flat_map(|of_form| of_form.iter().zip(&logits[0]).map(apart));
    let difference = difference.fold(0.0_f32, f32::max);
    let cells = sessions.iter().zip(&times).map(|(session, times)| {
        let run = RunSizes::equal(batch, context.saturating_sub(1), 1);
        let entry = &session.compiled.entries[&EntryKind::Decode];
        let prediction = predict_entry(entry, machine, device.threads(), &run);
        let (predicted, measured) = (ms(prediction.seconds()), ms(median(times)));
        format!("{:.1} MB, {predicted} / {measured}", prediction.work().bytes() / 1e6)
    });
    let ends = [batch.to_string(), context.to_string()].into_iter().chain(cells);
    row(ends.chain([format!("{difference:.1e}")]));
    Ok(())
}
