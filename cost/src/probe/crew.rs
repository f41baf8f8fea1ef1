//! Threads that run the loops: arrays in each memory level, rounds that take turns, times and their quartile.
//! It must not know what the figures are for.

use crate::measure::MeasureError;
use crate::probe::ProbeLibrary;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Rounds over all loops, and how many are enough where a busy machine makes them take too long.
const ROUNDS: usize = 11;
const ENOUGH_ROUNDS: usize = 5;
const ENOUGH_SECONDS: f64 = 3.0;
/// Least time of one sample: long against starting threads, short against a busy moment.
const SAMPLE_SECONDS: f64 = 1e-3;

/// Rows and depths of the contractions measured; what lies between is interpolated.
pub(crate) const DOT_ROWS: [i64; 8] = [1, 2, 4, 8, 12, 16, 32, 96];
pub(crate) const DOT_DEPTHS: [i64; 4] = [16, 64, 256, 768];

/// Memory of the host, or what the process's control group leaves of it.
pub(crate) fn memory_bytes() -> f64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let host = read("/proc/meminfo").and_then(|text| {
        let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        kibibytes.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<f64>().ok());
    // Where neither is known the figure must not forbid anything.
    host.unwrap_or(f64::MAX).min(group.unwrap_or(f64::MAX))
}

/// A memory level and the arrays (bytes a thread) that lie in it.
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) capacity_bytes: f64,
    pub(crate) shared: bool,
    pub(crate) one_thread_array: f64,
    pub(crate) all_threads_array: f64,
}

pub(crate) struct Caches {
    pub(crate) levels: Vec<Level>,
}

impl Caches {
    /// Sizes from the system, else from the C library; a cache of which neither knows is left out.
    pub(crate) fn of(library: &ProbeLibrary, threads: usize) -> Caches {
        let bytes = |level: u32| {
            cache_bytes_from_system(level)
                .unwrap_or_else(|| unsafe { (library.cache_bytes)(level as i32) } as f64)
        };
        let [first, second, third] = [1, 2, 3].map(bytes);
        let all = threads as f64;
        let mut levels = Vec::new();
        for (name, capacity_bytes) in [("L1", first), ("L2", second)] {
            if capacity_bytes > 0.0 {
                let array = capacity_bytes / 2.0;
                let (one_thread_array, all_threads_array) = (array, array);
                levels.push(Level {
                    name,
                    capacity_bytes,
                    shared: false,
                    one_thread_array,
                    all_threads_array,
                });
            }
        }
        if third > 0.0 {
            // An eighth is little enough to be left to us by others, but it must not fit the second cache.
            let outside = 1.5 * second.max(first);
            let [one_thread_array, all_threads_array] =
                [1.0, all].map(|count| (third / 8.0 / count).max(outside));
            levels.push(Level {
                name: "L3",
                capacity_bytes: third,
                shared: true,
                one_thread_array,
                all_threads_array,
            });
        }
        let beyond = 4.0 * third.max(2.0 * second * all).max((16 << 20) as f64);
        let total = beyond.min(memory_bytes() / 8.0);
        levels.push(Level {
            name: "DRAM",
            capacity_bytes: memory_bytes(),
            shared: true,
            one_thread_array: total,
            all_threads_array: total / all,
        });
        Caches { levels }
    }

    fn largest_array(&self, of_one_thread: bool) -> f64 {
        let array =
            |level: &Level| if of_one_thread { level.one_thread_array } else { level.all_threads_array };
        self.levels.iter().map(array).fold(0.0, f64::max)
    }

    /// Room for the packed operand of a contraction: half of the second cache.
    fn dot_operand_bytes(&self) -> f64 {
        let second = self.levels.iter().find(|level| level.name == "L2");
        second.map_or(256.0 * 1024.0, |level| level.capacity_bytes / 2.0)
    }
}

