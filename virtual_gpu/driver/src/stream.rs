//! Streams and events. Everything has run when it was submitted, so they only keep what captures need, and times.

use crate::{CudaResult, Driver, Handle, Status, put, with, with_device};
use std::ffi::{c_int, c_uint};
use std::time::Instant;

#[derive(Default)]
pub(crate) struct Stream {
    /// The capture that the stream takes part in, and whether it began there.
    pub capture: Option<(usize, bool)>,
    priority: c_int,
    flags: c_uint,
}

#[derive(Default)]
pub(crate) struct Event {
    pub capture: Option<usize>,
    recorded: Option<Instant>,
    /// Made without times.
    timeless: bool,
}

/// The default streams: null, the legacy one and that of a thread.
fn is_default(stream: usize) -> bool {
    stream <= 2
}

impl Driver {
    pub(crate) fn stream(&mut self, stream: usize) -> Result<&mut Stream, Status> {
        if is_default(stream) {
            return Ok(self.streams.entry(stream).or_default());
        }
        self.streams.get_mut(&stream).ok_or(Status::InvalidHandle)
    }

    pub(crate) fn capture_of(&mut self, stream: usize) -> Result<Option<usize>, Status> {
        Ok(self.stream(stream)?.capture.map(|(capture, _)| capture))
    }

    fn event(&mut self, event: Handle) -> Result<&mut Event, Status> {
        self.events.get_mut(&(event as usize)).ok_or(Status::InvalidHandle)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: c_uint,
    priority: c_int,
) -> CudaResult {
    with_device(|driver| {
        let handle = driver.handle();
        driver.streams.insert(handle, Stream { priority, flags, ..Stream::default() });
        unsafe { put(stream, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> CudaResult {
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetPriority(stream: Handle, priority: *mut c_int) -> CudaResult {
    with_device(|driver| {
        let value = driver.stream(stream as usize)?.priority;
        unsafe { put(priority, value) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamGetFlags(stream: Handle, flags: *mut c_uint) -> CudaResult {
    with_device(|driver| {
        let value = driver.stream(stream as usize)?.flags;
        unsafe { put(flags, value) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CudaResult {
    with(|driver| driver.streams.remove(&(stream as usize)).map(|_| ()).ok_or(Status::InvalidHandle))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: Handle) -> CudaResult {
    with_device(|driver| match driver.capture_of(stream as usize)? {
        Some(_) => Err(Status::StreamCaptureUnsupported),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamQuery(stream: Handle) -> CudaResult {
    unsafe { cuStreamSynchronize(stream) }
}

/// A stream that waits for an event of a captured stream takes part in the capture.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> CudaResult {
    with_device(|driver| {
        let capture = driver.event(event)?.capture;
        let stream = driver.stream(stream as usize)?;
        if let Some(capture) = capture
            && stream.capture.is_none()
        {
            stream.capture = Some((capture, false));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> CudaResult {
    with_device(|driver| {
        let handle = driver.handle();
        driver.events.insert(handle, Event { timeless: flags & 2 != 0, ..Event::default() });
        unsafe { put(event, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: Handle) -> CudaResult {
    with(|driver| driver.events.remove(&(event as usize)).map(|_| ()).ok_or(Status::InvalidHandle))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CudaResult {
    with_device(|driver| {
        let capture = driver.capture_of(stream as usize)?;
        let event = driver.event(event)?;
        event.capture = capture;
        if capture.is_none() {
            event.recorded = Some(Instant::now());
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(event: Handle) -> CudaResult {
    with_device(|driver| match driver.event(event)?.capture {
        Some(_) => Err(Status::StreamCaptureUnsupported),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(event: Handle) -> CudaResult {
    unsafe { cuEventQuery(event) }
}

/// Time that the host took between two events, in milliseconds: that of the simulation.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> CudaResult {
    with_device(|driver| {
        let mut time = |event| {
            let event = driver.event(event)?;
            if event.timeless {
                Err(Status::InvalidHandle)
            } else {
                event.recorded.ok_or(Status::InvalidHandle)
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        unsafe { put(milliseconds, end.saturating_duration_since(start).as_secs_f32() * 1e3) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> CudaResult {
    unsafe { cuEventElapsedTime_v2(milliseconds, start, end) }
}
