//! Compositions that fusion once got wrong or refused, each through the runtime
//! against the reference evaluator: streams that share a score, histories of
//! what a layer is given, values that are passed on, masks that are stored.

use crate::support::check::{Options, check_programs};
use crate::support::programs::{CONTEXT, TOKENS, Traits, elements};
use crate::support::reference::{INVERSE_TOKENS, Text, parameters, values};
use diptych_codegen::c::prelude::VectorWidth;
use diptych_ir::evaluate::Value;
use diptych_ir::{Axis, DType, EntryKind, Initializer, NodeId, Op, Program, ScalarFn, Symbol};
use diptych_models::{ModelBuilder, Tensor};
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::decode::{ServeOptions, Server};
use diptych_runtime::session::{Device, Session};

const EMBED: usize = 12;

fn weight<'m>(m: &'m ModelBuilder, name: &str, from: Axis, to: Axis) -> Tensor<'m> {
    let bound = 1.7 / (elements(&[from]) as f64).sqrt();
    m.param(name, [from, to], Initializer::Uniform { bound }, true)
}

/// A model of tokens, with `body` between the embedding and the logits.
fn model(name: &str, body: impl for<'m> Fn(&'m ModelBuilder, Tensor<'m>, Axis) -> Tensor<'m>) -> Program {
    let program = ModelBuilder::new(name, CONTEXT).finish(|m| {
        let embed = m.axis("embed", EMBED);
        let vocab = m.axis("vocab", TOKENS);
        let table = m.param("embedding", [vocab, embed], Initializer::Uniform { bound: 1.0 }, true);
        let x = body(m, table.take(m.tokens(), vocab), embed);
        m.contract(&[x, weight(m, "head", embed, vocab)], embed)
    });
    program.unwrap()
}

struct Attention<'m> {
    score: Tensor<'m>,
    key: Tensor<'m>,
    value: Tensor<'m>,
}

/// The parts of attention from every position to every position so far.
fn attention<'m>(m: &'m ModelBuilder, x: Tensor<'m>, embed: Axis) -> Attention<'m> {
    let depth = m.axis("depth", 5);
    let query = m.contract(&[x, weight(m, "query", embed, depth)], embed);
    let key = m.contract(&[x, weight(m, "key", embed, depth)], embed).history();
    Attention { score: query.dot(key, depth), key, value: x.history() }
}

/// Scores and gradients, on ragged batches.
fn trains_and_scores(program: Program) {
    let options =
        Options { width: VectorWidth::chosen().unwrap(), budget: 1e6, gradients: true, serving: false };
    let programs = vec![(1, program, Traits { low_precision: false, causal: true })];
    let findings = check_programs(programs, options, &Compiler::find().unwrap(), &KernelCache::standard());
    assert_eq!((findings.agreed, &findings.refused[..], &findings.wrong[..]), (1, &[][..], &[][..]));
}

fn text(program: &Program, tokens: &[i32]) -> Text {
    let graph = &program.main().graph;
    let inputs = graph.ids().into_iter().filter_map(|id| match graph.op(id) {
        Op::Input(input) => Some(input),
        _ => None,
    });
    let value = |input: &diptych_ir::ops::Input| {
        let size = |axis: &Axis| if axis.name.as_str() == "batch" { 1 } else { tokens.len() };
        let axes: Vec<(Symbol, usize)> = input.ty.axes.iter().map(|axis| (axis.name, size(axis))).collect();
        let numbers = match input.name.as_str() {
            "tokens" => tokens.iter().map(|&token| f64::from(token)).collect(),
            "last" => vec![(tokens.len() - 1) as f64],
            "inverse_tokens" => vec![INVERSE_TOKENS],
            _ => vec![0.0; tokens.len()],
        };
        Value::new(&axes, numbers).unwrap()
    };
    Text { length: tokens.len(), inputs: inputs.map(|input| (input.name, value(input))).collect() }
}

/// The logits after each token from a few on, with a cache.
fn serves(program: &Program) {
    let device = Device::cpu(Some(1)).unwrap();
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let mut session = Session::compile(&device, program, CONTEXT, &kinds, &AdamWOptions::default()).unwrap();
    let numbers = parameters(program, 1);
    for (&name, numbers) in &numbers {
        let numbers: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
        session.store.set(name, &numbers).unwrap();
    }
    let tokens: Vec<i32> = (0..70).map(|at| (at * at + 3 * at) % TOKENS as i32).collect();
    let mut server = Server::new(&device, &session, ServeOptions::single(CONTEXT)).unwrap();
    let sequence = server.start().unwrap();
    for length in 61..=tokens.len() {
        let found = match length {
            61 => server.prefill(&[(sequence, &tokens[..61])]),
            _ => server.decode(&[(sequence, tokens[length - 1])]),
        };
        let found = found.unwrap();
        let wanted = values(program, EntryKind::Prefill, &numbers, &text(program, &tokens[..length]));
        let wanted = &wanted[&Symbol::new("logits")].data;
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 5e-4, "{found} is not {wanted} after {length}");
        }
    }
}

