//! What the tests of this folder share: kernels compiled by NVRTC, random inputs, and comparison.
#![allow(dead_code)]

pub mod single;

use diptych_nvrtc::{Form, KernelCache, Nvrtc, find_nvrtc};
use diptych_virtual_gpu::{
    Arguments, Configuration, Device, Diagnostic, LaunchError, LaunchReport, LaunchSizes, Module, Target,
};

/// PTX of a source, or `None`, with a reason printed, where NVRTC is not installed. With `DIPTYCH_CUDA` set it must be
/// there. `definitions` are macros that the source looks at.
pub fn ptx(source: &str, target: Target, definitions: &[&str]) -> Option<String> {
    let path = match find_nvrtc() {
        Ok(path) => path,
        Err(error) => {
            assert!(error.named.is_none(), "{error}");
            println!("skipped: {error}");
            return None;
        }
    };
    let nvrtc = Nvrtc::open(&path).unwrap();
    let target = target.name().parse().unwrap();
    // On one line, so that the numbers of the others stay.
    let mut text: String = definitions.iter().map(|name| format!("#define {name} 1\n")).collect();
    text.push_str("#line 1\n");
    text.push_str(source);
    let compiled = KernelCache::standard().compile(&nvrtc, &text, "kernel.cu", target, Form::Ptx);
    Some(compiled.unwrap_or_else(|error| panic!("{error}")).ptx)
}

/// A device with a module on it.
pub struct Bench {
    pub device: Device,
    pub module: Module,
    pub configuration: Configuration,
}

impl Bench {
    pub fn new(source: &str, target: Target, definitions: &[&str]) -> Option<Bench> {
        Some(Bench::of_ptx(&ptx(source, target, definitions)?, target))
    }

    pub fn of_ptx(ptx: &str, target: Target) -> Bench {
        let mut device = Device::new(target, 1 << 30);
        let module = device.load(ptx).unwrap_or_else(|error| panic!("{error}"));
        Bench { device, module, configuration: Configuration::default() }
    }

    pub fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.device.allocate(bytes.len()).unwrap();
        self.device.write(address, bytes).unwrap();
        address
    }

    pub fn floats(&mut self, values: &[f32]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn brain_floats(&mut self, values: &[f32]) -> u64 {
        self.upload(&brain_bytes(values))
    }

    /// Memory that nobody has written.
    pub fn empty(&mut self, bytes: usize) -> u64 {
        self.device.allocate(bytes).unwrap()
    }

    pub fn launch(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        arguments: Arguments,
    ) -> Result<LaunchReport, LaunchError> {
        let kernel = self.module.kernel(kernel).expect("the kernel is in the module");
        let sizes = LaunchSizes { grid, block, dynamic_shared };
        self.device.launch(kernel, &sizes, arguments.bytes(), &self.configuration)
    }

    pub fn read_floats(&mut self, address: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; count * 4];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn read_brain_floats(&mut self, address: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; count * 2];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(2).map(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
    }
}

pub fn brain_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
}

/// Random numbers, about normal, with a standard deviation of one, rounded to bf16 so that both sides see the same.
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count)
        .map(|_| {
            let sum: f32 = (0..4).map(|_| uniform()).sum();
            half::bf16::from_f32(sum * 1.732).to_f32()
        })
        .collect()
}

/// Norm of the difference over the norm of what is wanted.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).powi(2)).sum();
    let norm: f64 = want.iter().map(|want| want * want).sum();
    assert!(norm > 0.0 && difference.is_finite(), "norm {norm}, difference {difference}");
    (difference / norm).sqrt()
}

/// `rows` by `columns` products of rows of `a` and rows of `b`, both `depth` long.
pub fn products(a: &[f32], b: &[f32], rows: usize, columns: usize, depth: usize) -> Vec<f64> {
    let mut result = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let (a, b) = (&a[row * depth..][..depth], &b[column * depth..][..depth]);
            result.push(a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
        }
    }
    result
}

/// The diagnostic of a launch that must have one.
pub fn diagnostic(result: Result<LaunchReport, LaunchError>) -> Box<Diagnostic> {
    match result {
        Err(LaunchError::Fault(diagnostic)) => diagnostic,
        other => panic!("a diagnostic was expected: {:?}", other.map(|report| report.total)),
    }
}
