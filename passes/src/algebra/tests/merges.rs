//! Products that share an operand are merged where that pays, and the forms that
//! latent attention, written naively, comes to have.

use super::super::language::{EGraph, Known, add};
use super::super::matching::{Budget, search};
use super::super::rules::{Class, RULES, Rule, When, compile};
use super::super::saturate::saturate;
use super::super::{Binding, Limits, Objective, optimize_backward};
use super::*;
use diptych_ir::Graph;
use diptych_ir::ops::{Concat, History, Param};
use egg::Id;
use std::collections::HashMap;

/// Products of one input with weights of these axes beside `embed`.
fn projections(embed: usize, own: &[&[(&str, usize)]]) -> (Program, Vec<NodeId>) {
    let mut program = Program::new("projections");
    let (batch, time, e) = (axis("batch", 0), axis("time", 0), axis("embed", embed));
    let x = input(&mut program, "x", &[batch, time, e]);
    let mut products = Vec::new();
    for (number, own) in own.iter().enumerate() {
        let own = own.iter().map(|&(name, size)| Axis::fixed(name, size));
        let axes: Vec<Axis> = [e].into_iter().chain(own).collect();
        let w = crate::test_support::param(&mut program, &format!("w{number}"), &axes);
        products.push(program.main_mut().graph.add(Contract { over: vec![e] }, &[x, w]).unwrap());
    }
    (program, products)
}

fn gated(embed: usize, hidden: usize) -> Program {
    let (mut program, products) = projections(embed, &[&[("hidden", hidden)], &[("hidden", hidden)]]);
    let graph = &mut program.main_mut().graph;
    let gate = graph.add(Map(ScalarFn::Sigmoid), &[products[0]]).unwrap();
    let root = graph.add(Map(ScalarFn::Mul), &[gate, products[1]]).unwrap();
    finish(program, root)
}

fn products(program: &Program, counts: impl Fn(&Graph, NodeId, &Contract) -> bool) -> usize {
    let graph = &program.main().graph;
    let is_one = |&id: &NodeId| matches!(graph.op(id), Op::Contract(contract) if counts(graph, id, contract));
    graph.topological_order().iter().filter(|id| is_one(id)).count()
}

/// Products that read an input.
fn of_inputs(program: &Program) -> usize {
    products(program, |graph, id, _| graph.operands(id).iter().any(|&x| matches!(graph.op(x), Op::Input(_))))
}

/// A back end that calls a routine for each product.
fn one_by_one(bindings: Vec<Binding>) -> Objective {
    Objective { shared_reads: false, ..objective(bindings) }
}

fn serving(time: usize) -> Objective {
    one_by_one(vec![Binding::new(EntryKind::Prefill, 1, time, time, 1e6)])
}

#[test]
fn gate_and_up_are_one_product_when_serving_and_two_where_weights_are_joined_in_each_run() {
    let before = gated(64, 96);
    let (after, report) = optimized(&before, &serving(256));
    assert_eq!(of_inputs(&after), 1, "{report}");
    same_value(&before, &after);
    // Joining the weights takes longer than reading one token twice.
    let few = Objective { derived_at_load: false, ..serving(1) };
    assert_eq!(of_inputs(&optimized(&before, &few).0), 2);
    // One kernel reads it once for both, merged or not.
    let fused = Objective { shared_reads: true, ..serving(256) };
    assert_eq!(of_inputs(&optimized(&before, &fused).0), 2);
}

