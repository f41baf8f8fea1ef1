//! What commands take in common on the command line. What they do with it is
//! theirs.

use clap::{Args, ValueEnum};
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
    /// Threads; without it, one for each physical core that the process may use.
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
    /// In which numbers weights are held and computed with. `q8` and `q4` round the matrices to blocks of 8 or 4 bits
    /// (with `q4`, what is no layer's has 8); `stored` takes blocks as a GGUF file has them. Activations are then
    /// rounded to 8 bits before they are multiplied. `score` tells what that costs.
    #[arg(long = "weights", value_name = "NUMBERS", default_value = "f32")]
    pub hold: Hold,
}

/// In which numbers weights are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Hold {
    /// f32.
    F32,
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
