//! Where entries work: the arena of their temporary values and the scratch of
//! their threads. Entries that never run at once share one, and nothing may
//! depend on what another left there. It knows no entry, only sizes.

use super::caches::CacheRooms;
use super::memory::{AlignedBytes, Memory, OutOfMemory};
use super::resolve::keeps_padding;
use crate::cuda::{CudaError, DeviceBytes, Gpu};
use diptych_codegen::entry::{Buffer, CompiledEntry, Limits, Role};
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
    /// Tensor maps of launches, on a GPU.
    pub maps: usize,
}

impl MemoryBound {
    /// What an entry takes that has so much in the arena, and so much scratch.
    pub(crate) fn of(entry: &CompiledEntry, limits: Limits, arena: usize, scratch: usize) -> MemoryBound {
        let all = |wanted: &dyn Fn(&Buffer) -> bool| {
            let buffers = entry.buffers.iter().filter(|buffer| wanted(buffer));
            buffers.map(|buffer| buffer.bytes(limits, entry.panel)).sum::<usize>()
        };
        MemoryBound {
            arena,
            padded: all(&|buffer| keeps_padding(buffer, entry.panel)),
            inputs_and_roots: all(&|buffer| matches!(buffer.role, Role::Input(_) | Role::Root(_))),
            derived: all(&|buffer| buffer.role == Role::Derived),
            scratch,
            maps: 0,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.arena + self.padded + self.inputs_and_roots + self.derived + self.scratch + self.maps
    }

    /// What this entry and another take that share a workspace.
    pub fn beside(self, other: MemoryBound) -> MemoryBound {
        MemoryBound {
            arena: self.arena.max(other.arena),
            padded: self.padded + other.padded,
            inputs_and_roots: self.inputs_and_roots + other.inputs_and_roots,
            derived: self.derived + other.derived,
            scratch: self.scratch.max(other.scratch),
            maps: self.maps + other.maps,
        }
    }
}

/// Memory that an entry shares with others.
#[derive(Clone, Copy, Default)]
pub struct SharedMemory<'a> {
    /// The caches, if it has any; they must outlive the executable.
    pub caches: Option<&'a CacheRooms>,
    /// Where it works; one of its own, if `None`.
    pub workspace: Option<&'a Arc<Workspace>>,
}

/// The arena and the scratch of entries of which one runs at a time.
#[derive(Debug)]
pub struct Workspace {
    arena: Memory,
    scratch: Memory,
    alone: Mutex<()>,
}

/// A workspace that nobody else uses meanwhile.
pub(crate) struct Alone<'w> {
    workspace: &'w Workspace,
    _guard: MutexGuard<'w, ()>,
}

impl Workspace {
    /// Room for entries that take so much, one of them at a time, on the CPU.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(entries: impl IntoIterator<Item = MemoryBound>) -> Result<Arc<Workspace>, OutOfMemory> {
        let most = entries.into_iter().fold(MemoryBound::default(), MemoryBound::beside);
        let (arena, scratch) = (AlignedBytes::zeroed(most.arena)?, AlignedBytes::zeroed(most.scratch)?);
        let (arena, scratch) = (Memory::Host(arena), Memory::Host(scratch));
        Ok(Arc::new(Workspace { arena, scratch, alone: Mutex::new(()) }))
    }

    /// The same on a GPU. Nothing is zero there, as nothing may depend on what lies there: even zeros would not stay, and a
    /// value's bits need be no numbers of another's type.
    ///
    /// # Errors
    /// When the GPU has not enough memory.
    pub fn on(
        gpu: &Gpu,
        entries: impl IntoIterator<Item = MemoryBound>,
    ) -> Result<Arc<Workspace>, CudaError> {
        let most = entries.into_iter().fold(MemoryBound::default(), MemoryBound::beside);
        let arena = Memory::Gpu(DeviceBytes::new(gpu.context(), most.arena, "temporary values")?);
        let scratch = Memory::Gpu(DeviceBytes::new(gpu.context(), most.scratch, "scratch of kernels")?);
        Ok(Arc::new(Workspace { arena, scratch, alone: Mutex::new(()) }))
    }

    /// Sets every byte, as another entry may: a test of who depends on what lies there.
    ///
    /// # Errors
    /// When the GPU that has it refuses.
    pub fn fill(&self, byte: u8) -> Result<(), CudaError> {
        let _alone = self.alone();
        for part in [&self.arena, &self.scratch] {
            match part {
                // SAFETY: the part has so many bytes, and nobody else uses them meanwhile.
                Memory::Host(bytes) => unsafe { bytes.as_ptr().write_bytes(byte, bytes.len()) },
                Memory::Gpu(bytes) => bytes.fill(byte)?,
            }
        }
        Ok(())
    }

    pub(crate) fn has_room_for(&self, bound: &MemoryBound) -> bool {
        bound.arena <= self.arena.len() && bound.scratch <= self.scratch.len()
    }

    /// Whether it is a GPU's.
    pub(crate) fn is_of_gpu(&self) -> bool {
        self.arena.is_of_gpu()
    }

    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    pub(crate) fn arena(&self) -> *mut u8 {
        self.arena.pointer()
    }

    /// Waits until no entry runs in it. Allocates nothing.
    pub(crate) fn alone(&self) -> Alone<'_> {
        // A run that panicked leaves nothing that the next depends on.
        let guard = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        Alone { workspace: self, _guard: guard }
    }
}

impl Alone<'_> {
    pub fn scratch(&self) -> *mut u8 {
        self.workspace.scratch.pointer()
    }
}
