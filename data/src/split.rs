//! Which documents are held out, and in which order the rest is trained on: both follow from the
//! hash of each document's name and text, so that they are the same on every machine.
//! Knows nothing of tokens.

use crate::corpus::{Corpus, Document};
use crate::error::DataError;

/// Each document is on one side. Both sides are shuffled (sorted by hash), so that neighbours in a
/// stream are not neighbours in a folder.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    /// To train on, and to train the vocabulary on.
    pub training: Vec<&'a Document>,
    /// Never trained on.
    pub held_out: Vec<&'a Document>,
    /// The share that was asked for.
    pub share: f64,
}

impl<'a> Split<'a> {
    /// Holds out `share` of the documents (a number between 0 and 1), at least one, and leaves at
    /// least one to train on.
    ///
    /// # Errors
    /// [`DataError::Share`], [`DataError::TooFewDocuments`].
    pub fn by_document(corpus: &'a Corpus, share: f64) -> Result<Split<'a>, DataError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(DataError::Share { share });
        }
        let documents = corpus.documents.len();
        if documents < 2 {
            return Err(DataError::TooFewDocuments { documents });
        }
        let mut shuffled: Vec<([u8; 32], &Document)> =
            corpus.documents.iter().map(|document| (document.hash(), document)).collect();
        shuffled.sort_by_key(|(hash, _)| *hash);
        let held_out = ((documents as f64 * share).round() as usize).clamp(1, documents - 1);
        let mut training: Vec<&Document> = shuffled.into_iter().map(|(_, document)| document).collect();
        let held_out = training.drain(..held_out).collect();
        Ok(Split { training, held_out, share })
    }
}
