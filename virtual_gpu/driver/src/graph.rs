//! Graphs, made by capturing streams. What is captured is replayed in the order in which it was submitted, which is one
//! of those that the streams and events allow.

use crate::launch::Launch;
use crate::{CudaResult, Handle, Status, put, with, with_device};
use std::ffi::{c_int, c_uint, c_ulonglong};

/// What a stream can be given.
#[derive(Clone)]
pub(crate) enum Action {
    Launch(Launch),
    /// `count` copies of `value`.
    Fill {
        address: u64,
        value: Vec<u8>,
        count: usize,
    },
    HostToDevice {
        to: u64,
        from: usize,
        bytes: usize,
    },
    DeviceToHost {
        to: usize,
        from: u64,
        bytes: usize,
    },
    DeviceToDevice {
        to: u64,
        from: u64,
        bytes: usize,
    },
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(stream: Handle, _mode: c_uint) -> CudaResult {
    with_device(|driver| {
        // The legacy stream cannot be captured.
        if stream.is_null() || driver.capture_of(stream as usize)?.is_some() {
            return Err(Status::StreamCaptureUnsupported);
        }
        let capture = driver.handle();
        driver.captures.insert(capture, Vec::new());
        driver.stream(stream as usize)?.capture = Some((capture, true));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) -> CudaResult {
    with_device(|driver| {
        let capturing = driver.capture_of(stream as usize)?.is_some();
        unsafe { put(status, capturing.into()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> CudaResult {
    with_device(|driver| {
        let Some((capture, true)) = driver.stream(stream as usize)?.capture else {
            return Err(Status::StreamCaptureUnmatched);
        };
        for stream in driver.streams.values_mut() {
            if stream.capture.is_some_and(|(other, _)| other == capture) {
                stream.capture = None;
            }
        }
        for event in driver.events.values_mut() {
            if event.capture == Some(capture) {
                event.capture = None;
            }
        }
        let actions = driver.captures.remove(&capture).ok_or(Status::IllegalState)?;
        let handle = driver.handle();
        driver.graphs.insert(handle, actions);
        unsafe { put(graph, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    instance: *mut Handle,
    graph: Handle,
    _flags: c_ulonglong,
) -> CudaResult {
    with_device(|driver| {
        let actions = driver.graphs.get(&(graph as usize)).ok_or(Status::InvalidHandle)?.clone();
        if driver.refuses_graphs {
            return Err(Status::OutOfMemory);
        }
        let handle = driver.handle();
        driver.graphs.insert(handle, actions);
        unsafe { put(instance, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(instance: Handle, stream: Handle) -> CudaResult {
    with_device(|driver| {
        let actions = driver.graphs.get(&(instance as usize)).ok_or(Status::InvalidHandle)?.clone();
        if driver.capture_of(stream as usize)?.is_some() {
            return Err(crate::complain(
                Status::NotSupported,
                "a graph within a captured stream is not built",
            ));
        }
        actions.iter().try_for_each(|action| driver.perform(action))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphUpload(instance: Handle, _stream: Handle) -> CudaResult {
    with_device(|driver| match driver.graphs.contains_key(&(instance as usize)) {
        true => Ok(()),
        false => Err(Status::InvalidHandle),
    })
}

fn destroy(handle: Handle) -> CudaResult {
    with(|driver| driver.graphs.remove(&(handle as usize)).map(|_| ()).ok_or(Status::InvalidHandle))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: Handle) -> CudaResult {
    destroy(graph)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(instance: Handle) -> CudaResult {
    destroy(instance)
}

/// The number of nodes; the nodes themselves are not built.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> CudaResult {
    with_device(|driver| {
        let actions = driver.graphs.get(&(graph as usize)).ok_or(Status::InvalidHandle)?;
        if !nodes.is_null() {
            return Err(crate::complain(
                Status::NotSupported,
                "nodes of graphs are not built, only their number",
            ));
        }
        unsafe { put(count, actions.len()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> CudaResult {
    // All modes allow the same here: what cannot be captured is refused on the captured stream itself.
    with_device(|_| if mode.is_null() { Err(Status::InvalidValue) } else { Ok(()) })
}
