//! The machine at hand: threads, what it can do (measured once and kept), and
//! what it costs. It knows nothing of models.

use crate::arguments::DeviceArguments;
use crate::failure::{Failure, Result};
use crate::format::bytes;
use crate::output::tell;
use diptych_codegen::c::prelude::{LINK_FLAGS, clang_flags, prelude};
use diptych_cost::{Machine, ProbeSource, Target, measured};
use diptych_runtime::cpu::compile::{CompilerKind, default_folder};
use diptych_runtime::device::DeviceName;
use diptych_runtime::executor::give_back_freed;
use diptych_runtime::session::Device;
use serde::{Deserialize, Serialize};

/// What is told of a machine in reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineSummary {
    /// The target's name.
    pub target: String,
    /// The processor, as the system names it.
    pub processor: String,
    /// Threads used, or multiprocessors of a GPU.
    pub threads: usize,
    /// Bytes of a vector in generated code; 0 for a GPU.
    pub vector_bytes: usize,
    /// Peak of all threads, FLOP/s: in f32, measured; of a GPU in bf16, as published.
    pub peak_flops_per_second: f64,
    /// Reading from memory, bytes/s, all threads, measured; of a GPU as published.
    pub memory_bytes_per_second: f64,
    /// Currency of prices.
    pub currency: String,
    /// Price of an hour.
    pub price_per_hour: f64,
    /// What the price is of, and where it is from.
    pub price_basis: String,
}

/// The device with the threads that the user asks for.
///
/// # Errors
/// When there is no C compiler, or no thread.
pub fn open_device(arguments: &DeviceArguments) -> Result<Device> {
    if arguments.threads == Some(0) {
        return Err(Failure::new("--threads is 0; it must be at least 1"));
    }
    Ok(Device::open(arguments.device, arguments.threads)?)
}

/// As [`open_device`], of commands that predict times or measure what the machine can do.
///
/// # Errors
/// As said there, and when it is no CPU.
pub fn open_measured_device(arguments: &DeviceArguments) -> Result<Device> {
    match arguments.device {
        DeviceName::Cpu => open_device(arguments),
        other => Err(Failure(format!(
            "--device {other}: the speeds of a GPU are not measured yet, and this command needs them; leave --device \
             out, or see `diptych compare` for times on GPUs that need not be there"
        ))),
    }
}

/// The target with the speeds of this machine.
///
/// # Errors
/// When the target is unknown or says of itself that it is another machine, or
/// measuring fails.
pub fn open_machine(arguments: &DeviceArguments, device: &Device) -> Result<(Machine, MachineSummary)> {
    let target = Target::load(&arguments.target)?;
    if target.kind != diptych_cost::Kind::Cpu {
        return Err(Failure(format!(
            "target `{}` is no CPU, and this command runs on the CPU; copy targets/this-machine.toml, set your price, and name the copy",
            target.name
        )));
    }
    let Some(cpu) = device.as_cpu() else {
        return Err(Failure(format!(
            "--device {}: the speeds of a GPU are not measured yet, and --memory needs them; leave one of the two out",
            device.name()
        )));
    };
    let mut flags = cpu.width.cc_flags();
    if cpu.compiler.kind == CompilerKind::Clang {
        flags.extend(clang_flags());
    }
    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let folder = default_folder().unwrap_or_else(|| std::env::temp_dir().join("diptych"));
    tell("measuring this machine's speeds, if that was not done before (a few seconds)");
    let measurement = measured(&source, device.threads(), &folder)?;
    let processor = measurement.processor.clone();
    // What is run here is run at this machine's speeds, whatever the file says of its own.
    let target = Target { rates: None, ..target };
    let machine = target.into_machine(Some((measurement.rates, measurement.memory_bytes)))?;
    let peak = machine.peak_flops_per_second(diptych_cost::Precision::F32);
    let summary = summary(&machine, processor, device.threads(), cpu.width.bytes(), peak);
    Ok((machine, summary))
}

/// What is told of a machine in reports.
fn summary(
    machine: &Machine,
    processor: String,
    threads: usize,
    vector_bytes: usize,
    peak: f64,
) -> MachineSummary {
    let memory = machine.rates.levels.last().map_or(0.0, |level| level.read.all_threads_bytes_per_second);
    MachineSummary {
        target: machine.name.clone(),
        processor,
        threads,
        vector_bytes,
        peak_flops_per_second: peak,
        memory_bytes_per_second: memory,
        currency: machine.price.as_ref().map_or_else(|| "USD".to_owned(), |price| price.currency.clone()),
        price_per_hour: machine.price.as_ref().map_or(f64::NAN, |price| price.per_hour),
        price_basis: machine.price.as_ref().map_or_else(
            || "no price in the target".to_owned(),
            |price| format!("{}, {}, {}", price.basis, price.as_of, price.source),
        ),
    }
}

