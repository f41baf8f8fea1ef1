//! The memories of the device, with what each check needs to know of every byte.

pub(crate) mod global;
pub(crate) mod shared;
pub(crate) mod tensor;

/// Bases of the windows through which generic addresses reach the other spaces. Global addresses lie below them.
pub(crate) const SHARED_WINDOW: u64 = 0x7e00_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x7d00_0000_0000;
pub(crate) const PARAMETER_WINDOW: u64 = 0x7c00_0000_0000;
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
