//! What PyTorch does in place of a kernel: products through cuBLAS, attention through its fused kernels. Which, and of what
//! sizes, follows from the kernel's work; the times come from `benches/peers/gpu_torch.py`. It runs nothing.

use super::{Contender, Job, Sizes};
use crate::bench::profile::compiled;
use crate::failure::{Failure, Result, file_failure};
use diptych_codegen::entry::{CompiledEntry, Launch};
use diptych_cost::launch::{Contraction, Stream};
use diptych_cost::{Machine, Precision, RunSizes, Whole, whole_work};
use diptych_ir::{NodeId, Op, Program, ReduceKind};
use diptych_passes::layout::Leading;
use diptych_runtime::session::Device;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Something that PyTorch can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Peer {
    /// `matmul`: of so many independent products, rows × depth with depth × columns.
    Product {
        /// Independent products.
        batch: u64,
        /// Rows.
        rows: u64,
        /// Columns.
        columns: u64,
        /// Length of each sum.
        depth: u64,
        /// Type of the factors.
        dtype: &'static str,
    },
    /// `scaled_dot_product_attention`, causal, the queries being the last positions.
    Attention {
        /// Sequences.
        batch: u64,
        /// Query heads.
        heads: u64,
        /// Key and value heads.
        key_value_heads: u64,
        /// Queries of each sequence.
        queries: u64,
        /// Positions that the last of them sees.
        keys: u64,
        /// Width of a head in scores.
        key_dim: u64,
        /// Width of a head in the weighted sum.
        value_dim: u64,
        /// Type of queries, keys and values.
        dtype: &'static str,
        /// Whether it is the gradient's part alone.
        backward: bool,
    },
}

impl Peer {
    /// By which a time is found again.
    pub fn key(&self) -> String {
        match self {
            Peer::Product { batch, rows, columns, depth, dtype } => {
                format!("product {batch} {rows} {columns} {depth} {dtype}")
            }
            Peer::Attention {
                batch,
                heads,
                key_value_heads,
                queries,
                keys,
                key_dim,
                value_dim,
                dtype,
                backward,
            } => {
                let way = if *backward { "backward" } else { "forward" };
                format!(
                    "attention {way} {batch} {heads} {key_value_heads} {queries} {keys} {key_dim} {value_dim} {dtype}"
                )
            }
        }
    }
}

/// What PyTorch would do in place of a launch of an entry of this program; nothing where it has no kernel of its own for it.
pub fn of_launch(program: &Program, entry: &CompiledEntry, launch: &Launch, run: &RunSizes) -> Vec<Peer> {
    let whole = whole_work(&entry.programs[launch.kernel], launch, run);
    let products = whole.contractions.iter().filter(|each| !each.streamed && each.depth > 1.0);
    let mut peers: Vec<Peer> = products.map(product).collect();
    if let Some(stream) = &whole.stream {
        let graph = &program.region(launch.region).graph;
        let largest = |&node: &NodeId| match graph.contains(node).then(|| graph.op(node)) {
            Some(Op::Reduce(reduce)) => reduce.kind == ReduceKind::Max,
            _ => false,
        };
        // The gradient takes the sums that going forward has found.
        let backward = entry.kind.trains() && !launch.nodes.iter().any(largest);
        peers.extend(attention(&whole, stream, run, &row_widths(entry, launch), backward));
    }
    peers
}

fn dtype(precision: Precision) -> &'static str {
    if precision < Precision::F32 { "bfloat16" } else { "float32" }
}

fn product(work: &Contraction) -> Peer {
    let size = |size: f64| size.round().max(1.0) as u64;
    Peer::Product {
        batch: size(work.batch),
        rows: size(work.rows),
        columns: size(work.columns),
        depth: size(work.depth),
        dtype: dtype(work.precision),
    }
}

/// Elements of a row of each argument that has a row for each token or position.
fn row_widths(entry: &CompiledEntry, launch: &Launch) -> Vec<usize> {
    let layouts = launch.args.iter().map(|arg| &entry.buffers[arg.buffer].layout);
    let of_rows = layouts.filter(|layout| matches!(layout.leading(), Leading::Rows | Leading::Past));
    of_rows.map(|layout| layout.row_elements(entry.panel)).collect()
}

