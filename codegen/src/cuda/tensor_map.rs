//! Tensors in the device's memory of which a kernel copies boxes to shared memory by TMA: what a kernel says of them when
//! it is written, and what becomes of that in a run. A launcher hands the result to the driver, which knows the 128 bytes.

use diptych_ir::DType;
use diptych_passes::layout::Leading;

/// A tensor in the device's memory of which a kernel copies boxes to shared memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorMap {
    /// The kernel's argument that it lies in, by position among those of the tile program.
    pub arg: usize,
    /// Element type.
    pub dtype: DType,
    /// Where the tensor begins in the argument, in elements.
    pub offset: usize,
    /// Its dimensions, innermost first: one to five.
    pub dims: Vec<TensorDim>,
    /// How a box is laid out in shared memory.
    pub swizzle: Swizzle,
}

/// A dimension of a tensor, and of a box of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorDim {
    /// How long it is. What a box has beyond is zero.
    pub extent: TensorExtent,
    /// From one position to the next, in elements: 1 for the innermost.
    pub stride: usize,
    /// Positions of a box.
    pub box_size: usize,
}

/// How long a dimension of a tensor is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TensorExtent {
    /// Always as long.
    Fixed(usize),
    /// The run-time rows of the run, or of the turn: [`Leading::Rows`], [`Leading::Batch`] or [`Leading::Checkpoints`].
    Leading(Leading),
    /// As long as the argument's memory has room for: of a cache, all its rows. Those that no run wrote are zero in a
    /// cache. Other values of all positions so far lie among others still: there such rows hold anything, also what is no
    /// number, so that a kernel must not multiply them, even with zero.
    Room,
}

/// How pieces of 16 bytes are exchanged among the rows of a box, so that a column of them is spread over the banks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// The most bytes that the innermost dimension of a box may have, if there is such a limit.
    pub const fn width(self) -> Option<usize> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }
}

/// Addresses and strides are multiples of this, in bytes, and so is the innermost dimension of a box.
pub const PIECE_BYTES: usize = 16;
/// Positions of a box along a dimension, at most.
const MOST_OF_A_BOX: usize = 256;
/// Positions of a tensor along a dimension, at most.
const MOST_OF_A_TENSOR: u64 = 1 << 32;
/// Strides are less, in bytes.
const FARTHEST: u64 = 1 << 40;

/// A tensor map of a run, as `cuTensorMapEncodeTiled` takes it, but for its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedMap {
    /// Positions of each dimension, innermost first.
    pub sizes: Vec<u64>,
    /// From one position to the next along each dimension but the innermost, in bytes.
    pub strides: Vec<u64>,
    /// Positions of a box along each dimension.
    pub box_sizes: Vec<u32>,
}

impl TensorMap {
    /// A map that keeps the rules of TMA ("CUDA Driver API", `cuTensorMapEncodeTiled`) wherever the argument begins at a
    /// multiple of 16 bytes.
    ///
    /// # Errors
    /// Which rule it breaks. A writer then copies in another way.
    pub fn new(
        arg: usize,
        dtype: DType,
        offset: usize,
        dims: Vec<TensorDim>,
        swizzle: Swizzle,
    ) -> Result<TensorMap, String> {
        let map = TensorMap { arg, dtype, offset, dims, swizzle };
        map.check()?;
        Ok(map)
    }

