//! Every kernel of gpt2, llama and mla against the f64 evaluator: entries run launch by launch on the virtual GPU, with all
//! checks on, and what each launch writes is compared with the values of the graph. Sizes are multiples of no tile. What is
//! added up by chains of floats has a processor's bits, and is compared with its kernels, too.

#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
mod memory;
mod places;
mod reference;
mod run;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::cuda::{Architecture, PANEL, file_text, step};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Language, Limits};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{EntryKind, Program, text};
use diptych_models::{Registry, build};
use diptych_nvrtc::Form;
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::executor::{Binding, CacheSize, Kernels, Sequence, load_kernels};
use diptych_virtual_gpu::{Device, Module, Target};
use installed::nvrtc;
use memory::twins;
use places::Bound;
use reference::Reference;
use run::Run;
use serde_json::{Value, json};
use std::time::Instant;

const CONTEXT: usize = 192;

/// A small preset at sizes that no tile divides.
fn config(preset: &str) -> Value {
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

fn program(preset: &str, dtype: &str) -> (Program, usize) {
    let registry = Registry::zoo();
    let family = registry.preset(preset).unwrap();
    let mut fields = family.describe();
    let all = fields.as_object_mut().unwrap();
    all.extend(config(preset).as_object().unwrap().clone());
    all.insert("dtype".into(), dtype.into());
    all.insert("context".into(), CONTEXT.into());
    let architecture = registry.architecture(family.name(), &fields).unwrap();
    (build(&*architecture).unwrap(), architecture.vocab())
}

/// What the sequences of a run are: where each begins, and how long it is. There are more than 64 rows in all, and more
/// than one chunk of positions; where few rows are decoded, three chunks. What has the kernels of training anew has few.
fn sequences(kind: EntryKind) -> Vec<(usize, usize)> {
    match kind {
        EntryKind::Decode => vec![(0, 1), (129, 1), (5, 1)],
        EntryKind::Prefill => vec![(0, 67), (66, 3), (5, 6)],
        EntryKind::Score => vec![(0, 70), (0, 1), (0, 5)],
        EntryKind::Train => vec![(0, 67), (0, 3)],
        EntryKind::Accumulate | EntryKind::Step => vec![(0, 19), (0, 7)],
        EntryKind::Update => vec![(0, 1)],
    }
}

/// Checks entries that are compiled together, on each architecture; where bits are a processor's, on the first also against
/// its kernels.
fn check(preset: &str, dtype: &str, kinds: &[EntryKind], clip_norm: Option<f64>) {
    let Some(nvrtc) = nvrtc() else { return };
    let (program, vocab) = program(preset, dtype);
    let optimizer = AdamWOptions { clip_norm, ..AdamWOptions::default() };
    let compile = |options: EntryOptions| -> CompiledProgram {
        compile_program(&program, kinds, &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    };
    let width = VectorWidth::detect();
    let compiled = Architecture::ALL.iter().enumerate().map(|(at, &architecture)| {
        // So few that rows are walked in two turns.
        let options = EntryOptions { turn_rows: 48, ..EntryOptions::cuda(architecture) };
        if dtype != "f32" || at > 0 {
            return (architecture, compile(options), None);
        }
        // The processor's panels are as wide as its vectors.
        let options = EntryOptions { panel: width.panel(), ..options };
        let of_processor = EntryOptions { language: Language::C, ..options };
        (architecture, compile(options), Some(compile(of_processor)))
    });
    let compiled: Vec<(Architecture, CompiledProgram, Option<CompiledProgram>)> = compiled.collect();
    for &kind in kinds {
        let program = compiled[0].1.program_of(kind);
        let entries: Vec<&CompiledEntry> =
            compiled.iter().map(|compiled| &compiled.1.entries[&kind]).collect();
        let graph = text::print(program);
        assert!(compiled.iter().all(|compiled| text::print(compiled.1.program_of(kind)) == graph));
        let job = Job::new(kind, vocab);
        let start = Instant::now();
        let reference = Reference::of(program, &entries, &job.bound);
        println!("{preset} {dtype} {}: {:.1} s of the evaluator", kind.name(), start.elapsed().as_secs_f64());
        for ((architecture, _, of_processor), entry) in compiled.iter().zip(entries) {
            let of_processor = of_processor.as_ref().map(|compiled| {
                let of_processor = &compiled.entries[&kind];
                assert!(of_processor.buffers == entry.buffers && of_processor.steps == entry.steps);
                let (compiler, cache) = (Compiler::find().unwrap(), KernelCache::standard());
                let texts = &of_processor.kernels;
                let kernels = load_kernels(texts, width, width.blocking(), &compiler, &cache, 2).unwrap();
                (of_processor, kernels)
            });
            let text = file_text(&entry.device_kernels);
            let panel = |columns: usize| format!("#define PANEL {columns}\n");
            let text = text.replace(&panel(PANEL), &panel(entry.panel));
            let target = architecture.name().parse().unwrap();
            let cache = diptych_nvrtc::KernelCache::standard();
            let ptx = cache.compile(&nvrtc, &text, "kernels.cu", target, Form::Ptx).unwrap();
            let mut device = Device::new(target_of(*architecture), 1 << 30);
            let module = device.load(std::str::from_utf8(&ptx.bytes).unwrap()).unwrap();
            let of_processor = of_processor.as_ref().map(|(entry, kernels)| (*entry, kernels));
            let name = format!("{preset} {dtype} {} on {architecture}", kind.name());
            let tolerance = if dtype == "bf16" { 2e-2 } else { 1e-4 };
            run_entry(&name, &job, &reference, (entry, of_processor), (&mut device, &module), tolerance);
        }
    }
}

fn target_of(architecture: Architecture) -> Target {
    match architecture {
        Architecture::Sm80 => Target::Sm80,
        Architecture::Sm90a => Target::Sm90a,
    }
}

/// A run of an entry: its sequences, and how large it is.
struct Job {
    bound: Bound,
    limits: Limits,
    cache: CacheSize,
}

impl Job {
    fn new(kind: EntryKind, vocab: usize) -> Job {
        let sequences = sequences(kind);
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

fn run_entry(
    name: &str,
    job: &Job,
    reference: &Reference,
    (entry, of_processor): (&CompiledEntry, Option<(&CompiledEntry, &Kernels)>),
    (device, module): (&mut Device, &Module),
    tolerance: f64,
) {
    let start = Instant::now();
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
        compared: 0,
        largest: 0.0,
    };
    run.steps(&entry.load_steps, 0, 0);
    run.steps(&entry.steps, 0, 0);
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

const SERVING: [EntryKind; 3] = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
const TRAINING: [EntryKind; 3] = [EntryKind::Train, EntryKind::Accumulate, EntryKind::Update];

macro_rules! checks {
    ($($preset:literal $dtype:ident: $serves:ident $trains:ident $steps:ident;)*) => {$(
        #[test]
        fn $serves() {
            check($preset, stringify!($dtype), &SERVING, None);
        }

        #[test]
        fn $trains() {
            check($preset, stringify!($dtype), &TRAINING, Some(1.0));
        }

        #[test]
        fn $steps() {
            check($preset, stringify!($dtype), &[EntryKind::Step], None);
        }
    )*};
}
checks! {
    "gpt2-tiny" f32: gpt2_serves_in_f32 gpt2_trains_in_f32 gpt2_steps_in_f32;
    "gpt2-tiny" bf16: gpt2_serves_in_bf16 gpt2_trains_in_bf16 gpt2_steps_in_bf16;
    "llama-tiny" f32: llama_serves_in_f32 llama_trains_in_f32 llama_steps_in_f32;
    "llama-tiny" bf16: llama_serves_in_bf16 llama_trains_in_bf16 llama_steps_in_bf16;
    "mla-tiny" f32: mla_serves_in_f32 mla_trains_in_f32 mla_steps_in_f32;
    "mla-tiny" bf16: mla_serves_in_bf16 mla_trains_in_bf16 mla_steps_in_bf16;
}

/// Experts and recurrences: what they choose, group, walk and round.
#[test]
fn experts_score_and_train() {
    check("moe-tiny", "f32", &[EntryKind::Score, EntryKind::Train], None);
}

#[test]
fn recurrences_score_and_train() {
    for preset in ["gated-linear-tiny", "mamba2-tiny"] {
        check(preset, "f32", &[EntryKind::Score, EntryKind::Train], None);
    }
}
