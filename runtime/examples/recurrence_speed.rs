//! What the length of a text costs: a training step on one sequence, and decoding after it, of recurrent layers
//! alone, of three recurrent layers to one of attention, and of attention alone, all of about the same size.
//!
//! `cargo run --release -p diptych-runtime --example recurrence_speed -- [--longest 8192] [--rounds 3] [--threads 2]`

use diptych_codegen::entry::Limits;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build, count_parameters, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{ServeOptions, Server};
use diptych_runtime::executor::{Binding, Sequence};
use diptych_runtime::session::{Device, Session};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Instant;

const DECODED: usize = 32;

fn number(name: &str, default: usize) -> Result<usize, std::num::ParseIntError> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1)).map_or(Ok(default), |text| text.parse())
}

fn token(at: usize) -> i32 {
    (at * 7919 % 4096) as i32
}

fn main() -> Result<(), Box<dyn Error>> {
    let (longest, rounds) = (number("--longest", 8192)?, number("--rounds", 3)?);
    let device = Device::cpu(Some(number("--threads", 2)?))?;
    let models = [
        ("recurrent", "bench-hybrid", json!({ "recurrent_before_attention": null })),
        ("hybrid 3:1", "bench-hybrid", json!({})),
        ("attention", "bench-multi-head", json!({})),
    ];
    println!(
        "{:12} {:>10} {:>7} {:>12} {:>12} {:>12}",
        "model", "parameters", "length", "train ms", "us/token", "decode ms"
    );
    for (name, preset, change) in models {
        measure(&device, name, preset, change, longest, rounds)?;
    }
    Ok(())
}

fn measure(
    device: &Device,
    name: &str,
    preset: &str,
    change: Value,
    longest: usize,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let registry = Registry::zoo();
    let preset = registry.preset(preset)?;
    let mut config = preset.describe();
    if let (Value::Object(config), Value::Object(change)) = (&mut config, change) {
        config.extend(change);
        config.insert("context".to_owned(), json!(longest + 2 * DECODED));
    }
    let architecture = registry.architecture(preset.name(), &config)?;
    let program = build(&*architecture)?;
    let kinds = [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode];
    let context = architecture.context();
    let mut session = Session::compile(device, &program, context, &kinds, &AdamWOptions::default())?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let mut server = Server::new(device, &session, ServeOptions::single(context))?;
    let lengths = std::iter::successors(Some(512), |length| Some(length * 2));
    for length in lengths.take_while(|&length| length <= longest) {
        let limits = Limits { rows: length, batch: 1 };
        let mut train = session.executable(device, EntryKind::Train, None, limits)?;
        let mut binding = Binding::new(limits, context);
        binding.bind(&[Sequence { origin: 0, length, chunks: &[], state: 0 }])?;
        for (input, shift) in [("tokens", 0), ("targets", 1)] {
            let ids = train.input::<i32>(input).ok_or("the train entry lacks an input")?;
            ids.iter_mut().enumerate().for_each(|(at, id)| *id = token(at + shift));
        }
        train.input::<f32>("inverse_tokens").ok_or("the train entry lacks an input")?[0] =
            1.0 / length as f32;
        let mut best = f64::INFINITY;
        for _ in 0..=rounds {
            let start = Instant::now();
            train.run(device, &binding)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        let text: Vec<i32> = (0..length).map(token).collect();
        let sequence = server.start()?;
        server.prefill(&[(sequence, &text)])?;
        let mut decode = f64::INFINITY;
        for at in 0..DECODED {
            let start = Instant::now();
            server.decode(&[(sequence, token(at))])?;
            decode = decode.min(start.elapsed().as_secs_f64());
        }
        server.release(sequence);
        println!(
            "{name:12} {:10} {length:7} {:12.1} {:12.2} {:12.3}",
            count_parameters(&program),
            best * 1e3,
            best * 1e6 / length as f64,
            decode * 1e3
        );
    }
    println!(
        "{name:12} cache {} bytes a token, {} a sequence",
        server.cache_bytes_per_token(),
        server.cache_bytes_per_sequence()
    );
    Ok(())
}