    /// Checks the rules that hold for all runs.
    ///
    /// # Errors
    /// As of [`TensorMap::new`].
    pub fn check(&self) -> Result<(), String> {
        let in_pieces = |elements: usize| (elements * self.dtype.bytes()).is_multiple_of(PIECE_BYTES);
        let Some(innermost) = self.dims.first() else { return Err("a tensor of no dimensions".to_owned()) };
        if self.dims.len() > 5 {
            return Err(format!("a tensor of {} dimensions, and five are the most", self.dims.len()));
        }
        if !in_pieces(self.offset) {
            return Err(format!("it begins at element {}, no multiple of 16 bytes", self.offset));
        }
        if innermost.stride != 1 {
            return Err(format!("its innermost dimension has a stride of {}", innermost.stride));
        }
        for (at, dim) in self.dims.iter().enumerate() {
            let far = (dim.stride * self.dtype.bytes()) as u64 >= FARTHEST;
            if at > 0 && (dim.stride == 0 || !in_pieces(dim.stride) || far) {
                let stride = dim.stride;
                return Err(format!(
                    "dimension {at} has a stride of {stride} elements, no multiple of 16 bytes"
                ));
            }
            if !(1..=MOST_OF_A_BOX).contains(&dim.box_size) {
                return Err(format!(
                    "a box has {} positions along dimension {at}, not 1 to 256",
                    dim.box_size
                ));
            }
            match dim.extent {
                TensorExtent::Fixed(size) if !(1..=MOST_OF_A_TENSOR).contains(&(size as u64)) => {
                    return Err(format!("dimension {at} has {size} positions, not 1 to 2^32"));
                }
                TensorExtent::Leading(
                    leading @ (Leading::None | Leading::Past | Leading::Chunks | Leading::Quadratic),
                ) => return Err(format!("dimension {at} has run-time rows of no fixed place: {leading:?}")),
                _ => {}
            }
        }
        if self.dims.iter().filter(|dim| dim.extent == TensorExtent::Room).count() > 1 {
            return Err("two dimensions are as long as there is room".to_owned());
        }
        let inner = innermost.box_size * self.dtype.bytes();
        if !inner.is_multiple_of(PIECE_BYTES) {
            return Err(format!("rows of a box have {inner} bytes, no multiple of 16"));
        }
        match self.swizzle.width() {
            Some(width) if inner > width => {
                Err(format!("rows of a box have {inner} bytes, and are swizzled within {width}"))
            }
            _ => Ok(()),
        }
    }

    /// The map of an argument with rows of this kind: positions so far are the rows of the run where none are kept, so that
    /// there are as many as the run has, however much room there is.
    pub fn of_rows(&self, leading: Leading) -> TensorMap {
        let mut map = self.clone();
        for dim in &mut map.dims {
            if dim.extent == TensorExtent::Room && leading == Leading::Rows {
                dim.extent = TensorExtent::Leading(Leading::Rows);
            }
        }
        map
    }

    /// Bytes of a box in shared memory, which are also those that its mbarrier expects: what lies outside counts too.
    pub fn box_bytes(&self) -> usize {
        self.dims.iter().map(|dim| dim.box_size).product::<usize>() * self.dtype.bytes()
    }

    /// The map of a run, or of a turn, with so many rows of each kind, in an argument that has so many bytes from its
    /// beginning on. A run without rows has one of which nothing is asked, since a tensor has at least one.
    ///
    /// # Errors
    /// When the tensor does not lie within the argument, or is longer than TMA can have it.
    pub fn resolve(&self, rows: impl Fn(Leading) -> usize, bytes: usize) -> Result<ResolvedMap, String> {
        let elements = bytes / self.dtype.bytes();
        let of_run = |extent: TensorExtent| match extent {
            TensorExtent::Fixed(size) => Some(size),
            TensorExtent::Leading(leading) => Some(rows(leading).max(1)),
            TensorExtent::Room => None,
        };
        // The end of what all dimensions but the one for which there is room reach.
        let reached =
            self.dims.iter().filter_map(|dim| Some((of_run(dim.extent)? - 1) * dim.stride)).sum::<usize>();
        let end = self.offset + reached + 1;
        if end > elements {
            return Err(format!("a tensor ends at element {end} of an argument of {elements}"));
        }
        let sizes: Vec<u64> = (self.dims.iter())
            .map(|dim| of_run(dim.extent).unwrap_or_else(|| (elements - end) / dim.stride + 1) as u64)
            .collect();
        if let Some(size) = sizes.iter().find(|size| **size > MOST_OF_A_TENSOR) {
            return Err(format!("a tensor has {size} positions along a dimension, and 2^32 are the most"));
        }
        Ok(ResolvedMap {
            sizes,
            strides: self.dims[1..].iter().map(|dim| (dim.stride * self.dtype.bytes()) as u64).collect(),
            box_sizes: self.dims.iter().map(|dim| dim.box_size as u32).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