#[test]
fn two_softmaxes_of_one_score() {
    let program = model("two_softmaxes", |m, x, embed| {
        let Attention { score, value, .. } = attention(m, x, embed);
        let (all, near) = (score.causal(), score.window(9).causal());
        x + all.softmax(m.past()).dot(value, m.past()) - near.softmax(m.past()).dot(value, m.past())
    });
    trains_and_scores(program);
}

#[test]
fn an_unmasked_reduction_beside_a_masked_one() {
    let program = model("unmasked", |m, x, embed| {
        let Attention { score, value, .. } = attention(m, x, embed);
        let seen = score.causal().softmax(m.past()).dot(value, m.past());
        x + seen + score.tanh().dot(value, m.past()) * 0.03 + score.max_over(m.past()) * 0.1
    });
    trains_and_scores(program);
}

/// The gradient of what mixes the heads is a sum over pairs of positions.
#[test]
fn heads_that_talk() {
    let program = model("talking", |m, x, embed| {
        let (depth, head, voice) = (m.axis("depth", 5), m.axis("head", 3), m.axis("voice", 2));
        let of_heads = |name: &str| {
            let bound = 0.5;
            m.param(name, [embed, head, depth], Initializer::Uniform { bound }, true)
        };
        let query = m.contract(&[x, of_heads("query")], embed);
        let key = m.contract(&[x, of_heads("key")], embed).history();
        let score = m.contract(&[query.dot(key, depth), weight(m, "talk", head, voice)], head);
        x + score.causal().softmax(m.past()).dot(x.history(), m.past()).sum(voice) * 0.5
    });
    trains_and_scores(program);
}

#[test]
fn a_history_of_a_layer_s_own_input() {
    let program = model("own_input", |m, x, embed| {
        m.repeat("layers", 2, x, |m, x| {
            let query = m.contract(&[x, weight(m, "query", embed, m.axis("depth", EMBED))], embed);
            let seen = x.history();
            let score = query.rename(m.axis("depth", EMBED), embed).dot(seen, embed).causal();
            x * 0.5 + score.softmax(m.past()).dot(seen, m.past())
        })
    });
    serves(&program);
    trains_and_scores(program);
}

#[test]
fn a_value_that_a_layer_passes_on_as_it_is() {
    let program = model("passed_on", |m, x, embed| {
        let [y, first, before] =
            m.repeat_all("layers", 3, [x, x * 0.5, x.tanh()], |m, [x, first, before]| {
                let y = m.contract(&[x, weight(m, "mix", embed, m.axis("mixed", EMBED))], embed);
                let y = y.rename(m.axis("mixed", EMBED), embed).tanh();
                [y + first - before * 0.3, first, x]
            });
        y + first + before
    });
    serves(&program);
    trains_and_scores(program);
}

#[test]
fn what_is_computed_over_the_past() {
    let program = model("latent", |m, x, embed| {
        let Attention { score, key, .. } = attention(m, x, embed);
        let depth = m.axis("depth", 5);
        let value = m.contract(&[key, weight(m, "value", depth, embed)], depth).tanh();
        x + score.causal().softmax(m.past()).dot(value, m.past())
    });
    serves(&program);
    trains_and_scores(program);
}

#[test]
fn positions_turn_what_is_seen_of_the_past() {
    let program = model("turned", |m, x, embed| {
        let Attention { score, value, .. } = attention(m, x, embed);
        let angle = m.index(m.past()).cast(DType::F32) * 0.3;
        let turned = value * angle.cos() + m.index(m.past()).cast(DType::F32) * 0.01;
        x + score.causal().softmax(m.past()).dot(turned, m.past())
    });
    serves(&program);
    trains_and_scores(program);
}

#[test]
fn tokens_are_looked_up_again_wherever_they_are_seen() {
    let program = model("looked_up", |m, x, embed| {
        let Attention { score, .. } = attention(m, x, embed);
        let vocab = m.axis("vocab", TOKENS);
        let table = m.param("table", [vocab, embed], Initializer::Uniform { bound: 1.0 }, true);
        let value = table.take(m.tokens().history(), vocab).tanh();
        x + score.causal().softmax(m.past()).dot(value, m.past())
    });
    serves(&program);
    trains_and_scores(program);
}

