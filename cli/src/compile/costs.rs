//! What a compiled program takes on a GPU, as data: each kernel's resources and instructions, each launch's roofline and
//! predicted time, and the sums that a user asks for. Nothing was run.

use super::machine_code::MachineCode;
use super::place::GpuPlace;
use crate::config::RunConfig;
use crate::failure::Result;
use crate::stages::Compiled;
use diptych_codegen::cuda::KernelText;
use diptych_codegen::entry::{CompiledEntry, Launch};
use diptych_cost::money::price_per_million_tokens;
use diptych_cost::{
    EntryPrediction, Floor, LaunchPrediction, Limit, Machine, Multiprocessor, Precision, RunSizes, Traffic,
    Work, launch_work, predict_entry, product_seconds, sizes_of, tensor_core_flops,
};
use diptych_ir::EntryKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// All that is found for a target.
#[derive(Serialize)]
pub struct Costs {
    /// The target, as the user calls it or its file does.
    pub target: String,
    /// What code is compiled for.
    pub architecture: String,
    /// The machine that predictions are for.
    pub machine: MachineCosts,
    /// What is not known, and what to do about it.
    pub missing: Vec<String>,
    /// All kernels by name, each once.
    pub kernels: BTreeMap<String, KernelCosts>,
    /// The entries.
    pub entries: Vec<EntryCosts>,
    /// What a user asks for.
    pub totals: Vec<Total>,
}

/// A machine's published figures.
#[derive(Serialize)]
pub struct MachineCosts {
    /// The target's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Of tensor cores in bf16, FLOP/s.
    pub bf16_flops_per_second: f64,
    /// Of other units in f32, FLOP/s.
    pub f32_flops_per_second: f64,
    /// Of main memory, bytes/s.
    pub memory_bytes_per_second: f64,
    /// Which of its figures nothing backs, each with what it is.
    pub unmeasured: BTreeMap<String, String>,
}

/// A kernel.
#[derive(Serialize)]
pub struct KernelCosts {
    /// The entries that have it.
    pub entries: Vec<&'static str>,
    /// Threads of a block.
    pub threads: usize,
    /// Shared memory of a block that a launch asks for, in bytes.
    pub dynamic_shared_bytes: usize,
    /// Memory of a block's own in the device's memory, in bytes, for tiles that do not fit in shared memory.
    pub scratch_bytes: usize,
    /// What the machine code uses; absent where NVRTC is not there.
    pub resources: Option<Resources>,
    /// What it is made of; absent where nvdisasm is not there.
    pub instructions: Option<Instructions>,
}

/// What a kernel's machine code uses.
#[derive(Serialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread stores because registers did not suffice.
    pub spill_store_bytes: u64,
    /// Bytes that it loads again.
    pub spill_load_bytes: u64,
    /// Local memory of a thread, in bytes.
    pub stack_bytes: u64,
    /// Shared memory of a block that the kernel has whatever the launch, in bytes.
    pub static_shared_bytes: u64,
    /// Blocks that a multiprocessor holds at once.
    pub blocks_a_multiprocessor: usize,
    /// Their threads, as a part of those that there can be.
    pub occupancy: f64,
    /// What lets no more in.
    pub occupancy_limit: Limit,
}

/// What a kernel's machine code is made of.
#[derive(Serialize)]
pub struct Instructions {
    /// All instructions.
    pub count: u64,
    /// Those of tensor cores among them.
    pub tensor_core: u64,
    /// By opcode.
    pub opcodes: BTreeMap<String, u64>,
    /// Of the innermost loop with tensor-core instructions: all instructions.
    pub main_loop: Option<u64>,
    /// Tensor-core instructions among them, as a part.
    pub main_loop_tensor_core_share: Option<f64>,
}

/// A run of an entry.
#[derive(Serialize)]
pub struct EntryCosts {
    /// The entry.
    pub entry: &'static str,
    /// Sequences of the run.
    pub sequences: usize,
    /// New tokens of each.
    pub tokens: usize,
    /// Positions that each had before.
    pub past: usize,
    /// In program order.
    pub launches: Vec<LaunchCosts>,
    /// Predicted seconds of copies between buffers, which are no kernels.
    pub copy_seconds: f64,
    /// All of it.
    pub sum: Sum,
}

/// A launch, over all layers in which it runs.
#[derive(Serialize)]
pub struct LaunchCosts {
    /// The kernel.
    pub kernel: String,
    /// How often it runs.
    pub runs: usize,
    /// Blocks of a run.
    pub blocks: f64,
    /// Blocks over those that the GPU holds at once; absent where that is not known.
    pub waves: Option<f64>,
    /// Distinct bytes that all runs move.
    pub bytes: f64,
    /// What limits it at the published peaks: `tensor cores`, `scalar units` or `memory`.
    pub bound: &'static str,
    /// All runs together.
    pub sum: Sum,
}

