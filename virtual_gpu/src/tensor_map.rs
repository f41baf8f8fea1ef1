//! Tensor maps: what `cuTensorMapEncodeTiled` makes and the tensor copies read. The layout of the 128 bytes is this
//! crate's own, as the driver's is the driver's.

/// How chunks of 16 bytes are permuted within rows of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Bytes of the rows within which chunks are permuted; 16 for none.
    pub fn width(self) -> usize {
        match self {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// The address at which a byte is stored: bits 7 and up say how bits 4 and up are flipped.
    pub fn apply(self, address: u64) -> u64 {
        let mask = self.width() as u64 / 16 - 1;
        address ^ ((address >> 7 & mask) << 4)
    }
}

/// A tensor in global memory, and the box of it that a copy moves. Dimensions are innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element, a multiple of 16.
    pub address: u64,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Elements of each dimension, one to five of them.
    pub sizes: Vec<u64>,
    /// Distance in bytes between neighbours along each dimension but the innermost, multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of the box along each dimension, at most 256.
    pub box_sizes: Vec<u32>,
    /// How the box is laid out in shared memory.
    pub swizzle: Swizzle,
}

const MAGIC: u32 = 0x4d54_4744;

impl TensorMap {
    /// The 128 bytes, if the tensor keeps the rules that the driver's documentation states.
    pub fn encode(&self) -> Result<[u8; 128], String> {
        let rank = self.sizes.len();
        if !(1..=5).contains(&rank) || self.strides.len() + 1 != rank || self.box_sizes.len() != rank {
            return Err(format!(
                "{rank} sizes, {} strides and {} box sizes: one to five sizes, one stride less, as many box sizes",
                self.strides.len(),
                self.box_sizes.len()
            ));
        }
        if !self.address.is_multiple_of(16) {
            return Err(format!("the address {:#x} is not a multiple of 16", self.address));
        }
        if !matches!(self.element_bytes, 1 | 2 | 4 | 8) {
            return Err(format!("elements of {} bytes", self.element_bytes));
        }
        if let Some(size) = self.sizes.iter().find(|size| **size == 0 || **size > 1 << 32) {
            return Err(format!("a size of {size}: from 1 to 2^32"));
        }
        if let Some(stride) = self.strides.iter().find(|stride| **stride % 16 != 0 || **stride >= 1 << 40) {
            return Err(format!("a stride of {stride} bytes: multiples of 16 below 2^40"));
        }
        if let Some(size) = self.box_sizes.iter().find(|size| !(1..=256).contains(*size)) {
            return Err(format!("a box size of {size}: from 1 to 256"));
        }
        let inner = self.box_sizes[0] as usize * self.element_bytes;
        if !inner.is_multiple_of(16) {
            return Err(format!("the innermost box size is {inner} bytes: a multiple of 16"));
        }
        if self.swizzle != Swizzle::None && inner > self.swizzle.width() {
            return Err(format!(
                "the innermost box size is {inner} bytes, more than {:?} spans",
                self.swizzle
            ));
        }
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([rank as u8, self.element_bytes as u8, self.swizzle as u8, 0]);
        bytes.extend(self.address.to_le_bytes());
        for axis in 0..5 {
            bytes.extend((self.sizes.get(axis).map_or(0, |size| size - 1) as u32).to_le_bytes());
        }
        for axis in 0..4 {
            bytes.extend(self.strides.get(axis).copied().unwrap_or(0).to_le_bytes());
        }
        for axis in 0..5 {
            bytes.extend((self.box_sizes.get(axis).copied().unwrap_or(0) as u16).to_le_bytes());
        }
        bytes.resize(128, 0);
        Ok(bytes.try_into().expect("resized to 128"))
    }

