//! A pool of pinned threads that run parallel regions, and the barrier between phases of a region.
//! Built for regions of microseconds: nothing is allocated, queued or copied once the pool stands.
//! Must not know what is computed.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::affinity::{allowed_cores, bring_here, pin};
use super::float_mode::ComputeMode;
use super::wait::WaitWord;

/// What a region runs: called once on every thread with the thread's number and the region's barrier.
pub type Region<'a> = dyn Fn(usize, &Barrier) + Sync + 'a;

/// A pool of threads; the thread that calls [`Pool::run`] is thread 0 of every region.
///
/// Workers are pinned to one core each, out of the cores that the affinity mask of the creating thread allows.
/// With more threads than cores nothing is pinned and nobody spins.
/// Between regions a worker spins for some 100 us and then sleeps.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a region, so that several threads may share a pool.
    turn: Mutex<()>,
    caller_core: Option<usize>,
}

/// The pool could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not start thread {thread} of {threads}: {source}; use fewer threads or raise the limit on processes"
)]
pub struct PoolError {
    thread: usize,
    threads: usize,
    source: std::io::Error,
}

struct Shared {
    barrier: Barrier,
    /// Counts regions; workers wait for it to change.
    epoch: WaitWord,
    /// How many workers have left the region.
    finished: WaitWord,
    /// Written by the caller before `epoch` changes, read by workers after.
    region: UnsafeCell<Option<*const Region<'static>>>,
    stopping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: bool,
}

// SAFETY: `region` is the only part that is not so by itself. It is written only while no worker
// is inside a region, what it points to is Sync, and it is dead when `run` returns.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

