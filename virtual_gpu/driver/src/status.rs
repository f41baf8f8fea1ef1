//! Results of the API.

use std::ffi::{CStr, c_char};

/// The values of `CUresult` that this driver returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    InvalidDevice = 101,
    NoBinaryForGpu = 209,
    InvalidPtx = 218,
    InvalidHandle = 400,
    IllegalState = 401,
    NotFound = 500,
    IllegalAddress = 700,
    LaunchTimeout = 702,
    Assert = 710,
    MisalignedAddress = 716,
    LaunchFailed = 719,
    NotSupported = 801,
    StreamCaptureUnsupported = 900,
    StreamCaptureUnmatched = 903,
    Unknown = 999,
}

/// Name and description.
fn words(status: u32) -> Option<(&'static CStr, &'static CStr)> {
    Some(match status {
        0 => (c"CUDA_SUCCESS", c"no error"),
        1 => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        2 => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        3 => (c"CUDA_ERROR_NOT_INITIALIZED", c"cuInit was not called"),
        101 => (c"CUDA_ERROR_INVALID_DEVICE", c"there is one virtual device, number 0"),
        209 => (
            c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            c"the virtual GPU executes PTX: load that instead of machine code",
        ),
        218 => (
            c"CUDA_ERROR_INVALID_PTX",
            c"the virtual GPU did not accept the PTX; the standard error says why",
        ),
        400 => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid handle"),
        401 => (c"CUDA_ERROR_ILLEGAL_STATE", c"not possible in this state"),
        500 => (c"CUDA_ERROR_NOT_FOUND", c"no symbol of that name"),
        700 => (
            c"CUDA_ERROR_ILLEGAL_ADDRESS",
            c"a check of the virtual GPU failed; the standard error says which",
        ),
        702 => (c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the kernel does not end, says the virtual GPU"),
        710 => (c"CUDA_ERROR_ASSERT", c"the kernel executed trap"),
        716 => (c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address; the standard error says where"),
        719 => {
            (c"CUDA_ERROR_LAUNCH_FAILED", c"a check of the virtual GPU failed; the standard error says which")
        }
        801 => (c"CUDA_ERROR_NOT_SUPPORTED", c"not built in the virtual GPU's driver"),
        900 => (c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"not permitted while a stream is captured"),
        903 => (c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"the stream is not being captured"),
        999 => (c"CUDA_ERROR_UNKNOWN", c"the virtual GPU's driver failed"),
        _ => return None,
    })
}

unsafe fn text(place: *mut *const c_char, text: Option<&'static CStr>) -> u32 {
    if place.is_null() {
        return Status::InvalidValue as u32;
    }
    // SAFETY: the caller promises a good pointer.
    unsafe { place.write(text.map_or(std::ptr::null(), CStr::as_ptr)) };
    if text.is_some() { 0 } else { Status::InvalidValue as u32 }
}

/// Name of an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: u32, place: *mut *const c_char) -> u32 {
    unsafe { text(place, words(error).map(|words| words.0)) }
}

/// Description of an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: u32, place: *mut *const c_char) -> u32 {
    unsafe { text(place, words(error).map(|words| words.1)) }
}
