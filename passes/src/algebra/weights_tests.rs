//! What the optimiser does with weights unaided: chains, products of low rank,
//! scales, biases and norms fold into them where that pays, and stay where the
//! cost says no; and the backward pass takes from the forward pass what both need.

use super::rules::{Class, keeping};
use super::tests::{
    axis, close, context, derives_weights, finish, input, objective, optimized, root, same_value,
};
use super::{Binding, Objective, optimize_backward, optimize_with};
use crate::differentiate;
use crate::test_support::{param, random_context, run_entry, weighted_loss};
use diptych_ir::evaluate::evaluate;
use diptych_ir::ops::{Cast, Concat, Contract, Literal, Map, Slice};
use diptych_ir::{Axis, DType, Entry, EntryKind, NodeId, Op, Program, ScalarFn};

/// A program under construction, with axes that its tests share.
struct Draft {
    program: Program,
    batch: Axis,
    time: Axis,
    embed: Axis,
    out: Axis,
}

impl Draft {
    fn new(embed: usize, out: usize) -> Draft {
        Draft {
            program: Program::new("weights"),
            batch: axis("batch", 0),
            time: axis("time", 0),
            embed: axis("embed", embed),
            out: axis("out", out),
        }
    }

    fn tokens(&mut self, name: &str, along: Axis) -> NodeId {
        input(&mut self.program, name, &[self.batch, self.time, along])
    }

    fn param(&mut self, name: &str, axes: &[Axis]) -> NodeId {
        param(&mut self.program, name, axes)
    }

    fn op(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
        self.program.main_mut().graph.add(op, operands).unwrap()
    }

    fn dot(&mut self, x: NodeId, w: NodeId, over: Axis) -> NodeId {
        self.op(Contract { over: vec![over] }, &[x, w])
    }

    fn map(&mut self, function: ScalarFn, operands: &[NodeId]) -> NodeId {
        self.op(Map(function), operands)
    }

    fn scaled(&mut self, x: NodeId, scale: f64) -> NodeId {
        let scale = self.op(Literal::scalar(DType::F32, scale), &[]);
        self.map(ScalarFn::Mul, &[x, scale])
    }
}

fn few_tokens_trained() -> Objective {
    objective(vec![Binding::new(EntryKind::Train, 1, 4, 4, 1e6)])
}

fn many_tokens_trained() -> Objective {
    objective(vec![Binding::new(EntryKind::Train, 8, 1024, 1024, 1e6)])
}

fn prompts_served() -> Objective {
    objective(vec![Binding::new(EntryKind::Prefill, 1, 256, 256, 1e6)])
}

/// Nodes of the main region that are so.
fn count(program: &Program, wanted: impl Fn(&Op) -> bool) -> usize {
    let graph = &program.main().graph;
    graph.topological_order().into_iter().filter(|&id| wanted(graph.op(id))).count()
}

fn products(program: &Program) -> usize {
    count(program, |op| matches!(op, Op::Contract(_)))
}

#[test]
fn two_linear_layers_become_one_where_what_is_between_them_is_wide() {
    let chain = |between: usize| {
        let mut draft = Draft::new(64, 64);
        let (embed, out, middle) = (draft.embed, draft.out, axis("between", between));
        let x = draft.tokens("x", embed);
        let (a, b) = (draft.param("a", &[embed, middle]), draft.param("b", &[middle, out]));
        let inner = draft.dot(x, a, embed);
        let root = draft.dot(inner, b, middle);
        finish(draft.program, root)
    };
    for (between, folds) in [(512, true), (8, false)] {
        let before = chain(between);
        let (after, report) = optimized(&before, &many_tokens_trained());
        assert_eq!(derives_weights(&after), folds, "{between}: {report}");
        assert_eq!(report.regions[0].changes.is_empty(), !folds, "{report}");
        same_value(&before, &after);
    }
}

