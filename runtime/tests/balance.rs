//! The load of experts in training: what the selection bias and the load-balance loss do to it, against
//! numbers worked out by hand and whatever way a batch is cut; and that nothing else computes either.

use diptych_codegen::driver::compile_program;
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::session::Device;
use diptych_runtime::train::{ModelIdentity, TrainOptions, Trainer};
use serde_json::{Value, json};

const TIME: usize = 16;
const EXPERTS: usize = 4;

/// One layer of four experts; each of the four tokens is a unit vector.
fn model(change: Value) -> (Program, ModelIdentity) {
    let mut config = json!({
        "vocab": 4, "context": TIME, "layers": 1, "embed": 4, "heads": 1, "experts": EXPERTS, "chosen": 1,
        "expert_hidden": 8,
    });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let architecture = Registry::zoo().architecture("moe", &config).unwrap();
    let identity = ModelIdentity { family: "moe".into(), config: architecture.describe(), context: TIME };
    (build(&*architecture).unwrap(), identity)
}

fn trainer<'d>(device: &'d Device, model: Value, options: Value) -> Trainer<'d> {
    let mut all = json!({
        "batch": 2, "time": TIME, "steps": 400, "seed": 3,
        "schedule": { "kind": "constant", "peak": 1e-9, "warmup_steps": 0, "total_steps": 400 },
    });
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let (program, identity) = self::model(model);
    let experts = identity.config["experts"].as_u64().unwrap() as usize;
    let options: TrainOptions = serde_json::from_value(all).unwrap();
    let mut trainer = Trainer::new(device, &program, identity, options).unwrap();
    // Attention adds nothing, so that the router sees the token alone.
    let unit = |at: usize| if at / 4 == at % 4 { 1.0 } else { 0.0 };
    trainer
        .initialize(|name| match name {
            "embedding" => (0..16).map(unit).collect(),
            "layers.o" => vec![0.0; 16],
            // [expert, embed]: tokens 0 and 1 prefer expert 0, token 2 expert 1, token 3 expert 2, none expert 3.
            "layers.router" => {
                [[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
                    [..experts]
                    .concat()
            }
            name => initialize(&program, name, 3).unwrap(),
        })
        .unwrap();
    trainer
}

fn parameter(trainer: &Trainer<'_>, name: &str) -> Vec<f32> {
    trainer.session().store.get(Symbol::new(name)).unwrap()
}

/// Fills rows with these tokens, over and over; each is its own target.
fn repeated(tokens: &[i32], inputs: &mut [i32], targets: &mut [i32]) {
    for (at, (input, target)) in inputs.iter_mut().zip(targets).enumerate() {
        (*input, *target) = (tokens[at % tokens.len()], tokens[at % tokens.len()]);
    }
}

#[test]
fn an_even_load_moves_no_bias_however_a_batch_is_cut() {
    let device = Device::cpu(Some(2)).unwrap();
    // A third is no number in binary.
    let model = json!({ "experts": 3, "scores": "sigmoid", "selection_bias": true, "bias_rate": 0.25 });
    for batch in [3, 1] {
        let options = json!({ "batch": batch, "accumulation": 3 / batch });
        let mut trainer = trainer(&device, model.clone(), options);
        let step = trainer.step(|micro, inputs, targets| {
            let rows = inputs.chunks_exact_mut(TIME).zip(targets.chunks_exact_mut(TIME));
            for (at, (inputs, targets)) in rows.enumerate() {
                // Six tokens of one kind and five of each other; all sequences together have 16 of each. Tokens 0 and
                // 1 have the same expert, so token 1 is left out.
                let kinds = [0, 2, 3];
                let tokens = [0, 1, 2].map(|next| kinds[(micro as usize * batch + at + next) % 3]);
                repeated(&tokens, inputs, targets);
            }
        });
        step.unwrap();
        assert_eq!(parameter(&trainer, "gradient.layers.router.bias"), [0.0; 3], "{batch} at a time");
        assert_eq!(parameter(&trainer, "layers.router.bias"), [0.0; 3], "{batch} at a time");
    }
}

#[test]
fn the_bias_goes_against_the_excess_of_load() {
    let device = Device::cpu(Some(2)).unwrap();
    let model = json!({ "scores": "sigmoid", "selection_bias": true, "bias_rate": 0.25 });
    // The gradient is four times the excess, since there are four experts.
    let mut even = trainer(&device, model.clone(), json!({}));
    // 16, 8, 8 and 0 of 32 tokens, where the mean is 8.
    even.step(|_, inputs, targets| repeated(&[0, 1, 2, 3], inputs, targets)).unwrap();
    assert_eq!(parameter(&even, "gradient.layers.router.bias"), [32.0, 0.0, 0.0, -32.0]);
    assert_eq!(parameter(&even, "layers.router.bias"), [-0.25, 0.0, 0.0, 0.25]);
    // sigmoid(4) - 0.25 is less than sigmoid(0) + 0.25: tokens 0 and 1 go to expert 3 from now on, and the bias turns.
    even.step(|_, inputs, targets| repeated(&[0, 1, 2, 3], inputs, targets)).unwrap();
    assert_eq!(parameter(&even, "gradient.layers.router.bias"), [-32.0, 0.0, 0.0, 32.0]);
    assert_eq!(parameter(&even, "layers.router.bias"), [0.0; EXPERTS]);

    // Micro-batches count together: 24, 0, 8 and 0 tokens, then 0, 0, 32 and 0; the mean is 16.
    let mut cut = trainer(&device, model.clone(), json!({ "accumulation": 2 }));
    let report = cut.step(|micro, inputs, targets| match micro {
        0 => repeated(&[0, 1, 0, 3], inputs, targets),
        _ => repeated(&[3], inputs, targets),
    });
    assert_eq!(parameter(&cut, "gradient.layers.router.bias"), [32.0, -64.0, 96.0, -64.0]);
    assert_eq!(parameter(&cut, "layers.router.bias"), [-0.25, 0.25, -0.25, 0.25]);
    let report = report.unwrap();
    assert_eq!(report.auxiliary_loss, Some(0.0), "the bias adds nothing to the loss");
    // The norm is that of the other gradients, which are there one by one if the batch is not cut.
    let mut whole = trainer(&device, model, json!({ "batch": 4 }));
    let of_whole = whole.step(|_, inputs, targets| {
        let (first, rest) = inputs.split_at_mut(2 * TIME);
        let (first_targets, rest_targets) = targets.split_at_mut(2 * TIME);
        repeated(&[0, 1, 0, 3], first, first_targets);
        repeated(&[3], rest, rest_targets);
    });
    assert_eq!(of_whole.unwrap().gradient_norm, report.gradient_norm);
    let norm: f64 = whole
        .session()
        .store
        .names()
        .filter(|name| name.as_str().starts_with("gradient.") && !name.as_str().ends_with("router.bias"))
        .flat_map(|name| parameter(&whole, name.as_str()))
        .map(|x| f64::from(x).powi(2))
        .sum();
    assert!((report.gradient_norm / norm.sqrt() - 1.0).abs() < 1e-5, "{report:?}, {}", norm.sqrt());

    let fixed = json!({ "scores": "sigmoid", "selection_bias": true, "bias_rate": 0.0 });
    let mut fixed = trainer(&device, fixed, json!({}));
    fixed.step(|_, inputs, targets| repeated(&[0, 1, 2, 3], inputs, targets)).unwrap();
    assert_eq!(parameter(&fixed, "layers.router.bias"), [0.0; EXPERTS]);
}

#[test]
fn the_loss_is_that_of_each_sequence_however_a_batch_is_cut() {
    let device = Device::cpu(Some(2)).unwrap();
    let model = json!({ "balance_loss": 0.5 });
    // Norms make a unit vector twice as long: the preferred logit is 4, the others are 0.
    let preferred = 4f64.exp() / (4f64.exp() + 3.0);
    let rest = (1.0 - preferred) / 3.0;
    // Sequences of one token each: all to one expert, whose probability is `preferred`. Then one of all four tokens.
    let alone = 4.0 * preferred;
    let shares = [0.5, 0.25, 0.25];
    let mixed: f64 = shares.iter().map(|f| 4.0 * f * (f * preferred + (1.0 - f) * rest)).sum();
    let expected = 0.5 * (3.0 * alone + mixed) / 4.0;
    let rows = |at: usize, inputs: &mut [i32], targets: &mut [i32]| match at {
        3 => repeated(&[0, 1, 2, 3], inputs, targets),
        at => repeated(&[at as i32], inputs, targets),
    };
    let run = |batch: usize| {
        let mut trainer =
            trainer(&device, model.clone(), json!({ "batch": batch, "accumulation": 4 / batch }));
        let report = trainer.step(|micro, inputs, targets| {
            let pieces = inputs.chunks_exact_mut(TIME).zip(targets.chunks_exact_mut(TIME));
            pieces
                .enumerate()
                .for_each(|(at, (inputs, targets))| rows(micro as usize * batch + at, inputs, targets));
        });
        let found = report.unwrap().auxiliary_loss.unwrap();
        assert!((found / expected - 1.0).abs() < 1e-4, "batches of {batch}: {found}, not {expected}");
        parameter(&trainer, "gradient.layers.router")
    };
    let whole = run(4);
    for batch in [1, 2] {
        let largest = whole.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for (a, b) in whole.iter().zip(run(batch)) {
            assert!((a - b).abs() < 1e-5 * largest, "batches of {batch}: {a} and {b}");
        }
    }
}

/// The largest share of the load that an expert has in so many steps, of two choices for each of 32 tokens.
fn largest_share(
    trainer: &mut Trainer<'_>,
    steps: usize,
    mut text: impl FnMut(u64, &mut [i32], &mut [i32]),
) -> f32 {
    let mut shares = [0.25; EXPERTS];
    for _ in 0..steps {
        trainer.step(&mut text).unwrap();
        let excess = parameter(trainer, "gradient.layers.router.bias");
        // Four times the excess, since there are four experts.
        shares.iter_mut().zip(excess).for_each(|(share, excess)| *share += excess / (4 * 64 * steps) as f32);
    }
    shares.into_iter().fold(0.0, f32::max)
}

#[test]
fn an_uneven_router_evens_out() {
    let device = Device::cpu(Some(2)).unwrap();
    let all = |_: u64, inputs: &mut [i32], targets: &mut [i32]| repeated(&[0, 1, 2, 3], inputs, targets);
    // By the bias alone: weights do not move.
    let model = json!({ "scores": "sigmoid", "selection_bias": true, "bias_rate": 0.005, "chosen": 2 });
    let mut biased = trainer(&device, model, json!({}));
    let before = largest_share(&mut biased, 1, all);
    for _ in 1..200 {
        biased.step(all).unwrap();
    }
    let after = largest_share(&mut biased, 50, all);
    assert!(before == 0.5 && after < 0.27, "{before} to {after} of the load, where a quarter is even");

    // By the loss: against a run in which it weighs nothing.
    let schedule = json!({ "kind": "constant", "peak": 0.01, "warmup_steps": 0, "total_steps": 400 });
    let unevenness = |coefficient: f64| {
        let model = json!({ "balance_loss": coefficient, "standard_deviation": 0.3 });
        let mut run = trainer(&device, model, json!({ "schedule": schedule }));
        let first = run.step(all).unwrap().auxiliary_loss.unwrap() / coefficient;
        let last =
            (0..24).map(|_| run.step(all).unwrap()).last().unwrap().auxiliary_loss.unwrap() / coefficient;
        (first, last)
    };
    let (first, without) = unevenness(1e-6);
    let (again, with) = unevenness(1.0);
    assert!((first / again - 1.0).abs() < 1e-3, "{first} and {again}");
    assert!(
        first > 1.4 && without > 1.25 && with < 1.1,
        "{first} became {without} without, {with} with the loss"
    );
}

#[test]
fn only_training_computes_what_balances() {
    let device = Device::cpu(Some(1)).unwrap();
    let serving = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let training = [EntryKind::Train, EntryKind::Update];
    let kernels = |change: Value, kinds: &[EntryKind]| {
        let (program, _) = model(change);
        let compiled = compile_program(&program, kinds, &AdamWOptions::default(), device.options()).unwrap();
        let of = |kind: EntryKind| {
            let programs = &compiled.entries[&kind].programs;
            let mut notes: Vec<String> =
                programs.iter().map(|program| format!("{} {:?}", program.name, program.body)).collect();
            notes.sort();
            notes
        };
        let train = kinds.contains(&EntryKind::Train).then(|| of(EntryKind::Train));
        (serving.map(of), train)
    };
    let balanced = json!({ "selection_bias": true, "balance_loss": 0.1 });
    let plain = json!({ "selection_bias": true, "bias_rate": 0.0 });
    let all = [&serving[..], &training].concat();
    let (trained, with) = kernels(balanced.clone(), &all);
    let (served, _) = kernels(balanced, &serving);
    let (bare, without) = kernels(plain, &all);
    assert_eq!(trained, bare, "beside training");
    assert_eq!(served, bare, "alone");
    let scans = |kernels: Option<Vec<String>>| {
        kernels.unwrap().iter().filter(|kernel| kernel.starts_with("scan_")).count()
    };
    assert_eq!((scans(with), scans(without)), (2, 0), "forward and backward");
}
