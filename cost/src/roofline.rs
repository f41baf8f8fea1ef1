//! How long a piece of work takes on a machine: the slower of computing and moving, plus starting and meeting.
//! Every parameter is a property of the machine; there is no factor for a kernel, so that what was measured on
//! some shapes says something about others. It must not know what the work is for.

use crate::machine::{Machine, Rates};
use crate::work::{Direction, Traffic, Work};

/// What limits a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Multiply-adds of contractions and pointwise arithmetic.
    Compute,
    /// Divisions, roots, exponentials, logarithms, sines.
    Transcendental,
    /// Moving bytes; the name of the level that takes longest.
    Memory(String),
    /// Launches and barriers.
    Launch,
}

/// A predicted time and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// What the time is mostly due to.
    pub bound: Bound,
    /// The parts. They overlap: see [`Breakdown`].
    pub breakdown: Breakdown,
}

/// Parts of a prediction, each in wall-clock seconds with the imbalance of instances over threads included.
/// `seconds = max(dot + arithmetic + transcendental, sum of levels) + overhead`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breakdown {
    /// Contractions.
    pub dot_seconds: f64,
    /// Pointwise arithmetic.
    pub arithmetic_seconds: f64,
    /// Divisions and functions.
    pub transcendental_seconds: f64,
    /// Each memory level's name and the time of the bytes that come from it, nearest first.
    pub level_seconds: Vec<(String, f64)>,
    /// Launches and barriers.
    pub overhead_seconds: f64,
}

impl Breakdown {
    /// Time of the vector units. Contractions, arithmetic and functions share the ports, so they add up.
    pub fn compute_seconds(&self) -> f64 {
        self.dot_seconds + self.arithmetic_seconds + self.transcendental_seconds
    }

    /// What the time is mostly due to.
    pub fn bound(&self) -> Bound {
        let (compute, memory) = (self.compute_seconds(), self.memory_seconds());
        if self.overhead_seconds >= compute.max(memory) {
            return Bound::Launch;
        }
        if compute >= memory {
            let arithmetic = self.dot_seconds + self.arithmetic_seconds;
            return if self.transcendental_seconds > arithmetic {
                Bound::Transcendental
            } else {
                Bound::Compute
            };
        }
        let slowest = self.level_seconds.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        slowest.map_or(Bound::Launch, |(name, _)| Bound::Memory(name.clone()))
    }

    /// Time of moving bytes. Each byte is charged once, to the level it comes from, whose rate includes the
    /// passage through nearer ones; a core that waits for one level asks another for little, so levels add up.
    pub fn memory_seconds(&self) -> f64 {
        self.level_seconds.iter().map(|(_, seconds)| seconds).sum()
    }
}

impl Breakdown {
    /// The parts of so many equal launches, one after the other.
    pub fn times(mut self, times: f64) -> Breakdown {
        self.dot_seconds *= times;
        self.arithmetic_seconds *= times;
        self.transcendental_seconds *= times;
        self.overhead_seconds *= times;
        self.level_seconds.iter_mut().for_each(|level| level.1 *= times);
        self
    }
}

/// The parts of launches that follow each other, on one machine.
impl std::ops::AddAssign<&Breakdown> for Breakdown {
    fn add_assign(&mut self, other: &Breakdown) {
        self.dot_seconds += other.dot_seconds;
        self.arithmetic_seconds += other.arithmetic_seconds;
        self.transcendental_seconds += other.transcendental_seconds;
        self.overhead_seconds += other.overhead_seconds;
        if self.level_seconds.is_empty() {
            self.level_seconds.clone_from(&other.level_seconds);
        } else {
            for (level, more) in self.level_seconds.iter_mut().zip(&other.level_seconds) {
                level.1 += more.1;
            }
        }
    }
}

