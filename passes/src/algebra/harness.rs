//! The test of every rule: random instances of its left side, on random shapes,
//! against its right side, through the reference evaluator. A rule that never
//! fires fails, and so does one that finds unequal values equal. What reads a
//! history is evaluated at the second of two calls, so it sees what the first has kept.

mod broken_moves;
mod instance;
mod values;

use super::building::apply;
use super::language::{EGraph, Known, Shape, add, give};
use super::matching::{Bindings, Budget, search};
use super::pairs::search_pairs;
use super::rules::{Class, Compiled, Condition, RULES, Rule, compile};
use super::simulated_ranks;
use crate::test_support::Numbers;
use diptych_ir::evaluate::Context;
use diptych_ir::{Axis, Graph, NodeId, Op};
use egg::Id;
use instance::{Instance, Random, time_and_past};
use std::collections::{BTreeMap, HashMap, HashSet};
use values::{difference, evaluate, value};

/// How often each rule must fire, and in how many tries.
const FIRINGS: usize = 200;
const TRIES: usize = 120_000;

/// Whether a rule has a collective on either side: then it is tested on simulated ranks.
fn speaks_of_ranks(rule: &Compiled) -> bool {
    let shapes = [rule.left.shapes(), rule.right.shapes()].concat();
    shapes.iter().any(|shape| matches!(shape, Shape::AllReduce | Shape::AllGather | Shape::ReduceScatter))
}

/// Tests a rule.
///
/// # Errors
/// When it never or seldom fires, or what it says is wrong.
pub(super) fn check(rule: &Rule, seed: u64) -> Result<(), String> {
    let rule = &compile(std::slice::from_ref(rule))?[0];
    let mut random = Random(Numbers(seed));
    let mut fired = 0;
    for _ in 0..TRIES {
        fired += check_once(rule, &mut random)?;
        if fired >= FIRINGS {
            return Ok(());
        }
    }
    Err(format!("rule `{}` fired {fired} times, not {FIRINGS}", rule.rule.name))
}

/// Whether a rule asks for tokens: others are tested without, so that they fire oftener.
fn is_of_tokens(rule: &Compiled) -> bool {
    let over_tokens = |condition: &Condition| matches!(condition, Condition::OverTokens(_));
    rule.rule.left.contains("history") || rule.conditions.iter().any(over_tokens)
}

fn wanted(rule: &Compiled, variable: usize) -> Option<bool> {
    rule.conditions.iter().find_map(|condition| match *condition {
        Condition::ParamOnly(x) if x == variable => Some(true),
        Condition::AtRun(x) if x == variable => Some(false),
        _ => None,
    })
}

