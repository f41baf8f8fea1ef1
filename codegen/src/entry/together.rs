//! Joins neighbouring launches that need nothing of one another: the optimiser
//! over all parameters, the gradients of several weights. Threads then wait
//! once for all of them, and share what would be too little work for each.

use super::{Buffer, BufferId, Launch, PlanStep};
use crate::tile::TileProgram;
use std::collections::HashSet;

/// Joins launches of one list of steps. Values of a joined run live through all
/// of it, so that no two of them share memory.
pub fn join(steps: Vec<PlanStep>, kernels: &[TileProgram], buffers: &mut [Buffer]) -> Vec<PlanStep> {
    let mut joined: Vec<PlanStep> = Vec::new();
    let mut run = Run::default();
    for step in steps {
        match step {
            PlanStep::Launch(launch) => {
                if !run.admits(&launch, kernels) {
                    run.finish(&mut joined, buffers);
                }
                run.add(launch, kernels);
            }
            other => {
                run.finish(&mut joined, buffers);
                joined.push(other);
            }
        }
    }
    run.finish(&mut joined, buffers);
    joined
}

#[derive(Default)]
struct Run {
    launches: Vec<Launch>,
    read: HashSet<BufferId>,
    written: HashSet<BufferId>,
}

fn touched<'a>(
    launch: &'a Launch,
    kernels: &'a [TileProgram],
) -> impl Iterator<Item = (BufferId, bool)> + 'a {
    let args = &kernels[launch.kernel].args;
    launch.args.iter().zip(args).map(|(place, arg)| (place.buffer, arg.written))
}

impl Run {
    /// Whether a launch neither reads nor writes what the run writes, and writes nothing that it reads.
    fn admits(&self, launch: &Launch, kernels: &[TileProgram]) -> bool {
        touched(launch, kernels).all(|(buffer, written)| {
            !(self.written.contains(&buffer) || written && self.read.contains(&buffer))
        })
    }

    fn add(&mut self, launch: Launch, kernels: &[TileProgram]) {
        for (buffer, written) in touched(&launch, kernels) {
            if written {
                self.written.insert(buffer)
            } else {
                self.read.insert(buffer)
            };
        }
        self.launches.push(launch);
    }

    fn finish(&mut self, steps: &mut Vec<PlanStep>, buffers: &mut [Buffer]) {
        let mut launches = std::mem::take(self).launches;
        match launches.len() {
            0 => {}
            1 => steps.extend(launches.pop().map(PlanStep::Launch)),
            _ => {
                let times = || launches.iter().map(|launch| launch.time);
                let (first, last) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
                for buffer in buffers {
                    if (first..=last).contains(&buffer.first) {
                        buffer.first = first;
                    }
                    if (first..=last).contains(&buffer.last) {
                        buffer.last = last;
                    }
                }
                steps.push(PlanStep::Together(launches));
            }
        }
    }
}
