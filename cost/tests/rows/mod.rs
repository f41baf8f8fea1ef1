//! Published kernel times beside predicted ones: what a row says, as a program that is compiled and predicted the
//! same way as models are. Rows are read where they lie; none is kept here.

#![allow(dead_code, reason = "the test and the example use different parts")]

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{CompiledEntry, EntryOptions};
use diptych_cost::{Machine, RunSizes, Target, predict_entry};
use diptych_ir::{DType, Entry, EntryKind, NodeId, Op, Program};
use diptych_models::{ModelBuilder, Rope, Tensor};
use diptych_passes::AdamWOptions;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where the published rows lie, beside the checkout; `None` where they are not.
pub fn folder() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/published");
    let beside_main = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/published");
    [path, beside_main].into_iter().find(|path| path.is_dir())
}

/// A row of a table, by column.
pub type Row = HashMap<String, String>;

/// The rows of a table whose cells hold no commas.
pub fn rows(file: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let names = lines.next().unwrap_or_default();
    lines.map(|cells| names.iter().cloned().zip(cells).collect()).collect()
}

/// The rows of a table whose cells may stand in quotes.
pub fn quoted_rows(file: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines = text.lines().map(cells);
    let names = lines.next().unwrap_or_default();
    lines.map(|cells| names.iter().cloned().zip(cells).collect()).collect()
}

fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            letter => cells.iter_mut().next_back().into_iter().for_each(|cell| cell.push(letter)),
        }
    }
    cells
}

/// A number of a row.
pub fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("`{column}` is `{}`, no number", row[column]))
}

/// A measured kernel, compiled.
#[derive(Clone, Debug)]
pub struct Case {
    /// `GEMM`, `attention of a prompt`, `attention of a token`.
    pub kind: &'static str,
    /// The table.
    pub source: &'static str,
    /// The target.
    pub target: &'static str,
    /// Shape, for the reader.
    pub shape: String,
    /// Whether the target's figures were fitted to rows of its kind.
    pub fitted: bool,
    /// Seconds.
    pub measured: f64,
    /// Seconds that the bytes of the row take at the vendor's peak: nothing that reads them all takes less.
    pub least: f64,
    entry: Rc<CompiledEntry>,
    run: RunSizes,
}

impl Case {
    /// With what a machine is predicted to take.
    pub fn beside(&self, machine: &Machine) -> Pair<'_> {
        Pair {
            case: self,
            predicted: predict_entry(&self.entry, machine, machine.rates.threads, &self.run).seconds(),
        }
    }
}

/// A measured kernel and what is predicted for it.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// What was measured.
    pub case: &'a Case,
    /// Seconds.
    pub predicted: f64,
}

impl Pair<'_> {
    /// predicted / measured.
    pub fn ratio(&self) -> f64 {
        self.predicted / self.case.measured
    }

    /// |predicted / measured - 1|.
    pub fn error(&self) -> f64 {
        (self.ratio() - 1.0).abs()
    }
}

/// The middle of some numbers; not a number where there is none.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A machine described in a file.
pub fn machine(target: &str) -> Machine {
    Target::load(target).unwrap().into_machine(None).unwrap()
}

/// The entry `kind` of a definition that ends in a value `y`: the operand of the merge that makes logits of it.
fn compile(kind: EntryKind, define: impl FnOnce(&ModelBuilder) -> Tensor<'_>) -> CompiledEntry {
    let mut program = ModelBuilder::new("kernel", 1 << 20).finish(define).unwrap();
    let y = value_of_logits(&program);
    program.entries = vec![Entry { kind, roots: vec![("y".into(), y)], updates: Vec::new() }];
    // Not divided for threads: these machines cut kernels their own way.
    let options = EntryOptions::new(32, 144, 1);
    let compiled = compile_program(&program, &[kind], &AdamWOptions::default(), options).unwrap();
    compiled.entries[&kind].clone()
}

/// The operand of the only merge without the axis of tokens split off.
fn value_of_logits(program: &Program) -> NodeId {
    let graph = &program.main().graph;
    let merge = graph
        .ids()
        .into_iter()
        .find(|&id| matches!(graph.op(id), Op::Cast(_)) && graph.node(id).label == Some("y".into()));
    merge.expect("the definition labels its result")
}

