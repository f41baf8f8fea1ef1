//! Which form of a model is chosen as the tokens served for each token trained go up, and what it costs beside the
//! forms that are best for training alone and for serving alone: predicted over the sweep; measured at three ratios,
//! far below, near and far above the one at which the choice changes.
//!
//! `cargo run --release -p diptych-cost --example token_ratios -- [--model latent-512] [--numerics same|fast] [--points 21]
//! [--rounds 7] [--threads 2] [--machine reference-cpu] [--batch 2] [--time 1024] [--prompt 256] [--serve-batch 8]
//! [--context 512]`

mod algebra;

use algebra::{Loaded, Model, Outcome, head, in_turns, median, ms, number, objective, option, row};
use diptych_codegen::driver::{Candidate, Rewritten};
use diptych_cost::ratios::{RatioSweep, ratios, sweep_ratios};
use diptych_cost::{Target, predict_binding};
use diptych_passes::algebra::{Binding, Numerics};
use diptych_runtime::session::Device;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

fn main() -> Outcome<()> {
    let device = Device::cpu(Some(number("--threads", 2)?))?;
    let machine = Target::load(&option("--machine", "reference-cpu"))?.into_machine(None)?;
    let model = Model::load(&option("--model", "latent-512"))?;
    let bindings = model.bindings((2, 1024), 8, 512)?;
    let numerics = match option("--numerics", "same").as_str() {
        "same" => Numerics::Same,
        "fast" => Numerics::Fast,
        other => return Err(format!("--numerics {other}: it is `same` or `fast`").into()),
    };
    let asked = ratios(number("--points", 21)?);
    let sweep = sweep_ratios(
        &model.program,
        &objective(bindings.clone()),
        numerics,
        &asked,
        &|compiled, binding| Ok(predict_binding(compiled, binding, &machine, device.threads())),
        device.options(),
    )?;
    println!("Forms, with predicted milliseconds of a run:\n");
    let entries = bindings.iter().map(|binding| binding.entry.name());
    head(&["form", "keeps"].into_iter().chain(entries).collect::<Vec<_>>());
    for (at, form) in sweep.forms.iter().enumerate() {
        let seconds = form.seconds().iter().map(|&seconds| ms(seconds));
        row([name(&sweep, at), form.keeps().join(", ")].into_iter().chain(seconds));
    }
    println!("\nPredicted milliseconds a token:\n");
    head(&["served per trained", "chosen", "its cost", "best for training alone", "best for serving alone"]);
    let single_minded = [sweep.training_only, sweep.serving_only];
    for point in &sweep.points {
        let costs = [point.chosen].into_iter().chain(single_minded).map(|form| sweep.cost(form, point.ratio));
        let cells = [format!("{:.3}", point.ratio), name(&sweep, point.chosen)];
        row(cells.into_iter().chain(costs.map(ms)));
    }
    let rounds = number("--rounds", 7)?;
    if rounds > 0 {
        measure(&sweep, &model, &bindings, &device, rounds)?;
    }
    Ok(())
}

fn name(sweep: &RatioSweep, form: usize) -> String {
    let of = [(sweep.training_only, " (training alone)"), (sweep.serving_only, " (serving alone)")];
    let notes = of.into_iter().filter(|(single, _)| *single == form).map(|(_, note)| note);
    format!("{}{}", form + 1, notes.collect::<String>())
}

/// Times each form that matters once, and weighs its entries for three ratios.
fn measure(
    sweep: &RatioSweep,
    model: &Model,
    bindings: &[Binding],
    device: &Device,
    rounds: usize,
) -> Outcome<()> {
    // Where what is kept changes; if nothing does, in the middle.
    let keeps = |at: usize| sweep.forms[sweep.points[at].chosen].keeps();
    let flip = (1..sweep.points.len()).find(|&at| keeps(at) != keeps(at - 1));
    let near = flip.unwrap_or(sweep.points.len() / 2);
    let three = [0, near, sweep.points.len().saturating_sub(1)].map(|at| sweep.points[at]);
    let mut loaded: BTreeMap<usize, Loaded> = BTreeMap::new();
    for form in three.iter().map(|point| point.chosen).chain([sweep.training_only, sweep.serving_only]) {
        if let Entry::Vacant(place) = loaded.entry(form) {
            let Candidate { form, backward, .. } = sweep.forms[form].clone();
            place.insert(Loaded::new(device, model, &Rewritten::of_form(form, backward), bindings)?);
        }
    }
    let mut measured: BTreeMap<usize, Vec<f64>> = loaded.keys().map(|&form| (form, Vec::new())).collect();
    for binding in bindings {
        let mut turns: Vec<&mut Loaded> = loaded.values_mut().collect();
        let times = in_turns(device, &mut turns, binding.entry, rounds);
        measured.values_mut().zip(times).for_each(|(of_form, times)| of_form.push(median(&times)));
    }
    println!("\nMeasured milliseconds of a run (median of {rounds} rounds, all forms in turns):\n");
    head(&["form"].into_iter().chain(bindings.iter().map(|b| b.entry.name())).collect::<Vec<_>>());
    for (&form, seconds) in &measured {
        row([name(sweep, form)].into_iter().chain(seconds.iter().map(|&seconds| ms(seconds))));
    }
    println!("\nMeasured milliseconds a token:\n");
    head(&["served per trained", "chosen", "its cost", "best for training alone", "best for serving alone"]);
    for point in three {
        let cost = |form: usize| ms(sweep.seconds_per_token(point.ratio, &measured[&form]));
        row([
            format!("{:.3}", point.ratio),
            name(sweep, point.chosen),
            cost(point.chosen),
            cost(sweep.training_only),
            cost(sweep.serving_only),
        ]);
    }
    Ok(())
}
