//! What lanes and warps do together, in PTX written by hand: shuffles, votes, divergence, atomics, races among them.

// Loops over lanes name the lane in every array that they touch.
#![allow(clippy::needless_range_loop)]

mod common;

use common::Bench;
use common::single::{COUNT, operands, run};
use diptych_virtual_gpu::{Arguments, Fault, Target};

#[test]
fn lanes_together() {
    let lane = |at: usize| at % 32;
    let ra = operands(1);
    let shuffle = |text: &str, source: &dyn Fn(usize) -> Option<usize>| {
        let got = run(
            &format!("shfl.sync.{text} 0xffffffff; selp.u32 %re, 1, 0, %q; mov.b64 %d, {{%rd, %re}};"),
            "%d",
        );
        for at in 0..COUNT {
            let (from, valid) = match source(lane(at)) {
                Some(from) => (at - lane(at) + from, 1),
                None => (at, 0),
            };
            assert_eq!(got[at], ra[from] & 0xffff_ffff | valid << 32, "{text}, lane {}", lane(at));
        }
    };
    shuffle("bfly.b32 %rd|%q, %ra, 5, 31,", &|lane| Some(lane ^ 5));
    shuffle("up.b32 %rd|%q, %ra, 3, 0,", &|lane| lane.checked_sub(3));
    shuffle("down.b32 %rd|%q, %ra, 4, 31,", &|lane| Some(lane + 4).filter(|lane| *lane < 32));
    shuffle("idx.b32 %rd|%q, %ra, 7, 31,", &|_| Some(7));
    // In segments of eight lanes: the clamp's bits 8 to 12 are those of the lane that stay.
    shuffle("down.b32 %rd|%q, %ra, 4, 0x181f,", &|lane| Some(lane + 4).filter(|to| to / 8 == lane / 8));
    shuffle("idx.b32 %rd|%q, %ra, 2, 0x181f,", &|lane| Some(lane / 8 * 8 + 2));
    let c = operands(3);
    let warp = |at: usize| (at - lane(at)..at - lane(at) + 32).collect::<Vec<_>>();
    let votes = |at: usize| warp(at).iter().map(|i| (c[*i] & 1) << lane(*i)).sum::<u64>();
    let got = run("vote.sync.ballot.b32 %rd, %p, -1;", "%rd");
    assert!((0..COUNT).all(|at| got[at] == votes(at)));
    let got = run("vote.sync.any.pred %pd, !%p, -1;", "%pd");
    assert!((0..COUNT).all(|at| got[at] == u64::from(votes(at) != 0xffff_ffff)));
    let got = run("redux.sync.max.s32 %rd, %ra, -1;", "%rd");
    assert!(
        (0..COUNT)
            .all(|at| got[at] as u32 as i32 == warp(at).iter().map(|i| ra[*i] as u32 as i32).max().unwrap())
    );
    let got = run("match.any.sync.b32 %rd, %ra, -1;", "%rd");
    for at in 0..COUNT {
        let same = warp(at)
            .iter()
            .filter(|i| ra[**i] as u32 == ra[at] as u32)
            .map(|i| 1u64 << lane(*i))
            .sum::<u64>();
        assert_eq!(got[at], same);
    }
    // Lanes go different ways and meet again.
    let text = "@%p bra ODD; add.s32 %rd, %ra, 1; bra.uni JOIN; ODD: add.s32 %rd, %ra, 2; JOIN: \
                shfl.sync.idx.b32 %rd, %rd, 0, 31, -1;";
    let got = run(text, "%rd");
    for at in 0..COUNT {
        let first = at - lane(at);
        assert_eq!(got[at] as u32, (ra[first] as u32).wrapping_add(1 + (c[first] & 1) as u32));
    }
    // A loop that each lane leaves after its own number of rounds.
    let text = "and.b32 %re, %ra, 15; LOOP: add.s32 %rd, %rd, %re; sub.s32 %re, %re, 1; setp.gt.s32 %q, %re, 0; \
                @%q bra LOOP; activemask.b32 %re; setp.ne.u32 %q, %re, -1; @%q mov.u32 %rd, -1;";
    let got = run(text, "%rd");
    for at in 0..COUNT {
        let n = ra[at] & 15;
        assert_eq!(got[at], n * (n + 1) / 2, "lane {}", lane(at));
    }
}

