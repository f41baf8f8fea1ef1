//! `diptych score`: the loss and perplexity of a text, with its standard error
//! over documents.

use crate::arguments::{DeviceArguments, TextArguments, WeightArguments};
use crate::failure::{Failure, Result};
use crate::format::thousands;
use crate::machine::open_device;
use crate::objective::ObjectiveArguments;
use crate::output::print;
use crate::report::{Loss, loss_text};
use crate::text::read_corpus;
use crate::weights::Weights;
use clap::Args;
use diptych_data::{DocumentLoss, Estimate, loss_per_byte, loss_per_token};
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
    /// Stop after about so many tokens, at the end of a document.
    #[arg(long, value_name = "N")]
    most_tokens: Option<u64>,
}

/// Scores. Each document is cut into windows; the first token of a window sees
/// none before it, and that of a document is predicted from an end of text.
///
/// # Errors
/// When weights, vocabulary or text do not fit.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let weights = Weights::open(registry, &arguments.weights)?;
    let vocabulary = weights.vocabulary(arguments.tokenizer.as_deref())?;
    let context = weights.architecture.context();
    let window = arguments.window.unwrap_or(context.min(1024));
    if window == 0 || window > context {
        return Err(Failure(format!("--window is {window}; it must be 1 to the model's context, {context}")));
    }
    if arguments.most_tokens == Some(0) {
        return Err(Failure::new("--most-tokens is 0; it must be at least 1"));
    }
    let (corpus, _) = read_corpus(&arguments.text)?;
    let end = vocabulary.end_of_text()? as i32;
    let device = open_device(&arguments.device)?;
    let room = ServeOptions::single(window);
    let session = weights.session(&device, window, room, &[EntryKind::Score], &arguments.objective)?;
    let mut server = Server::new(&device, &session, room)?;

    let (mut losses, mut tokens, mut log_probs) = (Vec::new(), 0, Vec::new());
    let bar = ProgressBar::new(corpus.documents.len() as u64);
    for document in &corpus.documents {
        if arguments.most_tokens.is_some_and(|most| tokens >= most) {
            break;
        }
        let mut ids = vec![end];
        ids.extend(vocabulary.encode(&document.text)?.into_iter().map(|id| id as i32));
        ids.push(end);
        let mut loss = DocumentLoss { bytes: document.text.len() as u64, ..DocumentLoss::default() };
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        for (tokens, targets) in inputs.chunks(window).zip(targets.chunks(window)) {
            server.score(&[Window { tokens, targets }], &mut log_probs)?;
            loss.nats -= log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum::<f64>();
            loss.tokens += targets.len() as u64;
        }
        tokens += loss.tokens;
        losses.push(loss);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let estimate = loss_per_token(&losses);
    let text = |estimate: Estimate| {
        loss_text(&Loss { mean: estimate.mean, standard_error: estimate.standard_error })
    };
    print(&format!(
        "loss        {} nats/token\nloss        {} nats/byte\nloss        {} bits/byte\nperplexity  {}\n{} tokens of {} documents, in windows of {window}; ± is the standard error over documents\n",
        text(estimate),
        text(loss_per_byte(&losses)),
        text(loss_per_byte(&losses).in_bits()),
        text(estimate.perplexity()),
        thousands(tokens),
        thousands(estimate.documents as u64)
    ))
}
