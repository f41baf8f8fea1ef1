//! From a corpus to token files in a work folder, or back from there when they are already made.
//! Knows nothing of what the tokens are for.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::corpus::{Corpus, hex};
use crate::encode::encode_documents;
use crate::error::DataError;
use crate::shards::TokenFile;
use crate::split::Split;
use crate::tokenizer::Vocabulary;

/// Counts up when the same text and settings would give other files than before.
const RECIPE: u32 = 1;

/// What token files depend on besides the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Tokens in the vocabulary, at most.
    pub vocabulary_size: usize,
    /// Bytes of training text that the vocabulary is trained on, at most (and a document's rest).
    pub vocabulary_sample_bytes: usize,
    /// Share of the documents that is held out, between 0 and 1.
    pub held_out_share: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { vocabulary_size: 4096, vocabulary_sample_bytes: 5 << 20, held_out_share: 0.05 }
    }
}

/// How far [`prepare`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The vocabulary is being trained on so many bytes.
    TrainingVocabulary {
        /// Bytes of text.
        bytes: usize,
    },
    /// Text is being encoded.
    Encoding {
        /// Bytes done.
        done: usize,
        /// Bytes in all.
        total: usize,
    },
}

/// All that training and evaluation need of a text.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Trained on the training documents alone, or the one that was given.
    pub vocabulary: Arc<Vocabulary>,
    /// Tokens to train on.
    pub training: Arc<TokenFile>,
    /// Tokens that are never trained on.
    pub held_out: Arc<TokenFile>,
}

/// Holds a part of `corpus` out, trains a vocabulary on the rest, and writes the tokens of both parts
/// under `work_folder`. What is there already for the same text and settings is used as it is; a
/// damaged file is made again.
///
/// # Errors
/// Those of [`Split::by_document`], [`Vocabulary::train`] and [`TokenFile::open`].
pub fn prepare(
    corpus: &Corpus,
    settings: &Settings,
    work_folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, DataError> {
    let split = Split::by_document(corpus, settings.held_out_share)?;
    let key = key(&[
        corpus.content_hash.as_bytes(),
        &settings.held_out_share.to_le_bytes(),
        &settings.vocabulary_size.to_le_bytes(),
        &settings.vocabulary_sample_bytes.to_le_bytes(),
    ]);
    let path = work_folder.join(format!("vocabulary-{}.json", &hex(&key)[..16]));
    let vocabulary = match Vocabulary::from_file(&path) {
        Ok(vocabulary) => vocabulary,
        Err(_) => {
            let bytes: usize = split.training.iter().map(|document| document.text.len()).sum();
            progress(Progress::TrainingVocabulary { bytes: bytes.min(settings.vocabulary_sample_bytes) });
            let vocabulary = Vocabulary::train(
                &split.training,
                settings.vocabulary_size,
                settings.vocabulary_sample_bytes,
            )?;
            vocabulary.save(&path)?;
            vocabulary
        }
    };
    prepare_with(corpus, &split, Arc::new(vocabulary), work_folder, progress)
}

/// As [`prepare`], with a vocabulary that is given.
///
/// # Errors
/// [`DataError::NoEndOfText`], [`DataError::Encoding`], [`DataError::Io`].
pub fn prepare_with(
    corpus: &Corpus,
    split: &Split<'_>,
    vocabulary: Arc<Vocabulary>,
    work_folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, DataError> {
    let end_of_text = vocabulary.end_of_text()?;
    let source = key(&[
        corpus.content_hash.as_bytes(),
        &split.share.to_le_bytes(),
        vocabulary.content_hash(),
        &end_of_text.to_le_bytes(),
    ]);
    let name = &hex(&source)[..16];
    let total = corpus.bytes();
    let mut done = 0;
    let mut side = |name: String, documents: &[&crate::corpus::Document]| {
        let path = work_folder.join(name);
        if let Ok(file) = TokenFile::open(&path)
            && file.source() == source
        {
            return Ok(Arc::new(file));
        }
        let encoded = encode_documents(&vocabulary, documents, &mut |bytes| {
            done += bytes;
            progress(Progress::Encoding { done, total });
        })?;
        TokenFile::write(&path, &encoded, vocabulary.vocab_size(), end_of_text, &source)?;
        TokenFile::open(&path).map(Arc::new)
    };
    let training = side(format!("training-{name}.tokens"), &split.training)?;
    let held_out = side(format!("held-out-{name}.tokens"), &split.held_out)?;
    Ok(Prepared { vocabulary, training, held_out })
}

/// SHA-256 of the parts, each with its length, and of the recipe.
fn key(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(RECIPE.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
