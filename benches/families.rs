//! How long each family of kernels takes, of small models through the whole compiler: a run of an entry is recorded,
//! and what counts is its launches of that family. `benches/compare_commits.py` holds two commits against each other.
//!
//! `cargo bench [-- FILTER]`

use criterion::{Criterion, criterion_group, criterion_main};
use diptych::codegen::driver::compile_program_plainly;
use diptych::codegen::entry::{CompiledEntry, Limits};
use diptych::codegen::family::Family;
use diptych::ir::{EntryKind, Program};
use diptych::models::{ModelBuilder, Rope, RopeScaling, initialize};
use diptych::passes::AdamWOptions;
use diptych::runtime::executor::{Binding, CacheRooms, CacheSize, Executable, LaunchTime, Sequence};
use diptych::runtime::session::{Device, Session};
use diptych::{ModelError, Registry, build};
use serde_json::json;
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

/// The most positions of a sequence.
const CONTEXT: usize = 2048;
/// Ids of models that are not about their vocabulary.
const FEW_IDS: usize = 512;

/// A norm and an MLP: `embed` 512, hidden 1408.
fn dense() -> Result<Program, ModelError> {
    ModelBuilder::new("dense", CONTEXT).finish(|m| {
        let [vocab, embed, hidden] =
            [("vocab", FEW_IDS), ("embed", 512), ("hidden", 1408)].map(|(name, size)| m.axis(name, size));
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", 2, x, |m, x| {
            let h = m.rms_norm("norm", x, embed, 1e-5);
            let gate = m.linear("gate", h, embed, hidden).silu();
            x + m.linear("down", gate * m.linear("up", h, embed, hidden), hidden, embed)
        });
        m.head("head", x, embed, vocab)
    })
}

/// Attention alone: 8 heads of 64 on 2 key-value heads, causal, with rotary positions.
fn attention() -> Result<Program, ModelError> {
    ModelBuilder::new("attention", CONTEXT).finish(|m| {
        let [vocab, embed, kv_head, group, head_dim] =
            [("vocab", FEW_IDS), ("embed", 512), ("kv_head", 2), ("group", 4), ("head_dim", 64)]
                .map(|(name, size)| m.axis(name, size));
        let table = m.rotary_table(head_dim, &Rope { theta: 10_000.0, scaling: RopeScaling::None });
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", 1, x, |m, x| {
            let q = m.linear("q", x, embed, [kv_head, group, head_dim]).rotary(head_dim, &table);
            let k = m.linear("k", x, embed, [kv_head, head_dim]).rotary(head_dim, &table).history();
            let v = m.linear("v", x, embed, [kv_head, head_dim]).history();
            let seen = (q.dot(k, head_dim) * 0.125).causal().softmax(m.past()).dot(v, m.past());
            x + m.linear("o", seen, [kv_head, group, head_dim], embed)
        });
        m.head("head", x, embed, vocab)
    })
}

/// A table of 32000 ids, and the product with it.
fn vocabulary() -> Result<Program, ModelError> {
    ModelBuilder::new("vocabulary", CONTEXT).finish(|m| {
        let [vocab, embed] = [("vocab", 32000), ("embed", 288)].map(|(name, size)| m.axis(name, size));
        let table = m.embedding("embedding", vocab, embed);
        let x = m.rms_norm("norm", table.take(m.tokens(), vocab), embed, 1e-5);
        m.tied_head(x, table, embed)
    })
}

/// An MLP of 32 experts of width 256, 4 of them for each token.
fn routed() -> Result<Program, ModelError> {
    ModelBuilder::new("routed", CONTEXT).finish(|m| {
        let [vocab, embed, choice, expert, hidden] =
            [("vocab", FEW_IDS), ("embed", 256), ("choice", 4), ("expert", 32), ("hidden", 256)]
                .map(|(name, size)| m.axis(name, size));
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let x = m.repeat("layers", 1, x, |m, x| {
            let h = m.rms_norm("norm", x, embed, 1e-5);
            let scores = m.head("router", h, embed, expert).softmax(expert);
            let ids = scores.detach().top_k(expert, choice);
            let weight = scores.take(ids, expert);
            let gate = m.expert_linear("gate", h, ids, expert, embed, hidden).silu();
            let up = m.expert_linear("up", h, ids, expert, embed, hidden);
            let weighed = gate * up * (weight / weight.sum(choice));
            x + m.expert_linear("down", weighed, ids, expert, hidden, embed).sum(choice)
        });
        m.head("head", x, embed, vocab)
    })
}

/// A layer of the gated delta rule: 4 heads with a state of 64 × 64.
fn recurrent() -> Result<Program, ModelError> {
    let config = json!({
        "vocab": FEW_IDS, "context": CONTEXT, "layers": 1, "embed": 256, "recurrence": "gated_delta",
        "recurrent_heads": 4, "key_dim": 64, "value_dim": 64,
    });
    build(&*Registry::zoo().architecture("hybrid", &config)?)
}

/// A run of an entry: its sequences, and which launches count.
struct Case {
    name: &'static str,
    program: fn() -> Result<Program, ModelError>,
    entry: EntryKind,
    batch: usize,
    /// Positions that each sequence has before the run.
    past: usize,
    /// New tokens of each sequence.
    tokens: usize,
    family: Family,
}

const fn case(
    name: &'static str,
    program: fn() -> Result<Program, ModelError>,
    entry: EntryKind,
    [batch, past, tokens]: [usize; 3],
    family: Family,
) -> Case {
    Case { name, program, entry, batch, past, tokens, family }
}

