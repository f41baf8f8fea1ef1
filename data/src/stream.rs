//! Tokens to text as they arrive: a character may be spread over several tokens, and only whole ones
//! are given out. Knows nothing of who reads the text.

use tokenizers::tokenizer::step_decode_stream;

use crate::error::DataError;
use crate::tokenizer::{Vocabulary, encoding};

/// Gives out text while tokens arrive. All that it gave, joined, is [`Vocabulary::decode`] of all tokens.
#[derive(Debug)]
pub struct StreamingDecoder<'a> {
    vocabulary: &'a Vocabulary,
    /// Bytes that may yet become a character (byte-level vocabularies).
    pending: Vec<u8>,
    /// Tokens whose text is not out yet, with the context that decoding them needs (others).
    window: Window,
    text: String,
}

#[derive(Debug, Default)]
struct Window {
    ids: Vec<u32>,
    prefix: String,
    prefix_ids: usize,
}

impl<'a> StreamingDecoder<'a> {
    /// A decoder that has seen nothing.
    pub fn new(vocabulary: &'a Vocabulary) -> StreamingDecoder<'a> {
        StreamingDecoder { vocabulary, pending: Vec::new(), window: Window::default(), text: String::new() }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`], [`DataError::Encoding`].
    pub fn push(&mut self, id: u32) -> Result<&str, DataError> {
        self.vocabulary.check(&[id])?;
        self.text.clear();
        if let Some(bytes) = self.vocabulary.bytes_of(id) {
            self.pending.extend_from_slice(bytes);
            move_whole_characters(&mut self.pending, &mut self.text);
        } else {
            let Window { ids, prefix, prefix_ids } = &mut self.window;
            let step =
                step_decode_stream(self.vocabulary.tokenizer(), vec![id], true, ids, prefix, prefix_ids);
            self.text.extend(step.map_err(|error| encoding("decoding", &error))?);
        }
        Ok(&self.text)
    }

    /// What is left when no more tokens come: U+FFFD for a character that was not completed.
    ///
    /// # Errors
    /// [`DataError::Encoding`].
    pub fn finish(mut self) -> Result<String, DataError> {
        if !self.pending.is_empty() {
            // At most three bytes, which begin one character.
            return Ok(char::REPLACEMENT_CHARACTER.to_string());
        }
        let rest = self.vocabulary.decode(&self.window.ids)?;
        self.text.clear();
        self.text.push_str(rest.strip_prefix(&self.window.prefix).unwrap_or_default());
        Ok(self.text)
    }
}

/// Moves all but an unfinished character at the end from `pending` to `text`; bytes that no
/// continuation can mend become U+FFFD, as `String::from_utf8_lossy` has it.
fn move_whole_characters(pending: &mut Vec<u8>, text: &mut String) {
    let mut used = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        used += chunk.valid().len();
        let invalid = chunk.invalid();
        let unfinished = used + invalid.len() == pending.len()
            && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if !invalid.is_empty() && !unfinished {
            text.push(char::REPLACEMENT_CHARACTER);
            used += invalid.len();
        }
    }
    pending.drain(..used);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        /// Any bytes in any pieces: what comes out is what decoding all at once gives, and no
        /// replacement character comes out before it must.
        #[test]
        fn pieces_give_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0x98), Just(0x80)], 0..40),
            text in "[a-zé€😀]{0,10}",
            pieces in prop::collection::vec(1usize..5, 1..8),
        ) {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let (mut pending, mut out) = (Vec::new(), String::new());
                let (mut at, mut lengths) = (0, pieces.iter().cycle());
                while at < bytes.len() {
                    let end = bytes.len().min(at + lengths.next().unwrap());
                    pending.extend_from_slice(&bytes[at..end]);
                    move_whole_characters(&mut pending, &mut out);
                    prop_assert!(pending.len() < 4);
                    at = end;
                }
                if !pending.is_empty() {
                    out.push(char::REPLACEMENT_CHARACTER);
                }
                prop_assert_eq!(out, String::from_utf8_lossy(bytes));
            }
        }
    }
}