    /// Reads what `encode` wrote; none for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.len() < 128 || word(0)? != MAGIC {
            return None;
        }
        let rank = usize::from(bytes[4]);
        let swizzle = match bytes[6] {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes128,
        };
        Some(TensorMap {
            address: long(8)?,
            element_bytes: bytes[5].into(),
            sizes: (0..rank).map(|axis| Some(u64::from(word(16 + 4 * axis)?) + 1)).collect::<Option<_>>()?,
            strides: (1..rank).map(|axis| long(36 + 8 * (axis - 1))).collect::<Option<_>>()?,
            box_sizes: (0..rank)
                .map(|axis| {
                    Some(u16::from_le_bytes(bytes.get(68 + 2 * axis..70 + 2 * axis)?.try_into().ok()?).into())
                })
                .collect::<Option<_>>()?,
            swizzle,
        })
    }

    /// Bytes of a box.
    pub fn box_bytes(&self) -> usize {
        self.box_sizes.iter().map(|size| *size as usize).product::<usize>() * self.element_bytes
    }

    /// The rows of the box at some coordinates, innermost dimension whole: for each its place in the box, and the
    /// part of it that lies within the tensor, as bytes within the row and an address.
    pub(crate) fn rows(&self, coordinates: &[i32]) -> Vec<BoxRow> {
        let row_bytes = self.box_sizes[0] as usize * self.element_bytes;
        let count: usize = self.box_sizes[1..].iter().map(|size| *size as usize).product();
        let first = i64::from(coordinates[0]);
        let (low, high) = ((-first).max(0), (self.sizes[0] as i64 - first).min(self.box_sizes[0].into()));
        (0..count)
            .map(|row| {
                let (mut left, mut inside) = (row, low < high);
                let mut address = self.address as i64 + (first + low) * self.element_bytes as i64;
                for (axis, first) in coordinates.iter().enumerate().skip(1) {
                    let size = self.box_sizes[axis] as usize;
                    let at = i64::from(*first) + (left % size) as i64;
                    left /= size;
                    inside &= (0..self.sizes[axis] as i64).contains(&at);
                    address = address.wrapping_add(at.wrapping_mul(self.strides[axis - 1] as i64));
                }
                let length = if inside { (high - low) as usize * self.element_bytes } else { 0 };
                BoxRow {
                    offset: row * row_bytes,
                    row_bytes,
                    skip: low as usize * self.element_bytes * usize::from(inside),
                    length,
                    address: address as u64,
                }
            })
            .collect()
    }
}

/// A row of a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoxRow {
    /// Of the row in the box.
    pub offset: usize,
    pub row_bytes: usize,
    /// Bytes before the part that lies within the tensor.
    pub skip: usize,
    /// Bytes of that part; the rest is filled with zeros, or not stored.
    pub length: usize,
    /// Of that part in global memory.
    pub address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: 0x1000,
            element_bytes: 2,
            sizes: vec![100, 30],
            strides: vec![208],
            box_sizes: vec![64, 8],
            swizzle: Swizzle::Bytes128,
        }
    }

    #[test]
    fn encoding_keeps_everything() {
        let mut five = map();
        five.sizes.extend([7, 8, 1 << 32]);
        five.strides.extend([1 << 20, 1 << 30, 1 << 39]);
        five.box_sizes.extend([1, 256, 3]);
        for map in [map(), five] {
            assert_eq!(TensorMap::decode(&map.encode().unwrap()), Some(map));
        }
        assert_eq!(TensorMap::decode(&[0; 128]), None);
    }

    #[test]
    fn rules_of_the_driver() {
        for (problem, change) in [
            ("multiple of 16", (|map: &mut TensorMap| map.address += 8) as fn(&mut TensorMap)),
            ("stride", |map| map.strides[0] = 200),
            ("box size", |map| map.box_sizes[1] = 257),
            ("spans", |map| map.box_sizes[0] = 128),
            ("from 1", |map| map.sizes[0] = 0),
        ] {
            let mut wrong = map();
            change(&mut wrong);
            assert!(wrong.encode().unwrap_err().contains(problem), "{problem}");
        }
    }

    #[test]
    fn rows_outside_the_tensor_have_nothing() {
        let rows = map().rows(&[64, -2]);
        assert_eq!((rows[1].length, rows[2].length, rows[2].address), (0, 72, 0x1000 + 128));
        let rows = map().rows(&[-8, 29]);
        assert_eq!((rows[0].skip, rows[0].length, rows[1].length), (16, 112, 0));
    }

    #[test]
    fn swizzles_permute_chunks_within_their_width() {
        for swizzle in [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128] {
            let mut seen: Vec<u64> = (0..1024).step_by(16).map(|address| swizzle.apply(address)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..1024).step_by(16).collect::<Vec<_>>());
        }
        assert_eq!(Swizzle::Bytes128.apply(128 + 16), 128);
        assert_eq!(Swizzle::Bytes64.apply(128), 128 + 16);
        assert_eq!(Swizzle::Bytes32.apply(256), 256);
    }
}
