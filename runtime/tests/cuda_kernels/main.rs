//! Kernels for a GPU against those for a processor: the entries of the zoo's programs run launch by launch on both, the
//! GPU's on the virtual GPU with all checks on, and what each launch writes is compared. Both are written from tile
//! programs with a GPU's blocks, at sizes that are no multiples of tiles.

#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
mod memory;
mod run;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::cuda::{Architecture, file_text, step};
use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{EntryOptions, Language, Limits};
use diptych_ir::{DType, EntryKind, Program};
use diptych_models::{Registry, build};
use diptych_nvrtc::Form;
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::executor::{Binding, CacheSize, Sequence, load_kernels};
use diptych_virtual_gpu::{Device, Target};
use installed::nvrtc;
use memory::twins;
use run::Run;

const CONTEXT: usize = 192;

fn program(preset: &str, dtype: &str) -> Program {
    let registry = Registry::zoo();
    let preset = registry.preset(preset).unwrap();
    let mut config = preset.describe();
    let fields = config.as_object_mut().unwrap();
    fields.insert("dtype".into(), dtype.into());
    fields.insert("context".into(), CONTEXT.into());
    build(&*registry.architecture(preset.name(), &config).unwrap()).unwrap()
}

/// What the sequences of a run are: where each begins, and how long it is.
fn sequences(kind: EntryKind) -> Vec<(usize, usize)> {
    match kind {
        EntryKind::Decode => vec![(0, 1), (63, 1), (70, 1), (150, 1)],
        EntryKind::Prefill => vec![(0, 70), (66, 3), (30, 40)],
        _ => vec![(0, 70), (0, 1), (0, 67)],
    }
}

fn check(preset: &str, dtype: &str, kinds: &[EntryKind]) {
    let Some(nvrtc) = nvrtc() else { return };
    let compiler = Compiler::find().unwrap();
    let width = VectorWidth::detect();
    let program = program(preset, dtype);
    let of_device = EntryOptions { panel: width.panel(), ..EntryOptions::cuda(Architecture::Sm80) };
    let of_processor = EntryOptions { language: Language::C, ..of_device };
    let optimizer = AdamWOptions { clip_norm: None, ..AdamWOptions::default() };
    let compiled = [of_processor, of_device].map(|options| {
        compile_program(&program, kinds, &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    });
    for &kind in kinds {
        let [one, other] = compiled.each_ref().map(|compiled| &compiled.entries[&kind]);
        assert_eq!(one.buffers, other.buffers);
        let cache = KernelCache::standard();
        let kernels = load_kernels(&one.kernels, width, width.blocking(), &compiler, &cache, 2).unwrap();
        // The processor's panels are as wide as its vectors.
        let panel = format!("#define PANEL {}\n", diptych_codegen::cuda::PANEL);
        let text = file_text(&other.device_kernels);
        let text = text.replace(&panel, &format!("#define PANEL {}\n", width.panel()));
        let target = Architecture::Sm80.name().parse().unwrap();
        let cache = diptych_nvrtc::KernelCache::standard();
        let ptx = cache.compile(&nvrtc, &text, "kernels.cu", target, Form::Ptx).unwrap();
        let mut device = Device::new(Target::Sm80, 1 << 30);
        let module = device.load(std::str::from_utf8(&ptx.bytes).unwrap()).unwrap();

        let of_run = sequences(kind);
        let rows: usize = of_run.iter().map(|sequence| sequence.1).sum();
        let limits = Limits { rows: rows + 3, batch: of_run.len() };
        let chunks = CONTEXT.div_ceil(64);
        let cache = match kind.cached() {
            true => CacheSize { chunks: chunks * limits.batch, sequences: limits.batch },
            false => CacheSize::default(),
        };
        let mut binding = Binding::cached(limits, CONTEXT, cache);
        // Chunks of a sequence lie apart, the last first.
        let places: Vec<Vec<i32>> = (0..of_run.len())
            .map(|at| (0..chunks).map(|chunk| ((chunks - 1 - chunk) * of_run.len() + at) as i32).collect())
            .collect();
        let bound: Vec<Sequence> = of_run
            .iter()
            .zip(&places)
            .enumerate()
            .map(|(state, (&(origin, length), places))| {
                let chunks = if kind.cached() { &places[..] } else { &[] };
                Sequence { origin, length, chunks, state }
            })
            .collect();
        binding.bind(&bound).unwrap();
        let mut host_tables = binding.tables();
        host_tables.dots = kernels.dots();
        let device_tables = tables(&mut device, &host_tables, limits);
        let mut twins = twins(one, &program, &mut device, limits, cache);
        let mut run = Run {
            of_processor: one,
            of_device: other,
            kernels: &kernels,
            module: &module,
            device: &mut device,
            twins: &mut twins,
            host_tables,
            device_tables,
            tolerance: [(DType::F32, if dtype == "bf16" { 2e-2 } else { 1e-5 }), (DType::BF16, 2e-2)],
            row: 0,
            in_turns: false,
            wrong: Vec::new(),
            launches: 0,
            same_bits: 0,
        };
        run.steps(&one.load_steps, &other.load_steps, 0, 0);
        run.steps(&one.steps, &other.steps, 0, 0);
        println!(
            "{preset} {dtype} {}: {} launches, {} results with the same bits",
            kind.name(),
            run.launches,
            run.same_bits
        );
        assert!(run.wrong.is_empty(), "{preset} {dtype} {}:\n{}", kind.name(), run.wrong.join("\n"));
    }
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
const TRAINING: [EntryKind; 3] = [EntryKind::Train, EntryKind::Accumulate, EntryKind::Step];

macro_rules! checks {
    ($($name:ident: $preset:literal $dtype:literal $kinds:ident;)*) => {
        $(#[test] fn $name() { check($preset, $dtype, &$kinds); })*
    };
}
checks! {
    gpt2_serves_in_f32: "gpt2-tiny" "f32" SERVING;
    gpt2_serves_in_bf16: "gpt2-tiny" "bf16" SERVING;
    gpt2_trains_in_f32: "gpt2-tiny" "f32" TRAINING;
    gpt2_trains_in_bf16: "gpt2-tiny" "bf16" TRAINING;
    llama_serves_in_f32: "llama-tiny" "f32" SERVING;
    llama_serves_in_bf16: "llama-tiny" "bf16" SERVING;
    llama_trains_in_f32: "llama-tiny" "f32" TRAINING;
    llama_trains_in_bf16: "llama-tiny" "bf16" TRAINING;
    mla_serves_in_f32: "mla-tiny" "f32" SERVING;
    mla_serves_in_bf16: "mla-tiny" "bf16" SERVING;
    mla_trains_in_f32: "mla-tiny" "f32" TRAINING;
    mla_trains_in_bf16: "mla-tiny" "bf16" TRAINING;
}
