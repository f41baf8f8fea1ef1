//! Copies of what a launch writes, so that it can be undone.

use super::run::Run;
use diptych_codegen::entry::Launch;

/// Buffers on the device, each with its copy.
pub struct Kept(Vec<(usize, u64)>);

impl Kept {
    /// Copies the buffers that a launch writes.
    pub fn of(run: &mut Run<'_>, launch: &Launch) -> Kept {
        let args = run.entry.programs[launch.kernel].args.iter().zip(&launch.args);
        let written = args.filter(|(arg, _)| arg.written);
        let mut buffers: Vec<usize> = written.map(|(_, place)| place.buffer).collect();
        buffers.sort_unstable();
        buffers.dedup();
        let keep = |buffer: usize| {
            let twin = &run.twins[buffer];
            let copy = run.device.allocate(twin.bytes).unwrap();
            run.device.copy(copy, twin.device, twin.bytes).unwrap();
            (buffer, copy)
        };
        Kept(buffers.into_iter().map(keep).collect())
    }

    /// Makes the buffers what they were, also where they were undefined.
    pub fn put_back(&self, run: &mut Run<'_>) {
        for &(buffer, copy) in &self.0 {
            let twin = &run.twins[buffer];
            run.device.copy(twin.device, copy, twin.bytes).unwrap();
        }
    }

    /// Frees the copies.
    pub fn free(self, run: &mut Run<'_>) {
        self.0.into_iter().for_each(|(_, copy)| run.device.free(copy).unwrap());
    }
}