const CASES: [Case; 20] = {
    use EntryKind::*;
    [
        case("products, 1024 rows", dense, Score, [1, 0, 1024], Family::Products),
        case("products, 16 rows", dense, Prefill, [1, 0, 16], Family::Products),
        case("products, 8 rows", dense, Decode, [8, 8, 1], Family::Products),
        case("products, 1 row", dense, Decode, [1, 8, 1], Family::Products),
        case("products, forward and backward", dense, Train, [4, 0, 256], Family::Products),
        case("gradients of weights", dense, Train, [4, 0, 256], Family::WeightGradients),
        case("norms, backward", vocabulary, Train, [4, 0, 256], Family::Norms),
        case("optimiser", dense, Update, [1, 0, 1], Family::Optimizer),
        case("attention, forward", attention, Score, [1, 0, 1024], Family::Attention),
        case("attention, forward and backward", attention, Train, [1, 0, 1024], Family::Attention),
        case("attention, 16 rows after 1024", attention, Prefill, [1, 1024, 16], Family::Attention),
        case("attention, 1 row after 1024", attention, Decode, [1, 1024, 1], Family::Attention),
        case("attention, 8 rows after 1024", attention, Decode, [8, 1024, 1], Family::Attention),
        case("loss, forward", vocabulary, Score, [2, 0, 256], Family::Loss),
        case("loss, forward and backward", vocabulary, Train, [2, 0, 256], Family::Loss),
        case("gather and scatter", vocabulary, Train, [4, 0, 256], Family::Gather),
        case("routed experts, forward", routed, Score, [1, 0, 1024], Family::Routed),
        case("routed experts, forward and backward", routed, Train, [1, 0, 1024], Family::Routed),
        case("recurrence, forward", recurrent, Score, [1, 0, 1024], Family::Recurrence),
        case("recurrence, forward and backward", recurrent, Train, [1, 0, 1024], Family::Recurrence),
    ]
};

/// Whether each launch of an entry is of a family, in program order.
fn counted(program: &Program, entry: &CompiledEntry, family: Family) -> Vec<bool> {
    entry.launches().into_iter().map(|launch| Family::of(program, entry, launch) == family).collect()
}

/// An input of ids, some hundred of them different.
fn fill(run: &mut Executable, name: &str, factor: usize) {
    let ids = run.input::<i32>(name).unwrap_or_default();
    ids.iter_mut().enumerate().for_each(|(at, id)| *id = (at * factor % FEW_IDS) as i32);
}

fn bench(criterion: &mut Criterion, device: &Device, case: &Case) -> Result<(), Failure> {
    let program = (case.program)()?;
    let kinds: &[EntryKind] = match case.entry.trains() {
        true => &[EntryKind::Train, EntryKind::Update],
        false => &[case.entry],
    };
    let compiled = compile_program_plainly(&program, kinds, &AdamWOptions::default(), device.options())?;
    let mut session = Session::load(device, compiled, CONTEXT)?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let entry = &session.compiled.entries[&case.entry];
    let counted = counted(session.compiled.program_of(case.entry), entry, case.family);
    if !counted.contains(&true) {
        return Err(format!("{}: no launch of `{}`", case.name, case.family.name()).into());
    }
    let Case { batch, past, tokens, .. } = *case;
    let limits = Limits { rows: batch * tokens, batch };
    let chunks = (past + tokens).div_ceil(64);
    let size = CacheSize { chunks: batch * chunks, sequences: batch };
    let cached = case.entry.cached();
    let caches = if cached { Some(CacheRooms::new(entry, size)?) } else { None };
    let mut run = session.executable(device, case.entry, caches.as_ref(), limits)?;
    fill(&mut run, "tokens", 31);
    fill(&mut run, "targets", 37);
    run.input::<i32>("last").unwrap_or_default().fill(tokens as i32 - 1);
    let numbers = [
        ("inverse_tokens", 1.0 / (batch * tokens) as f32),
        ("learning_rate", 1e-5),
        ("bias_correction_mean", 0.5),
        ("bias_correction_variance", 0.5),
    ];
    for (name, value) in numbers {
        run.input::<f32>(name).unwrap_or_default().fill(value);
    }
    let tables: Vec<Vec<i32>> =
        (0..batch).map(|sequence| (0..chunks).map(|at| (sequence * chunks + at) as i32).collect()).collect();
    let tables = tables.iter().map(|table| if cached { &table[..] } else { &[] });
    let sequence = |(state, chunks)| Sequence { origin: past, length: tokens, chunks, state };
    let sequences: Vec<Sequence> = tables.enumerate().map(sequence).collect();
    let size = if cached { size } else { CacheSize::default() };
    let mut binding = Binding::cached(limits, CONTEXT, size);
    binding.bind(&sequences)?;
    run.refresh(device, &binding)?;
    let mut done = Ok(());
    criterion.bench_function(case.name, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut seconds = 0.0;
            for _ in 0..rounds {
                run.record(1);
                done = std::mem::replace(&mut done, Ok(())).and(run.run(device, &binding));
                let times = run.take_recording().times();
                let of_family = times.iter().zip(&counted).filter(|(_, counted)| **counted);
                seconds += of_family.map(|(time, _)| LaunchTime::seconds(time)).sum::<f64>();
            }
            Duration::from_secs_f64(seconds)
        });
    });
    Ok(done?)
}

fn families(criterion: &mut Criterion) {
    let done = Device::cpu(None)
        .map_err(Failure::from)
        .and_then(|device| CASES.iter().try_for_each(|case| bench(criterion, &device, case)));
    if let Err(failure) = done {
        eprintln!("error: {failure}");
        std::process::exit(2);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = families
}
criterion_main!(benches);
