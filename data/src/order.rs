//! Which tokens each training step sees, as a function of seed and step alone, and the windows that
//! cover each held-out document once. No shuffle tables: the order is a keyed permutation that is
//! computed where it is needed, so resuming at any step costs nothing. Knows nothing of text.

use std::sync::Arc;

use crate::error::DataError;
use crate::shards::TokenFile;

/// The order of training sequences.
///
/// The training documents, already shuffled and each closed by end of text, are one stream. Each
/// epoch cuts it into windows of `time` tokens from an offset of its own, and walks them in an order
/// of its own; a sequence is a window and the token that follows it. Sequence number
/// `step · batch + row` counts over all epochs, so a batch may end one epoch and begin the next.
#[derive(Clone, Debug)]
pub struct TrainingOrder {
    tokens: Arc<TokenFile>,
    seed: u64,
    time: usize,
    windows: u64,
    offsets: u64,
}

impl TrainingOrder {
    /// Sequences of `time` input tokens from `tokens`.
    ///
    /// # Errors
    /// [`DataError::TooFewTokens`] if there are not `time + 1` tokens.
    ///
    /// # Panics
    /// If `time` is 0.
    pub fn new(tokens: Arc<TokenFile>, seed: u64, time: usize) -> Result<TrainingOrder, DataError> {
        assert!(time > 0, "a sequence has at least one token");
        let total = tokens.tokens();
        if total < time + 1 {
            return Err(DataError::TooFewTokens { path: tokens.path().to_path_buf(), tokens: total, time });
        }
        // As many windows as fit whatever the offset, at least one; as many offsets as leave room for them.
        let windows = ((total - time) / time).max(1);
        let offsets = time.min(total - windows * time);
        Ok(TrainingOrder { tokens, seed, time, windows: windows as u64, offsets: offsets as u64 })
    }

    /// Sequences in an epoch.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Tokens of each sequence.
    pub fn time(&self) -> usize {
        self.time
    }

    /// Fills the rows of a batch: `inputs[row · time + i]` is token i of the row's sequence,
    /// `targets[row · time + i]` the one after it. Returns the epoch, from 0, of the first row.
    /// Allocates nothing.
    ///
    /// # Panics
    /// If a slice does not have `batch · time` elements.
    pub fn batch(&self, step: u64, batch: usize, inputs: &mut [i32], targets: &mut [i32]) -> u64 {
        let elements = batch * self.time;
        assert!(inputs.len() == elements && targets.len() == elements, "batch · time elements each");
        let first = step * batch as u64;
        let rows = inputs.chunks_exact_mut(self.time).zip(targets.chunks_exact_mut(self.time));
        for (number, (inputs, targets)) in (first..).zip(rows) {
            let start = self.start_of(number);
            self.tokens.copy(start, inputs);
            self.tokens.copy(start + 1, targets);
        }
        first / self.windows
    }

    /// Where sequence `number` starts in the stream.
    fn start_of(&self, number: u64) -> usize {
        let epoch = number / self.windows;
        let key = mix(self.seed ^ mix(epoch));
        let offset = mix(key) % self.offsets;
        let window = permute(number % self.windows, self.windows, key);
        (offset + window * self.time as u64) as usize
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
/// Generators, 2014): a bijection on 64 bits in which each input bit moves half of the output bits.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A permutation of 0..size: a Feistel network on the least even number of bits that holds `size`,
/// walked until it falls inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
/// The domain is less than 4 · size, so that takes fewer than 4 rounds on average.
fn permute(index: u64, size: u64, key: u64) -> u64 {
    const ROUNDS: u64 = 6;
    let half = (64 - (size - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(right ^ mix(key ^ round)) & mask));
        }
        x = left << half | right;
        if x < size {
            return x;
        }
    }
}

/// The held-out documents, cut into windows so that each token of each document, and the end of
/// text that closes it, is a target exactly once. A document's first token is predicted from the
/// end of text before it, as in training.
#[derive(Clone, Debug)]
pub struct HeldOut {
    tokens: Arc<TokenFile>,
}

/// Up to `time` targets of one held-out document.
#[derive(Clone, Debug)]
pub struct HeldOutWindow<'a> {
    /// Which document, from 0 to [`TokenFile::documents`].
    pub document: usize,
    /// Bytes of that document's text, on its first window; 0 on the others, so that sums come out right.
    pub bytes: u64,
    tokens: &'a TokenFile,
    start: usize,
    targets: usize,
}

impl HeldOut {
    /// The documents of `tokens`.
    pub fn new(tokens: Arc<TokenFile>) -> HeldOut {
        HeldOut { tokens }
    }

    /// Documents, in the order of [`HeldOutWindow::document`].
    pub fn documents(&self) -> usize {
        self.tokens.documents()
    }

    /// The windows of all documents in order: `time` targets each, fewer in a document's last.
    ///
    /// # Panics
    /// If `time` is 0.
    pub fn windows(&self, time: usize) -> impl Iterator<Item = HeldOutWindow<'_>> {
        assert!(time > 0, "a window has at least one token");
        let tokens = &*self.tokens;
        (0..tokens.documents()).flat_map(move |document| {
            let range = tokens.document(document);
            range.clone().step_by(time).map(move |first| HeldOutWindow {
                document,
                bytes: if first == range.start { tokens.document_bytes(document) } else { 0 },
                tokens,
                start: first - 1,
                targets: time.min(range.end - first),
            })
        })
    }
}

impl HeldOutWindow<'_> {
    /// How many tokens are predicted: the first `targets` of each row that [`Self::fill`] fills.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Fills one row of inputs and targets and returns [`Self::targets`]. What is beyond them is
    /// end of text, to be left out of the sum.
    ///
    /// # Panics
    /// If the slices differ in length or are shorter than [`Self::targets`].
    pub fn fill(&self, inputs: &mut [i32], targets: &mut [i32]) -> usize {
        assert!(inputs.len() == targets.len() && inputs.len() >= self.targets, "a row of `time` each");
        for (start, row) in [(self.start, inputs), (self.start + 1, targets)] {
            let (used, beyond) = row.split_at_mut(self.targets);
            self.tokens.copy(start, used);
            // The stream begins with an end of text.
            let end_of_text = self.tokens.token(0) as i32;
            beyond.fill(end_of_text);
        }
        self.targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        #[test]
        fn permute_is_a_bijection(size in 1u64..3000, key: u64) {
            let mut seen = vec![false; size as usize];
            for index in 0..size {
                let x = permute(index, size, key) as usize;
                prop_assert!(!seen[x]);
                seen[x] = true;
            }
        }
    }

    #[test]
    fn permute_spreads_neighbours() {
        // The mean distance of the images of neighbours, for a random permutation, is size / 3.
        let size = 10_000;
        let images: Vec<u64> = (0..size).map(|index| permute(index, size, 7)).collect();
        let mean = images.windows(2).map(|w| w[0].abs_diff(w[1])).sum::<u64>() / (size - 1);
        assert!((3000..3700).contains(&mean), "{mean}");
    }
}
