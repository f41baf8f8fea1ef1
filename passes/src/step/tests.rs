use super::*;
use crate::test_net::Net;
use crate::test_support::*;
use crate::{AdamWOptions, add_adamw, differentiate};
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::ops::Output;

fn trained(net: &Net, options: &AdamWOptions) -> Program {
    let mut program = net.program(3, false);
    // The net's stacks are of layers.
    for info in program.params.values_mut() {
        info.layers = info.ty.axes.iter().copied().find(|axis| axis.name.as_str() == "layer");
    }
    let program = differentiate(&program).expect("differentiate");
    crate::simplify(&add_adamw(&program, options).expect("adamw")).expect("simplify")
}

fn unclipped() -> AdamWOptions {
    AdamWOptions { clip_norm: None, ..AdamWOptions::default() }
}

/// Numbers for all inputs, parameters and states.
fn filled(net: &Net, program: &Program) -> Context {
    let mut context = net.context(program);
    let mut numbers = Numbers(11);
    for (&name, ty) in &program.states {
        let value = random_value(&context, &ty.axes, &mut numbers, 0.1, 0.5);
        context.params.insert(name, value);
    }
    for (name, value) in
        [("learning_rate", 0.1), ("bias_correction_mean", 0.1), ("bias_correction_variance", 0.001)]
    {
        context.inputs.insert(name.into(), Value::scalar(value));
    }
    context
}

#[test]
fn a_step_is_a_backward_pass_and_an_update() {
    let net = Net::new();
    let apart = trained(&net, &unclipped());
    let program = add_step(&apart).expect("a step");
    diptych_ir::verify(&program).expect("well-formed");
    let mut context = filled(&net, &apart);
    let step = run_entry(&program, EntryKind::Step, &context);
    let train = run_entry(&apart, EntryKind::Train, &context);
    for (name, value) in &train {
        context.params.insert(name.as_str().into(), value.clone());
    }
    let update = run_entry(&apart, EntryKind::Update, &context);
    let of = |rows: &[(String, Value)], name: &str| rows.iter().find(|row| row.0 == name).cloned();
    let expected = || train.iter().chain(&update).filter(|row| !row.0.starts_with("gradient."));
    assert_eq!(step.len(), expected().count());
    for (name, wanted) in expected() {
        let (_, found) = of(&step, name).expect("a row");
        for (found, wanted) in found.data.iter().zip(&wanted.data) {
            assert!((found - wanted).abs() <= 1e-12 * wanted.abs().max(1.0), "{name}: {found}, not {wanted}");
        }
    }
}

#[test]
fn layers_are_updated_within_the_backward_pass_and_leave_no_gradients() {
    let program = add_step(&trained(&Net::new(), &unclipped())).expect("a step");
    let program = keep_step_alone(&program).expect("alone");
    assert!(program.states.keys().all(|state| !state.as_str().starts_with("gradient")));
    let graph = &program.main().graph;
    let step = program.entry(EntryKind::Step).expect("step");
    let yielded = |name: &Symbol| {
        let update = step.updates.iter().find(|update| update.0 == *name).expect("an update").1;
        matches!(graph.op(update), Op::Output(Output { .. }))
    };
    for (name, info) in &program.params {
        assert_eq!(yielded(name), info.layers.is_some(), "{name}");
    }
    // What is yielded for each layer but new values are single numbers: squares of gradients.
    let repeats = graph.ids().into_iter().filter_map(|id| match graph.op(id) {
        Op::Repeat(repeat) if repeat.reverse => Some(repeat),
        _ => None,
    });
    let stacked = repeats.flat_map(|repeat| repeat.results[repeat.carried..].to_vec());
    let wide = stacked.filter(|ty| ty.axes.len() > 1).count();
    assert_eq!(wide, 3 * program.params.values().filter(|info| info.layers.is_some()).count());
}

#[test]
fn where_the_loss_is_no_number_all_stays_as_it_was() {
    let net = Net::new();
    let program = add_step(&trained(&net, &unclipped())).expect("a step");
    let mut context = filled(&net, &program);
    for spoilt in [f64::NAN, f64::INFINITY] {
        let name = Symbol::new("embedding");
        let before = context.params[&name].clone();
        context.params.get_mut(&name).expect("a parameter").data[0] = spoilt;
        let rows = run_entry(&program, EntryKind::Step, &context);
        assert!(!rows.iter().find(|row| row.0 == "loss").expect("loss").1.data[0].is_finite());
        let states = rows.iter().filter_map(|row| Some((row, context.params.get(&row.0.as_str().into())?)));
        let same = |((_, found), held): (&(String, Value), &Value)| {
            found.data.iter().zip(&held.data).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        assert!(states.clone().count() >= 3 * program.params.len());
        states.for_each(|row| assert!(same(row), "{}", row.0.0));
        context.params.insert(name, before);
    }
}

#[test]
fn gradients_that_are_clipped_together_are_refused() {
    let program = trained(&Net::new(), &AdamWOptions::default());
    let message = add_step(&program).expect_err("refused").to_string();
    assert!(message.contains("it can only follow the whole backward pass"), "{message}");
    let message = add_step(&Net::new().program(1, false)).expect_err("refused").to_string();
    assert!(message.contains("has no entry `update`"), "{message}");
}

#[test]
fn a_parameter_whose_name_ends_in_another_s_goes_by_its_own_gradient() {
    let mut program = Program::new("names");
    let axes = [diptych_ir::Axis::fixed("a", 3)];
    let [x, y] = ["norm", "layers.norm"].map(|name| param(&mut program, name, &axes));
    let product = program.main_mut().graph.add(Map(ScalarFn::Mul), &[x, y]).expect("mul");
    weighted_loss(&mut program, product, &axes);
    let program = add_adamw(&differentiate(&program).expect("differentiate"), &unclipped()).expect("adamw");
    let step = add_step(&program).expect("a step");
    assert_eq!(step.entry(EntryKind::Step).expect("step").updates.len(), 6);
}