/// Attention from its products: scores, whose sums are along a head, and those whose sums are along positions. How many
/// heads there are is told by the widths of its arguments: queries have the most, keys the fewest.
fn attention(
    whole: &Whole,
    stream: &Stream,
    run: &RunSizes,
    row_widths: &[usize],
    backward: bool,
) -> Option<Peer> {
    let positions: usize = run.sequences.iter().map(|sequence| sequence.origin + sequence.length).sum();
    let along_positions =
        |each: &&Contraction| each.depth == positions as f64 || each.depth == run.rows() as f64;
    let (sums, scores): (Vec<&Contraction>, Vec<&Contraction>) =
        whole.contractions.iter().filter(|each| each.streamed).partition(along_positions);
    // A head may be summed in pieces, such as those that are rotated.
    let depth: f64 = scores.iter().map(|each| each.depth).sum();
    let size = |size: f64| size.round().max(1.0) as u64;
    let (key_dim, value_dim) = match backward {
        // Scores, and the gradient of what they weigh.
        true => (size(depth / 2.0), size(depth / 2.0)),
        false => (size(depth), size(sums.iter().map(|each| each.columns).sum())),
    };
    let widths = row_widths.iter().map(|&width| width as u64).filter(|width| width.is_multiple_of(key_dim));
    let heads: Vec<u64> = widths.map(|width| width / key_dim).filter(|&heads| heads > 0).collect();
    let fewest = heads.iter().copied().min()?;
    // Keys whose heads are summed in pieces may be stored in as many, and values are not.
    let pieces = if backward { scores.len().saturating_sub(1) } else { scores.len() };
    let whole_heads = fewest * pieces.max(1) as u64;
    let key_value_heads = if heads.contains(&whole_heads) { whole_heads } else { fewest };
    let batch = stream.held.len().max(1);
    let held = stream.held.iter().sum::<f64>() / batch as f64;
    Some(Peer::Attention {
        batch: batch as u64,
        heads: heads.iter().copied().max()?.max(size(stream.heads * stream.rows_per_position)),
        key_value_heads,
        // Where keys are held and queries stream past, there are as many of both.
        queries: size(if backward { held.max(stream.longest) } else { held }),
        keys: size(stream.longest),
        key_dim,
        value_dim,
        dtype: dtype(scores.first()?.precision),
        backward,
    })
}

/// All that PyTorch is to time, for `gpu_torch.py`.
///
/// # Errors
/// When a model cannot be compiled.
pub fn shapes(
    device: &Device,
    machine: &Machine,
    works: &[(Contender, Job, Sizes)],
) -> Result<Vec<serde_json::Value>> {
    let mut found: BTreeMap<String, Peer> = BTreeMap::new();
    for (contender, job, sizes) in works {
        for entry in compiled(device, machine, contender, *job, sizes)? {
            let peers = entry.into_iter().flat_map(|launch| launch.peers);
            found.extend(peers.map(|peer| (peer.key(), peer)));
        }
    }
    let with_key = |(key, peer): (String, Peer)| {
        let mut value = serde_json::to_value(peer)?;
        value["key"] = key.into();
        Ok(value)
    };
    found.into_iter().map(with_key).collect()
}

/// What PyTorch took.
#[derive(Default, Deserialize)]
pub struct PeerTimes {
    /// What was timed with, or why nothing was.
    pub about: String,
    /// Seconds by the key of what was done.
    #[serde(default)]
    seconds: BTreeMap<String, f64>,
}

impl PeerTimes {
    /// Reads what `gpu_torch.py` wrote; no times without a file.
    ///
    /// # Errors
    /// When the file is none of its.
    pub fn read(path: Option<&Path>) -> Result<PeerTimes> {
        let Some(path) = path else {
            let about = "not timed: no --peer-times".to_owned();
            return Ok(PeerTimes { about, ..PeerTimes::default() });
        };
        let text = std::fs::read_to_string(path).map_err(file_failure("read", path))?;
        serde_json::from_str(&text).map_err(|error| {
            Failure(format!("{}: it is not what benches/peers/gpu_torch.py writes: {error}", path.display()))
        })
    }

