//! Training as a user has it: it learns, gives the same bits however it is cut
//! up in threads and interruptions, allocates nothing in a step, and refuses
//! what is not its own without touching anything.

#[path = "support/runs.rs"]
mod runs;

use diptych_codegen::driver::{CompiledProgram, rewrite_by_default};
use diptych_ir::{EntryKind, Program};
use diptych_models::initialize;
use diptych_passes::layout::Layouts;
use diptych_runtime::executor::ParameterStore;
use diptych_runtime::session::Device;
use diptych_runtime::train::{
    ModelIdentity, Plan, SavedModel, TrainError, TrainOptions, Trainer, load_parameters,
};
use runs::{TIME, WINDOWS, model, options, text, token};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn llama(change: Value) -> (Program, ModelIdentity) {
    model("llama", "llama-tiny", change)
}

fn device(threads: usize) -> Device {
    Device::cpu(Some(threads)).unwrap()
}

fn trainer<'d>(device: &'d Device, change: Value) -> Trainer<'d> {
    trainer_of(device, ("llama", "llama-tiny"), change)
}

/// Families whose steps differ in kind: attention alone, with recurrences, with experts, and with experts whose load a
/// bias and a loss balance.
const FAMILIES: [(&str, &str); 6] = [
    ("llama", "llama-tiny"),
    ("hybrid", "hybrid-tiny"),
    ("hybrid", "gated-linear-tiny"),
    ("hybrid", "mamba2-tiny"),
    ("moe", "moe-tiny"),
    ("moe", "moe-latent-tiny"),
];

fn trainer_of<'d>(device: &'d Device, (family, preset): (&str, &str), change: Value) -> Trainer<'d> {
    // One at a time, so that the first fills the cache of kernels for all others.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (program, identity) = model(family, preset, json!({}));
    let mut trainer = Trainer::new(device, &program, identity, options(change)).unwrap();
    trainer.initialize(|name| initialize(&program, name, 3).unwrap()).unwrap();
    trainer
}

/// All parameters and moments.
fn numbers(trainer: &Trainer<'_>) -> Vec<(String, Vec<f32>)> {
    let store = &trainer.session().store;
    let names = store.names().filter(|name| !name.as_str().starts_with("gradient"));
    names.map(|name| (name.to_string(), store.get(name).unwrap())).collect()
}

fn bits(trainer: &Trainer<'_>) -> Vec<(String, Vec<u32>)> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    numbers(trainer).into_iter().map(|(name, values)| (name, bits(values))).collect()
}

#[test]
fn a_text_is_learned_by_heart() {
    let device = device(2);
    let schedule = json!({ "kind": "cosine", "peak": 0.02, "warmup_steps": 10, "total_steps": 150 });
    let mut trainer = trainer(&device, json!({ "batch": WINDOWS, "steps": 150, "schedule": schedule }));
    let mut counts = [0.0f64; 97];
    (0..WINDOWS * TIME).for_each(|at| counts[token(at + 1) as usize] += 1.0 / (WINDOWS * TIME) as f64);
    let entropy: f64 = counts.iter().filter(|&&share| share > 0.0).map(|share| -share * share.ln()).sum();
    let evaluate = |trainer: &mut Trainer<'_>, ragged: bool| {
        let scores = trainer.evaluate(WINDOWS + 1, |window, inputs, targets| {
            assert_eq!((inputs.len(), targets.len()), (TIME, TIME));
            text(window as u64, inputs, targets);
            let length = if ragged { TIME - 5 * window } else { TIME };
            targets[length - 1] = if ragged { -1 } else { targets[length - 1] };
            length
        });
        scores.unwrap()
    };
    let before = evaluate(&mut trainer, false);
    let first = trainer.step(text).unwrap();
    let mean: f64 = before[..WINDOWS].iter().map(|score| score.log_probability).sum();
    assert!((-mean / (WINDOWS * TIME) as f64 / first.loss - 1.0).abs() < 1e-6, "{mean} {first:?}");
    let mut last = first;
    while trainer.steps_done() < trainer.options().total_steps() {
        last = trainer.step(text).unwrap();
    }
    assert!(
        first.loss > entropy && last.loss < 0.3 * entropy,
        "{} to {} of {entropy}",
        first.loss,
        last.loss
    );
    assert_eq!(trainer.tokens_seen() as usize, 150 * WINDOWS * TIME);

    // A window's score does not depend on which windows it is scored with; a shorter one has less of the sum.
    let (whole, ragged) = (evaluate(&mut trainer, false), evaluate(&mut trainer, true));
    assert_eq!(whole[0], whole[WINDOWS]);
    for (window, (whole, ragged)) in whole.iter().zip(&ragged).enumerate() {
        assert_eq!(ragged.tokens as usize, TIME - 5 * window - 1);
        assert!(ragged.log_probability > whole.log_probability);
    }
}

