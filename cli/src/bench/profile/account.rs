//! Whose each second of a step is. Parts of a run are means over the threads,
//! so that they add up to the wall clock. It runs nothing.

use super::Profile;
use crate::bench::kernels::Peer;
use diptych_codegen::family::Family;
use diptych_ir::EntryKind;
use diptych_runtime::executor::Part;
use std::collections::BTreeMap;

/// A kernel, in all layers in which a step runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub entry: EntryKind,
    pub name: String,
    pub family: Family,
    /// A step.
    pub launches: f64,
    pub predicted: f64,
    /// Seconds in the kernel.
    pub kernel: f64,
    /// Seconds of waiting for its last thread.
    pub waiting: f64,
    pub flops: f64,
    pub bytes: f64,
    /// The least that it can take.
    pub floor: f64,
    /// What PyTorch would do in its place, each with how often in a step.
    pub peers: Vec<(Peer, f64)>,
}

impl Row {
    /// What is to be held against the prediction, which counts a launch until its last thread is done.
    pub fn seconds(&self) -> f64 {
        self.kernel + self.waiting
    }
}

/// Seconds of a step, a mean over the faster half of those recorded, and whose they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Steps that count, of how many that were recorded.
    pub steps: [usize; 2],
    /// By a clock around the steps.
    pub wall: f64,
    /// The same of the steps that were not recorded.
    pub plain: f64,
    /// Kernels, the longest first.
    pub rows: Vec<Row>,
    /// Copies between buffers, with the wait after them.
    pub copies: f64,
    /// The executor's own work between launches.
    pub executor: f64,
    /// Outside of runs: text, tables, logits, losses.
    pub outside: f64,
    /// Of runs, what no thread wrote down.
    pub unattributed: f64,
    /// Slices for which there was no room.
    pub lost: usize,
}

impl Account {
    /// The account of a profile.
    pub fn of(profile: &Profile) -> Account {
        let walls: Vec<f64> =
            profile.steps.iter().map(|[start, end]| (*end - *start).as_secs_f64()).collect();
        let counted = faster_half(&walls);
        let steps = counted.len().max(1) as f64;
        let mean = |seconds: &[f64]| {
            let counted = faster_half(seconds);
            counted.iter().map(|&step| seconds[step]).sum::<f64>() / counted.len() as f64
        };
        let mut account = Account {
            steps: [counted.len(), walls.len()],
            wall: mean(&walls),
            plain: mean(&profile.plain),
            ..Account::default()
        };
        let mut runs = 0.0;
        let mut rows: BTreeMap<(EntryKind, usize, &str), Row> = BTreeMap::new();
        for entry in &profile.entries {
            for recording in counted.iter().filter_map(|&step| entry.recordings.get(step)) {
                runs += recording.seconds() / steps;
                account.copies +=
                    (recording.part_seconds(Part::Copy) + recording.waiting_after_copies()) / steps;
                account.executor += recording.part_seconds(Part::Executor) / steps;
                account.lost += recording.lost;
                for (time, launch) in recording.times().iter().zip(&entry.launches) {
                    let row = rows.entry((entry.kind, launch.kernel, &launch.name)).or_insert_with(|| Row {
                        entry: entry.kind,
                        name: launch.name.clone(),
                        family: launch.family,
                        launches: 0.0,
                        predicted: 0.0,
                        kernel: 0.0,
                        waiting: 0.0,
                        flops: 0.0,
                        bytes: 0.0,
                        floor: 0.0,
                        peers: Vec::new(),
                    });
                    row.launches += time.runs as f64 / steps;
                    row.kernel += time.kernel_seconds / steps;
                    row.waiting += time.waiting_seconds / steps;
                }
            }
            for launch in &entry.launches {
                if let Some(row) = rows.get_mut(&(entry.kind, launch.kernel, launch.name.as_str())) {
                    row.predicted += launch.predicted_seconds;
                    row.flops += launch.flops;
                    row.bytes += launch.bytes;
                    row.floor += launch.floor_seconds;
                    row.peers.extend(launch.peers.iter().map(|peer| (peer.clone(), launch.runs as f64)));
                }
            }
        }
        account.outside = account.wall - runs;
        account.rows = rows.into_values().collect();
        account.rows.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
        account.unattributed = account.wall - account.attributed();
        account
    }

    /// Seconds that have an owner.
    pub fn attributed(&self) -> f64 {
        let kernels: f64 = self.rows.iter().map(Row::seconds).sum();
        kernels + self.copies + self.executor + self.outside
    }

    /// Seconds by kind, the longest kind of kernel first, then all else; with those unattributed they are the wall clock.
    pub fn kinds(&self) -> Vec<(&'static str, f64)> {
        let mut kinds: Vec<(&str, f64)> = Vec::new();
        for family in Family::ALL {
            let rows = self.rows.iter().filter(|row| row.family == family);
            let seconds: f64 = rows.map(|row| row.kernel).sum();
            if seconds > 0.0 {
                kinds.push((family.name(), seconds));
            }
        }
        kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
        let waiting: f64 = self.rows.iter().map(|row| row.waiting).sum();
        kinds.extend([
            ("waiting for the last thread", waiting),
            ("copies", self.copies),
            ("between launches", self.executor),
            ("outside of runs", self.outside),
            ("unattributed", self.unattributed),
        ]);
        kinds
    }
}

/// The steps that took no longer than the median: a step in which the system had other plans for a thread says
/// nothing of kernels.
fn faster_half(seconds: &[f64]) -> Vec<usize> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::INFINITY);
    (0..seconds.len()).filter(|&step| seconds[step] <= median).collect()
}

