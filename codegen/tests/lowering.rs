//! What lowering and planning must keep to in cases that fusion of today's
//! architectures does not bring about, or hardly ever.

use diptych_codegen::c;
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Launch, PlanStep, Role, compile_entry};
use diptych_codegen::identity::identities;
use diptych_codegen::lower::{BlockSizes, Context, Lowered, lower};
use diptych_codegen::tile::Stmt;
use diptych_ir::ops::{Contract, Input, Literal, Map, Param, PutAdd, Rename};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Entry, EntryKind, Graph, Initializer, NodeId, Op, ParamInfo, Program,
    ScalarFn, TensorType, UpdateRule,
};
use diptych_passes::fuse::{Group, GroupKind, StreamedAxes};
use diptych_passes::layout::{Layouts, Leading};
use std::collections::HashSet;

fn ty(dtype: DType, axes: &[Axis]) -> TensorType {
    TensorType::new(dtype, Axes::new(axes.iter().copied()).expect("distinct names"))
}

fn add(graph: &mut Graph, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
    graph.add(op, operands).unwrap_or_else(|error| panic!("{error}"))
}

fn input(graph: &mut Graph, name: &str, dtype: DType, axes: &[Axis]) -> NodeId {
    add(graph, Input { name: name.into(), ty: ty(dtype, axes) }, &[])
}

fn program() -> (Program, [Axis; 2]) {
    let mut program = Program::new("by hand");
    for symbol in ["batch", "time"] {
        program.bounds.insert(symbol.into(), Bounds { least: 1, most: 64 });
    }
    (program, [Axis::symbolic("batch"), Axis::symbolic("time")])
}

/// A group of the main region, lowered.
fn lowered(program: &Program, kind: GroupKind, nodes: &[NodeId], outputs: &[NodeId]) -> Lowered {
    let layouts = Layouts::choose(program);
    let layout = |id: NodeId| layouts.dense(program.main().graph.ty(id));
    let context = Context {
        program,
        region: Program::MAIN,
        identities: &identities(program, nodes),
        layouts: &layouts,
        layout: &layout,
        goes_on: &|_| false,
        in_turns: false,
        few_rows: None,
        history_is_rename: true,
        in_place: &HashSet::new(),
        panel: 16,
        blocks: BlockSizes::of_processor(48),
        operands_as_they_lie: false,
    };
    let group = Group { kind, nodes: nodes.to_vec(), outputs: outputs.to_vec() };
    let mut programs = lower(&group, &context).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(programs.len(), 1);
    programs.remove(0)
}

#[test]
fn what_a_stream_leaves_is_transposed_after_it() {
    let (mut program, [batch, time]) = program();
    let (a, b, c) = (Axis::fixed("a", 32), Axis::fixed("b", 48), Axis::fixed("c", 16));
    let graph = &mut program.main_mut().graph;
    for axis in [c, a, b] {
        graph.declare_axis(axis.name);
    }
    let x = input(graph, "x", DType::F32, &[batch, time, a]);
    let y = input(graph, "y", DType::F32, &[batch, time, b]);
    let w = input(graph, "w", DType::F32, &[c, b]);
    let sum = add(graph, Contract { over: vec![batch, time] }, &[x, y]);
    let product = add(graph, Contract { over: vec![b] }, &[w, sum]);
    let group = lowered(&program, GroupKind::OverRows(Leading::Rows), &[sum, product], &[product]);
    let place = |wanted: fn(&Stmt) -> bool| group.program.body.iter().position(wanted).expect("a statement");
    let stream = place(|stmt| matches!(stmt, Stmt::Stream { .. }));
    let transpose = place(|stmt| matches!(stmt, Stmt::Transpose { .. }));
    assert!(stream < transpose, "{:#?}", group.program.body);
}

#[test]
fn rows_of_bf16_are_widened_where_they_are_added() {
    let (mut program, [batch, time]) = program();
    let (vocab, embed) = (Axis::fixed("vocab", 7), Axis::fixed("embed", 5));
    let graph = &mut program.main_mut().graph;
    let ids = input(graph, "ids", DType::I32, &[batch, time]);
    let rows = input(graph, "rows", DType::BF16, &[batch, time, embed]);
    let table = add(graph, PutAdd { axis: vocab, over: vec![batch, time] }, &[ids, rows]);
    let group = lowered(&program, GroupKind::Scatter, &[table], &[table]);
    let text = c::write(&group.program, "scatter").text;
    assert!(text.contains("load_bf16(") && text.contains("load_partial_bf16("), "{text}");
}

