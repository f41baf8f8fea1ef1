//! Memory that kernels work on: aligned, zeroed when taken, reached by raw
//! pointers. It knows no layout.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Bytes that start at a multiple of [`AlignedBytes::ALIGNMENT`], zero at first.
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

// The bytes belong to the buffer alone; who may write them when is for the executor to say.
unsafe impl Send for AlignedBytes {}
unsafe impl Sync for AlignedBytes {}

/// Gives memory that was freed back to the system, where its allocator can be told to: what a process has
/// resident is then what it uses.
pub fn give_back_freed() {
    // SAFETY: a plain call, which leaves all memory in use as it is.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// There is not enough memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{bytes} bytes of memory are needed at once, and are not to be had")]
pub struct OutOfMemory {
    /// How many bytes were asked for.
    pub bytes: usize,
}

impl AlignedBytes {
    /// What starts are a multiple of, in bytes: two cache lines.
    pub const ALIGNMENT: usize = 128;

    /// Takes this many zeroed bytes.
    ///
    /// # Errors
    /// When they are not to be had.
    pub fn zeroed(bytes: usize) -> Result<AlignedBytes, OutOfMemory> {
        // A kernel may read a vector past a value's end; it stays within this padding.
        let padded = bytes.saturating_add(4 * Self::ALIGNMENT);
        let layout = Layout::from_size_align(padded, Self::ALIGNMENT).map_err(|_| OutOfMemory { bytes })?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfMemory { bytes })?;
        Ok(AlignedBytes { start, layout })
    }

    /// How many bytes it was taken for.
    pub fn len(&self) -> usize {
        self.layout.size() - 4 * Self::ALIGNMENT
    }

    /// Whether it was taken for none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The elements, as numbers of a plain type.
    pub fn as_slice<T: bytemuck::Pod>(&self) -> &[T] {
        // SAFETY: the bytes are initialised, aligned for any plain number, and borrowed with self.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() / size_of::<T>()) }
    }

    /// The elements, to change.
    pub fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        // SAFETY: as above, and self is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast(), self.len() / size_of::<T>()) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: taken with this layout.
        unsafe { dealloc(self.as_ptr(), self.layout) }
    }
}