    /// Seconds of all of these, each so many times; `None` where there are none, or one was not timed.
    pub fn of(&self, peers: &[(Peer, f64)]) -> Option<f64> {
        let seconds = peers.iter().map(|(peer, times)| Some(times * self.seconds.get(&peer.key())?));
        seconds.sum::<Option<f64>>().filter(|_| !peers.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_codegen::cuda::Architecture;
    use diptych_codegen::driver::compile_program;
    use diptych_codegen::entry::EntryOptions;
    use diptych_ir::EntryKind;
    use diptych_models::{Registry, build};
    use diptych_passes::AdamWOptions;

    /// The keys of what PyTorch would do in place of an entry of a small Llama with 4 heads on 2.
    fn keys(kind: EntryKind, run: &RunSizes) -> Vec<String> {
        let llama = crate::bench::kernels::changed(
            &Registry::zoo(),
            "llama-tiny",
            serde_json::json!({ "dtype": "bf16", "head_dim": 16, "context": 128, "vocab": 512 }),
        );
        let program = build(&*llama.unwrap_or_else(|failure| panic!("{}", failure.0))).unwrap();
        let options = EntryOptions::cuda(Architecture::Sm90a);
        let compiled = compile_program(&program, &[kind], &AdamWOptions::default(), options).unwrap();
        let entry = &compiled.entries[&kind];
        let launches = entry.launches().into_iter();
        let mut keys: Vec<String> = launches
            .flat_map(|launch| of_launch(compiled.program_of(kind), entry, launch, run))
            .map(|peer| peer.key())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    #[test]
    fn products_and_attention_have_the_sizes_of_the_model() {
        let scored = keys(EntryKind::Score, &RunSizes::equal(2, 0, 96));
        for key in [
            "attention forward 2 4 2 96 96 16 16 bfloat16",
            "product 1 192 64 24 bfloat16",
            "product 1 192 40 24 bfloat16",
            "product 1 192 512 24 bfloat16",
        ] {
            assert!(scored.iter().any(|found| found == key), "no `{key}` in {scored:?}");
        }
        let decoded = keys(EntryKind::Decode, &RunSizes::equal(3, 100, 1));
        assert!(
            decoded.iter().any(|key| key == "attention forward 3 4 2 1 101 16 16 bfloat16"),
            "{decoded:?}"
        );
        let trained = keys(EntryKind::Train, &RunSizes::equal(2, 0, 96));
        let backward: Vec<&String> = trained.iter().filter(|key| key.contains("backward")).collect();
        assert_eq!(backward, ["attention backward 2 4 2 96 96 16 16 bfloat16"]);
        // The gradient of a weight sums over tokens.
        let gradients = ["product 1 40 24 192 bfloat16", "product 1 24 40 192 bfloat16"];
        assert!(trained.iter().any(|key| gradients.contains(&key.as_str())), "{trained:?}");
    }

    #[test]
    fn times_are_those_of_all_of_a_kernel_s_products() {
        let product = |rows| Peer::Product { batch: 1, rows, columns: 2, depth: 3, dtype: "bfloat16" };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("times.json");
        std::fs::write(&file, r#"{"about": "a peer", "seconds": {"product 1 4 2 3 bfloat16": 0.5}}"#)
            .unwrap();
        let times = PeerTimes::read(Some(&file)).unwrap_or_else(|failure| panic!("{}", failure.0));
        assert_eq!(times.of(&[(product(4), 3.0)]), Some(1.5));
        assert_eq!(times.of(&[(product(4), 3.0), (product(5), 1.0)]), None, "one was not timed");
        assert_eq!(times.of(&[]), None);
        std::fs::write(&file, "[]").unwrap();
        assert!(PeerTimes::read(Some(&file)).is_err_and(|failure| failure.0.contains("gpu_torch.py writes")));
        assert!(PeerTimes::read(None).is_ok_and(|times| times.about.contains("no --peer-times")));
    }
}
