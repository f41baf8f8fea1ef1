//! What a kernel has to do, in amounts that mean the same on every machine.
//! Counts come from whoever lowered the kernel; here they are only added up and compared.
//! It must not know ops, axes or hardware.

use crate::machine::Precision;
use std::ops::{Add, AddAssign, Mul};

/// Everything one kernel (or one entry, as a sum of kernels) has to do.
///
/// All amounts are totals over all instances. The default is no work at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Multiply-adds done by the register-blocked microkernel, one item per contraction.
    pub dots: Vec<Dot>,
    /// Vectorised pointwise operations, also those of reductions.
    pub scalar: ScalarOps,
    /// The same as they are issued, in lanes: with the lanes that a row leaves empty, and with copies,
    /// transposes and element-by-element loads, which are no operations on values but take as long. Where
    /// it is less than `scalar`, `scalar` counts.
    pub issued: ScalarOps,
    /// What moves between the cores and memory, one item per operand.
    pub traffic: Vec<Traffic>,
    /// Tasks that may run at the same time; they are taken to be equal. 0 counts as 1.
    pub instances: f64,
    /// Kernel launches, each followed by a barrier when more than one thread takes part.
    pub launches: f64,
}

/// A contraction as the microkernel sees it: `rows` x `depth` times `depth` x anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dot {
    /// Floating-point operations, two for a multiply-add.
    pub flops: f64,
    /// The same with those on columns that fill up the last panel. Where it is less than `flops`, `flops` counts.
    pub issued_flops: f64,
    /// Rows that share one pass over the streamed operand: the sequences of a decode step, the tokens of a
    /// training tile. Few rows leave the microkernel bound by loads.
    pub rows: f64,
    /// Length of the sum of one accumulator before it is stored.
    pub depth: f64,
    /// Type of the factors as they are multiplied, which may be wider than as they are stored.
    pub precision: Precision,
}

/// Counts of pointwise operations, by what they cost. Used for rates too: then it is operations per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalarOps {
    /// Additions, multiplications, comparisons, selections, conversions; a fused multiply-add counts once.
    pub arithmetic: f64,
    /// Divisions, square roots and reciprocal square roots.
    pub divide: f64,
    /// Exponentials. `tanh` and the logistic function are one, with a division and arithmetic beside it.
    pub exponential: f64,
    /// Logarithms.
    pub logarithm: f64,
    /// Sines and cosines.
    pub trigonometric: f64,
}

/// Which way bytes go, seen from the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Loads and stores of the same bytes, in place: as much time as both, but the bytes are there once.
    Update,
}

/// How one operand moves. Bytes, never elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Bytes that tiles load or store, with repetition: what a machine without any cache would move.
    pub bytes: f64,
    /// Distinct bytes among them.
    pub footprint_bytes: f64,
    /// Loads or stores.
    pub direction: Direction,
    /// Distinct bytes that the program touched since this operand was last touched: how far away it has
    /// been pushed. `None`: as if the kernel ran again and again, so that only its own footprint matters.
    pub since_last_use_bytes: Option<f64>,
    /// Distinct bytes that one thread touches between two passes over the same byte inside the kernel.
    /// `None`: the part of this operand that a thread sees.
    pub reuse_window_bytes: Option<f64>,
}

impl Traffic {
    /// An operand read once.
    pub fn read(bytes: f64) -> Traffic {
        Traffic {
            bytes,
            footprint_bytes: bytes,
            direction: Direction::Read,
            since_last_use_bytes: None,
            reuse_window_bytes: None,
        }
    }

    /// A result written once.
    pub fn write(bytes: f64) -> Traffic {
        Traffic { direction: Direction::Write, ..Traffic::read(bytes) }
    }

    /// An operand read and written in place, once. `bytes` is its size; the way back is in the direction.
    pub fn update(bytes: f64) -> Traffic {
        Traffic { direction: Direction::Update, ..Traffic::read(bytes) }
    }

    /// The same operand, passed over `times` times in all. Less than once counts as once.
    pub fn repeated(self, times: f64) -> Traffic {
        Traffic { bytes: self.footprint_bytes * times.max(1.0), ..self }
    }

