//! Learning rates as pure functions of the step, so that a resumed run goes on exactly as it would have.
//! Must not know of the optimizer.

use serde::{Deserialize, Serialize};

/// What a user writes to choose a schedule. Rates are absolute, lengths are optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape after warm-up.
    pub kind: ScheduleKind,
    /// The highest rate, reached with the last step of warm-up.
    pub peak: f64,
    /// The rate at the end of decay and from then on.
    #[serde(default)]
    pub floor: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Steps of the whole run, warm-up and decay included.
    pub total_steps: u64,
    /// Of a warmup-stable-decay schedule: how many of the last steps decay.
    #[serde(default)]
    pub decay_steps: u64,
}

/// The shape of a schedule after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Half a cosine from the peak to the floor (Loshchilov and Hutter 2017).
    Cosine,
    /// Stays at the peak, then falls in a straight line to the floor.
    WarmupStableDecay,
    /// Stays at the peak, then falls by the square root of decay's progress (Hägele et al. 2024).
    WarmupStableSqrtDecay,
}

/// Why a configuration is no schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// A rate is not a finite number in its range.
    #[error("learning rate: `{field}` is {found}; it must be {expected}")]
    Rate {
        /// The field of [`ScheduleConfig`].
        field: &'static str,
        /// Its value.
        found: f64,
        /// What it must be.
        expected: String,
    },
    /// A number of steps does not fit the others.
    #[error("learning rate: `{field}` is {found} steps; it must be {expected}")]
    Steps {
        /// The field of [`ScheduleConfig`].
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it must be.
        expected: String,
    },
}

/// A learning rate for every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
}

impl Schedule {
    /// Checks a configuration.
    ///
    /// # Errors
    /// A rate that is negative, not finite, or a floor above the peak; phases that do not fit into the run;
    /// decay steps in a schedule that has no such phase.
    pub fn new(config: ScheduleConfig) -> Result<Self, ScheduleError> {
        let c = &config;
        let rate = |field, found, expected: String| Err(ScheduleError::Rate { field, found, expected });
        let steps = |field, found, expected: String| Err(ScheduleError::Steps { field, found, expected });
        if !(c.peak.is_finite() && c.peak > 0.0) {
            return rate("peak", c.peak, "a positive number".into());
        }
        if !(c.floor >= 0.0 && c.floor <= c.peak) {
            return rate("floor", c.floor, format!("between 0 and the peak, {}", c.peak));
        }
        if c.total_steps == 0 {
            return steps("total_steps", 0, "at least 1".into());
        }
        if c.warmup_steps > c.total_steps {
            return steps(
                "warmup_steps",
                c.warmup_steps,
                format!("at most `total_steps`, {}", c.total_steps),
            );
        }
        let rest = c.total_steps - c.warmup_steps;
        match c.kind {
            ScheduleKind::WarmupStableDecay | ScheduleKind::WarmupStableSqrtDecay => {
                if c.decay_steps == 0 || c.decay_steps > rest {
                    let expected =
                        format!("between 1 and the {rest} that `total_steps` leaves after warm-up");
                    return steps("decay_steps", c.decay_steps, expected);
                }
            }
            ScheduleKind::Constant | ScheduleKind::Cosine => {
                if c.decay_steps != 0 {
                    let expected = "left out: only warmup_stable_decay and warmup_stable_sqrt_decay have it";
                    return steps("decay_steps", c.decay_steps, expected.into());
                }
            }
        }
        Ok(Schedule { config })
    }

