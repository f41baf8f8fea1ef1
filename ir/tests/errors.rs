//! What the ops and the parser say when something does not fit: errors are part
//! of the interface, so their words are kept.

mod common;

use common::{apply, floats, ints, truths};
use diptych_ir::ops::{
    AllGather, AllReduce, AllToAll, Argument, Cast, Concat, Contract, History, Index, Literal, Map, Merge,
    Output, PutAdd, Reduce, ReduceScatter, Rename, Send, Slice, Split, Take, TopK,
};
use diptych_ir::text::parse;
use diptych_ir::{Axis, DType, Op, ReduceKind, ScalarFn, Span};

#[test]
fn ops_say_what_does_not_fit() {
    let (a, b, wide) = (Axis::fixed("a", 2), Axis::fixed("b", 3), Axis::fixed("a", 4));
    let (six, batch) = (Axis::fixed("six", 6), Axis::symbolic("batch"));
    let line = floats(&[a], &[1.0, 2.0]);
    let x = floats(&[a, b], &[0.0; 6]);
    let (long, ids) = (floats(&[wide], &[0.0; 4]), ints(&[a], &[0.0, 1.0]));
    let mask = truths(&[a], &[0.0, 1.0]);
    let sum = ReduceKind::Sum;
    let cases: Vec<(Op, Vec<common::Given>)> = vec![
        (Contract { over: vec![b] }.into(), vec![]),
        (Contract { over: vec![] }.into(), vec![line.clone(), long.clone()]),
        (Contract { over: vec![b] }.into(), vec![line.clone()]),
        (Contract { over: vec![a, a] }.into(), vec![line.clone()]),
        (Contract { over: vec![] }.into(), vec![ids.clone()]),
        (Map(ScalarFn::Add).into(), vec![line.clone()]),
        (Map(ScalarFn::Add).into(), vec![line.clone(), long.clone()]),
        (Map(ScalarFn::Add).into(), vec![line.clone(), ids.clone()]),
        (Map(ScalarFn::Exp).into(), vec![ids.clone()]),
        (Map(ScalarFn::Not).into(), vec![line.clone()]),
        (Map(ScalarFn::Select).into(), vec![line.clone(), line.clone(), line.clone()]),
        (Cast(DType::I32).into(), vec![line.clone()]),
        (Reduce { kind: sum, over: vec![b] }.into(), vec![line.clone()]),
        (Reduce { kind: sum, over: vec![a] }.into(), vec![ids.clone()]),
        (Take { axis: b }.into(), vec![line.clone(), ids.clone()]),
        (Take { axis: a }.into(), vec![line.clone(), ids.clone()]),
        (Take { axis: a }.into(), vec![line.clone(), ints(&[], &[5.0])]),
        (PutAdd { axis: b, over: vec![b] }.into(), vec![ids.clone(), line.clone()]),
        (PutAdd { axis: b, over: vec![] }.into(), vec![line.clone(), line.clone()]),
        (Rename { from: b, to: six }.into(), vec![line.clone()]),
        (Rename { from: a, to: six }.into(), vec![line.clone()]),
        (Rename { from: a, to: Axis::fixed("b", 2) }.into(), vec![x.clone()]),
        (Split { axis: a, into: vec![b, six] }.into(), vec![line.clone()]),
        (Split { axis: a, into: vec![batch] }.into(), vec![line.clone()]),
        (Merge { axes: vec![a, b], into: wide }.into(), vec![x.clone()]),
        (Slice { axis: b, start: 2, into: Axis::fixed("b", 2) }.into(), vec![x.clone()]),
        (Slice { axis: b, start: usize::MAX, into: Axis::fixed("b", 2) }.into(), vec![x.clone()]),
        (Concat { pieces: vec![a], into: six }.into(), vec![line.clone()]),
        (Concat { pieces: vec![a, wide], into: six }.into(), vec![line.clone(), ids.clone()]),
        (History { time: batch, past: six, window: None, room: 0 }.into(), vec![line.clone()]),
        (Index { axis: a, origin: Some(a) }.into(), vec![]),
        (Literal::scalar(DType::F32, 1.0).into(), vec![line.clone()]),
        (Argument { index: 0, ty: line.ty() }.into(), vec![]),
        (Output { index: 0 }.into(), vec![line.clone()]),
        (TopK { axis: a, into: Axis::fixed("k", 3) }.into(), vec![line.clone()]),
        (TopK { axis: a, into: batch }.into(), vec![line.clone()]),
        (TopK { axis: a, into: Axis::fixed("k", 1) }.into(), vec![mask]),
        (AllReduce { mesh: six, kind: sum }.into(), vec![line.clone()]),
        (AllReduce { mesh: batch, kind: sum }.into(), vec![line.clone()]),
        (AllReduce { mesh: a, kind: sum }.into(), vec![ids]),
        (AllGather { mesh: a, piece: b, whole: wide }.into(), vec![x.clone()]),
        (ReduceScatter { mesh: a, whole: six, piece: b }.into(), vec![x.clone()]),
        (AllToAll { mesh: a, cut: b, part: b, piece: b, joined: six }.into(), vec![x]),
        (Send { mesh: b, shift: 1, ring: true }.into(), vec![line]),
    ];
    let messages: Vec<String> =
        cases.into_iter().map(|(op, given)| apply(op, &given).expect_err("a misfit").to_string()).collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn an_error_is_placed_at_the_user_s_line_once() {
    let error = apply(Contract { over: vec![] }, &[]).expect_err("no operand");
    let first = Span { file: "models/llama.rs", line: 12 };
    let placed = error.at(first).at(Span { file: "elsewhere.rs", line: 1 });
    assert_eq!(placed.to_string(), "contract: takes at least one operand (at models/llama.rs:12)");
}

#[test]
fn the_parser_names_the_line_and_what_would_be_right() {
    let body = |line: &str| {
        format!("program p\nregion @0 main {{\n  %0: f32[a=2] = input x\n  {line}\n  results []\n}}\n")
    };
    let texts = [
        String::new(),
        "programme p".into(),
        "program p".into(),
        "program p\nsize batch from one to 4".into(),
        "program p\nsize batch from 1 to 4\nsize batch from 1 to 4".into(),
        "program p\nparam w: f64[a=2] constant 0.0".into(),
        "program p\nparam w: f32[a=2, a=3] constant 0.0".into(),
        "program p\nparam w: f32[a=2] zero".into(),
        "program p\nregion @1 main {".into(),
        "program p\nregion @0 main { results [".into(),
        "program p\nregion @0 main { results [] }\nentry predict {}".into(),
        "program p\nregion @0 main { results [] }\nentry score { root y %0 }".into(),
        "program p\nparam \"w: f32[]".into(),
        "program p\nparam \"\\n\": f32[]".into(),
        "program p\n\nparam é: f32[]".into(),
        body("%1: f32[a=2] = exponential(%0)"),
        body("%1: f32[a=2] = exp(%7)"),
        body("%1: f32[a=3] = exp(%0)"),
        body("%1 = exp(%0)"),
        body("%1: f32[] = contract(%0)"),
        body("%1: f32[] = contract(%0) over [b=3]"),
        body("%1: f32[] = contract(%0) over a=2"),
        body("%1: f32[] = contract(%0) over [a=2 b]"),
        body("%0: f32[] = literal 1.0"),
        body("%1: f32[] = literal one"),
        body("%1: f32[a=2] = literal [1.0]"),
        body("%1: f32[a=2, b=1] = literal [1.0, 2.0]"),
        body("%1: f32[] = argument 1"),
        body("%1: f32[] = output(%0) 0"),
        body("%1: f32[a=2] = exp(%0)  # two words"),
        body("exp(%0)"),
    ];
    let messages: Vec<String> =
        texts.iter().map(|text| parse(text).expect_err("a text that does not read").to_string()).collect();
    insta::assert_snapshot!(messages.join("\n"));
}
