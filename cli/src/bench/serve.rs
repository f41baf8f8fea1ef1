//! A trained model of a bench serves: prompts and generated tokens at several
//! context lengths, from the weights just trained.

use super::{Bench, Contender};
use crate::failure::Result;
use crate::report::{Sample, Speed};
use diptych_cost::money::price_per_million_tokens;
use diptych_data::StreamingDecoder;
use diptych_ir::EntryKind;
use diptych_runtime::decode::{Generation, ServeOptions, Server, generate};
use diptych_runtime::sampling::{Sampler, SamplingOptions};
use diptych_runtime::train::Trainer;
use std::ops::ControlFlow;
use std::time::Instant;

/// What a bench serves with; held-out losses come from the trainer.
pub const ENTRIES: [EntryKind; 2] = [EntryKind::Prefill, EntryKind::Decode];
/// Tokens decoded at a context, at most.
pub const DECODE_TOKENS: usize = 64;
const LEAST_DECODED: usize = 8;
const SAMPLE_PROMPT: usize = 24;
const SAMPLE_TOKENS: usize = 64;

/// What serving gave.
pub struct Served {
    pub prefill: Vec<Speed>,
    pub decode: Vec<Speed>,
    pub cache_bytes_per_token: usize,
    pub state_bytes_per_sequence: usize,
    pub sample: Sample,
}

/// Serves one sequence after another.
///
/// # Errors
/// When memory is short.
pub fn run(bench: &Bench<'_>, contender: &Contender, trainer: &Trainer<'_>) -> Result<Served> {
    let context = contender.architecture.context();
    let options = ServeOptions::single(context);
    let mut server = Server::with(bench.device, trainer.session(), options, &ENTRIES)?;
    let mut served = Served {
        prefill: Vec::new(),
        decode: Vec::new(),
        cache_bytes_per_token: server.cache_bytes_per_token(),
        state_bytes_per_sequence: server.cache_bytes_per_sequence(),
        sample: sample(bench, &mut server, context)?,
    };
    let longest = bench.contexts.iter().copied().max().unwrap_or(1) + DECODE_TOKENS;
    let text = held_out_text(bench, longest);
    let price = bench.machine.price.as_ref();
    let speed = |context: usize, tokens_per_second: f64| Speed {
        context,
        tokens_per_second,
        price: price
            .and_then(|price| price_per_million_tokens(price, 1.0, tokens_per_second))
            .map(|money| money.amount),
    };
    for &length in &bench.contexts {
        let length = length.min(text.len());
        let (prompt, rest) = text.split_at(length);
        let (mut times, start) = (Vec::new(), Instant::now());
        // The first run warms up; at least one counts.
        while times.len() < 2 || start.elapsed().as_secs_f64() < bench.serve_seconds {
            let sequence = server.start()?;
            let begin = Instant::now();
            server.prefill(&[(sequence, prompt)])?;
            times.push(begin.elapsed().as_secs_f64());
            server.release(sequence);
        }
        served.prefill.push(speed(length, length as f64 / median(&mut times[1..])));
        let sequence = server.start()?;
        server.prefill(&[(sequence, prompt)])?;
        let (mut times, start) = (Vec::new(), Instant::now());
        for &token in rest.iter().take(DECODE_TOKENS.min(context - length)) {
            if times.len() >= LEAST_DECODED && start.elapsed().as_secs_f64() > bench.serve_seconds {
                break;
            }
            let begin = Instant::now();
            server.decode(&[(sequence, token)])?;
            times.push(begin.elapsed().as_secs_f64());
        }
        server.release(sequence);
        if !times.is_empty() {
            served.decode.push(speed(length, 1.0 / median(&mut times)));
        }
    }
    Ok(served)
}

/// The middle of some times.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The start of the held-out text, repeated if it is short.
fn held_out_text(bench: &Bench<'_>, length: usize) -> Vec<i32> {
    let file = &bench.prepared.held_out;
    (0..length).map(|at| file.token(at % file.tokens()) as i32).collect()
}

fn sample(bench: &Bench<'_>, server: &mut Server<'_>, context: usize) -> Result<Sample> {
    let vocabulary = &bench.prepared.vocabulary;
    let file = &bench.prepared.held_out;
    let document = file.document(0);
    let prompt: Vec<i32> =
        document.take(SAMPLE_PROMPT.min(context / 2)).map(|at| file.token(at) as i32).collect();
    let mut sampler = Sampler::new(SamplingOptions::default(), server.vocabulary())?;
    let end = [vocabulary.end_of_text()? as i32];
    let request = Generation { most_tokens: SAMPLE_TOKENS.min(context / 2), stop: &end, seed: 0 };
    let mut tokens = Vec::new();
    generate(server, &prompt, request, &mut sampler, |token| {
        tokens.push(token as u32);
        ControlFlow::Continue(())
    })?;
    let mut decoder = StreamingDecoder::new(vocabulary);
    let mut text = String::new();
    for token in tokens {
        text.push_str(decoder.push(token)?);
    }
    text.push_str(&decoder.finish()?);
    let prompt: Vec<u32> = prompt.into_iter().map(|id| id as u32).collect();
    Ok(Sample { prompt: vocabulary.decode(&prompt)?, text })
}
