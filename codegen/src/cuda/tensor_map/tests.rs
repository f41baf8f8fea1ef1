use super::*;

fn dim(extent: TensorExtent, stride: usize, box_size: usize) -> TensorDim {
    TensorDim { extent, stride, box_size }
}

/// Rows of 72 numbers, of which columns 8 to 71 are the tensor.
fn rows(extent: TensorExtent) -> TensorMap {
    let dims = vec![dim(TensorExtent::Fixed(64), 1, 64), dim(extent, 72, 128)];
    TensorMap::new(0, DType::BF16, 8, dims, Swizzle::Bytes128).unwrap()
}

#[test]
fn sizes_are_those_of_a_run() {
    let map = rows(TensorExtent::Leading(Leading::Rows));
    let of = |count: usize| map.resolve(|_| count, 2 * 72 * 100);
    assert_eq!(
        of(37).unwrap(),
        ResolvedMap { sizes: vec![64, 37], strides: vec![144], box_sizes: vec![64, 128] }
    );
    assert_eq!(of(100).unwrap().sizes, [64, 100]);
    // The tensor would end behind the argument.
    assert!(of(101).unwrap_err().contains("ends at element"));
    // A tensor has at least one position.
    assert_eq!(of(0).unwrap().sizes, [64, 1]);
    assert_eq!(map.box_bytes(), 64 * 128 * 2);
}

#[test]
fn room_is_what_memory_has() {
    let map = rows(TensorExtent::Room);
    let of = |bytes: usize| map.resolve(|_| 1, bytes).unwrap().sizes[1];
    assert_eq!((of(2 * 72 * 192), of(2 * 72 * 192 - 1), of(2 * 72)), (192, 191, 1));
    assert!(map.resolve(|_| 1, 2 * 71).is_err());
}

#[test]
fn what_tma_cannot_copy_is_refused() {
    let fixed = TensorExtent::Fixed;
    let of = |offset, dims, swizzle| TensorMap::new(0, DType::BF16, offset, dims, swizzle).unwrap_err();
    let two = |stride, boxes: [usize; 2]| vec![dim(fixed(100), 1, boxes[0]), dim(fixed(9), stride, boxes[1])];
    for (problem, found) in [
        ("begins at element 4", of(4, two(104, [64, 8]), Swizzle::Bytes128)),
        ("stride of 100", of(0, two(100, [64, 8]), Swizzle::Bytes128)),
        ("stride of 0", of(0, two(0, [64, 8]), Swizzle::Bytes128)),
        ("257 positions", of(0, two(104, [64, 257]), Swizzle::Bytes128)),
        ("72 bytes", of(0, two(104, [36, 8]), Swizzle::None)),
        ("swizzled within 64", of(0, two(104, [64, 8]), Swizzle::Bytes64)),
        ("innermost dimension", of(0, vec![dim(fixed(8), 2, 8)], Swizzle::None)),
        ("0 positions", of(0, vec![dim(fixed(0), 1, 8)], Swizzle::None)),
        ("no dimensions", of(0, Vec::new(), Swizzle::None)),
        ("6 dimensions", of(0, vec![dim(fixed(8), 1, 8); 6], Swizzle::None)),
        ("Past", of(0, vec![dim(TensorExtent::Leading(Leading::Past), 1, 8)], Swizzle::None)),
        (
            "two dimensions",
            of(0, vec![dim(TensorExtent::Room, 1, 8), dim(TensorExtent::Room, 8, 8)], Swizzle::None),
        ),
    ] {
        assert!(found.contains(problem), "{problem}: {found}");
    }
}
