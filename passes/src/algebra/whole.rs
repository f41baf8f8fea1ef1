//! Whole programs: random small graphs, a small language model, and layers of
//! the zoo, optimised and held against what they were.

use super::twins::twins;
use super::{AlgebraReport, Binding, Objective, StopReason, optimize_backward, optimize_forward};
use crate::differentiate;
use crate::test_net::Net;
use crate::test_support::{Numbers, input, param, random_context, run_entry};
use diptych_ir::evaluate::Value;
use diptych_ir::ops::{Cast, Contract, Literal, Map, Reduce, Rename};
use diptych_ir::{Axis, Bounds, DType, Entry, EntryKind, NodeId, Op, Program, ReduceKind, ScalarFn, verify};
use diptych_models::{Registry, build};

/// Random rates and weights, so that every kind of compromise is asked for.
fn random_objective(numbers: &mut Numbers) -> Objective {
    let mut power = |most: i32| 10f64.powi((numbers.next() * f64::from(most)) as i32);
    let (trained, served) = (power(9), power(9));
    let mut objective = Objective::typical(1e8 * power(5), 1e7 * power(5), trained, served);
    for binding in &mut objective.bindings {
        for size in binding.sizes.values_mut() {
            *size = 1 + (*size as f64 * numbers.next()) as usize;
        }
    }
    objective.limits.nodes = 2_000;
    objective.derived_at_load = numbers.next() < 0.7;
    objective
}

fn agree(left: &[(String, Value)], right: &[(String, Value)], tolerance: f64, what: &dyn std::fmt::Display) {
    assert_eq!(left.len(), right.len());
    for ((name, left), (_, right)) in left.iter().zip(right) {
        assert_eq!(left.axes, right.axes, "{name}");
        let scale = left.data.iter().filter(|x| x.is_finite()).fold(1e-2_f64, |most, x| most.max(x.abs()));
        for (a, b) in left.data.iter().zip(&right.data) {
            let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * scale;
            assert!(same, "{name}: {a} became {b}\n{what}");
        }
    }
}

