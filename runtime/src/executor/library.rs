//! From kernel texts to functions: files of several kernels, compiled in
//! parallel through the cache, and looked up by name.

use crate::cpu::compile::{
    CSource, CompileError, CompileStats, Compiler, CompilerKind, KernelCache, Library, compile_all,
};
use diptych_codegen::c::prelude::{
    BLOCK_FUNCTIONS, Blocking, DOT_ELEMENTS, DOT_FUNCTIONS, LINK_FLAGS, VectorWidth, blocks_source,
    clang_flags, dot_source,
};
use diptych_codegen::c::step::StepTables;
use diptych_codegen::c::{KernelText, file_text};
use diptych_ir::DType;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::c_void;

/// A kernel: step tables, arguments, sizes, scratch, instance.
pub type KernelFn = unsafe extern "C" fn(*const StepTables, *const *mut c_void, *const i64, *mut f32, i64);

/// Most kernels of one file: enough to share the cost of what every file
/// begins with, few enough to keep all cores busy.
const KERNELS_A_FILE: usize = 12;

/// Loaded kernels.
pub struct Kernels {
    functions: HashMap<String, KernelFn>,
    /// The functions [`DOT_FUNCTIONS`] that kernels call, and those of floats; null for the others.
    dots: [*const c_void; DOT_FUNCTIONS.len()],
    /// The functions [`BLOCK_FUNCTIONS`] that kernels call; null for the others.
    in_blocks: [*const c_void; BLOCK_FUNCTIONS.len()],
    /// The functions' code lives as long as these.
    _libraries: Vec<Library>,
    /// What was compiled and what was found.
    pub stats: CompileStats,
}

// The pointers are to code.
unsafe impl Send for Kernels {}
unsafe impl Sync for Kernels {}

impl Kernels {
    /// The dots that kernels call through the step's tables, in the order of [`DOT_FUNCTIONS`].
    pub fn dots(&self) -> [*const c_void; DOT_FUNCTIONS.len()] {
        self.dots
    }

    /// What kernels call for weights in blocks, in the order of [`BLOCK_FUNCTIONS`].
    pub fn in_blocks(&self) -> [*const c_void; BLOCK_FUNCTIONS.len()] {
        self.in_blocks
    }

    /// The function of a kernel.
    pub fn function(&self, name: &str) -> Option<KernelFn> {
        self.functions.get(name).copied()
    }
}

/// The flags that kernels of a width are compiled with.
pub(crate) fn kernel_flags(width: VectorWidth, compiler: &Compiler) -> Vec<String> {
    let clang: &[&str] = if compiler.kind == CompilerKind::Clang { clang_flags() } else { &[] };
    let flags = width.cc_flags().into_iter();
    flags.chain(LINK_FLAGS.iter().chain(clang).copied()).map(str::to_owned).collect()
}

/// Compiles kernels (each name once) for a vector width and loads them. Their dots work in blocks of such a size.
///
/// # Errors
/// When there is no compiler, or it refuses a file.
pub fn load_kernels<'a>(
    kernels: impl IntoIterator<Item = &'a KernelText>,
    width: VectorWidth,
    blocking: Blocking,
    compiler: &Compiler,
    cache: &KernelCache,
    jobs: usize,
) -> Result<Kernels, CompileError> {
    let distinct: BTreeMap<&str, &KernelText> =
        kernels.into_iter().map(|kernel| (kernel.name.as_str(), kernel)).collect();
    let kernels: Vec<&KernelText> = distinct.into_values().collect();
    let per_file = kernels.len().div_ceil(jobs.max(1)).clamp(1, KERNELS_A_FILE);
    let files: Vec<Vec<&KernelText>> = kernels.chunks(per_file).map(<[_]>::to_vec).collect();
    // The dots take longest, and come first.
    let elements: BTreeSet<DType> =
        kernels.iter().flat_map(|kernel| kernel.elements()).chain([DType::F32]).collect();
    let mut sources: Vec<CSource> = elements
        .iter()
        .map(|&dtype| CSource { name: format!("dot_{dtype}"), text: dot_source(dtype, blocking) })
        .collect();
    let formats: BTreeSet<_> = kernels.iter().flat_map(|kernel| kernel.formats()).collect();
    let has_blocks = kernels.iter().any(|kernel| kernel.rounds()) || !formats.is_empty();
    if has_blocks {
        sources.push(CSource { name: "blocks".to_owned(), text: blocks_source(&formats) });
    }
    let first_file = sources.len();
    sources.extend(
        files
            .iter()
            .map(|file| CSource { name: file[0].name.clone(), text: file_text(file.iter().copied()) }),
    );
    let compiled = compile_all(compiler, &sources, &kernel_flags(width, compiler), cache, jobs)?;
    let mut functions = HashMap::new();
    for (file, library) in files.iter().zip(&compiled.libraries[first_file..]) {
        for kernel in file {
            // SAFETY: the file defines a function of this name and of this type.
            let function =
                unsafe { std::mem::transmute::<*const c_void, KernelFn>(library.symbol(&kernel.name)?) };
            functions.insert(kernel.name.clone(), function);
        }
    }
    let mut dots = [std::ptr::null(); DOT_FUNCTIONS.len()];
    for (&dtype, library) in elements.iter().zip(&compiled.libraries) {
        let places = (0..DOT_FUNCTIONS.len()).filter(|at| DOT_ELEMENTS[at % DOT_ELEMENTS.len()] == dtype);
        for at in places {
            // SAFETY: the file defines it.
            dots[at] = unsafe { library.symbol(DOT_FUNCTIONS[at])? };
        }
    }
    let mut in_blocks = [std::ptr::null(); BLOCK_FUNCTIONS.len()];
    if has_blocks {
        let of_formats = formats.iter().map(|format| 1 + *format as usize);
        for at in std::iter::once(0).chain(of_formats) {
            // SAFETY: the file defines it.
            in_blocks[at] = unsafe { compiled.libraries[elements.len()].symbol(BLOCK_FUNCTIONS[at])? };
        }
    }
    Ok(Kernels { functions, dots, in_blocks, _libraries: compiled.libraries, stats: compiled.stats })
}
