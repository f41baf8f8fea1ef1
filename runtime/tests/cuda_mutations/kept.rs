//! Copies of what a launch writes, so that it can be undone; and what it writes without a fault.

use super::run::Run;
use diptych_codegen::entry::Launch;

/// The buffers that a launch writes.
pub struct Kept(Vec<Buffer>);

struct Buffer {
    id: usize,
    /// A copy on the device.
    copy: u64,
    /// What it holds behind the launch.
    written: Vec<u8>,
}

impl Kept {
    /// Copies the buffers that a launch writes, and tries the launch.
    pub fn of(run: &mut Run<'_>, launch: &Launch, iteration: usize, layer: usize) -> Kept {
        let args = run.entry.programs[launch.kernel].args.iter().zip(&launch.args);
        let written = args.filter(|(arg, _)| arg.written);
        let mut buffers: Vec<usize> = written.map(|(_, place)| place.buffer).collect();
        buffers.sort_unstable();
        buffers.dedup();
        let keep = |id: usize| {
            let twin = &run.twins[id];
            let copy = run.device.allocate(twin.bytes).unwrap();
            run.device.copy(copy, twin.device, twin.bytes).unwrap();
            Buffer { id, copy, written: Vec::new() }
        };
        let mut kept = Kept(buffers.into_iter().map(keep).collect());
        run.execute(run.module, launch, iteration, layer).unwrap_or_else(|error| panic!("{error}"));
        for buffer in &mut kept.0 {
            buffer.written = run.twins[buffer.id].of_device(run.device);
        }
        kept.put_back(run);
        kept
    }

    /// How far the buffers are from what they hold behind the launch without a fault: the largest distance.
    pub fn distance(&self, run: &mut Run<'_>) -> f64 {
        let of = |buffer: &Buffer| {
            let dtype = run.entry.buffers[buffer.id].dtype;
            run.twins[buffer.id].distance_to(run.device, dtype, &buffer.written)
        };
        // What is no number is the farthest.
        self.0.iter().map(of).fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { most.max(x) })
    }

    /// Makes the buffers what they were, also where they were undefined.
    pub fn put_back(&self, run: &mut Run<'_>) {
        for &Buffer { id, copy, .. } in &self.0 {
            let twin = &run.twins[id];
            run.device.copy(twin.device, copy, twin.bytes).unwrap();
        }
    }

    /// Frees the copies.
    pub fn free(self, run: &mut Run<'_>) {
        self.0.into_iter().for_each(|buffer| run.device.free(buffer.copy).unwrap());
    }
}
