//! Tensor copies of every rank, with their maps as parameters and in global memory, in PTX written by hand.

mod common;

use common::single::{WAIT, warpgroup_kernel};
use common::{Bench, diagnostic};
use diptych_virtual_gpu::{Arguments, Fault, Swizzle, Target, TensorMap};

const AS_PARAMETERS: &str =
    "mov.b64 %d0, from; cvta.param.u64 %d0, %d0; mov.b64 %d1, to; cvta.param.u64 %d1, %d1;";
const IN_GLOBAL_MEMORY: &str = "ld.param.u64 %d0, [maps]; add.s64 %d1, %d0, 128;
    fence.proxy.tensormap::generic.acquire.sys [%d0], 128; fence.proxy.tensormap::generic.acquire.sys [%d1], 128;";

/// Copies a box of a tensor through shared memory to the same place of another tensor, with the maps as parameters, or in
/// global memory.
fn copy_box(sizes: &[usize], box_sizes: &[u32], coordinates: &[i32], swizzle: Swizzle, global: bool) {
    let rank = sizes.len();
    let list: Vec<String> = (0..rank).map(|axis| format!("%r{}", 10 + axis)).collect();
    let list = list.join(", ");
    let set: String = coordinates
        .iter()
        .enumerate()
        .map(|(axis, at)| format!("mov.u32 %r{}, {at};\n", 10 + axis))
        .collect();
    let bytes: usize = box_sizes.iter().map(|size| *size as usize).product::<usize>() * 4;
    let (parameters, maps) = if global {
        (".param .u64 maps", IN_GLOBAL_MEMORY)
    } else {
        (".param .align 64 .b8 from[128], .param .align 64 .b8 to[128]", AS_PARAMETERS)
    };
    let text = format!(
        "{maps} prefetch.tensormap [%d0]; @%p0 bra END; {set}
         mbarrier.arrive.expect_tx.shared.b64 _, [%r2], {bytes};
         cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0, {{{list}}}], [%r2];
         {WAIT}
         cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%d1, {{{list}}}], [%r1];
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
    );
    let mut bench = Bench::of_ptx(&warpgroup_kernel(parameters, &text), Target::Sm90a);
    let count: usize = sizes.iter().product();
    let values: Vec<f32> = (0..count).map(|i| i as f32 + 1.0).collect();
    let (from, to) = (bench.floats(&values), bench.floats(&vec![0.0; count]));
    let strides: Vec<u64> =
        (1..rank).map(|axis| sizes[..axis].iter().product::<usize>() as u64 * 4).collect();
    let map = |address: u64| {
        let sizes = sizes.iter().map(|size| *size as u64).collect();
        let (strides, box_sizes) = (strides.clone(), box_sizes.to_vec());
        TensorMap { address, element_bytes: 4, sizes, strides, box_sizes, swizzle }.encode().unwrap()
    };
    let arguments = if global {
        let maps = [map(from), map(to)].concat();
        Arguments::new().pointer(bench.upload(&maps))
    } else {
        Arguments::new().tensor_map(&map(from)).tensor_map(&map(to))
    };
    bench.launch("one", [1, 1, 1], [32, 1, 1], 0, arguments).unwrap_or_else(|error| panic!("{error}"));
    let got = bench.read_floats(to, count);
    let mut copied = 0;
    for (at, value) in values.iter().enumerate() {
        let mut left = at;
        let inside = (0..rank).all(|axis| {
            let index = (left % sizes[axis]) as i64;
            left /= sizes[axis];
            let first = i64::from(coordinates[axis]);
            (first..first + i64::from(box_sizes[axis])).contains(&index)
        });
        copied += usize::from(inside);
        assert_eq!(
            got[at],
            if inside { *value } else { 0.0 },
            "element {at} of {sizes:?} at {coordinates:?}"
        );
    }
    assert!(copied > 0);
}

