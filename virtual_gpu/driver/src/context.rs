//! Initialisation, devices and contexts. There is one device and it has one context.

use crate::{CudaResult, Handle, Status, put, with, with_device};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The one context, as a handle.
const CONTEXT: usize = 0x100;

thread_local! {
    static CURRENT: AtomicUsize = const { AtomicUsize::new(0) };
}

/// CUDA 13.0: the version of the API that is modelled.
const VERSION: c_int = 13000;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuInit(flags: c_uint) -> CudaResult {
    with(|driver| {
        if flags != 0 {
            return Err(Status::InvalidValue);
        }
        driver.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CudaResult {
    with(|_| unsafe { put(version, VERSION) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CudaResult {
    with_device(|_| unsafe { put(count, 1) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CudaResult {
    with_device(|_| if ordinal == 0 { unsafe { put(device, 0) } } else { Err(Status::InvalidDevice) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> CudaResult {
    with_device(|driver| {
        if name.is_null() || length < 1 || device != 0 {
            return Err(Status::InvalidValue);
        }
        let text = format!("Virtual GPU ({})", driver.target.name());
        let count = text.len().min(length as usize - 1);
        // SAFETY: the caller promises `length` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, count);
            name.add(count).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> CudaResult {
    with_device(|driver| {
        let mut bytes = *b"virtual gpu     ";
        let name = driver.target.name().as_bytes();
        bytes[16 - name.len().min(4)..].copy_from_slice(&name[name.len() - name.len().min(4)..]);
        unsafe { put(uuid, bytes) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> CudaResult {
    unsafe { cuDeviceGetUuid_v2(uuid, device) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> CudaResult {
    with_device(|driver| unsafe { put(bytes, driver.memory_bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> CudaResult {
    with_device(|_| {
        if device == 0 { unsafe { put(context, CONTEXT as Handle) } } else { Err(Status::InvalidDevice) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> CudaResult {
    with(|_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    _device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> CudaResult {
    with_device(|_| unsafe { put(flags, 0).and_then(|()| put(active, 1)) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: Handle) -> CudaResult {
    CURRENT.with(|current| current.store(context as usize, Ordering::Relaxed));
    with(|_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> CudaResult {
    let current = CURRENT.with(|current| current.load(Ordering::Relaxed));
    with(|_| unsafe { put(context, current as Handle) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> CudaResult {
    with_device(|_| unsafe { put(device, 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetFlags(_flags: c_uint) -> CudaResult {
    with_device(|_| Ok(()))
}

/// Everything has run when the call that started it returned; an error that stays is returned here too.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSynchronize() -> CudaResult {
    with_device(
        |driver| if driver.captures.is_empty() { Ok(()) } else { Err(Status::StreamCaptureUnsupported) },
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> CudaResult {
    with_device(|_| unsafe { put(least, 0).and_then(|()| put(greatest, -5)) })
}