#[test]
fn atomics_of_all_lanes_add_up() {
    let ptx = "
        .version 8.0\n.target sm_80\n.address_size 64
        .visible .entry count(.param .u64 out) {
            .reg .b64 %d<3>; .reg .b32 %r<8>; .reg .pred %p<2>;
            .shared .align 4 .b8 sums[8];
            ld.param.u64 %d0, [out];
            mov.u32 %r0, %tid.x;
            setp.ne.u32 %p0, %r0, 0;
            @!%p0 st.shared.v2.u32 [sums], {0, 0};
            bar.sync 0;
            red.shared.add.u32 [sums], %r0;
            atom.shared.max.s32 %r1, [sums+4], %r0;
            bar.sync 0;
            ld.shared.v2.u32 {%r2, %r3}, [sums];
            @!%p0 atom.global.add.u32 %r4, [%d0], %r2;
            @!%p0 red.global.max.u32 [%d0+4], %r3;
            cvt.rn.f32.u32 %r5, %r0;
            red.global.add.f32 [%d0+8], %r5;
            red.global.xor.b64 [%d0+16], 1;
            ret;
        }";
    let mut bench = Bench::of_ptx(ptx, Target::Sm80);
    let out = bench.upload(&[0; 24]);
    bench
        .launch("count", [3, 1, 1], [96, 1, 1], 0, Arguments::new().pointer(out))
        .unwrap_or_else(|e| panic!("{e}"));
    let mut bytes = [0; 24];
    bench.device.read(out, &mut bytes).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let sum = 95 * 96 / 2 * 3;
    assert_eq!((word(0), word(4), f32::from_bits(word(8)), word(16)), (sum, 95, sum as f32, 0));
}

#[test]
fn lanes_of_one_store_agree_or_stay_apart() {
    let run = |store: &str| {
        let ptx = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {{
                .reg .b64 %d<4>; .reg .b32 %r<6>; .shared .align 4 .b8 memory[64];
                ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 1; mov.u32 %r2, memory;
                mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %d0, %d1; mad.lo.u32 %r2, %r1, 4, %r2;
                {store} ret; }}"
        );
        let mut bench = Bench::of_ptx(&ptx, Target::Sm80);
        let out = bench.empty(64);
        bench.launch("k", [1, 1, 1], [32, 1, 1], 0, Arguments::new().pointer(out))
    };
    run("st.global.u32 [%d1], %r1; st.shared.u32 [%r2], %r1;").unwrap_or_else(|error| panic!("{error}"));
    for (store, fault) in
        [("st.global.u32 [%d1], %r0;", Fault::GlobalRace), ("st.shared.u32 [%r2], %r0;", Fault::SharedRace)]
    {
        let diagnostic = common::diagnostic(run(store));
        assert!(diagnostic.fault == fault && diagnostic.message.contains("lanes 0 and 1"), "{diagnostic}");
    }
}

#[test]
fn warps_of_a_block_need_a_barrier_in_global_memory_too() {
    let run = |between: &str| {
        let ptx = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {{
                .reg .b64 %d<4>; .reg .b32 %r<6>;
                ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; xor.b32 %r1, %r0, 32;
                mul.wide.u32 %d1, %r0, 4; add.s64 %d1, %d0, %d1; st.global.u32 [%d1], %r0; {between}
                mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %d0, %d1; ld.global.u32 %r2, [%d1];
                add.u32 %r2, %r2, 1; st.global.u32 [%d1+512], %r2; ret; }}"
        );
        let mut bench = Bench::of_ptx(&ptx, Target::Sm80);
        let out = bench.upload(&[0; 1024]);
        bench.launch("k", [1, 1, 1], [64, 1, 1], 0, Arguments::new().pointer(out))
    };
    run("bar.sync 0;").unwrap_or_else(|error| panic!("{error}"));
    let diagnostic = common::diagnostic(run(""));
    assert!(
        diagnostic.fault == Fault::GlobalRace && diagnostic.message.contains("of the block"),
        "{diagnostic}"
    );
}