#[test]
fn micro_batches_change_no_bit() {
    let device = device(2);
    let mixed = [("llama", "llama-tiny", json!({ "dtype": "bf16" }))];
    let presets = [
        ("gpt2", "gpt2-tiny"),
        ("llama", "llama-tiny"),
        ("mla", "mla-tiny"),
        ("moe", "moe-tiny"),
        ("moe", "moe-latent-tiny"),
        ("hybrid", "hybrid-tiny"),
        ("hybrid", "gated-linear-tiny"),
        ("hybrid", "mamba2-tiny"),
    ];
    let presets = presets.map(|(family, preset)| (family, preset, json!({})));
    for (family, preset, change) in presets.into_iter().chain(mixed) {
        let run = |batch: usize, clip_norm: Option<f64>| {
            let optimizer = json!({ "clip_norm": clip_norm });
            let accumulation = WINDOWS / batch;
            let options =
                options(json!({ "batch": batch, "accumulation": accumulation, "optimizer": optimizer }));
            let (program, identity) = model(family, preset, change.clone());
            let plan = Plan::new(
                &device,
                &rewrite_by_default(&program, device.options()).unwrap(),
                identity,
                options,
                &[],
            )
            .unwrap();
            let added = plan.compiled().entries.get(&EntryKind::Accumulate).map(|entry| entry.added.clone());
            assert_eq!(added.unwrap_or_default(), [], "{preset}");
            let at_once = plan.compiled().entries.contains_key(&EntryKind::Step);
            assert_eq!(at_once, accumulation == 1 && clip_norm.is_none(), "{preset}");
            let mut trainer = Trainer::load(&device, plan).unwrap();
            trainer.initialize(|name| initialize(&program, name, 3).unwrap()).unwrap();
            let reports: Vec<[u64; 2]> = (0..2)
                .map(|_| trainer.step(text).unwrap())
                .map(|report| [report.loss.to_bits(), report.gradient_norm.to_bits()])
                .collect();
            (reports, bits(&trainer))
        };
        for (clip_norm, batches) in [(Some(1.0), &[1, 2][..]), (None, &[2])] {
            let whole = run(WINDOWS, clip_norm);
            for &batch in batches {
                let (reports, found) = run(batch, clip_norm);
                for (expected, found) in whole.1.iter().zip(&found) {
                    assert!(expected == found, "{preset} {change}, {batch} at a time: {} differs", found.0);
                }
                assert_eq!(whole.0, reports, "{preset} {change}, {batch} at a time");
            }
        }
    }
}

#[test]
fn threads_change_no_bit_of_a_step_in_one() {
    let run = |family, threads| {
        let device = device(threads);
        let mut trainer = trainer_of(&device, family, json!({ "optimizer": { "clip_norm": null } }));
        assert!(trainer.session().compiled.entries.contains_key(&EntryKind::Step));
        (0..3).for_each(|_| assert!(trainer.step(text).unwrap().gradient_norm > 0.0));
        bits(&trainer)
    };
    for family in FAMILIES.into_iter().chain([("gpt2", "gpt2-tiny")]) {
        let one = run(family, 1);
        for threads in [2, 5] {
            assert!(run(family, threads) == one, "{family:?} with {threads} threads");
        }
    }
}

#[test]
fn a_step_in_one_from_a_loss_that_is_no_number_changes_nothing() {
    let device = device(2);
    let mut trainer = trainer(&device, json!({ "optimizer": { "clip_norm": null } }));
    trainer.step(text).unwrap();
    let (program, _) = llama(json!({}));
    let store = &trainer.session().store;
    let kept: Vec<Vec<f32>> = program.params.keys().map(|&name| store.get(name).unwrap()).collect();
    let mut kept = program.params.keys().map(|name| name.as_str()).zip(kept).collect::<Vec<_>>();
    // A whole parameter, as not every row of an embedding is used.
    kept[0].1.fill(f32::NAN);
    trainer.initialize(|name| kept.iter().find(|row| row.0 == name).unwrap().1.clone()).unwrap();
    let before = bits(&trainer);
    let message = trainer.step(text).unwrap_err().to_string();
    assert!(message.starts_with("step 0: the loss is NaN; the parameters are as they were"), "{message}");
    assert!(bits(&trainer) == before);
}

