//! Vocabularies in GGUF: one trained here, written as a file and read again, with each way of
//! splitting text into words; and SentencePiece's kind against a plain version of its rule.

#[path = "../../gguf/tests/support/mod.rs"]
mod support;

use diptych_data::{Document, Vocabulary};
use diptych_gguf::File;
use serde_json::Value as Json;
use support::{Gguf, Value};

const TEXTS: [&str; 6] = [
    "To be, or not to be: that is the question.",
    "In 2024, 1234567 people; 3.14159 and ½ ² ٣٤٥.",
    "tabs\tand  double   spaces \n\n\t  at ends   \r\n ",
    "é ü ñ 漢字 かな 한글 😀👩‍👩‍👧 Ω ≠ “quotes” — don't I'LL we've",
    "fn main() { println!(\"{}\", x[0] += 1); }",
    "",
];

/// A vocabulary trained on this file and the texts.
fn trained() -> Vocabulary {
    let text = include_str!("gguf.rs").repeat(2) + &TEXTS.concat().repeat(3);
    Vocabulary::train(&[&Document { name: "gguf.rs".into(), text }], 600, usize::MAX).unwrap()
}

/// The same as GGUF, with this way of splitting text into words.
fn written(vocabulary: &Vocabulary, words: &str) -> Gguf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    vocabulary.save(&path).unwrap();
    let json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut tokens: Vec<(u64, String)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(text, id)| (id.as_u64().unwrap(), text.clone()))
        .collect();
    tokens.sort();
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merge = |pair: &Json| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let mut file = Gguf::default();
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", words);
    file.set("tokenizer.ggml.merges", Value::Texts(merges.map(merge).collect()));
    let kinds = tokens.iter().map(|(id, _)| if *id == 0 { 3 } else { 1 }).collect();
    file.set("tokenizer.ggml.token_type", Value::Integers(kinds));
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens.into_iter().map(|row| row.1).collect()));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(0));
    file
}

fn read(file: &Gguf) -> Result<Vocabulary, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let file = File::open(&path).map_err(|error| error.to_string())?;
    Vocabulary::from_gguf(&file).map_err(|error| error.to_string())
}

/// The text of each token.
fn pieces(vocabulary: &Vocabulary, text: &str) -> Vec<String> {
    let ids = vocabulary.encode(text).unwrap();
    ids.into_iter().map(|id| vocabulary.decode(&[id]).unwrap()).collect()
}

#[test]
fn the_same_vocabulary_comes_back() {
    let ours = trained();
    let read = read(&written(&ours, "gpt-2")).unwrap();
    assert_eq!(read.vocab_size(), ours.vocab_size());
    assert_eq!(read.end_of_text().unwrap(), 0);
    for text in TEXTS.into_iter().chain([include_str!("gguf.rs")]) {
        let ids = read.encode(text).unwrap();
        assert_eq!(ids, ours.encode(text).unwrap(), "{text}");
        assert_eq!(read.decode(&ids).unwrap(), text);
    }
    let marked = "<|endoftext|>To be";
    assert_eq!(read.encode_prompt(marked).unwrap(), ours.encode_prompt(marked).unwrap());
    assert_eq!(read.encode_prompt(marked).unwrap()[0], 0);
    assert_ne!(read.encode(marked).unwrap()[0], 0);
}

#[test]
fn texts_come_back_whatever_the_words() {
    let ours = trained();
    for words in ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"] {
        let read = read(&written(&ours, words)).unwrap();
        for text in TEXTS.into_iter().chain([include_str!("gguf.rs")]) {
            let ids = read.encode(text).unwrap();
            assert_eq!(read.decode(&ids).unwrap(), text, "{words}");
        }
    }
}

#[test]
fn digits_are_split_as_the_name_says() {
    let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
    let mut file = Gguf::default();
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.tokens", texts(&["x", "Ġ", "7", "77", "777", "7777"]));
    file.set("tokenizer.ggml.merges", texts(&["7 7", "77 77", "77 7"]));
    for (words, expected) in [
        ("smollm", &["x", " ", "7", "7", "7", "7", "7"][..]),
        ("qwen2", &["x", " ", "7", "7", "7", "7", "7"]),
        ("llama-bpe", &["x", " ", "777", "77"]),
        ("default", &["x", " ", "777", "77"]),
        ("gpt-2", &["x", " ", "7777", "7"]),
    ] {
        file.set("tokenizer.ggml.pre", words);
        assert_eq!(pieces(&read(&file).unwrap(), "x 77777"), expected, "{words}");
    }
    // A file without the name is split as llama.cpp does it then.
    file.metadata.retain(|row| row.0 != "tokenizer.ggml.pre");
    assert_eq!(pieces(&read(&file).unwrap(), "x 77777"), ["x", " ", "777", "77"]);
}

