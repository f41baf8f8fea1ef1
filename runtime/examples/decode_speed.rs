//! Times decoding, one token after the other, of a preset with random weights:
//! one JSON line, and with `--profile` the time of each kernel.
//!
//! `cargo run --release -p diptych-runtime --example decode_speed -- [--model llama-135m] [--prompt 16] [--tokens 128] [--threads 2] [--profile]`

use diptych_codegen::entry::Limits;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::executor::{Binding, CacheRooms, Sequence};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let (prompt, tokens) = (number("--prompt", "16")?, number("--tokens", "128")?);
    let profile = std::env::args().any(|argument| argument == "--profile");
    let architecture = Registry::zoo().preset(&option("--model", "llama-135m"))?;
    let program = build(architecture.as_ref())?;
    let device = Device::cpu(Some(number("--threads", "2")?))?;
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let mut session =
        Session::compile(&device, &program, architecture.context(), &kinds, &AdamWOptions::default())?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let chunks: Vec<i32> = (0..(prompt + tokens).div_ceil(64) as i32).collect();
    let entry = &session.compiled.entries[&EntryKind::Decode];
    let caches = CacheRooms::new(entry, chunks.len())?;
    let mut prefill =
        session.executable(&device, EntryKind::Prefill, Some(&caches), Limits { rows: prompt, batch: 1 })?;
    let mut decode =
        session.executable(&device, EntryKind::Decode, Some(&caches), Limits { rows: 1, batch: 1 })?;
    let mut binding = Binding::new(Limits { rows: prompt, batch: 1 }, architecture.context());
    binding.bind(&[Sequence { origin: 0, length: prompt, chunks: &chunks }])?;
    for (at, token) in prefill.input::<i32>("tokens").ok_or("no tokens")?[..prompt].iter_mut().enumerate() {
        *token = (at * 37 % architecture.vocab()) as i32;
    }
    prefill.input::<i32>("last").ok_or("no last")?[0] = prompt as i32 - 1;
    prefill.refresh(&device.pool, &binding);
    let start = Instant::now();
    prefill.run(&device.pool, &binding);
    let prefill_seconds = start.elapsed().as_secs_f64();
    decode.refresh(&device.pool, &binding);
    decode.set_timed(profile);
    let mut seconds = Vec::new();
    for at in 0..tokens {
        binding.bind(&[Sequence { origin: prompt + at, length: 1, chunks: &chunks }])?;
        decode.input::<i32>("tokens").ok_or("no tokens")?[0] = (at * 11 % architecture.vocab()) as i32;
        let start = Instant::now();
        decode.run(&device.pool, &binding);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let bytes = session.store.bytes() as f64;
    println!(
        "{{\"prefill_tokens_per_second\": {:.1}, \"decode_tokens_per_second\": {:.2}, \"median_ms\": {:.2}, \"min_ms\": {:.2}, \"weight_gigabytes_per_second\": {:.2}}}",
        prompt as f64 / prefill_seconds,
        1.0 / median,
        median * 1e3,
        seconds[0] * 1e3,
        bytes / median / 1e9
    );
    if profile {
        let mut times = decode.take_times();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for time in times.iter().take(20) {
            let name = &session.compiled.entries[&EntryKind::Decode].kernels[time.kernel].name;
            println!("{:9.3} ms  {:4} runs  {name}", time.seconds * 1e3 / tokens as f64, time.runs / tokens);
        }
    }
    Ok(())
}
