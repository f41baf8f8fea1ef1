//! Text to token ids and back: a byte-level BPE vocabulary trained on a corpus, or one read from a
//! Hugging Face `tokenizer.json`. Knows nothing of where texts come from or go.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, Tokenizer};

use crate::corpus::Document;
use crate::error::DataError;
use crate::file::write_atomically;
use crate::words::byte_characters;

/// The token that ends a text, in a vocabulary trained here. GPT-2's name for it.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// How published vocabularies name the token that ends a text, the likelier first.
const END_OF_TEXT_NAMES: [&str; 7] =
    [END_OF_TEXT, "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>"];

/// The 256 bytes and end of text.
const LEAST_SIZE: usize = 257;
/// More than any published vocabulary.
const MOST_SIZE: usize = 1 << 20;

/// A map between text and token ids.
pub struct Vocabulary {
    /// Takes special tokens in a text for text.
    tokenizer: Tokenizer,
    /// Recognises them; made when first asked for.
    with_special: OnceLock<Tokenizer>,
    /// The bytes of each id, none for special tokens; absent where the vocabulary is not byte-level.
    bytes: Option<Vec<Vec<u8>>>,
    size: usize,
    end_of_text: Option<u32>,
    content_hash: [u8; 32],
}

impl Vocabulary {
    /// Trains a byte-level BPE vocabulary with GPT-2's way of splitting text into words, on the
    /// documents in the order given until `sample_bytes` of text are used. Merges are chosen by
    /// count, and beyond some megabytes more text changes few of them, while time grows with it: with
    /// 5 MB of shuffled documents, 8192 tokens take seconds.
    ///
    /// The result depends on nothing but the arguments. It has at most `size` tokens, fewer where the
    /// text has no pair of tokens left that occurs twice; all bytes are among them, so that any text
    /// can be encoded, and id 0 is [`END_OF_TEXT`].
    ///
    /// # Errors
    /// [`DataError::VocabularySize`], [`DataError::Encoding`].
    pub fn train(documents: &[&Document], size: usize, sample_bytes: usize) -> Result<Vocabulary, DataError> {
        if !(LEAST_SIZE..=MOST_SIZE).contains(&size) {
            return Err(DataError::VocabularySize { size, least: LEAST_SIZE, most: MOST_SIZE });
        }
        let mut used = 0;
        let sample: Vec<&str> = documents
            .iter()
            .map(|document| document.text.as_str())
            .take_while(|text| {
                let more = used < sample_bytes;
                used += text.len();
                more
            })
            .collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
        tokenizer
            .train(&mut TrainerWrapper::BpeTrainer(trainer), sample.into_iter())
            .map_err(|error| encoding("training the vocabulary", &error))?;
        Vocabulary::new(tokenizer).map_err(|problem| encoding("training the vocabulary", &problem))
    }

