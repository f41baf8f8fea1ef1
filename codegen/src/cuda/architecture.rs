//! What the writer must know of the GPUs that it writes for.

use std::fmt;

/// A GPU architecture that kernels are written for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Architecture {
    /// `sm_80`: A100, and all that came after it.
    Sm80,
    /// `sm_90a`: H100 and H200.
    Sm90a,
    /// `sm_100a`: B200.
    Sm100a,
}

impl Architecture {
    /// All of them, the oldest first.
    pub const ALL: [Architecture; 3] = [Architecture::Sm80, Architecture::Sm90a, Architecture::Sm100a];

    /// The name by which compilers know it.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Sm80 => "sm_80",
            Architecture::Sm90a => "sm_90a",
            Architecture::Sm100a => "sm_100a",
        }
    }

    /// Whether a block's consumers are warpgroups, for which TMA copies boxes of tensors.
    pub const fn has_warpgroups(self) -> bool {
        matches!(self, Architecture::Sm90a | Architecture::Sm100a)
    }

    /// Whether sums of products are in tensor memory (tcgen05).
    pub const fn has_tensor_memory(self) -> bool {
        matches!(self, Architecture::Sm100a)
    }

    /// Shared memory that a block can have, in bytes ("CUDA C++ Programming Guide", table of technical specifications).
    pub const fn shared_bytes(self) -> usize {
        match self {
            Architecture::Sm80 => 163 << 10,
            Architecture::Sm90a | Architecture::Sm100a => 227 << 10,
        }
    }

    /// Blocks that fit on a multiprocessor at once, as far as their shared memory goes. Each takes 1 KiB besides.
    pub const fn blocks_of(self, shared_bytes: usize) -> usize {
        (self.shared_bytes() + (1 << 10)) / (shared_bytes + (1 << 10))
    }

    /// Multiprocessors of its largest part: work is divided among so many where there is little.
    pub const fn multiprocessors(self) -> usize {
        match self {
            Architecture::Sm80 => 108,
            Architecture::Sm90a => 132,
            Architecture::Sm100a => 148,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
