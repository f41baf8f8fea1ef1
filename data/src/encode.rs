//! Documents to tokens on all cores. Knows nothing of files.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::corpus::Document;
use crate::error::DataError;
use crate::shards::EncodedDocument;
use crate::tokenizer::Vocabulary;
use crate::words::WordEncoder;

/// The tokens of each document, in order, whatever the number of threads. `progress` is called on
/// this thread with the bytes of each document that is done.
///
/// # Errors
/// [`DataError::Encoding`] naming the document.
pub(crate) fn encode_documents(
    vocabulary: &Vocabulary,
    documents: &[&Document],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<EncodedDocument>, DataError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(documents.len());
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                let mut fast = WordEncoder::new(vocabulary);
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(document) = documents.get(i) else { break };
                    let tokens = match &mut fast {
                        Some(fast) => fast.encode(&document.text),
                        None => vocabulary.encode(&document.text),
                    };
                    // Nobody listens any more once another document has failed.
                    if send.send((i, tokens)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let mut encoded: Vec<EncodedDocument> = documents
            .iter()
            .map(|document| EncodedDocument { tokens: Vec::new(), bytes: document.text.len() })
            .collect();
        for (i, tokens) in receive {
            encoded[i].tokens = tokens.map_err(|error| match error {
                DataError::Encoding { problem, .. } => {
                    DataError::Encoding { what: documents[i].name.clone(), problem }
                }
                error => error,
            })?;
            progress(encoded[i].bytes);
        }
        Ok(encoded)
    })
}