fn check_once(rule: &Compiled, random: &mut Random) -> Result<usize, String> {
    let mut pool = ["a", "b", "c", "d"].map(|name| Axis::fixed(name, 1 + random.below(4))).to_vec();
    let mesh = speaks_of_ranks(rule).then(|| Axis::fixed("rank", 1 + random.below(3)));
    if let Some(mesh) = mesh {
        // One axis can be cut over the ranks, into pieces of another.
        let (ranks, piece) = (mesh.fixed_size().unwrap_or(1), 1 + random.below(2));
        pool = vec![mesh, Axis::fixed("a", ranks * piece), Axis::fixed("b", piece), pool[2]];
    }
    let tokens = if is_of_tokens(rule) { time_and_past().to_vec() } else { Vec::new() };
    let count = rule.variables.0.len();
    let wanted = (0..count).map(|variable| wanted(rule, variable)).collect();
    let mut instance =
        Instance { graph: Graph::new(), pool, tokens, mesh, chosen: vec![None; count], wanted };
    let lefts = std::iter::once(&rule.left).chain(rule.beside.as_ref().map(|beside| &beside.0));
    let roots: Option<Vec<NodeId>> = lefts.map(|left| instance.term(left, random)).collect();
    let Some(roots) = roots else { return Ok(0) };
    let graph = instance.graph;
    let lengths = [1 + random.below(2), 1 + random.below(2)];
    let mut calls = [Context::default(), Context::default()];
    for (call, context) in calls.iter_mut().enumerate() {
        context.sizes.insert("time".into(), lengths[call]);
        context.sizes.insert("past".into(), lengths[..=call].iter().sum());
    }
    let mut params = Vec::new();
    let specials = rule.rule.class == Class::Exact;
    for id in graph.topological_order() {
        match graph.op(id) {
            Op::Param(param) => {
                params.push(param.name);
                let value = value(graph.ty(id), specials, &calls[0], random);
                calls.iter_mut().for_each(|call| drop(call.params.insert(param.name, value.clone())));
            }
            Op::Input(input) => {
                for call in &mut calls {
                    let value = value(graph.ty(id), specials, call, random);
                    call.inputs.insert(input.name, value);
                }
            }
            _ => {}
        }
    }
    let mut egraph = EGraph::new(Known::new(&graph, params.into_iter().collect(), Default::default()));
    let mut classes: BTreeMap<NodeId, Id> = BTreeMap::new();
    for id in graph.topological_order() {
        let operands = graph.operands(id).iter().map(|operand| classes[operand]).collect();
        classes.insert(id, add(&mut egraph, graph.op(id).clone(), operands).expect("typed"));
    }
    egraph.rebuild();
    give(&mut egraph);
    let roots_and_classes: Vec<(NodeId, Id)> = roots.iter().map(|&root| (root, classes[&root])).collect();
    // What no rank could compute is no instance.
    let on_ranks = |class| mesh.map(|mesh| simulated_ranks::evaluate(&egraph, class, mesh, &calls[1]));
    if roots_and_classes.iter().any(|pair| on_ranks(pair.1).is_some_and(|held| held.is_err())) {
        return Ok(0);
    }
    let budget = Budget::new(100_000);
    let mut seen = HashSet::new();
    let found: Vec<_> = match roots_and_classes[..] {
        [(_, first), (_, second)] => {
            let mut wanted = |_: &[Id; 2], bindings: &Bindings| seen.insert(bindings.clone());
            let found = search_pairs(&egraph, rule, [&[first], &[second]], 4, &budget, &mut wanted);
            found.into_iter().map(|(_, bindings)| bindings).collect()
        }
        _ => {
            let mut wanted = |bindings: &Bindings| seen.insert(bindings.clone());
            search(&egraph, rule, classes[&roots[0]], 4, &budget, &mut wanted)
        }
    };
    let mut fired = 0;
    for bindings in found {
        let classes: Vec<Id> = roots_and_classes.iter().map(|pair| pair.1).collect();
        let Some(added) = apply(&mut egraph, rule, &classes, bindings) else { continue };
        egraph.rebuild();
        if added == classes {
            continue;
        }
        let mut known = HashMap::new();
        for (&(root, class), added) in roots_and_classes.iter().zip(added) {
            let left = evaluate(&egraph, class, &calls, 1, &mut known);
            let right = evaluate(&egraph, added, &calls, 1, &mut known);
            let difference = difference(rule.rule.class, &left, &right).or_else(|| {
                mesh.and_then(|mesh| simulated_ranks::difference(&egraph, added, mesh, &calls[1], &right))
            });
            if let Some(difference) = difference {
                let text = super::report::expression(&graph, root, 9);
                return Err(format!("rule `{}` is wrong on {text}: {difference}", rule.rule.name));
            }
        }
        fired += 1;
    }
    Ok(fired)
}

