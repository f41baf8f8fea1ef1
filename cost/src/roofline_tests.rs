//! Properties that hold on any machine and for any work, and a few cases worked out by hand.

use super::*;
use crate::machine::{Bandwidth, DotShare, Kind, MemoryLevel, Precision};
use crate::work::{Dot, ScalarOps};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn level(name: &str, capacity_bytes: f64, shared: bool, one: f64, all: f64) -> MemoryLevel {
    let bandwidth = Bandwidth { one_thread_bytes_per_second: one, all_threads_bytes_per_second: all };
    MemoryLevel { name: name.into(), capacity_bytes, shared, read: bandwidth, write: bandwidth }
}

/// Four threads of 100 GFLOP/s; memory saturates at two of them.
fn machine() -> Machine {
    let rates = Rates {
        threads: 4,
        launch_seconds: 1e-7,
        barrier_seconds: 1e-6,
        peak_flops_per_second_per_thread: BTreeMap::from([(Precision::F32, 100e9), (Precision::Bf16, 200e9)]),
        scalar_per_second_per_thread: ScalarOps {
            arithmetic: 50e9,
            divide: 5e9,
            exponential: 2e9,
            logarithm: 2e9,
            trigonometric: 1e9,
        },
        dot_shares: vec![
            DotShare { rows: 1.0, depth: 256.0, share_of_peak: 0.25 },
            DotShare { rows: 16.0, depth: 16.0, share_of_peak: 0.5 },
            DotShare { rows: 16.0, depth: 256.0, share_of_peak: 0.75 },
        ],
        gpu: None,
        levels: vec![
            level("L1", 32e3, false, 200e9, 800e9),
            level("L2", 1e6, false, 100e9, 400e9),
            level("L3", 32e6, true, 50e9, 150e9),
            level("DRAM", 16e9, true, 10e9, 20e9),
        ],
    };
    Machine {
        name: "test".into(),
        kind: Kind::Cpu,
        memory_bytes: 16e9,
        price: None,
        network: None,
        rates,
        unmeasured: BTreeMap::new(),
    }
}

fn dot(flops: f64) -> Dot {
    Dot { flops, issued_flops: flops, rows: 16.0, depth: 256.0, precision: Precision::F32 }
}

fn close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn a_large_contraction_runs_at_its_share_of_the_peak() {
    let work = Work { dots: vec![dot(3e11)], instances: 400.0, launches: 1.0, ..Work::default() };
    let prediction = predict(&work, &machine(), 4);
    close(prediction.seconds, 1.0 + 1.1e-6);
    assert_eq!(prediction.bound, Bound::Compute);
    close(predict(&work, &machine(), 1).seconds, 4.0 + 1e-7);
    let narrow = Work { dots: vec![Dot { precision: Precision::Bf16, ..dot(3e11) }], ..work };
    close(predict(&narrow, &machine(), 4).seconds, 0.5 + 1.1e-6);
}

#[test]
fn five_instances_on_four_threads_take_two_rounds() {
    let work = Work { dots: vec![dot(75e9 * 5.0)], instances: 5.0, ..Work::default() };
    close(predict(&work, &machine(), 4).seconds, 2.0);
    let alone = Work { instances: 1.0, launches: 1.0, ..work };
    // One instance uses one thread, which meets no other.
    close(predict(&alone, &machine(), 4).seconds, 5.0 + 1e-7);
}

#[test]
fn bytes_come_from_where_they_lie() {
    let seconds = |traffic: Traffic, threads: usize| {
        let work = Work { traffic: vec![traffic], instances: 64.0, ..Work::default() };
        predict(&work, &machine(), threads).seconds
    };
    close(seconds(Traffic::read(1e9), 4), 1e9 / 20e9);
    close(seconds(Traffic::read(1e9), 1), 1e9 / 10e9);
    close(seconds(Traffic::read(16e3), 1), 16e3 / 200e9);
    close(seconds(Traffic::update(1e9), 4), 2e9 / 20e9);
    // Sixteen megabytes are in the third cache if they were just touched, and in memory if much else was.
    close(seconds(Traffic::read(16e6), 4), 16e6 / 150e9);
    close(seconds(Traffic::read(16e6).last_used(1e9), 4), 16e6 / 20e9);
    // Ten passes over a large operand: from memory each time, or once if a thread keeps a part to itself.
    close(seconds(Traffic::read(1e8).repeated(10.0), 1), 1e9 / 10e9);
    close(seconds(Traffic::read(1e8).repeated(10.0).reused_within(2e4), 1), 1e8 / 10e9 + 9e8 / 200e9);
    // Each thread reads all of a small operand: one copy from memory, three from the cache that they share.
    let shared = Traffic::read(1e5).repeated(4.0).last_used(1e9);
    close(seconds(shared, 4), 1e5 / 20e9 + 3e5 / 150e9);
    // What no cache holds comes from memory for each.
    close(seconds(Traffic::read(1e8).repeated(4.0), 4), 4e8 / 20e9);
}

#[test]
fn bounds_are_named() {
    let machine = machine();
    let bound = |work: Work| predict(&Work { instances: 4.0, launches: 1.0, ..work }, &machine, 4).bound;
    assert_eq!(bound(Work::default()), Bound::Launch);
    let functions = ScalarOps { exponential: 1e9, arithmetic: 1e9, ..ScalarOps::default() };
    assert_eq!(bound(Work { scalar: functions, ..Work::default() }), Bound::Transcendental);
    let traffic = vec![Traffic::read(1e9), Traffic::write(1e3)];
    assert_eq!(bound(Work { traffic, ..Work::default() }), Bound::Memory("DRAM".into()));
}

