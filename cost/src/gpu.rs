//! How long a launch takes on a GPU, which cuts it its own way: contractions into tiles for tensor cores, tiles
//! into waves over the multiprocessors, walks over a sequence into parts where there are too few of them. All
//! figures are the machine's ([`crate::machine::GpuRates`] and the rest of its rates); none is a kernel's.
//! It must not know where the work comes from.

use crate::launch::{Contraction, Stream, Whole};
use crate::machine::{GpuRates, Machine, Rates};
use crate::roofline::{Breakdown, Prediction};
use crate::work::{Direction, ScalarOps};

/// Tiles of a contraction, rows by columns: those that kernels for tensor cores come in.
const TILES: [(f64, f64); 12] = [
    (256.0, 128.0),
    (128.0, 256.0),
    (128.0, 128.0),
    (128.0, 64.0),
    (64.0, 128.0),
    (64.0, 64.0),
    (64.0, 256.0),
    (256.0, 64.0),
    (64.0, 32.0),
    (32.0, 64.0),
    (16.0, 64.0),
    (16.0, 128.0),
];
/// Into how many parts a sum may be cut to occupy more multiprocessors.
const SPLITS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
/// Depth of one step of a tile: parts of a sum are whole steps.
const DEPTH_STEP: f64 = 64.0;
/// Rows that a block of a walk over a sequence holds.
const STREAM_ROWS: [f64; 3] = [16.0, 64.0, 128.0];
/// Positions of a step of such a walk.
const STREAM_STEP: f64 = 64.0;
/// The most parts that a walk is cut into.
const STREAM_SPLITS: u32 = 8;

/// Predicts one launch; `launches` is 1, or 0 for one that shares its launch with another.
pub fn predict_launch(whole: &Whole, machine: &Machine, launches: f64) -> Prediction {
    let rates = &machine.rates;
    let gpu = rates.gpu_rates();
    let processors = rates.threads.max(1) as f64;
    let mut breakdown =
        Breakdown { overhead_seconds: launches * rates.launch_seconds, ..Breakdown::default() };
    breakdown.level_seconds = rates.levels.iter().map(|level| (level.name.clone(), 0.0)).collect();
    let mut bytes = (whole.read_bytes, whole.written_bytes);
    let mut chains = 0.0;
    for (contraction, columns) in side_by_side(&whole.contractions) {
        let (seconds, partial) = contraction_seconds(&contraction, columns, rates, &gpu);
        breakdown.dot_seconds += seconds;
        bytes = (bytes.0 + partial, bytes.1 + partial);
    }
    match &whole.stream {
        None => {
            let scalar = Pointwise::of(&whole.scalar, rates);
            breakdown.arithmetic_seconds = scalar.arithmetic / processors;
            breakdown.transcendental_seconds = scalar.functions / processors;
        }
        Some(stream) => {
            let walk = stream_seconds(whole, stream, rates, &gpu);
            breakdown.dot_seconds += walk.dot;
            breakdown.arithmetic_seconds = walk.scalar.arithmetic;
            breakdown.transcendental_seconds = walk.scalar.functions;
            breakdown.overhead_seconds += walk.launch;
            chains = walk.chains;
            bytes = (bytes.0 + walk.partial_bytes, bytes.1 + walk.partial_bytes);
        }
    }
    if let (Some(memory), Some(level)) = (breakdown.level_seconds.last_mut(), rates.levels.last()) {
        let all = rates.threads;
        let ideal = bytes.0 / level.bytes_per_second(Direction::Read, all, all)
            + bytes.1 / level.bytes_per_second(Direction::Write, all, all);
        memory.1 = ideal / gpu.share_of_memory_rate;
    }
    // Chains of blocks go on while others compute or load; only what is left of them adds to that.
    let busy = breakdown.compute_seconds().max(breakdown.memory_seconds());
    breakdown.overhead_seconds += (chains - busy).max(chains.min(gpu.stream_block_seconds));
    let seconds = busy + breakdown.overhead_seconds;
    Prediction { seconds, bound: breakdown.bound(), breakdown }
}

/// Contractions that are not part of a walk, those of the same rows and depth as one with all their columns:
/// queries, keys and values, or gate and up.
fn side_by_side(contractions: &[Contraction]) -> Vec<(Contraction, f64)> {
    let mut joined: Vec<(Contraction, f64)> = Vec::new();
    for contraction in contractions.iter().filter(|each| !each.streamed) {
        let key = |each: &Contraction| (each.batch, each.rows, each.depth, each.precision);
        match joined.iter_mut().find(|(known, _)| key(known) == key(contraction)) {
            Some((_, columns)) => *columns += contraction.columns,
            None => joined.push((*contraction, contraction.columns)),
        }
    }
    joined
}

