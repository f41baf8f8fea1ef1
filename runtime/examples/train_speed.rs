//! Times training steps of a preset on random tokens: one JSON line, and with
//! `--profile` the time of each kernel.
//!
//! `cargo run --release -p diptych-runtime --example train_speed -- [--model llama-15m] [--batch 8] [--time 256] [--threads 2] [--steps 9] [--profile]`

use diptych_codegen::entry::Limits;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::executor::{Binding, Executable, LaunchTime, Sequence};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let (batch, time, steps) = (number("--batch", "8")?, number("--time", "256")?, number("--steps", "9")?);
    let profile = std::env::args().any(|argument| argument == "--profile");
    let architecture = Registry::zoo().preset(&option("--model", "llama-15m"))?;
    let program = build(architecture.as_ref())?;
    let device = Device::cpu(Some(number("--threads", "2")?))?;
    let start = Instant::now();
    let kinds = [EntryKind::Train, EntryKind::Update];
    let mut session =
        Session::compile(&device, &program, architecture.context(), &kinds, &AdamWOptions::default())?;
    eprintln!("compiled in {:.2} s: {:?}", start.elapsed().as_secs_f64(), session.compile_stats());
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let limits = Limits { rows: batch * time, batch };
    let mut train = session.executable(&device, EntryKind::Train, None, limits)?;
    let mut update = session.executable(&device, EntryKind::Update, None, limits)?;
    let bound = session.store.bytes() + train.bound().total() + update.bound().total();
    eprintln!("memory bound {} MiB: {:?}", bound >> 20, train.bound());
    let mut binding = Binding::new(limits, architecture.context());
    binding.bind(&vec![Sequence { origin: 0, length: time, chunks: &[], state: 0 }; batch])?;
    let vocab = architecture.vocab() as u64;
    let tokens: Vec<i32> = (0..=batch * time)
        .map(|at| (diptych_runtime::sampling::random_bits(7, at as u64) % vocab) as i32)
        .collect();
    let fill = |run: &mut Executable| -> Option<()> {
        run.input::<i32>("tokens")?[..batch * time].copy_from_slice(&tokens[..batch * time]);
        run.input::<i32>("targets")?[..batch * time].copy_from_slice(&tokens[1..]);
        run.input::<f32>("inverse_tokens")?[0] = 1.0 / (batch * time) as f32;
        Some(())
    };
    fill(&mut train).ok_or("the train entry lacks an input")?;
    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    for step in 1..=steps {
        let start = Instant::now();
        train.run(&device, &binding)?;
        let inputs = [
            ("learning_rate", 1e-3),
            ("bias_correction_mean", 1.0 - 0.9f32.powi(step as i32)),
            ("bias_correction_variance", 1.0 - 0.999f32.powi(step as i32)),
        ];
        for (name, value) in inputs {
            update.input::<f32>(name).ok_or("the update entry lacks an input")?[0] = value;
        }
        update.run(&device, &binding)?;
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(train.root("loss").map_or(f32::NAN, |loss| loss[0]));
        if step == 1 && profile {
            train.record(steps - 1);
            update.record(steps - 1);
        }
    }
    let mut sorted = seconds[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    println!(
        "{{\"peer\": \"diptych\", \"median_ms\": {:.1}, \"min_ms\": {:.1}, \"max_ms\": {:.1}, \"losses\": {losses:?}}}",
        median * 1e3,
        sorted[0] * 1e3,
        sorted[sorted.len() - 1] * 1e3
    );
    if profile {
        for (kind, run) in [(EntryKind::Train, &mut train), (EntryKind::Update, &mut update)] {
            let entry = &session.compiled.entries[&kind];
            let mut times = run.take_recording().times();
            times.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
            let total: f64 = times.iter().map(LaunchTime::seconds).sum();
            println!("{}: {:.1} ms a step in kernels", kind.name(), total * 1e3 / (steps - 1) as f64);
            for time in times.iter().take(30) {
                let name = &entry.kernels[time.kernel].name;
                println!(
                    "{:9.2} ms  {:4} runs  {name}",
                    time.seconds() * 1e3 / (steps - 1) as f64,
                    time.runs / (steps - 1)
                );
            }
        }
    }
    Ok(())
}
