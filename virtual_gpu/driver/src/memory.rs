//! Memory of the device and of the host, copies and fills.

use crate::graph::Action;
use crate::{CudaResult, Driver, Handle, Status, complain, put, with, with_device};
use diptych_virtual_gpu::MemoryError;
use std::alloc::Layout;
use std::ffi::{c_uint, c_void};

fn status(error: MemoryError) -> Status {
    let status = match error {
        MemoryError::OutOfMemory { .. } => Status::OutOfMemory,
        MemoryError::OutOfBounds { .. } | MemoryError::NotAnAllocation(_) => Status::InvalidValue,
    };
    complain(status, error)
}

impl Driver {
    /// Runs an action now, or keeps it where its stream is captured.
    pub(crate) fn submit(&mut self, stream: Handle, action: Action) -> Result<(), Status> {
        let stream = stream as usize;
        if let Some(capture) = self.capture_of(stream)? {
            self.captures.get_mut(&capture).ok_or(Status::IllegalState)?.push(action);
            return Ok(());
        }
        self.perform(&action)
    }

    /// Runs a copy, a fill or a launch.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), Status> {
        match action {
            Action::Launch(launch) => self.run(launch),
            Action::Fill { address, value, count } => {
                self.device().fill(*address, value, *count).map_err(status)
            }
            Action::DeviceToDevice { to, from, bytes } => {
                self.device().copy(*to, *from, *bytes).map_err(status)
            }
            // SAFETY (both): the caller of the API promises that the host's memory is there when the copy runs.
            Action::HostToDevice { to, from, bytes } => {
                let source = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) };
                self.device().write(*to, source).map_err(status)
            }
            Action::DeviceToHost { to, from, bytes } => {
                let target = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) };
                self.device().read(*from, target).map_err(status)
            }
        }
    }
}

fn submit(stream: Handle, action: Action) -> CudaResult {
    with_device(|driver| driver.submit(stream, action))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CudaResult {
    with_device(|driver| {
        let (left, all) = driver.device().memory_bytes();
        unsafe { put(free, left).and_then(|()| put(total, all)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CudaResult {
    with_device(|driver| {
        if bytes == 0 {
            return Err(Status::InvalidValue);
        }
        let allocated = driver.device().allocate(bytes).map_err(status)?;
        unsafe { put(address, allocated) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(address: u64) -> CudaResult {
    // Freed after a failure as well, as destructors do.
    with(|driver| if address == 0 { Ok(()) } else { driver.device().free(address).map_err(status) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> CudaResult {
    if let Err(status) = not_captured(stream, "cuMemAllocAsync") {
        return status as u32;
    }
    unsafe { cuMemAlloc_v2(address, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CudaResult {
    if let Err(status) = not_captured(stream, "cuMemFreeAsync") {
        return status as u32;
    }
    unsafe { cuMemFree_v2(address) }
}

fn not_captured(stream: Handle, name: &str) -> Result<(), Status> {
    let mut captured = false;
    with(|driver| {
        captured = driver.capture_of(stream as usize)?.is_some();
        Ok(())
    });
    if captured {
        return Err(complain(
            Status::NotSupported,
            format!("{name} while its stream is captured is not built"),
        ));
    }
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) -> CudaResult {
    with_device(|driver| {
        let (start, length) = driver.device().allocation_of(address).ok_or(Status::NotFound)?;
        unsafe { put(base, start).and_then(|()| put(bytes, length)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) -> CudaResult {
    with_device(|driver| {
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| Status::InvalidValue)?;
        // SAFETY: the size is not zero.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        if block.is_null() {
            return Err(Status::OutOfMemory);
        }
        driver.host_blocks.insert(block as usize, layout);
        unsafe { put(pointer, block.cast()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> CudaResult {
    unsafe { cuMemHostAlloc(pointer, bytes, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CudaResult {
    with(|driver| {
        let layout = driver.host_blocks.remove(&(pointer as usize)).ok_or(Status::InvalidValue)?;
        // SAFETY: allocated above with this layout, and removed so that it is freed once.
        unsafe { std::alloc::dealloc(pointer.cast(), layout) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CudaResult {
    submit(stream, Action::HostToDevice { to, from: from as usize, bytes })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> CudaResult {
    submit(std::ptr::null_mut(), Action::HostToDevice { to, from: from as usize, bytes })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CudaResult {
    submit(stream, Action::DeviceToHost { to: to as usize, from, bytes })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> CudaResult {
    submit(std::ptr::null_mut(), Action::DeviceToHost { to: to as usize, from, bytes })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CudaResult {
    submit(stream, Action::DeviceToDevice { to, from, bytes })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CudaResult {
    submit(std::ptr::null_mut(), Action::DeviceToDevice { to, from, bytes })
}

fn fill(address: u64, value: &[u8], count: usize, stream: Handle) -> CudaResult {
    submit(stream, Action::Fill { address, value: value.to_vec(), count })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) -> CudaResult {
    fill(address, &[value], count, stream)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> CudaResult {
    fill(address, &[value], count, std::ptr::null_mut())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) -> CudaResult {
    fill(address, &value.to_le_bytes(), count, stream)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> CudaResult {
    fill(address, &value.to_le_bytes(), count, std::ptr::null_mut())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD32Async(
    address: u64,
    value: c_uint,
    count: usize,
    stream: Handle,
) -> CudaResult {
    fill(address, &value.to_le_bytes(), count, stream)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) -> CudaResult {
    fill(address, &value.to_le_bytes(), count, std::ptr::null_mut())
}
