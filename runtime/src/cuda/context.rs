//! The context in which all of a GPU's memory, code and streams are, and who has it.

use super::error::{CudaError, could_not};
use cudarc::driver::CudaContext;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A GPU's context. One thread at a time runs entries or fills memory: all work goes to the same streams, and while one
/// of them is captured the driver refuses to wait for others.
#[derive(Debug)]
pub(crate) struct Context {
    cuda: Arc<CudaContext>,
    alone: Mutex<()>,
}

impl Context {
    /// That of the GPU of this number.
    pub fn new(index: usize) -> Result<Context, CudaError> {
        let cuda = CudaContext::new(index).map_err(could_not("take the GPU"))?;
        Ok(Context { cuda, alone: Mutex::new(()) })
    }

    /// What cudarc is asked with.
    pub fn cuda(&self) -> &Arc<CudaContext> {
        &self.cuda
    }

    /// Makes it the calling thread's.
    pub fn bind(&self) -> Result<(), CudaError> {
        self.cuda.bind_to_thread().map_err(could_not("choose the GPU"))
    }

    /// Waits until nobody else runs anything or fills memory.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        // A run that panicked leaves nothing that the next depends on.
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
