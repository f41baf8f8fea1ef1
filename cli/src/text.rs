//! From what the user names as text to token files, told on the terminal. It
//! knows nothing of models but the size of their vocabulary.

use crate::arguments::TextArguments;
use crate::failure::{Failure, Result};
use crate::format::{bytes, thousands};
use crate::output::tell;
use diptych_data::{Corpus, Prepared, Progress, Settings, Split, Vocabulary, prepare, prepare_with};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is told of a text in reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TextSummary {
    /// Where it came from.
    pub source: String,
    /// SHA-256 of all names and texts, in hex.
    pub content_hash: String,
    /// Documents.
    pub documents: usize,
    /// Bytes.
    pub bytes: usize,
    /// Files left out because they are not UTF-8.
    pub skipped_not_utf8: usize,
    /// Tokens to train on.
    pub training_tokens: usize,
    /// Documents held out.
    pub held_out_documents: usize,
    /// Tokens held out.
    pub held_out_tokens: usize,
}

/// Reads the text that the user names, or the sources of the dependencies of
/// the project that the command is run in.
///
/// # Errors
/// When there is no text, or it is not UTF-8.
pub fn read_corpus(arguments: &TextArguments) -> Result<(Corpus, String)> {
    let (corpus, source) = match &arguments.data {
        Some(path) => (Corpus::from_path(path)?, path.display().to_string()),
        None => {
            // Cargo says where the manifest is when it runs the command; else it searches upwards itself.
            let folder =
                std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
            let corpus = Corpus::from_cargo_dependencies(&folder)?;
            (corpus, "the sources of the project's dependencies".to_owned())
        }
    };
    let size: usize = corpus.documents.iter().map(|document| document.text.len()).sum();
    let mut line = format!(
        "text: {source}: {} documents, {}, content {}",
        thousands(corpus.documents.len() as u64),
        bytes(size as f64),
        &corpus.content_hash[..16]
    );
    let left_out = [
        (corpus.skipped_not_utf8, "not UTF-8"),
        (corpus.skipped_large, "large"),
        (corpus.duplicates, "duplicate"),
        (corpus.skipped_over_limit, "beyond 20 MB"),
    ];
    for (count, why) in left_out.into_iter().filter(|row| row.0 > 0) {
        line.push_str(&format!("; {} files {why} left out", thousands(count as u64)));
    }
    tell(line);
    Ok((corpus, source))
}

/// Vocabulary and token files for a text, made or found in the work folder.
/// With `vocabulary`, that one is used and none is trained. With `began_with`,
/// the text must have that content.
///
/// # Errors
/// Those of `diptych_data::prepare`, and another content.
pub fn prepare_text(
    arguments: &TextArguments,
    vocabulary_size: usize,
    vocabulary: Option<Arc<Vocabulary>>,
    began_with: Option<&str>,
) -> Result<(Prepared, TextSummary)> {
    let (corpus, source) = read_corpus(arguments)?;
    if let Some(hash) = began_with
        && hash != corpus.content_hash
    {
        return Err(Failure(format!(
            "the text is not the one that the run began with (content {hash}): name that with --data, or start a new run"
        )));
    }
    let work = work_folder()?;
    let settings = Settings { vocabulary_size, ..Settings::default() };
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut progress = |progress| match progress {
        Progress::TrainingVocabulary { bytes: size } => {
            tell(format!(
                "training a vocabulary of {} tokens on {}",
                thousands(vocabulary_size as u64),
                bytes(size as f64)
            ));
        }
        Progress::Encoding { done, total } => {
            bar.set_message("encoding");
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    };
    let prepared = match vocabulary {
        None => prepare(&corpus, &settings, &work, &mut progress)?,
        Some(vocabulary) => {
            let split = Split::by_document(&corpus, settings.held_out_share)?;
            prepare_with(&corpus, &split, vocabulary, &work, &mut progress)?
        }
    };
    bar.finish_and_clear();
    let summary = TextSummary {
        source,
        documents: corpus.documents.len(),
        bytes: corpus.documents.iter().map(|document| document.text.len()).sum(),
        skipped_not_utf8: corpus.skipped_not_utf8,
        training_tokens: prepared.training.tokens(),
        held_out_documents: prepared.held_out.documents(),
        held_out_tokens: prepared.held_out.tokens(),
        content_hash: corpus.content_hash,
    };
    tell(format!(
        "tokens: {} to train on, {} in {} documents held out",
        thousands(summary.training_tokens as u64),
        thousands(summary.held_out_tokens as u64),
        thousands(summary.held_out_documents as u64)
    ));
    Ok((prepared, summary))
}

/// Where vocabularies and tokens are kept between runs.
fn work_folder() -> Result<PathBuf> {
    let cache = diptych_runtime::cpu::compile::default_folder().ok_or_else(|| {
        Failure::new("no folder for tokens: none of DIPTYCH_CACHE, XDG_CACHE_HOME and HOME is set; set one")
    })?;
    Ok(cache.join("text"))
}

/// Reads a `tokenizer.json`; `end_of_text` is the id from the model's configuration, if it has one.
///
/// # Errors
/// When it cannot be read, or has no such token.
pub fn read_vocabulary(path: &Path, end_of_text: Option<u32>) -> Result<Vocabulary> {
    let vocabulary = Vocabulary::from_file(path)?;
    match end_of_text {
        Some(id) => Ok(vocabulary.with_end_of_text(id)?),
        None => Ok(vocabulary),
    }
}
