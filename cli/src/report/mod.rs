//! What `bench` found, as data. The table, the page and the JSON are three
//! ways to write it; none of them computes.

pub mod page;
pub mod plots;
pub mod table;

use crate::machine::MachineSummary;
use crate::text::TextSummary;
use serde::{Deserialize, Serialize};

/// Everything that `bench` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of Diptych.
    pub version: String,
    /// Where it ran.
    pub machine: MachineSummary,
    /// On which text.
    pub text: TextSummary,
    /// Under which conditions.
    pub conditions: Conditions,
    /// A column of the table each.
    pub models: Vec<ModelReport>,
    /// Every pair of models.
    pub pairs: Vec<Pair>,
    /// Seconds of the whole run.
    pub seconds: f64,
    /// What was left out and why, for the reader.
    pub notes: Vec<String>,
}

/// What all figures have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conditions {
    /// `same`: a token's logits are the same bits in training, prefill and decode.
    pub numerics: String,
    /// What a `history` stores.
    pub cache_form: String,
    /// Sequences of a training step.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens trained on, the same for all.
    pub tokens: u64,
    /// Held-out documents that the loss is taken over, the same for all.
    pub held_out_documents: usize,
    /// Their tokens.
    pub held_out_tokens: u64,
    /// Sequences served at once.
    pub serve_batch: usize,
}

/// What was found of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelReport {
    /// The preset.
    pub preset: String,
    /// What it is called in the table.
    pub title: String,
    /// The family.
    pub family: String,
    /// The configuration.
    pub config: serde_json::Value,
    /// Numbers trained.
    pub parameters: usize,
    /// Model FLOPs of a training token (see `diptych_cost::utilisation`).
    pub train_flops_per_token: f64,
    /// Nats per token on held-out text.
    pub held_out: Loss,
    /// Nats per byte of the same text.
    pub held_out_per_byte: Loss,
    /// Tokens of a second, over all steps.
    pub train_tokens_per_second: f64,
    /// Share of the peak that the model's own FLOPs use.
    pub mfu: f64,
    /// Prompts, by context.
    pub prefill: Vec<Speed>,
    /// Generated tokens, by context.
    pub decode: Vec<Speed>,
    /// Bytes that a position takes in the caches of all layers, as allocated.
    pub cache_bytes_per_token: usize,
    /// Bytes that a sequence takes whatever its length: states of recurrences in all layers.
    pub state_bytes_per_sequence: usize,
    /// Memory known before the run, bytes.
    pub memory_bound: u64,
    /// Peak resident memory of the process in this model's part of the run, bytes.
    pub peak_memory: Option<u64>,
    /// How long it took to compile, and what.
    pub compile: Compile,
    /// Price of a million tokens in training; none without a price.
    pub train_price: Option<f64>,
    /// The training loss of every step.
    pub curve: Vec<Point>,
    /// Where a training step's time goes, longest first.
    pub kernels: Vec<KernelTime>,
    /// Seconds of a timed step that no kernel took.
    pub unattributed_seconds: f64,
    /// A continuation of a held-out text, greedy.
    pub sample: Sample,
}

/// A loss with its standard error over documents.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// The mean.
    pub mean: f64,
    /// Its standard error; none with fewer than two documents.
    pub standard_error: Option<f64>,
}

/// How fast tokens go at a context.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Speed {
    /// Positions before and with these tokens.
    pub context: usize,
    /// Tokens of a second, all sequences together.
    pub tokens_per_second: f64,
    /// Price of a million tokens; none without a price.
    pub price: Option<f64>,
}

/// Compilation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compile {
    /// Wall-clock seconds of all stages.
    pub seconds: f64,
    /// Seconds of each stage.
    pub stages: Vec<(String, f64)>,
    /// Files that the C compiler was run on.
    pub compiled: usize,
    /// Files found in the cache on disk.
    pub reused: usize,
}

/// A point of a loss curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Tokens seen.
    pub tokens: u64,
    /// Nats per token.
    pub loss: f64,
}

/// A kernel's share of a training step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelTime {
    /// Its name.
    pub name: String,
    /// `train` or `update`.
    pub entry: String,
    /// Launches in a step.
    pub launches: usize,
    /// Seconds in a step.
    pub seconds: f64,
    /// The same, as predicted for a quiet machine.
    pub predicted_seconds: f64,
}

/// A prompt and what a model made of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// Two models over the same held-out documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// Title of the first.
    pub first: String,
    /// Title of the second.
    pub second: String,
    /// Loss of the first minus that of the second, nats per token.
    pub difference: Loss,
    /// Whether it differs from zero by more than two standard errors.
    pub distinguishable: bool,
}

