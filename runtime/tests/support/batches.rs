//! Batches of every size on a GPU: score, prefill and decode give a token the same bits.

use super::runner::{Piece, Runner, Texts, assert_same, room, vocabulary, with_probes};
use super::runs::model;
use super::virtual_gpu::session;
use diptych_codegen::entry::Limits;
use diptych_ir::EntryKind;
use diptych_runtime::session::Device;
use serde_json::json;
use std::ops::Range;

/// Texts of a batch, the first ones of smaller batches: more than one chunk of positions, more than one block of rows.
const LENGTHS: [usize; 9] = [66, 1, 2, 17, 9, 33, 5, 64, 3];
/// Of each text, the last so many tokens are decoded one by one.
const DECODED: usize = 2;

/// Runs the entries of a small model in batches of these sizes, each text also alone.
pub fn batches_agree(device: &Device, family: &str, dtype: &str, batches: impl IntoIterator<Item = usize>) {
    use EntryKind::{Decode, Prefill, Score};
    // Large enough that attention is far from even.
    let change = json!({ "dtype": dtype, "context": 192, "standard_deviation": 0.2 });
    let (program, _) = model(family, &format!("{family}-tiny"), change);
    let vocab = vocabulary(&program);
    let program = with_probes(&program);
    let session = session(device, &program, 192, &[Score, Prefill, Decode]);
    session.store.upload().unwrap();
    let caches = device.caches(&session.compiled.entries[&Prefill], room(LENGTHS.len())).unwrap();
    let limits = Limits { rows: LENGTHS.iter().sum(), batch: LENGTHS.len() };
    let [mut score, mut prefill, mut decode] = [Score, Prefill, Decode].map(|kind| {
        let caches = kind.cached().then_some(&caches);
        Runner::new(device, &session, kind, caches, limits)
    });
    let texts = Texts::new(&LENGTHS, vocab);
    let piece = |text: usize, of: Range<usize>| Piece { text, start: of.start, length: of.len() };
    let whole = |text: usize| piece(text, 0..LENGTHS[text]);
    let empty = |width: usize| LENGTHS.map(|length| vec![u32::MAX; length * width]).to_vec();

    let (mut log_probs, mut logits) = (empty(1), empty(vocab));
    let mut prefilled = empty(1);
    for text in 0..LENGTHS.len() {
        score.collect(&texts, &[whole(text)], "log_prob", &mut log_probs);
        prefill.collect(&texts, &[whole(text)], "log_prob", &mut prefilled);
        prefill.take(&[whole(text)], "all_logits", &mut logits);
    }
    let case = |what: &str| format!("{family} {dtype} on {}, {what}", device.name());
    assert!(log_probs.iter().flatten().all(|&bits| f32::from_bits(bits) <= 0.0));
    assert_same(&case("prefill of one text"), 1, &log_probs, &prefilled);
    for batch in batches {
        let case = |what: &str| case(&format!("{what} of {batch} texts"));
        let (mut scored, mut served, mut of_logits) = (log_probs.clone(), log_probs.clone(), logits.clone());
        for text in 0..batch {
            [&mut scored, &mut served, &mut of_logits]
                .into_iter()
                .for_each(|found| found[text].fill(u32::MAX));
        }
        score.collect(&texts, &(0..batch).map(whole).collect::<Vec<_>>(), "log_prob", &mut scored);
        assert_same(&case("score"), 1, &log_probs, &scored);
        let head = |text: usize| LENGTHS[text].saturating_sub(DECODED);
        let prompts = (0..batch).filter(|&text| head(text) > 0);
        let prompts: Vec<Piece> = prompts.map(|text| piece(text, 0..head(text))).collect();
        prefill.collect(&texts, &prompts, "log_prob", &mut served);
        prefill.take(&prompts, "all_logits", &mut of_logits);
        for step in 0..DECODED {
            let next = |text: usize| piece(text, head(text) + step..head(text) + step + 1);
            let there = (0..batch).filter(|&text| head(text) + step < LENGTHS[text]);
            let tokens: Vec<Piece> = there.map(next).collect();
            if !tokens.is_empty() {
                decode.collect(&texts, &tokens, "log_prob", &mut served);
                decode.take(&tokens, "all_logits", &mut of_logits);
            }
        }
        assert_same(&case("prefill and decode"), 1, &log_probs, &served);
        assert_same(&case("logits of prefill and decode"), vocab, &logits, &of_logits);
    }
}
