//! The verifier: one well-formed program, and for each thing that it refuses the
//! smallest change that makes it so.

use diptych_ir::text::parse;
use diptych_ir::{Program, verify};

const SOUND: &str = "
program sound
size batch from 1 to 8
size time from 1 to 16
param scale: f32[layers=3, embed=4] constant 1.0 stacked layers=3
param bias: f32[embed=4] normal 0.02 decay
param held: f32[columns=3, rows=64] normal 0.02 blocks q8_0 along [rows=64]
state gradient.bias: f32[embed=4]

region @0 main {
  axes [batch, time, embed, layers, data]
  %0: f32[batch, time, embed=4] = input x
  %1: f32[embed=4, layers=3] = param scale
  %2: f32[embed=4] = param bias
  %3 = repeat(%0, %1, %2) @1 over layers=3 carried 1 stacked 1 yields [f32[batch, time, embed=4]]
  %4: f32[batch, time, embed=4] = output(%3) 0
  %5: f32[embed=4] = contract(%4) over [batch, time]
  %6: f32[batch, embed=4] = reduce_sum(%0) over [time]
  %7 = scan(%6, %0) @2 along time carried 1 sequenced 1 room 0 yields [f32[batch, embed=4], f32[batch, time, embed=4]]
  %8: f32[batch, embed=4] = output(%7) 0
  %9: f32[embed=4, data=2] = input shard
  %10: f32[embed=4] = all_reduce_sum(%9) over data=2
  %11: f32[embed=4, data=2] = send(%9) over data=2 by 1
  %12: f32[embed=4, data=2] = receive(%11) over data=2
  %13: f32[embed=4, data=2] = add(%9, %12)
  %14: f32[embed=4] = mul(%5, %10)
  results [%4, %8, %14]
}

region @1 layers {
  axes [batch, time, embed]
  %0: f32[batch, time, embed=4] = argument 0
  %1: f32[embed=4] = argument 1
  %2: f32[embed=4] = argument 2
  %3: f32[batch, time, embed=4] = mul(%0, %1)
  %4: f32[batch, time, embed=4] = add(%3, %2)
  results [%4]
}

region @2 step {
  axes [batch, embed]
  %0: f32[batch, embed=4] = argument 0
  %1: f32[batch, embed=4] = argument 1
  %2: f32[batch, embed=4] = add(%0, %1)
  results [%2, %2]
}

entry train {
  root y %4
  root last %8
  root both %13
  update gradient.bias %5
}

entry score {
  root y %4
}
";

#[test]
fn a_sound_program_is_accepted() {
    verify(&parse(SOUND).expect("a text that reads")).expect("a sound program");
}

/// The sound program with one change to its text.
fn changed(from: &str, to: &str) -> Program {
    assert_eq!(SOUND.matches(from).count(), 1, "`{from}` stands once in the text");
    parse(&SOUND.replace(from, to)).expect("a text that reads")
}

#[track_caller]
fn refused(program: Program, reason: &str) {
    let error = verify(&program).expect_err(reason).to_string();
    assert!(error.contains(reason), "{error}\nshould say: {reason}");
}

#[test]
fn declarations_are_sound() {
    refused(
        changed("size time from 1 to 16\n", ""),
        "the size `time` of f32[batch, embed=4, time] has no bounds",
    );
    refused(changed("time from 1 to 16", "time from 17 to 16"), "at least 17 and at most 16");
    refused(
        changed("state gradient.bias: f32[embed=4]", "state bias: f32[embed=4]"),
        "both a parameter and a state",
    );
    refused(changed("state gradient.bias: f32[embed=4]", "state gradient.bias: f32[depth]"), "no bounds");
    refused(changed("normal 0.02 decay", "normal -1.0 decay"), "a spread of -1");
    refused(
        changed("normal 0.02 decay", "normal 0.02 decay order [batch]"),
        "the order [batch] is not one of the axes",
    );
    refused(changed("stacked layers=3", "stacked layers=5"), "the layer axis");
    refused(
        changed("along [rows=64]", "along [embed=4]"),
        "its blocks lie along embed=4, which is none of its axes",
    );
    refused(
        changed("along [rows=64]", "along [columns=3]"),
        "3 numbers of f32[columns=3, rows=64] are no whole",
    );
    refused(changed("blocks q8_0", "blocks q4_k"), "whole blocks of 256 f32, as q4_k has them");
    refused(
        changed("param bias: f32[embed=4]", "param bias: f32[depth]"),
        "parameter `bias`: the size `depth`",
    );
}

#[test]
fn regions_refer_to_bodies_without_a_cycle() {
    refused(changed("@1 over", "@9 over"), "runs region 9, which is no body");
    refused(changed("@1 over", "@0 over"), "runs region 0, which is no body");
    let looped = "  %5 = repeat(%4, %1) @1 over layers=3 carried 1 stacked 0 yields []\n  results [%4]\n}\n\nregion @2";
    refused(changed("  results [%4]\n}\n\nregion @2", looped), "region `layers` runs itself");
    let looped = "  %3 = repeat() @1 over layers=3 carried 0 stacked 0 yields []\n  results [%2, %2]";
    let mut program = changed("  results [%2, %2]", looped);
    let scan = program.main().graph.ids().into_iter().find_map(|id| match program.main().graph.op(id) {
        diptych_ir::Op::Scan(scan) => Some(scan.clone()),
        _ => None,
    });
    let body = &mut program.region_mut(diptych_ir::RegionId(1)).graph;
    let operands: Vec<_> = body.ids().into_iter().take(2).collect();
    body.add(scan.expect("a scan"), &operands).expect("a node");
    refused(program, "region `layers` runs itself");
}