#[test]
fn queries_keys_and_values_are_one_product_when_serving_and_three_when_training_on_few_tokens() {
    let (kv_head, group, head_dim) = (("kv_head", 2), ("group", 2), ("head_dim", 8));
    let own: [&[(&str, usize)]; 3] =
        [&[kv_head, group, head_dim], &[kv_head, head_dim], &[kv_head, ("value", 8)]];
    let (mut program, products) = projections(64, &own);
    let graph = &mut program.main_mut().graph;
    let [q, k, v] = products[..] else { panic!("three products") };
    let exponentials = [q, k, v].map(|x| graph.add(Map(ScalarFn::Exp), &[x]).unwrap());
    let scores = graph.add(Map(ScalarFn::Add), &[exponentials[0], exponentials[1]]).unwrap();
    let root = graph.add(Map(ScalarFn::Add), &[scores, exponentials[2]]).unwrap();
    let before = finish(program, root);
    let (after, report) = optimized(&before, &serving(256));
    assert_eq!(of_inputs(&after), 1, "{report}");
    same_value(&before, &after);
    let few = one_by_one(vec![Binding::new(EntryKind::Train, 1, 1, 1, 1e6)]);
    assert_eq!(of_inputs(&optimized(&before, &few).0), 3);
}

#[test]
fn a_sum_of_two_products_is_one_where_the_sum_is_wider_than_what_is_joined() {
    let sum = |embed: usize, hidden: usize| {
        let mut program = Program::new("sum");
        let (batch, time, e) = (axis("batch", 0), axis("time", 0), axis("embed", embed));
        let terms = [("left", "v"), ("right", "w")].map(|(name, weight)| {
            let own = Axis::fixed(name, hidden);
            let x = input(&mut program, name, &[batch, time, own]);
            let w = crate::test_support::param(&mut program, weight, &[own, e]);
            program.main_mut().graph.add(Contract { over: vec![own] }, &[x, w]).unwrap()
        });
        let root = program.main_mut().graph.add(Map(ScalarFn::Add), &terms).unwrap();
        finish(program, root)
    };
    let wide = sum(512, 8);
    let (after, report) = optimized(&wide, &serving(256));
    assert_eq!(products(&after, |_, _, _| true), 1, "{report}");
    same_value(&wide, &after);
    assert_eq!(products(&optimized(&sum(8, 512), &serving(256)).0, |_, _, _| true), 2);
}

#[test]
fn gradients_of_gate_and_up_stay_sums_of_their_own() {
    let gradients = |embed: usize, hidden: usize| {
        let mut program = gated(embed, hidden);
        let value = root(&program);
        let graph = &mut program.main_mut().graph;
        let over = graph.ordered(graph.axes(value).iter().copied());
        let loss = graph.add(Contract { over }, &[value, value]).unwrap();
        program.main_mut().results = vec![loss];
        program.entries.retain(|entry| entry.kind == EntryKind::Train);
        program.entries.iter_mut().for_each(|entry| entry.roots = vec![("loss".into(), loss)]);
        let before = crate::differentiate(&program).unwrap();
        let (after, report) =
            optimize_backward(&before, &Objective { shared_reads: false, ..training(256) }).unwrap();
        let context = context(&before);
        let values = |program: &Program| {
            let roots = &program.entry(EntryKind::Train).unwrap().roots;
            evaluate(program, &roots.iter().map(|root| root.1).collect::<Vec<_>>(), &context).unwrap()
        };
        values(&before).iter().zip(&values(&after)).for_each(|(left, right)| close(left, right, 1e-9));
        let over_tokens = |graph: &Graph, id: NodeId, contract: &Contract| {
            let embed = graph.axes(id).iter().any(|axis| axis.name.as_str() == "embed");
            embed && contract.over.iter().any(|axis| axis.fixed_size().is_none())
        };
        (products(&after, over_tokens), report)
    };
    // Parts of one sum are no sums of their own, which go on from one micro-batch to the next.
    for (embed, hidden) in [(512, 8), (8, 512)] {
        let (products, report) = gradients(embed, hidden);
        assert_eq!(products, 2, "{report}");
        assert!(
            report.regions.iter().any(|region| region.fired.contains_key("merge_weight_gradients")),
            "{report}"
        );
    }
}

/// Whether a pattern stands in a class; `w` are weights.
fn stands(egraph: &EGraph, class: Id, left: &'static str) -> bool {
    let probe = Rule {
        name: "probe",
        class: Class::Real,
        left,
        right: "w",
        beside: None,
        conditions: &[When::ParamOnly("w")],
    };
    let rule = &compile(&[probe]).unwrap()[0];
    !search(egraph, rule, egraph.find(class), 1, &Budget::new(1_000_000), &mut |_| true).is_empty()
}

