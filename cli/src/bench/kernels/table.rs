//! The table of checks, and that of times: kernel, time, roofline, share of it, PyTorch's time, ratio. It runs nothing.

use super::Findings;
use super::check::{Check, Measure};
use super::peers::{Peer, PeerTimes};
use crate::bench::profile::{Account, Row};
use crate::format::{columns, push, seconds, short, wrapped};
use serde::Serialize;
use std::collections::BTreeMap;

/// Columns of a line of text.
const COLUMNS: usize = 120;
/// Kernels that take less of a step are added up in one row.
const LEAST_SHARE: f64 = 0.005;

/// A job that was timed.
#[derive(Serialize)]
pub struct Work {
    /// What was done.
    pub title: String,
    /// Seconds of a step as it is, from graphs.
    pub seconds: f64,
    /// Seconds of a step whose launches were timed one by one.
    pub recorded_seconds: f64,
    /// Its kernels, the longest first.
    pub lines: Vec<Line>,
}

/// A kernel, over all of its launches in a step.
#[derive(Serialize)]
pub struct Line {
    /// The entry.
    pub entry: &'static str,
    /// What it is called after.
    pub kernel: String,
    /// Launches of a step.
    pub launches: f64,
    /// What they took.
    pub seconds: f64,
    /// The least by the published peaks.
    pub roofline_seconds: f64,
    /// What was predicted.
    pub predicted_seconds: f64,
    /// What PyTorch took for the same products or attention; absent where it has no kernel for it, or was not timed.
    pub peer_seconds: Option<f64>,
}

/// The kernels of a job beside PyTorch's.
pub fn lines(account: &Account, times: &PeerTimes) -> Vec<Line> {
    // PyTorch forms all gradients of attention in one; what it takes is shared by operations.
    let mut backward: BTreeMap<String, f64> = BTreeMap::new();
    let gradients = |row: &Row| {
        let of_attention = |peer: &(Peer, f64)| matches!(peer.0, Peer::Attention { backward: true, .. });
        row.peers.iter().filter(move |peer| of_attention(peer)).map(|peer| peer.0.key()).next()
    };
    for row in &account.rows {
        if let Some(key) = gradients(row) {
            *backward.entry(key).or_default() += row.flops;
        }
    }
    let line = |row: &Row| {
        let share = gradients(row).map_or(1.0, |key| row.flops / backward[&key].max(f64::MIN_POSITIVE));
        Line {
            entry: row.entry.name(),
            kernel: row.name.clone(),
            launches: row.launches,
            seconds: row.seconds(),
            roofline_seconds: row.floor,
            predicted_seconds: row.predicted,
            peer_seconds: times.of(&row.peers).map(|seconds| share * seconds),
        }
    };
    account.rows.iter().map(line).collect()
}

/// The comparisons, a row each.
pub fn checks(checks: &[Check]) -> String {
    let mut rows = vec![["", "found", "allowed", "model", "what"].map(str::to_owned).to_vec()];
    for check in checks {
        let number = |number: f64| match check.measure {
            Measure::RelativeError => format!("{number:.1e}"),
            Measure::Differing => format!("{number:.0}"),
        };
        let verdict = if check.holds() { "ok" } else { "WRONG" };
        let model = format!("{} {}", check.model, check.dtype);
        let (found, allowed) = (number(check.found), number(check.allowed));
        rows.push(vec![verdict.to_owned(), found, allowed, model, check.what.clone()]);
    }
    columns(&rows)
}

/// The times.
pub fn text(findings: &Findings) -> String {
    let mut out = String::new();
    for work in &findings.works {
        push(
            &mut out,
            format_args!(
                "\n{}: {} a step, {} where each launch is timed\n{}",
                work.title,
                seconds(work.seconds),
                seconds(work.recorded_seconds),
                times(work)
            ),
        );
    }
    out.push('\n');
    notes(findings).iter().for_each(|note| out.push_str(&wrapped(&format!("{note}\n"), COLUMNS)));
    out
}