#[test]
fn every_rule_fires_and_is_right() {
    let problems: Vec<String> =
        RULES.iter().enumerate().filter_map(|(seed, rule)| check(rule, seed as u64 + 1).err()).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

pub(super) fn known(name: &str) -> Rule {
    *RULES.iter().find(|rule| rule.name == name).unwrap_or_else(|| panic!("no rule `{name}`"))
}

// A rule that sums over the wrong axes is not among these: its two sides have
// different types, so it never fires. Conditions on axes only save the attempt.
#[test]
fn broken_rules_are_caught() {
    let right = |name, right| Rule { right, ..known(name) };
    let left = |name, left| Rule { left, ..known(name) };
    let without = |name| Rule { conditions: &[], ..known(name) };
    let exact = |name| Rule { class: Class::Exact, ..known(name) };
    let broken = [
        without("split_of_merge"),
        without("merge_of_split"),
        right("associate", "(contract[A&zs] (contract[A-zs] x x) zs..)"),
        right("flatten", "(contract[A+B] xs.. xs.. ys..)"),
        right("product_into_contraction", "(contract[A] x x y zs..)"),
        right("division_into_contraction", "(contract[A] (div x d) (div x d) ys..)"),
        right("negate_constant_factor", "(mul c x)"),
        right("negate_twice", "(neg x)"),
        left("multiply_by_one", "(mul x 2)"),
        right("add_negative", "(sub y x)"),
        right("subtract_negative", "(sub x y)"),
        right("negate_difference", "(sub x y)"),
        right("negate_product", "(mul x y)"),
        right("negate_quotient", "(neg (div y x))"),
        right("select_twice", "(select m y z)"),
        left("select_twice", "(select m (select n x y) z)"),
        left("cast_twice", "(cast[d] (cast[e] x))"),
        right("fold_sub", "(=sub d c)"),
        right("fold_div", "(=div d c)"),
        right("fold_neg", "(=abs c)"),
        right("merge_scales", "(mul (=add c d) x)"),
        right("merge_scale_and_divisor", "(mul (=mul c d) x)"),
        right("divisor_to_scale", "(mul (=div c 1) x)"),
        right("scale_out_of_quotient", "(div x (mul c y))"),
        right("scale_out_of_product", "(mul c (mul c (mul x y)))"),
        left("sum_is_contraction", "(sum[A] (add x y))"),
        right("contraction_of_none", "(add x y)"),
        right("scale_into_contraction", "(contract[A] s s xs..)"),
        right("division_out_of_contraction", "(div d (contract[A] x ys..))"),
        left("add_weights", "(add (contract[A] x xs..) (contract[B] y xs..))"),
        Rule { left: "(add (contract[A] x xs..) (contract[A] y ys..))", ..known("add_weights") },
        right("negation_out_of_contraction", "(contract[A] x ys..)"),
        exact("add_zero"),
        exact("flatten"),
        exact("associate"),
        exact("add_weights"),
        exact("division_out_of_contraction"),
        exact("merge_scales"),
        exact("divisor_to_scale"),
    ];
    catches_all(&broken);
}

/// Asserts that the harness finds each of these rules, all well formed, to be wrong, and does not only fail to fire it.
pub(super) fn catches_all(broken: &[Rule]) {
    assert!(broken.iter().all(|rule| compile(std::slice::from_ref(rule)).is_ok()));
    let missed = broken.iter().enumerate().filter_map(|(seed, rule)| match check(rule, seed as u64) {
        Err(problem) if problem.contains("is wrong") => None,
        Err(problem) => Some(problem),
        Ok(()) => Some(format!("{rule:?}")),
    });
    let missed: Vec<String> = missed.collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn rules_cannot_bring_in_what_they_do_not_bind() {
    let rule = |left, right| Rule { left, right, ..known("negate_twice") };
    for (broken, problem) in [
        (rule("(neg x)", "y"), "`y` is not bound"),
        (rule("(sum[A] x)", "(sum[B] x)"), "`B` is not bound"),
        (rule("(contract[A] xs..)", "(contract[A] ys..)"), "`ys` is not bound"),
        (rule("(neg x)", "(mul x)"), "takes 2 operands"),
        (rule("(neg x", "x"), "`)` is missing"),
        (rule("x", "x"), "must be an op"),
        (rule("(nag x)", "x"), "no op `nag`"),
        (rule("(neg x)", "(rename[r] x)"), "`r` is not bound"),
        (rule("(contract[A] xs.. ys..)", "(contract[A] xs..)"), "second rest"),
        (rule("(concat[c] (neg x)..)", "x"), "a list wants an item"),
        (rule("(concat[c] (neg @xs)..)", "(concat[c] (neg @ys)..)"), "`ys` is not bound"),
        (rule("(total (neg @xs)..)", "(total @xs..)"), "on the right only"),
        (rule("(contract[A] x y)", "(contract[A] (join[A] x y))"), "wants a `|`"),
    ] {
        let error = compile(&[broken]).expect_err("a broken rule");
        assert!(error.contains(problem), "{error}");
    }
}
