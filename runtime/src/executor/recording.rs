//! What each thread of a run did, and when: one slice after the other, on one
//! clock. Room for slices is taken beforehand, so that a recorded run allocates
//! nothing either. It must not know what kernels compute.

use diptych_ir::RegionId;
use std::time::Instant;

/// What a thread did for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Instances of a launch.
    Kernel,
    /// Its share of a copy between buffers.
    Copy,
    /// Waited for the other threads, after a copy or after launches that run together.
    Wait,
    /// Looked up what comes next; at the start of a run, woke up.
    Executor,
}

/// A while, in nanoseconds from the origin of its recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
}

impl Span {
    /// How long it was.
    pub fn seconds(self) -> f64 {
        self.end.saturating_sub(self.start) as f64 * 1e-9
    }
}

/// One thing that a thread did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// What.
    pub part: Part,
    /// Of which launch, in program order; of those that run together, a wait has the first. A copy has none.
    pub launch: Option<u32>,
    /// In which layer, within a repeat.
    pub layer: u32,
    /// How many instances it computed, of a launch.
    pub instances: u32,
    /// When.
    pub span: Span,
}

/// A launch of an entry, as far as a recording tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordedLaunch {
    /// The kernel, by position.
    pub kernel: usize,
    /// The region of its group.
    pub region: RegionId,
    /// The first of the launches that it runs together with; itself, if it runs alone.
    pub first: usize,
}

/// What a launch has taken, over all recorded runs. Seconds are means over the threads, so that those of all
/// launches add up to the wall clock with what else there is in a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchTime {
    /// The kernel, by position.
    pub kernel: usize,
    /// The region of its group.
    pub region: RegionId,
    /// Its position among the entry's launches, in program order.
    pub launch: usize,
    /// How often it ran.
    pub runs: usize,
    /// In its kernel.
    pub kernel_seconds: f64,
    /// Waiting at its end. Launches that run together share their wait as they share the time before it.
    pub waiting_seconds: f64,
}

impl LaunchTime {
    /// From its start to the end of its last thread, where it runs alone.
    pub fn seconds(&self) -> f64 {
        self.kernel_seconds + self.waiting_seconds
    }
}

/// Some runs of an entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Recording {
    /// When the clock of all spans stood at 0.
    pub origin: Instant,
    /// The launches of the entry.
    pub launches: Vec<RecordedLaunch>,
    /// The runs, as their caller sees them.
    pub runs: Vec<Span>,
    /// What each thread did, in order.
    pub threads: Vec<Vec<Slice>>,
    /// Slices for which there was no room. Their time belongs to nobody.
    pub lost: usize,
}

impl Recording {
    /// Seconds of all runs.
    pub fn seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.seconds()).sum()
    }

    /// Seconds of slices of one part, a mean over the threads.
    pub fn part_seconds(&self, part: Part) -> f64 {
        let slices = self.threads.iter().flatten().filter(|slice| slice.part == part);
        slices.map(|slice| slice.span.seconds()).sum::<f64>() / self.threads.len().max(1) as f64
    }

    /// Seconds of waiting that belong to no launch: after copies.
    pub fn waiting_after_copies(&self) -> f64 {
        let after = |slice: &&Slice| slice.part == Part::Wait && slice.launch.is_none();
        let slices = self.threads.iter().flatten().filter(after);
        slices.map(|slice| slice.span.seconds()).sum::<f64>() / self.threads.len().max(1) as f64
    }

    /// What each launch took, in program order.
    pub fn times(&self) -> Vec<LaunchTime> {
        let threads = self.threads.len().max(1) as f64;
        let count = self.launches.len();
        let (mut busy, mut waits, mut runs) = (vec![0.0; count], vec![0.0; count], vec![0; count]);
        for (thread, slices) in self.threads.iter().enumerate() {
            for slice in slices {
                let Some(launch) = slice.launch.map(|launch| launch as usize) else { continue };
                let seconds = slice.span.seconds() / threads;
                match slice.part {
                    Part::Kernel => busy[launch] += seconds,
                    Part::Wait => {
                        waits[launch] += seconds;
                        // Each thread waits once at the end of launches, whatever it had of them.
                        runs[launch] += usize::from(thread == 0);
                    }
                    Part::Copy | Part::Executor => {}
                }
            }
        }
        let (mut of_group, mut members) = (vec![0.0; count], vec![0; count]);
        for (launch, recorded) in self.launches.iter().enumerate() {
            of_group[recorded.first] += busy[launch];
            members[recorded.first] += 1;
        }
        let time = |(launch, recorded): (usize, &RecordedLaunch)| {
            let &RecordedLaunch { kernel, region, first } = recorded;
            let share = match of_group[first] > 0.0 {
                true => busy[launch] / of_group[first],
                false => 1.0 / members[first] as f64,
            };
            let (kernel_seconds, waiting_seconds) = (busy[launch], waits[first] * share);
            LaunchTime { kernel, region, launch, runs: runs[first], kernel_seconds, waiting_seconds }
        };
        self.launches.iter().enumerate().map(time).collect()
    }
}