#[test]
fn a_memory_limit_changes_no_bit() {
    let device = device(2);
    // So many that parts are uneven.
    const BATCH: usize = 7;
    let run = |plan: Plan, program: &Program| {
        let mut trainer = Trainer::load(&device, plan).unwrap();
        trainer.initialize(|name| initialize(program, name, 3).unwrap()).unwrap();
        let losses: Vec<u64> = (0..2).map(|_| trainer.step(text).unwrap().loss.to_bits()).collect();
        (losses, bits(&trainer))
    };
    let unclipped = json!({ "clip_norm": null });
    for (family, preset, optimizer) in [
        ("llama", "llama-tiny", json!({})),
        ("moe", "moe-tiny", json!({})),
        ("gpt2", "gpt2-tiny", unclipped.clone()),
        ("moe", "moe-tiny", unclipped),
    ] {
        let (program, identity) = model(family, preset, json!({}));
        let options = options(json!({ "batch": BATCH, "optimizer": optimizer }));
        let within = |bytes: usize| {
            // As if each part of a batch took a second, and computing again nothing.
            let seconds = |_: &CompiledProgram, at_a_time: usize| BATCH.div_ceil(at_a_time) as f64;
            Plan::within(
                &device,
                &rewrite_by_default(&program, device.options()).unwrap(),
                identity.clone(),
                options.clone(),
                &[],
                bytes,
                &seconds,
            )
        };
        let (plan, choice) = within(usize::MAX).unwrap();
        assert!(choice.at_a_time == BATCH && choice.recomputed.is_empty());
        let most = plan.memory_bound().total();
        let expected = run(plan, &program);
        let Err(TrainError::Memory { least, .. }) = within(1) else {
            panic!("{preset}: nothing was refused")
        };
        assert!(least < most);
        let mut sizes = Vec::new();
        for bytes in [(3 * most + least) / 4, (most + least) / 2, least] {
            let (plan, choice) = within(bytes).unwrap();
            assert!(plan.memory_bound().total() <= bytes, "{preset}: {bytes}");
            sizes.push(choice.at_a_time);
            let found = run(plan, &program);
            assert!(expected == found, "{preset} within {bytes} of {most}, {} at a time", choice.at_a_time);
        }
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[2] == 1, "{preset}: {sizes:?}");
    }
}

#[test]
fn threads_change_no_bit() {
    let run = |family, threads| {
        let device = device(threads);
        let mut trainer = trainer_of(&device, family, json!({ "accumulation": 2 }));
        let reports: Vec<[u64; 2]> = (0..4)
            .map(|_| trainer.step(text).unwrap())
            .map(|report| [report.loss.to_bits(), report.gradient_norm.to_bits()])
            .collect();
        (reports, bits(&trainer))
    };
    for family in FAMILIES {
        assert_eq!(run(family, 1), run(family, 2), "{family:?}");
    }
}

#[test]
fn two_micro_batches_are_one_of_twice_the_size() {
    let device = device(2);
    let mut halves = trainer(&device, json!({ "accumulation": 2 }));
    let mut whole = trainer(&device, json!({ "batch": 4 }));
    for _ in 0..3 {
        let (a, b) = (halves.step(text).unwrap(), whole.step(text).unwrap());
        assert!((a.loss / b.loss - 1.0).abs() < 1e-5 && a.tokens == b.tokens, "{a:?} {b:?}");
        assert!((a.gradient_norm / b.gradient_norm - 1.0).abs() < 1e-4, "{a:?} {b:?}");
    }
    for ((name, a), (_, b)) in numbers(&halves).into_iter().zip(numbers(&whole)) {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let (error, length) = (norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)), norm(&mut b.iter().copied()));
        assert!(error < 1e-3 * length, "{name}: {error} of {length}");
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    FAMILIES.into_iter().for_each(interrupted);
}

