//! Weights that are derived from others (scaled, multiplied out, merged, added
//! to) are as good as stored ones: they lie in panels, are computed at load
//! when serving, and gradients flow through them when training.

use crate::support::check::{Options, check_programs_for};
use crate::support::programs::{CONTEXT, TOKENS, Traits};
use crate::support::reference::{parameters, texts, values};
use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::driver::{compile_program_for, objective};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Launch, PlanStep, Role};
use diptych_codegen::tile::{Place, Stmt};
use diptych_ir::{Axis, DType, EntryKind, Initializer, Program, Symbol};
use diptych_models::{ModelBuilder, Tensor, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Limits, Objective};
use diptych_passes::differentiate::gradient_name;
use diptych_passes::layout::Layout;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::session::Device;
use diptych_runtime::train::{ModelIdentity, TrainOptions, Trainer};
use std::collections::BTreeMap;

/// What a builder has, with the axes and values that the programs share.
#[derive(Clone, Copy)]
struct Base<'m> {
    m: &'m ModelBuilder,
    embed: Axis,
    x: Tensor<'m>,
}

impl<'m> Base<'m> {
    fn param(&self, name: &str, axes: &[Axis]) -> Tensor<'m> {
        self.m.param(name, axes.to_vec(), Initializer::Uniform { bound: 0.4 }, true)
    }

    fn axis(&self, name: &str, size: usize) -> Axis {
        self.m.axis(name, size)
    }
}