/// `x[rows, k] · w[k, n]`, factors and result in bf16.
pub fn product(n: usize, k: usize) -> CompiledEntry {
    compile(EntryKind::Score, |m| {
        m.compute_in(DType::BF16);
        let (from, to) = (m.axis("k", k), m.axis("n", n));
        let x = m.input("x", DType::BF16, [m.batch(), m.time(), from]);
        m.linear("w", x, from, to).label("y".into()).cast(DType::F32)
    })
}

/// Attention as an engine's operator has it: queries and keys rotated, keys and values stored, scores never.
pub fn attention(kind: EntryKind, heads: usize, key_value_heads: usize, head_dim: usize) -> CompiledEntry {
    compile(kind, |m| {
        let kv_head = m.axis("kv_head", key_value_heads);
        let group = m.axis("group", heads / key_value_heads);
        let dim = m.axis("head_dim", head_dim);
        let rows = [m.batch(), m.time()];
        let q = m.input("q", DType::BF16, [rows[0], rows[1], kv_head, group, dim]);
        let k = m.input("k", DType::BF16, [rows[0], rows[1], kv_head, dim]);
        let v = m.input("v", DType::BF16, [rows[0], rows[1], kv_head, dim]);
        let rope = m.rotary_table(dim, &Rope { theta: 10000.0, scaling: Default::default() });
        let k = k.rotary(dim, &rope).history();
        let scores = (q.rotary(dim, &rope).dot(k, dim) * (head_dim as f64).powf(-0.5)).causal();
        let seen = scores.softmax(m.past()).dot(v.history(), m.past()).cast(DType::BF16).label("y".into());
        seen.merge([kv_head, group, dim], m.axis("out", heads * head_dim)).cast(DType::F32)
    })
}

/// Rows of aiconfigurator whose matrices have this parity were fitted to, the others were not.
fn fitted_product(n: f64, k: f64) -> bool {
    (((n + k) / 1024.0) as u64).is_multiple_of(2)
}

/// The same for attention: by batch and heads, which are powers of two.
fn fitted_attention(batch: f64, heads: f64) -> bool {
    (batch.log2() + heads.log2()).round() as i64 % 2 == 0
}

const SYSTEMS: [(&str, &str); 2] = [("a100_sxm", "a100-80gb-sxm"), ("h100_sxm", "h100-sxm")];

/// Vendor's peak of memory, bytes/s: d_hardware/hardware_specs.csv.
fn peak_bytes_per_second(target: &str) -> f64 {
    if target.starts_with("a100") { 2.039e12 } else { 3.35e12 }
}

/// All published products in bf16, of aiconfigurator and of Vidur.
pub fn products(folder: &Path) -> Vec<Case> {
    let mut compiled: HashMap<(usize, usize), Rc<CompiledEntry>> = HashMap::new();
    let mut cases = Vec::new();
    let mut add = |source, target: &'static str, (m, n, k): (f64, f64, f64), measured: f64, fitted| {
        let entry = compiled
            .entry((n as usize, k as usize))
            .or_insert_with(|| Rc::new(product(n as usize, k as usize)));
        let run = RunSizes::equal(1, 0, m as usize);
        let least = 2.0 * (m * k + k * n + m * n) / peak_bytes_per_second(target);
        let shape = format!("{m} x {n} x {k}");
        cases.push(Case {
            kind: "GEMM",
            source,
            target,
            shape,
            fitted,
            measured,
            least,
            entry: entry.clone(),
            run,
        });
    };
    for row in rows(&folder.join("b_kernels/aiconfigurator_gemm.csv")) {
        let system = SYSTEMS.iter().find(|system| system.0 == row["system"]);
        let (m, n, k) = (number(&row, "m"), number(&row, "n"), number(&row, "k"));
        if let (Some((_, target)), "bfloat16", true) = (system, row["gemm_dtype"].as_str(), m > 0.0) {
            let seconds = number(&row, "latency_ms") * 1e-3;
            add("aiconfigurator", target, (m, n, k), seconds, fitted_product(n, k));
        }
    }
    for row in rows(&folder.join("b_kernels/vidur_linear_ops.csv")) {
        let target = if row["device"] == "a100" { "a100-80gb-sxm" } else { "h100-sxm" };
        let [m, embed, hidden, heads, kv, tp] =
            ["num_tokens", "n_embd", "n_ffn", "n_head", "n_kv_head", "tp"].map(|column| number(&row, column));
        let gates = if number(&row, "gated_mlp") > 0.0 { 2.0 } else { 1.0 };
        let head = embed / heads;
        let of_head = (heads + 2.0 * kv) * head / tp;
        for (column, n, k) in [
            ("attn_pre_proj_ms", of_head, embed),
            ("attn_post_proj_ms", embed, embed / tp),
            ("mlp_up_proj_ms", gates * hidden / tp, embed),
            ("mlp_down_proj_ms", embed, hidden / tp),
        ] {
            // Times are rounded to a microsecond or half of one: what is as short says little.
            if let Ok(ms) = row[column].parse::<f64>()
                && ms >= 0.005
            {
                add("Vidur", target, (m, n, k), ms * 1e-3, false);
            }
        }
    }
    cases
}

