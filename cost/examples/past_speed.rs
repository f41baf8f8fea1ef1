//! Times decoding with multi-head latent attention that keeps the latent and expands keys and values from it at every
//! step, as a naive definition says, beside what is predicted, and what the bytes and FLOPs alone would take.
//!
//! `cargo run --release -p diptych-cost --example past_speed -- [--context 4096] [--threads 2] [--rounds 7] [--machine]`

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::driver::compile_program_plainly;
use diptych_codegen::entry::Limits;
use diptych_cost::{Machine, ProbeSource, RunSizes, Target, measured, predict_entry};
use diptych_ir::{EntryKind, Initializer, Program};
use diptych_models::{ModelBuilder, Rope, RopeScaling, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::{Binding, CacheRooms, CacheSize, Sequence};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn number(name: &str, default: usize) -> Result<usize, Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    Ok(at.and_then(|at| arguments.get(at + 1)).map_or(Ok(default), |text| text.parse())?)
}

/// A layer of latent attention (DeepSeek-V2, 2024, section 2.1), kept as its latent and the key's rotated part.
fn program(context: usize) -> Result<Program, Failure> {
    Ok(ModelBuilder::new("naive_latent", context).finish(|m| {
        m.initialize_with(Initializer::Normal { standard_deviation: 0.05 });
        let [vocab, embed, latent, head] = [("vocab", 64), ("embed", 512), ("latent", 128), ("head", 8)]
            .map(|(name, size)| m.axis(name, size));
        let [content, rotary, head_dim, value] =
            [("content", 64), ("rotary", 32), ("head_dim", 96), ("value", 64)]
                .map(|(name, size)| m.axis(name, size));
        let table = m.rotary_table(rotary, &Rope { theta: 10_000.0, scaling: RopeScaling::None });
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", 1, x, |m, x| {
            let h = m.rms_norm("norm", x, embed, 1e-6);
            let q_content = m.linear("q_content", h, embed, [head, content]);
            let q_rotary = m.linear("q_rotary", h, embed, [head, rotary]).rotary(rotary, &table);
            let q = m.concat(&[(q_content, content), (q_rotary, rotary)], head_dim);
            let kept =
                m.rms_norm("latent_norm", m.linear("compress", h, embed, latent), latent, 1e-6).history();
            let k_rotary = m.linear("k_rotary", h, embed, rotary).rotary(rotary, &table).history();
            let k_content = m.linear("k_content", kept, latent, [head, content]);
            let k = m.concat(&[(k_content, content), (k_rotary, rotary)], head_dim);
            let v = m.linear("v", kept, latent, [head, value]);
            let seen = (q.dot(k, head_dim) * 96f64.powf(-0.5)).causal().softmax(m.past()).dot(v, m.past());
            x + m.linear("o", seen, [head, value], embed)
        });
        m.head("head", x, embed, vocab)
    })?)
}

fn main() -> Result<(), Failure> {
    let (context, threads, rounds) =
        (number("--context", 4096)?, number("--threads", 2)?, number("--rounds", 7)?);
    let program = program(context)?;
    let cpu = Cpu::new(Some(threads))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);
    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let measurement = measured(&source, threads, &std::env::temp_dir().join("diptych-predicted"))?;
    let machine: Machine =
        Target::load("this-machine")?.into_machine(Some((measurement.rates, measurement.memory_bytes)))?;
    let compiled =
        compile_program_plainly(&program, &[EntryKind::Decode], &AdamWOptions::default(), device.options())?;
    let mut session = Session::load(&device, compiled, context)?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let entry = &session.compiled.entries[&EntryKind::Decode];
    let chunks = context.div_ceil(64);
    for batch in [1, 8] {
        let caches = CacheRooms::new(entry, CacheSize { chunks: batch * chunks, sequences: batch })?;
        let limits = Limits { rows: batch, batch };
        let mut run = session.executable(&device, EntryKind::Decode, Some(&caches), limits)?;
        let mut binding = Binding::cached(limits, context, caches.size());
        let tables: Vec<Vec<i32>> = (0..batch)
            .map(|sequence| (0..chunks).map(|chunk| (chunk * batch + sequence) as i32).collect())
            .collect();
        let sequence = |(state, chunks)| Sequence { origin: context - 1, length: 1, chunks, state };
        let sequences: Vec<Sequence> =
            tables.iter().map(|table| &table[..]).enumerate().map(sequence).collect();
        binding.bind(&sequences)?;
        run.refresh(&device, &binding)?;
        run.run(&device, &binding)?;
        let mut best = f64::INFINITY;
        for _ in 0..rounds {
            let start = Instant::now();
            run.run(&device, &binding)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        let prediction = predict_entry(entry, &machine, threads, &RunSizes::equal(batch, context - 1, 1));
        let work = prediction.work();
        println!(
            "context {context}, batch {batch}: measured {:.2} ms, predicted {:.2} ms, {:.3} GFLOP, {:.1} MB touched \
             in all launches, workspace {:.1} MB, cache {:.1} MB",
            best * 1e3,
            prediction.seconds() * 1e3,
            work.flops() / 1e9,
            work.footprint_bytes() / 1e6,
            run.bound().arena as f64 / 1e6,
            caches.bytes() as f64 / 1e6,
        );
        run.record(1);
        run.run(&device, &binding)?;
        for (launch, time) in prediction.launches.iter().zip(run.take_recording().times()) {
            if launch.seconds > 1e-4 || time.seconds() > 1e-4 {
                println!(
                    "  {:8.3} ms  predicted {:8.3} ms  {:.3} GFLOP  {:6.1} MB  {}",
                    time.seconds() * 1e3,
                    launch.seconds * 1e3,
                    launch.work.flops() / 1e9,
                    launch.work.footprint_bytes() / 1e6,
                    launch.name
                );
            }
        }
    }
    Ok(())
}
