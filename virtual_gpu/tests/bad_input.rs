//! Whatever a text says, loading and running it ends with an answer: never with a panic.

mod common;

use diptych_virtual_gpu::{Arguments, Configuration, Device, LaunchSizes, Swizzle, Target, TensorMap};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

/// Words and marks, with the space between them as words of its own.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let kind = |c: char| if c.is_ascii_alphanumeric() || c == '%' || c == '_' { 0 } else { 1 + c as u32 };
    for c in text.chars() {
        match pieces.last_mut() {
            Some(last) if last.chars().next_back().map(kind) == Some(kind(c)) && kind(c) == 0 => last.push(c),
            _ => pieces.push(c.to_string()),
        }
    }
    pieces
}

/// Changes a text at some places, loads it, and runs what loads. Gives how many loaded and how many ran to the end.
fn shake(
    text: &str,
    kernel: &str,
    target: Target,
    arguments: &Arguments,
    [threads, shared]: [u32; 2],
    rounds: usize,
) -> [usize; 2] {
    let whole = pieces(text);
    let numbers =
        ["0", "1", "-1", "7", "32", "4294967295", "18446744073709551615", "0x7e0000000000", "99999999999999"];
    let mut random = Random(0x1234_5678_9abc);
    let (mut loaded, mut ended) = (0, 0);
    for round in 0..rounds {
        let mut changed = whole.clone();
        // The first as it is.
        for _ in 0..(1 + random.below(2)) * usize::from(round > 0) {
            let at = random.below(changed.len());
            match random.below(4) {
                0 => {
                    changed.remove(at);
                }
                1 => changed[at] = whole[random.below(whole.len())].clone(),
                2 => changed[at] = numbers[random.below(numbers.len())].to_string(),
                _ => {
                    let other = random.below(changed.len());
                    changed.swap(at, other);
                }
            }
        }
        let mut device = Device::new(target, 1 << 24);
        let Ok(module) = device.load(&changed.concat()) else { continue };
        loaded += 1;
        let Some(kernel) = module.kernel(kernel) else { continue };
        let address = device.allocate(1 << 16).unwrap();
        device.fill(address, &[1], 1 << 16).unwrap();
        let sizes = LaunchSizes { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: shared };
        let configuration = Configuration { instruction_limit: 20_000, ..Configuration::default() };
        let result = device.launch(kernel, &sizes, arguments.bytes(), &configuration);
        if round == 0 {
            println!("{:?}", result.as_ref().map(|report| report.total).map_err(ToString::to_string));
        }
        ended += usize::from(result.is_ok());
    }
    [loaded, ended]
}

const FIRST_ADDRESS: u64 = 0x10_0000_0000;

#[test]
fn changed_texts_of_hand_written_ptx() {
    let text = "
        .version 8.0
        .target sm_80
        .address_size 64
        .global .align 4 .b8 table[16] = {1, 2, 3, 4};
        .visible .entry k(.param .u64 x, .param .align 8 .b8 y[16]) .maxntid 160, 1, 1 {
            .reg .b64 %d<8>; .reg .b32 %r<9>; .reg .pred %p<3>; .reg .b16 %h<4>; .reg .f32 %f<4>;
            .shared .align 16 .b8 memory[4096]; .local .align 8 .b8 own[32];
            ld.param.u64 %d0, [x]; mov.u32 %r0, %tid.x; mad.wide.u32 %d1, %r0, 8, %d0;
            setp.eq.u32 %p2, %r0, %r0; mov.b64 %d3, memory;
            mov.u32 %r1, memory; mad.lo.s32 %r1, %r0, 16, %r1; and.b32 %r2, %r0, 31;
            cp.async.ca.shared.global [%r1], [%d1], 4; cp.async.commit_group; cp.async.wait_group 0;
            bar.sync 0; ld.shared.u32 %r3, [%r1]; mov.b32 {%h0, %h1}, %r3; mov.b32 %r3, {%h1, %h0};
            cvt.rn.f32.s32 %f0, %r3; ex2.approx.f32 %f1, %f0; fma.rn.f32 %f2, %f0, %f1, %f0;
            setp.lt.and.s32 %p0|%p1, %r2, 16, !%p2; @%p0 bra L; add.s32 %r3, %r3, 1;
            L: shfl.sync.bfly.b32 %r4|%p2, %r3, 1, 31, -1; st.local.u32 [own+4], %r4; ld.local.u32 %r5, [own+4];
            atom.global.add.u32 %r6, [%d0+32768], %r5; cvta.shared.u64 %d2, %d3; ld.u8 %h2, [%d2]; vote.sync.ballot.b32 %r7, %p1, -1;
            ld.v2.u32 {%r7, %r8}, [%d1+-0]; st.global.v2.f32 [%d1], {%f1, %f2};
            bar.red.popc.u32 %r8, 1, %p0; ret; }";
    let arguments = Arguments::new().pointer(FIRST_ADDRESS + 65536 * 2).pointer(0).pointer(0);
    let [loaded, ended] = shake(text, "k", Target::Sm80, &arguments, [160, 0], 6000);
    println!("{loaded} of 6000 texts loaded, {ended} launches completed");
    assert!(loaded > 500 && ended > 100);
}

#[test]
fn changed_texts_of_kernels() {
    let tcgen05 = concat!(
        "#define ROWS 128\n#define COLUMNS 64\n#define ROUNDS 1\n#define A_WIDTH 128\n#define B_WIDTH 128\n",
        "#define A_ALONG_K true\n#define B_ALONG_K true\n",
        include_str!("kernels/tcgen05_product.cu")
    );
    let cases = [
        (include_str!("kernels/mma_gemm.cu"), "mma_gemm", Target::Sm80, [128, 0]),
        (include_str!("kernels/wgmma_gemm.cu"), "wgmma_gemm", Target::Sm90a, [160, 100 << 10]),
        (tcgen05, "tcgen05_product", Target::Sm100a, [160, 40 << 10]),
    ];
    let map = |rows: u32| {
        let (sizes, strides, box_sizes) = (vec![64, 128], vec![128], vec![64, rows]);
        let (address, swizzle) = (FIRST_ADDRESS, Swizzle::Bytes128);
        TensorMap { address, element_bytes: 2, sizes, strides, box_sizes, swizzle }.encode().unwrap()
    };
    let rounds = 600;
    for (source, kernel, target, sizes) in cases {
        let Some(text) = common::ptx(source, target, &[]) else { return };
        let arguments = match target {
            Target::Sm80 | Target::Sm100a => {
                Arguments::new().pointer(FIRST_ADDRESS).pointer(FIRST_ADDRESS).pointer(FIRST_ADDRESS)
            }
            Target::Sm90a => Arguments::new().tensor_map(&map(64)).tensor_map(&map(128)).tensor_map(&map(64)),
        };
        let integers = match target {
            Target::Sm80 => 3,
            Target::Sm90a => 1,
            Target::Sm100a => 0,
        };
        let arguments = (0..integers).fold(arguments, |arguments, _| arguments.integer(64));
        let [loaded, _] = shake(&text, kernel, target, &arguments, sizes, rounds);
        println!("{kernel}: {loaded} of {rounds} texts loaded");
        assert!(loaded > 20);
    }
}
