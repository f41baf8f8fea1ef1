//! Random objectives: every kind of compromise is asked for.

use super::numbers::Numbers;
use diptych_passes::algebra::{Numerics, Objective};

/// Ten to a power between 0 and `most`.
fn decades(numbers: &mut Numbers, most: f64) -> f64 {
    10f64.powf(most * (0.5 + 0.5 * numbers.signed()))
}

/// Rates over five decades, tokens over nine, batches and contexts of any size, weights derived at load or not.
/// Saturation stops early as a rule: what is found is to be sound wherever it stops.
pub fn objective(numbers: &mut Numbers) -> Objective {
    let (flops, bytes) = (1e8 * decades(numbers, 5.0), 1e7 * decades(numbers, 5.0));
    let (trained, served) = (decades(numbers, 9.0), decades(numbers, 9.0));
    let mut objective = Objective::typical(flops, bytes, trained, served);
    for binding in &mut objective.bindings {
        for size in binding.sizes.values_mut().filter(|size| **size > 1) {
            *size = 1 + numbers.below(*size);
        }
        if let Some(batch) = binding.sizes.get_mut(&"batch".into()) {
            *batch = numbers.pick(&[1, 1, 8, 64]);
        }
    }
    objective.limits.nodes = numbers.pick(&[300, 600, 1_200, 1_200, 1_200, 5_000]);
    objective.limits.steps = 300_000;
    objective.derived_at_load = numbers.below(10) < 7;
    objective
}

/// Whether entries may differ in rounding, as often as not.
pub fn numerics(numbers: &mut Numbers) -> Numerics {
    numbers.pick(&[Numerics::Same, Numerics::Fast])
}