/// Seconds of a contraction and the bytes of partial sums that are written and read again, under the best of the
/// tiles and cuts.
///
/// A wave is a tile on each multiprocessor; a tile takes what its multiply-adds take, or what its operands take
/// to come from the cache that all share, whichever is longer, and a fixed time to fill and to drain.
fn contraction_seconds(work: &Contraction, columns: f64, rates: &Rates, gpu: &GpuRates) -> (f64, f64) {
    let processors = rates.threads.max(1) as f64;
    let per_second = rates.peak_per_thread(work.precision) * rates.dot_share(work.rows, work.depth);
    let element_bytes = work.precision.bytes();
    let shared = shared_bytes_per_second(rates) / processors;
    let all_bytes_per_second = memory_bytes_per_second(rates);
    let mut best = (f64::INFINITY, 0.0);
    // What masks or ragged rows leave out is left out of every tile alike.
    let filled = work.flops / (2.0 * work.batch * work.rows * work.columns * work.depth).max(1.0);
    for (tile_rows, tile_columns) in TILES {
        let tiles = work.batch * (work.rows / tile_rows).ceil() * (columns / tile_columns).ceil();
        for split in SPLITS {
            let depth = (work.depth / split / DEPTH_STEP).ceil() * DEPTH_STEP;
            let multiply = 2.0 * tile_rows * tile_columns * depth / per_second;
            let load = (tile_rows + tile_columns) * depth * element_bytes / shared;
            let waves = (tiles * split / processors).ceil();
            let partial = if split > 1.0 { work.batch * work.rows * columns * 4.0 * split } else { 0.0 };
            let seconds = waves * (multiply.max(load) * filled.min(1.0) + gpu.tile_seconds);
            let total = seconds + 2.0 * partial / all_bytes_per_second;
            if total < best.0 + 2.0 * best.1 / all_bytes_per_second {
                best = (seconds, partial);
            }
        }
    }
    best
}

/// Seconds of one multiprocessor on pointwise operations.
#[derive(Clone, Copy, Default)]
struct Pointwise {
    arithmetic: f64,
    functions: f64,
}

impl Pointwise {
    fn of(ops: &ScalarOps, rates: &Rates) -> Pointwise {
        let per_second = &rates.scalar_per_second_per_thread;
        Pointwise {
            arithmetic: ops.arithmetic / per_second.arithmetic,
            functions: ops.divide / per_second.divide
                + ops.exponential / per_second.exponential
                + ops.logarithm / per_second.logarithm
                + ops.trigonometric / per_second.trigonometric,
        }
    }

    fn times(self, factor: f64) -> Pointwise {
        Pointwise { arithmetic: self.arithmetic * factor, functions: self.functions * factor }
    }
}

/// What a walk over sequences takes.
#[derive(Clone, Copy, Default)]
struct Walk {
    dot: f64,
    scalar: Pointwise,
    /// Of the launch that folds parts.
    launch: f64,
    /// Of the chains of blocks, one wave after the other.
    chains: f64,
    partial_bytes: f64,
}

impl Walk {
    fn seconds(&self, memory_bytes_per_second: f64) -> f64 {
        let bytes = 2.0 * self.partial_bytes / memory_bytes_per_second;
        let compute = self.dot + self.scalar.arithmetic + self.scalar.functions;
        compute.max(self.chains) + self.launch + bytes
    }
}

/// The best way to hold rows in blocks and to cut walks into parts.
///
/// A block takes the time of its multiply-adds and of its pointwise operations, which wait for each other, and no
/// less than a fixed time for its chain of loads, reductions and barriers. Blocks fall on multiprocessors in waves;
/// the longest is a bound from below. A walk in parts needs a second launch that folds them.
fn stream_seconds(whole: &Whole, stream: &Stream, rates: &Rates, gpu: &GpuRates) -> Walk {
    let processors = rates.threads.max(1) as f64;
    let streamed = whole.contractions.iter().filter(|each| each.streamed);
    let dot: f64 = streamed
        .map(|each| {
            each.flops / (rates.peak_per_thread(each.precision) * rates.dot_share(each.rows, each.depth))
        })
        .sum();
    let scalar = Pointwise::of(&whole.scalar, rates);
    let rows = |held: &f64| held * stream.rows_per_position;
    let all_rows: f64 = stream.held.iter().map(rows).sum();
    let memory = memory_bytes_per_second(rates);
    let mut best: Option<Walk> = None;
    for block_rows in STREAM_ROWS {
        let blocks_of_head: f64 = stream.held.iter().map(|held| (rows(held) / block_rows).ceil()).sum();
        // The matrix unit works on whole blocks of rows.
        let filled = blocks_of_head * block_rows / all_rows.max(1.0);
        let most_parts = (stream.longest / STREAM_STEP).ceil().max(1.0);
        for power in 0..=STREAM_SPLITS {
            let parts = f64::from(2u32.pow(power));
            if parts > most_parts {
                break;
            }
            let blocks = (stream.heads * blocks_of_head * parts).max(1.0);
            let waves = (blocks / processors).ceil();
            let of_blocks = dot * filled + scalar.arithmetic + scalar.functions;
            let longest = of_blocks / blocks * (stream.longest / stream.mean.max(1.0));
            let balanced = of_blocks / processors;
            let slower = balanced.max(longest) / balanced.max(f64::MIN_POSITIVE) / processors;
            let folds = if parts > 1.0 { 1.0 } else { 0.0 };
            let walk = Walk {
                dot: dot * filled * slower,
                scalar: scalar.times(slower),
                launch: folds * rates.launch_seconds,
                chains: waves * gpu.stream_block_seconds,
                partial_bytes: folds * parts * stream.carried_bytes,
            };
            if best.is_none_or(|best| walk.seconds(memory) < best.seconds(memory)) {
                best = Some(walk);
            }
        }
    }
    best.unwrap_or_default()
}

fn memory_bytes_per_second(rates: &Rates) -> f64 {
    let share = rates.gpu_rates().share_of_memory_rate;
    rates.levels.last().map_or(f64::INFINITY, |level| share * level.read.all_threads_bytes_per_second)
}

/// The rate of the farthest cache that all multiprocessors share; main memory's where there is none.
fn shared_bytes_per_second(rates: &Rates) -> f64 {
    let shared = rates.levels.iter().find(|level| level.shared);
    shared.map_or(f64::INFINITY, |level| level.read.all_threads_bytes_per_second)
}
