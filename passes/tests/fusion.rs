//! What fusion must keep to for every architecture of the zoo: everything is
//! computed, once and in order, and what is streamed is stored only as a root.

use diptych_ir::{EntryKind, NodeId, Op, Program, RegionId};
use diptych_models::Registry;
use diptych_models::hugging_face::Checkpoint;
use diptych_passes::fuse::{FuseOptions, Roles, Rows, Step, StreamedAxes, fuse};
use diptych_passes::layout::{Layout, Layouts, product};
use diptych_passes::normalize::{divide_after_sums, normalize};
use diptych_passes::{differentiate, simplify};
use std::collections::{HashMap, HashSet};
use std::path::Path;

const FIXTURES: [&str; 4] = ["gpt2", "llama", "qwen3", "deepseek_v3"];

fn trained(name: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let checkpoint = Checkpoint::open(&folder, &Registry::zoo()).expect("a checkpoint");
    let program = divide_after_sums(checkpoint.program()).expect("divide");
    simplify(&differentiate(&program).expect("differentiate")).expect("simplify")
}

/// The nodes that a node's kernel reads, through views and what is free.
fn check_region(
    program: &Program,
    streamed: &StreamedAxes,
    region: RegionId,
    steps: &[Step],
    roots: &[NodeId],
    renames: bool,
) {
    let graph = &program.region(region).graph;
    let order = graph.ancestors(roots);
    let roles = Roles::of(program, region, &order, roots, streamed, renames).expect("roles");
    let bases: HashSet<NodeId> = roots.iter().map(|&root| roles.base(root)).collect();
    let mut stored: HashSet<NodeId> = HashSet::new();
    let mut computed: HashSet<NodeId> = HashSet::new();
    for step in steps {
        if let Step::Repeat(node) = step {
            stored.insert(*node);
        }
        let kept: &[NodeId] = if let Step::Turns(turns) = step { &turns.kept } else { &[] };
        for group in step.groups() {
            let own: HashSet<NodeId> = group.nodes.iter().copied().collect();
            assert_eq!(own.len(), group.nodes.len(), "a node is listed twice in a group");
            for (position, &node) in group.nodes.iter().enumerate() {
                assert!(roles.is_streamed(node) || !computed.contains(&node), "{node:?} is computed twice");
                for source in roles.sources(node) {
                    let before = group.nodes[..position].contains(&source);
                    let given = roles.is_given(source) && !matches!(graph.op(source), Op::Output(_));
                    let output = matches!(graph.op(source), Op::Output(_))
                        && stored.contains(&graph.operands(source)[0]);
                    assert!(
                        before || given || output || stored.contains(&source),
                        "{} reads {} before it is there",
                        graph.op(node).name(),
                        graph.op(source).name()
                    );
                }
            }
            for &output in &group.outputs {
                assert!(own.contains(&output), "a group stores what it does not compute");
                let stored = bases.contains(&output) || kept.contains(&output);
                assert!(!roles.is_streamed(output) || stored, "a streamed value is stored");
            }
            computed.extend(&group.nodes);
            stored.extend(&group.outputs);
        }
        for value in kept {
            assert!(stored.remove(value), "what is kept for a turn is not stored");
        }
    }
    for id in order {
        if roles.is_computed(id) {
            assert!(computed.contains(&id), "{}: {} is in no group", graph.op(id).name(), graph.ty(id));
        }
    }
    for base in bases {
        let there = roles.is_given(base) || stored.contains(&base);
        assert!(there, "the result {} is not stored", graph.op(base).name());
    }
}

#[test]
fn everything_is_computed_once_and_in_order() {
    for name in FIXTURES {
        let trained = trained(name);
        let streamed = StreamedAxes::of(&normalize(&trained, false).expect("normalise")).expect("axes");
        for kind in [EntryKind::Train, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode] {
            let mut program = trained.clone();
            program.entries.retain(|entry| entry.kind == kind);
            let program = normalize(&program, kind.cached()).expect("normalise");
            let entry = program.entry(kind).expect("an entry");
            let roots: Vec<NodeId> = entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect();
            for rows in [Rows::Few, Rows::Any, Rows::Many] {
                let options = FuseOptions {
                    rows,
                    history_is_rename: !kind.cached(),
                    operand_elements: usize::MAX,
                    fine_columns: false,
                };
                let fused: HashMap<_, _> = fuse(&program, &roots, &streamed, options).expect("fuse");
                for (&region, steps) in &fused {
                    let results = program.region(region).results.clone();
                    let roots = if region == Program::MAIN { roots.clone() } else { results };
                    check_region(
                        &program,
                        &streamed,
                        region,
                        &steps.steps,
                        &roots,
                        options.history_is_rename,
                    );
                }
            }
        }
    }
}

/// Every element of a layout has a place of its own, within what is set aside.
#[test]
fn layouts_give_every_element_a_place_of_its_own() {
    for name in FIXTURES {
        let program = trained(name);
        let layouts = Layouts::choose(&program);
        let mut packed = 0;
        for (param, info) in &program.params {
            let layout = &layouts.params[param];
            let axes: Vec<_> = info.order.iter().copied().filter(|axis| Some(*axis) != info.layers).collect();
            packed += usize::from(matches!(layout, Layout::Packed { .. }));
            for panel in [8, 16, 32] {
                let room = layout.row_elements(panel);
                let mut taken = vec![false; room];
                for flat in 0..product(&axes) {
                    let position = |axis| {
                        let at = axes.iter().position(|&other| other == axis).expect("its own axis");
                        flat / product(&axes[at + 1..]) % product(&axes[at..at + 1])
                    };
                    let offset = layout.offset(panel, &position);
                    assert!(offset < room, "{name}: {param} stands outside of its room");
                    assert!(!std::mem::replace(&mut taken[offset], true), "{name}: two elements of {param}");
                }
            }
        }
        assert!(packed > 4, "{name}: weights of contractions are packed");
    }
}