#[cfg(test)]
pub mod tests {
    use super::super::{Described, EntryProfile};
    use super::*;
    use diptych_ir::Program;
    use diptych_runtime::executor::{RecordedLaunch, Recording, Slice, Span};
    use std::time::{Duration, Instant};

    /// Two steps of two runs each on two threads: a `train` whose second and third launch run together, and an
    /// `update`. Times are in microseconds.
    pub fn example() -> Profile {
        let zero = Instant::now();
        let at = |micros: u64| zero + Duration::from_micros(micros + 5);
        let slice = |part, launch, start: u64, end: u64| Slice {
            part,
            launch,
            layer: 0,
            instances: 1,
            span: Span { start: start * 1000, end: end * 1000 },
        };
        let recorded = |first| RecordedLaunch { kernel: 0, region: Program::MAIN, first };
        let described = |name: &str, family| Described {
            kernel: 0,
            name: name.to_owned(),
            family,
            runs: 1,
            predicted_seconds: 1e-4,
            flops: 1e6,
            bytes: 1e5,
            floor_seconds: 1e-5,
            peers: Vec::new(),
        };
        // Ready 5 before its step, whose slices are counted from then.
        let train = |step: u64| Recording {
            origin: at(step) - Duration::from_micros(5),
            launches: vec![recorded(0), recorded(1), recorded(1)],
            runs: vec![Span { start: 10_000, end: 500_000 }],
            threads: vec![
                vec![
                    slice(Part::Executor, Some(0), 10, 12),
                    slice(Part::Kernel, Some(0), 12, 200),
                    slice(Part::Wait, Some(0), 200, 201),
                    slice(Part::Kernel, Some(1), 201, 440),
                    slice(Part::Wait, Some(1), 440, 450),
                    slice(Part::Copy, None, 450, 480),
                    slice(Part::Wait, None, 480, 490),
                ],
                vec![
                    slice(Part::Executor, Some(0), 10, 50),
                    slice(Part::Kernel, Some(0), 50, 150),
                    slice(Part::Wait, Some(0), 150, 201),
                    slice(Part::Kernel, Some(2), 201, 450),
                    slice(Part::Wait, Some(1), 450, 450),
                    slice(Part::Copy, None, 450, 490),
                    slice(Part::Wait, None, 490, 490),
                ],
            ],
            lost: 0,
        };
        let update = |origin: u64| Recording {
            origin: at(origin),
            launches: vec![recorded(0)],
            runs: vec![Span { start: 0, end: 100_000 }],
            threads: vec![
                vec![slice(Part::Kernel, Some(0), 0, 90), slice(Part::Wait, Some(0), 90, 98)],
                vec![slice(Part::Kernel, Some(0), 0, 98), slice(Part::Wait, Some(0), 98, 98)],
            ],
            lost: 0,
        };
        Profile {
            title: "an example".to_owned(),
            steps: vec![[at(0), at(640)], [at(1000), at(1640)]],
            plain: vec![6e-4, 7e-4, 6.3e-4],
            entries: vec![
                EntryProfile {
                    kind: EntryKind::Train,
                    recordings: vec![train(0), train(1000)],
                    launches: vec![
                        described("gate", Family::Products),
                        described("scores", Family::Attention),
                        described("gate", Family::Products),
                    ],
                },
                EntryProfile {
                    kind: EntryKind::Update,
                    recordings: vec![update(510), update(1510)],
                    launches: vec![described("step", Family::Optimizer)],
                },
            ],
        }
    }

    #[test]
    fn steps_that_were_put_off_do_not_count() {
        assert_eq!(faster_half(&[3.0, 1.0, 9.0, 2.0]), [1, 3]);
        assert_eq!(faster_half(&[3.0, 1.0, 2.0]), [1, 2]);
        assert_eq!(faster_half(&[1.0]), [0]);
        assert_eq!(faster_half(&[]), [0; 0]);
        let mut profile = example();
        profile.steps[1][1] += Duration::from_millis(50);
        let account = Account::of(&profile);
        assert_eq!(account.steps, [1, 2]);
        assert!((account.wall - 640e-6).abs() < 1e-12 && (account.outside - 50e-6).abs() < 1e-12);
    }

    #[test]
    fn every_second_has_one_owner() {
        let account = Account::of(&example());
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and {b}");
        close(account.wall, 640e-6);
        close(account.plain, 6.15e-4);
        close(account.outside, 50e-6);
        close(account.executor, 21e-6);
        close(account.copies, 40e-6);
        // Of the runs, what is after the last slice: 10 of the first, 2 of the second.
        close(account.unattributed, 12e-6);
        close(account.kinds().iter().map(|kind| kind.1).sum(), account.wall);
        close(account.attributed() + account.unattributed, account.wall);
        let row = |name: &str| account.rows.iter().find(|row| row.name == name).unwrap();
        // Both launches of one kernel and name are one row: 188 and 100, and 249 beside the other's 239.
        let gate = row("gate");
        close(gate.kernel, (188.0 + 100.0 + 249.0) / 2.0 * 1e-6);
        close(gate.launches, 2.0);
        close(gate.predicted, 2e-4);
        close(gate.waiting, (26.0 + 5.0 * 249.0 / 488.0) * 1e-6);
        close(row("step").seconds(), 98e-6);
        assert!(account.rows.is_sorted_by(|a, b| a.seconds() >= b.seconds()));
    }
}