/// All published attention in bf16, of aiconfigurator (an engine's operator) and of Vidur (the kernel alone).
pub fn attentions(folder: &Path) -> Vec<Case> {
    let mut compiled: HashMap<(EntryKind, usize, usize), Rc<CompiledEntry>> = HashMap::new();
    let mut cases = Vec::new();
    for row in rows(&folder.join("b_kernels/aiconfigurator_attention.csv")) {
        let system = SYSTEMS.iter().find(|system| system.0 == row["system"]);
        let narrow = row["attn_dtype"] == "bfloat16" && row["kv_dtype"] == "bfloat16";
        let (Some((_, target)), true) = (system, narrow) else { continue };
        let [batch, length, heads, kv, past, dim] =
            ["batch", "isl", "n_q_heads", "n_kv_heads", "kv_len", "head_dim"].map(|name| number(&row, name));
        let prompt = row["phase"] == "context";
        let (kind, run) = match prompt {
            true => (EntryKind::Prefill, RunSizes::equal(batch as usize, 0, length as usize)),
            false => (EntryKind::Decode, RunSizes::equal(batch as usize, past as usize - 1, 1)),
        };
        let key = (kind, heads as usize, kv as usize);
        let entry =
            compiled.entry(key).or_insert_with(|| Rc::new(attention(kind, key.1, key.2, dim as usize)));
        let tokens = if prompt { length } else { 1.0 };
        cases.push(Case {
            kind: if prompt { "attention of a prompt" } else { "attention of a token" },
            source: "aiconfigurator",
            target,
            shape: format!("batch {batch}, {heads}/{kv} heads, {tokens} after {}", past - tokens),
            fitted: fitted_attention(batch, heads),
            measured: number(&row, "latency_ms") * 1e-3,
            entry: entry.clone(),
            run,
            least: batch * dim * 2.0 * (2.0 * kv * past + 2.0 * heads * tokens)
                / peak_bytes_per_second(target),
        });
    }
    for row in rows(&folder.join("b_kernels/vidur_attention_a100.csv")) {
        let [batch, chunk, past, heads, kv, tp] = [
            "batch_size",
            "prefill_chunk_size",
            "kv_cache_size",
            "n_q_head",
            "n_kv_head",
            "num_tensor_parallel_workers",
        ]
        .map(|name| number(&row, name));
        let prompt = row["is_prefill"] == "True";
        let (kind, tokens, column) = match prompt {
            true => (EntryKind::Prefill, chunk, "prefill_ms"),
            false => (EntryKind::Decode, 1.0, "decode_ms"),
        };
        // Times are rounded to a microsecond.
        let Some(ms) = row[column].parse::<f64>().ok().filter(|&ms| ms >= 0.005) else { continue };
        let key = (kind, (heads / tp) as usize, (kv / tp) as usize);
        let entry = compiled.entry(key).or_insert_with(|| Rc::new(attention(kind, key.1, key.2, 128)));
        let target = "a100-80gb-sxm";
        let run = RunSizes::equal(batch as usize, past as usize, tokens as usize);
        let all = past + tokens;
        cases.push(Case {
            kind: if prompt { "attention of a prompt" } else { "attention of a token" },
            source: "Vidur",
            target,
            shape: format!("batch {batch}, {}/{} heads, {tokens} after {past}", key.1, key.2),
            fitted: false,
            measured: ms * 1e-3,
            entry: entry.clone(),
            run,
            least: batch * 256.0 * (2.0 * key.2 as f64 * all + 2.0 * key.1 as f64 * tokens)
                / peak_bytes_per_second(target),
        });
    }
    cases
}
