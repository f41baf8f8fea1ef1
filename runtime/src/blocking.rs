//! Which blocks of rows and of sums this machine multiplies fastest: a search over the few that codegen offers, once for
//! each processor, compiler and number of threads. No bit depends on what it finds.

use crate::cpu::compile::{CSource, CompileError, Compiler, KernelCache, compile_all};
use crate::cpu::pool::Pool;
use crate::executor::{AlignedBytes, OutOfMemory, kernel_flags};
use diptych_codegen::c::prelude::{Blocking, DOT_FUNCTIONS, VectorWidth, dot_source};
use diptych_ir::DType;
use std::error::Error;
use std::ffi::c_void;
use std::time::Instant;

/// The depths of the products that are timed: a narrow model's, a wider one's, and that of a wide layer.
const DEPTHS: [usize; 3] = [288, 768, 2048];
/// Elements of the right operand of each: more than the second-level cache of a core holds.
const ELEMENTS: usize = 2 << 20;
/// Columns that are multiplied before the next, as kernels walk a vocabulary.
const COLUMNS: usize = 512;
/// Each candidate is timed so often, in turns with the others.
const ROUNDS: usize = 7;
/// Others must take at most this share of the time of the blocks that are the default: less is noise.
const WORTH_CHANGING: f64 = 0.97;

/// `dot` as [`dot_source`] declares it.
type Dot = unsafe extern "C" fn(
    i64,
    i64,
    i64,
    *const f32,
    i64,
    i64,
    *const f32,
    i64,
    i64,
    i32,
    *mut f32,
    i64,
    i64,
    i32,
    i32,
    *mut f32,
);

/// The blocks for kernels of a width that run on this pool: as found before, or else searched now, some seconds.
/// Where nothing can be kept they are the default, so that one machine does not change its mind.
pub fn fastest(pool: &Pool, compiler: &Compiler, cache: &KernelCache, width: VectorWidth) -> Blocking {
    let candidates = width.blockings();
    if candidates.len() < 2 {
        return width.blocking();
    }
    let sources: Vec<CSource> = candidates.iter().map(source).collect();
    let flags = kernel_flags(width, compiler);
    let asked = format!("{candidates:?} {DEPTHS:?} {ELEMENTS} {COLUMNS} {WORTH_CHANGING} {}", pool.threads());
    let asked = CSource { name: "what is searched".to_owned(), text: asked };
    let Some(note) = cache.note("blocking", sources.iter().chain([&asked]), &flags, compiler) else {
        return width.blocking();
    };
    let kept = || parse(&note.read()?).filter(|found| candidates.contains(found));
    let search = || {
        // Two searches at once would disturb each other.
        let _alone = note.alone().ok()?;
        if let Some(found) = kept() {
            return Some(found);
        }
        let found = search(pool, compiler, cache, width, &candidates, &sources, &flags).ok()?;
        note.write(&format!("{} {}\n", found.rows, found.depth)).ok()?;
        Some(found)
    };
    kept().or_else(search).unwrap_or_else(|| width.blocking())
}

fn parse(text: &str) -> Option<Blocking> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(Blocking { rows: numbers.next()?.ok()?, depth: numbers.next()?.ok()? })
}

fn source(blocking: &Blocking) -> CSource {
    CSource { name: format!("dot_depth_{}", blocking.depth), text: dot_source(DType::F32, *blocking) }
}

fn search(
    pool: &Pool,
    compiler: &Compiler,
    cache: &KernelCache,
    width: VectorWidth,
    candidates: &[Blocking],
    sources: &[CSource],
    flags: &[String],
) -> Result<Blocking, Box<dyn Error>> {
    let compiled = compile_all(compiler, sources, flags, cache, pool.threads())?;
    let dots: Vec<Dot> = compiled
        .libraries
        .iter()
        // SAFETY: the source defines the function, of this type.
        .map(|library| {
            Ok(unsafe { std::mem::transmute::<*const c_void, Dot>(library.symbol(DOT_FUNCTIONS[0])?) })
        })
        .collect::<Result<_, CompileError>>()?;
    let mut seconds = Vec::new();
    for depth in DEPTHS {
        let mut work = Work::new(pool, candidates, width, depth)?;
        let round = |_| {
            let of = |(&candidate, &dot): (&Blocking, &Dot)| work.seconds(pool, candidate, dot);
            candidates.iter().zip(&dots).map(of).collect()
        };
        seconds.push((0..ROUNDS).map(round).collect());
    }
    Ok(best(candidates, width.blocking(), &seconds))
}

/// The candidate that takes the least time against the default, if that is worth a change. Of each depth there are
/// rounds, and of each round the seconds of each candidate; those of one round are compared.
fn best(candidates: &[Blocking], default: Blocking, seconds: &[Vec<Vec<f64>>]) -> Blocking {
    let Some(normal) = candidates.iter().position(|&candidate| candidate == default) else { return default };
    // The geometric mean over depths of the medians over rounds.
    let share = |at: usize| {
        let median = |rounds: &Vec<Vec<f64>>| {
            let mut ratios: Vec<f64> = rounds.iter().map(|round| round[at] / round[normal]).collect();
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2].ln()
        };
        (seconds.iter().map(median).sum::<f64>() / seconds.len() as f64).exp()
    };
    let shares = (0..candidates.len()).map(|at| (share(at), candidates[at]));
    match shares.min_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((share, found)) if share < WORTH_CHANGING => found,
        _ => default,
    }
}