fn pick(numbers: &mut Numbers, most: usize) -> usize {
    let bits = (numbers.next() * (1u64 << 40) as f64) as u64;
    ((bits ^ (bits >> 13)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % most
}

/// A random graph over a few inputs and parameters.
fn random_program(numbers: &mut Numbers) -> Program {
    let mut program = Program::new("random");
    let sizes = [1 + pick(numbers, 3), 1 + pick(numbers, 3), 2];
    let axes = [
        Axis::symbolic("batch"),
        Axis::symbolic("time"),
        Axis::fixed("a", sizes[0]),
        Axis::fixed("b", sizes[1]),
        Axis::fixed("c", sizes[2]),
    ];
    let mut nodes: Vec<NodeId> = Vec::new();
    for leaf in 0..6 {
        let is_param = leaf % 2 == 0;
        let range = if is_param { &axes[2..] } else { &axes[..] };
        let some: Vec<Axis> = range.iter().copied().filter(|_| numbers.next() < 0.6).collect();
        let name = format!("leaf{leaf}");
        nodes.push(match is_param {
            true => param(&mut program, &name, &some),
            false => input(&mut program, &name, DType::F32, &some),
        });
    }
    let graph = &mut program.main_mut().graph;
    let of_any = |numbers: &mut Numbers, nodes: &[NodeId]| nodes[pick(numbers, nodes.len())];
    for _ in 0..14 {
        let (x, y, z) = (of_any(numbers, &nodes), of_any(numbers, &nodes), of_any(numbers, &nodes));
        let some = |numbers: &mut Numbers, ids: &[NodeId], graph: &diptych_ir::Graph| -> Vec<Axis> {
            let mut all = ids.iter().flat_map(|&id| graph.axes(id).iter().copied()).collect::<Vec<_>>();
            all.sort();
            all.dedup();
            graph.ordered(all.into_iter().filter(|_| numbers.next() < 0.5))
        };
        let (op, operands): (Op, Vec<NodeId>) = match pick(numbers, 13) {
            0 => (Map(ScalarFn::Add).into(), vec![x, y]),
            1 => (Map(ScalarFn::Sub).into(), vec![x, y]),
            2 | 3 => (Map(ScalarFn::Mul).into(), vec![x, y]),
            4 => (Map(ScalarFn::Neg).into(), vec![x]),
            5 => (Map(ScalarFn::Sigmoid).into(), vec![x]),
            6 => {
                let below = graph.add(Map(ScalarFn::Sigmoid), &[y]).expect("sigmoid");
                (Map(ScalarFn::Div).into(), vec![x, below])
            }
            7 => {
                let scale = graph.add(Literal::scalar(DType::F32, 0.5), &[]).expect("literal");
                (Map(ScalarFn::Mul).into(), vec![scale, x])
            }
            8 => (Reduce { kind: ReduceKind::Sum, over: some(numbers, &[x], graph) }.into(), vec![x]),
            9 => (Contract { over: some(numbers, &[x, y, z], graph) }.into(), vec![x, y, z]),
            10 if graph.axes(x).contains(axes[2]) => {
                (Rename { from: axes[2], to: Axis::fixed("d", sizes[0]) }.into(), vec![x])
            }
            11 => (Cast(DType::F32).into(), vec![x]),
            _ => (Contract { over: some(numbers, &[x, y], graph) }.into(), vec![x, y]),
        };
        nodes.extend(graph.add(op, &operands));
    }
    let roots: Vec<NodeId> = nodes[nodes.len() - 3..].to_vec();
    for name in ["batch", "time"] {
        program.bounds.insert(name.into(), Bounds { least: 1, most: 64 });
    }
    for (kind, count) in [(EntryKind::Train, 3), (EntryKind::Prefill, 2), (EntryKind::Decode, 1)] {
        let roots = roots[..count].iter().enumerate().map(|(i, &id)| (format!("r{i}").as_str().into(), id));
        program.entries.push(Entry { kind, roots: roots.collect(), updates: Vec::new() });
    }
    program
}

#[test]
fn random_graphs_keep_their_values() {
    let mut numbers = Numbers(20260);
    let mut changed = 0;
    for case in 0..60 {
        let program = random_program(&mut numbers);
        verify(&program).expect("a well-formed program");
        let objective = random_objective(&mut numbers);
        let (optimized, report) = optimize_forward(&program, &objective).expect("algebra");
        let context = random_context(&program, &[("batch", 2), ("time", 3)], case + 1, 0.2, 1.2);
        for kind in [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode] {
            let (before, after) =
                (run_entry(&program, kind, &context), run_entry(&optimized, kind, &context));
            agree(&before, &after, 1e-8, &report);
        }
        changed += usize::from(!report.regions[0].changes.is_empty());
    }
    assert!(changed > 20, "only {changed} graphs of 60 were rewritten");
}

#[test]
fn a_small_model_keeps_its_loss_its_scores_and_its_gradients() {
    let net = Net::new();
    let mut numbers = Numbers(7);
    for low_precision in [false, true] {
        let program = net.program(3, low_precision);
        let context = net.context(&program);
        let plain = run_entry(&differentiate(&program).expect("gradients"), EntryKind::Train, &context);
        for _ in 0..4 {
            let objective = random_objective(&mut numbers);
            let (forward, report) = optimize_forward(&program, &objective).expect("algebra");
            // Another order of sums may round a value to the neighbouring bf16.
            let tolerance = if low_precision { 2e-2 } else { 1e-8 };
            let scores = |program| run_entry(program, EntryKind::Score, &context);
            agree(&scores(&program), &scores(&forward), tolerance, &report);
            let gradients = differentiate(&forward).expect("gradients");
            let (backward, report) = optimize_backward(&gradients, &objective).expect("algebra");
            agree(&plain, &run_entry(&backward, EntryKind::Train, &context), tolerance, &report);
            // What other entries see has not changed by a bit.
            assert_eq!(scores(&forward), scores(&backward));
            let loss = |program| run_entry(program, EntryKind::Train, &context)[0].clone();
            assert_eq!(loss(&gradients), loss(&backward));
        }
    }
}

#[test]
fn a_second_pass_leaves_the_graph_as_it_is() {
    let program = Net::new().program(3, false);
    let objective = Objective::typical(1e11, 1e10, 1e9, 1e9);
    let (once, _) = optimize_forward(&program, &objective).expect("algebra");
    let (_, again) = optimize_forward(&once, &objective).expect("algebra");
    assert!(again.regions.iter().all(|region| region.changes.is_empty()), "{again}");
}

fn summary(report: &AlgebraReport) -> String {
    let regions = report.regions.iter().map(|region| {
        let total =
            region.seconds.build + region.seconds.saturate + region.seconds.extract + region.seconds.rebuild;
        format!(
            "{}: {} e-nodes, {} rounds, {:?}, {total:.3} s ({:.3} s to saturate), {} changes\n",
            region.name,
            region.nodes,
            region.rounds,
            region.stop,
            region.seconds.saturate,
            region.changes.len()
        )
    });
    regions.collect()
}

/// Nothing new was left to find in any region, or as much was found as is looked at.
fn explored(report: &AlgebraReport) {
    for region in &report.regions {
        let enough = region.stop == StopReason::Nodes && region.nodes >= 5_000;
        assert!(region.stop == StopReason::Saturated || enough, "{}", summary(report));
    }
}

#[test]
fn how_much_is_explored_does_not_depend_on_depth() {
    let registry = Registry::zoo();
    let preset = registry.preset("llama-tiny").expect("a preset");
    let objective = Objective::typical(1.5e11, 1e10, 1e9, 1e9);
    let [shallow, deep] = [2, 8].map(|layers| {
        let mut config = preset.describe();
        config["layers"] = layers.into();
        let architecture = registry.architecture(preset.name(), &config).expect("a model");
        let program = build(architecture.as_ref()).expect("a program");
        let (forward, found) = optimize_forward(&program, &objective).expect("algebra");
        let gradients = differentiate(&forward).expect("gradients");
        let (_, backward) = optimize_backward(&gradients, &objective).expect("algebra");
        let regions = found.regions.into_iter().chain(backward.regions);
        regions.map(|region| (region.name, region.nodes, region.rounds)).collect::<Vec<_>>()
    });
    assert_eq!(shallow, deep);
}

#[test]
fn layers_of_the_zoo_saturate_with_their_backward_pass() {
    let registry = Registry::zoo();
    let objective = Objective::typical(1.5e11, 1e10, 1e9, 1e9);
    let mut presets = 0;
    for family in registry.families() {
        let Some(preset) = family.presets.first() else { continue };
        presets += 1;
        let architecture = registry.preset(&preset.0).expect("a preset");
        let program = build(architecture.as_ref()).expect("a program");
        let (forward, report) = optimize_forward(&program, &objective).expect("algebra");
        println!("{} forward\n{}", preset.0, summary(&report));
        explored(&report);
        for region in &report.regions {
            let joint = |cost: fn(&super::EntryCost) -> f64| -> f64 {
                (region.costs.iter().zip(&objective.bindings)).map(|(c, b)| cost(c) * b.runs()).sum()
            };
            assert!(joint(|cost| cost.after) <= joint(|cost| cost.before) * (1.0 + 1e-12), "{report}");
        }
        let gradients = differentiate(&forward).expect("gradients");
        let (_, report) = optimize_backward(&gradients, &objective).expect("algebra");
        println!("{} backward\n{}", preset.0, summary(&report));
        explored(&report);
        for region in &report.regions {
            assert!(region.costs[0].after <= region.costs[0].before, "{}", summary(&report));
        }
    }
    assert!(presets > 2);
}

#[test]
fn a_missing_size_is_told() {
    let program = Net::new().program(1, false);
    let mut objective = Objective::typical(1e11, 1e10, 1.0, 1.0);
    objective.bindings = vec![Binding { sizes: Default::default(), ..objective.bindings[0].clone() }];
    let error = optimize_forward(&program, &objective).expect_err("no sizes");
    assert_eq!(error.to_string(), "the objective's binding of `train` has no value for the size `batch`");
}

#[test]
fn the_last_logits_keep_the_form_of_all_logits() {
    let registry = Registry::zoo();
    let mut numbers = Numbers(99);
    for preset in registry.families().filter_map(|family| family.presets.first()) {
        let program = build(registry.preset(&preset.0).expect("a preset").as_ref()).expect("a program");
        for derived_at_load in [true, false] {
            let mut objective = random_objective(&mut numbers);
            objective.derived_at_load = derived_at_load;
            // Training asks for one form, decoding for another.
            objective.bindings[0].tokens = 1e3;
            let (optimized, report) = optimize_forward(&program, &objective).expect("algebra");
            let graph = &optimized.main().graph;
            let last =
                optimized.entry(EntryKind::Decode).and_then(|entry| entry.root("logits")).expect("logits");
            let all = twins(graph).get(&last).copied();
            assert!(all.is_some_and(|all| graph.node(all).label == graph.node(last).label), "{report}");
        }
    }
}