/// A program whose `body` makes of a value for each token another of the same axes.
fn program(name: &str, embed: usize, body: &dyn Fn(Base<'_>) -> Tensor<'_>) -> Program {
    let program = ModelBuilder::new(name, CONTEXT).finish(|m| {
        let (embed, vocab) = (m.axis("embed", embed), m.axis("vocab", TOKENS));
        let table = m.param("table", [vocab, embed], Initializer::Uniform { bound: 0.5 }, true);
        let y = body(Base { m, embed, x: table.take(m.tokens(), vocab) });
        let head = m.param("head", [vocab, embed], Initializer::Uniform { bound: 0.3 }, true);
        m.contract(&[y.tanh(), head], embed)
    });
    program.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A body within layers.
fn in_layers<'m>(base: Base<'m>, body: &dyn Fn(Base<'m>) -> Tensor<'m>) -> Tensor<'m> {
    base.m.repeat("layers", 3, base.x, |_, x| x + body(Base { x, ..base }).tanh())
}

/// A norm's weight folded into a matrix.
fn folded(base: Base<'_>) -> Tensor<'_> {
    let hidden = base.axis("hidden", 45);
    let up = base.param("up", &[base.embed, hidden]) * base.param("scale", &[base.embed]);
    let down = base.param("down", &[hidden, base.embed]) * 0.5;
    base.m.contract(&[base.m.contract(&[base.x, up], base.embed).tanh(), down], hidden)
}

/// The product of a low-rank pair, and of one whose panels go across its factors.
fn multiplied(base: Base<'_>) -> Tensor<'_> {
    let (rank, head, depth) = (base.axis("rank", 5), base.axis("head", 3), base.axis("depth", 16));
    let [a, b] = [base.param("a", &[base.embed, rank]), base.param("b", &[rank, head, depth])];
    let up = base.m.contract(&[a, b], rank);
    let [c, d] = [base.param("c", &[head, rank]), base.param("d", &[depth, rank, base.embed])];
    let down = base.m.contract(&[c, d], rank);
    let wide = base.m.contract(&[base.x, up], base.embed).tanh();
    base.m.contract(&[wide, down], [head, depth])
}

/// A matrix with a low-rank pair added to it.
fn adapted(base: Base<'_>) -> Tensor<'_> {
    let (rank, hidden) = (base.axis("rank", 4), base.axis("hidden", 40));
    let pair = |name: &str, from: Axis, to: Axis| {
        let a = base.param(&format!("{name}_a"), &[from, rank]);
        let b = base.param(&format!("{name}_b"), &[rank, to]);
        base.param(name, &[from, to]) + base.m.contract(&[a, b], rank) * 0.25
    };
    let wide = base.m.contract(&[base.x, pair("up", base.embed, hidden)], base.embed).tanh();
    base.m.contract(&[wide, pair("down", hidden, base.embed)], hidden)
}

/// One matrix for three projections, of `group * depth` and twice `depth` columns for each head.
fn merged(base: Base<'_>, depth: usize) -> Tensor<'_> {
    let (heads, group, depth) = (base.axis("heads", 2), base.axis("group", 3), base.axis("depth", depth));
    let [all, one] = [[heads, group, depth].to_vec(), [heads, depth].to_vec()];
    let size = |axes: &[Axis]| axes.iter().filter_map(|axis| axis.fixed_size()).product::<usize>();
    let columns = [("q", all.clone()), ("k", one.clone()), ("v", one)];
    let axes: Vec<Axis> =
        columns.iter().map(|(name, axes)| base.axis(&format!("{name}_columns"), size(axes))).collect();
    let pieces: Vec<(Tensor<'_>, Axis)> = columns
        .iter()
        .zip(&axes)
        .map(|((name, parts), &axis)| {
            let weight = base.param(name, &[&[base.embed], &parts[..]].concat());
            (weight.merge(parts.clone(), axis), axis)
        })
        .collect();
    let wide = base.axis("columns", axes.iter().filter_map(|axis| axis.fixed_size()).sum());
    let products = base.m.contract(&[base.x, base.m.concat(&pieces, wide)], base.embed);
    let mut start = 0;
    let parts: Vec<Tensor<'_>> = columns
        .iter()
        .zip(&axes)
        .map(|((_, parts), &axis)| {
            let part = products.slice(wide, start, axis).split(axis, parts.clone());
            start += axis.fixed_size().unwrap_or(0);
            part
        })
        .collect();
    let mixed = parts[0].tanh() * parts[1] + parts[2];
    base.m.contract(&[mixed, base.param("o", &[&all[..], &[base.embed]].concat())], all)
}

/// Derived outside of layers, and used in all of them.
fn shared(base: Base<'_>) -> Tensor<'_> {
    let (rank, hidden) = (base.axis("rank", 5), base.axis("hidden", 48));
    let up = base.m.contract(&[base.param("a", &[base.embed, rank]), base.param("b", &[rank, hidden])], rank);
    let down = base.param("down", &[hidden, base.embed]) * base.param("scale", &[hidden]);
    base.m.repeat("layers", 3, base.x, |m, x| {
        x + m.contract(&[m.contract(&[x, up], base.embed).tanh(), down], hidden).tanh()
    })
}

/// Rounded after it is computed.
fn rounded(base: Base<'_>) -> Tensor<'_> {
    let (rank, hidden) = (base.axis("rank", 5), base.axis("hidden", 48));
    let up = base.m.contract(&[base.param("a", &[base.embed, rank]), base.param("b", &[rank, hidden])], rank);
    let down = (base.param("down", &[hidden, base.embed]) * 0.5).cast(DType::BF16);
    let wide = base.m.contract(&[base.x.cast(DType::BF16), up.cast(DType::BF16)], base.embed);
    base.m.contract(&[wide.cast(DType::BF16), down], hidden)
}

/// Read in two ways: as a weight, and summed up.
fn read_twice(base: Base<'_>) -> Tensor<'_> {
    let hidden = base.axis("hidden", 45);
    let up = base.param("up", &[base.embed, hidden]).exp() * 0.25;
    let down = base.param("down", &[hidden, base.embed]);
    let wide = base.m.contract(&[base.x, up], base.embed).tanh();
    base.m.contract(&[wide, down], hidden) * up.sum([base.embed, hidden]) + up.sum(hidden)
}

/// Chosen by ids.
fn chosen(base: Base<'_>) -> Tensor<'_> {
    let (expert, hidden) = (base.axis("expert", 4), base.axis("hidden", 45));
    let scores = base.m.contract(&[base.x, base.param("router", &[base.embed, expert])], base.embed);
    let choice = base.axis("choice", 2);
    let ids = scores.top_k(expert, choice);
    let matrices = base.param("experts", &[expert, base.embed, hidden]) * base.param("scale", &[base.embed]);
    let wide = base.m.contract(&[base.x, matrices.take(ids, expert)], base.embed).tanh();
    base.m.contract(&[wide.sum(choice), base.param("down", &[hidden, base.embed])], hidden)
}

/// Forms are kept as they are written.
fn as_written() -> Objective {
    Objective { limits: Limits { rounds: 0, ..Limits::default() }, ..objective() }
}

/// Serving is all that counts.
fn served() -> Objective {
    Objective::typical(200e9, 25e9, 1e-3, 1.0)
}

type Body = Box<dyn Fn(Base<'_>) -> Tensor<'_>>;

fn programs() -> Vec<(u64, Program, Traits)> {
    let exact = Traits { low_precision: false, causal: true };
    let bodies: Vec<(&str, usize, Body)> = vec![
        ("folded", 33, Box::new(folded)),
        ("folded in layers", 33, Box::new(|base| in_layers(base, &folded))),
        ("multiplied", 33, Box::new(multiplied)),
        ("multiplied in layers", 32, Box::new(|base| in_layers(base, &multiplied))),
        ("adapted", 33, Box::new(adapted)),
        ("adapted in layers", 32, Box::new(|base| in_layers(base, &adapted))),
        ("merged", 33, Box::new(|base| merged(base, 5))),
        ("merged in whole panels", 32, Box::new(|base| merged(base, 16))),
        ("merged in layers", 32, Box::new(|base| in_layers(base, &|base| merged(base, 16)))),
        (
            "merged in layers, not in whole panels",
            33,
            Box::new(|base| in_layers(base, &|base| merged(base, 5))),
        ),
        ("shared", 33, Box::new(shared)),
        ("read twice", 33, Box::new(read_twice)),
        ("read twice in layers", 33, Box::new(|base| in_layers(base, &read_twice))),
        ("chosen", 33, Box::new(chosen)),
    ];
    let mut programs: Vec<_> = bodies
        .into_iter()
        .enumerate()
        .map(|(seed, (name, embed, body))| (seed as u64, program(name, embed, &*body), exact))
        .collect();
    let rough = Traits { low_precision: true, causal: true };
    programs.push((100, program("rounded", 32, &rounded), rough));
    programs.push((101, program("rounded in layers", 32, &|base| in_layers(base, &rounded)), rough));
    programs
}

fn agree(objective: &Objective, width: VectorWidth) {
    let names: Vec<(u64, String)> =
        programs().iter().map(|(seed, program, _)| (*seed, program.name.to_string())).collect();
    let options = Options { width, budget: 3e5, gradients: true, serving: true };
    let found = check_programs_for(
        programs(),
        options,
        objective,
        &Compiler::find().unwrap(),
        &KernelCache::standard(),
    );
    let name = |seed: u64| names.iter().find(|row| row.0 == seed).map_or("", |row| row.1.as_str());
    let problems: Vec<String> = (found.refused.iter().chain(&found.unserved).chain(&found.wrong))
        .map(|(seed, problem)| format!("{}: {problem}", name(*seed)))
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(found.agreed, names.len());
}

#[test]
fn derived_weights_are_as_the_evaluator_has_them() {
    agree(&as_written(), VectorWidth::chosen().unwrap());
}

#[test]
fn so_are_those_that_the_algebra_derives() {
    agree(&served(), VectorWidth::chosen().unwrap());
}

fn launches(steps: &[PlanStep]) -> Vec<&Launch> {
    fn of(step: &PlanStep) -> Vec<&Launch> {
        match step {
            PlanStep::Launch(launch) => vec![launch],
            PlanStep::Together(launches) => launches.iter().collect(),
            PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => launches(body),
            PlanStep::Copy { .. } => Vec::new(),
        }
    }
    steps.iter().flat_map(of).collect()
}

/// The matrices of an entry's dots that run each time, and whether each lies in panels.
fn matrices(entry: &CompiledEntry) -> Vec<bool> {
    let programs = launches(&entry.steps).into_iter().map(|launch| &entry.programs[launch.kernel]);
    let dots = programs.flat_map(|program| &program.body).filter_map(|stmt| match stmt {
        Stmt::Dot(dot) => Some(matches!(dot.b, Place::Packed(_))),
        _ => None,
    });
    dots.collect()
}

#[test]
fn serving_reads_derived_weights_in_panels_and_computes_none() {
    let width = VectorWidth::chosen().unwrap();
    let options = EntryOptions::new(width.panel(), width.blocking().rows, 2);
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    for (_, program, _) in programs() {
        let name = &program.name;
        let compiled =
            compile_program_for(&program, &kinds, &AdamWOptions::default(), options, &as_written()).unwrap();
        for entry in compiled.entries.values() {
            let matrices = matrices(entry);
            assert!(matrices.len() >= 2, "{name}: {} dots", matrices.len());
            assert!(matrices.iter().all(|&packed| packed), "{name}: {matrices:?}");
            assert!(!entry.load_steps.is_empty(), "{name} derives nothing at load");
        }
    }
}

/// Each gradient against differences of the loss, through every form as it is written, in the evaluator's f64; that
/// native code has the evaluator's gradients is said above.
#[test]
fn gradients_are_differences_of_the_loss() {
    const STEP: f64 = 1e-5;
    let forms: [(&str, Body); 5] = [
        ("folded", Box::new(folded)),
        ("multiplied", Box::new(multiplied)),
        ("adapted", Box::new(adapted)),
        ("merged", Box::new(|base| merged(base, 3))),
        ("read twice", Box::new(read_twice)),
    ];
    for (name, body) in forms {
        let program = program(name, 7, &|base| in_layers(base, &*body));
        let options = EntryOptions::new(16, 72, 2);
        let (kinds, optimizer) = ([EntryKind::Train], AdamWOptions::default());
        let compiled = compile_program_for(&program, &kinds, &optimizer, options, &as_written()).unwrap();
        let numbers = parameters(&program, 5);
        let text = &texts(&program, EntryKind::Train, 5, 1e5)[0];
        let loss = |numbers: &BTreeMap<Symbol, Vec<f64>>| {
            let root = program.entry(EntryKind::Train).and_then(|entry| entry.root("loss")).unwrap();
            let axes: Vec<Axis> = program.main().graph.axes(root).iter().copied().collect();
            let found = values(&program, EntryKind::Train, numbers, text);
            found[&Symbol::new("loss")].in_order(&axes).iter().sum::<f64>()
        };
        let gradients = values(&compiled.program, EntryKind::Train, &numbers, text);
        for (&param, info) in &program.params {
            let gradient = gradients[&gradient_name(param)].in_order(&info.order);
            for at in [0, gradient.len() / 3, gradient.len() - 1] {
                let moved = |by: f64| {
                    let mut numbers = numbers.clone();
                    numbers.entry(param).and_modify(|numbers| numbers[at] += by);
                    loss(&numbers)
                };
                let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let error = (gradient[at] - difference).abs();
                assert!(
                    error <= 1e-8 + 1e-5 * difference.abs(),
                    "{name}: gradient of {param} at {at} is {}, not {difference}",
                    gradient[at]
                );
            }
        }
    }
}

/// Steps of training through derived weights have the same bits on any number of threads, and however often they are
/// done.
#[test]
fn steps_of_training_are_deterministic() {
    let program = program("derived in training", 32, &|base| {
        let base = Base { x: in_layers(base, &read_twice), ..base };
        let m = base.m;
        let rank = m.axis("pair", 4);
        let [a, b] = [base.param("left", &[rank, base.embed]), base.param("right", &[rank, base.embed])];
        let inner = m.axis("inner", 32);
        let square = m.contract(&[a.exp(), b.tanh().rename(base.embed, inner)], rank);
        m.contract(&[base.x, square], base.embed).rename(inner, base.embed)
    });
    let train = |threads: usize| {
        let device = Device::cpu(Some(threads)).unwrap();
        let options = serde_json::json!({
            "batch": 3, "time": 24, "steps": 3, "seed": 3,
            "schedule": { "kind": "cosine", "peak": 0.01, "warmup_steps": 1, "total_steps": 3 },
        });
        let identity =
            ModelIdentity { family: "derived".to_owned(), config: serde_json::json!({}), context: CONTEXT };
        let options: TrainOptions = serde_json::from_value(options).unwrap();
        let mut trainer = Trainer::new(&device, &program, identity, options).unwrap();
        trainer.initialize(|name| initialize(&program, name, 3).unwrap()).unwrap();
        let mut losses = Vec::new();
        for _ in 0..3 {
            let step = trainer.step(|micro, inputs, targets| {
                for (at, (input, target)) in inputs.iter_mut().zip(targets).enumerate() {
                    *input = (at * at + micro as usize) as i32 % TOKENS as i32;
                    *target = (at * 7 + 3) as i32 % TOKENS as i32;
                }
            });
            losses.push(step.unwrap().loss.to_bits());
        }
        let entry = &trainer.session().compiled.entries[&EntryKind::Train];
        let panels = entry.buffers.iter().filter(|buffer| {
            buffer.role == Role::Temporary && matches!(buffer.layout, Layout::Packed { .. })
        });
        assert!(panels.count() >= 2, "no derived weight is a value of its own");
        let store = &trainer.session().store;
        let bits = |name: Symbol| store.get(name).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        (losses, store.names().map(|name| (name, bits(name))).collect::<Vec<_>>())
    };
    let first = train(1);
    assert!(first.0[0] != first.0[2], "nothing is learned");
    assert!(train(1) == first && train(2) == first);
}
