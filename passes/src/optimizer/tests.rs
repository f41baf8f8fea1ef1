//! The optimiser's graph: alike for all parameters, one step by hand, and what
//! is refused. Two whole steps against PyTorch's are in tests/fixtures.rs.

use crate::test_net::Net;
use crate::test_support::*;
use crate::{AdamWOptions, add_adamw, differentiate};
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::{Axis, EntryKind, NodeId, Op, Program, Symbol, UpdateRule};
use std::collections::BTreeSet;

/// The ops below a node, without names and axes.
fn shape(program: &Program, id: NodeId) -> String {
    let graph = &program.main().graph;
    match graph.op(id) {
        Op::Param(_) => "param".into(),
        Op::Literal(literal) => format!("{:?}", literal.values()),
        Op::Reduce(_) => "norm".into(),
        op => {
            let operands = graph.operands(id);
            let operands: Vec<String> = operands.into_iter().map(|operand| shape(program, operand)).collect();
            format!("{}({})", op.name(), operands.join(","))
        }
    }
}

#[test]
fn the_nodes_of_all_parameters_of_a_group_are_alike() {
    let program = differentiate(&Net::new().program(2, false)).expect("differentiate");
    let program = add_adamw(&program, &AdamWOptions::default()).expect("adamw");
    let program = crate::simplify(&program).expect("simplify");
    let update = program.entry(EntryKind::Update).expect("update");
    let shapes = |decay: bool| -> BTreeSet<String> {
        let of_group = |name: &Symbol| {
            program.params.get(name).is_some_and(|info| info.update == UpdateRule::AdamW { decay })
        };
        let nodes = update.updates.iter().filter(|(name, _)| of_group(name));
        nodes.map(|&(_, id)| shape(&program, id)).collect()
    };
    assert_eq!((shapes(true).len(), shapes(false).len()), (1, 1));
    assert_ne!(shapes(true), shapes(false));
    assert_eq!(update.updates.len(), 3 * program.params.len());
}

/// One parameter of two elements, after a step from zero moments.
fn one_step(options: &AdamWOptions, gradient: [f64; 2]) -> (f64, Vec<(String, Value)>) {
    let axes = [Axis::fixed("a", 2), Axis::fixed("b", 1)];
    let mut program = Program::new("one");
    let x = param(&mut program, "x", &axes);
    weighted_loss(&mut program, x, &axes);
    let program = add_adamw(&differentiate(&program).expect("differentiate"), options).expect("adamw");
    let value = |data: Vec<f64>| Value::new(&[("a".into(), 2), ("b".into(), 1)], data).expect("value");
    let mut context = Context::default();
    let states = [
        ("x", vec![1.0, -2.0]),
        ("gradient.x", gradient.to_vec()),
        ("mean.x", vec![0.0; 2]),
        ("variance.x", vec![0.0; 2]),
    ];
    context.params.extend(states.map(|(name, data)| (Symbol::new(name), value(data))));
    let scalars = [
        ("learning_rate", 0.1),
        ("bias_correction_mean", 1.0 - options.beta1),
        ("bias_correction_variance", 1.0 - options.beta2),
    ];
    context.inputs.extend(scalars.map(|(name, x)| (Symbol::new(name), Value::scalar(x))));
    let mut rows = run_entry(&program, EntryKind::Update, &context);
    let norm = rows.remove(0).1.data[0];
    (norm, rows)
}

#[test]
fn a_first_step_goes_by_the_sign_of_the_gradient() {
    let plain = AdamWOptions { clip_norm: None, weight_decay: 0.5, epsilon: 0.0, ..AdamWOptions::default() };
    let (norm, rows) = one_step(&plain, [3.0, -4.0]);
    assert_eq!(norm, 5.0);
    let near = |found: &[f64], wanted: [f64; 2]| {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, not {wanted:?}");
    };
    // Decay takes a twentieth of each; then a step of the learning rate.
    near(&rows[0].1.data, [0.95 - 0.1, -1.9 + 0.1]);
    near(&rows[1].1.data, [0.3, -0.4]);
    near(&rows[2].1.data, [0.009, 0.016]);
    let clipped = AdamWOptions { clip_norm: Some(1.0), ..plain };
    let (norm, rows) = one_step(&clipped, [3.0, -4.0]);
    assert_eq!(norm, 5.0, "the norm is that before clipping");
    let factor = 1.0 / (5.0 + 1e-6);
    near(&rows[1].1.data, [0.3 * factor, -0.4 * factor]);
    let (_, rows) = one_step(&clipped, [0.3, -0.4]);
    near(&rows[1].1.data, [0.03, -0.04]);
}

