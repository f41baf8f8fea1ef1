//! Where entries work: the arena of their temporary values and the scratch of
//! their threads. Entries that never run at once share one, and nothing may
//! depend on what another left there. It knows no entry, only sizes.

use super::memory::{AlignedBytes, OutOfMemory};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an entry takes of memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryBound {
    /// Temporary values, sharing one arena.
    pub arena: usize,
    /// Temporary values with padding that must stay zero, each in memory of its own.
    pub padded: usize,
    /// Inputs and roots.
    pub inputs_and_roots: usize,
    /// Values computed from parameters at load.
    pub derived: usize,
    /// Scratch of all threads.
    pub scratch: usize,
}

impl MemoryBound {
    /// All of it.
    pub fn total(&self) -> usize {
        self.arena + self.padded + self.inputs_and_roots + self.derived + self.scratch
    }

    /// What this entry and another take that share a workspace.
    pub fn beside(self, other: MemoryBound) -> MemoryBound {
        MemoryBound {
            arena: self.arena.max(other.arena),
            padded: self.padded + other.padded,
            inputs_and_roots: self.inputs_and_roots + other.inputs_and_roots,
            derived: self.derived + other.derived,
            scratch: self.scratch.max(other.scratch),
        }
    }
}

/// The arena and the scratch of entries of which one runs at a time.
#[derive(Debug)]
pub struct Workspace {
    arena: AlignedBytes,
    scratch: AlignedBytes,
    alone: Mutex<()>,
}

/// A workspace that nobody else uses meanwhile.
pub(super) struct Alone<'w> {
    workspace: &'w Workspace,
    _guard: MutexGuard<'w, ()>,
}

impl Workspace {
    /// Room for entries that take so much, one of them at a time.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(entries: impl IntoIterator<Item = MemoryBound>) -> Result<Arc<Workspace>, OutOfMemory> {
        let most = entries.into_iter().fold(MemoryBound::default(), MemoryBound::beside);
        let (arena, scratch) = (AlignedBytes::zeroed(most.arena)?, AlignedBytes::zeroed(most.scratch)?);
        Ok(Arc::new(Workspace { arena, scratch, alone: Mutex::new(()) }))
    }

    /// Sets every byte, as another entry may: a test of who depends on what lies there.
    pub fn fill(&self, byte: u8) {
        let _alone = self.alone();
        for part in [&self.arena, &self.scratch] {
            // SAFETY: the part has so many bytes, and nobody else uses them meanwhile.
            unsafe { part.as_ptr().write_bytes(byte, part.len()) };
        }
    }

    pub(super) fn has_room_for(&self, bound: &MemoryBound) -> bool {
        bound.arena <= self.arena.len() && bound.scratch <= self.scratch.len()
    }

    pub(super) fn arena(&self) -> *mut u8 {
        self.arena.as_ptr()
    }

    /// Waits until no entry runs in it. Allocates nothing.
    pub(super) fn alone(&self) -> Alone<'_> {
        // A run that panicked leaves nothing that the next depends on.
        let guard = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        Alone { workspace: self, _guard: guard }
    }
}

impl Alone<'_> {
    pub fn scratch(&self) -> *mut u8 {
        self.workspace.scratch.as_ptr()
    }
}
