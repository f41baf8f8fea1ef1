//! The costs as tables for people. It computes nothing but sums of launches of one kernel.

use super::costs::{Costs, EntryCosts, KernelCosts, LaunchCosts, Sum};
use crate::format::{columns, push, short, thousands, wrapped};
use std::collections::{BTreeMap, BTreeSet};

/// Columns of a line of text.
const COLUMNS: usize = 120;
/// Kernels of an entry that take less of its predicted time are added up in one row.
const LEAST_SHARE: f64 = 0.005;
/// Opcodes that tell how a kernel works, as far as any kernel has them: how operands reach shared memory and registers.
const OPCODES: [&str; 5] = ["LDSM", "LDGSTS", "UTMALDG", "UTMASTG", "SYNCS"];

/// All of it.
pub fn text(costs: &Costs) -> String {
    let machine = &costs.machine;
    let mut out = format!(
        "{}: {} ({}), {} multiprocessors, {} TFLOP/s in bf16 on tensor cores, {} in f32, {} TB/s\n",
        costs.architecture,
        machine.description,
        machine.name,
        machine.multiprocessors,
        short(machine.bf16_flops_per_second / 1e12),
        short(machine.f32_flops_per_second / 1e12),
        short(machine.memory_bytes_per_second / 1e12),
    );
    for missing in &costs.missing {
        out.push_str(&wrapped(&format!("{missing}\n"), COLUMNS));
    }
    push(&mut out, format_args!("\nKernels\n{}", kernels(&costs.kernels)));
    for entry in &costs.entries {
        push(&mut out, format_args!("\n{}\n{}", title(entry), launches(entry)));
    }
    push(&mut out, format_args!("\nWhat it costs\n{}", totals(costs)));
    for note in notes(costs) {
        out.push_str(&wrapped(&format!("{note}\n"), COLUMNS));
    }
    out
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", 100.0 * share) } else { "–".to_owned() }
}

/// Microseconds of so many seconds.
fn microseconds(seconds: f64) -> String {
    match 1e6 * seconds {
        least if least > 0.0 && least < 5e-3 => "<0.01".to_owned(),
        other => short(other),
    }
}

fn kernels(kernels: &BTreeMap<String, KernelCosts>) -> String {
    let opcodes = |kernel: &KernelCosts, opcode: &str| {
        kernel.instructions.as_ref().map_or(0, |code| code.opcodes.get(opcode).copied().unwrap_or(0))
    };
    let present = |opcode: &&str| kernels.values().any(|kernel| opcodes(kernel, opcode) > 0);
    // Those of tensor cores have names such as HMMA and HGMMA.
    let all = kernels.values().filter_map(|kernel| kernel.instructions.as_ref());
    let of_tensor_cores: BTreeSet<&str> = all
        .flat_map(|code| code.opcodes.keys().map(String::as_str))
        .filter(|opcode| opcode.ends_with("MMA"))
        .collect();
    let told: Vec<&str> = of_tensor_cores.into_iter().chain(OPCODES.into_iter().filter(present)).collect();
    let has_resources = kernels.values().any(|kernel| kernel.resources.is_some());
    let has_instructions = kernels.values().any(|kernel| kernel.instructions.is_some());
    let mut header = row(&["threads", "shared"]);
    if has_resources {
        header.extend(row(&["registers", "spills", "blocks/SM", "occupancy", "limited by"]));
    }
    if has_instructions {
        header.extend(row(&told));
        header.extend(row(&["in loop"]));
    }
    header.extend(row(&["kernel"]));
    let mut rows = vec![header];
    for (name, kernel) in kernels {
        let used = kernel.resources.as_ref();
        let shared = kernel.dynamic_shared_bytes as u64 + used.map_or(0, |used| used.static_shared_bytes);
        let mut cells = vec![kernel.threads.to_string(), thousands(shared)];
        if let Some(used) = used {
            cells.extend([
                used.registers.to_string(),
                (used.spill_store_bytes + used.spill_load_bytes).to_string(),
                used.blocks_a_multiprocessor.to_string(),
                percent(used.occupancy),
                used.occupancy_limit.name().to_owned(),
            ]);
        } else if has_resources {
            cells.extend(std::iter::repeat_n("–".to_owned(), 5));
        }
        if let Some(code) = &kernel.instructions {
            cells.extend(told.iter().map(|opcode| opcodes(kernel, opcode).to_string()));
            cells.push(code.main_loop_tensor_core_share.map_or("–".to_owned(), percent));
        } else if has_instructions {
            cells.extend(std::iter::repeat_n("–".to_owned(), 1 + told.len()));
        }
        cells.push(name.clone());
        rows.push(cells);
    }
    columns(&rows)
}

fn title(entry: &EntryCosts) -> String {
    let sequences = match entry.sequences {
        1 => "1 sequence".to_owned(),
        many => format!("{} sequences", thousands(many as u64)),
    };
    let past = match entry.past {
        0 => String::new(),
        past => format!(" after {}", thousands(past as u64)),
    };
    let tokens = if entry.tokens == 1 { "token" } else { "tokens" };
    match entry.entry {
        "update" => "update".to_owned(),
        name => format!("{name}, {sequences} of {} {tokens}{past}", thousands(entry.tokens as u64)),
    }
}