#[test]
fn tensor_copies_of_one_to_five_dimensions() {
    for global in [false, true] {
        copy_box(&[100], &[32], &[80], Swizzle::None, global);
        copy_box(&[100, 9], &[8, 4], &[-3, 7], Swizzle::Bytes32, global);
        copy_box(&[20, 7, 5], &[16, 3, 2], &[12, -1, 4], Swizzle::Bytes64, global);
        copy_box(&[40, 4, 3, 5], &[32, 2, 2, 3], &[4, 1, 2, 3], Swizzle::Bytes128, global);
        copy_box(&[12, 3, 4, 2, 3], &[4, 2, 3, 2, 2], &[8, 1, -1, 0, 2], Swizzle::None, global);
        // Boxes that are larger than the tensor.
        copy_box(&[5], &[64], &[0], Swizzle::None, global);
        copy_box(&[12, 3], &[32, 16], &[-2, -4], Swizzle::Bytes128, global);
        copy_box(&[8, 1, 2, 1, 3], &[16, 3, 4, 2, 5], &[0, 0, -1, 0, -1], Swizzle::Bytes64, global);
    }
}

/// A box of 8 by 4 floats of a tensor of 8 by 4 of which 20 elements were written, and then the rest of the kernel.
fn of_half_a_tensor(
    text: &str,
) -> Result<diptych_virtual_gpu::LaunchReport, diptych_virtual_gpu::LaunchError> {
    let mut bench = Bench::of_ptx(&warpgroup_kernel(".param .u64 maps", text), Target::Sm90a);
    let address = bench.empty(128);
    bench.device.write(address, &[1; 80]).unwrap();
    let map = TensorMap {
        address,
        element_bytes: 4,
        sizes: vec![8, 4],
        strides: vec![32],
        box_sizes: vec![8, 4],
        swizzle: Swizzle::None,
    };
    let maps = bench.upload(&map.encode().unwrap());
    bench.launch("one", [1, 1, 1], [64, 1, 1], 0, Arguments::new().pointer(maps))
}

const ACQUIRE: &str = "fence.proxy.tensormap::generic.acquire.sys [%d0], 128;";
const LOAD: &str = "mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%d0, {%r3, %r3}], [%r2];";

#[test]
fn a_map_in_global_memory_is_acquired_before_it_is_used() {
    // Thread 32 acquires, and thread 0 copies.
    let other = |barrier: &str| {
        format!(
            "ld.param.u64 %d0, [maps]; setp.ne.u32 %p2, %r0, 32; @%p2 bra GO; {ACQUIRE} GO: {barrier} @%p0 bra END; \
             {LOAD} {WAIT} END:"
        )
    };
    let own = |acquire: &str| format!("ld.param.u64 %d0, [maps]; @%p0 bra END; {acquire} {LOAD} {WAIT} END:");
    for right in [own(ACQUIRE), own(&ACQUIRE.replace(".sys", ".gpu")), other("bar.sync 0;")] {
        of_half_a_tensor(&right).unwrap_or_else(|error| panic!("{error}"));
    }
    for wrong in [own(""), own(&ACQUIRE.replace(".sys", ".cta")), other("")] {
        let diagnostic = diagnostic(of_half_a_tensor(&wrong));
        assert_eq!(diagnostic.fault, Fault::MissingFence, "{diagnostic}");
        assert!(diagnostic.message.contains("fence.proxy.tensormap"), "{diagnostic}");
    }
}

#[test]
fn what_a_box_brings_of_undefined_memory_is_undefined() {
    let text =
        |after: &str| format!("ld.param.u64 %d0, [maps]; @%p0 bra END; {ACQUIRE} {LOAD} {WAIT} {after} END:");
    of_half_a_tensor(&text("ld.shared.u32 %r4, [%r1+76];")).unwrap_or_else(|error| panic!("{error}"));
    let diagnostic = diagnostic(of_half_a_tensor(&text("ld.shared.u32 %r4, [%r1+80];")));
    assert_eq!(diagnostic.fault, Fault::UninitialisedRead, "{diagnostic}");
    // Whoever writes there makes it defined.
    let again = "st.shared.u32 [%r1+80], %r3; ld.shared.u32 %r4, [%r1+80];";
    of_half_a_tensor(&text(again)).unwrap_or_else(|error| panic!("{error}"));
}