/// A program whose entry `Update` gives parameters `w` and `v` over these axes new values.
fn updating(axes: &[Axis], build: impl FnOnce(&mut Graph, [NodeId; 2]) -> [NodeId; 2]) -> CompiledEntry {
    let mut program = Program::new("updates");
    let ty = ty(DType::F32, axes);
    for name in ["w", "v"] {
        let info = ParamInfo {
            ty: ty.clone(),
            initializer: Initializer::Constant(0.0),
            update: UpdateRule::AdamW { decay: false },
            layers: None,
            order: axes.to_vec(),
            blocks: None,
        };
        program.params.insert(name.into(), info);
    }
    let graph = &mut program.main_mut().graph;
    let params = ["w", "v"].map(|name| add(graph, Param { name: name.into(), ty: ty.clone() }, &[]));
    let [w, v] = build(graph, params);
    program.main_mut().results = vec![w, v];
    let updates = vec![("w".into(), w), ("v".into(), v)];
    program.entries.push(Entry { kind: EntryKind::Update, roots: Vec::new(), updates });
    let layouts = Layouts::choose(&program);
    let options = EntryOptions::new(16, 48, 2);
    let streamed = StreamedAxes::of(&program).unwrap_or_else(|error| panic!("{error}"));
    compile_entry(&program, EntryKind::Update, &layouts, &streamed, options)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn number(graph: &mut Graph, value: f64) -> NodeId {
    add(graph, Literal::scalar(DType::F32, value), &[])
}

/// The launches of a step.
fn launches(step: &PlanStep) -> Vec<&Launch> {
    match step {
        PlanStep::Launch(launch) => vec![launch],
        PlanStep::Together(launches) => launches.iter().collect(),
        PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => {
            body.iter().flat_map(launches).collect()
        }
        PlanStep::Copy { .. } => Vec::new(),
    }
}

/// The steps that read the parameter `w`, and those that write it, by position.
fn of_w(entry: &CompiledEntry) -> (Vec<usize>, Vec<usize>) {
    let w = entry.buffer(&Role::Stored("w".into())).expect("a buffer");
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for (at, step) in entry.steps.iter().enumerate() {
        for launch in launches(step) {
            let args = &entry.programs[launch.kernel].args;
            for (place, arg) in launch.args.iter().zip(args).filter(|(place, _)| place.buffer == w) {
                assert_eq!(place.buffer, w);
                if arg.written { writes.push(at) } else { reads.push(at) }
            }
        }
        if let PlanStep::Copy { to, .. } = step
            && to.buffer == w
        {
            writes.push(at);
        }
    }
    (reads, writes)
}

#[test]
fn a_parameter_is_written_after_all_that_read_it() {
    let (a, b, c) = (Axis::fixed("a", 4), Axis::fixed("b", 4), Axis::fixed("c", 4));
    // Seen through a view, and by another node of the same name.
    let viewed = updating(&[a, b], |graph, [w, v]| {
        let two = number(graph, 2.0);
        let new = add(graph, Map(ScalarFn::Mul), &[w, two]);
        let other = add(graph, Rename { from: a, to: c }, &[w]);
        let other = add(graph, Rename { from: b, to: a }, &[other]);
        let other = add(graph, Rename { from: c, to: b }, &[other]);
        [new, add(graph, Map(ScalarFn::Add), &[other, v])]
    });
    let twice = updating(&[a, b], |graph, [w, v]| {
        let two = number(graph, 2.0);
        let new = add(graph, Map(ScalarFn::Mul), &[w, two]);
        let again = add(graph, Param { name: "w".into(), ty: graph.ty(w).clone() }, &[]);
        let sum = add(graph, Contract { over: vec![a] }, &[again, v]);
        [new, add(graph, Map(ScalarFn::Add), &[v, sum])]
    });
    for entry in [viewed, twice] {
        let (reads, writes) = of_w(&entry);
        assert!(reads.len() > 1 && writes.len() == 1, "{reads:?} {writes:?}");
        assert!(reads.iter().all(|read| *read <= writes[0]), "{reads:?} {writes:?}: {:#?}", entry.steps);
    }
}

#[test]
fn a_parameter_is_not_written_while_it_is_read_in_another_order() {
    let (a, b, c) = (Axis::fixed("a", 4), Axis::fixed("b", 4), Axis::fixed("c", 4));
    let entry = updating(&[a, b], |graph, [w, v]| {
        let other = add(graph, Rename { from: a, to: c }, &[w]);
        let other = add(graph, Rename { from: b, to: a }, &[other]);
        let other = add(graph, Rename { from: c, to: b }, &[other]);
        let two = number(graph, 2.0);
        [add(graph, Map(ScalarFn::Add), &[w, other]), add(graph, Map(ScalarFn::Mul), &[v, two])]
    });
    let (reads, writes) = of_w(&entry);
    assert!(reads.iter().all(|read| *read < writes[0]), "{reads:?} {writes:?}: {:#?}", entry.steps);
    // An element's new value may lie where the old one was.
    let alike = updating(&[a, b], |graph, [w, v]| {
        let two = number(graph, 2.0);
        [add(graph, Map(ScalarFn::Mul), &[w, two]), add(graph, Map(ScalarFn::Mul), &[v, two])]
    });
    assert!(alike.steps.iter().all(|step| !matches!(step, PlanStep::Copy { .. })), "{:#?}", alike.steps);
}

#[test]
fn names_of_kernels_have_all_bits_of_the_hash_of_their_text() {
    let (a, b) = (Axis::fixed("a", 4), Axis::fixed("b", 4));
    let entry = updating(&[a, b], |graph, [w, v]| {
        let two = number(graph, 2.0);
        [add(graph, Map(ScalarFn::Mul), &[w, two]), add(graph, Map(ScalarFn::Mul), &[v, w])]
    });
    assert!(entry.kernels.len() > 1);
    for kernel in &entry.kernels {
        let hash = kernel.name.rsplit('_').next().unwrap_or("");
        assert!(hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok(), "{}", kernel.name);
    }
}