/// The data or unified cache of a level as Linux tells it.
fn cache_bytes_from_system(level: u32) -> Option<f64> {
    (0..8).find_map(|index| {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok()
        };
        if read("level")?.trim().parse() != Ok(level) || read("type")?.trim() == "Instruction" {
            return None;
        }
        let size = read("size")?;
        let kibibytes: f64 = size.trim().strip_suffix('K')?.parse().ok()?;
        Some(kibibytes * 1024.0)
    })
}

/// Arrays of a thread.
struct Arrays {
    stream: *mut f32,
    dot: *mut f32,
    free: unsafe extern "C" fn(*mut f32),
}

// SAFETY: each `Arrays` is used by one thread at a time; the memory is the C library's and has no owner thread.
unsafe impl Sync for Arrays {}
unsafe impl Send for Arrays {}

impl Drop for Arrays {
    fn drop(&mut self) {
        // SAFETY: both came from the allocator of the same library, or are null, which it ignores.
        unsafe {
            (self.free)(self.stream);
            (self.free)(self.dot);
        }
    }
}

pub(crate) struct Crew<'a> {
    library: &'a ProbeLibrary,
    arrays: Vec<Arrays>,
}

impl<'a> Crew<'a> {
    pub(crate) fn new(
        library: &'a ProbeLibrary,
        threads: usize,
        caches: &Caches,
    ) -> Result<Crew<'a>, MeasureError> {
        let deepest = DOT_DEPTHS[DOT_DEPTHS.len() - 1];
        let most_rows = DOT_ROWS[DOT_ROWS.len() - 1];
        // Operands a, b, c in this order, see `dot_loop`; b and c grow by a panel at most.
        let panel = unsafe { (library.panel_columns)() };
        let b_bytes = caches.dot_operand_bytes() as i64 + 4 * deepest * panel;
        let c_bytes = most_rows * (b_bytes / DOT_DEPTHS[0]);
        let dot_bytes =
            4 * most_rows * deepest + b_bytes + c_bytes + unsafe { (library.dot_scratch_bytes)() };
        let allocate = |bytes: i64| {
            // SAFETY: plain allocation; null is an error.
            let memory = unsafe { (library.allocate)(bytes) };
            if memory.is_null() { Err(MeasureError::Memory { bytes }) } else { Ok(memory) }
        };
        let arrays = (0..threads).map(|thread| {
            let mut arrays =
                Arrays { stream: std::ptr::null_mut(), dot: std::ptr::null_mut(), free: library.free };
            let of_one_thread = if thread == 0 { caches.largest_array(true) } else { 0.0 };
            arrays.stream = allocate(of_one_thread.max(caches.largest_array(false)) as i64 + 4096)?;
            arrays.dot = allocate(dot_bytes)?;
            Ok(arrays)
        });
        Ok(Crew { library, arrays: arrays.collect::<Result<_, MeasureError>>()? })
    }

    /// Seconds of the loop's slowest thread. Time in which a thread was not let run does not count: other
    /// programs on the machine are none of its properties.
    fn seconds(&self, this: &Loop, times: i64) -> f64 {
        let ready = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let threads = self.arrays[..this.threads].iter().enumerate().map(|(index, arrays)| {
                let ready = &ready;
                scope.spawn(move || {
                    // SAFETY: a failure to pin leaves the thread where it is, which only adds noise; the clock
                    // takes nothing.
                    let now = || unsafe { (self.library.thread_seconds)() };
                    unsafe { (self.library.pin)(index as i32) };
                    meet(ready, this.threads);
                    let start = now();
                    (this.run)(arrays, times);
                    now() - start
                })
            });
            let threads: Vec<_> = threads.collect();
            let seconds =
                threads.into_iter().map(|thread| thread.join().expect("a measuring thread does not panic"));
            seconds.fold(0.0, f64::max)
        })
    }
}

