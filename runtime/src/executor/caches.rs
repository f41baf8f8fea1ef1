//! The rooms that caches and states of recurrences lie in. It knows how large they are, not what is in them.

use super::binding::CacheSize;
use super::memory::{AlignedBytes, Memory, OutOfMemory};
use crate::cuda::{CudaError, DeviceBytes, Gpu};
use diptych_codegen::entry::{Buffer, CompiledEntry, Role};
use diptych_codegen::tile::CHUNK;
use std::collections::HashMap;

/// The caches of a program, shared by its entries: for each `history` a room of
/// chunks, the same number for all, and for each value that a recurrence
/// carries a room of states, one for each sequence.
#[derive(Debug, Default)]
pub struct CacheRooms {
    rooms: HashMap<Role, Memory>,
    size: CacheSize,
}

impl CacheRooms {
    /// Rooms of this size for every cache and every state of an entry, on the CPU.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(entry: &CompiledEntry, size: CacheSize) -> Result<CacheRooms, OutOfMemory> {
        let rooms = Self::each(entry, size)
            .map(|(role, bytes)| Ok((role.clone(), Memory::Host(AlignedBytes::zeroed(bytes)?))))
            .collect::<Result<_, OutOfMemory>>()?;
        Ok(CacheRooms { rooms, size })
    }

    /// The same on a GPU.
    ///
    /// # Errors
    /// When the GPU has not enough memory.
    pub fn on(gpu: &Gpu, entry: &CompiledEntry, size: CacheSize) -> Result<CacheRooms, CudaError> {
        // Positions beyond the end of a sequence are read and masked: what lies there must be a number.
        let zeroed = |bytes| DeviceBytes::zeroed(gpu.context(), bytes, "the cache").map(Memory::Gpu);
        let rooms = Self::each(entry, size)
            .map(|(role, bytes)| Ok((role.clone(), zeroed(bytes)?)))
            .collect::<Result<_, CudaError>>()?;
        Ok(CacheRooms { rooms, size })
    }

    /// The bytes that [`CacheRooms::new`] will take.
    pub fn bytes_for(entry: &CompiledEntry, size: CacheSize) -> usize {
        Self::each(entry, size).map(|(_, bytes)| bytes).sum()
    }

    /// Each cache and each value of states, with its bytes.
    pub(crate) fn each(entry: &CompiledEntry, size: CacheSize) -> impl Iterator<Item = (&Role, usize)> {
        let cached = |buffer: &&Buffer| matches!(buffer.role, Role::Cache { .. } | Role::State { .. });
        entry
            .buffers
            .iter()
            .filter(cached)
            .map(move |buffer| (&buffer.role, Self::layer_bytes(buffer, entry.panel, size) * buffer.slots))
    }

    /// Bytes of one layer of a cache or of states; 0 for other buffers.
    pub(crate) fn layer_bytes(buffer: &Buffer, panel: usize, size: CacheSize) -> usize {
        let rows = match buffer.role {
            Role::Cache { .. } => size.chunks * CHUNK,
            Role::State { .. } => size.sequences,
            _ => 0,
        };
        rows * buffer.layout.row_elements(panel) * buffer.dtype.bytes()
    }

    /// The room of a cache or of states.
    pub(crate) fn room(&self, role: &Role) -> Option<&Memory> {
        self.rooms.get(role)
    }

    /// What they have room for.
    pub fn size(&self) -> CacheSize {
        self.size
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.rooms.values().map(Memory::len).sum()
    }

    fn bytes_of(&self, wanted: fn(&Role) -> bool) -> usize {
        let rooms = self.rooms.iter().filter(|(role, _)| wanted(role));
        rooms.map(|(_, room)| room.len()).sum()
    }

    /// Bytes that a sequence takes whatever its length: states of recurrences, in all layers.
    pub fn bytes_per_sequence(&self) -> usize {
        let bytes = self.bytes_of(|role| matches!(role, Role::State { .. }));
        bytes.checked_div(self.size.sequences).unwrap_or(0)
    }

    /// Bytes that a position takes, in all layers.
    pub fn bytes_per_token(&self) -> usize {
        let bytes = self.bytes_of(|role| matches!(role, Role::Cache { .. }));
        bytes.checked_div(self.size.chunks * CHUNK).unwrap_or(0)
    }
}
