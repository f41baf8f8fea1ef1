//! How fast a machine does each kind of work: peaks, shares of the peak by shape, bandwidths, overheads, price.
//! The same description serves machines that were measured and machines known from a data sheet.
//! It must not know where the figures come from, nor what they will be used for.

use crate::work::{Direction, ScalarOps};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A machine about which everything is known that a prediction needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name by which a user picks it.
    pub name: String,
    /// What computes.
    pub kind: Kind,
    /// Main memory that one program may use (of one GPU, of one host).
    pub memory_bytes: f64,
    /// What an hour of it costs, where that is known.
    pub price: Option<Price>,
    /// Links to other machines of its kind, where it has them.
    pub network: Option<Network>,
    /// Speeds.
    pub rates: Rates,
    /// Which of its figures nothing backs, see [`crate::target::Target::unmeasured`]. Empty for a machine that
    /// was measured.
    #[serde(default)]
    pub unmeasured: BTreeMap<String, String>,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Host processors; a thread is a core.
    Cpu,
    /// One GPU; a thread is a streaming multiprocessor.
    Gpu,
}

/// Type in which factors are multiplied, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 4-bit floating point with block scales.
    Fp4,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// bfloat16 factors, 32-bit sums.
    Bf16,
    /// 32-bit floating point.
    F32,
}

/// Speeds of a machine, per thread where so named, with all threads busy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Threads that compute at once: cores used, or streaming multiprocessors.
    pub threads: usize,
    /// Seconds from asking for a kernel to its first instruction.
    pub launch_seconds: f64,
    /// Seconds for all threads to meet at the end of a kernel.
    pub barrier_seconds: f64,
    /// Peak of multiply-adds by precision of the factors. `f32` is always there.
    pub peak_flops_per_second_per_thread: BTreeMap<Precision, f64>,
    /// Pointwise operations a second.
    pub scalar_per_second_per_thread: ScalarOps,
    /// Share of the peak that the microkernel reaches on data at hand, by shape.
    pub dot_shares: Vec<DotShare>,
    /// Memory levels, nearest first; the last is main memory.
    pub levels: Vec<MemoryLevel>,
    /// What only a GPU has, see [`Rates::gpu_rates`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRates>,
}

/// What kernels reach of a GPU's memory, and fixed times of blocks on its multiprocessors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuRates {
    /// Share of the rate of main memory that kernels reach, between 0 and 1.
    pub share_of_memory_rate: f64,
    /// Seconds of a tile of a contraction beside its multiply-adds: to fill the first stage and to store.
    pub tile_seconds: f64,
    /// Seconds of a block that walks over a sequence, beside what it computes: its chain of first loads,
    /// reductions and barriers.
    pub stream_block_seconds: f64,
}

/// Share of the peak that a contraction with so many rows and such a depth reaches, its operands cached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DotShare {
    /// Rows that share one pass over the streamed operand.
    pub rows: f64,
    /// Length of the sum.
    pub depth: f64,
    /// Between 0 and 1.
    pub share_of_peak: f64,
}

/// A cache or main memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryLevel {
    /// `L1`, `L2`, `L3`, `DRAM`, `HBM`.
    pub name: String,
    /// Bytes that it holds, in one instance of it.
    pub capacity_bytes: f64,
    /// Whether all threads share one instance; otherwise each has its own.
    pub shared: bool,
    /// Rate of reading data that lies here, passage through the nearer levels included.
    pub read: Bandwidth,
    /// The same for writing.
    pub write: Bandwidth,
}

/// Bytes a second, over all the threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// With one thread running alone.
    pub one_thread_bytes_per_second: f64,
    /// With all threads running.
    pub all_threads_bytes_per_second: f64,
}

/// Rental or calculated price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// ISO 4217 code.
    pub currency: String,
    /// For the whole machine described (one GPU with its share of the host, or one host).
    pub per_hour: f64,
    /// `on-demand`, `spot`, `assumed`…
    pub basis: String,
    /// When it was seen.
    pub as_of: String,
    /// Where it was seen.
    pub source: String,
}