/// What serving says of a program that scores.
fn serving_refuses(program: &Program, wanted: &str) {
    let device = Device::cpu(Some(1)).unwrap();
    let compile =
        |kind| Session::compile(&device, program, CONTEXT, &[kind], &AdamWOptions::default()).map(|_| ());
    compile(EntryKind::Score).unwrap();
    for kind in [EntryKind::Prefill, EntryKind::Decode] {
        let message = compile(kind).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn what_is_not_computed_row_by_row_over_the_past_is_refused_when_serving() {
    let chosen = model("chosen", |m, x, embed| {
        let Attention { score, key, .. } = attention(m, x, embed);
        let (depth, rank) = (m.axis("depth", 5), m.axis("rank", 2));
        let largest = key.tanh().top_k(depth, rank).cast(DType::F32).sum(rank);
        let value = largest * m.table(embed, &[0.01; EMBED]);
        x + score.causal().softmax(m.past()).dot(value, m.past())
    });
    serving_refuses(
        &chosen,
        "is not computed row by row, as values over all positions so far are when serving",
    );
    let summed = model("summed", |m, x, embed| {
        let Attention { score, value, .. } = attention(m, x, embed);
        let of_keys = score.causal().softmax(m.past()).dot(x.tanh(), m.time());
        x + score.causal().softmax(m.past()).dot(value + of_keys, m.past())
    });
    serving_refuses(&summed, "sums over tokens for each position so far");
    let given = model("given", |m, x, embed| {
        let seen = x.history().tanh();
        m.repeat("layers", 2, x, |m, x| {
            let Attention { score, .. } = attention(m, x, embed);
            x + score.causal().softmax(m.past()).dot(seen, m.past())
        })
    });
    serving_refuses(&given, "lies along a cache, and is given to a loop");
}

/// A root of `Score` beside its own.
fn ask_for(program: &mut Program, name: &str, id: NodeId) {
    let score = program.entries.iter_mut().find(|entry| entry.kind == EntryKind::Score).unwrap();
    score.roots.push((Symbol::new(name), id));
    if !program.main().results.contains(&id) {
        program.main_mut().results.push(id);
    }
}

#[test]
fn masks_and_positions_are_stored_where_that_is_asked_for() {
    let mut program = model("stored_masks", |m, x, embed| {
        let negative = x.less(0.0);
        let early = m.index(m.time()).less(m.number(DType::I32, 5.0));
        let late = (m.index(m.time()) + 1.0).cast(DType::F32) * 0.01;
        let position = m.index(m.time());
        let x = x + late;
        let y = m.repeat("layers", 2, x, |m, x| {
            let y = m.contract(&[x, weight(m, "mix", embed, m.axis("mixed", EMBED))], embed);
            let y = negative.select(y.rename(m.axis("mixed", EMBED), embed), x * 0.5);
            early.select(y, y * 0.25) + position.cast(DType::F32) * 0.01
        });
        negative.select(y, y * 0.5)
    });
    let graph = &program.main().graph;
    let of = |wanted: ScalarFn| {
        let is_map = |id: &NodeId| matches!(graph.op(*id), Op::Map(map) if map.0 == wanted);
        graph.topological_order().into_iter().find(is_map).unwrap()
    };
    let negative = of(ScalarFn::Less);
    let is_cast = |id: &NodeId| matches!(graph.op(*id), Op::Cast(_));
    let cast = graph.topological_order().into_iter().find(is_cast).unwrap();
    let next = graph.operands(cast)[0];
    let tokens = graph
        .topological_order()
        .into_iter()
        .find(|&id| matches!(graph.op(id), Op::Input(input) if input.name.as_str() == "tokens"));
    for (name, id) in [("negative", negative), ("next", next), ("token_ids", tokens.unwrap())] {
        ask_for(&mut program, name, id);
    }
    serves(&program);
    trains_and_scores(program);
}

#[test]
fn a_mask_of_pairs_is_refused_as_what_a_repeat_is_given() {
    let program = model("mask_of_pairs", |m, x, embed| {
        let seen = m.index(m.past()).less_equal(m.index(m.time()));
        m.repeat("layers", 2, x, |m, x| {
            let Attention { score, value, .. } = attention(m, x, embed);
            x * 0.5 + seen.select(score, f64::NEG_INFINITY).softmax(m.past()).dot(value, m.past())
        })
    });
    let device = Device::cpu(Some(1)).unwrap();
    let compiled =
        Session::compile(&device, &program, CONTEXT, &[EntryKind::Score], &AdamWOptions::default());
    let message = compiled.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("is too large to be stored: compute it in the repeat"), "{message}");
}
