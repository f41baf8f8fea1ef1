//! Times layers whose MLP is routed (64 experts of 256, 8 chosen) against dense ones of the same active width
//! (2048), in turns, forward and in training: one JSON line each, and with `--profile` the time of each kernel.
//!
//! `cargo run --release -p diptych-cost --example routed_speed -- [--tokens 2048] [--embed 512] [--experts 64] [--chosen 8] [--hidden 256] [--layers 2] [--threads 2] [--rounds 5] [--profile]`

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::entry::Limits;
use diptych_cost::{Machine, ProbeSource, RunSizes, Target, measured, predict_entry};
use diptych_ir::{EntryKind, Program};
use diptych_models::{ModelBuilder, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::{Binding, Executable, LaunchTime, RunError, Sequence};
use diptych_runtime::session::{Device, Session};

type Failure = Box<dyn std::error::Error>;

const VOCAB: usize = 64;

fn option(name: &str, default: usize) -> Result<usize, Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    Ok(at.and_then(|at| arguments.get(at + 1)).map_or(Ok(default), |number| number.parse())?)
}

/// The sizes of a layer.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    embed: usize,
    experts: usize,
    chosen: usize,
    hidden: usize,
    layers: usize,
}

/// Layers that have nothing but a norm and an MLP, routed or dense.
fn program(sizes: Sizes, routed: bool) -> Result<Program, Failure> {
    let m = ModelBuilder::new("routed_speed", sizes.tokens);
    let [choice, expert] =
        [("choice", sizes.chosen), ("expert", sizes.experts)].map(|(name, size)| m.axis(name, size));
    let [vocab, embed] = [("vocab", VOCAB), ("embed", sizes.embed)].map(|(name, size)| m.axis(name, size));
    let width = if routed { sizes.hidden } else { sizes.hidden * sizes.chosen };
    let hidden = m.axis("hidden", width);
    Ok(m.finish(|m| {
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", sizes.layers, x, |m, x| {
            let h = m.rms_norm("norm", x, embed, 1e-5);
            if !routed {
                let gate = m.linear("gate", h, embed, hidden).silu();
                return x + m.linear("down", gate * m.linear("up", h, embed, hidden), hidden, embed);
            }
            let scores = m.head("router", h, embed, expert).softmax(expert);
            let ids = scores.detach().top_k(expert, choice);
            let weight = scores.take(ids, expert);
            let gate = m.expert_linear("gate", h, ids, expert, embed, hidden).silu();
            let up = m.expert_linear("up", h, ids, expert, embed, hidden);
            let weighed = gate * up * (weight / weight.sum(choice));
            x + m.expert_linear("down", weighed, ids, expert, hidden, embed).sum(choice)
        });
        m.head("head", x, embed, vocab)
    })?)
}

/// A model with its entries, and the fastest time of each launch so far.
struct Runner {
    session: Session,
    runs: Vec<(EntryKind, Executable, Vec<f64>)>,
    binding: Binding,
}

impl Runner {
    fn new(device: &Device, sizes: Sizes, routed: bool) -> Result<Runner, Failure> {
        let program = program(sizes, routed)?;
        let kinds = [EntryKind::Score, EntryKind::Train];
        let mut session = Session::compile(device, &program, sizes.tokens, &kinds, &AdamWOptions::default())?;
        for name in program.params.keys() {
            session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
        }
        let limits = Limits { rows: sizes.tokens, batch: 1 };
        let mut binding = Binding::new(limits, sizes.tokens);
        binding.bind(&[Sequence { origin: 0, length: sizes.tokens, chunks: &[], state: 0 }])?;
        let mut runs = Vec::new();
        for kind in kinds {
            let mut run = session.executable(device, kind, None, limits)?;
            for name in ["tokens", "targets"] {
                let tokens = run.input::<i32>(name).ok_or("an entry lacks an input")?;
                for (at, token) in tokens[..sizes.tokens].iter_mut().enumerate() {
                    *token = (diptych_runtime::sampling::random_bits(7, at as u64) % VOCAB as u64) as i32;
                }
            }
            if let Some(inverse) = run.input::<f32>("inverse_tokens") {
                inverse[0] = 1.0 / sizes.tokens as f32;
            }
            run.refresh(device, &binding)?;
            run.run(device, &binding)?;
            runs.push((kind, run, Vec::new()));
        }
        Ok(Runner { session, runs, binding })
    }

    fn round(&mut self, device: &Device) -> Result<(), RunError> {
        for (_, run, best) in &mut self.runs {
            run.record(1);
            run.run(device, &self.binding)?;
            let times: Vec<f64> = run.take_recording().times().iter().map(LaunchTime::seconds).collect();
            match best.is_empty() {
                true => *best = times,
                false => best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time)),
            }
        }
        Ok(())
    }

    /// Seconds in kernels of the layers, measured and predicted, by entry.
    fn seconds(&self, machine: &Machine, threads: usize, tokens: usize, profile: bool) -> Vec<[f64; 2]> {
        let sizes = RunSizes::equal(1, 0, tokens);
        let of_entry = |(kind, _, best): &(EntryKind, Executable, Vec<f64>)| {
            let prediction = predict_entry(&self.session.compiled.entries[kind], machine, threads, &sizes);
            let mut total = [0.0; 2];
            for (launch, &seconds) in prediction.launches.iter().zip(best) {
                if launch.region != Program::MAIN {
                    total[0] += seconds;
                    total[1] += launch.seconds;
                    if profile {
                        let (measured, predicted) = (seconds * 1e3, launch.seconds * 1e3);
                        eprintln!(
                            "{:8} {measured:9.3} ms, predicted {predicted:9.3} ms  {}",
                            kind.name(),
                            launch.name
                        );
                    }
                }
            }
            total
        };
        self.runs.iter().map(of_entry).collect()
    }
}

fn main() -> Result<(), Failure> {
    let sizes = Sizes {
        tokens: option("--tokens", 2048)?,
        embed: option("--embed", 512)?,
        experts: option("--experts", 64)?,
        chosen: option("--chosen", 8)?,
        hidden: option("--hidden", 256)?,
        layers: option("--layers", 2)?,
    };
    let (threads, rounds) = (option("--threads", 2)?, option("--rounds", 5)?);
    let profile = std::env::args().any(|argument| argument == "--profile");
    let cpu = Cpu::new(Some(threads))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);
    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let folder = std::env::temp_dir().join("diptych-predicted");
    let measurement = measured(&source, threads, &folder)?;
    let machine: Machine =
        Target::load("this-machine")?.into_machine(Some((measurement.rates, measurement.memory_bytes)))?;
    let mut runners = [Runner::new(&device, sizes, true)?, Runner::new(&device, sizes, false)?];
    for _ in 0..rounds {
        for runner in &mut runners {
            runner.round(&device)?;
        }
    }
    let [routed, dense] =
        runners.each_ref().map(|runner| runner.seconds(&machine, threads, sizes.tokens, profile));
    for ((kind, ..), (routed, dense)) in runners[0].runs.iter().zip(routed.into_iter().zip(dense)) {
        println!(
            "{}",
            serde_json::json!({
                "entry": kind.name(),
                "routed_ms": routed[0] * 1e3,
                "dense_ms": dense[0] * 1e3,
                "ratio": routed[0] / dense[0],
                "predicted_routed_ms": routed[1] * 1e3,
                "predicted_dense_ms": dense[1] * 1e3,
                "predicted_ratio": routed[1] / dense[1],
            })
        );
    }
    Ok(())
}