/// Links of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// To the others in the same box or rack, each direction; absent where there is no such link.
    pub scale_up_bytes_per_second: Option<f64>,
    /// To other boxes, each direction.
    pub scale_out_bytes_per_second: f64,
}

impl Machine {
    /// Peak of the whole machine at a precision, see [`Rates::peak_flops_per_second_per_thread`].
    pub fn peak_flops_per_second(&self, precision: Precision) -> f64 {
        self.rates.peak_per_thread(precision) * self.rates.threads as f64
    }
}

impl Precision {
    /// Bytes of a factor; half a byte for 4 bits.
    pub fn bytes(self) -> f64 {
        match self {
            Precision::Fp4 => 0.5,
            Precision::Fp8 | Precision::Int8 => 1.0,
            Precision::Bf16 => 2.0,
            Precision::F32 => 4.0,
        }
    }
}

impl Rates {
    /// What only a GPU has; all of the memory's rate and no fixed times where nothing is said.
    pub fn gpu_rates(&self) -> GpuRates {
        let ideal = GpuRates { share_of_memory_rate: 1.0, tile_seconds: 0.0, stream_block_seconds: 0.0 };
        self.gpu.unwrap_or(ideal)
    }

    /// Peak at a precision; one that the machine does not have is computed in the next wider that it has.
    pub fn peak_per_thread(&self, precision: Precision) -> f64 {
        let peaks = &self.peak_flops_per_second_per_thread;
        peaks.range(precision..).next().or_else(|| peaks.iter().next_back()).map_or(0.0, |(_, peak)| *peak)
    }

    /// Share of the peak for a contraction with so many rows and such a depth: interpolated in the logarithm
    /// of both between the shapes that are known, and held constant beyond them.
    pub fn dot_share(&self, rows: f64, depth: f64) -> f64 {
        let mut known_rows: Vec<f64> = self.dot_shares.iter().map(|share| share.rows).collect();
        known_rows.sort_by(f64::total_cmp);
        known_rows.dedup();
        let per_rows = known_rows.iter().map(|&rows| {
            let of_rows = self.dot_shares.iter().filter(|share| share.rows == rows);
            let mut points: Vec<_> = of_rows.map(|share| (share.depth, share.share_of_peak)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            (rows, interpolate(&points, depth))
        });
        interpolate(&per_rows.collect::<Vec<_>>(), rows)
    }

    /// The nearest level that holds so many bytes; main memory if none does.
    pub fn level_holding(&self, bytes_of_one_thread: f64, bytes_of_all: f64) -> usize {
        let holds = |level: &MemoryLevel| {
            level.capacity_bytes >= if level.shared { bytes_of_all } else { bytes_of_one_thread }
        };
        self.levels.iter().position(holds).unwrap_or(self.levels.len() - 1)
    }
}

impl MemoryLevel {
    /// Bytes a second that `threads` threads get together, at least one and at most `all` of them. An update
    /// in place takes the time of reading and of writing.
    pub fn bytes_per_second(&self, direction: Direction, threads: usize, all: usize) -> f64 {
        let (read, write) = (self.read.of_threads(threads, all), self.write.of_threads(threads, all));
        match direction {
            Direction::Read => read,
            Direction::Write => write,
            Direction::Update => 1.0 / (1.0 / read + 1.0 / write),
        }
    }
}

impl Bandwidth {
    /// What so many of all threads get together: each adds what one gets alone, until there is no more.
    fn of_threads(&self, threads: usize, all: usize) -> f64 {
        if threads >= all {
            return self.all_threads_bytes_per_second;
        }
        let alone = self.one_thread_bytes_per_second;
        (alone * threads.max(1) as f64).min(self.all_threads_bytes_per_second.max(alone))
    }
}

/// Piecewise linear in ln(x); `points` are sorted by x, which is positive. No points: 1.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 1.0 };
    if x <= first.0 {
        return first.1;
    }
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if x <= x1 {
            return y0 + (y1 - y0) * (x / x0).ln() / (x1 / x0).ln();
        }
    }
    last.1
}
