//! Which blocks of rows and of sums this machine multiplies fastest: a search over the few that codegen offers, once for
//! each processor, compiler and number of threads. No bit depends on what it finds.

use crate::cpu::compile::{CSource, CompileError, Compiler, KernelCache, compile_all};
use crate::cpu::pool::Pool;
use crate::executor::kernel_flags;
use diptych_codegen::c::prelude::{Blocking, DOT_FUNCTIONS, VectorWidth, dot_source};
use diptych_ir::DType;
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
/// Where nothing can be kept or compiled they are the default.
pub fn fastest(pool: &Pool, compiler: &Compiler, cache: &KernelCache, width: VectorWidth) -> Blocking {
    let candidates = width.blockings();
    let [_, _, ..] = candidates[..] else { return width.blocking() };
    let sources: Vec<CSource> = candidates.iter().map(source).collect();
    let flags = kernel_flags(width, compiler);
    let threads = CSource { name: "threads".to_owned(), text: pool.threads().to_string() };
    let key = sources.iter().chain([&threads]);
    let Some(note) = cache.note("blocking", key, &flags, compiler) else { return width.blocking() };
    let known = note.read().and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse::<usize>);
        let found = Blocking { rows: numbers.next()?.ok()?, depth: numbers.next()?.ok()? };
        candidates.contains(&found).then_some(found)
    });
    known.unwrap_or_else(|| {
        let Ok(found) = search(pool, compiler, cache, width, &candidates, &sources, &flags) else {
            return width.blocking();
        };
        // What cannot be kept is searched again.
        note.write(&format!("{} {}\n", found.rows, found.depth)).ok();
        found
    })
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
) -> Result<Blocking, CompileError> {
    let compiled = compile_all(compiler, sources, flags, cache, pool.threads())?;
    let dots: Vec<Dot> = compiled
        .libraries
        .iter()
        // SAFETY: the source defines the function, of this type.
        .map(|library| {
            Ok(unsafe { std::mem::transmute::<*const c_void, Dot>(library.symbol(DOT_FUNCTIONS[0])?) })
        })
        .collect::<Result<_, CompileError>>()?;
    let default = candidates.iter().position(|&candidate| candidate == width.blocking()).unwrap_or(0);
    // For each candidate, how long it takes against the default: the logarithms, summed over depths.
    let mut longer = vec![0.0; candidates.len()];
    for depth in DEPTHS {
        let mut work = Work::new(pool, candidates, width, depth);
        let mut seconds = vec![Vec::new(); candidates.len()];
        for _ in 0..ROUNDS {
            for (at, (&candidate, &dot)) in candidates.iter().zip(&dots).enumerate() {
                seconds[at].push(work.seconds(pool, candidate, dot));
            }
        }
        for (at, longer) in longer.iter_mut().enumerate() {
            let mut ratios: Vec<f64> =
                seconds[at].iter().zip(&seconds[default]).map(|(one, other)| one / other).collect();
            ratios.sort_by(f64::total_cmp);
            *longer += ratios[ROUNDS / 2].ln();
        }
    }
    let best = (0..candidates.len()).min_by(|&a, &b| longer[a].total_cmp(&longer[b])).unwrap_or(default);
    let share = (longer[best] / DEPTHS.len() as f64).exp();
    Ok(candidates[if share < WORTH_CHANGING { best } else { default }])
}

/// Products of rows of each thread with one matrix of all.
struct Work {
    width: VectorWidth,
    depth: usize,
    /// Rows of each thread: a multiple of those of every candidate.
    rows: usize,
    right: Vec<f32>,
    /// Of each thread: rows, products and scratch.
    own: Vec<[Vec<f32>; 3]>,
}

/// Where a thread's own memory is.
#[derive(Clone, Copy)]
struct Own([*mut f32; 3]);

// SAFETY: each thread of a region takes that of its own number.
unsafe impl Sync for Own {}

impl Work {
    fn new(pool: &Pool, candidates: &[Blocking], width: VectorWidth, depth: usize) -> Work {
        let rows = candidates.iter().map(|candidate| candidate.rows).max().unwrap_or(0);
        let own =
            || [vec![0.5; rows * depth], vec![0.0; rows * COLUMNS], vec![0.0; width.dot_scratch_floats()]];
        let columns = (ELEMENTS / depth).next_multiple_of(COLUMNS);
        let own = (0..pool.threads()).map(|_| own()).collect();
        Work { width, depth, rows, right: vec![0.25; depth * columns], own }
    }

    /// Seconds for all rows in blocks of a candidate.
    fn seconds(&mut self, pool: &Pool, candidate: Blocking, dot: Dot) -> f64 {
        let own: Vec<Own> =
            self.own.iter_mut().map(|own| Own(own.each_mut().map(|part| part.as_mut_ptr()))).collect();
        let (depth, panel, rows, right) = (self.depth, self.width.panel(), self.rows, &self.right);
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