/// Waits until so many have come.
fn meet(come: &AtomicUsize, threads: usize) {
    come.fetch_add(1, Ordering::AcqRel);
    let mut spins = 0_u32;
    while come.load(Ordering::Acquire) < threads {
        spins += 1;
        // With more threads than CPUs the others must be let run.
        if spins > 10_000 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// Reads memory in order with all threads, to compare something else with in turns.
pub struct MemoryReader<'a> {
    crew: Crew<'a>,
    pass: Loop<'a>,
}

impl<'a> MemoryReader<'a> {
    /// Over an array of so many bytes in all, a part for each thread. The caller makes it larger than caches.
    pub fn new(
        library: &'a ProbeLibrary,
        threads: usize,
        bytes: f64,
    ) -> Result<MemoryReader<'a>, MeasureError> {
        let threads = threads.max(1);
        let array = bytes / threads as f64;
        let level = Level {
            name: "memory",
            capacity_bytes: bytes,
            shared: true,
            one_thread_array: array,
            all_threads_array: array,
        };
        let crew = Crew::new(library, threads, &Caches { levels: vec![level] })?;
        Ok(MemoryReader { crew, pass: stream_loop(library, threads, array, false) })
    }

    /// Bytes per second of one pass over the array.
    pub fn bytes_per_second(&self) -> f64 {
        self.pass.amount * self.pass.threads as f64 / self.crew.seconds(&self.pass, 1)
    }
}

type Run<'a> = Box<dyn Fn(&Arrays, i64) + Sync + 'a>;

/// Something to repeat: `amount` is what one thread does each time.
pub(crate) struct Loop<'a> {
    threads: usize,
    amount: f64,
    run: Run<'a>,
}

/// A loop that touches nothing but registers and its own stack.
pub(crate) fn register_loop<'a>(function: unsafe extern "C" fn(i64) -> i64, threads: usize) -> Loop<'a> {
    // SAFETY: these functions take any count and touch only their own stack; they say what they do each time.
    let amount = unsafe { function(1) } as f64;
    let run: Run = Box::new(move |_, times| {
        std::hint::black_box(unsafe { function(times) });
    });
    Loop { threads, amount, run }
}

pub(crate) fn stream_loop(library: &ProbeLibrary, threads: usize, bytes: f64, write: bool) -> Loop<'_> {
    // Whole steps of the loops: 8 vectors of at most 64 bytes.
    let floats = (bytes as i64 / 512).max(1) * 128;
    let run: Run = Box::new(move |arrays, times| {
        // SAFETY: `Crew::new` made the stream at least as long as the largest array.
        unsafe {
            if write {
                (library.write)(times, arrays.stream, floats)
            } else {
                (library.read)(times, arrays.stream, floats)
            }
        }
    });
    Loop { threads, amount: floats as f64 * 4.0, run }
}

pub(crate) fn dot_loop<'a>(
    library: &'a ProbeLibrary,
    threads: usize,
    rows: i64,
    depth: i64,
    panel: i64,
    caches: &Caches,
) -> Loop<'a> {
    let panels = (caches.dot_operand_bytes() as i64 / (4 * depth * panel)).clamp(1, 64);
    let columns = panels * panel;
    let run: Run = Box::new(move |arrays, times| {
        // SAFETY: `Crew::new` left room for a, b, c and the scratch in this order.
        unsafe {
            let a = arrays.dot;
            let b = a.add((rows * depth) as usize);
            let c = b.add((depth * columns) as usize);
            let scratch = c.add((rows * columns) as usize);
            (library.dot)(times, rows, depth, columns, a, b, c, scratch);
        }
    });
    Loop { threads, amount: 2.0 * (rows * depth * columns) as f64, run }
}

#[derive(Default)]
pub(crate) struct Loops<'a>(Vec<Loop<'a>>);

impl<'a> Loops<'a> {
    pub(crate) fn add(&mut self, this: Loop<'a>) -> usize {
        self.0.push(this);
        self.0.len() - 1
    }

