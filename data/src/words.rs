//! The fast way to encode documents with a vocabulary that splits text as GPT-2 does: words are split
//! by a regular expression without look-ahead, and each distinct word goes through the merges once.
//! The library's own way is the reference that it is tested against. Knows nothing of files.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::Model;
use tokenizers::utils::SysRegex;

use crate::error::DataError;
use crate::tokenizer::{Vocabulary, encoding};

/// GPT-2's words (encoder.py of the released model) without its `\s+(?!\S)`, which [`words`] does by hand.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// Distinct words remembered at once; more are forgotten together, which bounds the memory.
const MOST_WORDS: usize = 1 << 20;

/// Encodes texts that outlive it; one for each thread.
pub(crate) struct WordEncoder<'a> {
    vocabulary: &'a Vocabulary,
    words: SysRegex,
    characters: [char; 256],
    known: HashMap<&'a str, Range<usize>>,
    ids: Vec<u32>,
    spelled: String,
}

impl<'a> WordEncoder<'a> {
    /// None if the vocabulary does not split text into words as GPT-2 does.
    pub(crate) fn new(vocabulary: &'a Vocabulary) -> Option<WordEncoder<'a>> {
        vocabulary.splits_as_gpt2().then(|| WordEncoder {
            vocabulary,
            words: SysRegex::new(WORDS).expect("a constant that the tests compile"),
            characters: byte_characters(),
            known: HashMap::new(),
            ids: Vec::new(),
            spelled: String::new(),
        })
    }

    /// The same as [`Vocabulary::encode`].
    pub(crate) fn encode(&mut self, text: &'a str) -> Result<Vec<u32>, DataError> {
        let mut encoded = Vec::with_capacity(text.len() / 3);
        let mut at = 0;
        while let Some(end) = word_end(&self.words, text, at) {
            let word = &text[at..end];
            at = end;
            if let Some(range) = self.known.get(word) {
                encoded.extend_from_slice(&self.ids[range.clone()]);
                continue;
            }
            self.spelled.clear();
            self.spelled.extend(word.bytes().map(|byte| self.characters[usize::from(byte)]));
            let model = self.vocabulary.tokenizer().get_model();
            let tokens = model.tokenize(&self.spelled).map_err(|error| encoding("a text", &error))?;
            if self.known.len() == MOST_WORDS {
                self.known.clear();
                self.ids.clear();
            }
            let start = self.ids.len();
            self.ids.extend(tokens.iter().map(|token| token.id));
            encoded.extend_from_slice(&self.ids[start..]);
            self.known.insert(word, start..self.ids.len());
        }
        Ok(encoded)
    }
}

/// Where the word that starts at `at` ends; none at the end of the text. Of white space before
/// something else, the last character is left to what follows, unless it is the only one.
fn word_end(words: &SysRegex, text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let (_, end) = words.find_iter(rest).next()?;
    let last = rest[..end].chars().next_back().filter(|last| last.is_whitespace());
    match last.map(char::len_utf8) {
        Some(last) if end < rest.len() && end > last => Some(at + end - last),
        _ => Some(at + end),
    }
}

/// A byte-level vocabulary writes each byte as one character: those that print stand for themselves,
/// the others follow from U+0100 on (GPT-2's `bytes_to_unicode`).
pub(crate) fn byte_characters() -> [char; 256] {
    let mut hidden = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => hidden.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Document;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
        let text = include_str!("words.rs").to_string();
        Vocabulary::train(&[&Document { name: "words.rs".into(), text }], 500, usize::MAX).unwrap()
    });

    fn same(text: &str) {
        let expected = VOCABULARY.encode(text).unwrap();
        let mut encoder = WordEncoder::new(&VOCABULARY).unwrap();
        assert_eq!(encoder.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(encoder.encode(text).unwrap(), expected, "{text:?}, now from memory");
    }

    #[test]
    fn the_library_gives_the_same_where_it_is_tricky() {
        for text in [
            "",
            " ",
            "  ",
            "a",
            "a  b   c\n\n  d \n",
            "\t\tx",
            "we'll I'd 'S it's'",
            "x\u{a0}\u{a0}y \u{3000}z\u{3000}",
            "½ Ⅷ x² ①١٢",
            "é e\u{301} 漢字 ไทย हिन्दी ⓐ",
            "<|endoftext|>",
            "\u{85}\u{2028} a\r\n\r\nb",
            "0\u{1f600} \u{1f600}\u{200d}",
        ] {
            same(text);
        }
        same(include_str!("words.rs"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        #[test]
        fn the_library_gives_the_same(text: String, spaces in "[ \n\t\u{a0}ab1'sé.]{0,40}") {
            same(&text);
            same(&spaces);
        }
    }
}