/// The launches of one kernel.
struct OfKernel<'a> {
    first: &'a LaunchCosts,
    runs: usize,
    sum: Sum,
}

fn launches(entry: &EntryCosts) -> String {
    let mut rows = vec![row(&[
        "launches",
        "blocks",
        "waves",
        "roofline µs",
        "predicted µs",
        "share",
        "bound by",
        "tensor FLOPs",
        "and time",
        "kernel",
    ])];
    let mut found: Vec<OfKernel> = Vec::new();
    for launch in &entry.launches {
        match found.iter_mut().find(|known| known.first.kernel == launch.kernel) {
            Some(known) => {
                (known.runs, known.sum) = (known.runs + launch.runs, known.sum.plus(launch.sum, 1.0))
            }
            None => found.push(OfKernel { first: launch, runs: launch.runs, sum: launch.sum }),
        }
    }
    found.sort_by(|a, b| b.sum.predicted_seconds.total_cmp(&a.sum.predicted_seconds));
    let all = entry.sum;
    let amounts = |sum: &Sum, bound: &str| {
        [
            microseconds(sum.roofline_seconds),
            microseconds(sum.predicted_seconds),
            percent(sum.predicted_seconds / all.predicted_seconds),
            bound.to_owned(),
            percent(sum.tensor_core_flops / sum.flops),
            percent(sum.tensor_core_seconds / sum.predicted_seconds),
        ]
    };
    let (shown, small): (Vec<&OfKernel>, Vec<&OfKernel>) =
        found.iter().partition(|kernel| kernel.sum.predicted_seconds >= LEAST_SHARE * all.predicted_seconds);
    for kernel in &shown {
        let waves = kernel.first.waves.map_or("–".to_owned(), short);
        let mut cells = vec![kernel.runs.to_string(), thousands(kernel.first.blocks as u64), waves];
        cells.extend(amounts(&kernel.sum, kernel.first.bound));
        cells.push(kernel.first.kernel.clone());
        rows.push(cells);
    }
    let runs = |kernels: &[&OfKernel]| kernels.iter().map(|kernel| kernel.runs).sum::<usize>();
    if !small.is_empty() {
        let sum = small.iter().fold(Sum::default(), |sum, kernel| sum.plus(kernel.sum, 1.0));
        let mut cells = vec![runs(&small).to_string(), String::new(), String::new()];
        cells.extend(amounts(&sum, ""));
        cells.push(format!("{} kernels below {}% each", small.len(), 100.0 * LEAST_SHARE));
        rows.push(cells);
    }
    let mut cells = vec![(runs(&shown) + runs(&small)).to_string(), String::new(), String::new()];
    cells.extend(amounts(&all, ""));
    let copies = if entry.copy_seconds > 0.0 { ", with copies" } else { "" };
    cells.push(format!("all {} kernels{copies}", found.len()));
    rows.push(cells);
    columns(&rows)
}

fn totals(costs: &Costs) -> String {
    let currency = costs.totals.iter().find_map(|total| total.currency.clone());
    let mut header = row(&["roofline", "predicted", "tokens/s", "of peak"]);
    header.extend(currency.map(|currency| format!("{currency}/M tokens")));
    header.extend(row(&[""]));
    let mut rows = vec![header];
    for total in &costs.totals {
        let mut cells = vec![
            format!("{} ms", short(total.sum.roofline_seconds * 1e3)),
            format!("{} ms", short(total.sum.predicted_seconds * 1e3)),
            short(total.tokens_per_second),
            percent(total.share_of_peak),
        ];
        cells.extend(total.price_per_million_tokens.map(short));
        cells.push(total.what.clone());
        rows.push(cells);
    }
    columns(&rows)
}

/// What the figures mean, a line each.
fn notes(costs: &Costs) -> Vec<String> {
    let mut notes = vec![
        "Nothing was run. Roofline: for each launch the slowest of tensor cores, other units and memory at the published \
         peaks. Predicted: with launches, waves and the shares of peaks that the best published kernels reach \
         (docs/costs.md). What these very kernels take, only a GPU can tell."
            .to_owned(),
        "In loop: tensor-core instructions over all instructions of a kernel's main loop. Blocks and waves are of one launch; all other figures of all launches of a kernel in a run. Tensor FLOPs and time: \
         the part of FLOPs that tensor cores do, and the part of the predicted time in which they work at their peak."
            .to_owned(),
    ];
    let on_tensor_cores = costs.entries.iter().any(|entry| entry.sum.tensor_core_flops > 0.0);
    if !on_tensor_cores {
        notes.push(
            "No product is for tensor cores, since the model computes in f32: --set model.dtype=bf16 changes that."
                .to_owned(),
        );
    }
    if !costs.machine.unmeasured.is_empty() {
        let keys: Vec<&str> = costs.machine.unmeasured.keys().map(String::as_str).collect();
        notes.push(format!("{}: assumed, not seen: {}", costs.machine.name, keys.join(", ")));
    }
    notes
}
