//! What commands take in common on the command line. What they do with it is
//! theirs.

use clap::{Args, ValueEnum};
use diptych_passes::caches::CacheFormat;
use diptych_runtime::device::DeviceName;
use std::path::PathBuf;

/// Which text.
#[derive(Args, Clone, Debug)]
pub struct TextArguments {
    /// A file or folder of text or code; without it, the sources of the
    /// dependencies of the cargo project at hand.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
}

/// Which machine.
#[derive(Args, Clone, Debug)]
pub struct DeviceArguments {
    /// What to run on: `cpu`; `cuda` or `cuda:N`, an NVIDIA GPU; or `virtual:sm_80`, `virtual:sm_90a` or
    /// `virtual:sm_100a`, GPU code executed on the CPU with checks, which is slow. It is the CPU even where there is a GPU, since not all that runs
    /// on the CPU runs on a GPU yet.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceName,
    /// Threads of the CPU; without it, one for each physical core that the process may use.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Where the price of an hour stands: a target's name, or the path of a `.toml` file.
    #[arg(long, value_name = "NAME|FILE", default_value = "this-machine")]
    pub target: String,
}

/// Which architecture.
#[derive(Args, Clone, Debug)]
pub struct ModelArguments {
    /// A preset: a size with a name (`diptych models` lists them).
    #[arg(long, value_name = "PRESET", conflicts_with = "config")]
    pub model: Option<String>,
    /// A TOML file with a table `[model]` (`family` or `preset`, and the fields
    /// of that family) and, for `train`, a table `[train]`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets a field of the configuration, such as `model.layers=4` or `train.beta2=0.95`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// In which numbers weights are held.
#[derive(Args, Clone, Debug)]
pub struct HoldArguments {
    /// In which numbers weights are held and computed with. `f16` and `bf16` round the matrices, and activations stay
    /// f32. `q8` and `q4` round the matrices to blocks of 8 or 4 bits (with `q4`, what is no layer's has 8), and
    /// activations to 8 bits before they are multiplied with them. `stored` takes each matrix as the file has it, in
    /// blocks, f16 or bf16. `score` tells what that costs.
    #[arg(long = "weights", value_name = "NUMBERS", default_value = "f32")]
    pub hold: Hold,
    /// In which numbers keys, values and what else is kept of the positions so far are held; without it, as the model
    /// says. `q8` has 8 bits, with a scale for each head and position. `score` rounds them alike, and tells what that
    /// costs. States of recurrences stay f32.
    #[arg(long, value_name = "NUMBERS")]
    pub cache: Option<Cache>,
}

/// In which numbers caches are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Cache {
    /// As the model says: f32, or bf16 where it computes in that.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, with an f32 scale for each head and position.
    Q8,
}

impl Cache {
    /// The format, if there is anything to round.
    pub fn format(self) -> Option<CacheFormat> {
        match self {
            Cache::F32 => None,
            Cache::F16 => Some(CacheFormat::F16),
            Cache::Bf16 => Some(CacheFormat::BF16),
            Cache::Q8 => Some(CacheFormat::Q8),
        }
    }
}

/// In which numbers weights are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Hold {
    /// f32.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, with a scale for each 32.
    Q8,
    /// 4 bits, with a scale and a least value for each 32.
    Q4,
    /// As the file has them.
    Stored,
}

/// Which weights.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct WeightArguments {
    /// The folder of a run of `train`, or one of its checkpoints.
    #[arg(long, value_name = "PATH")]
    pub checkpoint: Option<PathBuf>,
    /// A folder in the format of Hugging Face: `config.json`, safetensors, `tokenizer.json`.
    #[arg(long, value_name = "FOLDER")]
    pub hugging_face: Option<PathBuf>,
    /// A GGUF file, as llama.cpp reads it: weights, vocabulary and chat template of the Llama family.
    #[arg(long, value_name = "FILE")]
    pub gguf: Option<PathBuf>,
}
