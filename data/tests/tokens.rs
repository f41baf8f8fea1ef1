//! Vocabularies, token files, the order of training and held-out windows, on a small real text:
//! the sources of this crate.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use diptych_data::{
    Corpus, DataError, END_OF_TEXT, HeldOut, Prepared, Progress, Settings, Split, StreamingDecoder,
    TrainingOrder, Vocabulary, prepare, prepare_with,
};
use proptest::prelude::*;

const SETTINGS: Settings =
    Settings { vocabulary_size: 700, vocabulary_sample_bytes: 1 << 20, held_out_share: 0.2 };

static CORPUS: LazyLock<Corpus> =
    LazyLock::new(|| Corpus::from_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap());

/// The text as tokens, and the folder that they are in.
static PREPARED: LazyLock<(tempfile::TempDir, Prepared)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(&CORPUS, &SETTINGS, folder.path(), &mut |_| ()).unwrap();
    (folder, prepared)
});

fn vocabulary() -> &'static Vocabulary {
    &PREPARED.1.vocabulary
}

#[test]
fn training_a_vocabulary_repeats() {
    let split = Split::by_document(&CORPUS, 0.2).unwrap();
    let hash = || *Vocabulary::train(&split.training, 700, 1 << 20).unwrap().content_hash();
    assert_eq!(hash(), hash());
    assert_eq!(&hash(), vocabulary().content_hash());
    assert_eq!(vocabulary().vocab_size(), 700);
    assert_eq!(vocabulary().end_of_text().unwrap(), 0);
}

#[test]
fn a_saved_vocabulary_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    vocabulary().save(&path).unwrap();
    let read = Vocabulary::from_file(&path).unwrap();
    assert_eq!(read.content_hash(), vocabulary().content_hash());
    let text = "fn main() { println!(\"grüße 😀\"); }\n\n    x";
    assert_eq!(read.encode(text).unwrap(), vocabulary().encode(text).unwrap());
}

#[test]
fn bad_vocabularies_are_refused() {
    let split = Split::by_document(&CORPUS, 0.2).unwrap();
    let error = Vocabulary::train(&split.training, 256, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("256") && error.contains("257"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, "{\"model\": 3").unwrap();
    let error = Vocabulary::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("Hugging Face"), "{error}");
    assert!(matches!(Vocabulary::from_file(&folder.path().join("none")), Err(DataError::Io { .. })));
    let error = vocabulary().decode(&[5, 700]).unwrap_err().to_string();
    assert!(error.contains("token 700") && error.contains("700 tokens"), "{error}");
}

#[test]
fn a_text_cannot_end_itself_but_a_prompt_can() {
    let text = format!("a{END_OF_TEXT}b");
    let plain = vocabulary().encode(&text).unwrap();
    assert!(!plain.contains(&0));
    assert_eq!(vocabulary().decode(&plain).unwrap(), text);
    let prompt = vocabulary().encode_prompt(&text).unwrap();
    assert_eq!(prompt.iter().filter(|id| **id == 0).count(), 1);
    assert_eq!(vocabulary().decode(&prompt).unwrap(), "ab");
}

#[test]
fn end_of_text_is_found_or_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    vocabulary().save(&path).unwrap();
    let json = fs::read_to_string(&path).unwrap();
    fs::write(&path, json.replace(END_OF_TEXT, "<|end_of_text|>")).unwrap();
    assert_eq!(Vocabulary::from_file(&path).unwrap().end_of_text().unwrap(), 0);
    fs::write(&path, json.replace(END_OF_TEXT, "<|stop|>")).unwrap();
    let none = Vocabulary::from_file(&path).unwrap();
    assert!(none.end_of_text().unwrap_err().to_string().contains("eos_token_id"));
    assert!(Vocabulary::from_file(&path).unwrap().with_end_of_text(700).is_err());
    assert_eq!(none.with_end_of_text(0).unwrap().end_of_text().unwrap(), 0);
}

