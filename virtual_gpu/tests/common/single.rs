//! A few instructions, in PTX written by hand, run for many operands.

use super::Bench;
use diptych_virtual_gpu::{Arguments, Target};

/// Runs of a text.
pub const COUNT: usize = 512;

/// Operands: values at the edges first, then random bits.
pub fn operands(seed: u64) -> Vec<u64> {
    let edges = [
        0,
        1,
        2,
        31,
        32,
        33,
        63,
        64,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff,
        0x8000,
        0xffff,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x0000_0100,
        0x8000_0001,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    (0..COUNT)
        .map(|at| {
            let pick = random();
            // Every edge meets many of the others.
            if at % 3 != 0 { edges[(pick >> 32) as usize % edges.len()] } else { pick }
        })
        .collect()
}

/// Runs `text` for every triple of operands. It may use %a, %b, %c (64 bits), %ra, %rb, %rc (32), %ha, %hb, %hc (16),
/// the predicate %p (bit 0 of c), and has to leave its result in %d (64 bits), %rd (32) or %hd (16), as `result` says.
pub fn run(text: &str, result: &str) -> Vec<u64> {
    let store = match result {
        "%d" => "mov.b64 %out, %d;",
        "%rd" => "cvt.u64.u32 %out, %rd;",
        "%hd" => "cvt.u64.u16 %out, %hd;",
        _ => "selp.b64 %out, 1, 0, %pd;",
    };
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry one(.param .u64 in, .param .u64 out) {{
            .reg .b64 %in, %to, %at, %a, %b, %c, %d, %out, %e; .reg .b32 %i, %ra, %rb, %rc, %rd, %re;
            .reg .b16 %ha, %hb, %hc, %hd, %he; .reg .pred %p, %pd, %q;
            ld.param.u64 %in, [in]; ld.param.u64 %to, [out];
            mov.u32 %i, %ctaid.x; mad.lo.u32 %i, %i, 32, 0; mov.u32 %re, %tid.x; add.u32 %i, %i, %re;
            mul.wide.u32 %at, %i, 24; add.s64 %in, %in, %at;
            ld.global.u64 %a, [%in]; ld.global.u64 %b, [%in+8]; ld.global.u64 %c, [%in+16];
            cvt.u32.u64 %ra, %a; cvt.u32.u64 %rb, %b; cvt.u32.u64 %rc, %c;
            cvt.u16.u64 %ha, %a; cvt.u16.u64 %hb, %b; cvt.u16.u64 %hc, %c;
            and.b32 %re, %rc, 1; setp.ne.u32 %p, %re, 0;
            mov.b64 %d, 0; mov.b32 %rd, 0; mov.b16 %hd, 0; setp.ne.u32 %pd, 0, 0;
            {text}
            {store}
            mul.wide.u32 %at, %i, 8; add.s64 %to, %to, %at; st.global.u64 [%to], %out; ret; }}"
    );
    let mut bench = Bench::of_ptx(&ptx, Target::Sm80);
    let [a, b, c] = [operands(1), operands(2), operands(3)];
    let bytes: Vec<u8> = (0..COUNT).flat_map(|at| [a[at], b[at], c[at]]).flat_map(u64::to_le_bytes).collect();
    let (input, output) = (bench.upload(&bytes), bench.empty(COUNT * 8));
    let arguments = Arguments::new().pointer(input).pointer(output);
    bench
        .launch("one", [COUNT as u32 / 32, 1, 1], [32, 1, 1], 0, arguments)
        .unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut bytes = vec![0; COUNT * 8];
    bench.device.read(output, &mut bytes).unwrap();
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// A kernel `one` for sm_90a with registers, 64 KiB of shared memory at `%r1`, and an mbarrier at `%r2` that all threads know
/// of. `%r0` is the thread, `%p0` is false for thread 0.
pub fn warpgroup_kernel(parameters: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry one({parameters}) {{
        .reg .pred %p<8>; .reg .b32 %r<64>; .reg .b64 %d<32>; .reg .f32 %f<140>;
        .shared .align 1024 .b8 memory[65536]; .shared .align 8 .b8 barrier[8];
        mov.u32 %r0, %tid.x; mov.u32 %r1, memory; mov.u32 %r2, barrier; setp.ne.u32 %p0, %r0, 0; mov.u32 %r3, 0;
        @%p0 bra READY; mbarrier.init.shared.b64 [%r2], 1; fence.mbarrier_init.release.cluster; READY: bar.sync 0;
        {body} ret; }}"
    )
}

/// Waits for the first phase of that mbarrier.
pub const WAIT: &str = "WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [%r2], 0; @!%p1 bra WAIT;";
