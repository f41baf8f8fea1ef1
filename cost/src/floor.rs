//! The least that a GPU takes for some work: the roofline alone, with no launch, no wave and no share of a peak that is not
//! reached. It must not know kernels.

use crate::machine::{Machine, Precision};
use crate::work::{Direction, Work};

/// Seconds of each unit of a GPU for some work, at its published peaks. They work at the same time, so the slowest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    /// Tensor cores: products of factors narrower than f32.
    pub tensor_core_seconds: f64,
    /// What multiplies and adds in f32, with functions and all else that is pointwise.
    pub scalar_seconds: f64,
    /// Main memory: each distinct byte once.
    pub memory_seconds: f64,
}

impl Floor {
    /// Of work on a machine: its FLOPs over the peak of their precision, its bytes over the bandwidth of main memory, as
    /// `targets/*.toml` have them with their sources.
    pub fn of(work: &Work, machine: &Machine) -> Floor {
        let rates = &machine.rates;
        let seconds = |narrow: bool| -> f64 {
            let dots = work.dots.iter().filter(|dot| is_narrow(dot.precision) == narrow);
            // The sum of nothing is -0.
            dots.map(|dot| dot.flops / machine.peak_flops_per_second(dot.precision)).sum::<f64>() + 0.0
        };
        let (ops, per_second) = (&work.scalar, &rates.scalar_per_second_per_thread);
        let pointwise = ops.arithmetic / per_second.arithmetic
            + ops.divide / per_second.divide
            + ops.exponential / per_second.exponential
            + ops.logarithm / per_second.logarithm
            + ops.trigonometric / per_second.trigonometric;
        let moved = rates.levels.last().map_or(0.0, |memory| {
            let all = rates.threads;
            let time = |direction: Direction| 1.0 / memory.bytes_per_second(direction, all, all);
            work.traffic.iter().map(|traffic| traffic.footprint_bytes * time(traffic.direction)).sum::<f64>()
                + 0.0
        });
        Floor {
            tensor_core_seconds: seconds(true),
            scalar_seconds: seconds(false) + pointwise / rates.threads.max(1) as f64,
            memory_seconds: moved,
        }
    }

    /// The slowest of the units.
    pub fn seconds(&self) -> f64 {
        self.tensor_core_seconds.max(self.scalar_seconds).max(self.memory_seconds)
    }

    /// The slowest, as people call it.
    pub fn bound(&self) -> &'static str {
        match self.seconds() {
            most if most == self.memory_seconds => "memory",
            most if most == self.tensor_core_seconds => "tensor cores",
            _ => "scalar units",
        }
    }
}

/// Whether tensor cores take factors of this precision.
fn is_narrow(precision: Precision) -> bool {
    precision < Precision::F32
}

/// Seconds that the products of some work take where each is multiplied at the peak of its precision.
pub fn product_seconds(work: &Work, machine: &Machine) -> f64 {
    work.dots.iter().map(|dot| dot.flops / machine.peak_flops_per_second(dot.precision)).sum::<f64>() + 0.0
}

/// FLOPs of work that tensor cores do.
pub fn tensor_core_flops(work: &Work) -> f64 {
    work.dots.iter().filter(|dot| is_narrow(dot.precision)).map(|dot| dot.flops).sum::<f64>() + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{Dot, ScalarOps, Traffic};
    use crate::{Precision, Target};

    #[test]
    fn the_slowest_unit_counts_at_the_published_peaks() {
        let h100 = Target::load("h100").unwrap().into_machine(None).unwrap();
        let dot = |precision| Dot { flops: 1e12, issued_flops: 0.0, rows: 64.0, depth: 64.0, precision };
        let of = |work: &Work| Floor::of(work, &h100);
        let close =
            |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-3, "{found} {wanted}");
        let narrow = Work { dots: vec![dot(Precision::Bf16)], ..Work::default() };
        close(of(&narrow).seconds(), 1e12 / 989e12);
        close(product_seconds(&narrow, &h100), 1e12 / 989e12);
        assert_eq!((of(&narrow).bound(), tensor_core_flops(&narrow)), ("tensor cores", 1e12));
        let wide = Work { dots: vec![dot(Precision::F32)], ..Work::default() };
        close(of(&wide).seconds(), 1e12 / 67e12);
        assert_eq!((of(&wide).bound(), tensor_core_flops(&wide)), ("scalar units", 0.0));
        // Both at once: the tensor cores do not wait.
        let both = Work { dots: vec![dot(Precision::Bf16), dot(Precision::F32)], ..Work::default() };
        assert_eq!(of(&both).seconds(), of(&wide).seconds());
        let bytes = Work { traffic: vec![Traffic::read(1e12), Traffic::write(2e12)], ..narrow };
        close(of(&bytes).seconds(), 3e12 / 3.35e12);
        assert_eq!(of(&bytes).bound(), "memory");
        let functions = ScalarOps { exponential: 132.0 * 2.928e10, ..ScalarOps::default() };
        close(of(&Work { scalar: functions, ..Work::default() }).seconds(), 1.0);
    }
}
