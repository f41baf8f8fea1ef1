//! Generation of one text: a prompt, then token after token until a stop token,
//! the most tokens, or the caller's word. It knows ids, not text.

use super::{DecodeError, Server};
use crate::sampling::Sampler;
use std::ops::ControlFlow;

/// What is asked of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// The most new tokens.
    pub most_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop: &'a [i32],
    /// What random choices follow.
    pub seed: u64,
}

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A stop token came.
    Stopped,
    /// As many tokens as were asked for.
    Length,
    /// The caller had enough.
    Interrupted,
}

/// Generates after a prompt, and gives each new token to `on_token` as it
/// comes. A sampler of fewer tokens than the model has chooses among the first. The sequence is released in the end, whatever happens.
///
/// # Errors
/// When the prompt and the new tokens would exceed the context, before anything
/// runs; when the prompt is empty or has tokens that are not of the vocabulary;
/// when no sequence or no cache is free; when the sampler refuses the logits.
pub fn generate(
    server: &mut Server,
    prompt: &[i32],
    options: Generation,
    sampler: &mut Sampler,
    on_token: impl FnMut(i32) -> ControlFlow<()>,
) -> Result<Outcome, DecodeError> {
    // The last token is chosen, but never run.
    let (length, context) = (prompt.len() + options.most_tokens.saturating_sub(1), server.context());
    if length > context {
        return Err(DecodeError::Context { sequence: 0, length, context });
    }
    let sequence = server.start()?;
    let outcome = continue_from(server, sequence, prompt, options, sampler, on_token);
    server.release(sequence);
    outcome
}

fn continue_from(
    server: &mut Server,
    sequence: super::SequenceId,
    prompt: &[i32],
    options: Generation,
    sampler: &mut Sampler,
    mut on_token: impl FnMut(i32) -> ControlFlow<()>,
) -> Result<Outcome, DecodeError> {
    if options.most_tokens == 0 {
        return Ok(Outcome::Length);
    }
    let known = sampler.vocabulary().min(server.vocabulary());
    let logits = server.prefill(&[(sequence, prompt)])?;
    let mut token = sampler.choose(&logits[..known], options.seed, prompt.len() as u64)?;
    for position in prompt.len() + 1.. {
        if options.stop.contains(&(token as i32)) {
            return Ok(Outcome::Stopped);
        }
        if on_token(token as i32).is_break() {
            return Ok(Outcome::Interrupted);
        }
        if position - prompt.len() == options.most_tokens {
            break;
        }
        let logits = server.decode(&[(sequence, token as i32)])?;
        token = sampler.choose(&logits[..known], options.seed, position as u64)?;
    }
    Ok(Outcome::Length)
}
