//! The text form: what a program prints as, that it reads back to the same
//! program, and that no text whatever makes the parser panic.

use diptych_ir::blocks::{BlockFormat, Blocks};
use diptych_ir::ops::{
    Concat, Contract, History, Index, Input, Literal, Map, Param, PutAdd, Slice, Split, Take,
};
use diptych_ir::text::{parse, print};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Entry, EntryKind, Initializer, ParamInfo, Program, Region, Result, ScalarFn,
    TensorType, UpdateRule, verify,
};
use proptest::prelude::*;

fn ty(dtype: DType, axes: &[Axis]) -> TensorType {
    TensorType::new(dtype, Axes::new(axes.iter().copied()).expect("distinct names"))
}

/// A program with every part that the text must keep: parameters in declared
/// order, states, bounds, labels, two regions under the main one, entries.
fn sample() -> Result<Program> {
    let (batch, time, past) = (Axis::symbolic("batch"), Axis::symbolic("time"), Axis::symbolic("past"));
    let (vocabulary, embed, layers) =
        (Axis::fixed("vocabulary", 7), Axis::fixed("embed", 4), Axis::fixed("layers", 3));
    let renamed = Axis { name: "a strange \"name\"".into(), ..embed };
    let mut program = Program::new("a sample");
    for (symbol, most) in [("batch", 8), ("time", 16), ("past", 32)] {
        program.bounds.insert(symbol.into(), Bounds { least: 1, most });
    }
    let table = ty(DType::F32, &[vocabulary, embed]);
    let info = ParamInfo {
        ty: table.clone(),
        initializer: Initializer::Normal { standard_deviation: 0.02 },
        update: UpdateRule::AdamW { decay: true },
        layers: None,
        order: vec![vocabulary, embed],
        blocks: None,
    };
    program.params.insert("embedding".into(), info);
    let stacked = ty(DType::F32, &[layers, embed]);
    let info = ParamInfo {
        ty: stacked.clone(),
        initializer: Initializer::Constant(1.0),
        update: UpdateRule::SignDescent { rate: 0.001 },
        layers: Some(layers),
        order: vec![layers, embed],
        blocks: None,
    };
    program.params.insert("layers.scale".into(), info);
    let (rows, columns) = (Axis::fixed("rows", 64), Axis::fixed("columns", 3));
    let info = ParamInfo {
        ty: ty(DType::F32, &[rows, columns]),
        initializer: Initializer::Constant(0.0),
        update: UpdateRule::AdamW { decay: true },
        layers: None,
        order: vec![columns, rows],
        blocks: Some(Blocks { format: BlockFormat::Q4_1, along: vec![rows] }),
    };
    program.params.insert("held".into(), info);
    program.states.insert("gradient.embedding".into(), table.clone());

    let mut body = Region::new("layers");
    let x = body.add_argument(ty(DType::F32, &[batch, time, embed]))?;
    let scale = body.add_argument(ty(DType::F32, &[embed]))?;
    let y = body.graph.add(Map(ScalarFn::Mul), &[x, scale])?;
    body.graph.annotate(y, None, Some("scaled".into()));
    body.results = vec![y];
    let body = program.add_region(body);

    let mut step = Region::new("sum so far");
    let sum = step.add_argument(ty(DType::F32, &[batch]))?;
    let x = step.add_argument(ty(DType::F32, &[batch]))?;
    let next = step.graph.add(Map(ScalarFn::Add), &[sum, x])?;
    step.results = vec![next, next];
    let step = program.add_region(step);

    let graph = &mut program.main_mut().graph;
    graph.declare_axis("time".into());
    let tokens = graph.add(Input { name: "tokens".into(), ty: ty(DType::I32, &[batch, time]) }, &[])?;
    let table = graph.add(Param { name: "embedding".into(), ty: table }, &[])?;
    let scale = graph.add(Param { name: "layers.scale".into(), ty: stacked }, &[])?;
    let x = graph.add(Take { axis: vocabulary }, &[table, tokens])?;
    graph.annotate(x, None, Some("embedding row".into()));
    let y = program.add_repeat(Program::MAIN, body, layers, true, &[x], &[scale], &[])?[0];

    let graph = &mut program.main_mut().graph;
    let kept = graph.add(History { time, past, window: Some(5), room: 0 }, &[y])?;
    let scores = graph.add(Contract { over: vec![embed] }, &[y, kept])?;
    let position = graph.add(Index { axis: time, origin: Some(batch) }, &[])?;
    let key = graph.add(Index { axis: past, origin: None }, &[])?;
    let seen = graph.add(Map(ScalarFn::LessEqual), &[key, position])?;
    let least = graph.add(Literal::scalar(DType::F32, f64::NEG_INFINITY), &[])?;
    let masked = graph.add(Map(ScalarFn::Select), &[seen, scores, least])?;
    let odd = [0.1 + 0.2, -0.0, f64::NAN, 5e-324];
    let odd = graph.add(Literal::table(DType::F32, embed, &odd)?, &[])?;
    let odd = graph.add(diptych_ir::ops::Rename { from: embed, to: renamed }, &[odd])?;
    let odd = graph.add(diptych_ir::ops::Rename { from: renamed, to: embed }, &[odd])?;
    let halves = [Axis::fixed("half", 2), Axis::fixed("pair", 2)];
    let cut = graph.add(Split { axis: embed, into: halves.to_vec() }, &[odd])?;
    let low = graph.add(Slice { axis: halves[0], start: 1, into: Axis::fixed("half", 1) }, &[cut])?;
    let pieces = vec![halves[0], Axis::fixed("half", 1)];
    let joined = graph.add(Concat { pieces, into: Axis::fixed("half", 3) }, &[cut, low])?;
    let update = graph.add(PutAdd { axis: vocabulary, over: vec![batch, time] }, &[tokens, y])?;
    let over = vec![embed, past];
    let flat = graph.add(Contract { over }, &[kept, y, masked])?;
    let zero = graph.add(Literal::scalar(DType::F32, 0.0), &[])?;
    let ones = graph.add(Contract { over: vec![time] }, &[flat])?;
    let start = graph.add(Map(ScalarFn::Mul), &[zero, ones])?;
    let scanned = program.add_scan(Program::MAIN, step, time, false, &[start], &[flat], &[])?;

    program.main_mut().results = vec![scanned[0], scanned[1], update, joined];
    let roots = vec![("last".into(), scanned[0]), ("sums".into(), scanned[1]), ("odd".into(), joined)];
    let updates = vec![("gradient.embedding".into(), update)];
    program.entries.push(Entry { kind: EntryKind::Train, roots: roots.clone(), updates });
    program.entries.push(Entry { kind: EntryKind::Score, roots, updates: Vec::new() });
    Ok(program)
}

