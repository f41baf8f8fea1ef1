//! What a GPU did in recorded runs, and when: an event after each launch and copy, read when the run has ended.

use super::error::{CudaError, could_not};
use crate::executor::{Part, RecordedLaunch, Recording, Slice, Span};
use cudarc::driver::{CudaEvent, CudaStream, sys};
use std::time::Instant;

/// Times of some runs.
pub(super) struct Timing {
    origin: Instant,
    most_runs: usize,
    runs: Vec<Span>,
    slices: Vec<Slice>,
    /// The event before the run's first mark.
    first: Option<CudaEvent>,
    /// What ended at each event of the run at hand.
    marks: Vec<(CudaEvent, Part, Option<u32>, u32)>,
}

fn record(stream: &CudaStream) -> Result<CudaEvent, CudaError> {
    // An event that can be asked for its time.
    let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
    stream.record_event(Some(flags)).map_err(could_not("record the time"))
}

impl Timing {
    /// Room for so many runs.
    pub fn new(runs: usize) -> Timing {
        let (origin, most_runs) = (Instant::now(), runs);
        Timing { origin, most_runs, runs: Vec::new(), slices: Vec::new(), first: None, marks: Vec::new() }
    }

    /// Whether another run is to be recorded.
    pub fn has_room(&self) -> bool {
        self.runs.len() < self.most_runs
    }

    /// A run begins.
    pub fn begin(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        let start = self.origin.elapsed().as_nanos() as u64;
        self.runs.push(Span { start, end: start });
        self.first = Some(record(stream)?);
        Ok(())
    }

    /// What was asked for since the last mark is part of this.
    pub fn mark(
        &mut self,
        stream: &CudaStream,
        part: Part,
        launch: Option<usize>,
        layer: usize,
    ) -> Result<(), CudaError> {
        self.marks.push((record(stream)?, part, launch.map(|launch| launch as u32), layer as u32));
        Ok(())
    }

    /// The run has ended, and the GPU has done it all.
    pub fn end(&mut self) -> Result<(), CudaError> {
        let Some((run, first)) = self.runs.last_mut().zip(self.first.take()) else { return Ok(()) };
        let mut last = run.start;
        for (event, part, launch, layer) in self.marks.drain(..) {
            let milliseconds = first.elapsed_ms(&event).map_err(could_not("tell the time"))?;
            let span =
                Span { start: last, end: (run.start + (f64::from(milliseconds) * 1e6) as u64).max(last) };
            last = span.end;
            self.slices.push(Slice { part, launch, layer, instances: 0, span });
            if let (Part::Kernel, Some(_)) = (part, launch) {
                // Where launches end in turn, nobody waits; a launch is counted by its wait.
                let span = Span { start: last, end: last };
                self.slices.push(Slice { part: Part::Wait, launch, layer, instances: 0, span });
            }
        }
        run.end = self.origin.elapsed().as_nanos() as u64;
        Ok(())
    }

    /// What was recorded, of an entry with these launches.
    pub fn finish(self, mut launches: Vec<RecordedLaunch>) -> Recording {
        // On one stream each launch runs alone.
        launches.iter_mut().enumerate().for_each(|(at, launch)| launch.first = at);
        let threads = if self.slices.is_empty() { Vec::new() } else { vec![self.slices] };
        Recording { origin: self.origin, launches, runs: self.runs, threads, lost: 0 }
    }
}
