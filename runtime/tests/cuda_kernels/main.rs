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
use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build};
use diptych_nvrtc::Form;
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::executor::{Binding, CacheSize, Kernels, Sequence, load_kernels};
use diptych_virtual_gpu::{Device, Target};
use installed::nvrtc;
use memory::twins;
use places::Bound;
use reference::{Random, Reference, stored};
use run::Run;
use serde_json::{Value, json};

const CONTEXT: usize = 192;

/// A model of a family at sizes that no tile divides.
fn config(family: &str) -> Value {
    match family {
        "gpt2" => json!({ "vocab": 259, "embed": 72, "heads": 3, "hidden": 104, "layers": 2 }),
        // More than seven times as many tokens as what is summed, so that logits are streamed.
        "llama" => json!({
            "vocab": 643, "embed": 72, "heads": 6, "key_value_heads": 2, "head_dim": 20, "hidden": 104, "layers": 2,
        }),
        "mla" => json!({
            "vocab": 131, "embed": 40, "heads": 3, "query_latent": 22, "latent": 18, "content_dim": 10,
            "rotary_dim": 6, "value_dim": 12, "hidden": 56, "layers": 2,
        }),
        other => panic!("no sizes for {other}"),
    }
}

fn program(family: &str, dtype: &str) -> Program {
    let registry = Registry::zoo();
    let mut fields = registry.preset(&format!("{family}-tiny")).unwrap().describe();
    let all = fields.as_object_mut().unwrap();
    all.extend(config(family).as_object().unwrap().clone());
    all.insert("dtype".into(), dtype.into());
    all.insert("context".into(), CONTEXT.into());
    build(&*registry.architecture(family, &fields).unwrap()).unwrap()
}

/// What the sequences of a run are: where each begins, and how long it is. There are more than 64 rows in all, and more
/// than one chunk of positions.
fn sequences(kind: EntryKind) -> Vec<(usize, usize)> {
    match kind {
        EntryKind::Decode => vec![(0, 1), (63, 1), (70, 1), (129, 1)],
        EntryKind::Prefill => vec![(0, 67), (66, 3), (30, 40)],
        EntryKind::Score => vec![(0, 70), (0, 1), (0, 37)],
        EntryKind::Update => vec![(0, 1)],
        _ => vec![(0, 67), (0, 41)],
    }
}

/// Checks entries that are compiled together, on some architectures; on the first also against a processor, if asked for.
fn check(family: &str, dtype: &str, kinds: &[EntryKind], clip_norm: Option<f64>, architectures: &[Architecture]) {
    let Some(nvrtc) = nvrtc() else { return };
    let program = program(family, dtype);
    let optimizer = AdamWOptions { clip_norm, ..AdamWOptions::default() };
    let compile = |options: EntryOptions| -> CompiledProgram {
        compile_program(&program, kinds, &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    };
    for (at, &architecture) in architectures.iter().enumerate() {
        let mut options = EntryOptions::cuda(architecture);
        let width = VectorWidth::detect();
        let beside_processor = dtype == "f32" && at == 0;
        if beside_processor {
            // The processor's panels are as wide as its vectors.
            options.panel = width.panel();
        }
        let compiled = compile(options);
        let of_processor = beside_processor.then(|| compile(EntryOptions { language: Language::C, ..options }));
        for &kind in kinds {
            let entry = &compiled.entries[&kind];
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
            let of_processor = of_processor.as_ref().map(|(entry, kernels)| (*entry, kernels));
            let name = format!("{family} {dtype} {} on {architecture}", kind.name());
            let ptx = std::str::from_utf8(&ptx.bytes).unwrap();
            let vocab = config(family)["vocab"].as_u64().unwrap() as usize;
            run_entry(&name, (compiled.program_of(kind), entry), of_processor, (architecture, ptx), dtype, vocab);
        }
    }
}

fn run_entry(
    name: &str,
    (program, entry): (&Program, &CompiledEntry),
    of_processor: Option<(&CompiledEntry, &Kernels)>,
    (architecture, ptx): (Architecture, &str),
    dtype: &str,
    vocab: usize,
) {
    let target = match architecture {
        Architecture::Sm80 => Target::Sm80,
        Architecture::Sm90a => Target::Sm90a,
    };
    let mut device = Device::new(target, 1 << 30);
    let module = device.load(ptx).unwrap();
    let kind = entry.kind;
    let of_run = sequences(kind);
    let batch = of_run.len();
    let chunks = CONTEXT.div_ceil(CHUNK);
    // Chunks of a sequence lie apart, the last first.
    let places = |at: usize| (0..chunks).map(|chunk| ((chunks - 1 - chunk) * batch + at) as i32).collect();
    let bound = Bound {
        sequences: of_run,
        chunks: if kind.cached() { (0..batch).map(places).collect() } else { Vec::new() },
        vocab,
    };
    let limits = Limits { rows: bound.rows() + 3, batch };
    let cache = match kind.cached() {
        true => CacheSize { chunks: chunks * batch, sequences: batch },
        false => CacheSize::default(),
    };
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
    let device_tables = tables(&mut device, &host_tables, limits);
    let mut random = Random(42);
    let stored = stored(program, &mut random);
    let start = std::time::Instant::now();
    let reference = Reference::of(program, entry, &stored, &bound, &mut random);
    let evaluated = start.elapsed().as_secs_f64();
    let mut twins = twins(entry, &reference, &bound, &mut device, (limits, cache), &mut random);
    let mut run = Run {
        entry,
        of_processor,
        reference: &reference,
        bound: &bound,
        module: &module,
        device: &mut device,
        twins: &mut twins,
        host_tables,
        device_tables,
        tolerance: if dtype == "bf16" { 2e-2 } else { 1e-4 },
        of_kernels: 1e-5,
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
        "{name}: {} launches, {} results, at most {:e} apart; {} with a processor's bits; {evaluated:.1} s of {:.1} s \
         for the evaluator",
        run.launches,
        run.compared,
        run.largest,
        run.same_bits,
        start.elapsed().as_secs_f64()
    );
    assert!(run.wrong.is_empty(), "{name}:\n{}", run.wrong.join("\n"));
    assert!(run.compared >= run.launches / 2, "{name}");
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
    ($($family:ident $dtype:ident: $serves:ident $trains:ident $steps:ident;)*) => {$(
        #[test]
        fn $serves() {
            check(stringify!($family), stringify!($dtype), &SERVING, None, &Architecture::ALL);
        }

        #[test]
        fn $trains() {
            check(stringify!($family), stringify!($dtype), &TRAINING, Some(1.0), &Architecture::ALL);
        }

        #[test]
        fn $steps() {
            check(stringify!($family), stringify!($dtype), &[EntryKind::Step], None, &Architecture::ALL);
        }
    )*};
}
checks! {
    gpt2 f32: gpt2_serves_in_f32 gpt2_trains_in_f32 gpt2_steps_in_f32;
    gpt2 bf16: gpt2_serves_in_bf16 gpt2_trains_in_bf16 gpt2_steps_in_bf16;
    llama f32: llama_serves_in_f32 llama_trains_in_f32 llama_steps_in_f32;
    llama bf16: llama_serves_in_bf16 llama_trains_in_bf16 llama_steps_in_bf16;
    mla f32: mla_serves_in_f32 mla_trains_in_f32 mla_steps_in_f32;
    mla bf16: mla_serves_in_bf16 mla_trains_in_bf16 mla_steps_in_bf16;
}
