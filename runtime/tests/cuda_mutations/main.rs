//! Faults seeded in generated kernels, one at a time: all must be caught by a check of the virtual GPU, or by comparing what
//! the launch writes with the f64 reference. Entries run as in `cuda_kernels`; before each launch of a kernel that a fault is
//! for, the kernel is compiled and executed with the fault, and then what it wrote is undone.

mod faults;
#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
#[allow(dead_code)]
#[path = "../cuda_kernels/job.rs"]
mod job;
mod kept;
#[path = "../../../codegen/tests/support/maps.rs"]
mod maps;
#[path = "../cuda_kernels/memory.rs"]
mod memory;
#[path = "../cuda_kernels/places.rs"]
mod places;
#[allow(dead_code)]
#[path = "../cuda_kernels/reference.rs"]
mod reference;
#[path = "../cuda_kernels/run.rs"]
mod run;

use diptych_codegen::cuda::Architecture;
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Launch};
use diptych_ir::EntryKind;
use diptych_nvrtc::{Form, KernelCache, Nvrtc};
use diptych_passes::AdamWOptions;
use diptych_virtual_gpu::{Device, LaunchError, Module};
use faults::Fault;
use installed::nvrtc;
use job::{Job, config, program_of_size, run_entry, target_of, text_of, tolerance, wide_heads};
use kept::Kept;
use reference::Reference;
use run::Run;
use serde_json::Value;

/// A fault is tried in so many launches, until it is caught.
const LAUNCHES: usize = 4;

/// A fault on its way.
struct Trial<'f> {
    fault: &'f Fault,
    architecture: Architecture,
    /// The kernel that was compiled with it, and where it is.
    module: Option<(usize, Module)>,
    launches: usize,
    /// How it was caught.
    caught: Option<String>,
    /// How far what it wrote was from the reference where it was not.
    missed: Vec<String>,
}

impl Trial<'_> {
    /// Compiles the kernel of a launch with the fault, if it is for it.
    fn prepare(
        &mut self,
        nvrtc: &Nvrtc,
        entry: &CompiledEntry,
        (kernel, device): (usize, &mut Device),
    ) -> bool {
        if let Some((known, _)) = self.module {
            return known == kernel;
        }
        let of_launch = &entry.device_kernels[kernel];
        if !self.fault.is_for(of_launch) {
            return false;
        }
        let mut compile = || -> Result<Module, String> {
            let text = self.fault.seeded(&text_of(entry, [of_launch]))?;
            let target = self.architecture.name().parse().expect("a target");
            // Apart from kernels without faults, which are of use to others.
            let cache = KernelCache::at(concat!(env!("CARGO_TARGET_TMPDIR"), "/faults"));
            let compiled = cache.compile(nvrtc, &text, "kernel.cu", target, Form::Ptx);
            let compiled = compiled.map_err(|error| error.to_string())?;
            device.load(&compiled.ptx).map_err(|error| error.to_string())
        };
        match compile() {
            Ok(module) => self.module = Some((kernel, module)),
            Err(problem) => {
                self.launches = LAUNCHES;
                self.missed.push(format!("{}: {problem}", of_launch.name));
            }
        }
        self.module.is_some()
    }

    /// Executes a launch with the fault.
    fn launch(&mut self, run: &mut Run<'_>, launch: &Launch, iteration: usize, layer: usize, kept: &Kept) {
        let Some((_, module)) = &self.module else { return };
        self.launches += 1;
        let name = &run.entry.device_kernels[launch.kernel].name;
        let (before, compared, largest) = (run.wrong.len(), run.compared, run.largest);
        run.largest = 0.0;
        match run.execute(module, launch, iteration, layer) {
            Err(LaunchError::Fault(diagnostic)) => {
                self.caught = Some(format!("{:?}", diagnostic.fault));
            }
            Err(error) => panic!("{}: {error}", self.fault.name),
            Ok(_) => {
                run.compare_written(launch, iteration, layer);
                // What kernels leave for one another is no value of the graph; what a run goes on with is compared at its end.
                let distance = kept.distance(run);
                if run.wrong.len() > before {
                    self.caught = Some("the reference".to_owned());
                } else if distance > run.tolerance {
                    self.caught = Some("what it writes otherwise".to_owned());
                } else {
                    self.missed.push(format!("{name}: {:.1e}, {distance:.1e}", run.largest));
                }
            }
        }
        if let Some(how) = &self.caught {
            println!("| {} | {} | {name} | {how} |", self.fault.name, self.architecture);
        }
        run.wrong.truncate(before);
        (run.compared, run.largest) = (compared, largest);
    }
}

