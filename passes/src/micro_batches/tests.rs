use super::*;
use crate::test_net::Net;
use crate::test_support::*;
use crate::{AdamWOptions, add_adamw, differentiate, normalize::normalize};
use diptych_ir::evaluate::Context;

/// The net with an optimiser, as it is for single batches.
fn trained(net: &Net) -> Program {
    let program = differentiate(&net.program(2, false)).expect("differentiate");
    add_adamw(&program, &AdamWOptions::default()).expect("optimiser")
}

/// Random values for everything that the program keeps.
fn filled(net: &Net, program: &Program) -> Context {
    let mut context = net.context(program);
    let mut numbers = Numbers(3);
    for (&name, ty) in &program.states {
        let value = random_value(&context, &ty.axes, &mut numbers, 0.1, 1.0);
        context.params.insert(name, value);
    }
    for name in ["learning_rate", "bias_correction_mean", "bias_correction_variance"] {
        let value = random_value(&context, &Default::default(), &mut numbers, 0.1, 1.0);
        context.inputs.insert(name.into(), value);
    }
    context
}

#[test]
fn accumulate_adds_to_what_is_there() {
    let net = Net::new();
    let program = add_accumulate(&trained(&net)).expect("accumulate");
    diptych_ir::verify(&program).expect("well-formed");
    let context = filled(&net, &program);
    let train = run_entry(&program, EntryKind::Train, &context);
    let accumulate = run_entry(&program, EntryKind::Accumulate, &context);
    assert_eq!(train[0], accumulate[0]);
    assert_eq!(train.len(), accumulate.len());
    for ((name, gradient), (_, sum)) in train[1..].iter().zip(&accumulate[1..]) {
        let held = &context.params[&name.as_str().into()];
        for ((g, s), h) in gradient.data.iter().zip(&sum.data).zip(&held.data) {
            assert_eq!(g + h, *s, "{name}");
        }
    }
}

#[test]
fn an_update_from_sums_is_the_one_from_gradients() {
    let net = Net::new();
    let single = trained(&net);
    let several = add_accumulate(&single).expect("accumulate");
    // The embedding is the head too: its gradient is the sum of a scatter and a product.
    let names = |program: &Program| {
        let names = program.states.keys().map(|name| name.to_string());
        names.filter(|name| name.starts_with("gradient") && name.ends_with("embedding")).collect::<Vec<_>>()
    };
    assert_eq!(names(&single), ["gradient.embedding"]);
    assert_eq!(names(&several), ["gradient_1.embedding", "gradient_2.embedding"]);
    let mut context = filled(&net, &single);
    for (name, value) in run_entry(&single, EntryKind::Train, &context) {
        context.params.insert(name.as_str().into(), value);
    }
    let expected = run_entry(&single, EntryKind::Update, &context);
    for (name, value) in run_entry(&several, EntryKind::Train, &context) {
        context.params.insert(name.as_str().into(), value);
    }
    let found = run_entry(&several, EntryKind::Update, &context);
    // The state of the first sum holds the gradient in the end.
    let Some(((held, gradient), found)) = found.split_last() else { panic!("no updates") };
    assert_eq!(held, "gradient_1.embedding");
    assert_eq!(gradient.axes, context.params[&"embedding".into()].axes);
    assert_eq!(expected.len(), found.len());
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        for (expected, found) in expected.data.iter().zip(&found.data) {
            assert!((expected - found).abs() <= 1e-12 * expected.abs().max(1.0), "{name}");
        }
    }
}

#[test]
fn sums_over_tokens_go_on() {
    let net = Net::new();
    let mut program = add_accumulate(&trained(&net)).expect("accumulate");
    program.entries.retain(|entry| entry.kind == EntryKind::Accumulate);
    let program = normalize(&program, false).expect("normalize");
    let entry = program.entry(EntryKind::Accumulate).expect("entry");
    let continued = continued_sums(&program, entry);
    // What all layers share is summed over layers, too.
    assert_eq!(continued.added, ["gradient.tempering".into()]);
    assert_eq!(continued.sums.len() + 1, entry.updates.len());
}

#[test]
fn a_sum_of_one_number_a_token_does_not_go_on() {
    let mut program = Program::new("scalar");
    let (batch, time) = (diptych_ir::Axis::symbolic("batch"), diptych_ir::Axis::symbolic("time"));
    let b = param(&mut program, "b", &[]);
    let x = input(&mut program, "x", diptych_ir::DType::F32, &[batch, time]);
    let graph = &mut program.main_mut().graph;
    let y = graph.add(Map(ScalarFn::Mul), &[b, x]).expect("map");
    let over = vec![batch, time];
    let loss =
        graph.add(diptych_ir::ops::Reduce { kind: diptych_ir::ReduceKind::Sum, over }, &[y]).expect("sum");
    set_loss(&mut program, loss);
    let program = add_adamw(&differentiate(&program).expect("differentiate"), &AdamWOptions::default());
    let mut program = add_accumulate(&program.expect("optimiser")).expect("accumulate");
    program.entries.retain(|entry| entry.kind == EntryKind::Accumulate);
    let program = normalize(&program, false).expect("normalize");
    let continued = continued_sums(&program, program.entry(EntryKind::Accumulate).expect("entry"));
    // Such a sum takes many tokens at a time.
    assert_eq!(continued.added, ["gradient.b".into()]);
}

#[test]
fn what_has_no_optimiser_is_refused() {
    let program = differentiate(&Net::new().program(1, false)).expect("differentiate");
    let refused = add_accumulate(&program).expect_err("refused").to_string();
    assert!(refused.contains("no optimiser"), "{refused}");
}