#[test]
fn naive_latent_attention_has_an_expanded_and_an_absorbed_form() {
    let mut graph = Graph::new();
    let (batch, time, past) = (axis("batch", 0), axis("time", 0), axis("past", 0));
    let [latent, kv_head, content, rotary, value, head_dim] =
        [("latent", 8), ("kv_head", 2), ("content", 6), ("rotary", 2), ("value", 5), ("head_dim", 8)]
            .map(|(name, size)| Axis::fixed(name, size));
    let ty = |axes: &[Axis]| TensorType::new(DType::F32, Axes::new(axes.iter().copied()).unwrap());
    let mut input = |name: &str, axes: &[Axis]| {
        let ty = ty(&[&[batch, time], axes].concat());
        graph.add(Input { name: name.into(), ty }, &[]).unwrap()
    };
    let (compressed, k_rotary) = (input("compressed", &[latent]), input("k_rotary", &[rotary]));
    let (q_content, q_rotary) =
        (input("q_content", &[kv_head, content]), input("q_rotary", &[kv_head, rotary]));
    let mut weight =
        |name: &str, axes: &[Axis]| graph.add(Param { name: name.into(), ty: ty(axes) }, &[]).unwrap();
    let (to_key, to_value) =
        (weight("to_key", &[latent, kv_head, content]), weight("to_value", &[latent, kv_head, value]));
    let mut node = |op: Op, operands: &[NodeId]| graph.add(op, operands).unwrap();
    let both = || Op::from(Concat { pieces: vec![content, rotary], into: head_dim });
    let over = |axis: Axis| Op::from(Contract { over: vec![axis] });
    let history = |room: usize| Op::from(History { time, past, window: None, room });
    let k_content = node(over(latent), &[compressed, to_key]);
    let k = node(both(), &[k_content, k_rotary]);
    let k = node(history(0), &[k]);
    let v = node(over(latent), &[compressed, to_value]);
    let v = node(history(1), &[v]);
    let q = node(both(), &[q_content, q_rotary]);
    let scores = node(over(head_dim), &[q, k]);
    let weights = node(Map(ScalarFn::Exp).into(), &[scores]);
    let seen = node(over(past), &[weights, v]);

    let params = ["to_key", "to_value"].map(Symbol::new).into();
    let mut egraph = EGraph::new(Known::new(&graph, params, Default::default()));
    let mut classes: HashMap<NodeId, Id> = HashMap::new();
    for id in graph.topological_order() {
        let operands = graph.operands(id).iter().map(|operand| classes[operand]).collect();
        let class = add(&mut egraph, graph.op(id).clone(), operands).unwrap();
        classes.insert(id, class);
    }
    let (scores, seen) = (classes[&scores], classes[&seen]);
    let expanded_keys = "(contract[A] q (history[h] (concat[m] (contract[B] c w) xs..)))";
    let cached_parts = "(contract[A] q (concat[m] (contract[B] (history[h] c) w) (history[h] k)))";
    let absorbed_keys = "(add (contract[A] (contract[B] q w) (history[h] c)) (contract[D] r (history[h] k)))";
    let expanded_values = "(contract[A] p (history[h] (contract[B] c w)))";
    let absorbed_values = "(contract[A] (contract[B] p (history[h] c)) w)";
    for (class, form) in [(scores, cached_parts), (scores, absorbed_keys), (seen, absorbed_values)] {
        assert!(!stands(&egraph, class, form), "{form} is there before saturation");
    }
    saturate(&mut egraph, &compile(RULES).unwrap(), &Limits::default()).unwrap();
    for (class, form) in [
        (scores, expanded_keys),
        (scores, cached_parts),
        (scores, absorbed_keys),
        (seen, expanded_values),
        (seen, absorbed_values),
    ] {
        assert!(stands(&egraph, class, form), "{form} was not found");
    }
}