#[test]
fn shares_are_interpolated_in_logarithms_and_held_outside() {
    let rates = machine().rates;
    close(rates.dot_share(16.0, 64.0), 0.625);
    close(rates.dot_share(4.0, 256.0), 0.5);
    close(rates.dot_share(1000.0, 1e6), 0.75);
    close(rates.dot_share(0.5, 1.0), 0.25);
}

prop_compose! {
    fn any_traffic()(
        footprint_bytes in 0.0..1e9_f64,
        times in 1.0..20.0_f64,
        direction in prop::sample::select(vec![Direction::Read, Direction::Write, Direction::Update]),
        since in proptest::option::of(0.0..1e10_f64),
        window in proptest::option::of(0.0..1e8_f64),
    ) -> Traffic {
        let traffic = Traffic { direction, ..Traffic::read(footprint_bytes) };
        Traffic {
            since_last_use_bytes: since,
            reuse_window_bytes: window,
            ..traffic.repeated(times)
        }
    }
}

prop_compose! {
    fn any_work()(
        dots in proptest::collection::vec((0.0..1e12_f64, 1.0..200.0_f64, 1.0..4096.0_f64), 0..3),
        counts in proptest::array::uniform5(0.0..1e9_f64),
        traffic in proptest::collection::vec(any_traffic(), 0..4),
        instances in 0_u32..100,
        launches in 0_u32..4,
    ) -> Work {
        let [arithmetic, divide, exponential, logarithm, trigonometric] = counts;
        Work {
            dots: dots
                .into_iter()
                .map(|(flops, rows, depth)| Dot { flops, issued_flops: flops, rows, depth, precision: Precision::F32 })
                .collect(),
            scalar: ScalarOps { arithmetic, divide, exponential, logarithm, trigonometric },
            issued: ScalarOps::default(),
            traffic,
            instances: f64::from(instances),
            launches: f64::from(launches),
        }
    }
}

/// A rounding or two of room.
const ROOM: f64 = 1.0 + 1e-12;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

    #[test]
    fn never_below_a_bound(work in any_work(), threads in 0_usize..8) {
        let machine = machine();
        let prediction = predict(&work, &machine, threads);
        let all = threads.clamp(1, 4) as f64;
        let flops: f64 = work.dots.iter().map(|dot| dot.flops).sum();
        prop_assert!(prediction.seconds * ROOM >= flops / (100e9 * all));
        prop_assert!(prediction.seconds * ROOM >= work.scalar.total() / (50e9 * all));
        prop_assert!(prediction.seconds * ROOM >= work.bytes() / (200e9 * all));
        prop_assert!(prediction.seconds * ROOM >= work.launches * 1e-7);
        let parts = &prediction.breakdown;
        let slower = parts.compute_seconds().max(parts.memory_seconds());
        prop_assert!((prediction.seconds - slower - parts.overhead_seconds).abs() <= 1e-12 * slower);
        prop_assert!(prediction.seconds.is_finite());
    }

    #[test]
    fn more_work_takes_no_less_time(work in any_work(), threads in 1_usize..5, more in 1.0..10.0_f64) {
        let machine = machine();
        let before = predict(&work, &machine, threads).seconds;
        let longer = |change: &dyn Fn(&mut Work)| {
            let mut work = work.clone();
            change(&mut work);
            predict(&work, &machine, threads).seconds * ROOM
        };
        let each = |work: &mut Work, change: &dyn Fn(&mut Traffic)| work.traffic.iter_mut().for_each(change);
        let slower = [
            longer(&|work| work.dots.iter_mut().for_each(|dot| dot.flops *= more)),
            longer(&|work| work.dots.iter_mut().for_each(|dot| dot.issued_flops *= more)),
            longer(&|work| work.scalar = work.scalar * more),
            longer(&|work| work.launches *= more),
            longer(&|work| each(work, &|traffic| traffic.bytes *= more)),
            longer(&|work| each(work, &|traffic| {
                traffic.bytes *= more;
                traffic.footprint_bytes *= more;
            })),
            longer(&|work| each(work, &|traffic| {
                traffic.since_last_use_bytes = traffic.since_last_use_bytes.map(|bytes| bytes * more);
                traffic.reuse_window_bytes = traffic.reuse_window_bytes.map(|bytes| bytes * more);
            })),
        ];
        for (index, after) in slower.into_iter().enumerate() {
            prop_assert!(after >= before, "change {}: {} after {}", index, after, before);
        }
    }

    #[test]
    fn more_threads_take_no_longer_but_for_the_barrier(work in any_work(), threads in 1_usize..4) {
        let machine = machine();
        let compute = |threads| predict(&work, &machine, threads).breakdown.compute_seconds();
        prop_assert!(compute(threads + 1) <= compute(threads) * ROOM);
    }

    #[test]
    fn work_adds_up(one in any_work(), two in any_work()) {
        let sum = one.clone() + two.clone();
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-12 * expected.abs();
        prop_assert!(close(sum.flops(), one.flops() + two.flops()));
        prop_assert!(close(sum.bytes(), one.bytes() + two.bytes()));
        prop_assert!(close(sum.footprint_bytes(), one.footprint_bytes() + two.footprint_bytes()));
        prop_assert_eq!(sum.launches, one.launches + two.launches);
        if let Some(intensity) = sum.arithmetic_intensity() {
            prop_assert!(close(intensity * sum.footprint_bytes(), sum.flops()));
        }
    }
}
