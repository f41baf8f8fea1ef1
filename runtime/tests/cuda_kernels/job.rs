//! A run of an entry of the zoo: its sizes, its sequences, and all launches on a virtual GPU.

use super::memory::twins;
use super::places::Bound;
use super::reference::Reference;
use super::run::{Counted, Observer, Run};
use diptych_codegen::cuda::{Architecture, KernelText, PANEL, file_text, step};
use diptych_codegen::entry::{CompiledEntry, Limits};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build};
use diptych_runtime::executor::{Binding, CacheSize, Kernels, Sequence};
use diptych_virtual_gpu::{Device, Module, Target};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

const CONTEXT: usize = 192;

/// A small preset at sizes that no tile divides.
pub fn config(preset: &str) -> Value {
    match preset {
        "gpt2-tiny" => json!({ "vocab": 259, "embed": 72, "heads": 3, "hidden": 104 }),
        // More than seven times as many tokens as what is summed, so that logits are streamed.
        "llama-tiny" => json!({
            "vocab": 331, "embed": 40, "heads": 6, "key_value_heads": 2, "head_dim": 20, "hidden": 104,
        }),
        "mla-tiny" => json!({
            "vocab": 131, "embed": 40, "heads": 3, "query_latent": 22, "latent": 18, "content_dim": 10,
            "rotary_dim": 6, "value_dim": 12, "hidden": 56,
        }),
        // Their own sizes are odd enough.
        _ => json!({}),
    }
}

/// A preset of the zoo at these sizes, and how many tokens it knows.
pub fn program(preset: &str, dtype: &str) -> (Program, usize) {
    program_of_size(preset, dtype, &config(preset))
}

/// A preset with some of its fields changed.
pub fn program_of_size(preset: &str, dtype: &str, config: &Value) -> (Program, usize) {
    let registry = Registry::zoo();
    let family = registry.preset(preset).unwrap();
    let mut fields = family.describe();
    let all = fields.as_object_mut().unwrap();
    all.extend(config.as_object().unwrap().clone());
    all.insert("dtype".into(), dtype.into());
    all.insert("context".into(), CONTEXT.into());
    let architecture = registry.architecture(family.name(), &fields).unwrap();
    (build(&*architecture).unwrap(), architecture.vocab())
}

/// Heads as wide as those of large models, whose scores, probabilities and gradients are in a warpgroup's registers.
pub fn wide_heads(window: Option<usize>) -> Value {
    let mut config = json!({
        "layers": 1, "vocab": 97, "embed": 40, "heads": 2, "key_value_heads": 1, "head_dim": 128, "hidden": 56,
    });
    if let Some(window) = window {
        config["window"] = window.into();
    }
    config
}

/// What the sequences of a run are: where each begins, and how long it is. There are more than 64 rows in all, and more
/// than one chunk of positions; where few rows are decoded, three chunks. What has the kernels of training anew has few.
fn sequences(kind: EntryKind) -> Vec<(usize, usize)> {
    match kind {
        EntryKind::Decode => vec![(0, 1), (129, 1), (5, 1)],
        EntryKind::Prefill => vec![(0, 67), (100, 9), (5, 6)],
        EntryKind::Score => vec![(0, 70), (0, 1), (0, 5)],
        EntryKind::Train => vec![(0, 67), (0, 3)],
        EntryKind::Accumulate | EntryKind::Step => vec![(0, 19), (0, 7)],
        EntryKind::Update => vec![(0, 1)],
    }
}

/// The virtual GPU of an architecture.
pub fn target_of(architecture: Architecture) -> Target {
    match architecture {
        Architecture::Sm80 => Target::Sm80,
        Architecture::Sm90a => Target::Sm90a,
        Architecture::Sm100a => Target::Sm100a,
    }
}

/// A run of an entry: its sequences, and how large it is.
pub struct Job {
    pub bound: Bound,
    limits: Limits,
    cache: CacheSize,
}

impl Job {
    /// Such sequences as show what an entry of this kind does.
    pub fn new(kind: EntryKind, vocab: usize) -> Job {
        Job::of(kind, sequences(kind), vocab)
    }

    /// Each sequence is where it begins, and how long it is.
    pub fn of(kind: EntryKind, sequences: Vec<(usize, usize)>, vocab: usize) -> Job {
        let batch = sequences.len();
        let chunks = CONTEXT.div_ceil(CHUNK);
        // Chunks of a sequence lie apart, the last first.
        let places =
            |at: usize| (0..chunks).map(|chunk| ((chunks - 1 - chunk) * batch + at) as i32).collect();
        let (chunks, cache) = match kind.cached() {
            true => {
                let size = CacheSize { chunks: chunks * batch, sequences: batch };
                ((0..batch).map(places).collect(), size)
            }
            false => (Vec::new(), CacheSize::default()),
        };
        let bound = Bound { sequences, chunks, vocab };
        Job { limits: Limits { rows: bound.rows() + 3, batch }, bound, cache }
    }
}

