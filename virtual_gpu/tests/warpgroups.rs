//! wgmma with every layout of its operands, bulk copies and named barriers, in PTX written by hand.

mod common;

use common::single::{WAIT, warpgroup_kernel};
use common::{Bench, brain_bytes, diagnostic, random, relative_error};
use diptych_virtual_gpu::{Arguments, Fault, Swizzle, Target, TensorMap};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

/// Where an operand is, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operand {
    /// Rows whose values along k stand together, or columns.
    Shared {
        swizzle: Swizzle,
        along_k: bool,
    },
    Registers,
}

#[derive(Clone, Copy, Debug)]
struct Product {
    tf32: bool,
    columns: usize,
    a: Operand,
    b: Operand,
    accumulate: bool,
    negate_a: bool,
    negate_b: bool,
}

/// An operand of `rows` by one step of k in shared memory from `place` on: the boxes that bring it there as (offset,
/// first coordinate, second coordinate), their sizes, and the two strides of the descriptor.
fn layout(
    rows: usize,
    element: usize,
    swizzle: Swizzle,
    along_k: bool,
) -> (Vec<[usize; 3]>, [u32; 2], [usize; 2]) {
    let (width, depth) = (swizzle.width(), 32 / element);
    match (along_k, swizzle) {
        // Columns of 16 bytes, each a box of all rows.
        (true, Swizzle::None) => {
            let boxes = (0..2).map(|chunk| [chunk * rows * 16, chunk * 16 / element, 0]).collect();
            (boxes, [16 / element as u32, rows as u32], [rows * 16, 128])
        }
        // The tensor has as many columns as one row of the swizzle; the rest of it is along.
        (true, _) => (vec![[0, 0, 0]], [(width / element) as u32, rows as u32], [16, 8 * width]),
        (false, _) => {
            let span = width / element;
            let boxes = (0..rows.div_ceil(span)).map(|at| [at * depth * width, at * span, 0]).collect();
            let strides = match swizzle {
                Swizzle::None => [8 * width, depth * width],
                _ => [depth * width, 8 * width],
            };
            (boxes, [span as u32, depth as u32], strides)
        }
    }
}