impl Pair {
    /// A sentence for the reader.
    pub fn sentence(&self) -> String {
        let (first, second) = (&self.first, &self.second);
        let error = self.difference.standard_error.map_or("?".to_owned(), |error| format!("{error:.4}"));
        let mean = self.difference.mean;
        match self.distinguishable {
            true if mean < 0.0 => format!("{first} loses {:.4} ± {error} less than {second}", -mean),
            true => format!("{first} loses {mean:.4} ± {error} more than {second}"),
            false => format!("{first} and {second} cannot be told apart ({mean:+.4} ± {error})"),
        }
    }
}

/// `3.4567 ± 0.0123`.
pub fn loss_text(loss: &Loss) -> String {
    match loss.standard_error {
        Some(error) => format!("{:.4} ± {error:.4}", loss.mean),
        None => format!("{:.4}", loss.mean),
    }
}

/// A price with its currency, small ones with enough digits.
pub fn price_text(price: Option<f64>, currency: &str) -> String {
    match price {
        Some(price) => format!("{} {currency}", crate::format::short(price)),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with made-up figures, to write.
    pub fn example() -> Report {
        let speed = |context, tokens_per_second| Speed {
            context,
            tokens_per_second,
            price: Some(28.5 / tokens_per_second),
        };
        let model = |title: &str, at: f64| ModelReport {
            preset: format!("bench-{}", title.to_lowercase().replace(' ', "-")),
            title: title.to_owned(),
            family: "llama".to_owned(),
            config: serde_json::json!({ "layers": 6 }),
            parameters: 5_770_000,
            train_flops_per_token: 3.7e7,
            held_out: Loss { mean: 4.5 + at / 30.0, standard_error: Some(0.03) },
            held_out_per_byte: Loss { mean: 1.4, standard_error: Some(0.01) },
            train_tokens_per_second: 2000.0 + 100.0 * at,
            mfu: 0.25,
            prefill: vec![speed(128, 9000.0), speed(512, 8000.0)],
            decode: vec![speed(128, 300.0), speed(512, 250.0 - 20.0 * at)],
            cache_bytes_per_token: 12_288,
            state_bytes_per_sequence: 0,
            memory_bound: 300 << 20,
            peak_memory: Some(280 << 20),
            compile: Compile {
                seconds: 6.5,
                stages: vec![("native code".into(), 5.0)],
                compiled: 8,
                reused: 0,
            },
            train_price: Some(0.0142),
            curve: (1..60)
                .map(|step| Point { tokens: step * 1024, loss: 8.3 - (step as f64).ln() + 0.1 * at })
                .collect(),
            kernels: (0..14)
                .map(|at| KernelTime {
                    name: format!("kernel_{at}"),
                    entry: "train".into(),
                    launches: 6,
                    seconds: 0.2 / f64::from(at + 1),
                    predicted_seconds: 0.15 / f64::from(at + 1),
                })
                .collect(),
            unattributed_seconds: 0.01,
            sample: Sample { prompt: "fn main() {".into(), text: "\n    let x = <T>::new();".into() },
        };
        Report {
            version: "0.1.0".into(),
            machine: MachineSummary {
                target: "this-machine".into(),
                processor: "A processor".into(),
                threads: 2,
                vector_bytes: 64,
                peak_flops_per_second: 3.0e11,
                memory_bytes_per_second: 2.0e10,
                currency: "USD".into(),
                price_per_hour: 0.1027,
                price_basis: "on-demand".into(),
            },
            text: TextSummary {
                source: "text".into(),
                content_hash: "0123456789abcdef0123456789abcdef".into(),
                documents: 2000,
                bytes: 20 << 20,
                skipped_not_utf8: 1,
                training_tokens: 5_000_000,
                held_out_documents: 100,
                held_out_tokens: 250_000,
            },
            conditions: Conditions {
                numerics: "same".into(),
                cache_form: "keys and values, f32".into(),
                batch: 4,
                time: 256,
                steps: 59,
                tokens: 60_416,
                held_out_documents: 20,
                held_out_tokens: 16_000,
                serve_batch: 1,
            },
            models: vec![model("Multi-head", 0.0), model("Grouped-query", 1.0), model("Latent", 2.0)],
            pairs: vec![Pair {
                first: "Multi-head".into(),
                second: "Latent".into(),
                difference: Loss { mean: -0.01, standard_error: Some(0.02) },
                distinguishable: false,
            }],
            seconds: 250.0,
            notes: vec!["<b>not markup</b>".into()],
        }
    }
}
