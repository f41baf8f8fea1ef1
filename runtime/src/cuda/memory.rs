//! Memory of a GPU, and memory of the host that it can copy from and to by itself. It knows no layout.

use super::context::Context;
use super::error::{CudaError, could_not};
use cudarc::driver::{DriverError, result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// Bytes on a GPU, from a multiple of 256 on.
#[derive(Debug)]
pub struct DeviceBytes {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceBytes {
    /// Takes so many bytes for something, undefined until they are written.
    ///
    /// # Errors
    /// When the GPU has not so much left.
    pub(crate) fn new(
        context: &Arc<Context>,
        bytes: usize,
        what: &'static str,
    ) -> Result<DeviceBytes, CudaError> {
        context.bind()?;
        // SAFETY: freed when dropped. The driver gives nothing for no bytes.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(DeviceBytes { context: context.clone(), address, bytes }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) =
                    context.cuda().mem_get_info().map_err(could_not("tell how much memory is free"))?;
                Err(CudaError::OutOfMemory { what, bytes, free, total })
            }
            Err(error) => Err(could_not("take memory")(error)),
        }
    }

    /// As [`DeviceBytes::new`], all zero.
    pub(crate) fn zeroed(
        context: &Arc<Context>,
        bytes: usize,
        what: &'static str,
    ) -> Result<DeviceBytes, CudaError> {
        let memory = Self::new(context, bytes, what)?;
        memory.fill(0)?;
        Ok(memory)
    }

    /// How many bytes it was taken for.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it was taken for none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The first byte, as kernels see it.
    pub(crate) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// The same as a pointer that the host must not follow.
    pub(crate) fn pointer(&self) -> *mut u8 {
        std::ptr::without_provenance_mut(self.address as usize)
    }

    /// Sets every byte, and waits.
    pub(crate) fn fill(&self, byte: u8) -> Result<(), CudaError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let _alone = self.context.alone();
        self.context.bind()?;
        // SAFETY: the memory has so many bytes.
        let filled = unsafe { result::memset_d8_sync(self.address, byte, self.bytes) };
        // The driver may return before the GPU is done, and its own streams do not wait for ours.
        filled.and_then(|()| self.context.cuda().synchronize()).map_err(could_not("fill memory"))
    }

    /// Copies from the host, from a byte on, and waits.
    pub(crate) fn upload(&self, start: usize, from: &[u8]) -> Result<(), CudaError> {
        assert!(start + from.len() <= self.bytes, "a copy beyond the end of memory");
        if from.is_empty() {
            return Ok(());
        }
        let _alone = self.context.alone();
        self.context.bind()?;
        // SAFETY: the memory has room, as was just seen.
        let copied = unsafe { result::memcpy_htod_sync(self.address + start as u64, from) };
        copied.and_then(|()| self.context.cuda().synchronize()).map_err(could_not("copy to the GPU"))
    }

    /// Copies to the host, from a byte on, and waits.
    pub(crate) fn download(&self, start: usize, to: &mut [u8]) -> Result<(), CudaError> {
        assert!(start + to.len() <= self.bytes, "a copy beyond the end of memory");
        if to.is_empty() {
            return Ok(());
        }
        let _alone = self.context.alone();
        self.context.bind()?;
        // SAFETY: the memory has so many bytes, as was just seen.
        unsafe { result::memcpy_dtoh_sync(to, self.address + start as u64) }
            .map_err(could_not("copy from the GPU"))
    }
}

impl Drop for DeviceBytes {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: taken once, and nobody uses it any more. What could fail is that the GPU is lost already.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Bytes of the host that stay where they are, zero at first.
#[derive(Debug)]
pub(crate) struct PinnedBytes {
    context: Arc<Context>,
    start: *mut c_void,
    bytes: usize,
}

// The bytes belong to their owner alone.
unsafe impl Send for PinnedBytes {}
unsafe impl Sync for PinnedBytes {}

impl PinnedBytes {
    /// Takes so many bytes.
    ///
    /// # Errors
    /// When the host has not so much that can be pinned.
    pub fn zeroed(context: &Arc<Context>, bytes: usize) -> Result<PinnedBytes, CudaError> {
        context.bind()?;
        // SAFETY: freed when dropped, and has so many bytes.
        let start = unsafe {
            let start = result::malloc_host(bytes.max(1), 0)
                .map_err(could_not("take memory of the host that stays in place"))?;
            start.cast::<u8>().write_bytes(0, bytes.max(1));
            start
        };
        Ok(PinnedBytes { context: context.clone(), start, bytes })
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.cast()
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: so many bytes, initialised, borrowed with self.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// All bytes, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: taken once, and nobody uses it any more.
            let _ = unsafe { result::free_host(self.start) };
        }
    }
}