/// Where an executable records, if it does.
pub(super) struct Recorder {
    origin: Instant,
    runs: Vec<Span>,
    threads: Vec<Track>,
}

/// The slices of a thread.
#[derive(Default)]
pub(super) struct Track {
    slices: Vec<Slice>,
    lost: usize,
}

/// A vector with this room, of which every page is there: a first touch would be part of what is timed.
fn room<T: Copy>(value: T, count: usize) -> Vec<T> {
    let mut values = vec![value; count];
    values.clear();
    values
}

impl Recorder {
    /// One with room for so many runs, of at most so many slices a thread.
    pub(super) fn new(runs: usize, slices: usize, threads: usize) -> Recorder {
        let none = Slice { part: Part::Wait, launch: None, layer: 0, instances: 0, span: Span::default() };
        let track = |_| Track { slices: room(none, runs * slices), lost: 0 };
        Recorder {
            origin: Instant::now(),
            runs: room(Span::default(), runs),
            threads: (0..threads).map(track).collect(),
        }
    }

    /// The run that begins now; `None` if there is no room for another.
    pub(super) fn begin(&mut self) -> Option<RunPen> {
        if self.runs.len() == self.runs.capacity() {
            return None;
        }
        let start = nanoseconds(self.origin);
        self.runs.push(Span { start, end: start });
        Some(RunPen {
            origin: self.origin,
            start,
            threads: self.threads.len(),
            tracks: self.threads.as_mut_ptr(),
        })
    }

    /// The run ends now.
    pub(super) fn end(&mut self) {
        let now = nanoseconds(self.origin);
        if let Some(run) = self.runs.last_mut() {
            run.end = now;
        }
    }

    /// What was recorded, of an entry with these launches.
    pub(super) fn finish(self, launches: Vec<RecordedLaunch>) -> Recording {
        let lost = self.threads.iter().map(|track| track.lost).sum();
        let tracks = self.threads.into_iter().map(|track| track.slices);
        // A pool may have fewer threads than there was room for.
        let threads = tracks.filter(|slices| !slices.is_empty()).collect();
        Recording { origin: self.origin, launches, runs: self.runs, threads, lost }
    }
}

/// What the threads of a run write with.
#[derive(Clone, Copy)]
pub(super) struct RunPen {
    origin: Instant,
    start: u64,
    threads: usize,
    tracks: *mut Track,
}

impl RunPen {
    /// The pen of a thread.
    ///
    /// # Safety
    /// Each thread must ask for its own, once in a run, and the recorder must outlive the run.
    pub(super) unsafe fn of<'a>(self, thread: usize) -> Pen<'a> {
        if thread >= self.threads {
            return Pen { track: None, origin: self.origin, last: 0 };
        }
        // SAFETY: as promised, nobody else has this track.
        Pen { track: Some(unsafe { &mut *self.tracks.add(thread) }), origin: self.origin, last: self.start }
    }
}

/// With which a thread writes down what it has done; without a track, nothing.
pub(super) struct Pen<'a> {
    track: Option<&'a mut Track>,
    origin: Instant,
    last: u64,
}

