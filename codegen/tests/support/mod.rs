//! Compiles C text behind the prelude with the system's compiler and loads it.
//! For the tests and benches of the prelude alone: the product has its own compiler driver and cache.

use diptych_codegen::c::prelude::{LINK_FLAGS, VectorWidth, clang_flags, narrow_dots, prelude};
use libloading::Library;
use std::process::Command;

/// The widths that this machine can run; says which are left out.
pub fn widths() -> Vec<VectorWidth> {
    let (run, skip): (Vec<_>, Vec<_>) = VectorWidth::ALL.into_iter().partition(|width| width.is_supported());
    for width in skip {
        eprintln!("skipped {width:?}: this machine cannot run it");
    }
    run
}

/// Compiles the prelude followed by `source` with `$CC` (default `cc`), and loads the result.
pub fn load(width: VectorWidth, source: &str) -> Library {
    load_with(width, &[], source)
}

/// The same with more flags.
pub fn load_with(width: VectorWidth, flags: &[String], source: &str) -> Library {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("kernels.c");
    let object = folder.path().join("kernels.so");
    std::fs::write(&file, format!("{}{}{source}", prelude(), narrow_dots()))
        .expect("a writable temporary folder");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(width.cc_flags()).args(flags).args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    if compiler.contains("clang") && width == VectorWidth::Avx512 {
        command.args(clang_flags());
    }
    let output = command.arg("-o").arg(&object).arg(&file).args(LINK_FLAGS).output().expect("a C compiler");
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library was just compiled from the prelude and has no initialisers.
    unsafe { Library::new(&object) }.expect("a loadable library")
}

/// xorshift64*: the tests need spread, not quality.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below n.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) as usize) % n
    }
    /// A number in [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Memory that ends where nothing may be touched: an access past what was put there faults.
pub struct Guarded(*mut u8);

impl Guarded {
    /// A region of 16 MiB, never freed.
    pub fn new(library: &Library) -> Guarded {
        // SAFETY: exports.c declares the function so.
        let end = unsafe { library.get::<unsafe extern "C" fn() -> *mut u8>(b"test_guarded_end").unwrap()() };
        assert!(!end.is_null(), "no memory");
        Guarded(end)
    }

    /// Copies the values so that the last one ends at the guard.
    pub fn put<T: Copy>(&mut self, values: &[T]) -> *mut T {
        let bytes = std::mem::size_of_val(values);
        assert!(bytes <= 16 << 20);
        // SAFETY: that many bytes lie before the end, which is aligned to a page.
        unsafe {
            let start = self.0.sub(bytes).cast::<T>();
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            start
        }
    }
}