#[test]
fn a_graph_has_no_cycle() {
    let mut program = parse(SOUND).expect("a text that reads");
    let body = &mut program.region_mut(diptych_ir::RegionId(1)).graph;
    let ids = body.ids();
    let (product, sum) = (ids[3], ids[4]);
    body.set_operands(product, &[sum, ids[1]]).expect("the types fit");
    refused(program, "region `layers` has a cycle");
}

#[test]
fn ports_are_used_as_declared() {
    refused(changed("= input shard", "= argument 0"), "the main region takes no argument");

    let mut program = parse(SOUND).expect("a text that reads");
    program.region_mut(diptych_ir::RegionId(1)).arguments.swap(0, 1);
    refused(program, "argument 0 is not a node that reads it");

    let mut program = parse(SOUND).expect("a text that reads");
    let layers = program.region_mut(diptych_ir::RegionId(2));
    let ty = layers.graph.ty(layers.arguments[0]).clone();
    layers.graph.add(diptych_ir::ops::Argument { index: 0, ty }, &[]).expect("a node");
    refused(program, "argument 0 is not that of its region");

    let mut program = parse(SOUND).expect("a text that reads");
    let body = program.region_mut(diptych_ir::RegionId(1));
    body.graph.retain_ancestors(&[]);
    body.arguments.clear();
    body.results.clear();
    refused(program, "the body `layers` takes 0 arguments, but 3 were given");

    let mut program = parse(SOUND).expect("a text that reads");
    program.main_mut().results.push(99.into());
    refused(program, "result 99 is not a node");
}

#[test]
fn loops_fit_their_bodies() {
    refused(
        changed("repeat(%0, %1, %2)", "repeat(%0, %2, %1)"),
        "operand 1 is f32[embed=4]: no axis layers=3 to slice",
    );
    refused(changed("repeat(%0, %1, %2)", "repeat(%0, %1, %1)"), "argument 2 is f32[embed=4], but was given");
    refused(changed("repeat(%0, %1, %2)", "repeat(%0, %1)"), "takes 3 arguments, but 2 were given");
    refused(changed("carried 1 stacked 1", "carried 2 stacked 1"), "2 carried and 1 sliced values");
    refused(changed("@1 over layers=3", "@1 over layers=4"), "no axis layers=4 to slice");
    refused(changed("along time carried 1", "along time carried 0"), "no axis time to slice");
    refused(changed("  results [%2, %2]", "  results [%2]"), "the scan says");
    let wider = "  %3: f32[embed=4] = reduce_sum(%2) over [batch]\n  results [%3, %2]";
    refused(changed("  results [%2, %2]", wider), "value 0 is carried");
    let taken = "  %3: i32[time] = index time\n  results [%2, %3]";
    refused(changed("  results [%2, %2]", taken), "it has an axis named time already");
}

#[test]
fn nodes_are_what_their_ops_say() {
    let loop_read = changed(
        "%8: f32[batch, embed=4] = output(%7) 0",
        "%8: f32[] = neg(%7)\n%88: f32[batch, embed=4] = output(%7) 0",
    );
    refused(loop_read, "neg reads a loop, not one of its outputs");
    refused(changed("= param bias", "= param bios"), "`bios` is neither a parameter nor a state");
    refused(
        changed("param bias: f32[embed=4]", "param bias: f32[embed=5]"),
        "`bias` is f32[embed=5], but is read as",
    );
    refused(changed("= input shard", "= input x"), "input `x` is read as");
    let state = changed("%2: f32[embed=4] = param bias", "%2: f32[embed=4] = param gradient.bias");
    verify(&state).expect("a state is read as a parameter is");
}

#[test]
fn only_collectives_cross_ranks() {
    refused(
        changed("all_reduce_sum(%9) over data=2", "reduce_sum(%9) over [data=2]"),
        "only a collective may",
    );
    refused(changed("add(%9, %12)", "add(%9, %11)"), "reads a value in flight");
    refused(changed("receive(%11)", "receive(%9)"), "what no `send` over it has sent");
    refused(changed("root both %13", "root both %11"), "is a send, which is no value");
    let along = "  %15 = scan(%9) @3 along data=2 carried 0 sequenced 1 room 0 yields [f32[embed=4, data=2]]\n  results [%4, %8, %14]";
    let mut program = changed("  results [%4, %8, %14]", along);
    let mut body = diptych_ir::Region::new("each");
    let ty = program.params[&"bias".into()].ty.clone();
    let x = body.add_argument(ty).expect("a port");
    body.results = vec![x];
    program.add_region(body);
    refused(program, "a mesh axis: ranks run at once");
}

#[test]
fn entries_name_values_and_fitting_updates() {
    refused(changed("entry score", "entry train"), "two entries `train`");
    refused(changed("root last %8", "root y %8"), "two roots named `y`");
    refused(changed("root last %8", "root last %7"), "is a scan, which is no value");
    refused(changed("update gradient.bias %5", "update gradient.bios %5"), "neither a parameter nor a state");
    refused(
        changed("update gradient.bias %5", "update gradient.bias %8"),
        "updates `gradient.bias`, which is f32[embed=4], with",
    );
    refused(
        changed("update gradient.bias %5", "update gradient.bias %5\n  update gradient.bias %5"),
        "two updates named `gradient.bias`",
    );
    let mut program = parse(SOUND).expect("a text that reads");
    program.entries[0].roots[0].1 = 1000.into();
    refused(program, "is not a node of the main region");
}