#[test]
fn a_weight_of_low_rank_is_applied_in_two_steps_and_one_of_high_rank_in_one() {
    let product = |rank: usize| {
        let mut draft = Draft::new(64, 64);
        let (embed, out, rank) = (draft.embed, draft.out, axis("rank", rank));
        let x = draft.tokens("x", embed);
        let (a, b) = (draft.param("a", &[embed, rank]), draft.param("b", &[rank, out]));
        let weight = draft.dot(a, b, rank);
        let root = draft.dot(x, weight, embed);
        finish(draft.program, root)
    };
    for (rank, whole) in [(4, false), (256, true)] {
        let before = product(rank);
        let (after, report) = optimized(&before, &many_tokens_trained());
        assert_eq!(derives_weights(&after), whole, "{rank}: {report}");
        assert_eq!(report.regions[0].changes.is_empty(), whole, "{report}");
        same_value(&before, &after);
    }
}

/// x·W + s·(x·A)·B, after a residual if there is one.
fn low_rank_update(residual: bool) -> Program {
    let mut draft = Draft::new(64, 96);
    let (embed, out, rank) = (draft.embed, draft.out, axis("rank", 4));
    let x = draft.tokens("x", embed);
    let w = draft.param("w", &[embed, out]);
    let (a, b) = (draft.param("a", &[embed, rank]), draft.param("b", &[rank, out]));
    let main = draft.dot(x, w, embed);
    let narrow = draft.dot(x, a, embed);
    let update = draft.dot(narrow, b, rank);
    let update = draft.scaled(update, 2.0);
    let main = match residual {
        true => {
            let residual = draft.tokens("residual", out);
            draft.map(ScalarFn::Add, &[residual, main])
        }
        false => main,
    };
    let root = draft.map(ScalarFn::Add, &[main, update]);
    finish(draft.program, root)
}

/// Products that tokens themselves are an operand of.
fn products_of_inputs(program: &Program) -> usize {
    let graph = &program.main().graph;
    let of_input = |id: &NodeId| {
        let mut operands = graph.operands(*id).into_iter();
        matches!(graph.op(*id), Op::Contract(_)) && operands.any(|x| matches!(graph.op(x), Op::Input(_)))
    };
    graph.topological_order().iter().filter(|id| of_input(id)).count()
}

#[test]
fn an_update_of_low_rank_is_merged_into_the_weight_when_serving_and_not_when_training_on_few_tokens() {
    for residual in [false, true] {
        let before = low_rank_update(residual);
        let (after, report) = optimized(&before, &prompts_served());
        // A·B, made at load, and the one product with tokens.
        assert_eq!(products(&after), 2, "{report}");
        assert_eq!(products_of_inputs(&after), 1, "{report}");
        same_value(&before, &after);
        let (after, report) = optimized(&before, &few_tokens_trained());
        assert_eq!(products(&after), 3, "{report}");
        assert_eq!(products_of_inputs(&after), 2, "{report}");
        same_value(&before, &after);
    }
}

#[test]
fn a_bias_before_a_projection_becomes_one_after_it_when_serving() {
    let mut draft = Draft::new(64, 96);
    let (embed, out) = (draft.embed, draft.out);
    let x = draft.tokens("x", embed);
    let (first, w, second) =
        (draft.param("first", &[embed]), draft.param("w", &[embed, out]), draft.param("second", &[out]));
    let x = draft.map(ScalarFn::Add, &[x, first]);
    let y = draft.dot(x, w, embed);
    let sum = draft.map(ScalarFn::Add, &[y, second]);
    let before = finish(draft.program, sum);
    let (after, report) = optimized(&before, &prompts_served());
    let graph = &after.main().graph;
    let operands = graph.operands(root(&after));
    let is_product_of_inputs = |id: NodeId| {
        matches!(graph.op(id), Op::Contract(_))
            && graph.operands(id).iter().any(|&x| matches!(graph.op(x), Op::Input(_)))
    };
    assert!(operands.into_iter().any(is_product_of_inputs), "{report}");
    same_value(&before, &after);
    let (after, report) = optimized(&before, &few_tokens_trained());
    assert!(report.regions[0].changes.is_empty(), "{report}");
    same_value(&before, &after);
}