/// Products of rows of each thread with one matrix of all.
struct Work {
    width: VectorWidth,
    depth: usize,
    /// Rows of each thread: a multiple of those of every candidate.
    rows: usize,
    right: AlignedBytes,
    /// Of each thread: rows, products and scratch.
    own: Vec<[AlignedBytes; 3]>,
}

/// Where a thread's own memory is.
#[derive(Clone, Copy)]
struct Own([*mut f32; 3]);

// SAFETY: each thread of a region takes that of its own number.
unsafe impl Sync for Own {}

impl Work {
    fn new(
        pool: &Pool,
        candidates: &[Blocking],
        width: VectorWidth,
        depth: usize,
    ) -> Result<Work, OutOfMemory> {
        let rows = candidates.iter().map(|candidate| candidate.rows).max().unwrap_or(0);
        // Memory as kernels have it. Numbers do not matter, but for those that slow a processor down: all are one.
        let floats = |count: usize| -> Result<AlignedBytes, OutOfMemory> {
            let mut bytes = AlignedBytes::zeroed(count * size_of::<f32>())?;
            bytes.as_mut_slice::<f32>().fill(1.0);
            Ok(bytes)
        };
        let own = || -> Result<[AlignedBytes; 3], OutOfMemory> {
            Ok([floats(rows * depth)?, floats(rows * COLUMNS)?, floats(width.dot_scratch_floats())?])
        };
        let columns = (ELEMENTS / depth).next_multiple_of(COLUMNS);
        let own = (0..pool.threads()).map(|_| own()).collect::<Result<_, _>>()?;
        Ok(Work { width, depth, rows, right: floats(depth * columns)?, own })
    }

    /// Seconds for all rows in blocks of a candidate.
    fn seconds(&mut self, pool: &Pool, candidate: Blocking, dot: Dot) -> f64 {
        let own: Vec<Own> =
            self.own.iter().map(|own| Own(own.each_ref().map(|part| part.as_ptr().cast()))).collect();
        let (depth, panel, rows, right) =
            (self.depth, self.width.panel(), self.rows, self.right.as_slice::<f32>());
        let start = Instant::now();
        pool.run(&|thread, _| {
            let [left, products, scratch] = own[thread].0;
            for first in (0..rows).step_by(candidate.rows) {
                for right in right.chunks_exact(depth * COLUMNS) {
                    // SAFETY: the left operand has `rows` rows of `depth`, the right one whole panels of `depth` rows,
                    // and the products room for `rows` rows; all of them but the right one are this thread's own.
                    unsafe {
                        dot(
                            candidate.rows as i64,
                            COLUMNS as i64,
                            depth as i64,
                            left.add(first * depth),
                            depth as i64,
                            1,
                            right.as_ptr(),
                            (depth * panel) as i64,
                            panel as i64,
                            1,
                            products,
                            COLUMNS as i64,
                            panel as i64,
                            1,
                            0,
                            scratch,
                        )
                    }
                }
            }
        });
        start.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_saves_too_little_is_not_taken() {
        let [default, deep, wide] =
            [(144, 192), (144, 256), (288, 192)].map(|(rows, depth)| Blocking { rows, depth });
        let candidates = [default, deep, wide];
        // Rounds differ by far more than candidates.
        let rounds = |deep: f64, wide: f64| -> Vec<Vec<f64>> {
            [1.0, 3.0, 1.5].map(|slow| vec![slow, slow * deep, slow * wide]).to_vec()
        };
        assert_eq!(best(&candidates, default, &[rounds(0.9, 1.0), rounds(0.96, 0.8)]), wide);
        assert_eq!(best(&candidates, default, &[rounds(0.9, 1.0), rounds(1.0, 1.1)]), deep);
        assert_eq!(best(&candidates, default, &[rounds(0.99, 0.98), rounds(0.98, 1.0)]), default);
        let mut disturbed = rounds(1.0, 1.0);
        disturbed[1][2] = 0.1;
        assert_eq!(best(&candidates, default, &[disturbed]), default);
    }

    #[test]
    fn nothing_is_searched_where_nothing_can_be_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (pool, compiler) = (Pool::new(1).unwrap(), Compiler::find().unwrap());
        let (cache, width) = (KernelCache::at(file.path().join("kernels")), VectorWidth::detect());
        assert_eq!(fastest(&pool, &compiler, &cache, width), width.blocking());
    }

    #[test]
    fn what_was_found_is_kept_and_what_is_damaged_is_searched_again() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, compiler) = (Pool::new(2).unwrap(), Compiler::find().unwrap());
        let (cache, width) = (KernelCache::at(folder.path()), VectorWidth::detect());
        let candidates = width.blockings();
        let found = fastest(&pool, &compiler, &cache, width);
        assert!(candidates.contains(&found), "{found:?}");
        let notes = || {
            let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
            files.filter(|file| file.extension().is_some_and(|end| end == "txt")).collect::<Vec<_>>()
        };
        if candidates.len() == 1 {
            assert!(notes().is_empty(), "there was nothing to search");
            return;
        }
        let [note] = &notes()[..] else { panic!("one note is kept, not {:?}", notes()) };
        for candidate in &candidates {
            std::fs::write(note, format!("{} {}\n", candidate.rows, candidate.depth)).unwrap();
            assert_eq!(fastest(&pool, &compiler, &cache, width), *candidate);
        }
        for damaged in ["", "7 11", "many"] {
            std::fs::write(note, damaged).unwrap();
            let found = fastest(&pool, &compiler, &cache, width);
            assert!(candidates.contains(&found), "{damaged}: {found:?}");
            let kept = std::fs::read_to_string(note).unwrap();
            assert_eq!(kept, format!("{} {}\n", found.rows, found.depth), "{damaged}");
        }
    }
}
