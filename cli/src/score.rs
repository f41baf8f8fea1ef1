//! `diptych score`: the loss and perplexity of a text, with its standard error
//! over documents.

use crate::arguments::{DeviceArguments, HoldArguments, TextArguments, WeightArguments};
use crate::failure::{Failure, Result};
use crate::format::thousands;
use crate::machine::open_device;
use crate::objective::ObjectiveArguments;
use crate::output::print;
use crate::report::{Loss, loss_text};
use crate::text::read_corpus;
use crate::weights::Weights;
use clap::Args;
use diptych_data::{Document, DocumentLoss, Estimate, Vocabulary, loss_per_byte, loss_per_token};
use diptych_ir::EntryKind;
use diptych_models::Registry;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use indicatif::ProgressBar;
use std::path::PathBuf;

/// What `score` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    hold: HoldArguments,
    #[command(flatten)]
    text: TextArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// A tokenizer.json, if not the one beside the weights.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Tokens of a window; without it, 1024, or the model's context if that is less.
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Take all documents as one text, in whole windows of which the second half counts, with what the first half
    /// has told; the rest that fills no window is left out. llama.cpp's perplexity tool does so.
    #[arg(long)]
    second_half: bool,
    /// Stop after about so many tokens, at the end of a document.
    #[arg(long, value_name = "N")]
    most_tokens: Option<u64>,
}

/// A window's tokens and targets; -1 where there is none.
type Scored = (Vec<i32>, Vec<i32>);

/// The windows of a document: the first token of each sees none before it, and that of the document is predicted
/// from an end of text.
fn windows(vocabulary: &Vocabulary, text: &str, window: usize) -> Result<Vec<Scored>> {
    let end = vocabulary.end_of_text()?;
    let ids: Vec<u32> = [&[end][..], &vocabulary.encode(text)?, &[end]].concat();
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    let pairs = ids[..ids.len() - 1].chunks(window).zip(ids[1..].chunks(window));
    Ok(pairs.map(|(tokens, targets)| (tokens.to_vec(), targets.to_vec())).collect())
}

/// The whole windows of a document, with targets in the second half of each. What the vocabulary puts before a text stands
/// first in each window.
fn second_halves(vocabulary: &Vocabulary, text: &str, window: usize) -> Result<Vec<Scored>> {
    let ids: Vec<i32> = vocabulary.encode_prompt(text)?.into_iter().map(|id| id as i32).collect();
    let before = vocabulary.encode_prompt("")?.first().map(|&id| id as i32);
    let of = |chunk: &[i32]| {
        let target = |at: usize| if at < window / 2 { -1 } else { chunk.get(at + 1).copied().unwrap_or(-1) };
        let mut tokens = chunk.to_vec();
        tokens[0] = before.unwrap_or(tokens[0]);
        (tokens, (0..window).map(target).collect())
    };
    Ok(ids.chunks_exact(window).map(of).collect())
}

/// Scores.
///
/// # Errors
/// When weights, vocabulary or text do not fit.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let weights = Weights::open(registry, &arguments.weights)?.held(&arguments.hold)?;
    let vocabulary = weights.vocabulary(arguments.tokenizer.as_deref())?;
    let context = weights.architecture.context();
    let window = arguments.window.unwrap_or(context.min(1024));
    let least = if arguments.second_half { 3 } else { 1 };
    if window < least || window > context {
        return Err(Failure(format!(
            "--window is {window}; it must be {least} to the model's context, {context}"
        )));
    }
    if arguments.most_tokens == Some(0) {
        return Err(Failure::new("--most-tokens is 0; it must be at least 1"));
    }
    let (corpus, _) = read_corpus(&arguments.text)?;
    let device = open_device(&arguments.device)?;
    let room = ServeOptions::single(window);
    let session = weights.session(&device, window, room, &[EntryKind::Score], &arguments.objective)?;
    let mut server = Server::new(&device, &session, room)?;

    let (mut losses, mut tokens, mut log_probs) = (Vec::new(), 0, Vec::new());
    let bar = ProgressBar::new(corpus.documents.len() as u64);
    let whole = Document {
        name: String::new(),
        text: corpus.documents.iter().map(|document| document.text.as_str()).collect(),
    };
    let documents = if arguments.second_half { std::slice::from_ref(&whole) } else { &corpus.documents[..] };
    for document in documents {
        if arguments.most_tokens.is_some_and(|most| tokens >= most) {
            break;
        }
        let cut = if arguments.second_half { second_halves } else { windows };
        let mut loss = DocumentLoss { bytes: document.text.len() as u64, ..DocumentLoss::default() };
        for (inputs, targets) in cut(&vocabulary, &document.text, window)? {
            server.score(&[Window { tokens: &inputs, targets: &targets }], &mut log_probs)?;
            let nats = -log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum::<f64>();
            let seen: Vec<u32> =
                targets.iter().filter(|&&target| target >= 0).map(|&target| target as u32).collect();
            tokens += seen.len() as u64;
            if arguments.second_half {
                let bytes = vocabulary.decode(&seen)?.len() as u64;
                losses.push(DocumentLoss { nats, tokens: seen.len() as u64, bytes });
            } else {
                loss.nats += nats;
                loss.tokens += seen.len() as u64;
            }
        }
        if !arguments.second_half {
            losses.push(loss);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if losses.is_empty() {
        return Err(Failure(format!(
            "the text fills no window of {window} tokens, of which --second-half scores the second half; give a \
             smaller --window"
        )));
    }
    let estimate = loss_per_token(&losses);
    let text = |estimate: Estimate| {
        loss_text(&Loss { mean: estimate.mean, standard_error: estimate.standard_error })
    };
    let units = if arguments.second_half { "windows" } else { "documents" };
    print(&format!(
        "loss        {} nats/token\nloss        {} nats/byte\nloss        {} bits/byte\nperplexity  {}\n{} tokens of {} {units}, in windows of {window}{}; ± is the standard error over {units}\n",
        text(estimate),
        text(loss_per_byte(&losses)),
        text(loss_per_byte(&losses).in_bits()),
        text(estimate.perplexity()),
        thousands(tokens),
        thousands(estimate.documents as u64),
        if arguments.second_half { ", the second half of each" } else { "" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_halves_are_predicted_from_first_halves() {
        let text = "one two three four five six seven eight nine ten eleven twelve";
        let document = Document { name: "count".into(), text: text.repeat(3) };
        let vocabulary = Vocabulary::train(&[&document], 300, 1 << 20).unwrap();
        let ids: Vec<i32> = vocabulary.encode(&document.text).unwrap().iter().map(|&id| id as i32).collect();
        let window = 7;
        let scored = second_halves(&vocabulary, &document.text, window).unwrap();
        assert_eq!(scored.len(), ids.len() / window);
        assert!(scored.len() > 2);
        for (number, (tokens, targets)) in scored.iter().enumerate() {
            let chunk = &ids[number * window..(number + 1) * window];
            assert_eq!(tokens, chunk);
            assert_eq!(targets[..], [&[-1; 3][..], &chunk[4..], &[-1]].concat());
        }
        // Whole windows score every token once, and the end.
        let whole = windows(&vocabulary, &document.text, window).unwrap();
        let targets: Vec<i32> = whole.into_iter().flat_map(|scored| scored.1).collect();
        assert_eq!(targets[..ids.len()], ids);
        assert_eq!(targets.len(), ids.len() + 1);
    }
}