fn times(work: &Work) -> String {
    let header = ["launches", "ms", "roofline", "share", "predicted", "PyTorch", "ratio", "kernel"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let none = || "–".to_owned();
    let row = |launches: f64, [time, roofline, predicted]: [f64; 3], peer: Option<f64>, name: String| {
        vec![
            format!("{launches:.0}"),
            short(time * 1e3),
            short(roofline * 1e3),
            format!("{:.0}%", 100.0 * roofline / time.max(f64::MIN_POSITIVE)),
            short(predicted * 1e3),
            peer.map_or_else(none, |peer| short(peer * 1e3)),
            peer.map_or_else(none, |peer| short(peer / time.max(f64::MIN_POSITIVE))),
            name,
        ]
    };
    let of = |line: &Line| [line.seconds, line.roofline_seconds, line.predicted_seconds];
    let (shown, small): (Vec<&Line>, Vec<&Line>) =
        work.lines.iter().partition(|line| line.seconds >= LEAST_SHARE * work.recorded_seconds);
    for line in shown {
        let name = format!("{}: {}", line.entry, line.kernel);
        rows.push(row(line.launches, of(line), line.peer_seconds, name));
    }
    let sum = |lines: &[&Line]| {
        let add = |sum: [f64; 3], line: &&Line| {
            let more = of(line);
            [0, 1, 2].map(|at| sum[at] + more[at])
        };
        let launches = lines.iter().map(|line| line.launches).sum();
        (launches, lines.iter().fold([0.0; 3], add))
    };
    if !small.is_empty() {
        let (launches, times) = sum(&small);
        let name = format!("{} kernels below {}% each", small.len(), 100.0 * LEAST_SHARE);
        rows.push(row(launches, times, None, name));
    }
    let all: Vec<&Line> = work.lines.iter().collect();
    let (launches, times) = sum(&all);
    rows.push(row(launches, times, None, "all kernels".to_owned()));
    columns(&rows)
}

/// What the figures mean, a line each.
fn notes(findings: &Findings) -> Vec<String> {
    let mut notes = vec![format!("{}: {}", findings.device, findings.processor)];
    if !findings.times_count {
        notes.push(
            "A VIRTUAL GPU EXECUTES CODE ON THE CPU, WITH CHECKS: ITS TIMES SAY NOTHING OF A GPU. What was compared above \
             counts."
                .to_owned(),
        );
    }
    notes.push(format!(
        "Times: milliseconds of all launches of a kernel in a step, mean of the faster half of the recorded steps, by events \
         after each launch; a launch of a few µs shows what launching takes. The weights of a step are more than caches \
         hold. Roofline: for each launch the slowest of tensor cores, other units and memory at the published peaks of {}; \
         share: that over the time.",
        findings.machine
    ));
    notes.push(format!(
        "PyTorch: cuBLAS for the products of a kernel alone, without what is fused with them, and its fused attention; \
         ratio: its time over ours, above 1 where ours is faster. {}",
        findings.peer
    ));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(times_count: bool) -> Findings {
        let line = |kernel: &str, seconds: f64, peer_seconds| Line {
            entry: "train",
            kernel: kernel.to_owned(),
            launches: 2.0,
            seconds,
            roofline_seconds: 5e-4,
            predicted_seconds: 6e-4,
            peer_seconds,
        };
        let lines = vec![line("gate", 1e-3, Some(2e-3)), line("norm", 6e-4, None), line("tiny", 1e-6, None)];
        let title = "a model: a step".to_owned();
        Findings {
            device: "cuda:0".to_owned(),
            processor: "a GPU".to_owned(),
            times_count,
            machine: "h100-sxm".to_owned(),
            checks: Vec::new(),
            works: vec![Work { title, seconds: 1.5e-3, recorded_seconds: 1.7e-3, lines }],
            peer: "torch 1".to_owned(),
        }
    }

    #[test]
    fn the_table_has_times_rooflines_and_ratios() {
        let text = text(&findings(true));
        let found = |end: &str| {
            let line =
                text.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{end}: {text}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(found("train: gate")[..7], ["2", "1.00", "0.500", "50%", "0.600", "2.00", "2.00"]);
        assert_eq!(found("train: norm")[5..7], ["–", "–"]);
        assert_eq!(found("1 kernels below 0.5% each")[0], "2");
        assert_eq!(found("all kernels")[..3], ["6", "1.60", "1.50"]);
        assert!(text.contains("1.50 ms a step, 1.70 ms where") && !text.contains("VIRTUAL"), "{text}");
        assert!(super::text(&findings(false)).contains("ITS TIMES SAY NOTHING"));
    }

    #[test]
    fn what_does_not_hold_stands_out() {
        let check = |found| Check {
            model: "llama-tiny".to_owned(),
            dtype: "bf16",
            what: "score".to_owned(),
            measure: Measure::RelativeError,
            found,
            allowed: 2e-2,
        };
        let text = checks(&[check(1e-3), check(f64::INFINITY)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("ok") && lines[1].contains("1.0e-3"), "{text}");
        assert!(lines[2].contains("WRONG") && lines[2].contains("inf"), "{text}");
    }
}