/// Amounts that add up.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Sum {
    /// Floating-point operations.
    pub flops: f64,
    /// Those of tensor cores among them.
    pub tensor_core_flops: f64,
    /// Kernel by kernel, what the slowest unit takes at its published peak.
    pub roofline_seconds: f64,
    /// What good kernels take: with launches, waves, and the shares of peaks that are reached.
    pub predicted_seconds: f64,
    /// Of the predicted time, what tensor cores take at their peak.
    pub tensor_core_seconds: f64,
    /// Of the predicted time, what all products take at the peaks of their precisions.
    pub product_seconds: f64,
}

/// What a user asks for.
#[derive(Serialize)]
pub struct Total {
    /// What it is of, for people.
    pub what: String,
    /// Tokens trained on, read or generated.
    pub tokens: usize,
    /// All of it.
    pub sum: Sum,
    /// By the predicted time.
    pub tokens_per_second: f64,
    /// By the predicted time and the machine's price; absent where it has none.
    pub price_per_million_tokens: Option<f64>,
    /// The currency of that.
    pub currency: Option<String>,
    /// Products at the peaks of their precisions, as a part of the predicted time.
    pub share_of_peak: f64,
}

impl Sum {
    fn of(work: &Work, machine: &Machine, predicted_seconds: f64) -> Sum {
        let floor = Floor::of(work, machine);
        Sum {
            flops: work.flops(),
            tensor_core_flops: tensor_core_flops(work),
            roofline_seconds: floor.seconds(),
            predicted_seconds,
            tensor_core_seconds: floor.tensor_core_seconds,
            product_seconds: product_seconds(work, machine),
        }
    }

    /// With another so many times.
    pub fn plus(self, other: Sum, times: f64) -> Sum {
        Sum {
            flops: self.flops + times * other.flops,
            tensor_core_flops: self.tensor_core_flops + times * other.tensor_core_flops,
            roofline_seconds: self.roofline_seconds + times * other.roofline_seconds,
            predicted_seconds: self.predicted_seconds + times * other.predicted_seconds,
            tensor_core_seconds: self.tensor_core_seconds + times * other.tensor_core_seconds,
            product_seconds: self.product_seconds + times * other.product_seconds,
        }
    }
}

/// What a model compiled for a GPU takes there.
///
/// # Errors
/// When the configuration's training does not fit the model.
pub fn costs(place: &GpuPlace, config: &RunConfig, model: &Compiled, code: &MachineCode) -> Result<Costs> {
    let machine = &place.machine;
    let mut kernels: BTreeMap<String, KernelCosts> = BTreeMap::new();
    for (kind, entry) in &model.compiled.entries {
        for text in &entry.device_kernels {
            let found = || kernel(text, place, code);
            kernels.entry(text.name.clone()).or_insert_with(found).entries.push(kind.name());
        }
    }
    let entries: Vec<EntryCosts> = model
        .compiled
        .entries
        .iter()
        .map(|(kind, entry)| entry_costs(*kind, entry, &run_sizes(*kind, model), machine, &kernels))
        .collect();
    let totals = totals(&entries, config.train.accumulation, machine);
    let memory = machine.rates.levels.last();
    Ok(Costs {
        target: place.name.clone(),
        architecture: place.architecture.to_string(),
        machine: MachineCosts {
            name: machine.name.clone(),
            description: place.description.clone(),
            multiprocessors: machine.rates.threads,
            bf16_flops_per_second: machine.peak_flops_per_second(Precision::Bf16),
            f32_flops_per_second: machine.peak_flops_per_second(Precision::F32),
            memory_bytes_per_second: memory.map_or(0.0, |level| level.read.all_threads_bytes_per_second),
            unmeasured: machine.unmeasured.clone(),
        },
        missing: code.missing.clone(),
        kernels,
        entries,
        totals,
    })
}

fn kernel(text: &KernelText, place: &GpuPlace, code: &MachineCode) -> KernelCosts {
    let resources = code.resources.get(&text.name).map(|used| {
        let shared = text.shared_bytes + used.shared_bytes as usize;
        let multiprocessor = Multiprocessor::of(place.architecture);
        let occupancy = multiprocessor.occupancy(text.threads, used.registers as usize, shared);
        Resources {
            registers: used.registers,
            spill_store_bytes: used.spill_stores,
            spill_load_bytes: used.spill_loads,
            stack_bytes: used.stack_bytes,
            static_shared_bytes: used.shared_bytes,
            blocks_a_multiprocessor: occupancy.blocks,
            occupancy: occupancy.share,
            occupancy_limit: occupancy.limit,
        }
    });
    let instructions = code.instructions.get(&text.name).map(|code| Instructions {
        count: code.instructions,
        tensor_core: code.tensor_core(),
        opcodes: code.opcodes.clone(),
        main_loop: code.main_loop.as_ref().map(|main| main.instructions),
        main_loop_tensor_core_share: code.main_loop.as_ref().map(|main| main.tensor_core_share()),
    });
    KernelCosts {
        entries: Vec::new(),
        threads: text.threads,
        dynamic_shared_bytes: text.shared_bytes,
        scratch_bytes: text.scratch_bytes,
        resources,
        instructions,
    }
}

