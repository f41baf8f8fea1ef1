//! The one floating-point mode of every compute thread: round to nearest, no traps, denormals read and written as zero.
//! Part of the promise of equal bits: a thread in another mode would round or flush differently.

/// Puts the calling thread into the compute mode; dropping it gives the former mode back.
pub(crate) struct ComputeMode {
    former: Control,
    /// The mode belongs to a thread, so the guard must stay on it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl ComputeMode {
    pub(crate) fn enter() -> Self {
        let former = read();
        write(COMPUTE);
        ComputeMode { former, _not_send: std::marker::PhantomData }
    }
}

impl Drop for ComputeMode {
    fn drop(&mut self) {
        write(self.former);
    }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use std::arch::asm;

    pub type Control = u32;
    /// MXCSR: all exceptions masked (0x1f80), flush to zero (0x8000), denormals are zero (0x0040).
    pub const COMPUTE: Control = 0x9fc0;

    pub fn read() -> Control {
        let mut value: Control = 0;
        // SAFETY: stores the control register into a local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn write(value: Control) {
        // SAFETY: the value is COMPUTE or was read from this register, so no reserved bit is set. Rust code
        // that runs in the meantime is compiled for the default mode; it may see a denormal as zero, nothing worse.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use std::arch::asm;

    pub type Control = u64;
    /// FPCR: flush to zero, for inputs and results of f32 and f64 (bit 24).
    pub const COMPUTE: Control = 1 << 24;

    pub fn read() -> Control {
        let value: Control;
        // SAFETY: reads a control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    pub fn write(value: Control) {
        // SAFETY: as on x86_64.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    /// Machines whose mode we do not know are left in the system's, which is the same for all threads.
    pub type Control = ();
    pub const COMPUTE: Control = ();
    pub fn read() -> Control {}
    pub fn write(_value: Control) {}
}

use machine::{COMPUTE, Control, read, write};
