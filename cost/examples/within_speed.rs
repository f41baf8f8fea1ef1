//! Times training steps of a preset within memory limits, in turns with steps that may take what they like: how much
//! longer they take, measured and predicted, one JSON line for each limit. A limit is a part of the default's
//! activations, its temporary values; all else that a run takes stays allowed.
//!
//! `cargo run --release -p diptych-cost --example within_speed -- [--model llama-15m] [--batch 8] [--time 256] [--threads 2] [--rounds 5] [--percent 60,40]`

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::driver::{CompiledProgram, rewrite_by_default};
use diptych_cost::{Machine, ProbeSource, StepSizes, Target, measured, predict_step};
use diptych_models::{Registry, build, initialize};
use diptych_runtime::device::Cpu;
use diptych_runtime::session::Device;
use diptych_runtime::train::{ModelIdentity, Plan, TrainOptions, Trainer};

type Failure = Box<dyn std::error::Error>;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let (batch, time) = (number("--batch", "8")?, number("--time", "256")?);
    let architecture = Registry::zoo().preset(&option("--model", "llama-15m"))?;
    let program = build(&*architecture)?;
    let (vocab, context) = (architecture.vocab() as u64, architecture.context());
    let identity =
        ModelIdentity { family: architecture.name().to_owned(), config: architecture.describe(), context };
    let options: TrainOptions = serde_json::from_value(serde_json::json!({
        "batch": batch, "time": time, "steps": 1000, "seed": 1,
        "schedule": { "kind": "constant", "peak": 1e-4, "total_steps": 1000 },
    }))?;
    let cpu = Cpu::new(Some(number("--threads", "2")?))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);
    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let folder = std::env::temp_dir().join("diptych-predicted");
    let measurement = measured(&source, device.threads(), &folder)?;
    let machine: Machine =
        Target::load("this-machine")?.into_machine(Some((measurement.rates, measurement.memory_bytes)))?;
    let sizes = StepSizes { batch, time, accumulation: 1 };
    let seconds = |compiled: &CompiledProgram, at_a_time: usize| {
        predict_step(compiled, &machine, device.threads(), sizes, at_a_time)
    };
    let rewritten = rewrite_by_default(&program, device.options())?;
    let within =
        |bytes| Plan::within(&device, &rewritten, identity.clone(), options.clone(), &[], bytes, &seconds);

    let (everything, _) = within(usize::MAX)?;
    let (most, activations) = (everything.memory_bound().total(), everything.memory_bound().temporaries);
    let mut percents = vec![100];
    for percent in option("--percent", "60,40").split(',') {
        percents.push(percent.parse::<usize>()?);
    }
    let mut runs = Vec::new();
    for &percent in &percents {
        let (plan, choice) = within(most - activations + activations * percent / 100)?;
        let bytes = plan.memory_bound().total();
        let mut trainer = Trainer::load(&device, plan)?;
        let mut failed = None;
        trainer.initialize(|name| {
            initialize(&program, name, 1).map_err(|error| failed = Some(error)).unwrap_or_default()
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        runs.push((trainer, choice, bytes, Vec::new(), Vec::new()));
    }
    for round in 0..=number("--rounds", "5")? {
        for (trainer, _, _, times, losses) in &mut runs {
            let report = trainer.step(|step, inputs, targets| {
                let token =
                    |at: usize| (diptych_runtime::sampling::random_bits(step, at as u64) % vocab) as i32;
                inputs.iter_mut().enumerate().for_each(|(at, id)| *id = token(at));
                targets.iter_mut().enumerate().for_each(|(at, id)| *id = token(at + 1));
            })?;
            losses.push((report.loss.to_bits(), report.gradient_norm.to_bits()));
            if round > 0 {
                times.push(report.seconds);
            }
        }
    }
    let (default_times, default_seconds, default_losses) =
        (runs[0].3.clone(), runs[0].1.with.1, runs[0].4.clone());
    for (&percent, (_, choice, bytes, times, losses)) in percents.iter().zip(runs).skip(1) {
        let names = choice
            .recomputed
            .iter()
            .map(|value| value.label.map_or_else(|| value.op.name().to_owned(), |label| label.to_string()));
        // Steps lie side by side, so what else the machine does weighs on both alike.
        let ratios = times.iter().zip(&default_times).map(|(time, default)| time / default).collect();
        println!(
            "{}",
            serde_json::json!({
                "percent_of_activations": percent,
                "allowed_bytes": most - activations + activations * percent / 100,
                "bytes": bytes,
                "default_bytes": most,
                "sequences_at_a_time": choice.at_a_time,
                "recomputed": names.collect::<Vec<_>>(),
                "predicted_ratio": choice.with.1 / default_seconds,
                "measured_ratio": median(ratios),
                "same_losses_and_norms": losses == default_losses,
            })
        );
    }
    Ok(())
}
