//! What PyTorch does in place of a kernel: products through cuBLAS, attention through its fused kernels. Which, and of what
//! sizes, follows from the kernel's work; the times come from `benches/peers/gpu_torch.py`. It runs nothing.

use super::{Contender, Job, Sizes};
use crate::bench::profile::compiled;
use crate::failure::{Failure, Result, file_failure};
use diptych_codegen::entry::{CompiledEntry, Launch};
use diptych_cost::launch::{Contraction, Stream};
use diptych_cost::{Machine, Precision, RunSizes, Whole, whole_work};
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

/// What PyTorch would do in place of a launch, each with the part of it that the launch does; none where it has no kernel
/// of its own for it.
pub fn of_launch(entry: &CompiledEntry, launch: &Launch, run: &RunSizes) -> Vec<Peer> {
    let whole = whole_work(&entry.programs[launch.kernel], launch, run);
    let products =
        whole.contractions.iter().filter(|each| !each.streamed && each.precision <= Precision::F32);
    let mut peers: Vec<Peer> = products.map(product).collect();
    peers.extend(whole.stream.as_ref().and_then(|stream| attention(&whole, stream)));
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

/// Attention from its products: two going forward (scores, and the weighted sum of values), more in the gradient.
fn attention(whole: &Whole, stream: &Stream) -> Option<Peer> {
    let streamed: Vec<&Contraction> = whole.contractions.iter().filter(|each| each.streamed).collect();
    // The width of heads is what is summed for scores, and the columns of what is summed over positions.
    let scores = streamed.iter().min_by(|a, b| a.depth.total_cmp(&b.depth))?;
    let values = streamed.iter().min_by(|a, b| a.columns.total_cmp(&b.columns))?;
    let size = |size: f64| size.round().max(1.0) as u64;
    let batch = stream.held.len().max(1);
    let held = stream.held.iter().sum::<f64>() / batch as f64;
    let backward = streamed.len() > 2;
    // Where keys are held and queries stream past, there are as many of both.
    let queries = if backward { held.max(stream.longest) } else { held };
    Some(Peer::Attention {
        batch: batch as u64,
        heads: size(stream.heads * stream.rows_per_position),
        key_value_heads: size(stream.heads),
        queries: size(queries),
        keys: size(stream.longest),
        key_dim: size(scores.depth),
        value_dim: size(values.columns),
        dtype: dtype(scores.precision),
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