/// A file of some kernels of an entry.
pub fn text_of<'k>(entry: &CompiledEntry, kernels: impl IntoIterator<Item = &'k KernelText>) -> String {
    let panel = |columns: usize| format!("#define PANEL {columns}\n");
    file_text(kernels).replace(&panel(PANEL), &panel(entry.panel))
}

/// How far results may be from the reference, in norm.
pub fn tolerance(dtype: &str) -> f64 {
    if dtype == "bf16" { 2e-2 } else { 1e-4 }
}

/// Runs an entry launch by launch, and fails where something is wrong. Returns what was counted of each kernel.
pub fn run_entry(
    name: &str,
    job: &Job,
    reference: &Reference,
    (entry, of_processor): (&CompiledEntry, Option<(&CompiledEntry, &Kernels)>),
    (device, module): (&mut Device, &Module),
    tolerance: f64,
    observer: Option<Observer<'_>>,
) -> BTreeMap<usize, Counted> {
    let start = Instant::now();
    let compares = reference.is_evaluated;
    let &Job { ref bound, limits, cache } = job;
    let mut binding = Binding::cached(limits, CONTEXT, cache);
    let sequence = |(state, &(origin, length)): (usize, &(usize, usize))| {
        let chunks = bound.chunks.get(state).map_or(&[][..], |chunks| chunks);
        Sequence { origin, length, chunks, state }
    };
    binding.bind(&bound.sequences.iter().enumerate().map(sequence).collect::<Vec<_>>()).unwrap();
    let mut host_tables = binding.tables();
    if let Some((_, kernels)) = of_processor {
        host_tables.dots = kernels.dots();
    }
    let device_tables = tables(device, &host_tables, limits);
    let mut twins = twins(entry, reference, bound, device, (limits, cache));
    let mut run = Run {
        entry,
        of_processor,
        reference,
        bound,
        module,
        device,
        twins: &mut twins,
        host_tables,
        device_tables,
        tolerance,
        row: 0,
        in_turns: false,
        wrong: Vec::new(),
        launches: 0,
        same_bits: 0,
        observer,
        counted: BTreeMap::new(),
        compares,
        compared: 0,
        largest: 0.0,
    };
    run.steps(&entry.load_steps, 0, 0);
    run.steps(&entry.steps, 0, 0);
    if !compares {
        assert!(run.wrong.is_empty(), "{name}:\n{}", run.wrong.join("\n"));
        return run.counted;
    }
    run.results();
    println!(
        "{name}: {} launches, {} results at most {:.1e} apart, {} with a processor's bits, {:.1} s",
        run.launches,
        run.compared,
        run.largest,
        run.same_bits,
        start.elapsed().as_secs_f64()
    );
    assert!(run.wrong.is_empty(), "{name}:\n{}", run.wrong.join("\n"));
    // What is compared is no smaller part: kernels leave little for one another that is no value of the graph.
    assert!(run.compared * 2 > run.launches, "{name}");
    run.counted
}

/// The tables of a run on the device.
fn tables(
    device: &mut Device,
    host: &diptych_codegen::c::step::StepTables,
    limits: Limits,
) -> step::StepTables {
    let mut table = |from: *const i32, length: usize| {
        // SAFETY: the binding's tables are that long.
        let numbers = unsafe { std::slice::from_raw_parts(from, length) };
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let address = device.allocate(bytes.len().max(4)).unwrap();
        device.write(address, &bytes).unwrap();
        address
    };
    let (rows, batch, blocks) = (host.rows as usize, limits.batch, host.blocks as usize);
    let past = host.past_blocks as usize;
    step::StepTables {
        rows: host.rows as i32,
        batch: host.batch as i32,
        blocks: host.blocks as i32,
        past_blocks: host.past_blocks as i32,
        chunk_stride: host.chunk_stride as i32,
        turn: 0,
        row_position: table(host.row_position, rows),
        row_cache: table(host.row_cache, rows),
        sequence_row: table(host.sequence_row, batch + 1),
        sequence_origin: table(host.sequence_origin, batch),
        block_sequence: table(host.block_sequence, blocks),
        block_index: table(host.block_index, blocks),
        past_block_sequence: table(host.past_block_sequence, past),
        past_block_index: table(host.past_block_index, past),
        chunk_row: table(host.chunk_row, batch * host.chunk_stride as usize),
        sequence_state: table(host.sequence_state, batch),
    }
}
