//! A 32-bit word that threads wait on until it changes: spinning first, then asleep in the kernel.
//! The one place that sleeps; barriers and pools are built on it. Never allocates.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long to spin before sleeping. Waking a sleeping thread costs some 10 to 50 us in a virtual machine.
pub(crate) const SPIN: Duration = Duration::from_micros(100);

/// Pauses between two looks at the clock, about 2 us.
const PAUSES_PER_LOOK: u32 = 64;

/// On cache lines of its own (two, since processors fetch lines in pairs), so that spinning disturbs nobody.
#[repr(align(128))]
pub(crate) struct WaitWord {
    value: AtomicU32,
    sleepers: AtomicU32,
    #[cfg(not(target_os = "linux"))]
    lock: std::sync::Mutex<()>,
    #[cfg(not(target_os = "linux"))]
    changed: std::sync::Condvar,
}

impl WaitWord {
    pub(crate) const fn new(value: u32) -> Self {
        WaitWord {
            value: AtomicU32::new(value),
            sleepers: AtomicU32::new(0),
            #[cfg(not(target_os = "linux"))]
            lock: std::sync::Mutex::new(()),
            #[cfg(not(target_os = "linux"))]
            changed: std::sync::Condvar::new(),
        }
    }

    pub(crate) fn load(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }

    /// Sets the word and wakes everyone who waits for it to change.
    pub(crate) fn store(&self, value: u32) {
        self.value.store(value, Ordering::SeqCst);
        self.wake();
    }

    /// Sets the word and wakes everyone, if it still holds `current`; otherwise returns what it holds.
    pub(crate) fn exchange(&self, current: u32, value: u32) -> Result<(), u32> {
        self.value.compare_exchange(current, value, Ordering::SeqCst, Ordering::SeqCst)?;
        self.wake();
        Ok(())
    }

    /// Adds 1, wakes everyone, and returns the new value.
    pub(crate) fn increment(&self) -> u32 {
        let value = self.value.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.wake();
        value
    }

    /// Waits while the word holds `current`; returns what it holds then. With `spin` false it sleeps after
    /// a short look, which is right when there are more threads than cores.
    pub(crate) fn wait_while(&self, current: u32, spin: bool) -> u32 {
        // The first looks go without a clock: most waits of an even load end here.
        for _ in 0..PAUSES_PER_LOOK {
            let value = self.load();
            if value != current {
                return value;
            }
            std::hint::spin_loop();
        }
        if spin {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..PAUSES_PER_LOOK {
                    let value = self.load();
                    if value != current {
                        return value;
                    }
                    std::hint::spin_loop();
                }
            }
        }
        self.sleep_while(current)
    }

    // Either the sleeper sees the new value, or the waker sees the sleeper: both sides write one
    // word and then read the other, all sequentially consistent.
    fn sleep_while(&self, current: u32) -> u32 {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let value = loop {
            let value = self.value.load(Ordering::SeqCst);
            if value != current {
                break value;
            }
            self.sleep_once(current);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        value
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    #[cfg(target_os = "linux")]
    fn sleep_once(&self, current: u32) {
        // SAFETY: the word outlives the call; the kernel compares it with `current` and sleeps if equal. No timeout.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.value.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                current,
                std::ptr::null::<libc::timespec>(),
            )
        };
    }

    #[cfg(target_os = "linux")]
    fn wake_all(&self) {
        // SAFETY: the kernel only uses the address as a key.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.value.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            )
        };
    }

    #[cfg(not(target_os = "linux"))]
    fn sleep_once(&self, current: u32) {
        let guard = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.value.load(Ordering::SeqCst) == current {
            drop(self.changed.wait(guard));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wake_all(&self) {
        drop(self.lock.lock());
        self.changed.notify_all();
    }
}
