//! The example's architecture, which no crate of ours knows, trains and serves.

#[allow(dead_code)] // Its `main` is the example's own business.
#[path = "../examples/parallel_block.rs"]
mod parallel_block;

use diptych::ir::EntryKind;
use diptych::models::initialize;
use diptych::runtime::decode::{Generation, Outcome, ServeOptions, Server, generate};
use diptych::runtime::sampling::{Sampler, SamplingOptions};
use diptych::runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych::runtime::session::Device;
use diptych::runtime::train::{ModelIdentity, OptimizerOptions, Plan, TrainOptions, Trainer};
use diptych::{Registry, build};
use serde_json::json;
use std::ops::ControlFlow;

#[test]
fn an_architecture_from_outside_trains_and_serves() {
    let mut registry = Registry::zoo();
    registry.register(parallel_block::family());
    let config = json!({ "vocab": 64, "context": 64, "layers": 2, "embed": 32, "heads": 2, "hidden": 48 });
    let model = registry.architecture("parallel", &config).unwrap();
    let program = build(&*model).unwrap();
    let identity = ModelIdentity { family: "parallel".into(), config, context: 64 };
    let schedule = ScheduleConfig {
        kind: ScheduleKind::Constant,
        peak: 1e-2,
        floor: 0.0,
        warmup_steps: 0,
        total_steps: 40,
        decay_steps: 0,
    };
    let options = TrainOptions {
        batch: 4,
        time: 32,
        accumulation: 1,
        steps: Some(40),
        tokens: None,
        optimizer: OptimizerOptions::default(),
        schedule,
        seed: 1,
        evaluate_every: 0,
    };
    let device = Device::cpu(Some(2)).unwrap();
    let also = [EntryKind::Prefill, EntryKind::Decode];
    let plan = Plan::new(&device, &program, identity, options, &also).unwrap();
    let mut trainer = Trainer::load(&device, plan).unwrap();
    trainer.initialize(|name| initialize(&program, name, 1).unwrap()).unwrap();
    // Each token is followed by the one 3 further.
    let mut losses = Vec::new();
    for _ in 0..40 {
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
    assert!(losses[0] > 4.0 && losses[39] < 1.0, "{losses:?}");
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