#[test]
fn an_optimiser_without_gradients_or_a_second_one_is_refused() {
    let program = Net::new().program(1, false);
    let refused =
        |program: &Program| add_adamw(program, &AdamWOptions::default()).expect_err("refused").to_string();
    assert!(refused(&program).contains("differentiate the program first"));
    let program = differentiate(&program).expect("differentiate");
    let program = add_adamw(&program, &AdamWOptions::default()).expect("adamw");
    assert!(refused(&program).contains("has an optimiser already"));
}

/// Two parameters: `x` by AdamW, `bias` by sign descent.
fn with_a_bias(of_x: UpdateRule) -> Program {
    let mut program = Program::new("with a bias");
    let axes = [Axis::fixed("a", 3)];
    for name in ["x", "bias"] {
        param(&mut program, name, &axes);
    }
    program.params.get_mut(&Symbol::new("x")).expect("x").update = of_x;
    program.params.get_mut(&Symbol::new("bias")).expect("bias").update =
        UpdateRule::SignDescent { rate: 0.25 };
    let graph = &mut program.main_mut().graph;
    let leaf = |graph: &mut diptych_ir::Graph, name: &str| {
        let ty = f32_type(&axes);
        graph.add(diptych_ir::ops::Param { name: name.into(), ty }, &[]).expect("param")
    };
    let (x, bias) = (leaf(graph, "x"), leaf(graph, "bias"));
    let sum = graph.add(diptych_ir::ops::Map(diptych_ir::ScalarFn::Mul), &[x, bias]).expect("mul");
    weighted_loss(&mut program, sum, &axes);
    program
}

#[test]
fn sign_descent_goes_by_the_sign_alone_and_counts_for_no_norm() {
    let program = differentiate(&with_a_bias(UpdateRule::AdamW { decay: false })).expect("differentiate");
    let program = add_adamw(&program, &AdamWOptions::default()).expect("adamw");
    let states: Vec<&str> = program.states.keys().map(|name| name.as_str()).collect();
    assert_eq!(states, ["gradient.bias", "gradient.x", "mean.x", "variance.x"]);
    let mut context = Context::default();
    let value = |data: [f64; 3]| Value::new(&[("a".into(), 3)], data.to_vec()).expect("value");
    for (name, data) in [
        ("x", [1.0; 3]),
        ("bias", [0.5, 0.5, -1.0]),
        ("gradient.x", [0.3, 0.0, -0.4]),
        ("gradient.bias", [1e-30, 0.0, -1e6]),
        ("mean.x", [0.0; 3]),
        ("variance.x", [0.0; 3]),
    ] {
        context.params.insert(name.into(), value(data));
    }
    for name in ["learning_rate", "bias_correction_mean", "bias_correction_variance"] {
        context.inputs.insert(name.into(), Value::scalar(0.1));
    }
    let rows = run_entry(&program, EntryKind::Update, &context);
    let of = |name: &str| rows.iter().find(|row| row.0 == name).expect("a row").1.data.clone();
    assert!((of("gradient_norm")[0] - 0.5).abs() < 1e-12, "{:?}", of("gradient_norm"));
    assert_eq!(of("bias"), [0.25, 0.5, -0.75]);

    let all = differentiate(&with_a_bias(UpdateRule::SignDescent { rate: 0.1 })).expect("differentiate");
    let message = add_adamw(&all, &AdamWOptions::default()).expect_err("refused").to_string();
    assert!(message.contains("every parameter goes by the sign of its gradient"), "{message}");
}
