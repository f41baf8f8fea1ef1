//! The GPU's path as a user has it, on the virtual GPU: a tiny Llama is trained, scored and served, beside the CPU. All
//! of it is one test, since a process has one driver for good.

#[path = "support/runs.rs"]
mod runs;
#[path = "support/virtual_gpu.rs"]
mod virtual_gpu;

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{EntryOptions, Limits, PlanStep};
use diptych_ir::{EntryKind, Program};
use diptych_models::initialize;
use diptych_nvrtc::Target;
use diptych_passes::AdamWOptions;
use diptych_runtime::cuda::CudaError;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use diptych_runtime::device::DeviceName;
use diptych_runtime::executor::{Binding, Part, Sequence};
use diptych_runtime::session::{Device, Session, SessionError};
use diptych_runtime::train::Trainer;
use runs::{TIME, model, options, text};
use serde_json::json;
use virtual_gpu::{session, virtual_gpu};

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// The largest difference, relative to the largest number.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let most = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0_f32, f32::max);
    most / largest
}

fn tokens(length: usize, stride: usize) -> Vec<i32> {
    (0..length).map(|at| (at * stride % 97) as i32).collect()
}

/// Log-probabilities of two texts, and the logits after each of their last tokens: the first text as a prompt, the
/// second as a prompt cut in pieces, and then both token by token. Everything twice, so that graphs are captured, and a
/// third time, so that they are replayed.
fn served(device: &Device, session: &Session) -> [Vec<f32>; 3] {
    let room = ServeOptions { rows: 80, batch: 2, sequences: 3, cache_positions: 64 * 10 };
    let mut server = Server::new(device, session, room).unwrap();
    let [one, two] = [tokens(70, 31), tokens(37, 17)];
    let mut results: Option<[Vec<f32>; 3]> = None;
    for _ in 0..3 {
        let (mut scores, mut prefilled, mut decoded) = (Vec::new(), Vec::new(), Vec::new());
        let windows = [&one, &two].map(|text| Window { tokens: text, targets: text });
        server.score(&windows, &mut scores).unwrap();
        let [a, b] = [(), ()].map(|()| server.start().unwrap());
        server.prefill(&[(b, &two[..20])]).unwrap();
        prefilled.extend_from_slice(server.prefill(&[(a, &one), (b, &two[20..])]).unwrap());
        for step in 0..3 {
            decoded.extend_from_slice(server.decode(&[(a, 5 + step), (b, 7 * step)]).unwrap());
        }
        decoded.extend_from_slice(server.decode(&[(b, 11)]).unwrap());
        server.release(a);
        server.release(b);
        let found = [scores, prefilled, decoded];
        if let Some(first) = &results {
            assert_eq!(found.each_ref().map(|part| bits(part)), first.each_ref().map(|part| bits(part)));
        }
        results.get_or_insert(found);
    }
    results.unwrap()
}

/// Logits after each of some tokens, by `prefill` of all, and by `decode` of one after the other.
fn token_by_token(device: &Device, session: &Session) {
    let room = ServeOptions { rows: 80, batch: 2, sequences: 2, cache_positions: 64 * 6 };
    let mut server = Server::new(device, session, room).unwrap();
    let text = tokens(70, 13);
    let a = server.start().unwrap();
    server.prefill(&[(a, &text[..60])]).unwrap();
    for end in 61..=text.len() {
        let decoded = bits(server.decode(&[(a, text[end - 1])]).unwrap());
        let b = server.start().unwrap();
        let prefilled = bits(server.prefill(&[(b, &text[..end])]).unwrap());
        assert!(decoded == prefilled, "after {end} tokens, `decode` has other bits than `prefill`");
        server.release(b);
    }
}

/// Losses of some steps, and a parameter after them; saved in the middle and taken up again.
fn trained(device: &Device, program: &Program, change: serde_json::Value) -> (Vec<f64>, Vec<f32>) {
    let (_, identity) = model("llama", "llama-tiny", json!({}));
    let mut trainer = Trainer::new(device, program, identity.clone(), options(change.clone())).unwrap();
    trainer.initialize(|name| initialize(program, name, 3).unwrap()).unwrap();
    let mut losses: Vec<f64> = (0..3).map(|_| trainer.step(text).unwrap().loss).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("middle.safetensors");
    trainer.save(&file).unwrap();
    losses.extend((0..2).map(|_| trainer.step(text).unwrap().loss));
    let mut resumed = Trainer::new(device, program, identity, options(change)).unwrap();
    resumed.resume(&file).unwrap();
    let again: Vec<f64> = (0..2).map(|_| resumed.step(text).unwrap().loss).collect();
    assert_eq!(again.as_slice(), &losses[3..], "a resumed run has the same losses");
    let name = *program.params.keys().next().unwrap();
    let [whole, half] = [&trainer, &resumed].map(|run| run.session().store.get(name).unwrap());
    assert_eq!(bits(&whole), bits(&half));
    (losses, whole)
}

