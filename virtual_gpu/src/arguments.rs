//! The parameter buffer of a launch, argument by argument.

/// Arguments of a kernel, laid out as PTX lays out parameters: each at a multiple of its size.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    bytes: Vec<u8>,
}

impl Arguments {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, bytes: &[u8], alignment: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A pointer into the device's memory, or another 64-bit number.
    pub fn pointer(self, address: u64) -> Self {
        self.push(&address.to_le_bytes(), 8)
    }

    /// A 32-bit integer.
    pub fn integer(self, value: i32) -> Self {
        self.push(&value.to_le_bytes(), 4)
    }

    /// A 32-bit float.
    pub fn float(self, value: f32) -> Self {
        self.push(&value.to_le_bytes(), 4)
    }

    /// A tensor map, as a `__grid_constant__` parameter aligned to 64 bytes.
    pub fn tensor_map(self, map: &[u8; 128]) -> Self {
        self.push(map, 64)
    }

    /// The buffer.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