    /// A Hugging Face `tokenizer.json`, of any model that it knows.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if it is not one, [`DataError::Io`].
    pub fn from_file(path: &Path) -> Result<Vocabulary, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
        let refused = |problem: String| DataError::Tokenizer { path: path.to_path_buf(), problem };
        let tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|error| refused(format!("{error}; a Hugging Face tokenizer.json is needed")))?;
        Vocabulary::new(tokenizer).map_err(refused)
    }

    pub(crate) fn new(mut tokenizer: Tokenizer) -> Result<Vocabulary, String> {
        // What a file says of these would silently change texts.
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let vocabulary = tokenizer.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |last| *last as usize + 1);
        if size == 0 || size > MOST_SIZE {
            return Err(format!("its ids go up to {size}, between 1 and {MOST_SIZE} are needed"));
        }
        let end_of_text = END_OF_TEXT_NAMES.iter().find_map(|name| vocabulary.get(*name)).copied();
        let json = tokenizer.to_string(false).map_err(|error| error.to_string())?;
        let bytes = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            .then(|| bytes_of_ids(&tokenizer, size));
        Ok(Vocabulary {
            with_special: OnceLock::new(),
            bytes,
            size,
            end_of_text,
            content_hash: Sha256::digest(json).into(),
            tokenizer,
        })
    }

    /// The same, with `id` as the end of text, as a model's `eos_token_id` says.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`].
    pub fn with_end_of_text(mut self, id: u32) -> Result<Vocabulary, DataError> {
        self.check(&[id])?;
        self.end_of_text = Some(id);
        Ok(self)
    }

    /// Writes a Hugging Face `tokenizer.json`, beside and renamed into place.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`], [`DataError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        let json = self
            .tokenizer
            .to_string(false)
            .map_err(|error| DataError::Tokenizer { path: path.to_path_buf(), problem: error.to_string() })?;
        write_atomically(path, |writer| writer.write_all(json.as_bytes()))
    }

    /// The tokens of a text and no others. Special tokens in it are taken for plain text, so that no
    /// document can end itself.
    ///
    /// # Errors
    /// [`DataError::Encoding`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoded = self.tokenizer.encode_fast(text, false).map_err(|error| encoding("a text", &error))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The tokens of a prompt as transformers' `tokenizer(text)` gives them: special tokens written in
    /// it are recognised, and those that the file says come before or after a text are added.
    ///
    /// # Errors
    /// [`DataError::Encoding`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode_marked(text, true)
    }

    /// The tokens of a conversation as a chat template writes it: special tokens written in it are
    /// recognised, and none are added.
    ///
    /// # Errors
    /// [`DataError::Encoding`].
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode_marked(text, false)
    }

    fn encode_marked(&self, text: &str, add: bool) -> Result<Vec<u32>, DataError> {
        let tokenizer = self.with_special.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(false);
            tokenizer
        });
        let encoded = tokenizer.encode_fast(text, add).map_err(|error| encoding("the prompt", &error))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The text of tokens; special tokens have none. Bytes that make no character become U+FFFD.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`], [`DataError::Encoding`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.check(ids)?;
        match &self.bytes {
            Some(table) => {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| &table[*id as usize]).copied().collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            None => self.tokenizer.decode(ids, true).map_err(|error| encoding("decoding", &error)),
        }
    }

    /// How a token is written in the vocabulary, if there is one of this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Ids are below this. Gaps between ids count.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The token between documents, where the vocabulary has one.
    ///
    /// # Errors
    /// [`DataError::NoEndOfText`]; see [`Self::with_end_of_text`].
    pub fn end_of_text(&self) -> Result<u32, DataError> {
        self.end_of_text.ok_or(DataError::NoEndOfText)
    }

    /// SHA-256 of the vocabulary and all that it does to a text.
    pub fn content_hash(&self) -> &[u8; 32] {
        &self.content_hash
    }

    pub(crate) fn check(&self, ids: &[u32]) -> Result<(), DataError> {
        match ids.iter().find(|id| **id as usize >= self.size) {
            Some(&id) => Err(DataError::UnknownToken { id, size: self.size }),
            None => Ok(()),
        }
    }

    /// The bytes of an id that [`Self::check`] passed; none where the vocabulary is not byte-level.
    pub(crate) fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        self.bytes.as_ref().map(|table| table[id as usize].as_slice())
    }

    /// Whether a text's tokens are those of its words as GPT-2 splits it, and nothing else is done to it.
    pub(crate) fn splits_as_gpt2(&self) -> bool {
        let words = matches!(self.tokenizer.get_pre_tokenizer(),
            Some(PreTokenizerWrapper::ByteLevel(by)) if by.use_regex && !by.add_prefix_space);
        let added = self.tokenizer.get_added_tokens_decoder();
        words && self.tokenizer.get_normalizer().is_none() && added.values().all(|token| token.special)
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("size", &self.size)
            .field("end_of_text", &self.end_of_text)
            .finish_non_exhaustive()
    }
}

pub(crate) fn encoding(what: &str, problem: &impl ToString) -> DataError {
    DataError::Encoding { what: what.to_string(), problem: problem.to_string() }
}

/// The bytes that each id stands for.
fn bytes_of_ids(tokenizer: &Tokenizer, size: usize) -> Vec<Vec<u8>> {
    let bytes: HashMap<char, u8> = byte_characters().into_iter().zip(0..=255).collect();
    let added = tokenizer.get_added_tokens_decoder();
    (0..size as u32)
        .map(|id| match (added.get(&id), tokenizer.id_to_token(id)) {
            (Some(token), _) if token.special => Vec::new(),
            (Some(token), _) => token.content.clone().into_bytes(),
            (None, Some(token)) => token
                .chars()
                .map(|character| bytes.get(&character).copied())
                .collect::<Option<Vec<u8>>>()
                .unwrap_or(token.into_bytes()),
            (None, None) => Vec::new(),
        })
        .collect()
}