/// The sequences of a run of an entry, as the objective has them.
fn run_sizes(kind: EntryKind, model: &Compiled) -> RunSizes {
    let like = match kind {
        EntryKind::Update => return RunSizes::equal(1, 0, 1),
        EntryKind::Train | EntryKind::Accumulate | EntryKind::Step => EntryKind::Train,
        EntryKind::Score | EntryKind::Prefill => EntryKind::Prefill,
        EntryKind::Decode => EntryKind::Decode,
    };
    let binding = model.objective.bindings.iter().find(|binding| binding.entry == like);
    binding.map_or_else(|| RunSizes::equal(1, 0, 1), sizes_of)
}

fn entry_costs(
    kind: EntryKind,
    entry: &CompiledEntry,
    run: &RunSizes,
    machine: &Machine,
    kernels: &BTreeMap<String, KernelCosts>,
) -> EntryCosts {
    let EntryPrediction { launches, copy_seconds, copied_bytes } =
        predict_entry(entry, machine, machine.rates.threads, run);
    let cost = |(launch, predicted): (&Launch, &LaunchPrediction)| {
        let name = entry.kernel_name(launch.kernel);
        let blocks = launch_work(&entry.programs[launch.kernel], launch, run, entry.panel).instances;
        let resources = kernels.get(name).and_then(|kernel| kernel.resources.as_ref());
        let at_once = resources.map(|used| (used.blocks_a_multiprocessor * machine.rates.threads) as f64);
        LaunchCosts {
            kernel: name.to_owned(),
            runs: predicted.runs,
            blocks,
            waves: at_once.filter(|&at_once| at_once > 0.0).map(|at_once| blocks / at_once),
            bytes: predicted.work.footprint_bytes(),
            bound: Floor::of(&predicted.work, machine).bound(),
            sum: Sum::of(&predicted.work, machine, predicted.seconds),
        }
    };
    let launches: Vec<LaunchCosts> = entry.launches().into_iter().zip(&launches).map(cost).collect();
    let moved = vec![Traffic::read(copied_bytes), Traffic::write(copied_bytes)];
    let copies = Sum::of(&Work { traffic: moved, ..Work::default() }, machine, copy_seconds);
    let sequence = run.sequences.first();
    EntryCosts {
        entry: kind.name(),
        sequences: run.batch(),
        tokens: sequence.map_or(0, |sequence| sequence.length),
        past: sequence.map_or(0, |sequence| sequence.origin),
        copy_seconds,
        sum: launches.iter().fold(copies, |sum, launch| sum.plus(launch.sum, 1.0)),
        launches,
    }
}

/// A training step of so many micro-batches, a prompt, and a generated token.
fn totals(entries: &[EntryCosts], accumulation: usize, machine: &Machine) -> Vec<Total> {
    let of = |kind: EntryKind| entries.iter().find(|entry| entry.entry == kind.name());
    let total = |what: String, tokens: usize, sum: Sum| {
        let tokens_per_second = tokens as f64 / sum.predicted_seconds;
        let price = machine.price.as_ref();
        let money = price.and_then(|price| price_per_million_tokens(price, 1.0, tokens_per_second));
        Total {
            what,
            tokens,
            sum,
            tokens_per_second,
            price_per_million_tokens: money.as_ref().map(|money| money.amount),
            currency: price.map(|price| price.currency.clone()),
            share_of_peak: sum.product_seconds / sum.predicted_seconds,
        }
    };
    let mut totals = Vec::new();
    // Of a step all parts must be there.
    let parts = [EntryKind::Train, EntryKind::Accumulate, EntryKind::Update].map(of);
    if let [Some(train), Some(further), Some(update)] = parts {
        let sum = train.sum.plus(further.sum, accumulation.saturating_sub(1) as f64).plus(update.sum, 1.0);
        let micro = if accumulation > 1 { format!("{accumulation} × ") } else { String::new() };
        let what = format!("a training step of {micro}{} × {} tokens", train.sequences, train.tokens);
        totals.push(total(what, accumulation * train.sequences * train.tokens, sum));
    }
    if let Some(prefill) = of(EntryKind::Prefill) {
        totals.push(total(format!("a prompt of {} tokens", prefill.tokens), prefill.tokens, prefill.sum));
    }
    if let Some(decode) = of(EntryKind::Decode) {
        let what = match decode.sequences {
            1 => format!("a generated token after {} others", decode.past),
            many => format!("a generated token of {many} sequences, each after {} others", decode.past),
        };
        totals.push(total(what, decode.sequences, decode.sum));
    }
    totals
}
