//! Launches.

use crate::extra::KernelLaunches;
use crate::graph::Action;
use crate::{CudaResult, Driver, Function, Handle, Status, complain, with_device};
use diptych_virtual_gpu::{Fault, LaunchError, LaunchSizes};
use std::ffi::{c_uint, c_void};

/// A launch with everything it needs, as it stands in a graph too.
#[derive(Clone)]
pub(crate) struct Launch {
    function: Function,
    sizes: LaunchSizes,
    parameters: Vec<u8>,
}

impl Driver {
    pub(crate) fn run(&mut self, launch: &Launch) -> Result<(), Status> {
        let kernel = &launch.function.module.kernels()[launch.function.kernel];
        if launch.sizes.dynamic_shared > launch.function.dynamic_shared {
            let text = format!(
                "kernel {}: {} bytes of dynamic shared memory, but \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES is {}",
                kernel.name(),
                launch.sizes.dynamic_shared,
                launch.function.dynamic_shared
            );
            return Err(complain(Status::InvalidValue, text));
        }
        let configuration = self.configuration.clone();
        match self.device().launch(kernel, &launch.sizes, &launch.parameters, &configuration) {
            Ok(report) => {
                KernelLaunches::record(&mut self.launches, kernel.name(), &report);
                Ok(())
            }
            Err(LaunchError::Invalid { kernel, problem }) => {
                Err(complain(Status::InvalidValue, format!("kernel {kernel} cannot be launched: {problem}")))
            }
            Err(LaunchError::Fault(diagnostic)) => {
                let status = match diagnostic.fault {
                    Fault::OutOfBounds => Status::IllegalAddress,
                    Fault::Misaligned => Status::MisalignedAddress,
                    Fault::EndlessLoop | Fault::Deadlock => Status::LaunchTimeout,
                    Fault::Trap => Status::Assert,
                    _ => Status::LaunchFailed,
                };
                self.failed = Some((status, diagnostic.to_string()));
                Err(complain(status, diagnostic))
            }
        }
    }
}

/// The parameter buffer, from a pointer per parameter or from `extra`.
unsafe fn parameters(
    function: &Function,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, Status> {
    let layout = function.module.kernels()[function.kernel].parameters();
    let size = layout.last().map_or(0, |last| last.offset + last.size);
    let mut bytes = vec![0; size];
    // SAFETY: the caller of the API promises a pointer to each parameter, or a buffer described by `extra`, which is a
    // list of keys and values: 1 is the buffer, 2 its size, 0 the end.
    unsafe {
        if !extra.is_null() {
            let (mut buffer, mut length, mut at) = (std::ptr::null::<u8>(), 0, 0);
            loop {
                match *extra.add(at) as usize {
                    0 => break,
                    1 => buffer = (*extra.add(at + 1)).cast(),
                    2 => length = *(*extra.add(at + 1)).cast::<usize>(),
                    _ => return Err(Status::InvalidValue),
                }
                at += 2;
            }
            if buffer.is_null() || length < size {
                return Err(complain(
                    Status::InvalidValue,
                    format!("{length} bytes of parameters, not {size}"),
                ));
            }
            std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), size);
            return Ok(bytes);
        }
        if pointers.is_null() && !layout.is_empty() {
            return Err(complain(Status::InvalidValue, format!("{} parameters are missing", layout.len())));
        }
        for (at, parameter) in layout.iter().enumerate() {
            let pointer = (*pointers.add(at)).cast::<u8>();
            if pointer.is_null() {
                return Err(complain(Status::InvalidValue, format!("parameter {at} is missing")));
            }
            std::ptr::copy_nonoverlapping(pointer, bytes.as_mut_ptr().add(parameter.offset), parameter.size);
        }
    }
    Ok(bytes)
}

unsafe fn launch(
    function: Handle,
    sizes: LaunchSizes,
    stream: Handle,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CudaResult {
    with_device(|driver| {
        let function = driver.function(function)?.clone();
        let parameters = unsafe { parameters(&function, pointers, extra) }?;
        driver.submit(stream, Action::Launch(Launch { function, sizes, parameters }))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CudaResult {
    let sizes =
        LaunchSizes { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
    unsafe { launch(function, sizes, stream, pointers, extra) }
}

/// `CUlaunchConfig`.
#[repr(C)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: Handle,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`: the values that are looked at are unsigned numbers.
#[repr(C, align(8))]
struct LaunchAttribute {
    id: c_uint,
    padding: c_uint,
    value: [c_uint; 16],
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: Handle,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CudaResult {
    if config.is_null() {
        return Status::InvalidValue as u32;
    }
    // SAFETY: the caller promises a configuration, and as many attributes as it says.
    let (config, attributes) = unsafe {
        let config = &*config;
        let attributes = match config.count {
            0 => &[],
            count => std::slice::from_raw_parts(config.attributes, count as usize),
        };
        (config, attributes)
    };
    for attribute in attributes {
        let refused = match attribute.id {
            2 if attribute.value[0] != 0 => "a cooperative launch: blocks run one after the other",
            4 | 11 if attribute.value[..3] != [1, 1, 1] => "a cluster of more than one block",
            // What says how fast it should be, not what it does.
            0..=6 | 8..=11 | 14 => continue,
            _ => "a launch attribute that is not built",
        };
        return complain(Status::NotSupported, format!("{refused} (attribute {})", attribute.id)) as u32;
    }
    let sizes = LaunchSizes { grid: config.grid, block: config.block, dynamic_shared: config.dynamic_shared };
    unsafe { launch(function, sizes, config.stream, pointers, extra) }
}
