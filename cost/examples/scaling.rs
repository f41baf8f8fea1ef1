//! How the time of a training step grows: with tokens (1 × 64 to 16 × 512) and with layers (2 to 24, of a small
//! width), on 1 and on 2 threads. A line is laid through the times of each, by relative error; how far each time is
//! from it, where the line begins, what a second thread brings, and how much of the time two threads wait for
//! each other are printed.
//!
//! `cargo run --release -p diptych-cost --example scaling -- [--only tokens|layers] [--rounds 5]`
//!
//! All sizes and numbers of threads take turns, and the fastest round of each counts: others on the machine only
//! ever slow it down.

use diptych_codegen::driver::rewrite_by_default;
use diptych_models::{Architecture, Registry, build, initialize};
use diptych_runtime::executor::{Part, Recording};
use diptych_runtime::sampling::random_bits;
use diptych_runtime::session::Device;
use diptych_runtime::train::{ModelIdentity, Plan, TrainOptions, Trainer};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

/// Batch and time of a step, in the order of its tokens.
const TOKENS: [[usize; 2]; 8] =
    [[1, 64], [1, 128], [1, 256], [1, 512], [2, 512], [4, 512], [8, 512], [16, 512]];
const LAYERS: [usize; 6] = [2, 4, 8, 12, 16, 24];
const THREADS: [usize; 2] = [1, 2];

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

/// A Llama of this width whose MLP is 2.75 times as wide.
fn model(embed: usize, layers: usize, vocab: usize) -> Result<Box<dyn Architecture>, Failure> {
    let config = json!({
        "vocab": vocab, "context": 512, "layers": layers, "embed": embed, "heads": embed / 64,
        "key_value_heads": embed / 64, "hidden": embed * 11 / 4,
    });
    Ok(Registry::zoo().architecture("llama", &config)?)
}

/// A size, with a trainer for each number of threads and its fastest step so far.
struct Size<'d> {
    name: String,
    /// Tokens or layers.
    amount: f64,
    trainers: Vec<Trainer<'d>>,
    seconds: Vec<f64>,
    /// The least share of a step that threads waited, on the most threads.
    waiting: f64,
}

impl<'d> Size<'d> {
    fn new(
        name: String,
        amount: usize,
        devices: &'d [Device],
        architecture: &dyn Architecture,
        [batch, time]: [usize; 2],
    ) -> Result<Size<'d>, Failure> {
        let program = build(architecture)?;
        let options: TrainOptions = serde_json::from_value(json!({
            "batch": batch, "time": time, "steps": 1000, "seed": 1,
            "schedule": { "kind": "constant", "peak": 1e-4, "total_steps": 1000 },
        }))?;
        let mut trainers = Vec::new();
        for device in devices {
            let identity = ModelIdentity {
                family: architecture.name().to_owned(),
                config: architecture.describe(),
                context: architecture.context(),
            };
            let rewritten = rewrite_by_default(&program, device.options())?;
            let plan = Plan::new(device, &rewritten, identity, options.clone(), &[])?;
            let mut trainer = Trainer::load(device, plan)?;
            let mut failed = None;
            trainer.initialize(|name| {
                initialize(&program, name, 1).map_err(|error| failed = Some(error)).unwrap_or_default()
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            trainers.push(trainer);
        }
        let seconds = vec![f64::INFINITY; trainers.len()];
        Ok(Size { name, amount: amount as f64, trainers, seconds, waiting: f64::INFINITY })
    }

    /// A step on each number of threads.
    fn round(&mut self, vocab: usize, counts: bool) -> Result<(), Failure> {
        for (trainer, fastest) in self.trainers.iter_mut().zip(&mut self.seconds) {
            let seconds = step(trainer, vocab)?;
            if counts {
                *fastest = fastest.min(seconds);
            }
        }
        Ok(())
    }

    /// A recorded step on the most threads.
    fn round_of_waiting(&mut self, vocab: usize) -> Result<(), Failure> {
        if let Some(trainer) = self.trainers.last_mut() {
            trainer.executables().into_iter().for_each(|(_, entry)| entry.record(1));
            step(trainer, vocab)?;
            let entries = trainer.executables().into_iter();
            let recordings: Vec<Recording> = entries.map(|(_, entry)| entry.take_recording()).collect();
            let sum = |of: &dyn Fn(&Recording) -> f64| recordings.iter().map(of).sum::<f64>();
            let share =
                sum(&|recording| recording.part_seconds(Part::Wait)) / sum(&|recording| recording.seconds());
            self.waiting = self.waiting.min(share);
        }
        Ok(())
    }
}

/// A step on random tokens; its seconds.
fn step(trainer: &mut Trainer, vocab: usize) -> Result<f64, Failure> {
    let report = trainer.step(|step, inputs, targets| {
        let token = |at: usize| (random_bits(step, at as u64) % vocab as u64) as i32;
        inputs.iter_mut().enumerate().for_each(|(at, id)| *id = token(at));
        targets.iter_mut().enumerate().for_each(|(at, id)| *id = token(at + 1));
    })?;
    Ok(report.seconds)
}

/// The line with the least squares of relative errors: where it begins, and what each amount adds.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|&(x, y)| of(x, y) / (y * y)).sum::<f64>();
    let (n, x, y) = (sum(&|_, _| 1.0), sum(&|x, _| x), sum(&|_, y| y));
    let (xx, xy) = (sum(&|x, _| x * x), sum(&|x, y| x * y));
    let slope = (n * xy - x * y) / (n * xx - x * x);
    ((y - slope * x) / n, slope)
}

