//! The context in which all of a GPU's memory, code and streams are, and who has it.

use super::error::{CudaError, could_not};
use cudarc::driver::CudaContext;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A GPU's context. One thread at a time runs entries or fills memory: all work goes to the same streams, and while one
/// of them is captured the driver refuses to wait for others.
#[derive(Debug)]
pub(crate) struct Context {
    cuda: Arc<CudaContext>,
    alone: Mutex<()>,
}

/// The contexts that are in use, by the numbers of their GPUs: the driver has one for each GPU, so that one lock has to do
/// for all who opened it.
static CONTEXTS: Mutex<BTreeMap<usize, Weak<Context>>> = Mutex::new(BTreeMap::new());

impl Context {
    /// That of the GPU of this number, which all share who ask for it.
    ///
    /// # Errors
    /// When the driver does not give it.
    pub fn of(index: usize) -> Result<Arc<Context>, CudaError> {
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&index).and_then(Weak::upgrade) {
            return Ok(context);
        }
        let cuda = CudaContext::new(index).map_err(could_not("take the GPU"))?;
        let context = Arc::new(Context { cuda, alone: Mutex::new(()) });
        contexts.insert(index, Arc::downgrade(&context));
        Ok(context)
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