fn interrupted(family: (&str, &str)) {
    let folder = tempfile::tempdir().unwrap();
    let device = device(2);
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let mut trainer = trainer_of(&device, family, json!({ "accumulation": 2 }));
    let start = numbers(&trainer);
    let losses: Vec<f64> = (0..6).map(|_| trainer.step(text).unwrap().loss).collect();
    trainer.save(&whole).unwrap();
    for interruption in [1, 3] {
        let value = |name: &str| start.iter().find(|row| row.0 == name).unwrap().1.clone();
        trainer.initialize(value).unwrap();
        (0..interruption).for_each(|step| assert_eq!(trainer.step(text).unwrap().loss, losses[step]));
        trainer.save(&cut).unwrap();
        // Everything else is forgotten.
        trainer.initialize(|name| value(name).iter().map(|x| x + 1.0).collect()).unwrap();
        trainer.step(text).unwrap();
        trainer.resume(&cut).unwrap();
        assert_eq!(trainer.steps_done() as usize, interruption);
        (interruption..6).for_each(|step| assert_eq!(trainer.step(text).unwrap().loss, losses[step]));
        trainer.save(&cut).unwrap();
        assert!(std::fs::read(&cut).unwrap() == std::fs::read(&whole).unwrap(), "cut after {interruption}");
    }
    let saved = SavedModel::read(&cut).unwrap();
    assert_eq!((saved.family.as_str(), &saved.training), (family.0, &Some(trainer.options().clone())));
}

#[test]
fn moments_in_bf16_take_half_the_memory_and_train_as_well() {
    let device = device(2);
    let schedule = json!({ "kind": "cosine", "peak": 0.01, "warmup_steps": 4, "total_steps": 40 });
    for clip_norm in [Some(1.0), None] {
        let run = |moments: &str| {
            let optimizer = json!({ "clip_norm": clip_norm, "moments": moments });
            let options = json!({ "steps": 40, "schedule": schedule, "optimizer": optimizer });
            let mut trainer = trainer(&device, options);
            let losses: Vec<f64> = (0..40).map(|_| trainer.step(text).unwrap().loss).collect();
            let moments = trainer.session().compiled.program.states.keys().copied();
            let moments = moments.filter(|name| !name.as_str().starts_with("gradient"));
            let store = &trainer.session().store;
            let bytes: usize = moments.map(|name| store.stored(name).unwrap().bytes.len()).sum();
            (losses, bytes)
        };
        let ((exact, whole), (rounded, half)) = (run("f32"), run("bf16"));
        assert_eq!(whole, 2 * half);
        assert!(exact != rounded, "nothing was rounded");
        assert!(exact[39] < 0.8 * exact[0], "{exact:?}");
        for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
            assert!((rounded / exact - 1.0).abs() < 0.02, "step {step}: {rounded}, in f32 {exact}");
        }
    }
}

#[test]
fn moments_in_bf16_have_the_same_bits_however_a_run_is_cut_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let start = |device: &Device, change: Value| -> Vec<(String, Vec<u32>)> {
        let optimizer = json!({ "clip_norm": null, "moments": "bf16" });
        let mut all = json!({ "optimizer": optimizer });
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut run = trainer_of(device, ("gpt2", "gpt2-tiny"), all.clone());
        run.step(text).unwrap();
        run.save(&path).unwrap();
        let mut resumed = trainer_of(device, ("gpt2", "gpt2-tiny"), all);
        resumed.resume(&path).unwrap();
        for trainer in [&mut run, &mut resumed] {
            (0..2).for_each(|_| assert!(trainer.step(text).unwrap().loss > 0.0));
        }
        assert!(bits(&run) == bits(&resumed), "an interruption changes bits");
        bits(&run)
    };
    let one = start(&device(1), json!({ "batch": WINDOWS }));
    assert!(start(&device(3), json!({ "batch": WINDOWS })) == one, "threads change bits");
    let parts = json!({ "batch": WINDOWS / 2, "accumulation": 2 });
    assert!(start(&device(2), parts) == one, "micro-batches change bits");
}

