//! Serving against transformers: the greedy continuation of every fixture
//! through prefill and decode with a cache, and what a server refuses.

#[path = "support/saved.rs"]
mod saved;

use diptych_ir::EntryKind;
use diptych_models::hugging_face::Checkpoint;
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{Generation, Outcome, ServeOptions, Server, Window, generate};
use diptych_runtime::sampling::{Sampler, SamplingOptions};
use diptych_runtime::session::{Device, Session};
use safetensors::SafeTensors;
use saved::{FIXTURES, folder, numbers};
use std::ops::ControlFlow;

fn session(device: &Device, name: &str) -> Session {
    let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
    let context = checkpoint.architecture().context();
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let mut session =
        Session::compile(device, checkpoint.program(), context, &kinds, &AdamWOptions::default()).unwrap();
    for &param in session.compiled.program.params.keys() {
        session.store.set(param, &checkpoint.load_param(param.as_str()).unwrap()).unwrap();
    }
    session
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let device = Device::cpu(Some(1)).unwrap();
    for name in FIXTURES {
        let session = session(&device, name);
        let mut server = Server::new(&device, &session, ServeOptions::single(session.context)).unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name| numbers(&expected, name).into_iter().map(|id| id as i32).collect::<Vec<i32>>();
        let (prompt, wanted) = (ids("prompt"), ids("continuation"));
        let greedy = SamplingOptions { temperature: 0.0, top_k: None, top_p: 1.0 };
        let mut sampler = Sampler::new(greedy, server.vocabulary()).unwrap();
        let mut found = Vec::new();
        let options = Generation { most_tokens: wanted.len(), stop: &[], seed: 0 };
        let outcome = generate(&mut server, &prompt, options, &mut sampler, |token| {
            found.push(token);
            ControlFlow::Continue(())
        });
        assert_eq!(outcome.unwrap(), Outcome::Length);
        assert_eq!(found, wanted, "{name}");
    }
}

/// A tiny Llama with random weights and a context of 300.
fn random(device: &Device, window: Option<usize>) -> Session {
    let registry = Registry::zoo();
    let mut config = registry.preset("llama-tiny").unwrap().describe();
    (config["context"], config["window"]) = (300.into(), window.into());
    let program = build(&*registry.architecture("llama", &config).unwrap()).unwrap();
    let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let mut session = Session::compile(device, &program, 300, &kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 3).unwrap()).unwrap();
    }
    session
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let device = Device::cpu(Some(1)).unwrap();
    let session = random(&device, None);
    let options = ServeOptions { rows: 100, batch: 2, sequences: 3, cache_positions: 250 };
    let refused = Server::new(&device, &session, ServeOptions { batch: 0, ..options });
    assert!(refused.is_err_and(|error| error.to_string().starts_with("`batch` is 0; it must be from 1 to")));
    let mut server = Server::new(&device, &session, options).unwrap();
    // Keys and values of 2 layers, 2 heads of 6 numbers of 4 bytes; 250 positions are 4 chunks of 64.
    assert_eq!(server.cache_bytes_per_token(), 2 * 2 * 2 * 6 * 4);
    assert_eq!(server.cache_bytes(), 256 * server.cache_bytes_per_token());

    let text: Vec<i32> = (0..301).map(|at| at % 97).collect();
    let [a, b, c] = [0; 3].map(|_| server.start().unwrap());
    let message = |result: Result<&[f32], _>| {
        result.map(<[f32]>::len).map_err(|error: diptych_runtime::decode::DecodeError| error.to_string())
    };
    assert_eq!(
        server.start().unwrap_err().to_string(),
        "all 3 sequences are in use: release one, or serve with more"
    );
    let too_long = message(server.prefill(&[(a, &text)])).unwrap_err();
    assert!(
        too_long.starts_with("sequence 0 would be 301 tokens long; the model's context is 300"),
        "{too_long}"
    );
    let full = message(server.prefill(&[(a, &text[..65]), (b, &text[..129])])).unwrap_err();
    let expected =
        "the cache is full: sequence 1 needs room for 192 more positions, and of 256 positions 128 are free";
    assert!(full.starts_with(expected), "{full}");
    let cases: [(&[(_, &[i32])], &str); 5] = [
        (
            &[(a, &text[..1]), (b, &text[..1]), (c, &text[..1])],
            "3 sequences at once; memory was planned for 2",
        ),
        (
            &[(a, &text[..1]), (a, &text[..1])],
            "sequence 1 of the call is there twice; a call takes each sequence once",
        ),
        (&[(a, &[])], "sequence 0 of the call has no token; it needs at least one"),
        (&[(a, &[5, 97])], "token 97 of sequence 0: the vocabulary has 97 tokens, from 0 on"),
        (&[(a, &[-1])], "token -1 of sequence 0: the vocabulary has 97 tokens, from 0 on"),
    ];
    for (prompts, expected) in cases {
        assert_eq!(message(server.prefill(prompts)).unwrap_err(), expected);
    }
    assert_eq!((server.free_positions(), server.length(a)), (256, Some(0)), "nothing was changed");

    assert_eq!(message(server.prefill(&[(a, &text[..130]), (b, &text[..64])])), Ok(2 * 97));
    let full = message(server.decode(&[(b, 1)])).unwrap_err();
    assert!(full.starts_with("the cache is full: sequence 0 needs room for 64 more positions"), "{full}");
    server.release(a);
    assert_eq!(message(server.decode(&[(b, 1)])), Ok(97));
    let gone = "sequence 0 of the call was never started, or was released";
    assert_eq!(message(server.decode(&[(a, 1)])).unwrap_err(), gone);
    let again = server.start().unwrap();
    assert_eq!(
        message(server.decode(&[(a, 1)])).unwrap_err(),
        gone,
        "a place that is used again is another sequence"
    );
    assert_eq!(server.length(again), Some(0));

    let mut scores = Vec::new();
    let window = |tokens, targets| [Window { tokens, targets }];
    let score = server.score(&window(&text[..3], &text[..2]), &mut scores).unwrap_err().to_string();
    assert_eq!(score, "window 0 has 3 tokens and 2 targets; it needs one target a token");
    let score = server.score(&window(&text, &text), &mut scores).unwrap_err().to_string();
    assert!(score.starts_with("sequence 0 would be 301 tokens long"), "{score}");
}