/// A vocabulary that is not byte-level: the library decodes, and text still comes out whole.
#[test]
fn other_vocabularies_stream_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let bytes: String = (0..256).map(|byte| format!("\"<0x{byte:02X}>\": {}, ", byte + 4)).collect();
    let json = format!(
        r#"{{"version": "1.0", "added_tokens": [{{"id": 2, "content": "</s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}}], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {{"type": "Sequence", "decoders": [
        {{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}}, "model": {{"type": "BPE", "byte_fallback": true,
        "vocab": {{ {bytes} "<unk>": 0, "a": 1, "</s>": 2, "é": 3}}, "merges": [], "unk_token": "<unk>"}}}}"#
    );
    fs::write(&path, json).unwrap();
    let vocabulary = Vocabulary::from_file(&path).unwrap();
    assert_eq!(vocabulary.end_of_text().unwrap(), 2);
    let ids = vocabulary.encode("a😀é€a").unwrap();
    assert!(ids.len() > 5);
    let mut decoder = StreamingDecoder::new(&vocabulary);
    let mut pieces: Vec<String> = ids.iter().map(|id| decoder.push(*id).unwrap().to_string()).collect();
    pieces.push(decoder.finish().unwrap());
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    assert_eq!(pieces.concat(), "a😀é€a");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back(text in any::<String>(), code in "[a-z_]{1,8}[(){}; \n\t😀é€]{0,9}") {
        let text = text + &code;
        let ids = vocabulary().encode(&text).unwrap();
        prop_assert_eq!(&vocabulary().decode(&ids).unwrap(), &text);
        let mut decoder = StreamingDecoder::new(vocabulary());
        let mut streamed = String::new();
        for id in ids {
            let piece = decoder.push(id).unwrap();
            let whole = !piece.contains(char::REPLACEMENT_CHARACTER);
            prop_assert!(whole || text.contains(char::REPLACEMENT_CHARACTER));
            streamed.push_str(piece);
        }
        streamed.push_str(&decoder.finish().unwrap());
        prop_assert_eq!(streamed, text);
    }

    #[test]
    fn any_tokens_stream_as_they_decode(ids in prop::collection::vec(0u32..700, 0..60)) {
        let mut decoder = StreamingDecoder::new(vocabulary());
        let mut streamed: String = ids.iter().map(|id| decoder.push(*id).unwrap().to_string()).collect();
        streamed.push_str(&decoder.finish().unwrap());
        prop_assert_eq!(streamed, vocabulary().decode(&ids).unwrap());
    }

    /// Every epoch walks every window once; rows are the stream; a batch is a function of its step.
    #[test]
    fn an_epoch_is_every_window_once(seed: u64, time in 1usize..300, batch in 1usize..8, epoch in 0u64..5) {
        let tokens = &PREPARED.1.training;
        let order = TrainingOrder::new(tokens.clone(), seed, time).unwrap();
        let windows = order.sequences_per_epoch();
        prop_assert!(windows as usize * time + 2 * time > tokens.tokens());
        let mut stream = vec![0; tokens.tokens()];
        tokens.copy(0, &mut stream);
        let (mut inputs, mut targets) = (vec![0; time], vec![0; time]);
        if time > 40 {
            let mut seen = HashMap::new();
            for step in epoch * windows..(epoch + 1) * windows {
                prop_assert_eq!(order.batch(step, 1, &mut inputs, &mut targets), epoch);
                prop_assert_eq!(&inputs[1..], &targets[..time - 1]);
                *seen.entry(inputs.clone()).or_insert(0) += 1;
            }
            // Find the offset: the one from which all windows are those seen.
            let fits = (0..time).any(|offset| {
                offset + windows as usize * time < stream.len() && {
                    let mut expected = HashMap::new();
                    for window in stream[offset..].chunks_exact(time).take(windows as usize) {
                        *expected.entry(window.to_vec()).or_insert(0) += 1;
                    }
                    expected == seen
                }
            });
            prop_assert!(fits);
        }
        // Rows of a larger batch are the single sequences of the same numbers.
        let (mut many_inputs, mut many_targets) = (vec![0; batch * time], vec![0; batch * time]);
        let step = epoch * windows / batch as u64 + 3;
        order.batch(step, batch, &mut many_inputs, &mut many_targets);
        for row in 0..batch {
            order.batch(step * batch as u64 + row as u64, 1, &mut inputs, &mut targets);
            prop_assert_eq!(&inputs, &many_inputs[row * time..][..time]);
            prop_assert_eq!(&targets, &many_targets[row * time..][..time]);
        }
    }

    /// Windows of any length give each document's tokens back, each a target once.
    #[test]
    fn held_out_windows_cover_each_document_once(time in 1usize..2000) {
        let file = &PREPARED.1.held_out;
        let held_out = HeldOut::new(file.clone());
        let mut targets_of = vec![Vec::new(); held_out.documents()];
        let mut bytes = 0;
        for window in held_out.windows(time) {
            let (mut inputs, mut targets) = (vec![-1; time], vec![-1; time]);
            let used = window.fill(&mut inputs, &mut targets);
            prop_assert_eq!(used, window.targets());
            prop_assert!(used >= 1 && inputs.iter().all(|id| *id >= 0));
            prop_assert_eq!(&inputs[1..used], &targets[..used - 1]);
            let before = targets_of[window.document].last().copied().unwrap_or(0);
            prop_assert_eq!(inputs[0], before);
            targets_of[window.document].extend(&targets[..used]);
            bytes += window.bytes as usize;
        }
        let split = Split::by_document(&CORPUS, 0.2).unwrap();
        prop_assert_eq!(bytes, split.held_out.iter().map(|document| document.text.len()).sum::<usize>());
        for (targets, document) in targets_of.iter().zip(&split.held_out) {
            let mut expected = vocabulary().encode(&document.text).unwrap();
            expected.push(0);
            prop_assert!(targets.iter().map(|id| *id as u32).eq(expected));
        }
    }
}