#[test]
fn what_is_not_ours_is_refused_by_name_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(1);
    let (checkpoint, export) = (folder.path().join("checkpoint"), folder.path().join("export"));
    let mut run = trainer(&device, json!({}));
    run.step(text).unwrap();
    run.save(&checkpoint).unwrap();
    run.export(&export).unwrap();
    let before = bits(&run);
    let told = |error: diptych_runtime::train::TrainError| {
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };

    // Weights for a model: from the run or from its export, but of that model alone.
    let load = |(program, identity): (Program, ModelIdentity), path: &Path| {
        let mut store = ParameterStore::new(&program, &Layouts::choose(&program), 16, false).unwrap();
        load_parameters(&mut store, &program, &identity, path).map_err(told).map(|()| store)
    };
    for path in [&checkpoint, &export] {
        let store = load(llama(json!({})), path).unwrap();
        let norm = "layers.attention_norm".into();
        assert_eq!(store.get(norm).unwrap(), run.session().store.get(norm).unwrap());
    }
    let refused = |model, path: &Path| load(model, path).map(drop).unwrap_err();
    assert_eq!(
        refused(model("gpt2", "gpt2-tiny", json!({})), &export),
        "export is a checkpoint of another model: its family is `llama`, expected `gpt2`"
    );
    assert_eq!(
        refused(llama(json!({ "layers": 3 })), &export),
        "export is a checkpoint of another model: its `layers` is 2, expected 3"
    );
    // The same words for another program, as after a change of the architecture's code.
    let (narrow, _) = llama(json!({ "hidden": 48 }));
    assert_eq!(
        refused((narrow, llama(json!({})).1), &export),
        "export: tensor `layers.down` has shape [2, 40, 24], expected [2, 48, 24]"
    );

    let mut resume = |path: &Path| told(run.resume(path).unwrap_err());
    assert_eq!(
        resume(&export),
        "export: metadata `diptych.step` is missing; expected a checkpoint written by `train`, not weights alone"
    );
    let bytes = std::fs::read(&checkpoint).unwrap();
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 4]).unwrap();
    let message = resume(&cut);
    assert!(message.starts_with("cut is truncated: ") && message.contains("needs"), "{message}");
    let renamed = String::from_utf8_lossy(&bytes[..4096.min(bytes.len())]).into_owned();
    assert!(renamed.contains("\"mean.norm\""));
    let at = bytes.windows(11).position(|part| part == b"\"mean.norm\"").unwrap();
    let mut other = bytes.clone();
    other[at + 9] = b'n';
    std::fs::write(&cut, &other).unwrap();
    assert_eq!(resume(&cut), "cut has no tensor `mean.norm`; the nearest is `mean.norn`");
    let message = resume(&folder.path().join("nowhere"));
    assert!(message.starts_with("could not open nowhere: "), "{message}");
    assert_eq!((bits(&run), run.steps_done()), (before, 1));

    let mut other = trainer(&device, json!({ "seed": 4 }));
    let message = told(other.resume(&checkpoint).unwrap_err());
    let wanted = "checkpoint was trained with `seed` 3, but the run has 4: a resumed run keeps it; \
                  to go on in another way, start a new run from its weights";
    assert_eq!(message, wanted);
}

#[test]
fn bad_options_and_bad_data_are_told() {
    for (change, wanted) in [
        (json!({ "batch": 0 }), "training: `batch` is 0; it must be at least 1"),
        (json!({ "time": 65 }), "training: `time` is 65; it must be 1 to the model's context, 64"),
        (json!({ "tokens": 100 }), "training: `steps` is 6; it must be left out beside `tokens`"),
        (
            json!({ "optimizer": { "epsilon": 0.0 } }),
            "training: `epsilon` is 0; it must be a positive number",
        ),
        (
            json!({ "optimizer": { "beta2": 1.0 } }),
            "training: `beta2` is 1; it must be at least 0 and below 1",
        ),
    ] {
        let (program, identity) = llama(json!({}));
        let plan = Plan::new(
            &device(1),
            &rewrite_by_default(&program, device(1).options()).unwrap(),
            identity,
            options(change),
            &[],
        );
        assert_eq!(plan.map(|_| ()).unwrap_err().to_string(), wanted);
    }
    let message = serde_json::from_value::<TrainOptions>(json!({ "bach": 1 })).unwrap_err().to_string();
    assert!(message.starts_with("unknown field `bach`, expected one of `batch`"), "{message}");

    let device = device(1);
    let mut run = trainer(&device, json!({}));
    let before = bits(&run);
    let mut told = |input: i32, target: i32| {
        let step = run.step(|_, inputs, targets| {
            inputs.fill(input);
            targets.fill(target);
        });
        step.unwrap_err().to_string()
    };
    assert_eq!(told(97, 0), "token 97 of step 0 is not in the model's vocabulary of 97 tokens");
    assert_eq!(told(-1, 0), "token -1 of step 0 is not in the model's vocabulary of 97 tokens");
    assert_eq!(told(0, 97), "target 97 of step 0 is not in the model's vocabulary of 97 tokens");
    assert_eq!(told(0, -1), "step 0 has no target: every target of its 1 micro-batches is negative");
    let window = run.evaluate(1, |_, _, _| TIME + 1).unwrap_err().to_string();
    assert_eq!(window, "held-out window 0 has 33 tokens; it must have 1 to 32");
    assert_eq!(bits(&run), before);

    run.initialize(|name| vec![f32::NAN; run_length(name)]).unwrap();
    let message = run.step(text).unwrap_err().to_string();
    assert!(message.starts_with("step 0: the loss is NaN; the parameters are as they were"), "{message}");
}

