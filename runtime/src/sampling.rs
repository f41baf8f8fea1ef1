//! One token out of logits: greedy, or by temperature, top-k and top-p, in that order.
//! A pure function of logits, options, seed and position; must not know of models or text.

use std::cmp::Ordering;

/// How to choose. [`SamplingOptions::default`] is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy, 1 leaves the model's distribution.
    pub temperature: f32,
    /// Only the so many likeliest tokens; `None`, or as many as the vocabulary has, is all.
    pub top_k: Option<usize>,
    /// Only the fewest likeliest tokens that together have at least this probability, out of those that
    /// `top_k` leaves; at least one. 1 is all.
    pub top_p: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        SamplingOptions { temperature: 0.0, top_k: None, top_p: 1.0 }
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// An option is out of its range.
    #[error("sampling: `{option}` is {found}; it must be {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Another number of logits than the vocabulary has tokens.
    #[error("sampling: {found} logits for a vocabulary of {expected} tokens")]
    Count {
        /// How many logits came.
        found: usize,
        /// The size of the vocabulary.
        expected: usize,
    },
    /// A logit is NaN or plus infinity: the model has diverged, or its weights are damaged.
    #[error(
        "sampling: the logit of token {token} is {value}; logits must be finite, or -inf to exclude a token"
    )]
    NotFinite {
        /// The first such token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// Every logit is minus infinity.
    #[error("sampling: all {count} tokens are excluded (every logit is -inf)")]
    NothingLeft {
        /// The size of the vocabulary.
        count: usize,
    },
}

