//! From kernel texts to functions on a GPU: files of several kernels, compiled through NVRTC's cache, loaded, and
//! looked up by name.

use super::context::Context;
use super::error::{CudaError, cause};
use super::gpu::Gpu;
use crate::cpu::compile::CompileStats;
use cudarc::driver::{DriverError, result, sys};
use diptych_codegen::cuda::{KernelText, file_text};
use diptych_codegen::entry::CompiledEntry;
use diptych_nvrtc::Form;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Most kernels of one file: enough to share the cost of what every file begins with, few enough that a change of one
/// kernel leaves most files as they were.
const KERNELS_A_FILE: usize = 8;

/// A kernel on a GPU, and what its launch takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpuKernel {
    pub function: sys::CUfunction,
    pub threads: u32,
    pub shared_bytes: u32,
    /// Bytes of scratch for each block.
    pub scratch_bytes: usize,
}

/// Loaded kernels.
#[derive(Debug)]
pub struct GpuKernels {
    functions: HashMap<String, GpuKernel>,
    /// Functions live as long as these, which executables keep as well.
    modules: Rc<Vec<Module>>,
    /// What was compiled and what was found.
    pub stats: CompileStats,
}

// The pointers are the driver's handles, which any thread may use.
unsafe impl Send for GpuKernels {}
unsafe impl Sync for GpuKernels {}

impl GpuKernels {
    /// Compiles kernels (each name once) for a GPU and loads them.
    ///
    /// # Errors
    /// When NVRTC refuses a kernel, or the driver what NVRTC made of it.
    pub fn load<'a>(
        gpu: &Gpu,
        kernels: impl IntoIterator<Item = &'a KernelText>,
    ) -> Result<GpuKernels, CudaError> {
        let start = Instant::now();
        let distinct: BTreeMap<&str, &KernelText> =
            kernels.into_iter().map(|kernel| (kernel.name.as_str(), kernel)).collect();
        let kernels: Vec<&KernelText> = distinct.into_values().collect();
        let (nvrtc, cache) = gpu.compiler();
        let mut loaded = GpuKernels {
            functions: HashMap::new(),
            modules: Rc::default(),
            stats: CompileStats {
                hits: 0,
                compiled: 0,
                seconds: 0.0,
                compiler_seconds: 0.0,
                warnings: Vec::new(),
            },
        };
        let mut modules = Vec::new();
        let (target, form) = (gpu.target(), gpu.form());
        let files: Vec<&[&KernelText]> = kernels.chunks(KERNELS_A_FILE).collect();
        let made = in_threads(&files, |file| {
            let lap = Instant::now();
            let text = file_text(file.iter().copied());
            let compiled = cache.compile(nvrtc, &text, &file_name(file), target, form);
            (compiled, lap.elapsed().as_secs_f64())
        });
        for (file, (compiled, seconds)) in files.into_iter().zip(made) {
            let (compiled, name) = (compiled?, file_name(file));
            match compiled.cached {
                true => loaded.stats.hits += 1,
                false => {
                    loaded.stats.compiled += 1;
                    loaded.stats.compiler_seconds += seconds;
                }
            }
            loaded.stats.warnings.extend(compiled.warnings);
            let image = match form {
                Form::Ptx => [compiled.ptx.as_bytes(), &[0]].concat(),
                _ => compiled.cubin,
            };
            let module = Module::load(gpu.context(), &image, &name)?;
            for kernel in file {
                let most = gpu.shared_bytes();
                if kernel.shared_bytes > most {
                    let (kernel, needed) = (kernel.name.clone(), kernel.shared_bytes);
                    return Err(CudaError::SharedMemory { kernel, needed, most });
                }
                loaded.functions.insert(kernel.name.clone(), module.kernel(kernel)?);
            }
            modules.push(module);
        }
        loaded.modules = Rc::new(modules);
        loaded.stats.warnings.dedup();
        loaded.stats.seconds = start.elapsed().as_secs_f64();
        Ok(loaded)
    }

    /// Those of entries.
    ///
    /// # Errors
    /// As of [`GpuKernels::load`].
    pub(crate) fn of_entries<'e>(
        gpu: &Gpu,
        entries: impl Iterator<Item = &'e CompiledEntry>,
    ) -> Result<GpuKernels, CudaError> {
        Self::load(gpu, entries.flat_map(|entry| &entry.device_kernels))
    }

    /// What kernels need that stay in use.
    pub(super) fn modules(&self) -> Rc<Vec<Module>> {
        self.modules.clone()
    }

    /// The kernel of a name.
    pub(crate) fn kernel(&self, name: &str) -> Option<GpuKernel> {
        self.functions.get(name).copied()
    }
}

/// How messages call a file.
fn file_name(file: &[&KernelText]) -> String {
    format!("{}.cu", file[0].name)
}

/// Does something with each of some things, as many at once as there are processors, and gives what comes of them in
/// their order.
fn in_threads<T: Sync, U: Send>(things: &[T], make: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(at) else { break };
            let made = make(thing);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, made);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(things.len());
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Loaded machine code.
#[derive(Debug)]
pub(super) struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
}

impl Module {
    fn load(context: &Arc<Context>, image: &[u8], name: &str) -> Result<Module, CudaError> {
        context.bind()?;
        // SAFETY: a CUBIN says where it ends; PTX ends in a NUL.
        match unsafe { result::module::load_data(image.as_ptr().cast()) } {
            Ok(module) => Ok(Module { context: context.clone(), module }),
            Err(error) => Err(CudaError::Module { file: name.to_owned(), cause: told(error) }),
        }
    }

    fn kernel(&self, text: &KernelText) -> Result<GpuKernel, CudaError> {
        let failed = |error: DriverError| CudaError::Module { file: text.name.clone(), cause: cause(error) };
        let nul = |_| CudaError::Module { file: text.name.clone(), cause: "its name has a NUL".to_owned() };
        let name = CString::new(text.name.as_str()).map_err(nul)?;
        // SAFETY: the module is loaded and stays so as long as the function is used.
        let function = unsafe { result::module::get_function(self.module, name) }.map_err(failed)?;
        // A block may have 48 KiB without being asked for; what the kernel has besides counts too.
        if text.shared_bytes > 0 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(text.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function is the module's.
            unsafe { result::function::set_function_attribute(function, attribute, bytes) }
                .map_err(failed)?;
        }
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(GpuKernel {
            function,
            threads: number(text.threads),
            shared_bytes: number(text.shared_bytes),
            scratch_bytes: text.scratch_bytes,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, and nobody launches its functions any more.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// The driver's word for an error, with what the virtual GPU found, if it is one.
pub(super) fn told(error: DriverError) -> String {
    match super::virtual_gpu::take_diagnostic() {
        Some(found) => format!("{found} [{}]", cause(error)),
        None => cause(error),
    }
}