#[test]
fn tokens_at_the_ends_are_added_where_the_file_says() {
    let mut file = written(&trained(), "smollm");
    file.set("tokenizer.ggml.bos_token_id", Value::U32(0));
    let plain = read(&file).unwrap().encode_prompt("To be").unwrap();
    assert_ne!(plain[0], 0);
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    file.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let vocabulary = read(&file).unwrap();
    assert_eq!(vocabulary.encode_prompt("To be").unwrap(), [&[0], &plain[..], &[0]].concat());
    assert_eq!(vocabulary.encode_chat("To be").unwrap(), plain);
    assert_eq!(vocabulary.encode("To be").unwrap(), plain);
}

#[test]
fn vocabularies_that_cannot_be_used_are_told() {
    type Change = fn(&mut Gguf);
    let cases: [(&str, Change); 7] = [
        ("`tokenizer.ggml.model` is `bert`; supported: gpt2, llama", |file| {
            file.set("tokenizer.ggml.model", "bert");
        }),
        ("`tokenizer.ggml.pre` is `tekken`", |file| file.set("tokenizer.ggml.pre", "tekken")),
        ("no `tokenizer.ggml.tokens`", |file| file.metadata.retain(|row| row.0 != "tokenizer.ggml.tokens")),
        ("tokens 0 and 1 are both `a`", |file| {
            file.set("tokenizer.ggml.tokens", Value::Texts(vec!["a".to_owned(), "a".to_owned()]));
        }),
        ("merge 0, `a`, is not of two tokens", |file| {
            file.set("tokenizer.ggml.merges", Value::Texts(vec!["a".to_owned()]));
        }),
        ("`tokenizer.ggml.eos_token_id` is 70000", |file| {
            file.set("tokenizer.ggml.eos_token_id", Value::U32(70000));
        }),
        ("`tokenizer.ggml.add_bos_token` is set", |file| {
            file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        }),
    ];
    for (expected, change) in cases {
        let mut file = written(&trained(), "smollm");
        change(&mut file);
        let told = read(&file).err().unwrap_or_default();
        assert!(told.contains(expected) && told.contains("vocabulary.gguf"), "{expected}: {told}");
    }
}

/// A SentencePiece vocabulary: unknown, the ends, all bytes, then characters and words with scores.
fn sentence_pieces() -> (Gguf, Vec<(String, f32)>) {
    let mut tokens: Vec<(String, f32, i32)> =
        vec![("<unk>".into(), 0.0, 2), ("<s>".into(), 0.0, 3), ("</s>".into(), 0.0, 3)];
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    let words = [
        "▁t", "he", "▁the", "in", "▁a", "er", "on", "▁o", "re", "▁on", "ing", "▁in", "▁there", "th", "▁▁",
        "ere",
    ];
    let characters = "▁abcdefghinorst.é";
    let pieces: Vec<(String, f32)> = words
        .into_iter()
        .map(str::to_owned)
        .chain(characters.chars().map(String::from))
        .zip(0..)
        .map(|(text, rank)| (text, -(rank as f32)))
        .collect();
    tokens.extend(pieces.iter().map(|(text, score)| (text.clone(), *score, 1)));
    let mut file = Gguf::default();
    file.set("tokenizer.ggml.model", "llama");
    file.set("tokenizer.ggml.scores", Value::Floats(tokens.iter().map(|row| row.1).collect()));
    file.set("tokenizer.ggml.token_type", Value::Integers(tokens.iter().map(|row| row.2).collect()));
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens.into_iter().map(|row| row.0).collect()));
    for (key, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        file.set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
    }
    (file, pieces)
}

/// SentencePiece's rule, step by step: of all neighbours, the pair whose token has the highest score,
/// the first of several, until no two make a token.
fn merged(text: &str, pieces: &[(String, f32)]) -> Vec<String> {
    let mut parts: Vec<String> = format!(" {text}").replace(' ', "▁").chars().map(String::from).collect();
    let score = |text: &str| pieces.iter().find(|piece| piece.0 == text).map(|piece| piece.1);
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            let found = score(&[parts[at - 1].as_str(), &parts[at]].concat());
            if let Some(found) = found
                && best.is_none_or(|best| best.0 < found)
            {
                best = Some((found, at));
            }
        }
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at);
        parts[at - 1].push_str(&right);
    }
}

#[test]
fn pieces_merge_by_score() {
    let (file, pieces) = sentence_pieces();
    let vocabulary = read(&file).unwrap();
    for text in ["there is one on a hearing", "the  other  theatre rings", "in there.", "éon e"] {
        let ids = vocabulary.encode(text).unwrap();
        let found: Vec<String> = ids.iter().map(|&id| vocabulary.token(id).unwrap()).collect();
        assert_eq!(found, merged(text, &pieces), "{text}");
        assert_eq!(vocabulary.decode(&ids).unwrap(), text);
    }
    // What is no piece is spelled in bytes, and a prompt begins as the file says by default.
    let ids = vocabulary.encode_prompt("a 漢").unwrap();
    let found: Vec<String> = ids.iter().map(|&id| vocabulary.token(id).unwrap()).collect();
    assert_eq!(found, ["<s>", "▁a", "▁", "<0xE6>", "<0xBC>", "<0xA2>"]);
    assert_eq!(vocabulary.decode(&ids).unwrap(), "a 漢");
}
