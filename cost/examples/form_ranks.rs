//! How well predictions rank forms: for each model many different forms, each compiled, predicted in the additive model and after fusion,
//! and measured. Printed are Spearman's rank correlation of predicted and measured seconds, for each
//! entry and for all together, and the regret: what the form that a model of cost picks takes over the fastest.
//!
//! `cargo run --release -p diptych-cost --example form_ranks -- [--models bench-latent,latent-512] [--forms 24] [--rounds 6]
//! [--threads 2] [--machine reference-cpu] [--batch 2] [--time 256] [--prompt 256] [--serve-batch 8] [--context 1024] [--all]`
//!
//! Differences below the noise of the measurement are ties: the noise is how much the medians of the even and of
//! the odd rounds of one form differ (the ninth of ten forms), or how much two copies of one form do if that is more.

mod algebra;

use algebra::{Loaded, MODELS, Model, Outcome, head, in_turns, median, ms, number, objective, option, row};
use diptych_codegen::driver::Rewritten;
use diptych_cost::{Machine, Target, predict_binding};
use diptych_ir::Program;
use diptych_passes::algebra::{Form, Numerics, Objective, Variation, forms, varied_forms};
use diptych_runtime::session::Device;
use std::collections::BTreeSet;

/// A form and its figures: seconds of each binding, and of all together.
struct Figures {
    additive: Vec<f64>,
    fused: Vec<f64>,
    measured: Vec<f64>,
}