/// Chooses tokens; allocates nothing once made.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    vocabulary: usize,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    token: u32,
    /// The probability up to a common factor: the likeliest token has 1.
    weight: f64,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocabulary` tokens.
    ///
    /// # Errors
    /// An option is out of range: a temperature below 0 or not finite, a `top_k` of 0, a `top_p` outside 0..=1,
    /// or a vocabulary of no token or of more than a `u32` counts.
    pub fn new(options: SamplingOptions, vocabulary: usize) -> Result<Self, SamplingError> {
        let wrong = |option, found: String, expected| Err(SamplingError::Option { option, found, expected });
        if !(options.temperature.is_finite() && options.temperature >= 0.0) {
            return wrong(
                "temperature",
                options.temperature.to_string(),
                "a number of at least 0 (0 is greedy)",
            );
        }
        if options.top_k == Some(0) {
            return wrong("top_k", "0".into(), "at least 1, or left out for all tokens");
        }
        if !(0.0..=1.0).contains(&options.top_p) {
            return wrong("top_p", options.top_p.to_string(), "between 0 and 1");
        }
        if vocabulary == 0 || u32::try_from(vocabulary).is_err() {
            return wrong("vocabulary", vocabulary.to_string(), "between 1 and 4294967295");
        }
        Ok(Sampler { options, vocabulary, candidates: Vec::with_capacity(vocabulary) })
    }

    /// How many tokens it chooses among.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The options that this was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Chooses the token at `position` of a sequence that draws by `seed`, out of `logits`, one a token.
    /// Equal arguments give equal tokens, whatever was chosen before. Among equal logits lower ids come first.
    ///
    /// # Errors
    /// Another number of logits than the vocabulary, a logit that is NaN or plus infinity, or none above minus infinity.
    pub fn choose(&mut self, logits: &[f32], seed: u64, position: u64) -> Result<u32, SamplingError> {
        if logits.len() != self.vocabulary {
            return Err(SamplingError::Count { found: logits.len(), expected: self.vocabulary });
        }
        let best = likeliest(logits)?;
        let SamplingOptions { temperature, top_k, top_p } = self.options;
        if temperature == 0.0 || top_k == Some(1) || top_p == 0.0 {
            return Ok(best);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        let allowed = logits.iter().zip(0u32..).filter(|(logit, _)| **logit > f32::NEG_INFINITY);
        candidates.extend(allowed.map(|(&logit, token)| Candidate { logit, token, weight: 0.0 }));
        if let Some(k) = top_k.filter(|k| *k < candidates.len()) {
            candidates.select_nth_unstable_by(k - 1, by_likelihood);
            candidates.truncate(k);
            // The selection's order is its own affair, and sums depend on it.
            candidates.sort_unstable_by(by_likelihood);
        }
        let highest = f64::from(logits[best as usize]);
        for candidate in candidates.iter_mut() {
            candidate.weight = ((f64::from(candidate.logit) - highest) / f64::from(temperature)).exp();
        }
        if top_p < 1.0 {
            keep_nucleus(candidates, f64::from(top_p));
        }
        Ok(draw(candidates, uniform(seed, position)))
    }
}

/// The token of the highest logit, the lowest id among equals.
fn likeliest(logits: &[f32]) -> Result<u32, SamplingError> {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (token, &value) in logits.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SamplingError::NotFinite { token, value });
        }
        if value > highest {
            (best, highest) = (token as u32, value);
        }
    }
    if highest == f32::NEG_INFINITY {
        return Err(SamplingError::NothingLeft { count: logits.len() });
    }
    Ok(best)
}

fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// Leaves the shortest prefix, by likelihood, whose share of the weight is at least `share`. Sorts no more than it
/// must, since the nucleus is mostly small and a vocabulary large.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    let wanted = share * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
    let (mut sorted, mut step, mut sum) = (0, 128, 0.0);
    while sorted < candidates.len() {
        let end = candidates.len().min(sorted + step);
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted, by_likelihood);
        }
        candidates[sorted..end].sort_unstable_by(by_likelihood);
        for index in sorted..end {
            sum += candidates[index].weight;
            if sum >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        sorted = end;
        step *= 4;
    }
}

/// The candidate in whose part of the total weight the point `at`, in 0..1, falls.
fn draw(candidates: &[Candidate], at: f64) -> u32 {
    let point = at * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
    let mut sum = 0.0;
    let mut last = 0;
    for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        sum += candidate.weight;
        last = candidate.token;
        if point < sum {
            break;
        }
    }
    last
}

/// Number `counter` of the stream `seed`: SplitMix64 (Steele, Lea and Flood 2014) with its state computed, not kept.
pub fn random_bits(seed: u64, counter: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    // Mixed once by itself, so that neighbouring seeds are not one stream shifted.
    let start = mix(seed.wrapping_add(GOLDEN));
    mix(start.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// Uniform in 0..1 (1 excluded), in steps of 2^-53, from [`random_bits`].
pub fn uniform(seed: u64, counter: u64) -> f64 {
    (random_bits(seed, counter) >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(temperature: f32, top_k: Option<usize>, top_p: f32, vocabulary: usize) -> Sampler {
        Sampler::new(SamplingOptions { temperature, top_k, top_p }, vocabulary).unwrap()
    }

    /// How often each token comes in `draws` draws.
    fn frequencies(sampler: &mut Sampler, logits: &[f32], draws: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..draws {
            counts[sampler.choose(logits, 42, position).unwrap() as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (token, (f, e)) in found.iter().zip(expected).enumerate() {
            // Five standard errors of 20000 draws at most; what is excluded must never come.
            assert!(
                (f - e).abs() < if *e == 0.0 { 1e-12 } else { 0.018 },
                "token {token}: {found:?} {expected:?}"
            );
        }
    }

    /// Probabilities 0.4, 0.1, 0.3, 0.2.
    fn logits() -> [f32; 4] {
        [0.4f32, 0.1, 0.3, 0.2].map(f32::ln)
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let squares: Vec<f64> = [0.16, 0.01, 0.09, 0.04].iter().map(|p| p / 0.30).collect();
        for (temperature, top_k, top_p, expected) in [
            (1.0, None, 1.0, vec![0.4, 0.1, 0.3, 0.2]),
            (0.5, None, 1.0, squares),
            (1e6, None, 1.0, vec![0.25; 4]),
            (1e-6, None, 1.0, vec![1.0, 0.0, 0.0, 0.0]),
            (1.0, Some(4), 1.0, vec![0.4, 0.1, 0.3, 0.2]),
            (1.0, Some(100), 1.0, vec![0.4, 0.1, 0.3, 0.2]),
            (1.0, Some(2), 1.0, vec![4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]),
            (1.0, None, 0.65, vec![4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]),
            (1.0, None, 0.75, vec![4.0 / 9.0, 0.0, 3.0 / 9.0, 2.0 / 9.0]),
            // Of three left, 4/9 + 3/9 is the first share of at least 0.7: top-p counts what top-k leaves.
            (1.0, Some(3), 0.7 + 0.05, vec![4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]),
            // Temperature comes first: flattened, three of four are needed for 0.7.
            (1e6, None, 0.7, vec![1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]),
        ] {
            let mut sampler = sampler(temperature, top_k, top_p, 4);
            assert_close(&frequencies(&mut sampler, &logits(), 20_000), &expected);
        }
    }

    #[test]
    fn greedy_in_all_its_forms_takes_the_first_of_equals() {
        let logits = [0.0, 3.0, -1.0, 3.0, f32::NEG_INFINITY];
        for (temperature, top_k, top_p) in [(0.0, None, 1.0), (9.0, Some(1), 1.0), (9.0, None, 0.0)] {
            assert_eq!(sampler(temperature, top_k, top_p, 5).choose(&logits, 1, 2), Ok(1));
        }
    }

    #[test]
    fn ties_at_the_edge_keep_lower_ids() {
        let logits = [1.0, 5.0, 1.0, 1.0, 1.0];
        let found = frequencies(&mut sampler(1e6, Some(3), 1.0, 5), &logits, 20_000);
        assert_close(&found, &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
    }

    #[test]
    fn excluded_tokens_never_come() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
        for (top_k, top_p) in [(None, 1.0), (Some(3), 1.0), (None, 0.999), (Some(4), 0.999)] {
            let found = frequencies(&mut sampler(1.0, top_k, top_p, 4), &logits, 20_000);
            assert_close(&found, &[0.0, 0.5, 0.0, 0.5]);
        }
    }

    #[test]
    fn extreme_logits_are_sampled() {
        let logits = [f32::MAX, f32::MIN, 0.0, f32::MAX];
        let found = frequencies(&mut sampler(f32::MIN_POSITIVE, None, 1.0, 4), &logits, 20_000);
        assert_close(&found, &[0.5, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn bad_input_is_told() {
        for (temperature, top_k, top_p, vocabulary, expected) in [
            (-1.0, None, 1.0, 4, "`temperature` is -1"),
            (f32::NAN, None, 1.0, 4, "`temperature` is NaN"),
            (f32::INFINITY, None, 1.0, 4, "`temperature` is inf"),
            (1.0, Some(0), 1.0, 4, "`top_k` is 0; it must be at least 1"),
            (1.0, None, 1.5, 4, "`top_p` is 1.5; it must be between 0 and 1"),
            (1.0, None, f32::NAN, 4, "`top_p` is NaN"),
            (1.0, None, 1.0, 0, "`vocabulary` is 0"),
        ] {
            let options = SamplingOptions { temperature, top_k, top_p };
            let message = Sampler::new(options, vocabulary).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for temperature in [0.0, 1.0] {
            let mut sampler = sampler(temperature, None, 1.0, 2);
            let mut message = |logits: &[f32]| sampler.choose(logits, 0, 0).unwrap_err().to_string();
            assert!(message(&[0.0, f32::NAN]).contains("the logit of token 1 is NaN"));
            assert!(message(&[f32::INFINITY, 0.0]).contains("the logit of token 0 is inf"));
            assert!(message(&[f32::NEG_INFINITY; 2]).contains("all 2 tokens are excluded"));
            assert!(message(&[0.0; 3]).contains("3 logits for a vocabulary of 2 tokens"));
        }
    }

    #[test]
    fn random_numbers_are_even_and_depend_on_seed_and_counter() {
        let draws = 100_000;
        let mut cells = [0u32; 64];
        let mut correlation = 0.0;
        for counter in 0..draws {
            cells[(uniform(3, counter) * 64.0) as usize] += 1;
            correlation += (uniform(3, counter) - 0.5) * (uniform(4, counter) - 0.5);
        }
        let expected = draws as f64 / 64.0;
        let chi_squared: f64 = cells.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: mean 63, standard deviation 11.2.
        assert!((63.0 - 45.0..63.0 + 45.0).contains(&chi_squared), "{chi_squared}");
        // Standard error of the mean product: 1/12 / sqrt(draws) = 2.6e-4.
        assert!((correlation / draws as f64).abs() < 1.3e-3, "{correlation}");
        assert_ne!(random_bits(0, 1), random_bits(1, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 100,
            rng_seed: proptest::test_runner::RngSeed::Fixed(11),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        /// Against the plain way: sort everything, cut, cut.
        #[test]
        fn cuts_agree_with_a_full_sort(
            logits in prop::collection::vec((-40i8..40).prop_map(|l| f32::from(l) / 8.0), 1..2000),
            top_k in prop::option::of(1usize..2500), top_p in 0.0..1.0f32, temperature in 0.1..3.0f32,
            position in 0u64..1000,
        ) {
            let mut all: Vec<Candidate> = logits.iter().zip(0u32..).map(|(&logit, token)| {
                let highest = logits.iter().copied().fold(f32::MIN, f32::max);
                let weight = (f64::from(logit - highest) / f64::from(temperature)).exp();
                Candidate { logit, token, weight }
            }).collect();
            all.sort_by(by_likelihood);
            all.truncate(top_k.unwrap_or(usize::MAX));
            let total: f64 = all.iter().map(|c| c.weight).sum();
            let mut sum = 0.0;
            // The candidate at the edge may fall to either side by rounding.
            let allowed: Vec<u32> = all.iter().take_while(|c| {
                let before = sum;
                sum += c.weight;
                before < f64::from(top_p) * total * (1.0 + 1e-9)
            }).map(|c| c.token).collect();
            let token = sampler(temperature, top_k, top_p, logits.len()).choose(&logits, 5, position).unwrap();
            prop_assert!(allowed.contains(&token) || token == all[0].token);
        }
    }
}
