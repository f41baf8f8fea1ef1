//! What was recorded as a trace in the format of Chrome's `about:tracing`, which Perfetto opens: a process for each
//! job, a track for its steps and one for each thread. The format: "Trace Event Format", Google, 2016. It computes no time.

use super::{EntryProfile, Profile};
use diptych_runtime::executor::{Part, Recording, Slice};
use serde_json::{Value, json};
use std::time::Instant;

/// The trace of some jobs, one after the other on one clock.
pub fn json(profiles: &[Profile]) -> Value {
    let starts = profiles.iter().flat_map(|profile| profile.steps.iter().map(|step| step[0]));
    // A recording is made ready before the step that it is of.
    let entries = profiles.iter().flat_map(|profile| &profile.entries);
    let origins = entries.flat_map(|entry| &entry.recordings).map(|recording| recording.origin);
    let mut events = Vec::new();
    if let Some(zero) = starts.chain(origins).min() {
        for (process, profile) in profiles.iter().enumerate() {
            Writer { zero, process, events: &mut events }.profile(profile);
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

struct Writer<'a> {
    zero: Instant,
    process: usize,
    events: &'a mut Vec<Value>,
}

impl Writer<'_> {
    fn profile(&mut self, profile: &Profile) {
        self.name("process_name", 0, &profile.title);
        self.name("thread_name", 0, "steps");
        let recordings = profile.entries.iter().flat_map(|entry| &entry.recordings);
        for thread in 0..recordings.map(|recording| recording.threads.len()).max().unwrap_or(0) {
            self.name("thread_name", thread + 1, &format!("thread {thread}"));
        }
        for (number, [start, end]) in profile.steps.iter().enumerate() {
            let (start, end) = (self.at(*start), self.at(*end));
            self.slice(0, &format!("step {number}"), "step", [start, end], json!({}));
        }
        for entry in &profile.entries {
            for recording in &entry.recordings {
                self.recording(entry, recording);
            }
        }
    }

    fn recording(&mut self, entry: &EntryProfile, recording: &Recording) {
        let origin = self.at(recording.origin);
        for run in &recording.runs {
            self.slice(0, entry.kind.name(), "run", [origin + run.start, origin + run.end], json!({}));
        }
        for (thread, slices) in recording.threads.iter().enumerate() {
            for slice in slices {
                let span = [origin + slice.span.start, origin + slice.span.end];
                let (name, category, arguments) = described(entry, slice);
                self.slice(thread + 1, name, category, span, arguments);
            }
        }
    }

    /// Nanoseconds from the start of the trace.
    fn at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.zero).as_nanos() as u64
    }

    fn slice(&mut self, track: usize, name: &str, category: &str, [start, end]: [u64; 2], arguments: Value) {
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        self.events.push(json!({
            "ph": "X", "pid": self.process, "tid": track, "name": name, "cat": category,
            "ts": micros(start), "dur": micros(end.saturating_sub(start)), "args": arguments,
        }));
    }

    fn name(&mut self, what: &str, track: usize, name: &str) {
        self.events.push(json!({
            "ph": "M", "pid": self.process, "tid": track, "name": what, "args": { "name": name },
        }));
    }
}

/// The name of a slice, its kind, and what else there is to know.
fn described<'a>(entry: &'a EntryProfile, slice: &Slice) -> (&'a str, &'static str, Value) {
    let launch = slice.launch.and_then(|launch| entry.launches.get(launch as usize));
    match (slice.part, launch) {
        (Part::Kernel, Some(launch)) => {
            let runs = launch.runs.max(1) as f64;
            let arguments = json!({
                "layer": slice.layer,
                "instances": slice.instances,
                "predicted ms, all threads": launch.predicted_seconds * 1e3 / runs,
                "FLOP, all threads": launch.flops / runs,
                "bytes, all threads": launch.bytes / runs,
            });
            (&launch.name, launch.family.name(), arguments)
        }
        (Part::Kernel, None) => ("a kernel", "kernel", json!({})),
        (Part::Copy, _) => ("copy", "copy", json!({})),
        (Part::Wait, launch) => {
            ("waiting", "waiting", json!({ "for": launch.map_or("a copy", |launch| &launch.name) }))
        }
        (Part::Executor, _) => ("executor", "executor", json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::example;
    use super::*;
    use std::collections::BTreeMap;

    /// Slices of each track, in nanoseconds.
    fn tracks(trace: &Value) -> BTreeMap<(u64, u64), Vec<[u64; 2]>> {
        let mut tracks: BTreeMap<(u64, u64), Vec<[u64; 2]>> = BTreeMap::new();
        for event in trace["traceEvents"].as_array().unwrap() {
            assert!(event["name"].is_string() && event["pid"].is_u64() && event["tid"].is_u64());
            if event["ph"] == "X" {
                let nanoseconds = |key: &str| (event[key].as_f64().unwrap() * 1e3).round() as u64;
                let start = nanoseconds("ts");
                let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
                tracks.entry(track).or_default().push([start, start + nanoseconds("dur")]);
            } else {
                assert_eq!(event["ph"], "M");
                assert!(event["args"]["name"].is_string());
            }
        }
        tracks
    }

    #[test]
    fn slices_nest_on_the_track_of_steps_and_never_overlap_on_those_of_threads() {
        let text = json(&[example(), example()]).to_string();
        let trace: Value = serde_json::from_str(&text).unwrap();
        let tracks = tracks(&trace);
        assert_eq!(tracks.len(), 6);
        for ((_, track), mut slices) in tracks {
            // What took no time that the clock can tell overlaps nothing.
            slices.retain(|[start, end]| start < end);
            // The longer of two that begin together is around the other.
            slices.sort_by_key(|[start, end]| (*start, u64::MAX - end));
            let mut around: Vec<u64> = Vec::new();
            let mut deepest = 0;
            for [start, end] in slices {
                around.retain(|&outer| outer > start);
                assert!(
                    around.iter().all(|&outer| end <= outer),
                    "{start} to {end} ends outside of {around:?}"
                );
                around.push(end);
                deepest = deepest.max(around.len());
            }
            assert_eq!(deepest, if track == 0 { 2 } else { 1 });
        }
    }

    #[test]
    fn kernels_say_what_was_predicted() {
        let trace = json(&[example()]);
        let events = trace["traceEvents"].as_array().unwrap();
        let scores = events.iter().find(|event| event["name"] == "scores").unwrap();
        assert_eq!(
            (&scores["cat"], &scores["ts"], &scores["dur"]),
            (&json!("attention"), &json!(201.0), &json!(239.0))
        );
        assert_eq!(scores["args"]["FLOP, all threads"], json!(1e6));
        assert_eq!(json(&[])["traceEvents"], json!([]));
    }
}
