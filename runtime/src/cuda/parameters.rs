//! A GPU's copy of parameters and states. The host's place is where they are read, set and saved; here is known which
//! of the two is newer, for each. Nothing is copied but when it is asked for.

use super::error::CudaError;
use super::gpu::Gpu;
use super::memory::DeviceBytes;
use diptych_ir::Symbol;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Values begin at multiples of this, in bytes.
const ALIGNMENT: usize = 256;

/// Which of the two copies of a value is newer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Newer {
    Neither = 0,
    Host = 1,
    Gpu = 2,
}

#[derive(Debug)]
struct Place {
    is_state: bool,
    start: usize,
    bytes: usize,
    newer: AtomicU8,
}

impl Place {
    fn is(&self, newer: Newer) -> bool {
        self.newer.load(Ordering::Acquire) == newer as u8
    }

    fn set(&self, newer: Newer) {
        self.newer.store(newer as u8, Ordering::Release);
    }
}

/// The copy.
#[derive(Debug)]
pub(crate) struct GpuParameters {
    parameters: DeviceBytes,
    states: DeviceBytes,
    places: BTreeMap<Symbol, Place>,
    /// Whether a run that writes them failed.
    lost: AtomicBool,
    fetching: Mutex<()>,
}

impl GpuParameters {
    /// Room for values of so many bytes, each a state or not. What the host has is newer at first.
    ///
    /// # Errors
    /// When the GPU has not enough memory.
    pub fn new(
        gpu: &Gpu,
        values: impl IntoIterator<Item = (Symbol, bool, usize)>,
    ) -> Result<GpuParameters, CudaError> {
        let mut ends = [0; 2];
        let mut places = BTreeMap::new();
        for (name, is_state, bytes) in values {
            let end = &mut ends[usize::from(is_state)];
            let place = Place { is_state, start: *end, bytes, newer: AtomicU8::new(Newer::Host as u8) };
            *end = (*end + bytes).next_multiple_of(ALIGNMENT);
            places.insert(name, place);
        }
        Ok(GpuParameters {
            parameters: DeviceBytes::new(gpu.context(), ends[0], "parameters")?,
            states: DeviceBytes::new(gpu.context(), ends[1], "gradients and moments")?,
            places,
            lost: AtomicBool::new(false),
            fetching: Mutex::new(()),
        })
    }

    fn memory(&self, place: &Place) -> &DeviceBytes {
        if place.is_state { &self.states } else { &self.parameters }
    }

    /// The first byte of a value, as kernels see it, and its bytes.
    pub fn pointer(&self, name: Symbol) -> Option<(*mut u8, usize)> {
        let place = self.places.get(&name)?;
        Some((self.memory(place).pointer().wrapping_add(place.start), place.bytes))
    }

    /// The host's value was set.
    pub fn host_is_newer(&self, name: Symbol) {
        self.places.get(&name).into_iter().for_each(|place| place.set(Newer::Host));
    }

    /// Kernels wrote the GPU's value.
    pub fn gpu_is_newer(&self, name: Symbol) {
        self.places.get(&name).into_iter().for_each(|place| place.set(Newer::Gpu));
    }

    /// A run that writes values failed: what they are is not known.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Refuses values that a failed run may have written.
    ///
    /// # Errors
    /// When there was one.
    pub fn check(&self) -> Result<(), CudaError> {
        if self.lost.load(Ordering::Acquire) { Err(CudaError::Lost) } else { Ok(()) }
    }

    /// A value whose newer one is the host's, if there is any.
    pub fn waiting(&self) -> Option<Symbol> {
        self.places.iter().find(|(_, place)| place.is(Newer::Host)).map(|(&name, _)| name)
    }

    /// Copies a value from the host, if the host's is newer.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn upload(&self, name: Symbol, host: &[u8]) -> Result<(), CudaError> {
        let Some(place) = self.places.get(&name).filter(|place| place.is(Newer::Host)) else { return Ok(()) };
        self.memory(place).upload(place.start, &host[..place.bytes])?;
        place.set(Newer::Neither);
        Ok(())
    }

    /// Copies a value to the host, if the GPU's is newer.
    ///
    /// # Errors
    /// When the driver refuses, or a run that writes values failed.
    ///
    /// # Safety
    /// `host` must have room for the value, which nobody else may read or write meanwhile but through this function.
    pub unsafe fn download(&self, name: Symbol, host: *mut u8) -> Result<(), CudaError> {
        let Some(place) = self.places.get(&name).filter(|place| place.is(Newer::Gpu)) else { return Ok(()) };
        let _one = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is(Newer::Gpu) {
            self.check()?;
            // SAFETY: as promised.
            let host = unsafe { std::slice::from_raw_parts_mut(host, place.bytes) };
            self.memory(place).download(place.start, host)?;
            place.set(Newer::Neither);
        }
        Ok(())
    }
}
