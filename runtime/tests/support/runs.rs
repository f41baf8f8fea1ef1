//! A text to train on, small models and options: what tests of training runs share.

use diptych_ir::Program;
use diptych_models::{Registry, build};
use diptych_runtime::train::{ModelIdentity, TrainOptions};
use serde_json::{Value, json};

/// Tokens of a sequence.
pub const TIME: usize = 32;
/// Sequences of the text.
pub const WINDOWS: usize = 4;

/// Token `at` of the text: no pattern but what is learned by heart.
pub fn token(at: usize) -> i32 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as i32 % 97
}

/// Fills windows of the text, the next for each sequence.
pub fn text(micro: u64, inputs: &mut [i32], targets: &mut [i32]) {
    let batch = inputs.len() / TIME;
    for row in 0..inputs.len() {
        let at = (micro as usize * batch + row / TIME) % WINDOWS * TIME + row % TIME;
        (inputs[row], targets[row]) = (token(at), token(at + 1));
    }
}

pub fn model(family: &str, preset: &str, change: Value) -> (Program, ModelIdentity) {
    let registry = Registry::zoo();
    let mut config = registry.preset(preset).unwrap().describe();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let architecture = registry.architecture(family, &config).unwrap();
    let (config, context) = (architecture.describe(), architecture.context());
    (build(&*architecture).unwrap(), ModelIdentity { family: family.to_owned(), config, context })
}

pub fn options(change: Value) -> TrainOptions {
    let mut options = json!({
        "batch": 2, "time": TIME, "steps": 6, "seed": 3,
        "schedule": { "kind": "cosine", "peak": 0.01, "warmup_steps": 2, "total_steps": 6 },
    });
    options.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(options).unwrap()
}