thread_local! {
    /// The pool whose region this thread is in, to refuse a region inside a region.
    static INSIDE: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

impl Pool {
    /// A pool of `threads` threads (0 counts as 1), one of which is the caller of [`Pool::run`].
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        let threads = threads.clamp(1, 1 << 16);
        let cores = allowed_cores();
        let pinned = threads <= cores.len();
        let parallel = std::thread::available_parallelism().map_or(1, |n| n.get());
        let spin = threads <= parallel;
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads as u32, spin),
            epoch: WaitWord::new(0),
            finished: WaitWord::new(0),
            region: UnsafeCell::new(None),
            stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
            spin,
        });
        let core_of = |thread: usize| if pinned { cores.get(thread).copied() } else { None };
        let mut pool = Pool {
            shared: Arc::clone(&shared),
            workers: Vec::with_capacity(threads - 1),
            turn: Mutex::new(()),
            caller_core: if threads > 1 { core_of(0) } else { None },
        };
        for thread in 1..threads {
            let (shared, core) = (Arc::clone(&shared), core_of(thread));
            let worker = std::thread::Builder::new()
                .name(format!("diptych-{thread}"))
                .spawn(move || work(&shared, thread, core))
                .map_err(|source| PoolError { thread, threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads take part in a region, the caller included.
    pub fn threads(&self) -> usize {
        self.shared.barrier.threads as usize
    }

    /// Runs `region` on all threads at once and returns when all have left it. All threads compute in
    /// one floating-point mode: round to nearest, denormals as zero. The caller gets its own mode back.
    ///
    /// # Panics
    /// With the panic of the first thread that panicked in the region: the others are released from the
    /// barriers they wait at, and the pool stays usable. Also when called inside a region of the same pool.
    pub fn run(&self, region: &Region<'_>) {
        let shared = &*self.shared;
        assert!(INSIDE.get() != &raw const *shared, "Pool::run was called inside a region of the same pool");
        let turn = lock(&self.turn);
        if let Some(core) = self.caller_core {
            bring_here(core);
        }
        shared.barrier.reset();
        shared.finished.store(0);
        // SAFETY: only the lifetime changes. Workers use the pointer between the change of `epoch` and
        // their increment of `finished`, and this function does not leave before all have made it.
        let region_pointer =
            unsafe { std::mem::transmute::<*const Region<'_>, *const Region<'static>>(region) };
        // SAFETY: all workers are waiting for `epoch` to change and read nothing else.
        unsafe { *shared.region.get() = Some(region_pointer) };
        shared.epoch.increment();

        shared.take_part(region, 0);

        let workers = self.workers.len() as u32;
        let mut finished = shared.finished.load();
        while finished != workers {
            finished = shared.finished.wait_while(finished, shared.spin);
        }
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.epoch.increment();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a region, so there is nothing to pass on.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn take_part(&self, region: &Region<'_>, thread: usize) {
        let outer = INSIDE.replace(self);
        let mode = ComputeMode::enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| region(thread, &self.barrier)));
        drop(mode);
        INSIDE.set(outer);
        if let Err(payload) = outcome {
            if !payload.is::<Released>() {
                lock(&self.panic).get_or_insert(payload);
            }
            self.barrier.poison();
        }
    }
}

fn work(shared: &Shared, thread: usize, core: Option<usize>) {
    if let Some(core) = core {
        pin(core);
    }
    let mut epoch = 0;
    loop {
        epoch = shared.epoch.wait_while(epoch, shared.spin);
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the caller of `run` wrote it before it changed `epoch`, and keeps it alive until all
        // workers have counted themselves as finished.
        if let Some(region) = unsafe { *shared.region.get() } {
            shared.take_part(unsafe { &*region }, thread);
        }
        shared.finished.increment();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What unwinds a thread out of a barrier that another thread's panic has broken.
struct Released;

/// Where the threads of a region wait for each other: writes made before by any are seen after by all.
pub struct Barrier {
    threads: u32,
    spin: bool,
    arrived: Arrived,
    /// Counts completed waits; `POISONED` once a thread of the region has panicked.
    generation: WaitWord,
}

/// On cache lines of its own: those who spin on the generation are not disturbed by arrivals.
#[repr(align(128))]
struct Arrived(AtomicU32);

const POISONED: u32 = u32::MAX;

impl Barrier {
    fn new(threads: u32, spin: bool) -> Self {
        Barrier { threads, spin, arrived: Arrived(AtomicU32::new(0)), generation: WaitWord::new(0) }
    }

    /// How many threads must arrive.
    pub fn threads(&self) -> usize {
        self.threads as usize
    }

    /// Waits until all threads of the region have called this as often as the caller has.
    /// Must be called equally often by all threads, or the region never ends.
    ///
    /// # Panics
    /// Unwinds, silently, if another thread of the region has panicked.
    pub fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let mut generation = self.generation.load();
        if generation != POISONED {
            if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
                self.arrived.0.store(0, Ordering::Relaxed);
                let next = (generation + 1) % POISONED;
                generation = self.generation.exchange(generation, next).map_or_else(|found| found, |()| next);
            } else {
                generation = self.generation.wait_while(generation, self.spin);
            }
        }
        if generation == POISONED {
            resume_unwind(Box::new(Released));
        }
    }

    fn poison(&self) {
        self.generation.store(POISONED);
    }

    /// Only while no thread is in a region.
    fn reset(&self) {
        self.arrived.0.store(0, Ordering::Relaxed);
        if self.generation.load() == POISONED {
            self.generation.store(0);
        }
    }
}

/// Takes the next chunk of at most `chunk` items out of `0..total` for the calling thread, or `None` when all are
/// taken. `next` starts at 0 and is shared by the threads; a `chunk` of 0 counts as 1.
///
/// Which thread gets which chunk differs from run to run, so no result may depend on it.
pub fn claim(next: &AtomicUsize, total: usize, chunk: usize) -> Option<Range<usize>> {
    let chunk = chunk.max(1);
    let start = next.fetch_add(chunk, Ordering::Relaxed);
    (start < total).then(|| start..total.min(start.saturating_add(chunk)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn every_thread_runs_once_in_each_of_many_regions() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..500 {
                pool.run(&|thread, _| {
                    counts[thread].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 500), "{threads} threads");
        }
    }

    #[test]
    fn a_barrier_orders_what_stands_before_and_after_it() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).unwrap();
            let rounds = if threads == 4 { 200 } else { 2000 };
            let cells: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|thread, barrier| {
                for round in 1..=rounds {
                    // Relaxed on purpose: the barrier alone must make it visible.
                    cells[thread].store(round, Ordering::Relaxed);
                    barrier.wait();
                    for cell in &cells {
                        assert_eq!(cell.load(Ordering::Relaxed), round);
                    }
                    barrier.wait();
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).unwrap();
            for victim in 0..threads {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(&|thread, barrier| {
                        barrier.wait();
                        if thread == victim {
                            resume_unwind(Box::new(victim));
                        }
                        barrier.wait();
                        barrier.wait();
                    });
                }));
                assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&victim));
                let ran = AtomicUsize::new(0);
                pool.run(&|_, barrier| {
                    barrier.wait();
                    ran.fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                    assert_eq!(ran.load(Ordering::Relaxed), threads);
                });
            }
        }
    }

    #[test]
    #[should_panic(expected = "inside a region of the same pool")]
    fn a_region_inside_a_region_is_refused() {
        let pool = Pool::new(2).unwrap();
        pool.run(&|thread, _| {
            if thread == 0 {
                pool.run(&|_, _| {});
            }
        });
    }

    #[test]
    fn several_threads_may_share_a_pool() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(&|_, barrier| {
                            total.fetch_add(1, Ordering::Relaxed);
                            barrier.wait();
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 600);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn denormals_are_zero_inside_a_region_and_only_there() {
        let smallest_normal = f32::MIN_POSITIVE;
        let denormal = f32::from_bits(0x0040_0000);
        let halve = |x: f32| black_box(black_box(x) * black_box(0.5));
        let double = |x: f32| black_box(black_box(x) * black_box(2.0));
        let pool = Pool::new(4).unwrap();
        for _ in 0..3 {
            assert!(halve(smallest_normal) != 0.0);
            pool.run(&|thread, _| {
                assert_eq!(halve(smallest_normal).to_bits(), 0, "result on thread {thread}");
                assert_eq!(double(denormal).to_bits(), 0, "operand on thread {thread}");
            });
            assert!(halve(smallest_normal) != 0.0);
            assert!(double(denormal) != 0.0);
        }
    }

    #[test]
    fn chunks_cover_all_items_once() {
        for (total, chunk) in [(0, 4), (1, 4), (1000, 7), (1000, 1), (16, 16), (5, 0)] {
            let pool = Pool::new(2).unwrap();
            let next = AtomicUsize::new(0);
            let taken: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|_, _| {
                while let Some(range) = claim(&next, total, chunk) {
                    for item in &taken[range] {
                        item.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            assert!(taken.iter().all(|item| item.load(Ordering::Relaxed) == 1));
        }
    }
}
