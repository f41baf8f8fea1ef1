//! The examples' architectures, which no crate of ours knows, train and serve.

#[allow(dead_code)] // Its `main` is the example's own business.
#[path = "../examples/parallel_block.rs"]
mod parallel_block;

#[allow(dead_code)]
#[path = "../examples/local_global.rs"]
mod local_global;

#[allow(dead_code)]
#[path = "../examples/latent_experts.rs"]
mod latent_experts;

use diptych::codegen::driver::{compile_program, rewrite_by_default};
use diptych::codegen::entry::EntryOptions;
use diptych::ir::EntryKind;
use diptych::models::initialize;
use diptych::runtime::decode::{Generation, Outcome, SERVING, ServeOptions, Server, generate};
use diptych::runtime::sampling::{Sampler, SamplingOptions};
use diptych::runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych::runtime::session::{Device, Session};
use diptych::runtime::train::{ModelIdentity, OptimizerOptions, Plan, TrainOptions, Trainer};
use diptych::{Family, Registry, build};
use serde_json::{Value, json};
use std::ops::ControlFlow;

#[test]
fn a_parallel_block_trains_and_serves() {
    let config = json!({ "vocab": 64, "context": 64, "layers": 2, "embed": 32, "heads": 2, "hidden": 48 });
    trains_and_serves(parallel_block::family(), config);
}

fn local_global(local_layers: usize) -> Value {
    json!({ "vocab": 64, "context": 64, "rounds": 2, "local_layers": local_layers, "window": 8, "embed": 32,
        "heads": 2, "key_value_heads": 1, "head_dim": 16, "hidden": 48 })
}

#[test]
fn layers_of_two_kinds_train_and_serve() {
    trains_and_serves(local_global::family(), local_global(2));
}

#[test]
fn layers_of_a_kind_share_their_kernels() {
    let mut registry = Registry::zoo();
    registry.register(local_global::family());
    let kernels = |local_layers| {
        let model = registry.architecture("local-global", &local_global(local_layers)).unwrap();
        let kinds = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
        let (optimizer, options) = (Default::default(), EntryOptions::new(32, 144, 2));
        let compiled = compile_program(&build(&*model).unwrap(), &kinds, &optimizer, options).unwrap();
        kinds.map(|kind| compiled.entries[&kind].kernels.len())
    };
    assert_eq!(kernels(4), kernels(7));
}

fn latent_experts() -> Value {
    json!({ "vocab": 64, "context": 64, "expert_layers": 2, "embed": 32, "heads": 2, "latent": 12, "content": 16,
        "rotary": 8, "hidden": 48, "experts": 4, "chosen": 2, "expert_hidden": 24 })
}

#[test]
fn latents_and_experts_train_and_serve() {
    trains_and_serves(latent_experts::family(), latent_experts());
}

#[test]
fn a_cache_of_latents_keeps_no_heads() {
    let model = (latent_experts::family().parse)(&latent_experts()).unwrap();
    let device = Device::cpu(Some(1)).unwrap();
    let session =
        Session::compile(&device, &build(&*model).unwrap(), 64, &SERVING, &Default::default()).unwrap();
    let server = Server::new(&device, &session, ServeOptions::single(64)).unwrap();
    // In each of three layers, a latent and the part of a key that is rotated, in f32.
    assert_eq!(server.cache_bytes_per_token(), 3 * (12 + 8) * 4);
}

fn trains_and_serves(family: Family, config: Value) {
    let mut registry = Registry::zoo();
    let name = family.name.clone();
    registry.register(family);
    let model = registry.architecture(&name, &config).unwrap();
    let program = build(&*model).unwrap();
    let identity = ModelIdentity { family: name, config, context: 64 };
    let schedule = ScheduleConfig {
        kind: ScheduleKind::Constant,
        peak: 1e-2,
        floor: 0.0,
        warmup_steps: 0,
        total_steps: 60,
        decay_steps: 0,
    };
    let options = TrainOptions {
        batch: 4,
        time: 32,
        accumulation: 1,
        steps: Some(60),
        tokens: None,
        optimizer: OptimizerOptions::default(),
        schedule,
        seed: 1,
        evaluate_every: 0,
    };
    let device = Device::cpu(Some(2)).unwrap();
    let also = [EntryKind::Prefill, EntryKind::Decode];
    let plan = Plan::new(
        &device,
        &rewrite_by_default(&program, device.options()).unwrap(),
        identity,
        options,
        &also,
    )
    .unwrap();
    let mut trainer = Trainer::load(&device, plan).unwrap();
    trainer.initialize(|name| initialize(&program, name, 1).unwrap()).unwrap();
    // Each token is followed by the one 3 further.
    let mut losses = Vec::new();
    for _ in 0..60 {
        let report = trainer
            .step(|number, inputs, targets| {
                for (at, (input, target)) in inputs.iter_mut().zip(targets).enumerate() {
                    let token = (number as usize * 17 + at / 32 * 5 + at % 32 * 3) % 64;
                    (*input, *target) = (token as i32, ((token + 3) % 64) as i32);
                }
            })
            .unwrap();
        losses.push(report.loss);
    }
    assert!(losses[0] > 4.0 && losses[59] < 1.0, "{losses:?}");
    let mut server = Server::new(&device, trainer.session(), ServeOptions::single(64)).unwrap();
    let mut sampler = Sampler::new(SamplingOptions::default(), 64).unwrap();
    let request = Generation { most_tokens: 8, stop: &[], seed: 0 };
    let mut tokens = Vec::new();
    let outcome = generate(&mut server, &[1, 4, 7, 10], request, &mut sampler, |token| {
        tokens.push(token);
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.unwrap(), Outcome::Length);
    assert_eq!(tokens, [13, 16, 19, 22, 25, 28, 31, 34]);
}