/// (x, y) of a head's halves, turned by a table of cosines and sines.
fn rotated(draft: &mut Draft, x: NodeId, head_dim: Axis) -> NodeId {
    let size = head_dim.fixed_size().unwrap();
    let half = axis("half", size / 2);
    let (cos, sin) = (draft.tokens("cos", half), draft.tokens("sin", half));
    let first = draft.op(Slice { axis: head_dim, start: 0, into: half }, &[x]);
    let second = draft.op(Slice { axis: head_dim, start: size / 2, into: half }, &[x]);
    let mut product = |x, table| draft.map(ScalarFn::Mul, &[x, table]);
    let products = [product(first, cos), product(second, sin), product(second, cos), product(first, sin)];
    let left = draft.map(ScalarFn::Sub, &products[..2]);
    let right = draft.map(ScalarFn::Add, &products[2..]);
    draft.op(Concat { pieces: vec![half, half], into: head_dim }, &[left, right])
}

#[test]
fn the_scale_of_scores_goes_through_rotary_tables_into_the_weights_of_queries_when_serving() {
    let mut draft = Draft::new(64, 64);
    let (embed, head_dim, past) = (draft.embed, axis("head_dim", 32), axis("past", 0));
    let x = draft.tokens("x", embed);
    let w = draft.param("w", &[embed, head_dim]);
    let k = input(&mut draft.program, "k", &[draft.batch, past, head_dim]);
    let q = draft.dot(x, w, embed);
    let q = rotated(&mut draft, q, head_dim);
    let scores = draft.dot(q, k, head_dim);
    let root = draft.scaled(scores, 0.125);
    let before = finish(draft.program, root);
    let scaled = |program: &Program, wanted: fn(&Op) -> bool| {
        let graph = &program.main().graph;
        graph.ids().into_iter().any(|id| {
            let operands = graph.operands(id);
            let is = |wanted: fn(&Op) -> bool| operands.iter().any(|&operand| wanted(graph.op(operand)));
            *graph.op(id) == Op::Map(Map(ScalarFn::Mul))
                && is(|op| matches!(op, Op::Literal(_)))
                && is(wanted)
        })
    };
    let (after, report) = optimized(&before, &prompts_served());
    assert!(scaled(&after, |op| matches!(op, Op::Param(_))), "{report}");
    assert!(!scaled(&after, |op| !matches!(op, Op::Param(_) | Op::Literal(_))), "{report}");
    same_value(&before, &after);
    // Not where the weights, scaled anew in each step, are more than the queries.
    let (after, report) = optimized(&before, &few_tokens_trained());
    assert!(!scaled(&after, |op| matches!(op, Op::Param(_))), "{report}");
    same_value(&before, &after);
}

#[test]
fn a_norm_weight_passes_a_rounding_on_request_only() {
    let mut draft = Draft::new(64, 256);
    let (embed, out) = (draft.embed, draft.out);
    let x = draft.tokens("x", embed);
    let (norm, w) = (draft.param("norm", &[embed]), draft.param("w", &[embed, out]));
    let h = draft.map(ScalarFn::Mul, &[x, norm]);
    let h = draft.op(Cast(DType::BF16), &[h]);
    let projected = draft.dot(h, w, embed);
    let before = finish(draft.program, projected);
    let (after, report) = optimized(&before, &prompts_served());
    assert!(report.regions[0].changes.is_empty() && !derives_weights(&after), "{report}");
    let rules = keeping(Class::Approximate);
    let (after, report) =
        optimize_with(&before, &prompts_served(), &rules, vec![Default::default()], 1.0).unwrap();
    assert!(derives_weights(&after), "{report}");
    let context = context(&before);
    let value = |program: &Program| evaluate(program, &[root(program)], &context).unwrap().remove(0);
    close(&value(&before), &value(&after), 2f64.powi(-7));
}