fn main() -> Outcome<()> {
    let rounds = number("--rounds", 6)?.max(2);
    let device = Device::cpu(Some(number("--threads", 2)?))?;
    let machine = Target::load(&option("--machine", "reference-cpu"))?.into_machine(None)?;
    head(&[
        "model",
        "entry",
        "forms",
        "spread of measured",
        "noise",
        "rank correlation, after fusion",
        "rank correlation, additive",
        "regret, after fusion",
        "regret, additive",
    ]);
    for name in option("--models", MODELS).split(',') {
        let start = std::time::Instant::now();
        ranks(&Model::load(name)?, &device, &machine, rounds)?;
        eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The rows of a model.
fn ranks(model: &Model, device: &Device, machine: &Machine, rounds: usize) -> Outcome<()> {
    let bindings = model.bindings((2, 256), 8, 1024)?;
    let judge = objective(bindings.clone());
    let wanted = number("--forms", 24)?;
    // More than are measured, so that those can be as different as there are.
    let variations = variations(&model.program, &judge)?;
    let found = varied_forms(&model.program, &judge, &variations, 2 * wanted)?;
    let count = found.len();
    let (mut loaded, mut figures, mut last) = (Vec::new(), Vec::new(), None);
    for form in spread(found, &judge, wanted) {
        let additive = form.seconds.clone();
        let rewritten = Rewritten::of_form(form, Some(judge.clone()));
        let form = Loaded::new(device, model, &rewritten, &bindings)?;
        last = Some(rewritten);
        let predict = |binding| predict_binding(&form.session.compiled, binding, machine, device.threads());
        let fused = bindings.iter().map(predict).collect();
        figures.push(Figures { additive, fused, measured: Vec::new() });
        loaded.push(form);
    }
    // One of them once more, in memory of its own.
    if let Some(rewritten) = &last {
        loaded.push(Loaded::new(device, model, rewritten, &bindings)?);
    }
    let mut noises = Vec::new();
    let mut halves = vec![[0.0; 2]; loaded.len()];
    for binding in &bindings {
        let mut turns: Vec<&mut Loaded> = loaded.iter_mut().collect();
        let times = in_turns(device, &mut turns, binding.entry, rounds);
        let of_binding: Vec<[f64; 2]> = times.iter().map(|times| [half(times, 0), half(times, 1)]).collect();
        noises.push(noise(&of_binding));
        for (halves, of_binding) in halves.iter_mut().zip(&of_binding) {
            *halves = [0, 1].map(|at| halves[at] + binding.runs() * of_binding[at]);
        }
        for (figures, times) in figures.iter_mut().zip(&times) {
            figures.measured.push(median(times));
        }
    }
    noises.push(noise(&halves));
    for figures in &mut figures {
        for seconds in [&mut figures.additive, &mut figures.fused, &mut figures.measured] {
            seconds.push(judge.total(seconds));
        }
    }
    if std::env::args().any(|argument| argument == "--all") {
        write_all(&figures);
    }
    let names = bindings.iter().map(|binding| binding.entry.name()).chain(["all together"]);
    for (at, (name, noise)) in names.zip(noises).enumerate() {
        let of = |seconds: fn(&Figures) -> &Vec<f64>| -> Vec<f64> {
            figures.iter().map(|figures| seconds(figures)[at]).collect()
        };
        let (measured, fused, additive) =
            (of(|figures| &figures.measured), of(|figures| &figures.fused), of(|figures| &figures.additive));
        let (least, most) = bounds(&measured);
        row([
            model.name.clone(),
            name.to_owned(),
            format!("{} of {count}", figures.len()),
            format!("{} to {} ms", ms(least), ms(most)),
            format!("{:.1}%", noise * 100.0),
            correlation(&fused, &measured, noise),
            correlation(&additive, &measured, noise),
            format!("{:.3}", regret(&fused, &measured)),
            format!("{:.3}", regret(&additive, &measured)),
        ]);
    }
    Ok(())
}

/// Objectives that want different forms: rates over decades, so that now arithmetic and now memory is dear; more
/// training or more serving, of prompts or of tokens; weights derived at load or in each run. Then the plain ones without
/// one rule of those that brought something.
fn variations(program: &Program, judge: &Objective) -> Outcome<Vec<Variation>> {
    let vary = |rate: f64, weights: [f64; 3], derived_at_load, without| {
        let mut objective = judge.clone();
        objective.derived_at_load = derived_at_load;
        objective.bytes_per_second *= rate;
        objective.bindings.iter_mut().zip(weights).for_each(|(binding, weight)| binding.tokens *= weight);
        Variation { objective, numerics: Numerics::Fast, without }
    };
    let mut found = Vec::new();
    for rate in [1.0, 1e-2, 1e2] {
        for weights in [[1.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] {
            found.extend([true, false].map(|at_load| vary(rate, weights, at_load, Vec::new())));
        }
    }
    let of_judge = forms(program, judge, Numerics::Same)?;
    let reports = of_judge.forms.iter().take(1).flat_map(|form| &form.parts).map(|part| &part.report);
    let fired: BTreeSet<&'static str> =
        reports.flat_map(|report| &report.regions).flat_map(|region| region.fired.keys().copied()).collect();
    found.extend(fired.into_iter().map(|rule| vary(1.0, [1.0; 3], true, vec![rule])));
    Ok(found)
}

/// So many of the forms, evenly from the cheapest to the dearest in the additive model.
fn spread(mut forms: Vec<Form>, judge: &Objective, count: usize) -> Vec<Form> {
    forms.sort_by(|a, b| judge.total(&a.seconds).total_cmp(&judge.total(&b.seconds)));
    let all = forms.len();
    let wanted: Vec<usize> =
        (0..count.min(all)).map(|at| at * (all - 1) / (count.min(all) - 1).max(1)).collect();
    let kept = forms.into_iter().enumerate().filter(|(at, _)| wanted.contains(at));
    kept.map(|(_, form)| form).collect()
}

/// The median of every other round.
fn half(times: &[f64], start: usize) -> f64 {
    median(&times.iter().skip(start).step_by(2).copied().collect::<Vec<_>>())
}

/// The relative difference that means nothing, given two figures of each form, the last two forms being one.
fn noise(halves: &[[f64; 2]]) -> f64 {
    let apart = |a: f64, b: f64| (a - b).abs() / a.min(b);
    let mut within: Vec<f64> = halves.iter().map(|[a, b]| apart(*a, *b)).collect();
    within.sort_by(f64::total_cmp);
    let most = within.get((within.len() * 9 / 10).min(within.len() - 1)).copied().unwrap_or(0.0);
    let means: Vec<f64> = halves.iter().map(|[a, b]| (a + b) / 2.0).collect();
    means.last_chunk::<2>().map_or(most, |[a, b]| most.max(apart(*a, *b)))
}

/// Ranks from 1 on. What differs by less than the noise from the least of a group belongs to it, and all of a group have
/// the mean of their ranks.
fn ranked(values: &[f64], noise: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let within = |&&at: &&usize| values[at] <= values[order[start]] * (1.0 + noise);
        let end = start + order[start..].iter().take_while(within).count();
        let mean = (start + 1 + end) as f64 / 2.0;
        order[start..end].iter().for_each(|&at| ranks[at] = mean);
        start = end;
    }
    ranks
}

/// Spearman's: the correlation of ranks. There is none where all are tied.
fn correlation(predicted: &[f64], measured: &[f64], noise: f64) -> String {
    let (a, b) = (ranked(predicted, noise), ranked(measured, noise));
    let mean = |ranks: &[f64]| ranks.iter().sum::<f64>() / ranks.len() as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let product = |x: &[f64], y: &[f64], mx: f64, my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    let spread = product(&a, &a, mean_a, mean_a) * product(&b, &b, mean_b, mean_b);
    if spread == 0.0 {
        return "all tied".to_owned();
    }
    format!("{:.2}", product(&a, &b, mean_a, mean_b) / spread.sqrt())
}

/// What the form with the least prediction takes, over the fastest.
fn regret(predicted: &[f64], measured: &[f64]) -> f64 {
    let picked = predicted.iter().zip(measured).min_by(|a, b| a.0.total_cmp(b.0)).map(|pair| *pair.1);
    picked.unwrap_or(f64::NAN) / bounds(measured).0
}

fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(least, most), &x| (x.min(least), x.max(most)))
}

/// The figures of every form: of each entry, and of all together.
fn write_all(figures: &[Figures]) {
    for Figures { additive, fused, measured } in figures {
        let cells = additive.iter().zip(fused).zip(measured);
        let cells: Vec<String> =
            cells.map(|((a, f), m)| format!("{}, {}, {}", ms(*a), ms(*f), ms(*m))).collect();
        eprintln!("additive, after fusion, measured: {}", cells.join("; "));
    }
}