impl Pen<'_> {
    /// One that writes nothing.
    pub(super) fn none() -> Self {
        Pen { track: None, origin: Instant::now(), last: 0 }
    }

    /// From the last mark, or the start of the run, until now the thread did this.
    #[inline]
    pub(super) fn mark(&mut self, part: Part, launch: Option<usize>, layer: usize, instances: usize) {
        let Some(track) = &mut self.track else { return };
        let span = Span { start: self.last, end: nanoseconds(self.origin) };
        self.last = span.end;
        if track.slices.len() == track.slices.capacity() {
            track.lost += 1;
            return;
        }
        let launch = launch.map(|launch| launch as u32);
        track.slices.push(Slice { part, launch, layer: layer as u32, instances: instances as u32, span });
    }
}

fn nanoseconds(origin: Instant) -> u64 {
    origin.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_ir::Program;

    fn slice(part: Part, launch: Option<u32>, start: u64, end: u64) -> Slice {
        Slice { part, launch, layer: 0, instances: 1, span: Span { start, end } }
    }

    #[test]
    fn waits_are_shared_by_launches_that_run_together() {
        let launch = |first| RecordedLaunch { kernel: 0, region: Program::MAIN, first };
        let recording = Recording {
            origin: Instant::now(),
            launches: vec![launch(0), launch(1), launch(1), launch(3)],
            runs: vec![Span { start: 0, end: 4000 }],
            threads: vec![
                vec![
                    slice(Part::Executor, None, 0, 10),
                    slice(Part::Kernel, Some(0), 10, 1000),
                    slice(Part::Wait, Some(0), 1000, 1000),
                    slice(Part::Kernel, Some(1), 1000, 2200),
                    slice(Part::Wait, Some(1), 2200, 3000),
                    slice(Part::Copy, None, 3000, 3500),
                    slice(Part::Wait, None, 3500, 3600),
                    slice(Part::Wait, Some(3), 3600, 3700),
                ],
                vec![
                    slice(Part::Executor, None, 0, 100),
                    slice(Part::Kernel, Some(0), 100, 600),
                    slice(Part::Wait, Some(0), 600, 1000),
                    slice(Part::Kernel, Some(2), 1000, 1400),
                    slice(Part::Wait, Some(1), 1400, 3000),
                    slice(Part::Copy, None, 3000, 3600),
                    slice(Part::Wait, None, 3600, 3600),
                    slice(Part::Wait, Some(3), 3600, 3700),
                ],
            ],
            lost: 0,
        };
        let times = recording.times();
        let close = |a: f64, nanoseconds: f64| assert!((a * 1e9 - nanoseconds).abs() < 1e-6, "{a}");
        close(times[0].kernel_seconds, (990.0 + 500.0) / 2.0);
        close(times[0].waiting_seconds, 200.0);
        // Of 1200 on average, three parts in four and one.
        close(times[1].waiting_seconds, 900.0);
        close(times[2].waiting_seconds, 300.0);
        close(times[3].waiting_seconds, 100.0);
        assert!(times.iter().all(|time| time.runs == 1));
        let launches: f64 = times.iter().map(LaunchTime::seconds).sum();
        let rest = recording.part_seconds(Part::Copy)
            + recording.waiting_after_copies()
            + recording.part_seconds(Part::Executor);
        close(launches + rest, 3700.0);
    }

    #[test]
    fn what_has_no_room_is_counted_and_not_written() {
        let mut recorder = Recorder::new(1, 2, 1);
        let pen = recorder.begin().unwrap();
        // SAFETY: the only thread, once.
        let mut pen = unsafe { pen.of(0) };
        for launch in 0..5 {
            pen.mark(Part::Kernel, Some(launch), 0, 1);
        }
        recorder.end();
        assert!(recorder.begin().is_none());
        let room = recorder.threads[0].slices.capacity();
        let recording = recorder.finish(Vec::new());
        assert_eq!((recording.threads[0].len(), recording.lost), (room.min(5), 5 - room.min(5)));
        assert!(recording.threads[0].windows(2).all(|pair| pair[0].span.end == pair[1].span.start));
    }
}
