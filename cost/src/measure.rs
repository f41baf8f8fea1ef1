//! Measures the machine at hand once, in a few seconds, and keeps the figures in the cache folder.
//! All figures are of the machine and its compiler; none is of a model. Every loop is run in many short rounds
//! that take turns, so that a busy moment spoils one sample of each and not all samples of one.
//! It must not know kernels.

use crate::machine::{Bandwidth, DotShare, MemoryLevel, Precision, Rates};
use crate::probe::crew::{
    Caches, Crew, DOT_DEPTHS, DOT_ROWS, Loops, dot_loop, launch_and_barrier, memory_bytes, register_loop,
    stream_loop,
};
use crate::probe::{ProbeError, ProbeLibrary, ProbeSource};
use crate::work::ScalarOps;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Speeds and memory of the machine at hand, and what they were measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The processor as the system names it.
    pub processor: String,
    /// Threads that took part.
    pub threads: usize,
    /// See [`ProbeSource::fingerprint`].
    pub probe: String,
    /// Seconds that measuring took.
    pub seconds_spent: f64,
    /// Memory that the process may use.
    pub memory_bytes: f64,
    /// The figures.
    pub rates: Rates,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The loops cannot be compiled or loaded.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The cache folder cannot be written.
    #[error("cannot keep the measured speeds in {}: {source}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not enough memory for the arrays.
    #[error("cannot allocate {bytes} bytes to measure memory with")]
    Memory {
        /// Of one array.
        bytes: i64,
    },
}

/// The measurement of this machine with so many threads: from `cache_folder` if it was made before with the
/// same processor, threads and loops, else made now (a few seconds) and kept there. A file that cannot be
/// understood is measured again.
pub fn measured(
    source: &ProbeSource,
    threads: usize,
    cache_folder: &Path,
) -> Result<Measurement, MeasureError> {
    let (processor, probe) = (processor(), source.fingerprint());
    let path = cache_folder.join(file_name(&processor, threads, &probe));
    let same = |kept: &Measurement| {
        (kept.processor.as_str(), kept.threads, kept.probe.as_str()) == (&processor, threads, &probe)
    };
    if let Some(kept) = read_kept(&path).filter(same) {
        return Ok(kept);
    }
    let started = Instant::now();
    let library = ProbeLibrary::compile(source)?;
    let rates = measure(&library, threads)?;
    let seconds_spent = started.elapsed().as_secs_f64();
    let measurement =
        Measurement { processor, threads, probe, seconds_spent, memory_bytes: memory_bytes(), rates };
    keep(&measurement, &path).map_err(|source| MeasureError::Cache { path, source })?;
    Ok(measurement)
}

fn read_kept(path: &Path) -> Option<Measurement> {
    toml::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Written beside and renamed, so that a reader sees all of it or nothing.
fn keep(measurement: &Measurement, path: &Path) -> Result<(), std::io::Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let text = toml::to_string(measurement).map_err(std::io::Error::other)?;
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut beside, text.as_bytes())?;
    beside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn file_name(processor: &str, threads: usize, probe: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let processor: String = processor.chars().map(plain).collect();
    format!("machine-{processor}-{threads}-{probe}.toml")
}

/// Name, family, model and stepping of the processor: a virtual machine's name alone says little.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string())
    };
    let parts: Vec<_> =
        ["model name", "cpu family", "model", "stepping"].into_iter().filter_map(value).collect();
    if parts.is_empty() { std::env::consts::ARCH.to_string() } else { parts.join(" ") }
}

