//! Tensor maps as the virtual GPU has them.

use diptych_codegen::cuda::{Swizzle, TensorMap};
use diptych_passes::layout::Leading;
use diptych_virtual_gpu as virtual_gpu;

/// The driver's bytes of a map of an argument that begins at an address and has so many bytes, in a run with so many rows of
/// each kind.
pub fn encoded(map: &TensorMap, address: u64, bytes: usize, rows: impl Fn(Leading) -> usize) -> [u8; 128] {
    let resolved = map.resolve(rows, bytes).unwrap();
    let swizzle = match map.swizzle {
        Swizzle::None => virtual_gpu::Swizzle::None,
        Swizzle::Bytes32 => virtual_gpu::Swizzle::Bytes32,
        Swizzle::Bytes64 => virtual_gpu::Swizzle::Bytes64,
        Swizzle::Bytes128 => virtual_gpu::Swizzle::Bytes128,
    };
    let map = virtual_gpu::TensorMap {
        address: address + (map.offset * map.dtype.bytes()) as u64,
        element_bytes: map.dtype.bytes(),
        sizes: resolved.sizes,
        strides: resolved.strides,
        box_sizes: resolved.box_sizes,
        swizzle,
    };
    map.encode().unwrap()
}