#[test]
fn a_program_prints_readably() -> Result<()> {
    insta::assert_snapshot!(print(&sample()?));
    Ok(())
}

#[test]
fn a_text_reads_back_to_the_same_program() -> Result<()> {
    let program = sample()?;
    verify(&program)?;
    let text = print(&program);
    let read = parse(&text)?;
    verify(&read)?;
    assert_eq!(print(&read), text);
    assert_eq!(read.name, program.name);
    assert_eq!(read.params, program.params);
    assert_eq!(read.states, program.states);
    assert_eq!(read.bounds, program.bounds);
    for (region, original) in read.regions.iter().zip(&program.regions) {
        assert_eq!(region.name, original.name);
        assert_eq!(region.graph.axis_order(), original.graph.axis_order());
        assert_eq!(region.graph.len(), original.graph.len());
        assert_same(region, original);
    }
    assert_eq!(read.entries.len(), program.entries.len());
    Ok(())
}

/// Walks both regions from their results: equal ops, types, labels and operands.
fn assert_same(left: &Region, right: &Region) {
    assert_eq!(left.arguments.len(), right.arguments.len());
    assert_eq!(left.results.len(), right.results.len());
    let mut stack: Vec<_> = left.results.iter().copied().zip(right.results.iter().copied()).collect();
    stack.extend(left.arguments.iter().copied().zip(right.arguments.iter().copied()));
    let mut partner = std::collections::HashMap::new();
    while let Some((one, other)) = stack.pop() {
        if let Some(known) = partner.insert(one, other) {
            assert_eq!(known, other, "one node stands for two");
            continue;
        }
        let (one_node, other_node) = (left.graph.node(one), right.graph.node(other));
        assert_eq!(one_node.op, other_node.op);
        assert_eq!(one_node.ty, other_node.ty);
        assert_eq!(one_node.label, other_node.label);
        stack.extend(left.graph.operands(one).into_iter().zip(right.graph.operands(other)));
    }
}

/// Pieces of text that mean something somewhere, to be put where they do not.
const SHARDS: &[&str] = &[
    "%0",
    "%999",
    "@0",
    "@7",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ":",
    "=",
    ",",
    "#",
    "//",
    "\"",
    "\\u{110000}",
    "-",
    "0x7ff8000000000001",
    "18446744073709551615",
    "1e999",
    "f32[]",
    "i32[batch]",
    "yields",
    "results",
    "reverse",
    "carried 18446744073709551615",
    "argument 3",
    "embed=4294967296",
    "embed",
    "along",
    "over",
    "é",
    "\u{0}",
];

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(7), cases: 600, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, 0..SHARDS.len()), 1..4),
    ) {
        let mut characters: Vec<char> = print(&sample().expect("a valid program")).chars().collect();
        for (place, removed, shard) in edits {
            let start = place.index(characters.len());
            let end = (start + removed).min(characters.len());
            characters.splice(start..end, SHARDS[shard].chars());
        }
        let text: String = characters.into_iter().collect();
        match parse(&text) {
            // What still reads must verify or be refused, print, and read again.
            Ok(program) => {
                let _ = verify(&program);
                let printed = print(&program);
                prop_assert_eq!(print(&parse(&printed).expect("what prints reads")), printed);
            }
            Err(error) => prop_assert!(error.to_string().starts_with("line "), "{}", error),
        }
    }

    #[test]
    fn any_characters_read_or_are_refused(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn numbers_keep_their_bits(bits in any::<u64>(), name in "\\PC{0,12}") {
        let mut program = Program::new(&name);
        let graph = &mut program.main_mut().graph;
        let value = graph.add(Literal::scalar(DType::F32, f64::from_bits(bits)), &[]).expect("a literal");
        graph.annotate(value, None, Some(name.as_str().into()));
        let read = parse(&print(&program)).expect("what prints reads");
        let id = read.main().graph.ids()[0];
        let diptych_ir::Op::Literal(literal) = read.main().graph.op(id) else { panic!("a literal") };
        prop_assert_eq!(literal.as_scalar().map(f64::to_bits), Some(bits));
        prop_assert_eq!(read.main().graph.node(id).label.map(|label| label.as_str()), Some(name.as_str()));
        prop_assert_eq!(read.name, name);
    }
}
