//! Training and serving want different forms of latent attention: the choice between them, over ratios of tokens.

use diptych_codegen::driver::{CompiledProgram, Rewriting, objective, rewrite};
use diptych_codegen::entry::EntryOptions;
use diptych_cost::{
    Machine, Target, predict_binding,
    ratios::{ratios, sweep_ratios},
};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::algebra::{Binding, Numerics, Objective};

const OPTIONS: EntryOptions = EntryOptions::new(16, 144, 2);

fn machine() -> Machine {
    Target::load("reference-cpu").unwrap().into_machine(None).unwrap()
}

/// Long sequences are trained, where absorbed attention is dear; at 512 positions decoding is bound by the cache.
fn sizes() -> Objective {
    Objective {
        bindings: vec![
            Binding::new(EntryKind::Train, 2, 1024, 1024, 1.0),
            Binding::new(EntryKind::Prefill, 1, 256, 256, 0.5),
            Binding::new(EntryKind::Decode, 8, 1, 512, 0.5),
        ],
        ..objective()
    }
}

#[test]
fn the_choice_flips_once_and_never_costs_more_than_a_single_minded_one() {
    let program = build(&*Registry::zoo().preset("latent-512").unwrap()).unwrap();
    let machine = machine();
    let seconds =
        |compiled: &CompiledProgram, binding: &Binding| Ok(predict_binding(compiled, binding, &machine, 2));
    let sweep = sweep_ratios(&program, &sizes(), Numerics::Same, &ratios(21), &seconds, OPTIONS).unwrap();

    let (training, serving) = (sweep.training_only, sweep.serving_only);
    let keeps = |form: usize| sweep.forms[form].keeps();
    assert_ne!(keeps(training), keeps(serving), "there is no conflict to resolve");
    assert!(sweep.cost(training, 0.01) < sweep.cost(serving, 0.01));
    assert!(sweep.cost(serving, 1e3) < sweep.cost(training, 1e3));
    for point in &sweep.points {
        let cost = sweep.cost(point.chosen, point.ratio);
        let better = sweep.cost(training, point.ratio).min(sweep.cost(serving, point.ratio));
        assert!(cost <= better * (1.0 + 1e-9), "at {}: {cost} is more than {better}", point.ratio);
    }

    // As more is served, serving never gets slower, but for what the additive model takes for better; and what serving
    // alone would keep is kept from some ratio on.
    let served = |form: usize| sweep.seconds_per_token(f64::INFINITY, sweep.forms[form].seconds());
    let trained = |form: usize| sweep.seconds_per_token(0.0, sweep.forms[form].seconds());
    for (before, after) in sweep.flips() {
        assert!(served(after.chosen) <= served(before.chosen) * 1.01, "{before:?} to {after:?}");
        assert!(trained(after.chosen) >= trained(before.chosen) * 0.99, "{before:?} to {after:?}");
    }
    let as_served = |form: usize| keeps(form) == keeps(serving);
    let pairs = sweep.points.windows(2);
    let changes = pairs.filter(|pair| as_served(pair[0].chosen) != as_served(pair[1].chosen));
    assert_eq!(changes.count(), 1);
    assert_eq!(keeps(sweep.points[0].chosen), keeps(training));
    assert_eq!(keeps(sweep.points[20].chosen), keeps(serving));

    // The sweep shows what a program is compiled to when it is compiled for that ratio alone.
    for point in [sweep.points[0], sweep.points[20]] {
        let rewriting =
            Rewriting { objective: sweep.at(point.ratio), seconds: Some(&seconds), ..Default::default() };
        let alone = rewrite(&program, &rewriting, OPTIONS).unwrap();
        let (found, swept) = (&alone.candidates()[0], &sweep.forms[point.chosen]);
        assert_eq!(found.keeps(), swept.keeps());
        let cost = |seconds: &[f64]| sweep.seconds_per_token(point.ratio, seconds);
        let (alone, swept) = (cost(found.seconds()), cost(swept.seconds()));
        assert!((alone / swept - 1.0).abs() < 0.01, "{alone} is not {swept}");
    }
}
