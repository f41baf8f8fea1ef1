//! What serving takes of memory, known before it takes any. It takes none.

use super::server::{SERVING, ServeOptions};
use crate::executor::{Binding, CacheRooms, MemoryBound, ParameterStore};
use crate::session::Device;
use diptych_codegen::driver::CompiledProgram;
use diptych_codegen::entry::CompiledEntry;
use diptych_ir::EntryKind;

/// The bytes that a session and its server take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeMemory {
    /// Parameters, as stored. They are the session's.
    pub parameters: usize,
    /// The cache.
    pub caches: usize,
    /// Each entry that is loaded, as if it were alone; one workspace serves them all.
    pub entries: Vec<(EntryKind, MemoryBound)>,
    /// What says which sequences a run has, and the logits as they are given to the caller.
    pub tables: usize,
}

impl ServeMemory {
    /// What a server of the entries `kinds` will take, of those that were compiled.
    pub fn of(
        device: &Device,
        compiled: &CompiledProgram,
        context: usize,
        options: ServeOptions,
        kinds: &[EntryKind],
    ) -> ServeMemory {
        let bound = |&kind: &EntryKind| {
            let entry = compiled.entries.get(&kind).filter(|_| kinds.contains(&kind))?;
            let limits = options.limits(kind, context);
            Some((kind, device.memory_bound(entry, limits, options.cache())))
        };
        let entries: Vec<(EntryKind, MemoryBound)> = SERVING.iter().filter_map(bound).collect();
        let tables = entries
            .iter()
            .map(|&(kind, _)| Binding::bytes_for(options.limits(kind, context), context))
            .sum::<usize>();
        let panel = device.options().panel;
        let mut memory = ServeMemory {
            parameters: ParameterStore::bytes_for(&compiled.program, &compiled.layouts, panel, false),
            caches: 0,
            entries,
            tables,
        };
        if let Some(entry) = memory.cached(compiled) {
            memory.caches = CacheRooms::bytes_for(entry, options.cache());
            let logits = entry.buffers.iter().filter(|buffer| buffer.is_root("logits"));
            let limits = options.limits(entry.kind, context);
            memory.tables += logits.map(|buffer| buffer.bytes(limits, entry.panel)).sum::<usize>();
        }
        memory
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.parameters + self.beside_parameters()
    }

    /// All that the server takes beside the session's parameters.
    pub fn beside_parameters(&self) -> usize {
        let entries =
            self.entries.iter().fold(MemoryBound::default(), |all, &(_, bound)| all.beside(bound)).total();
        self.caches + entries + self.tables
    }

    /// An entry that says what is cached.
    pub(super) fn cached<'c>(&self, compiled: &'c CompiledProgram) -> Option<&'c CompiledEntry> {
        let kind = self.entries.iter().rev().map(|entry| entry.0).find(|kind| kind.cached())?;
        compiled.entries.get(&kind)
    }
}