#[test]
fn entries_that_cannot_be_served_are_told() {
    let device = Device::cpu(Some(1)).unwrap();
    let mut session = random(&device, None);
    let score = session.compiled.entries[&EntryKind::Score].clone();
    let prefill = session.compiled.entries.insert(EntryKind::Prefill, score).unwrap();
    let told = |session: &Session| {
        let server = Server::new(&device, session, ServeOptions::single(20));
        server.err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(told(&session), "entry `prefill` cannot be served: it has no root `logits`");
    session.compiled.entries.insert(EntryKind::Prefill, prefill.clone());
    session.compiled.entries.insert(EntryKind::Score, prefill);
    let no_targets = "it has no input `targets`; it needs the inputs [\"tokens\", \"targets\"]";
    assert_eq!(told(&session), format!("entry `score` cannot be served: {no_targets}"));
}

#[test]
fn a_window_bounds_the_cache_of_a_long_text() {
    let device = Device::cpu(Some(2)).unwrap();
    let session = random(&device, Some(70));
    let text: Vec<i32> = (0..300).map(|at| at * 7 % 97).collect();
    let logits = |cache_positions: usize, split: usize| {
        let options = ServeOptions { rows: 50, batch: 2, sequences: 2, cache_positions };
        let mut server = Server::new(&device, &session, options).unwrap();
        // Beside a sequence that is always there.
        let other = server.start().unwrap();
        server.prefill(&[(other, &text[..10])]).unwrap();
        let sequence = server.start().unwrap();
        server.prefill(&[(sequence, &text[..split])]).unwrap();
        let mut last = Vec::new();
        for &token in &text[split..] {
            last = server.decode(&[(sequence, token)]).unwrap().to_vec();
        }
        server.release(sequence);
        server.release(other);
        assert_eq!(server.free_positions(), cache_positions);
        last
    };
    assert!(logits(1024, 200) == logits(256, 130), "three chunks serve a text of five");
}

#[test]
fn generation_ends_where_it_is_told() {
    let device = Device::cpu(Some(1)).unwrap();
    let session = random(&device, None);
    let mut server = Server::new(&device, &session, ServeOptions::single(300)).unwrap();
    let options = SamplingOptions { temperature: 1.0, top_k: Some(20), top_p: 0.95 };
    let mut sampler = Sampler::new(options, server.vocabulary()).unwrap();
    let mut text = |most_tokens, stop: &[i32], enough: usize| {
        let mut found = Vec::new();
        let options = Generation { most_tokens, stop, seed: 4 };
        let outcome = generate(&mut server, &[1, 2, 3], options, &mut sampler, |token| {
            found.push(token);
            if found.len() == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (outcome.map_err(|error| error.to_string()), found)
    };
    let (outcome, whole) = text(12, &[], usize::MAX);
    assert_eq!((outcome, whole.len()), (Ok(Outcome::Length), 12));
    assert_eq!(text(12, &[], 5), (Ok(Outcome::Interrupted), whole[..5].to_vec()));
    let first = whole.iter().position(|&token| token == whole[8]).unwrap();
    assert_eq!(text(12, &whole[8..9], usize::MAX), (Ok(Outcome::Stopped), whole[..first].to_vec()));
    assert_eq!(text(0, &[], usize::MAX), (Ok(Outcome::Length), vec![]));
    let (outcome, found) = text(299, &[], usize::MAX);
    assert!(outcome.is_err_and(|error| error.contains("the model's context is 300")) && found.is_empty());
    assert_eq!(text(298, &[], usize::MAX).1.len(), 298, "the last token fills the context");
}