    /// What the schedule was made from.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// The rate of the update number `step`, counted from 0. Warm-up begins at `peak / warmup_steps`, not at 0,
    /// so that no step is lost; from `total_steps` on the rate is the floor (the peak, if constant).
    pub fn rate(&self, step: u64) -> f64 {
        let c = &self.config;
        if step < c.warmup_steps {
            return c.peak * (step + 1) as f64 / c.warmup_steps as f64;
        }
        let decay = match c.kind {
            ScheduleKind::Constant => return c.peak,
            ScheduleKind::Cosine => c.total_steps - c.warmup_steps,
            ScheduleKind::WarmupStableDecay | ScheduleKind::WarmupStableSqrtDecay => c.decay_steps,
        };
        if step >= c.total_steps {
            return c.floor;
        }
        let done = step.saturating_sub(c.total_steps - decay) as f64 / decay as f64;
        let left = match c.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            ScheduleKind::WarmupStableSqrtDecay => 1.0 - done.sqrt(),
            ScheduleKind::WarmupStableDecay | ScheduleKind::Constant => 1.0 - done,
        };
        c.floor + (c.peak - c.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScheduleKind::*;
    use proptest::prelude::*;

    fn config(kind: ScheduleKind) -> ScheduleConfig {
        let decay_steps = if matches!(kind, Constant | Cosine) { 0 } else { 20 };
        ScheduleConfig { kind, peak: 1e-3, floor: 1e-4, warmup_steps: 10, total_steps: 110, decay_steps }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn known_points() {
        for (kind, points) in [
            (Constant, [(60, 1e-3), (109, 1e-3), (110, 1e-3)]),
            (Cosine, [(60, 5.5e-4), (35, 5.5e-4 + 4.5e-4 * 0.5f64.sqrt()), (110, 1e-4)]),
            (WarmupStableDecay, [(90, 1e-3), (100, 5.5e-4), (110, 1e-4)]),
            (WarmupStableSqrtDecay, [(90, 1e-3), (95, 5.5e-4), (110, 1e-4)]),
        ] {
            let schedule = Schedule::new(config(kind)).unwrap();
            for (step, rate) in [(0, 1e-4), (4, 5e-4), (9, 1e-3), (10, 1e-3)].into_iter().chain(points) {
                assert!(close(schedule.rate(step), rate), "{kind:?} at {step}: {}", schedule.rate(step));
            }
            assert!(close(schedule.rate(u64::MAX), if kind == Constant { 1e-3 } else { 1e-4 }));
        }
    }

    #[test]
    fn bad_configurations_are_told() {
        type Change = fn(&mut ScheduleConfig);
        let cases: [(ScheduleKind, Change, &str); 9] = [
            (Cosine, |c| c.peak = 0.0, "`peak` is 0; it must be a positive number"),
            (Cosine, |c| c.peak = f64::NAN, "`peak` is NaN"),
            (Cosine, |c| c.peak = f64::INFINITY, "`peak` is inf"),
            (Cosine, |c| c.floor = 2e-3, "`floor` is 0.002; it must be between 0 and the peak, 0.001"),
            (Cosine, |c| c.floor = f64::NAN, "`floor` is NaN"),
            (Cosine, |c| c.total_steps = 0, "`total_steps` is 0 steps"),
            (
                Cosine,
                |c| c.total_steps = 9,
                "`warmup_steps` is 10 steps; it must be at most `total_steps`, 9",
            ),
            (
                WarmupStableDecay,
                |c| c.decay_steps = 101,
                "`decay_steps` is 101 steps; it must be between 1 and the 100",
            ),
            (Constant, |c| c.decay_steps = 1, "left out"),
        ];
        for (kind, change, expected) in cases {
            let mut config = config(kind);
            change(&mut config);
            let message = Schedule::new(config).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_text_form_round_trips_and_refuses_unknown_fields() {
        let config = config(WarmupStableSqrtDecay);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ScheduleConfig>(&text).unwrap(), config);
        let unknown = r#"{"kind":"cosine","peak":1.0,"total_steps":5,"warmup":3}"#;
        let message = serde_json::from_str::<ScheduleConfig>(unknown).unwrap_err().to_string();
        assert!(message.contains("unknown field `warmup`"), "{message}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, rng_seed: proptest::test_runner::RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn rates_rise_then_fall_within_bounds(
            kind in prop::sample::select(vec![Constant, Cosine, WarmupStableDecay, WarmupStableSqrtDecay]),
            warmup in 0u64..50, stable in 0u64..50, decay in 1u64..50, floor in 0.0..1.0f64,
        ) {
            let decay_steps = if matches!(kind, Constant | Cosine) { 0 } else { decay };
            let total_steps = warmup + stable + decay;
            let schedule = Schedule::new(ScheduleConfig {
                kind, peak: 1.0, floor, warmup_steps: warmup, total_steps, decay_steps,
            }).unwrap();
            let rates: Vec<f64> = (0..total_steps + 3).map(|step| schedule.rate(step)).collect();
            prop_assert!(rates.iter().all(|rate| *rate > 0.0 || floor == 0.0));
            prop_assert!(rates.iter().all(|rate| *rate <= 1.0 + 1e-12));
            let warm = warmup as usize;
            prop_assert!(rates[..warm].is_sorted());
            prop_assert!(rates[warm..].is_sorted_by(|a, b| a >= b));
            prop_assert!(rates[warm..].iter().all(|rate| *rate >= floor));
        }
    }
}