/// The bits of a micro-batch's log-probabilities and gradients, where rows are walked in turns of so many. It runs
/// thrice: launched, captured and replayed.
fn in_turns(device: &Device, program: &Program, turn_rows: usize) -> Vec<u32> {
    let options = EntryOptions { turn_rows, ..device.options() };
    let kinds = [EntryKind::Train];
    let compiled = compile_program(program, &kinds, &AdamWOptions::default(), options).unwrap();
    let turns = |step: &PlanStep| matches!(step, PlanStep::Turns { .. });
    assert!(compiled.entries[&EntryKind::Train].steps.iter().any(turns), "there are no turns to be tested");
    let mut session = Session::load(device, compiled, TIME).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
    }
    session.store.upload().unwrap();
    let limits = Limits { rows: 2 * TIME, batch: 2 };
    let mut run = session.executable(device, EntryKind::Train, None, limits).unwrap();
    let mut binding = Binding::new(limits, TIME);
    binding.bind(&[30, 23].map(|length| Sequence { origin: 0, length, chunks: &[], state: 0 })).unwrap();
    let mut found = Vec::new();
    for _ in 0..3 {
        run.input::<i32>("tokens").unwrap()[..53].copy_from_slice(&tokens(53, 31));
        run.input::<i32>("targets").unwrap()[..53].copy_from_slice(&tokens(53, 17));
        run.input::<f32>("inverse_tokens").unwrap()[0] = 1.0 / 53.0;
        run.run(device, &binding).unwrap();
        found.extend(bits(&run.root("log_prob").unwrap()[..53]));
    }
    for name in session.store.names().filter(|name| name.as_str().starts_with("gradient")) {
        found.extend(bits(&session.store.get(name).unwrap()));
    }
    found
}

#[test]
fn a_tiny_llama_is_trained_scored_and_served_as_on_the_cpu() {
    let Some(gpu) = virtual_gpu(Target::SM_80) else { return };
    let cpu = Device::cpu(Some(2)).unwrap();

    // The process has one driver.
    let Err(SessionError::Cuda(CudaError::Fixed { .. })) =
        Device::open(DeviceName::Virtual(Target::SM_90A), None)
    else {
        panic!("a second virtual GPU");
    };
    assert!(matches!(
        Device::open(DeviceName::Cuda(0), None),
        Err(SessionError::Cuda(CudaError::Fixed { .. }))
    ));

    let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    for (dtype, tolerance) in [("f32", 1e-4), ("bf16", 2e-2)] {
        let (program, _) = model("llama", "llama-tiny", json!({ "dtype": dtype, "context": 192 }));
        let sessions = [&cpu, &gpu].map(|device| session(device, &program, 192, &kinds));
        let expected = served(&cpu, &sessions[0]);
        let found = served(&gpu, &sessions[1]);
        for (what, (found, expected)) in
            ["score", "prefill", "decode"].iter().zip(found.iter().zip(&expected))
        {
            let apart = apart(found, expected);
            println!("{dtype} {what}: apart {apart:e}");
            assert!(apart < tolerance, "{dtype} {what}: {apart}");
        }
        token_by_token(&gpu, &sessions[1]);

        // Parameters that are set after a server was made count once it is told.
        let [_, mut session] = sessions;
        let name = *program.params.keys().next().unwrap();
        let zeros = vec![0.0; session.store.elements(name).unwrap()];
        session.store.set(name, &zeros).unwrap();
        assert_ne!(bits(&served(&gpu, &session)[0]), bits(&found[0]));
    }

    for change in [json!({}), json!({ "accumulation": 2 })] {
        let (program, _) = model("llama", "llama-tiny", json!({}));
        let [(losses, weight), (of_gpu, weight_of_gpu)] =
            [&cpu, &gpu].map(|device| trained(device, &program, change.clone()));
        for (loss, of_gpu) in losses.iter().zip(&of_gpu) {
            assert!((loss / of_gpu - 1.0).abs() < 1e-4, "{losses:?} {of_gpu:?}");
        }
        assert!(apart(&weight_of_gpu, &weight) < 1e-3);
        println!("losses {losses:?} {of_gpu:?}");
    }

    // Many more columns than what is summed, so that logits are streamed.
    let (program, _) = model("llama", "llama-tiny", json!({ "vocab": 613 }));
    let whole = in_turns(&gpu, &program, 8192);
    assert!([7, 20].into_iter().all(|rows| in_turns(&gpu, &program, rows) == whole), "turns change bits");

    // Recorded runs have the same bits, and times that add up.
    let (program, _) = model("llama", "llama-tiny", json!({}));
    let session = session(&gpu, &program, 64, &kinds);
    let mut server = Server::new(&gpu, &session, ServeOptions::single(64)).unwrap();
    let text = tokens(40, 7);
    let windows = [Window { tokens: &text, targets: &text }];
    let (mut plain, mut recorded) = (Vec::new(), Vec::new());
    server.score(&windows, &mut plain).unwrap();
    server.executable(EntryKind::Score).unwrap().record(1);
    server.score(&windows, &mut recorded).unwrap();
    assert_eq!(bits(&plain), bits(&recorded));
    let recording = server.executable(EntryKind::Score).unwrap().take_recording();
    let launches: f64 = recording.times().iter().map(|time| time.seconds()).sum();
    let rest = recording.part_seconds(Part::Copy) + recording.part_seconds(Part::Executor);
    assert!(launches > 0.0 && launches + rest <= recording.seconds() * 1.001, "{launches} {rest}");
    assert!(recording.times().iter().filter(|time| time.runs > 0).count() > 5);
}
