//! Times decoding, one token after the other, of a preset with random weights, and in turns with it how fast the
//! threads read memory in order: one JSON line, and with `--profile` the time of each kernel.
//!
//! `cargo run --release -p diptych-cost --example decode_speed -- [--model llama-135m] [--prompt 16] [--tokens 128] [--threads 2] [--weights f32] [--cache f32] [--profile]`
//!
//! `--weights` takes `f16`, `bf16` or a format of blocks, `--cache` `f16`, `bf16` or `q8`.

mod held;

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::entry::Limits;
use diptych_cost::{MemoryReader, ProbeLibrary, ProbeSource};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build, initialize};
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::{Binding, CacheRooms, CacheSize, Sequence};
use diptych_runtime::session::{Device, Session};
use held::{with_cache, with_weights};
use std::time::Instant;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let (prompt, tokens) = (number("--prompt", "16")?, number("--tokens", "128")?);
    let profile = std::env::args().any(|argument| argument == "--profile");
    let architecture = Registry::zoo().preset(&option("--model", "llama-135m"))?;
    let program = with_weights(&build(architecture.as_ref())?, &option("--weights", "f32"))?;
    let cpu = Cpu::new(Some(number("--threads", "2")?))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let compiled = with_cache(&program, &option("--cache", "f32"), &kinds, &device)?;
    let mut session = Session::load(&device, compiled, architecture.context())?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let chunks: Vec<i32> = (0..(prompt + tokens).div_ceil(64) as i32).collect();
    let entry = &session.compiled.entries[&EntryKind::Decode];
    let caches = CacheRooms::new(entry, CacheSize { chunks: chunks.len(), sequences: 1 })?;
    let mut prefill =
        session.executable(&device, EntryKind::Prefill, Some(&caches), Limits { rows: prompt, batch: 1 })?;
    let mut decode =
        session.executable(&device, EntryKind::Decode, Some(&caches), Limits { rows: 1, batch: 1 })?;
    let limits = Limits { rows: prompt, batch: 1 };
    let mut binding = Binding::cached(limits, architecture.context(), caches.size());
    binding.bind(&[Sequence { origin: 0, length: prompt, chunks: &chunks, state: 0 }])?;
    for (at, token) in prefill.input::<i32>("tokens").ok_or("no tokens")?[..prompt].iter_mut().enumerate() {
        *token = (at * 37 % architecture.vocab()) as i32;
    }
    prefill.input::<i32>("last").ok_or("no last")?[0] = prompt as i32 - 1;
    prefill.refresh(&device, &binding)?;
    let start = Instant::now();
    prefill.run(&device, &binding)?;
    let prefill_seconds = start.elapsed().as_secs_f64();

    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let library = ProbeLibrary::compile(&source)?;
    let reader = MemoryReader::new(&library, device.threads(), session.store.bytes() as f64)?;

    let at = |position: usize| Sequence { origin: position, length: 1, chunks: &chunks, state: 0 };
    let mut binding = Binding::cached(Limits { rows: 1, batch: 1 }, architecture.context(), caches.size());
    binding.bind(&[at(prompt)])?;
    decode.refresh(&device, &binding)?;
    decode.record(if profile { tokens } else { 0 });
    let (mut seconds, mut read_rates) = (Vec::new(), Vec::new());
    for token in 0..tokens {
        binding.bind(&[at(prompt + token)])?;
        decode.input::<i32>("tokens").ok_or("no tokens")?[0] = (token * 11 % architecture.vocab()) as i32;
        let start = Instant::now();
        decode.run(&device, &binding)?;
        seconds.push(start.elapsed().as_secs_f64());
        read_rates.push(reader.bytes_per_second());
    }
    let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let (step, memory) = (median(&mut seconds), median(&mut read_rates));
    // Of a cache, what a token in the middle sees.
    let seen = (prompt + tokens / 2).div_ceil(64) as f64 / chunks.len() as f64 * caches.bytes() as f64;
    let (weights, all) = (session.store.bytes() as f64 / step, (session.store.bytes() as f64 + seen) / step);
    println!(
        "{}",
        serde_json::json!({
            "prefill_tokens_per_second": prompt as f64 / prefill_seconds,
            "decode_tokens_per_second": 1.0 / step,
            "median_ms": step * 1e3,
            "min_ms": fastest * 1e3,
            "weight_gigabytes_per_second": weights / 1e9,
            "weight_and_cache_gigabytes_per_second": all / 1e9,
            "memory_gigabytes_per_second": memory / 1e9,
            "share_of_memory_bandwidth": weights / memory,
        })
    );
    if profile {
        let mut times = decode.take_recording().times();
        times.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
        for time in times.iter().take(20) {
            let name = &session.compiled.entries[&EntryKind::Decode].kernels[time.kernel].name;
            println!(
                "{:9.3} ms  {:4} runs  {name}",
                time.seconds() * 1e3 / tokens as f64,
                time.runs / tokens
            );
        }
    }
    Ok(())
}