#[test]
fn weights_are_multiplied_out_across_a_rounding_on_request_and_where_it_pays_only() {
    let mut draft = Draft::new(64, 256);
    let (embed, out, rank) = (draft.embed, draft.out, Axis::fixed("rank", 48));
    let x = draft.tokens("x", embed);
    let (down, up) = (draft.param("down", &[embed, rank]), draft.param("up", &[rank, out]));
    let h = draft.dot(x, down, embed);
    let h = draft.op(Cast(DType::BF16), &[h]);
    let projected = draft.dot(h, up, rank);
    let before = finish(draft.program, projected);
    let rewritten = |objective: &Objective, class: Class| {
        optimize_with(&before, objective, &keeping(class), vec![Default::default()], 1.0).unwrap()
    };
    let (after, report) = rewritten(&prompts_served(), Class::Real);
    assert!(!derives_weights(&after), "{report}");
    let (after, report) = rewritten(&prompts_served(), Class::Approximate);
    assert!(derives_weights(&after), "{report}");
    let context = context(&before);
    let value = |program: &Program| evaluate(program, &[root(program)], &context).unwrap().remove(0);
    close(&value(&before), &value(&after), 2f64.powi(-7));
    // Not where the product of the weights is paid at each step.
    let (after, report) = rewritten(&few_tokens_trained(), Class::Approximate);
    assert!(!derives_weights(&after), "{report}");
}

#[test]
fn what_the_forward_pass_has_computed_the_backward_pass_does_not_compute_again() {
    let mut program = Program::new("bell");
    let (batch, time, embed) = (axis("batch", 0), axis("time", 0), axis("embed", 5));
    let x = input(&mut program, "x", &[batch, time, embed]);
    let w = param(&mut program, "w", &[embed]);
    let graph = &mut program.main_mut().graph;
    let mut map = |function, operands: &[NodeId]| graph.add(Map(function), operands).unwrap();
    let u = map(ScalarFn::Mul, &[x, w]);
    let gate = map(ScalarFn::Erf, &[u]);
    // The slope of the error function, which its gradient computes too.
    let square = map(ScalarFn::Mul, &[u, u]);
    let negative = map(ScalarFn::Neg, &[square]);
    let bell = map(ScalarFn::Exp, &[negative]);
    let y = map(ScalarFn::Add, &[gate, bell]);
    weighted_loss(&mut program, y, &[batch, time, embed]);
    let gradients = differentiate(&program).unwrap();
    let bells = |program: &Program| count(program, |op| *op == Op::Map(Map(ScalarFn::Exp)));
    assert_eq!(bells(&gradients), 2);
    let (after, report) = optimize_backward(&gradients, &many_tokens_trained()).unwrap();
    assert_eq!(bells(&after), 1, "{report}");
    let context = random_context(&gradients, &[("batch", 2), ("time", 3)], 5, -1.0, 1.0);
    let train = |program| run_entry(program, EntryKind::Train, &context);
    for (before, after) in train(&gradients).iter().zip(&train(&after)) {
        close(&before.1, &after.1, 1e-9);
    }
}

#[test]
fn a_product_of_the_forward_pass_is_used_again_unless_adding_to_it_costs_more_than_adding_weights() {
    let mut draft = Draft::new(64, 256);
    let (embed, out) = (draft.embed, draft.out);
    let x = draft.tokens("x", embed);
    let (w, v) = (draft.param("w", &[embed, out]), draft.param("v", &[embed, out]));
    let forward = draft.dot(x, w, embed);
    let sum = draft.map(ScalarFn::Add, &[w, v]);
    let backward = draft.dot(x, sum, embed);
    let mut program = finish(draft.program, forward);
    program.entries.retain(|entry| entry.kind == EntryKind::Score);
    // What is an update of training only is free to change; the roots of entries are not.
    program.states.insert("kept".into(), program.main().graph.ty(backward).clone());
    let (roots, updates) = (vec![("out".into(), forward)], vec![("kept".into(), backward)]);
    program.entries.push(Entry { kind: EntryKind::Train, roots, updates });
    let is_sum = |op: &Op| *op == Op::Map(Map(ScalarFn::Add));
    for (objective, shares) in [(few_tokens_trained(), true), (many_tokens_trained(), false)] {
        let (after, report) = optimize_backward(&program, &objective).unwrap();
        assert_eq!(derives_weights(&after), !shares, "{report}");
        assert_eq!((count(&after, is_sum), products(&after)), (1, 2), "{report}");
        let context = random_context(&program, &[("batch", 2), ("time", 3)], 6, -1.0, 1.0);
        let train = |program| run_entry(program, EntryKind::Train, &context);
        for (before, after) in train(&program).iter().zip(&train(&after)) {
            close(&before.1, &after.1, 1e-9);
        }
    }
}