fn run_length(name: &str) -> usize {
    initialize(&llama(json!({})).0, name, 0).unwrap().len()
}

#[test]
fn memory_is_known_before_it_is_taken() {
    let device = device(2);
    let (program, identity) = llama(json!({}));
    let plan = Plan::new(
        &device,
        &rewrite_by_default(&program, device.options()).unwrap(),
        identity,
        options(json!({})),
        &[EntryKind::Decode],
    )
    .unwrap();
    let bound = plan.memory_bound();
    let mut trainer = Trainer::load(&device, plan).unwrap();
    assert_eq!(bound, trainer.memory_bound());
    assert_eq!(trainer.session().store.bytes(), bound.parameters + bound.states);
    assert!(trainer.session().compiled.entries.contains_key(&EntryKind::Decode));
    let entries: Vec<_> = trainer.executables().into_iter().map(|(_, entry)| entry.bound()).collect();
    let [train, update] = entries[..] else { panic!("two entries") };
    let rest = bound.temporaries + bound.inputs_and_roots + bound.derived + bound.scratch;
    let (least, most) = (train.beside(update).total(), train.total() + update.total());
    assert!(least < rest && rest < 2 * most, "{entries:?}, {bound:?}");

    // However many micro-batches there are, their entries work in one place.
    let more = options(json!({ "accumulation": 3 }));
    let accumulating = Plan::new(
        &device,
        &rewrite_by_default(&program, device.options()).unwrap(),
        llama(json!({})).1,
        more,
        &[],
    )
    .unwrap()
    .memory_bound();
    assert!(2 * accumulating.temporaries < 3 * bound.temporaries, "{accumulating:?}, {bound:?}");
}

/// The system refuses here: the limit on file sizes stands in for a full disk.
/// It counts for a whole process, so the test runs itself again in a child.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_refuses_leaves_the_old_checkpoint() {
    const CHILD: &str = "DIPTYCH_TEST_FULL_DISK";
    let device = device(1);
    let mut run = trainer(&device, json!({}));
    if let Some(path) = std::env::var_os(CHILD) {
        run.resume(Path::new(&path)).unwrap();
        run.step(text).unwrap();
        let limit = libc::rlimit { rlim_cur: 1 << 16, rlim_max: 1 << 16 };
        // SAFETY: plain calls of the system, in a process of this test's own.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
        println!("message: {}", run.save(Path::new(&path)).unwrap_err());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    run.step(text).unwrap();
    run.save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(before.len() > 1 << 17);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_disk_that_refuses_leaves_the_old_checkpoint", "--nocapture"]);
    let output = child.env(CHILD, &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("File too large") && said.contains("the old file is untouched"), "{said}");
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread's allocations count: other tests run meanwhile.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: all calls go to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_allocates_nothing() {
    for (threads, family) in [(1, FAMILIES[0])].into_iter().chain(FAMILIES.map(|family| (2, family))) {
        let device = device(threads);
        let mut trainer = trainer_of(&device, family, json!({ "accumulation": 2 }));
        let count = |counted| device.as_cpu().unwrap().pool.run(&|_, _| COUNTED.set(counted));
        trainer.step(text).unwrap();
        // Recorded or not; the last step has no room for it.
        trainer.executables().into_iter().for_each(|(_, entry)| entry.record(2));
        count(true);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        drop(std::hint::black_box(vec![1u8; 10]));
        let control = ALLOCATIONS.load(Ordering::Relaxed);
        (0..3).for_each(|_| assert!(trainer.step(text).unwrap().loss > 0.0));
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        count(false);
        assert_eq!(control - before, 1, "the counter must count");
        assert_eq!(after - control, 0, "{threads} threads");
        let entries = trainer.executables().into_iter();
        let recordings: Vec<_> = entries.map(|(_, entry)| entry.take_recording()).collect();
        assert!(recordings.iter().all(|recording| recording.runs.len() == 2 && recording.lost == 0));
    }
}