    /// So large a part of it: bytes and distinct bytes.
    pub fn part(self, share: f64) -> Traffic {
        Traffic { bytes: self.bytes * share, footprint_bytes: self.footprint_bytes * share, ..self }
    }

    /// With the distance to its last use, see [`Traffic::since_last_use_bytes`].
    pub fn last_used(self, since_last_use_bytes: f64) -> Traffic {
        Traffic { since_last_use_bytes: Some(since_last_use_bytes), ..self }
    }

    /// With the distance between passes, see [`Traffic::reuse_window_bytes`].
    pub fn reused_within(self, reuse_window_bytes: f64) -> Traffic {
        Traffic { reuse_window_bytes: Some(reuse_window_bytes), ..self }
    }
}

impl Work {
    /// Floating-point operations of all kinds, each pointwise function counted as one.
    pub fn flops(&self) -> f64 {
        self.dots.iter().map(|dot| dot.flops).sum::<f64>() + self.scalar.total()
    }

    /// Distinct bytes, over all operands: what must cross from memory when nothing is cached beforehand.
    pub fn footprint_bytes(&self) -> f64 {
        self.traffic.iter().map(|traffic| traffic.footprint_bytes).sum()
    }

    /// Bytes with repetition, over all operands.
    pub fn bytes(&self) -> f64 {
        self.traffic.iter().map(|traffic| traffic.bytes).sum()
    }

    /// Floating-point operations per distinct byte; `None` where nothing is moved.
    pub fn arithmetic_intensity(&self) -> Option<f64> {
        let bytes = self.footprint_bytes();
        (bytes > 0.0).then(|| self.flops() / bytes)
    }
}

/// Work done one after the other. Instances are averaged by launches, so that the sum of equal kernels has
/// theirs; a time is better predicted kernel by kernel and added up.
impl Add for Work {
    type Output = Work;
    fn add(mut self, other: Work) -> Work {
        self += other;
        self
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        let launches = self.launches + other.launches;
        self.instances = if launches > 0.0 {
            (self.instances * self.launches + other.instances * other.launches) / launches
        } else {
            self.instances.max(other.instances)
        };
        self.launches = launches;
        self.dots.extend(other.dots);
        self.traffic.extend(other.traffic);
        self.scalar = self.scalar + other.scalar;
        self.issued = self.issued + other.issued;
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Work>>(works: I) -> Work {
        works.fold(Work::default(), Add::add)
    }
}

impl ScalarOps {
    /// All operations, each counted as one.
    pub fn total(&self) -> f64 {
        self.arithmetic + self.divide + self.exponential + self.logarithm + self.trigonometric
    }
}

impl ScalarOps {
    /// The larger of each count.
    pub fn most(self, other: ScalarOps) -> ScalarOps {
        ScalarOps {
            arithmetic: self.arithmetic.max(other.arithmetic),
            divide: self.divide.max(other.divide),
            exponential: self.exponential.max(other.exponential),
            logarithm: self.logarithm.max(other.logarithm),
            trigonometric: self.trigonometric.max(other.trigonometric),
        }
    }
}

impl Add for ScalarOps {
    type Output = ScalarOps;
    fn add(self, other: ScalarOps) -> ScalarOps {
        ScalarOps {
            arithmetic: self.arithmetic + other.arithmetic,
            divide: self.divide + other.divide,
            exponential: self.exponential + other.exponential,
            logarithm: self.logarithm + other.logarithm,
            trigonometric: self.trigonometric + other.trigonometric,
        }
    }
}

/// The same operations on each of so many elements.
impl Mul<f64> for ScalarOps {
    type Output = ScalarOps;
    fn mul(self, elements: f64) -> ScalarOps {
        ScalarOps {
            arithmetic: self.arithmetic * elements,
            divide: self.divide * elements,
            exponential: self.exponential * elements,
            logarithm: self.logarithm * elements,
            trigonometric: self.trigonometric * elements,
        }
    }
}