fn run_product(product: Product) -> (Vec<f32>, Vec<f64>) {
    let (element, depth) = if product.tf32 { (4, 8) } else { (2, 16) };
    let columns = product.columns;
    let mut bench_inputs = Vec::new();
    let mut body = String::new();
    let mut loads = String::new();
    let (mut place, mut bytes) = (0, 0);
    let mut descriptors = Vec::new();
    // Operand a has 64 rows, b as many as there are columns; both are given as rows of k here.
    let values = [random(64 * depth, 1), random(columns * depth, 2)];
    for (at, operand) in [product.a, product.b].into_iter().enumerate() {
        let Operand::Shared { swizzle, along_k } = operand else {
            descriptors.push(0);
            bench_inputs.push((values[at].clone(), vec![1, 1], [0, 1], Swizzle::None, true));
            continue;
        };
        let rows = [64, columns][at];
        let (boxes, sizes, strides) = layout(rows, element, swizzle, along_k);
        place = usize::next_multiple_of(place, 1024);
        for [offset, x, y] in boxes {
            loads.push_str(&format!(
                "add.u32 %r4, %r1, {}; mov.u32 %r5, {x}; mov.u32 %r6, {y}; \
                 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r4], [%d{at}, {{%r5, %r6}}], [%r2];\n",
                place + offset
            ));
            bytes += sizes[0] as usize * sizes[1] as usize * element;
        }
        let kind = match swizzle {
            Swizzle::None => 0u64,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        let [leading, stride] = strides.map(|stride| stride as u64 / 16);
        descriptors.push(leading << 16 | stride << 32 | kind << 62);
        body.push_str(&format!(
            "add.u32 %r{r}, %r1, {place}; shr.u32 %r{r}, %r{r}, 4; cvt.u64.u32 %d{d}, %r{r}; or.b64 %d{d}, %d{d}, {};\n",
            descriptors[at],
            r = 10 + at,
            d = 10 + at,
        ));
        place += rows.next_multiple_of(64) * 128;
        bench_inputs.push((values[at].clone(), vec![sizes[0], sizes[1]], [rows, depth], swizzle, along_k));
    }
    let thread_rows = "and.b32 %r20, %r0, 31; shr.u32 %r21, %r0, 5; shr.u32 %r22, %r20, 2; and.b32 %r23, %r20, 3; \
                       mad.lo.u32 %r22, %r21, 16, %r22;";
    let a = match product.a {
        Operand::Shared { .. } => "%d10".to_string(),
        Operand::Registers => {
            // Fragments of a row-major matrix in global memory at %d3.
            for register in 0..4 {
                let (row, chunk) = (register % 2 * 8, register / 2 * 16);
                body.push_str(&format!(
                    "add.u32 %r24, %r22, {row}; mul.lo.u32 %r24, %r24, 32; mad.lo.u32 %r24, %r23, 4, %r24; \
                     cvt.u64.u32 %d20, %r24; add.s64 %d20, %d3, %d20; ld.global.u32 %r{}, [%d20+{chunk}];\n",
                    30 + register
                ));
            }
            "{%r30, %r31, %r32, %r33}".to_string()
        }
    };
    let list = |count: usize| (0..count).map(|i| format!("%f{i}")).collect::<Vec<_>>().join(", ");
    // What is not added to may hold anything.
    for i in 0..if product.accumulate { columns / 2 } else { 0 } {
        body.push_str(&format!("mov.f32 %f{i}, 0f40000000;\n"));
    }
    let shape = match product.tf32 {
        true => format!("m64n{columns}k8.f32.tf32.tf32"),
        false => format!("m64n{columns}k16.f32.bf16.bf16"),
    };
    let sign = |negate: bool| if negate { -1 } else { 1 };
    let transposed = |operand: Operand| matches!(operand, Operand::Shared { along_k: false, .. }) as u8;
    let mut tail = format!("{}, {}", sign(product.negate_a), sign(product.negate_b));
    if !product.tf32 {
        if product.a != Operand::Registers {
            tail.push_str(&format!(", {}", transposed(product.a)));
        }
        tail.push_str(&format!(", {}", transposed(product.b)));
    }
    body.push_str(&format!(
        "setp.ne.u32 %p2, {}, 0; wgmma.fence.sync.aligned;
         wgmma.mma_async.sync.aligned.{shape} {{{}}}, {a}, %d11, %p2, {tail};
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n",
        product.accumulate as u8,
        list(columns / 2)
    ));
    for i in 0..columns / 2 {
        let (row, column) = (i / 2 % 2 * 8, i / 4 * 8 + i % 2);
        body.push_str(&format!(
            "add.u32 %r24, %r22, {row}; mul.lo.u32 %r24, %r24, {}; mad.lo.u32 %r24, %r23, 8, %r24; cvt.u64.u32 %d20, %r24; \
             add.s64 %d20, %d2, %d20; st.global.f32 [%d20+{}], %f{i};\n",
            columns * 4,
            column * 4
        ));
    }
    let text = format!(
        "mov.b64 %d0, a; cvta.param.u64 %d0, %d0; mov.b64 %d1, b; cvta.param.u64 %d1, %d1; ld.param.u64 %d2, [c]; \
         ld.param.u64 %d3, [fragments];
         @%p0 bra LOADED; mbarrier.arrive.expect_tx.shared.b64 _, [%r2], {bytes};\n{loads} LOADED:\n{WAIT}\n{thread_rows}\n{body}"
    );
    let parameters =
        ".param .align 64 .b8 a[128], .param .align 64 .b8 b[128], .param .u64 c, .param .u64 fragments";
    let mut bench = Bench::of_ptx(&warpgroup_kernel(parameters, &text), Target::Sm90a);
    let to_bytes = |values: &[f32]| -> Vec<u8> {
        if product.tf32 {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        } else {
            brain_bytes(values)
        }
    };
    let mut maps = Vec::new();
    let mut fragments = 0;
    for (values, box_sizes, [rows, depth], swizzle, along_k) in bench_inputs {
        if rows == 0 {
            fragments = bench.upload(&to_bytes(&values));
            maps.push([0; 128]);
            continue;
        }
        // Along k, a row of the tensor is as long as the box needs it; across, it is a row for each k.
        let (inner, outer) = if along_k { (depth.max(box_sizes[0] as usize), rows) } else { (rows, depth) };
        let mut tensor = vec![7.0; inner * outer];
        for row in 0..rows {
            for k in 0..depth {
                tensor[if along_k { row * inner + k } else { k * inner + row }] = values[row * depth + k];
            }
        }
        let map = TensorMap {
            address: bench.upload(&to_bytes(&tensor)),
            element_bytes: element,
            sizes: vec![inner as u64, outer as u64],
            strides: vec![(inner * element) as u64],
            box_sizes,
            swizzle,
        };
        maps.push(map.encode().unwrap());
    }
    let c = bench.empty(64 * columns * 4);
    let arguments = Arguments::new().tensor_map(&maps[0]).tensor_map(&maps[1]).pointer(c).pointer(fragments);
    bench
        .launch("one", [1, 1, 1], [128, 1, 1], 0, arguments)
        .unwrap_or_else(|error| panic!("{product:?}: {error}"));
    let mut want = common::products(&values[0], &values[1], 64, columns, depth);
    let factor = f64::from(sign(product.negate_a) * sign(product.negate_b));
    want.iter_mut().for_each(|value| *value = *value * factor + if product.accumulate { 2.0 } else { 0.0 });
    (bench.read_floats(c, 64 * columns), want)
}

fn check_product(product: Product) {
    let (got, want) = run_product(product);
    let error = relative_error(&got, &want);
    assert!(error < 1e-6, "{product:?}: {error}");
}

#[test]
fn products_of_all_layouts() {
    let base = Product {
        tf32: false,
        columns: 64,
        a: Operand::Registers,
        b: Operand::Shared { swizzle: Swizzle::Bytes128, along_k: true },
        accumulate: true,
        negate_a: false,
        negate_b: false,
    };
    for swizzle in SWIZZLES {
        for along_k in [true, false] {
            let shared = Operand::Shared { swizzle, along_k };
            check_product(Product { b: shared, ..base });
            check_product(Product { a: shared, ..base });
            check_product(Product { a: shared, b: shared, ..base });
        }
        let shared = Operand::Shared { swizzle, along_k: true };
        check_product(Product { tf32: true, a: shared, b: shared, ..base });
    }
    check_product(Product { tf32: true, ..base });
    check_product(Product { accumulate: false, ..base });
    check_product(Product { negate_a: true, ..base });
    check_product(Product { negate_a: true, negate_b: true, accumulate: false, ..base });
    check_product(Product { negate_b: true, ..base });
    for columns in (8..=256).step_by(8) {
        for along_k in [true, false] {
            let shared = Operand::Shared { swizzle: Swizzle::Bytes128, along_k };
            check_product(Product { columns, b: shared, ..base });
            check_product(Product { columns, a: shared, b: shared, ..base });
        }
    }
}

#[test]
fn bulk_copies_and_their_faults() {
    let text = |wait: &str| {
        format!(
            "ld.param.u64 %d0, [from]; ld.param.u64 %d1, [to]; @%p0 bra END;
             mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 256;
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 256, [%r2];
             {wait}
             ld.shared.f32 %f0, [%r1+252]; add.f32 %f0, %f0, 0f3F800000; st.shared.f32 [%r1+252], %f0;
             fence.proxy.async.shared::cta;
             cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 256;
             cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; END:"
        )
    };
    let run = |text: &str| {
        let mut bench =
            Bench::of_ptx(&warpgroup_kernel(".param .u64 from, .param .u64 to", text), Target::Sm90a);
        let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let (from, to) = (bench.floats(&values), bench.empty(256));
        let result =
            bench.launch("one", [1, 1, 1], [64, 1, 1], 0, Arguments::new().pointer(from).pointer(to));
        (result, bench.read_floats(to, 64))
    };
    let (result, got) = run(&text(WAIT));
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(got[..63].iter().enumerate().all(|(at, value)| *value == at as f32) && got[63] == 64.0);
    for (text, fault) in [
        (text(""), Fault::MissingWait),
        (text(WAIT).replace("fence.proxy.async.shared::cta;", ""), Fault::MissingFence),
        (text(WAIT).replace("cp.async.bulk.wait_group.read 0;", ""), Fault::MissingWait),
        (text(WAIT).replace("_, [%r2], 256", "_, [%r2], 240"), Fault::InvalidUse),
        (text(WAIT).replace("[%d0], 256", "[%d0+16], 256"), Fault::OutOfBounds),
        (text(WAIT).replace("[%d0], 256", "[%d0+8], 256"), Fault::Misaligned),
        // The copy still reads its source when that is written again.
        (
            text(WAIT).replace(
                "cp.async.bulk.commit_group;",
                "st.shared.f32 [%r1], %f0; cp.async.bulk.commit_group;",
            ),
            Fault::MissingWait,
        ),
        (text(WAIT).replace("ld.shared.f32 %f0, [%r1+252]", "ld.shared.f32 %f0, [%r2]"), Fault::InvalidUse),
    ] {
        let diagnostic = diagnostic(run(&text).0);
        println!("{diagnostic}");
        assert_eq!(diagnostic.fault, fault, "{diagnostic}");
    }
}

#[test]
fn barriers_count_and_wait() {
    // Two warps meet at a named barrier, a third arrives there without waiting; parities of three phases.
    let text = "ld.param.u64 %d0, [out]; shr.u32 %r4, %r0, 5; setp.eq.u32 %p2, %r4, 2; mov.u32 %r5, 7;
        @!%p2 bra OTHERS; st.shared.u32 [%r1], %r5; bar.arrive 1, 96; bra DONE;
        OTHERS: bar.sync 1, 96; ld.shared.u32 %r6, [%r1];
        mul.wide.u32 %d1, %r0, 4; add.s64 %d1, %d0, %d1; st.global.u32 [%d1], %r6; DONE:";
    let run = |text: &str| {
        let mut bench = Bench::of_ptx(&warpgroup_kernel(".param .u64 out", text), Target::Sm90a);
        let out = bench.empty(4 * 96);
        let result = bench.launch("one", [1, 1, 1], [96, 1, 1], 0, Arguments::new().pointer(out));
        (result, bench.read_floats(out, 64))
    };
    let (result, got) = run(text);
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(got.iter().all(|value| value.to_bits() == 7));
    for (change, fault) in [
        (text.replace("bar.arrive 1, 96", "bar.arrive 1, 64"), Fault::InvalidUse),
        (text.replace("bar.arrive 1, 96;", ""), Fault::Deadlock),
        (text.replace("bar.sync 1, 96", "bar.sync 1, 48"), Fault::InvalidUse),
        (
            text.replace(
                "[%r1], %r5; bar.arrive 1, 96;",
                "[%r1+8], %r5; bar.arrive 1, 96; st.shared.u32 [%r1], %r5;",
            ),
            Fault::UninitialisedRead,
        ),
        (text.replace("DONE:", "DONE: mbarrier.arrive.shared.b64 _, [%r2], 2;"), Fault::InvalidUse),
        (text.replace("DONE:", "DONE: trap;"), Fault::Trap),
        (text.replace("DONE:", "DONE: FOREVER: bra FOREVER;"), Fault::EndlessLoop),
    ] {
        let mut bench = Bench::of_ptx(&warpgroup_kernel(".param .u64 out", &change), Target::Sm90a);
        bench.configuration.instruction_limit = 100_000;
        let out = bench.empty(4 * 96);
        // Which warp comes first is up to the seed; some order shows the fault.
        let found = (0..8).find_map(|seed| {
            bench.configuration.seed = seed;
            bench.launch("one", [1, 1, 1], [96, 1, 1], 0, Arguments::new().pointer(out)).err().map(Err)
        });
        let diagnostic = diagnostic(found.unwrap_or_else(|| panic!("no fault: {change}")));
        println!("{diagnostic}");
        let race = fault == Fault::UninitialisedRead && diagnostic.fault == Fault::SharedRace;
        assert!(diagnostic.fault == fault || race, "{diagnostic}");
    }
}
