//! What an entry's code is generated for.

use crate::cuda::{self, Architecture};
use crate::lower::BlockSizes;

/// What kernels are written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// C for the system's compiler.
    C,
    /// CUDA C++ for NVRTC, for one architecture.
    Cuda(Architecture),
}

/// What code is generated for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryOptions {
    /// Columns of a packed panel.
    pub panel: usize,
    /// Sizes of blocks.
    pub blocks: BlockSizes,
    /// What kernels are written in.
    pub language: Language,
    /// Threads that share the work of a run. Where there are few rows, columns are divided among so many, by kernels of
    /// their own for each number of threads; no bit depends on it.
    pub threads: usize,
    /// Rows that run at a time where steps run in turns: no kernel knows, and no bit depends on it.
    pub turn_rows: usize,
}

impl EntryOptions {
    /// With turns that give a block of rows to each thread.
    pub const fn new(panel: usize, block_rows: usize, threads: usize) -> EntryOptions {
        EntryOptions {
            panel,
            blocks: BlockSizes::of_processor(block_rows),
            language: Language::C,
            threads,
            turn_rows: threads * block_rows,
        }
    }

    /// Kernels for a GPU. Where there are few rows, columns are divided among as many thread blocks as it runs at once.
    pub const fn cuda(architecture: Architecture) -> EntryOptions {
        EntryOptions {
            panel: cuda::PANEL,
            blocks: BlockSizes::of_gpu(architecture),
            language: Language::Cuda(architecture),
            threads: architecture.multiprocessors(),
            turn_rows: 8192,
        }
    }
}
