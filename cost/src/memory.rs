//! What a program keeps in memory, by what it is for, and whether a machine holds it.
//! Sizes come from whoever planned the buffers. It must not know how they are laid out.

use crate::machine::Machine;

/// Bytes that one program keeps at its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryUse {
    /// Parameters, in all stored forms.
    pub parameter_bytes: f64,
    /// Gradients, as far as they outlive a kernel.
    pub gradient_bytes: f64,
    /// Moments and master copies of the optimizer.
    pub optimizer_bytes: f64,
    /// Activations and temporaries: the arena.
    pub activation_bytes: f64,
    /// Key-value caches and carried states.
    pub cache_bytes: f64,
    /// The rest: code, tables, input batches, the process itself.
    pub other_bytes: f64,
}

impl MemoryUse {
    /// All of it.
    pub fn total_bytes(&self) -> f64 {
        self.parameter_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.activation_bytes
            + self.cache_bytes
            + self.other_bytes
    }

    /// Bytes that the machine has left; negative where it does not fit.
    pub fn headroom_bytes(&self, machine: &Machine) -> f64 {
        machine.memory_bytes - self.total_bytes()
    }

    /// Sequences that fit beside everything else when each takes so many bytes of cache; `cache_bytes` of
    /// `self` is not counted. 0 where not even the rest fits.
    pub fn sequences_that_fit(&self, machine: &Machine, cache_bytes_per_sequence: f64) -> f64 {
        let rest = MemoryUse { cache_bytes: 0.0, ..*self };
        (rest.headroom_bytes(machine) / cache_bytes_per_sequence).floor().max(0.0)
    }
}
