//! `diptych generate`: continues a prompt, token by token, to the terminal.

use crate::arguments::{DeviceArguments, HoldArguments, WeightArguments};
use crate::failure::{Failure, Result};
use crate::format::{seconds, short};
use crate::machine::{open_device, peak_text};
use crate::objective::ObjectiveArguments;
use crate::output::{print, tell};
use crate::weights::Weights;
use clap::Args;
use diptych_data::{StreamingDecoder, Vocabulary};
use diptych_ir::EntryKind;
use diptych_models::Registry;
use diptych_runtime::decode::{Generation, Outcome, ServeOptions, Server, generate};
use diptych_runtime::sampling::{Sampler, SamplingOptions};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// What `generate` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    hold: HoldArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// A tokenizer.json, if not the one beside the weights.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The text to continue; `-` reads it from standard input. Without it, a text is begun.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Asks the prompt as a user's message, through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// The most new tokens.
    #[arg(long, value_name = "N", default_value_t = 200)]
    tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Only the N likeliest tokens.
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// What random choices follow.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Ends the text where this comes up; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

/// Generates.
///
/// # Errors
/// When weights or vocabulary do not fit, or the text would exceed the context.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let weights = Weights::open(registry, &arguments.weights)?.held(&arguments.hold)?;
    let vocabulary = weights.vocabulary(arguments.tokenizer.as_deref())?;
    let (vocab, context) = (weights.architecture.vocab(), weights.architecture.context());
    let options = SamplingOptions {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
    };
    // Models often have more ids than their vocabulary has tokens; those mean nothing.
    let mut sampler = Sampler::new(options, vocabulary.vocab_size().min(vocab))?;
    if arguments.stop.iter().any(String::is_empty) {
        return Err(Failure::new("--stop is empty; give the text that ends the output"));
    }
    let text = prompt_text(&arguments.prompt)?;
    let prompt = match arguments.chat {
        true if text.is_empty() => return Err(Failure::new("--chat needs a message: give it with --prompt")),
        true => to_ids(vocabulary.encode_chat(&weights.chat_template(&vocabulary)?.ask(&text)?)?),
        false => prompt_tokens(&vocabulary, &text)?,
    };
    if prompt.len().saturating_add(arguments.tokens) > context {
        return Err(Failure(format!(
            "the prompt has {} tokens and --tokens asks for {}; the model's context is {context}: shorten the prompt, or ask for at most {} tokens",
            prompt.len(),
            arguments.tokens,
            context.saturating_sub(prompt.len())
        )));
    }
    let device = open_device(&arguments.device)?;
    let room = ServeOptions {
        rows: prompt.len().clamp(1, 512),
        ..ServeOptions::single(prompt.len() + arguments.tokens)
    };
    let session = weights.session(
        &device,
        context,
        room,
        &[EntryKind::Prefill, EntryKind::Decode],
        &arguments.objective,
    )?;
    let mut server = Server::new(&device, &session, room)?;

    let end = to_ids(weights.ends(&vocabulary)?);
    let request = Generation { most_tokens: arguments.tokens, stop: &end, seed: arguments.seed };
    let mut stream = Stream {
        decoder: Some(StreamingDecoder::new(&vocabulary)),
        held: String::new(),
        stop: &arguments.stop,
    };
    let mut failure = None;
    let (start, mut count) = (Instant::now(), 0);
    let outcome = generate(&mut server, &prompt, request, &mut sampler, |token| {
        count += 1;
        match stream.push(token as u32) {
            Ok(flow) => flow,
            Err(problem) => {
                failure = Some(problem);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if outcome != Outcome::Interrupted {
        stream.finish()?;
    }
    print("\n")?;
    let time = start.elapsed().as_secs_f64();
    tell(format!(
        "{} prompt tokens, {count} new in {}: {} tokens/s{}",
        prompt.len(),
        seconds(time),
        short(f64::from(count) / time),
        peak_text()
    ));
    Ok(())
}

/// The prompt as given, or from standard input.
fn prompt_text(prompt: &str) -> Result<String> {
    let mut text = prompt.to_owned();
    if prompt == "-" {
        text.clear();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure(format!("cannot read the prompt from standard input: {error}")))?;
    }
    Ok(text)
}

/// The tokens of a prompt; an empty one is the end of a text before.
fn prompt_tokens(vocabulary: &Vocabulary, text: &str) -> Result<Vec<i32>> {
    let mut tokens = to_ids(vocabulary.encode_prompt(text)?);
    if tokens.is_empty() {
        let end = vocabulary.end_of_text().map_err(|_| {
            Failure::new(
                "the prompt is empty, and the vocabulary has no end of text to begin after; give --prompt",
            )
        })?;
        tokens.push(end as i32);
    }
    Ok(tokens)
}

/// Ids as the model takes them.
fn to_ids(tokens: Vec<u32>) -> Vec<i32> {
    tokens.into_iter().map(|id| id as i32).collect()
}

/// Text on its way to the terminal, held back while it may be the start of a stop.
struct Stream<'a> {
    decoder: Option<StreamingDecoder<'a>>,
    held: String,
    stop: &'a [String],
}

impl Stream<'_> {
    fn push(&mut self, token: u32) -> Result<ControlFlow<()>> {
        if let Some(decoder) = &mut self.decoder {
            self.held.push_str(decoder.push(token)?);
        }
        self.flush(false)
    }

    fn flush(&mut self, all: bool) -> Result<ControlFlow<()>> {
        let first = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            print(&self.held[..at])?;
            self.held.clear();
            return Ok(ControlFlow::Break(()));
        }
        let keep =
            if all { 0 } else { self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0) };
        let out = self.held.len() - keep;
        print(&self.held[..out])?;
        self.held.drain(..out);
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(decoder) = self.decoder.take() {
            self.held.push_str(&decoder.finish()?);
        }
        self.flush(true).map(|_| ())
    }
}

/// Bytes at the end of `text` that `stop` may begin with.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
    lengths.filter(|&length| text.ends_with(&stop[..length])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_may_begin_a_stop_is_held_back() {
        for (text, stop, expected) in [
            ("abc", "cd", 1),
            ("abc", "bcd", 2),
            ("abc", "x", 0),
            ("aaa", "aaab", 3),
            ("é", "éa", 2),
            ("", "a", 0),
        ] {
            assert_eq!(super::overlap(text, stop), expected, "{text} {stop}");
        }
    }
}