    /// What all threads of each loop do in a second: the upper quartile of all rounds. Others on the machine
    /// only ever slow a loop down, so the better half of the samples says what it does undisturbed; the very
    /// best would be a moment of higher clock.
    pub(crate) fn run(&self, crew: &Crew) -> Vec<f64> {
        let times: Vec<i64> = self.0.iter().map(|this| enough_times(this, crew)).collect();
        let mut samples = vec![Vec::with_capacity(ROUNDS); self.0.len()];
        let started = Instant::now();
        for round in 0..ROUNDS {
            if round >= ENOUGH_ROUNDS && started.elapsed().as_secs_f64() > ENOUGH_SECONDS {
                break;
            }
            for ((this, &times), samples) in self.0.iter().zip(&times).zip(&mut samples) {
                let amount = this.amount * times as f64 * this.threads as f64;
                samples.push(amount / crew.seconds(this, times));
            }
        }
        samples.iter_mut().map(|samples| upper_quartile(samples)).collect()
    }
}

/// Repetitions that fill a sample. The fastest of three decides: a single one that was interrupted would make
/// all samples of the loop so short that only their overhead is seen.
fn enough_times(this: &Loop, crew: &Crew) -> i64 {
    let mut times = 1_i64;
    loop {
        let mut fastest = f64::INFINITY;
        for _ in 0..3 {
            fastest = fastest.min(crew.seconds(this, times).max(1e-9));
            if fastest < SAMPLE_SECONDS / 2.0 {
                break;
            }
        }
        let missing = SAMPLE_SECONDS / fastest;
        if missing <= 2.0 {
            return (times as f64 * missing).ceil().max(1.0) as i64;
        }
        times = (times as f64 * missing.min(100.0)).ceil() as i64;
    }
}

fn upper_quartile(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() * 3 / 4]
}

/// Seconds to call a kernel, and to hand an empty one to waiting threads and see all of them done.
pub(crate) fn launch_and_barrier(library: &ProbeLibrary, threads: usize) -> (f64, f64) {
    const CALLS: usize = 1000;
    let empty: unsafe extern "C" fn() -> i64 = std::hint::black_box(library.panel_columns);
    let call_batch = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: a function without arguments that returns a constant.
            std::hint::black_box(unsafe { empty() });
        }
        CALLS as f64 / start.elapsed().as_secs_f64()
    };
    let mut calls: Vec<f64> = (0..ROUNDS).map(|_| call_batch()).collect();
    let launch_seconds = 1.0 / upper_quartile(&mut calls);
    if threads == 1 {
        return (launch_seconds, 0.0);
    }

    let (round, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let total = CALLS * ROUNDS;
    let mut handed_per_second = std::thread::scope(|scope| {
        for index in 1..threads {
            let (round, done) = (&round, &done);
            scope.spawn(move || {
                unsafe { (library.pin)(index as i32) };
                for wanted in 1..=total {
                    meet_round(round, wanted);
                    std::hint::black_box(unsafe { empty() });
                    done.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let leader = scope.spawn(|| {
            unsafe { (library.pin)(0) };
            let batch = |batch: usize| {
                let start = Instant::now();
                for wanted in batch * CALLS + 1..=(batch + 1) * CALLS {
                    round.store(wanted, Ordering::Release);
                    std::hint::black_box(unsafe { empty() });
                    meet_round(&done, wanted * (threads - 1));
                }
                CALLS as f64 / start.elapsed().as_secs_f64()
            };
            (0..ROUNDS).map(batch).collect::<Vec<f64>>()
        });
        leader.join().expect("a measuring thread does not panic")
    });
    let handed_seconds = 1.0 / upper_quartile(&mut handed_per_second);
    (launch_seconds, (handed_seconds - launch_seconds).max(0.0))
}

/// Waits until a counter has come so far.
fn meet_round(counter: &AtomicUsize, wanted: usize) {
    let mut spins = 0_u32;
    while counter.load(Ordering::Acquire) < wanted {
        spins += 1;
        if spins > 10_000 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}
