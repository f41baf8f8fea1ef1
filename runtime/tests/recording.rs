//! A recorded run: what each thread did follows without a gap, adds up to the
//! wall clock, and changes no bit.

use diptych_ir::{EntryKind, Program};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{ServeOptions, Server};
use diptych_runtime::executor::{LaunchTime, Part, Recording};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

const RUNS: usize = 20;

fn program() -> Program {
    let registry = Registry::zoo();
    let mut config = registry.preset("llama-tiny").unwrap().describe();
    config["context"] = 512.into();
    build(&*registry.architecture("llama", &config).unwrap()).unwrap()
}

/// A prompt so many times over, recorded or not: the recording, seconds by a clock outside, and the logits' bits.
fn prefills(threads: usize, recorded: bool) -> (Recording, f64, Vec<u32>) {
    let device = Device::cpu(Some(threads)).unwrap();
    let (program, kinds) = (program(), [EntryKind::Prefill, EntryKind::Decode]);
    let mut session = Session::compile(&device, &program, 512, &kinds, &AdamWOptions::default()).unwrap();
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 3).unwrap()).unwrap();
    }
    let mut server = Server::new(&device, &session, ServeOptions::single(512)).unwrap();
    let tokens: Vec<i32> = (0..500).map(|at| at * 31 % 97).collect();
    let mut bits = Vec::new();
    let mut seconds = 0.0;
    for run in 0..=RUNS {
        if run == 1 && recorded {
            server.executable(EntryKind::Prefill).unwrap().record(RUNS);
        }
        let sequence = server.start().unwrap();
        let start = Instant::now();
        let logits = server.prefill(&[(sequence, &tokens)]).unwrap();
        if run > 0 {
            seconds += start.elapsed().as_secs_f64();
        }
        bits = logits.iter().map(|logit| logit.to_bits()).collect();
        server.release(sequence);
    }
    (server.executable(EntryKind::Prefill).unwrap().take_recording(), seconds, bits)
}

#[test]
fn the_parts_of_recorded_runs_add_up_and_change_no_bit() {
    let (nothing, _, expected) = prefills(1, false);
    assert_eq!((nothing.runs.len(), nothing.threads.len()), (0, 0));
    for threads in [1, 2] {
        let (recording, seconds, bits) = prefills(threads, true);
        assert_eq!(bits, expected);
        assert_eq!((recording.runs.len(), recording.threads.len(), recording.lost), (RUNS, threads, 0));
        for slices in &recording.threads {
            assert!(slices.iter().all(|slice| slice.span.start <= slice.span.end));
            assert!(slices.windows(2).all(|pair| pair[0].span.end <= pair[1].span.start));
            let within =
                |start: u64, end: u64| recording.runs.iter().any(|run| run.start <= start && end <= run.end);
            assert!(slices.iter().all(|slice| within(slice.span.start, slice.span.end)));
        }
        let times = recording.times();
        assert!(times.iter().any(|time| time.runs > RUNS), "layers run more than once a run");
        let launches: f64 = times.iter().map(LaunchTime::seconds).sum();
        let rest = recording.part_seconds(Part::Copy)
            + recording.part_seconds(Part::Executor)
            + recording.waiting_after_copies();
        let (parts, all) = (launches + rest, recording.seconds());
        assert!(all <= seconds, "{all} of {seconds}");
        assert!(parts <= all * 1.0001 && parts > 0.8 * all, "{parts} of {all} with {threads} threads");
        // All instances of a launch are computed, by whoever.
        let of = |launch: u32| {
            let of_launch = |slice: &&diptych_runtime::executor::Slice| slice.launch == Some(launch);
            recording.threads.iter().flatten().filter(of_launch).map(|slice| slice.instances).sum::<u32>()
        };
        assert!(times.iter().filter(|time| time.runs > 0).all(|time| of(time.launch as u32) > 0));
    }
}