#[test]
fn epochs_and_seeds_differ_and_resuming_is_free() {
    let tokens = &PREPARED.1.training;
    let time = 32;
    let order = |seed| TrainingOrder::new(tokens.clone(), seed, time).unwrap();
    let first = |order: &TrainingOrder, step| {
        let (mut inputs, mut targets) = (vec![0; 8 * time], vec![0; 8 * time]);
        order.batch(step, 8, &mut inputs, &mut targets);
        inputs
    };
    let one = order(1);
    let steps = one.sequences_per_epoch();
    let batches: HashSet<Vec<i32>> = (0..5).map(|epoch| first(&one, epoch * steps)).collect();
    assert_eq!(batches.len(), 5);
    assert_ne!(first(&order(2), 0), first(&one, 0));
    assert_eq!(first(&order(1), 1 << 40), first(&one, 1 << 40));
}

#[test]
fn too_little_text_for_a_sequence_is_refused() {
    let tokens = &PREPARED.1.training;
    let longest = tokens.tokens() - 1;
    let order = TrainingOrder::new(tokens.clone(), 0, longest).unwrap();
    assert_eq!(order.sequences_per_epoch(), 1);
    let (mut inputs, mut targets) = (vec![0; longest], vec![0; longest]);
    assert_eq!(order.batch(7, 1, &mut inputs, &mut targets), 7);
    let error = TrainingOrder::new(tokens.clone(), 0, longest + 1).unwrap_err().to_string();
    assert!(error.contains("too few") && error.contains(&(longest + 1).to_string()), "{error}");
}

#[test]
fn no_document_is_on_both_sides() {
    let documents = |file: &diptych_data::TokenFile| -> HashSet<Vec<i32>> {
        (0..file.documents())
            .map(|document| {
                let range = file.document(document);
                let mut tokens = vec![0; range.len()];
                file.copy(range.start, &mut tokens);
                tokens
            })
            .collect()
    };
    let (training, held_out) = (documents(&PREPARED.1.training), documents(&PREPARED.1.held_out));
    assert!(training.is_disjoint(&held_out));
    assert_eq!(training.len() + held_out.len(), CORPUS.documents.len());
}

#[test]
fn what_is_prepared_is_used_again_and_what_is_damaged_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = |settings: &Settings| {
        let mut calls = Vec::new();
        let prepared =
            prepare(&CORPUS, settings, folder.path(), &mut |progress| calls.push(progress)).unwrap();
        (prepared, calls)
    };
    let (first, calls) = run(&SETTINGS);
    assert!(matches!(calls[0], Progress::TrainingVocabulary { .. }));
    let total = CORPUS.bytes();
    assert_eq!(calls.last(), Some(&Progress::Encoding { done: total, total }));
    let (second, calls) = run(&SETTINGS);
    assert!(calls.is_empty(), "{calls:?}");
    assert_eq!(second.vocabulary.content_hash(), first.vocabulary.content_hash());
    let path = first.held_out.path().to_path_buf();
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let (_, calls) = run(&SETTINGS);
    assert!(!calls.is_empty());
    assert_eq!(fs::read(&path).unwrap(), good);
    let (other, calls) = run(&Settings { held_out_share: 0.4, ..SETTINGS });
    assert!(!calls.is_empty() && other.held_out.path() != path);
}

#[test]
fn a_vocabulary_without_end_of_text_cannot_separate_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    vocabulary().save(&path).unwrap();
    let json = fs::read_to_string(&path).unwrap().replace(END_OF_TEXT, "<|stop|>");
    fs::write(&path, json).unwrap();
    let other = Arc::new(Vocabulary::from_file(&path).unwrap());
    let split = Split::by_document(&CORPUS, 0.2).unwrap();
    let error = prepare_with(&CORPUS, &split, other, folder.path(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, DataError::NoEndOfText));
}