/// Runs an entry on each architecture, and its launches with faults before they are made without.
fn check(tried: &Tried) {
    let Some(nvrtc) = nvrtc() else { return };
    let &Tried { preset, dtype, kind, config, sequences, .. } = tried;
    let faults: Vec<Fault> = tried.faults.iter().flat_map(|file| faults::read(file)).collect();
    let (program, vocab) = program_of_size(preset, dtype, &config(preset));
    let has_faults = |architecture: &Architecture| faults.iter().any(|fault| fault.is_on(*architecture));
    let architectures: Vec<Architecture> = Architecture::ALL.into_iter().filter(has_faults).collect();
    let compiled = architectures.iter().map(|&architecture| {
        let options = EntryOptions::cuda(architecture);
        // A step that updates each parameter when it has its gradient knows no norm of all.
        let optimizer = AdamWOptions { clip_norm: None, ..AdamWOptions::default() };
        compile_program(&program, &[kind], &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    });
    let compiled: Vec<CompiledProgram> = compiled.collect();
    let entries: Vec<&CompiledEntry> = compiled.iter().map(|compiled| &compiled.entries[&kind]).collect();
    let job = match sequences {
        Some(sequences) => Job::of(kind, sequences.to_vec(), vocab),
        None => Job::new(kind, vocab),
    };
    let reference = Reference::of_sharp_scores(compiled[0].program_of(kind), &entries, &job.bound);
    let mut uncaught = Vec::new();
    for (architecture, entry) in architectures.into_iter().zip(entries) {
        let of_architecture = faults.iter().filter(|fault| fault.is_on(architecture));
        let trial = |fault| Trial {
            fault,
            architecture,
            module: None,
            launches: 0,
            caught: None,
            missed: Vec::new(),
        };
        let mut trials: Vec<Trial> = of_architecture.map(trial).collect();
        let mut device = Device::new(target_of(architecture), 1 << 30);
        let text = text_of(entry, &entry.device_kernels);
        let target = architecture.name().parse().unwrap();
        let ptx = KernelCache::standard().compile(&nvrtc, &text, "kernels.cu", target, Form::Ptx).unwrap();
        let module = device.load(&ptx.ptx).unwrap();
        let observer = |run: &mut Run<'_>, launch: &Launch, iteration: usize, layer: usize| {
            let open = trials.iter_mut().filter(|trial| trial.caught.is_none() && trial.launches < LAUNCHES);
            let mut kept = None;
            for trial in open {
                let kernel = (launch.kernel, &mut *run.device);
                if trial.prepare(&nvrtc, run.entry, kernel) {
                    let kept = kept.get_or_insert_with(|| Kept::of(run, launch, iteration, layer));
                    trial.launch(run, launch, iteration, layer, kept);
                    kept.put_back(run);
                }
            }
            kept.into_iter().for_each(|kept: Kept| kept.free(run));
        };
        let name = format!("{preset} {dtype} {} on {architecture}", kind.name());
        let device = (&mut device, &module);
        run_entry(&name, &job, &reference, (entry, None), device, tolerance(dtype), Some(Box::new(observer)));
        for trial in &trials {
            let name = &trial.fault.name;
            match &trial.caught {
                Some(_) => {}
                None if trial.launches == 0 => {
                    uncaught.push(format!("{name}: {architecture} has no such kernel"))
                }
                None => uncaught.push(format!("{name} on {architecture}: {}", trial.missed.join(", "))),
            }
        }
    }
    assert!(uncaught.is_empty(), "not caught:\n{}", uncaught.join("\n"));
}

/// An entry that is run with faults.
struct Tried {
    preset: &'static str,
    dtype: &'static str,
    kind: EntryKind,
    /// The preset's fields that are changed.
    config: fn(&str) -> Value,
    /// Where each sequence begins, and how long it is, if not as for all entries of the kind.
    sequences: Option<&'static [(usize, usize)]>,
    /// Files of faults.
    faults: &'static [&'static str],
}

/// So many k and columns that the slots of a ring are used again and again.
fn of_many_k(preset: &str) -> Value {
    let mut config = config(preset);
    config["hidden"] = 296.into();
    config
}

const PROMPT: Tried = Tried {
    preset: "llama-tiny",
    dtype: "bf16",
    kind: EntryKind::Prefill,
    config: of_many_k,
    sequences: None,
    faults: &["products_sm_80", "products_sm_90a", "products_sm_100a", "attention", "instances"],
};
const TOKEN: Tried = Tried { kind: EntryKind::Decode, faults: &["decoding"], ..PROMPT };
const STEP: Tried = Tried { kind: EntryKind::Step, faults: &["training"], ..PROMPT };
const FLOATS: Tried =
    Tried { preset: "gpt2-tiny", dtype: "f32", kind: EntryKind::Score, faults: &["floats"], ..PROMPT };
/// Texts so long that nothing is masked of some chunks.
const WIDE_HEADS: Tried = Tried {
    kind: EntryKind::Train,
    config: |_| wide_heads(None),
    sequences: Some(&[(0, 150)]),
    faults: &["wide_heads", "staggered"],
    ..PROMPT
};
/// Texts so long that a window leaves some chunks out.
const WINDOW: Tried = Tried {
    config: |_| wide_heads(Some(60)),
    sequences: Some(&[(0, 192)]),
    faults: &["window"],
    ..WIDE_HEADS
};

#[test]
fn there_are_many_faults() {
    let files = [PROMPT, TOKEN, STEP, FLOATS, WIDE_HEADS, WINDOW].into_iter().flat_map(|tried| tried.faults);
    let count: usize = files.map(|file| faults::read(file).len()).sum();
    println!("{count} faults");
    assert!(count >= 240);
}

#[test]
fn faults_are_caught_in_a_prompt() {
    check(&PROMPT);
}

#[test]
fn faults_are_caught_in_decoding() {
    check(&TOKEN);
}

#[test]
fn faults_are_caught_in_a_training_step() {
    check(&STEP);
}

#[test]
fn faults_are_caught_in_floats() {
    check(&FLOATS);
}

#[test]
fn faults_are_caught_in_wide_heads() {
    check(&WIDE_HEADS);
}

#[test]
fn faults_are_caught_in_windows() {
    check(&WINDOW);
}
