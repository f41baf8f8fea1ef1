//! Random numbers from a seed, the same on every machine (SplitMix64). It knows
//! nothing of programs.

/// A source of random numbers.
#[derive(Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Numbers that depend on these two alone.
    pub fn new(seed: u64, stream: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ stream.wrapping_mul(0xa24b_aed4_963e_e407))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    /// True once in `count` times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// An f32 in -1..1, as f64.
    pub fn signed(&mut self) -> f64 {
        f64::from(((self.next() >> 40) as f32 / (1u64 << 23) as f32) - 1.0)
    }
}