/// Predicts the time of `work` as one kernel (or `work.launches` equal ones) with `threads` threads of the
/// machine; more than it has count as all, none as one.
pub fn predict(work: &Work, machine: &Machine, threads: usize) -> Prediction {
    let rates = &machine.rates;
    let waves = Waves::new(work, rates, threads);

    let dot_seconds: f64 = work
        .dots
        .iter()
        .map(|dot| {
            dot.flops.max(dot.issued_flops)
                / (rates.peak_per_thread(dot.precision) * rates.dot_share(dot.rows, dot.depth))
        })
        .sum();
    let (ops, per_second) = (&work.scalar.most(work.issued), &rates.scalar_per_second_per_thread);
    let transcendental_seconds = ops.divide / per_second.divide
        + ops.exponential / per_second.exponential
        + ops.logarithm / per_second.logarithm
        + ops.trigonometric / per_second.trigonometric;

    let mut level_seconds: Vec<_> = rates.levels.iter().map(|level| (level.name.clone(), 0.0)).collect();
    for traffic in &work.traffic {
        for (level, bytes) in served_from(traffic, work, rates, &waves) {
            level_seconds[level].1 += waves.memory_seconds(bytes, level, traffic.direction, rates);
        }
    }

    let barrier_seconds = if waves.threads > 1 { rates.barrier_seconds } else { 0.0 };
    let breakdown = Breakdown {
        dot_seconds: dot_seconds * waves.compute_share(),
        arithmetic_seconds: ops.arithmetic / per_second.arithmetic * waves.compute_share(),
        transcendental_seconds: transcendental_seconds * waves.compute_share(),
        level_seconds,
        overhead_seconds: work.launches * (rates.launch_seconds + barrier_seconds),
    };
    let seconds = breakdown.compute_seconds().max(breakdown.memory_seconds()) + breakdown.overhead_seconds;
    Prediction { seconds, bound: breakdown.bound(), breakdown }
}

/// How equal instances fall on threads: some full rounds, then a round of the rest.
struct Waves {
    threads: usize,
    all_threads: usize,
    instances: f64,
    full: f64,
    rest: f64,
}

impl Waves {
    fn new(work: &Work, rates: &Rates, threads: usize) -> Waves {
        // Each launch ends at a barrier, so imbalance is a matter of one launch.
        let instances = work.instances.ceil().max(1.0);
        let available = threads.clamp(1, rates.threads.max(1));
        let full = (instances / available as f64).floor();
        let rest = instances - full * available as f64;
        let used = if full >= 1.0 { available } else { rest as usize };
        Waves { threads: used, all_threads: rates.threads, instances, full, rest }
    }

    /// Part of the whole work that the busiest thread does.
    fn compute_share(&self) -> f64 {
        (self.full + f64::from(self.rest > 0.0)) / self.instances
    }

    /// The last round has fewer threads, which together get less than all of them, but each gets more.
    fn memory_seconds(&self, bytes: f64, level: usize, direction: Direction, rates: &Rates) -> f64 {
        let level = &rates.levels[level];
        let bytes_of_rest = bytes * self.rest / self.instances;
        let full_rate = level.bytes_per_second(direction, self.threads, self.all_threads);
        let rest_rate = level.bytes_per_second(direction, self.rest as usize, self.all_threads);
        (bytes - bytes_of_rest) / full_rate + bytes_of_rest / rest_rate
    }
}

/// Splits an operand's bytes by the level that serves them: the first pass from where the last use left it, a
/// copy for each further thread from a level that threads share, and later passes from the level
/// that keeps what is touched between them.
fn served_from(traffic: &Traffic, work: &Work, rates: &Rates, waves: &Waves) -> [(usize, f64); 4] {
    let threads = waves.threads as f64;
    let footprint = traffic.footprint_bytes;
    let bytes = traffic.bytes.max(footprint);
    let seen_by_thread = footprint.min(bytes / threads);

    // Where nothing is said, the kernel runs over and over and an operand comes round once a run. Instances go to
    // threads as these come free: of what a thread touched last time it gets its share again, and the rest from afar.
    let distance = traffic.since_last_use_bytes.unwrap_or_else(|| work.footprint_bytes()).max(footprint);
    let distance_of_thread = (distance / threads).max(seen_by_thread);
    let own = rates.level_holding(distance_of_thread, distance);
    let others = rates.level_holding(f64::INFINITY, distance).max(own);

    // Threads do not go in step: a further one finds in a shared cache only what the cache holds as a whole.
    let shared = rates.level_holding(f64::INFINITY, footprint).min(others);
    let copies = seen_by_thread * threads - footprint;

    let window = traffic.reuse_window_bytes.unwrap_or(seen_by_thread);
    let again = rates.level_holding(window, window * threads);
    [
        (own, footprint / threads),
        (others, footprint - footprint / threads),
        (shared, copies.max(0.0)),
        (again, bytes - footprint - copies.max(0.0)),
    ]
}

#[cfg(test)]
#[path = "roofline_tests.rs"]
mod tests;
