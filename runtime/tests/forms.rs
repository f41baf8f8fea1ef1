//! A run goes from one form of its model to another: files hold the user's parameters and their moments, whatever the
//! form, and what another form has read and written again is the same, bit for bit.

#[path = "support/runs.rs"]
#[allow(dead_code)]
mod runs;

use diptych_codegen::driver::{Rewritten, as_written, compile_rewritten};
use diptych_ir::{EntryKind, Program, text};
use diptych_models::initialize;
use diptych_passes::algebra::{Form, Numerics, Objective, forms};
use diptych_passes::{AdamWOptions, simplify};
use diptych_runtime::checkpoint::Checkpoint;
use diptych_runtime::executor::ParameterStore;
use diptych_runtime::session::Device;
use diptych_runtime::train::{Plan, Trainer, load_parameters};
use runs::{model, options};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// What a step and a score compute in a form, entries that serve aside.
fn trained(form: &Form) -> String {
    let mut program = form.parts[0].program.clone();
    program.entries.retain(|entry| matches!(entry.kind, EntryKind::Train | EntryKind::Score));
    text::print(&simplify(&program).unwrap())
}

/// The model as written, and the best form for each of some machines and uses that does not train like one before it.
fn forms_of(program: &Program) -> Vec<Rewritten> {
    let typical = |bytes_per_second: f64, trained: f64, served: f64| {
        Objective::typical(200e9, bytes_per_second, trained, served)
    };
    let uses = [
        (typical(25e9, 1.0, 0.0), Numerics::Same),
        (typical(25e9, 1.0, 1.0), Numerics::Fast),
        (typical(1e9, 0.0, 1.0), Numerics::Same),
    ];
    let written = as_written(program, &uses[0].0).unwrap();
    let mut seen = BTreeSet::from([trained(&written)]);
    let mut found = vec![Rewritten::of_form(written, None)];
    for (objective, numerics) in uses {
        let forms = forms(program, &objective, numerics).unwrap().forms;
        let best = forms.into_iter().find(|form| seen.insert(trained(form)));
        found.extend(best.map(|form| Rewritten::of_form(form, Some(objective))));
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn losses(trainer: &mut Trainer<'_>, steps: usize) -> Vec<u64> {
    (0..steps).map(|_| trainer.step(runs::text).unwrap().loss.to_bits()).collect()
}

/// So that nothing is left of what a trainer was.
fn forget(trainer: &mut Trainer<'_>, program: &Program) {
    trainer.initialize(|name| initialize(program, name, 8).unwrap()).unwrap();
    trainer.step(runs::text).unwrap();
}

#[test]
fn files_know_nothing_of_forms() {
    let presets = [
        ("llama", "llama-tiny", json!({})),
        ("llama", "llama-tiny", json!({ "dtype": "bf16" })),
        ("mla", "mla-tiny", json!({})),
    ];
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu(Some(2)).unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut stored_alike = true;
    for (family, preset, change) in presets {
        let (program, identity) = model(family, preset, change.clone());
        let start = |name: &str| initialize(&program, name, 3).unwrap();
        let found = forms_of(&program);
        let mut trainers: Vec<Trainer<'_>> = (found.iter())
            .map(|form| {
                let options = options(json!({ "accumulation": 2 }));
                let plan = Plan::new(&device, form, identity.clone(), options, &[]).unwrap();
                Trainer::load(&device, plan).unwrap()
            })
            .collect();
        let (mut compiled, mut layouts, mut results) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for from in 0..trainers.len() {
            let to = (from + 1) % trainers.len();
            let place = format!("{preset} {change}, from form {from} to form {to} of {}", trainers.len());
            let [first, second] = trainers.get_disjoint_mut([from, to]).unwrap();
            compiled.insert(text::print(&first.session().compiled.program));
            layouts.insert(format!("{:?}", first.session().compiled.layouts));

            // What is written is what was given, by the user's names and in the user's order.
            first.initialize(start).unwrap();
            first.export(&path("start")).unwrap();
            let file = Checkpoint::open(&path("start")).unwrap();
            let names: Vec<&str> = program.params.keys().map(|name| name.as_str()).collect();
            assert_eq!(file.names().collect::<Vec<_>>(), names, "{place}");
            for name in names {
                let (tensor, given) = (file.tensor(name).unwrap(), start(name));
                let mut written = vec![0.0; tensor.elements()];
                tensor.read_f32(&mut written).unwrap();
                assert!(bits(&written) == bits(&given), "{place}: {name}");
            }

            losses(first, 3);
            first.save(&path("first")).unwrap();
            first.export(&path("first weights")).unwrap();
            let on = losses(first, 2);
            first.save(&path("uninterrupted")).unwrap();

            forget(second, &program);
            second.resume(&path("first")).unwrap();
            second.save(&path("second")).unwrap();
            second.export(&path("second weights")).unwrap();
            assert!(read(&path("first")) == read(&path("second")), "{place}: checkpoints differ");
            assert!(read(&path("first weights")) == read(&path("second weights")), "{place}: exports differ");

            forget(first, &program);
            first.resume(&path("second")).unwrap();
            assert_eq!(losses(first, 2), on, "{place}: going on");
            first.save(&path("resumed")).unwrap();
            assert!(read(&path("uninterrupted")) == read(&path("resumed")), "{place}: going on differs");
            results.insert(read(&path("resumed")));
        }
        // All of this says something only if forms differ, in what they compute and in what they store.
        assert!(
            compiled.len() == found.len() && found.len() > 1,
            "{preset} {change}: forms that are the same"
        );
        assert!(results.len() > 1, "{preset} {change}: all forms have the same bits");
        stored_alike &= layouts.len() < 2;

        // Serving, too, has the same parameters, from a checkpoint or from weights alone.
        let trained = &trainers[trainers.len() - 1];
        let mut count = 0;
        for (form, file) in found.iter().zip(["uninterrupted", "resumed"].iter().cycle()) {
            let kinds = [EntryKind::Prefill, EntryKind::Decode];
            // A form that no kernels serve is none that a program is served in.
            let served = compile_rewritten(form, &kinds, &AdamWOptions::default(), device.options());
            let Ok(served) = served else { continue };
            count += 1;
            let panel = device.options().panel;
            let mut store = ParameterStore::new(&served.program, &served.layouts, panel, false).unwrap();
            load_parameters(&mut store, &served.program, &identity, &path(file)).unwrap();
            for &name in program.params.keys() {
                let [read, kept] = [&store, &trained.session().store].map(|store| store.get(name).unwrap());
                assert!(bits(&read) == bits(&kept), "{preset} {change}: {name} from {file}");
            }
        }
        assert!(count > 1, "{preset} {change}: {count} forms are served");
    }
    assert!(!stored_alike, "all forms store parameters alike");
}