fn report(title: &str, unit: &str, sizes: &[Size]) {
    println!("\n{title}");
    let of = |thread: usize| sizes.iter().map(|size| (size.amount, size.seconds[thread])).collect::<Vec<_>>();
    let lines: Vec<(f64, f64)> = (0..THREADS.len()).map(|thread| line(&of(thread))).collect();
    for (threads, (start, slope)) in THREADS.iter().zip(&lines) {
        println!(
            "{threads} thread{}: {:.3} ms and {:.3} µs a {unit}",
            if *threads == 1 { "" } else { "s" },
            start * 1e3,
            slope * 1e6
        );
    }
    println!(
        "| size | 1 thread, ms | from the line | 2 threads, ms | from the line | 2 threads over 1 | waiting |"
    );
    println!("|---|---|---|---|---|---|---|");
    for size in sizes {
        let [one, two] = [0, 1].map(|thread| {
            let (start, slope) = lines[thread];
            let expected = start + slope * size.amount;
            let seconds = size.seconds[thread];
            format!("{:.2} | {:+.1}%", seconds * 1e3, 100.0 * (seconds / expected - 1.0))
        });
        let (ratio, waiting) = (size.seconds[0] / size.seconds[1], 100.0 * size.waiting);
        println!("| {} | {one} | {two} | {ratio:.2} | {waiting:.0}% |", size.name);
    }
}

fn main() -> Result<(), Failure> {
    let rounds: usize = option("--rounds", "5").parse()?;
    let only = option("--only", "");
    if !["", "tokens", "layers"].contains(&only.as_str()) {
        return Err(format!("--only is {only}; it must be tokens or layers").into());
    }
    let devices = THREADS
        .into_iter()
        .map(|threads| Device::cpu(Some(threads)))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let timed = |sizes: &mut [Size], vocab: usize| -> Result<(), Failure> {
        for round in 0..=rounds {
            for size in sizes.iter_mut() {
                size.round(vocab, round > 0)?;
            }
        }
        for size in sizes.iter_mut() {
            // Small steps are soon done, and the more easily disturbed.
            (0..rounds.max(3)).try_for_each(|_| size.round_of_waiting(vocab))?;
        }
        Ok(())
    };
    if only != "layers" {
        let (embed, layers, vocab) = (512, 2, 4096);
        let architecture = model(embed, layers, vocab)?;
        let of = |&[batch, time]: &[usize; 2]| {
            let name = format!("{batch} × {time}");
            Size::new(name, batch * time, &devices, &*architecture, [batch, time])
        };
        let mut sizes = TOKENS.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        timed(&mut sizes, vocab)?;
        report(
            &format!("Tokens of a step: dim {embed}, {layers} layers, vocabulary {vocab}"),
            "token",
            &sizes,
        );
    }
    if only != "tokens" {
        let (embed, vocab, shape) = (128, 512, [4, 128]);
        let of = |&layers: &usize| {
            Size::new(format!("{layers} layers"), layers, &devices, &*model(embed, layers, vocab)?, shape)
        };
        let mut sizes = LAYERS.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        timed(&mut sizes, vocab)?;
        let [batch, time] = shape;
        report(&format!("Layers: dim {embed}, vocabulary {vocab}, {batch} × {time} tokens"), "layer", &sizes);
    }
    Ok(())
}
