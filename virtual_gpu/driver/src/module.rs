//! Modules and their kernels.

use crate::{CudaResult, Driver, Function, Handle, Status, complain, put, with, with_device};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

impl Driver {
    pub(crate) fn function(&self, function: Handle) -> Result<&Function, Status> {
        self.functions.get(&(function as usize)).ok_or(Status::InvalidHandle)
    }

    fn load(&mut self, text: &str) -> Result<usize, Status> {
        let module = self.device().load(text).map_err(|error| complain(Status::InvalidPtx, error))?;
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(module));
        Ok(handle)
    }
}

/// PTX as text that ends with a zero byte. Machine code (ELF, fat binaries) is refused: there is nothing here that
/// could execute it, and executing something else in its place would prove nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> CudaResult {
    with_device(|driver| {
        if image.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller promises an image: text with a zero at its end, or a binary with at least these bytes.
        let start = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) };
        if start == b"\x7fELF" || start == 0xba55_ed50u32.to_le_bytes() {
            return Err(complain(
                Status::NoBinaryForGpu,
                "the module is machine code; the virtual GPU executes PTX: load the PTX of the same source",
            ));
        }
        // SAFETY: as above.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        let text = text.to_str().map_err(|_| complain(Status::InvalidPtx, "the module is not text"))?;
        let handle = driver.load(text)?;
        unsafe { put(module, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> CudaResult {
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoad(module: *mut Handle, name: *const c_char) -> CudaResult {
    with_device(|driver| {
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller promises a string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let bytes =
            std::fs::read(&name).map_err(|error| complain(Status::NotFound, format!("{name}: {error}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| complain(Status::NoBinaryForGpu, format!("{name} is not PTX, which is text")))?;
        let handle = driver.load(&text)?;
        unsafe { put(module, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(module: Handle) -> CudaResult {
    with(|driver| {
        let module = driver.modules.remove(&(module as usize)).ok_or(Status::InvalidHandle)?;
        driver.functions.retain(|_, function| !Arc::ptr_eq(&function.module, &module));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CudaResult {
    with_device(|driver| {
        let module = driver.modules.get(&(module as usize)).ok_or(Status::InvalidHandle)?.clone();
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller promises a string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let kernel =
            module.kernels().iter().position(|kernel| kernel.name() == name).ok_or(Status::NotFound)?;
        // As on a GPU, a block has 48 KiB unless the program asks for more.
        let dynamic_shared = (48u32 << 10).saturating_sub(module.kernels()[kernel].static_shared_bytes());
        let handle = driver.handle();
        driver.functions.insert(handle, Function { module, kernel, dynamic_shared });
        unsafe { put(function, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> CudaResult {
    with_device(|driver| {
        let module = driver.modules.get(&(module as usize)).ok_or(Status::InvalidHandle)?;
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller promises a string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let (start, length) = module.variable(&name).ok_or(Status::NotFound)?;
        // Either may be left out.
        unsafe {
            if !address.is_null() {
                address.write(start);
            }
            if !bytes.is_null() {
                bytes.write(length);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    function: Handle,
) -> CudaResult {
    with_device(|driver| {
        let found = driver.function(function)?;
        let kernel = &found.module.kernels()[found.kernel];
        let (major, minor) = driver.target.compute_capability();
        let result = match attribute {
            0 if kernel.maximum_threads() > 0 => kernel.maximum_threads(),
            0 => 1024,
            1 => kernel.static_shared_bytes(),
            2 => 0,
            3 => kernel.local_bytes(),
            // What the PTX needs at least: the machine code that would tell is not there.
            4 => kernel.live_registers().min(255),
            5 | 6 => major * 10 + minor,
            7 => 0,
            8 => found.dynamic_shared,
            9 => return unsafe { put(value, -1) },
            10..=13 => 0,
            _ => {
                return Err(complain(
                    Status::InvalidValue,
                    format!("function attribute {attribute} is not known"),
                ));
            }
        };
        unsafe { put(value, result as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> CudaResult {
    with_device(|driver| {
        let limit = driver.target.shared_bytes_per_block();
        let found = driver.functions.get_mut(&(function as usize)).ok_or(Status::InvalidHandle)?;
        match attribute {
            8 => {
                let kernel = &found.module.kernels()[found.kernel];
                let most = limit.saturating_sub(kernel.static_shared_bytes());
                if value < 0 || value as u32 > most {
                    let text = format!(
                        "{value} bytes of dynamic shared memory for {}: at most {most} beside its {} static ones",
                        kernel.name(),
                        kernel.static_shared_bytes()
                    );
                    return Err(complain(Status::InvalidValue, text));
                }
                found.dynamic_shared = value as u32;
                Ok(())
            }
            // A preference, and clusters that may be larger than portable ones: neither changes anything here.
            9 | 14 => Ok(()),
            _ => Err(complain(Status::InvalidValue, format!("function attribute {attribute} cannot be set"))),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) -> CudaResult {
    with_device(|driver| driver.function(function).map(|_| ()))
}
