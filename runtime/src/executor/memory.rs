//! Memory that kernels work on: aligned, zeroed when taken, reached by raw
//! pointers. It knows no layout.

use crate::cuda::DeviceBytes;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Bytes that start at a multiple of [`AlignedBytes::ALIGNMENT`], zero at first.
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
    /// What was mapped for it, if it is not of the allocator.
    mapping: Option<Mapping>,
}

/// Addresses that are this buffer's own. Large buffers are mapped: the system then zeroes a page when it is first
/// touched, by the thread that touches it, and may give it as part of a huge one.
#[cfg(unix)]
#[derive(Debug)]
struct Mapping {
    base: *mut libc::c_void,
    length: usize,
}

/// Elsewhere all is of the allocator.
#[cfg(not(unix))]
type Mapping = std::convert::Infallible;

/// Bytes of a huge page.
#[cfg(unix)]
const HUGE_PAGE: usize = 2 << 20;
/// Buffers of so many bytes or more are mapped.
#[cfg(unix)]
const MAPPED: usize = 2 * HUGE_PAGE;

#[cfg(unix)]
impl Mapping {
    /// Maps so many bytes, from a multiple of a huge page on. `None` if they are not to be had.
    fn new(bytes: usize) -> Option<(NonNull<u8>, Mapping)> {
        let length = bytes.checked_add(HUGE_PAGE)?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new addresses, chosen by the system.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let start = base.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
        // SAFETY: within what was mapped. Where the system has no huge pages, all stays as it is.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        }
        Some((NonNull::new(start.cast())?, Mapping { base, length }))
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and used by the buffer alone, which is gone.
        unsafe {
            libc::munmap(self.base, self.length);
        }
    }
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
        #[cfg(unix)]
        if padded >= MAPPED {
            let (start, mapping) = Mapping::new(padded).ok_or(OutOfMemory { bytes })?;
            return Ok(AlignedBytes { start, layout, mapping: Some(mapping) });
        }
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfMemory { bytes })?;
        Ok(AlignedBytes { start, layout, mapping: None })
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

/// Memory of the host or of a GPU.
#[derive(Debug)]
pub(crate) enum Memory {
    Host(AlignedBytes),
    Gpu(DeviceBytes),
}

impl Memory {
    /// How many bytes it was taken for.
    pub fn len(&self) -> usize {
        match self {
            Memory::Host(bytes) => bytes.len(),
            Memory::Gpu(bytes) => bytes.len(),
        }
    }

    /// The first byte, as kernels see it: of a GPU's memory, an address that the host must not follow.
    pub fn pointer(&self) -> *mut u8 {
        match self {
            Memory::Host(bytes) => bytes.as_ptr(),
            Memory::Gpu(bytes) => bytes.pointer(),
        }
    }

    /// Whether a GPU has it.
    pub fn is_of_gpu(&self) -> bool {
        matches!(self, Memory::Gpu(_))
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.mapping.is_none() {
            // SAFETY: taken with this layout.
            unsafe { dealloc(self.as_ptr(), self.layout) }
        }
    }
}