/// The machine of a device: a CPU's speeds measured, a GPU's as published.
///
/// # Errors
/// As those of [`open_machine`], and when no target has the GPU, or another one is named than that of a GPU.
pub fn open_machine_of(arguments: &DeviceArguments, device: &Device) -> Result<(Machine, MachineSummary)> {
    let Device::Gpu(gpu) = device else { return open_machine(arguments, device) };
    let (name, architecture) = (gpu.name(), gpu.target().to_string());
    let target = match arguments.target.as_str() {
        "this-machine" => target_of_gpu(name, &architecture).ok_or_else(|| {
            Failure(format!(
                "{name} ({architecture}) is described by no target: copy targets/h100-sxm.toml, set its figures, and name \
                 the copy with --target"
            ))
        })?,
        named => Target::load(named)?,
    };
    if target.kind != diptych_cost::Kind::Gpu {
        let device = device.name();
        return Err(Failure(format!("--target {}: that is no GPU, and {device} is one", target.name)));
    }
    let machine = target.into_machine(None)?;
    let peak = machine.peak_flops_per_second(diptych_cost::Precision::Bf16);
    let summary = summary(&machine, name.to_owned(), gpu.multiprocessors(), 0, peak);
    Ok((machine, summary))
}

/// The target whose short name is a word of a GPU's own (`h200` of `NVIDIA H200`), else the first of its architecture.
fn target_of_gpu(name: &str, architecture: &str) -> Option<Target> {
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
    let called = |target: &&str| target.split('-').next().is_some_and(|short| words.contains(&short));
    let mut targets = Target::built_in_names().filter(called).filter_map(|target| Target::load(target).ok());
    let of_name = targets.find(|target| target.kind == diptych_cost::Kind::Gpu);
    of_name.or_else(|| Target::of_architecture(architecture))
}

/// Peak resident memory of this process since it was last reset, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Starts a new measurement of peak memory, where the system allows it; returns whether it does.
pub fn reset_peak_memory() -> bool {
    give_back_freed();
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// What a process takes beside the figures that are exact: the code of the
/// kernels, threads' stacks, buffers of files, and what the allocator cannot use.
const CODE_AND_STACKS: u64 = 6 << 20;

/// What a run takes of a device's memory, in bytes, for people. To be asked for when all is there but that. `on_host` is what
/// a run on a GPU takes of this machine's memory as well.
pub fn memory_text(device: &Device, run: usize, on_host: usize) -> String {
    match device.name() {
        DeviceName::Cpu => MemoryBound::now(run).text(),
        gpu => format!(
            "memory: {} on {gpu}, and as much as {} of this machine's",
            bytes(run as f64),
            bytes(on_host as f64)
        ),
    }
}

/// The most that this process will have resident, from before a run until its end.
#[derive(Clone, Copy)]
pub struct MemoryBound {
    /// What the run takes.
    run: u64,
    /// What the process has before it: programs, vocabularies, tokens mapped from disk.
    before: u64,
    /// The most that it had until then.
    peak: u64,
}

impl MemoryBound {
    /// To be asked for when all is there but what the run takes, in bytes.
    pub fn now(run: usize) -> MemoryBound {
        let run = run as u64 + CODE_AND_STACKS;
        // Freed memory that is kept would count twice, once now and once when the run takes it.
        give_back_freed();
        MemoryBound { run, before: status_bytes("VmRSS:").unwrap_or(0), peak: peak_memory().unwrap_or(0) }
    }

    /// In bytes.
    pub fn total(self) -> u64 {
        self.peak.max(self.before + self.run)
    }

    /// For people.
    pub fn text(self) -> String {
        format!(
            "memory: {} for the run, at most {} with what the process has",
            bytes(self.run as f64),
            bytes(self.total() as f64)
        )
    }
}

/// The peak so far, as the end of a line on what was done; empty where the system does not tell.
pub fn peak_text() -> String {
    peak_memory().map_or_else(String::new, |peak| format!("; peak memory {}", bytes(peak as f64)))
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_found_by_its_name_or_its_architecture() {
        let of = |name: &str, architecture: &str| target_of_gpu(name, architecture).map(|target| target.name);
        for (name, architecture, expected) in [
            ("NVIDIA H100 80GB HBM3", "sm_90a", "h100-sxm"),
            ("NVIDIA H200", "sm_90a", "h200-sxm"),
            ("NVIDIA A100-SXM4-80GB", "sm_80", "a100-80gb-sxm"),
            ("NVIDIA B200", "sm_100a", "b200"),
            // No word of it is that of a target.
            ("NVIDIA GH200 480GB", "sm_90a", "h100-sxm"),
            ("Virtual GPU", "sm_80", "a100-80gb-sxm"),
        ] {
            assert_eq!(of(name, architecture).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(of("NVIDIA L4", "sm_89"), None);
    }
}