/// Measures all speeds, with `threads` threads pinned to a CPU each.
pub fn measure(library: &ProbeLibrary, threads: usize) -> Result<Rates, MeasureError> {
    let threads = threads.max(1);
    let caches = Caches::of(library, threads);
    let crew = Crew::new(library, threads, &caches)?;

    let mut loops = Loops::default();
    let peak = loops.add(register_loop(library.multiply_add, threads));
    let [arithmetic, divide, exponential, logarithm, trigonometric] =
        [library.arithmetic, library.divide, library.exponential, library.logarithm, library.trigonometric]
            .map(|function| loops.add(register_loop(function, threads)));

    let panel = unsafe { (library.panel_columns)() };
    let mut dots = Vec::new();
    for rows in DOT_ROWS {
        for depth in DOT_DEPTHS {
            dots.push((rows, depth, loops.add(dot_loop(library, threads, rows, depth, panel, &caches))));
        }
    }

    let streams = caches.levels.iter().map(|level| {
        let mut one_and_all = |write: bool| {
            [1, threads].map(|count| {
                let bytes = if count == 1 { level.one_thread_array } else { level.all_threads_array };
                loops.add(stream_loop(library, count, bytes, write))
            })
        };
        (level, one_and_all(false), one_and_all(true))
    });
    let streams: Vec<_> = streams.collect();
    let third = caches.levels.iter().find(|level| level.name == "L3");
    let fractions: Vec<_> = third
        .into_iter()
        .flat_map(|level| [0.25, 0.5, 0.75, 1.0].map(|fraction| fraction * level.capacity_bytes))
        .map(|bytes| (bytes, loops.add(stream_loop(library, threads, bytes / threads as f64, false))))
        .collect();

    let found = loops.run(&crew);
    let per_thread = |index: usize| found[index] / threads as f64;

    let mut levels: Vec<MemoryLevel> = streams
        .iter()
        .map(|(level, read, write)| MemoryLevel {
            name: level.name.to_string(),
            capacity_bytes: level.capacity_bytes,
            shared: level.shared,
            read: bandwidth(read, &found),
            write: bandwidth(write, &found),
        })
        .collect();
    shrink_to_effective_capacity(&mut levels, &fractions, &found);
    make_consistent(&mut levels);

    let (launch_seconds, barrier_seconds) = launch_and_barrier(library, threads);
    let peak = per_thread(peak);
    let share = |(rows, depth, index): (i64, i64, usize)| DotShare {
        rows: rows as f64,
        depth: depth as f64,
        share_of_peak: (per_thread(index) / peak).min(1.0),
    };
    Ok(Rates {
        threads,
        launch_seconds,
        barrier_seconds,
        peak_flops_per_second_per_thread: BTreeMap::from([(Precision::F32, peak)]),
        scalar_per_second_per_thread: ScalarOps {
            arithmetic: per_thread(arithmetic),
            divide: per_thread(divide),
            exponential: per_thread(exponential),
            logarithm: per_thread(logarithm),
            trigonometric: per_thread(trigonometric),
        },
        dot_shares: dots.into_iter().map(share).collect(),
        levels,
        gpu: None,
    })
}

fn bandwidth(loops: &[usize; 2], found: &[f64]) -> Bandwidth {
    Bandwidth { one_thread_bytes_per_second: found[loops[0]], all_threads_bytes_per_second: found[loops[1]] }
}

/// A host's last cache may be shared with others who are not seen: it counts as large as the largest array
/// that is read nearer to the cache's rate than to memory's.
fn shrink_to_effective_capacity(levels: &mut [MemoryLevel], fractions: &[(f64, usize)], found: &[f64]) {
    let (Some(last), Some(cache)) = (levels.len().checked_sub(1), levels.len().checked_sub(2)) else {
        return;
    };
    let rate = |level: usize| levels[level].read.all_threads_bytes_per_second;
    let between = (rate(last) * rate(cache)).sqrt();
    // A disturbance makes an array look farther away than it is, never nearer: the largest that is near counts.
    let held = fractions.iter().rfind(|(_, index)| found[*index] >= between);
    if !fractions.is_empty() {
        let nearer = cache.checked_sub(1).map_or(0.0, |nearer| levels[nearer].capacity_bytes);
        let smallest = fractions[0].0 / 2.0;
        levels[cache].capacity_bytes = held.map_or(smallest, |(bytes, _)| *bytes).max(nearer);
    }
}

/// Noise must not make a level look slower than one behind it, or all threads slower than one.
fn make_consistent(levels: &mut [MemoryLevel]) {
    let mut behind: Option<MemoryLevel> = None;
    for level in levels.iter_mut().rev() {
        let far = behind.take();
        let ways = [
            (&mut level.read, far.as_ref().map(|far| far.read)),
            (&mut level.write, far.as_ref().map(|far| far.write)),
        ];
        for (near, far) in ways {
            let (far_one, far_all) = far.map_or((0.0, 0.0), |far| {
                (far.one_thread_bytes_per_second, far.all_threads_bytes_per_second)
            });
            near.one_thread_bytes_per_second = near.one_thread_bytes_per_second.max(far_one);
            near.all_threads_bytes_per_second =
                near.all_threads_bytes_per_second.max(far_all).max(near.one_thread_bytes_per_second);
        }
        behind = Some(level.clone());
    }
}
