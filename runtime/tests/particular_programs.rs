//! Programs that random search rarely makes, in native code against the
//! reference evaluator: values and gradients, on ragged batches.

mod derived;
mod support;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_ir::{Axis, DType, Initializer, Program};
use diptych_models::{ModelBuilder, Tensor};
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use support::check::{Findings, Options, check, check_programs};
use support::programs::{CONTEXT, TOKENS, Traits};

/// What a builder has, with the axes and values that the programs share.
struct Base<'m> {
    m: &'m ModelBuilder,
    embed: Axis,
    vocab: Axis,
    x: Tensor<'m>,
}

impl<'m> Base<'m> {
    fn param(&self, name: &str, axes: &[Axis]) -> Tensor<'m> {
        self.m.param(name, axes.to_vec(), Initializer::Uniform { bound: 0.5 }, true)
    }
}

/// A program that is given a value for each token, and makes another of the same axes of it.
fn program(name: &str, body: fn(Base<'_>) -> Tensor<'_>) -> (u64, Program, Traits) {
    let program = ModelBuilder::new(name, CONTEXT).finish(|m| {
        let (embed, vocab) = (m.axis("embed", 33), m.axis("vocab", TOKENS));
        let x = m.input("x", DType::F32, [m.batch(), m.time(), embed]);
        let y = body(Base { m, embed, vocab, x });
        let head = m.axis("head", 31);
        let weight = m.param("head", [head, embed], Initializer::Uniform { bound: 0.3 }, true);
        m.contract(&[y.tanh(), weight], embed)
    });
    let program = program.unwrap_or_else(|error| panic!("{name}: {error}"));
    (name.bytes().map(u64::from).sum(), program, Traits { low_precision: false, causal: true })
}

fn agree(programs: Vec<(u64, Program, Traits)>) {
    let names: Vec<(u64, String)> =
        programs.iter().map(|(seed, program, _)| (*seed, program.name.to_string())).collect();
    let options =
        Options { width: VectorWidth::chosen().unwrap(), budget: 3e5, gradients: true, serving: true };
    none_differ(
        check_programs(programs, options, &Compiler::find().unwrap(), &KernelCache::standard()),
        &names,
    );
}

fn none_differ(findings: Findings, names: &[(u64, String)]) {
    let name = |seed: u64| names.iter().find(|row| row.0 == seed).map_or("", |row| row.1.as_str());
    let problems: Vec<String> = (findings.refused.iter().chain(&findings.unserved).chain(&findings.wrong))
        .map(|(seed, problem)| format!("{} ({seed}): {problem}", name(*seed)))
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn gradients_reach_tables_of_any_axes() {
    agree(vec![
        program("a number for each token", |base| {
            base.x + base.param("table", &[base.vocab]).take(base.m.tokens(), base.vocab)
        }),
        program("two further axes", |base| {
            let (head, depth) = (base.m.axis("a", 3), base.m.axis("b", 11));
            let table = base.param("table", &[head, base.vocab, depth]);
            base.x + table.take(base.m.tokens(), base.vocab).merge([head, depth], base.embed)
        }),
        program("three further axes and positions", |base| {
            let axes = [base.m.axis("a", 3), base.m.axis("b", 1), base.m.axis("c", 11)];
            let place = base.m.axis("place", CONTEXT);
            let table = base.param("table", &[place, axes[0], axes[1], axes[2]]);
            base.x + table.take(base.m.index(base.m.time()), place).merge(axes, base.embed)
        }),
        program("a weight in panels, of which a part of the columns is named", |base| {
            let group = base.m.axis("group", 3);
            let table = base.param("table", &[base.vocab, group, base.embed]);
            let sums = base.m.contract(&[base.x, table], base.embed).tanh();
            base.x + table.take(base.m.tokens(), base.vocab).sum(group) * sums.sum([base.vocab, group])
        }),
        program("a weight in panels, of which rows are named", |base| {
            let table = base.param("table", &[base.vocab, base.embed]);
            let sums = base.m.contract(&[base.x, table], base.embed).tanh();
            base.x + table.take(base.m.tokens(), base.vocab) * sums.sum(base.vocab)
        }),
        program("a weight in panels, of which summed rows are named", |base| {
            let (wide, table) = (base.m.axis("wide", 40), base.m.axis("other", 5));
            let weight = base.param("table", &[table, base.embed, wide]);
            let sums = base.m.contract(&[base.x, weight], [base.embed, table]).tanh().sum(wide);
            let row = weight.take(base.m.index(base.m.axis("third", 4)), table);
            base.x * row.sum([base.m.axis("third", 4), wide]) + sums
        }),
    ]);
}

/// Their gradients are summed from layer to layer, and lie as the weights do.
#[test]
fn layers_may_share_weights() {
    agree(vec![
        program("one weight in panels for all layers", |base| {
            let hidden = base.m.axis("hidden", 45);
            let up = base.param("up", &[base.embed, hidden]);
            let down = base.param("down", &[hidden, base.embed]);
            base.m.repeat("layers", 3, base.x, |m, x| {
                let wide = m.contract(&[x, up], base.embed).tanh();
                x + m.contract(&[wide, down], hidden).tanh()
            })
        }),
        program("one weight in panels for one layer", |base| {
            let hidden = base.m.axis("hidden", 45);
            let up = base.param("up", &[base.embed, hidden]);
            let down = base.param("down", &[hidden, base.embed]);
            base.m.repeat("layers", 1, base.x, |m, x| {
                let wide = m.contract(&[x, up], base.embed).tanh();
                x + m.contract(&[wide, down], hidden).tanh()
            })
        }),
        program("one scale for all layers", |base| {
            let scale = base.param("scale", &[base.embed]);
            base.m.repeat("layers", 3, base.x, |_, x| x + (x * scale).tanh())
        }),
    ]);
}

#[test]
fn ids_may_be_computed_and_tables_may_have_rows() {
    agree(vec![
        program("ids that are computed", |base| {
            let ids = (base.m.tokens() + 3.0).min(16.0);
            base.x + base.param("table", &[base.vocab, base.embed]).take(ids, base.vocab)
        }),
        program("ids along a fixed axis", |base| {
            let rows = base.m.axis("rows", 40);
            let table = base.param("table", &[rows, base.vocab]);
            let one = table.take(base.m.index(base.embed), rows).sum(base.vocab);
            base.x * one
        }),
        program("an element of each row", |base| {
            let weight = base.param("weight", &[base.embed, base.vocab]);
            let y = base.m.contract(&[base.x, weight], base.embed).tanh();
            base.x * y.take(base.m.tokens(), base.vocab)
        }),
        program("a part of each row", |base| {
            let piece = base.m.axis("piece", 7);
            let weight = base.param("weight", &[base.embed, base.vocab]);
            let y = base.m.contract(&[base.x, weight], base.embed).tanh();
            let third = base.param("third", &[piece, base.embed]);
            base.x + base.m.contract(&[y.take(base.m.index(piece), base.vocab), third], piece)
        }),
    ]);
}

#[test]
fn truth_values_are_one_and_zero() {
    agree(vec![
        program("a truth value that is known", |base| {
            let here = base.m.index(base.m.time());
            let known = |value| base.m.number(DType::Bool, value);
            let chosen = here.less(5.0).select(known(1.0), here.equal(7.0));
            let other = here.less(9.0).select(known(0.0), known(1.0));
            let shift = base.param("shift", &[base.embed]);
            base.x + (chosen.cast(DType::F32) + other.cast(DType::F32) * 2.0) * shift
        }),
        program("a truth value alone", |base| {
            let weight =
                base.m.number(DType::Bool, 1.0).cast(DType::F32) * base.param("shift", &[base.embed]);
            base.x * weight
        }),
    ]);
}

/// Gradients that are the same for every token: found by random search.
#[test]
fn gradients_may_leave_out_time() {
    let options =
        Options { width: VectorWidth::chosen().unwrap(), budget: 3e5, gradients: true, serving: false };
    let seeds = [205, 321, 337, 359];
    none_differ(check(&seeds, options, &Compiler::find().unwrap(), &KernelCache::standard()), &[]);
}

/// Weights of no to three axes, in panels or not, of layers and of their own, of which hardly any fills its
/// panels: what fills them up counts in no norm, and stays zero.
#[test]
fn optimiser_steps_of_odd_weights_at_every_width() {
    let odd = || {
        program("odd weights", |base| {
            let Base { m, embed, vocab, x } = base;
            let (hidden, head, depth) = (m.axis("hidden", 45), m.axis("a", 3), m.axis("b", 7));
            let table = base.param("table", &[vocab, embed]);
            let x = m.repeat("layers", 2, x + table.take(m.tokens(), vocab), |m, x| {
                let param = |name: &str, axes: &[Axis], decay: bool| {
                    m.param(name, axes.to_vec(), Initializer::Uniform { bound: 0.3 }, decay)
                };
                let wide = m.contract(&[x, param("up", &[hidden, embed], true)], embed).tanh();
                let heads = m.contract(&[x, param("heads", &[embed, head, depth], true)], embed);
                let x = x + m.contract(&[wide, param("down", &[hidden, embed], true)], hidden);
                let back = param("back", &[head, depth, embed], true);
                (x + m.contract(&[heads, back], [head, depth])) * param("scale", &[embed], false)
            });
            let single = m.axis("single", 1);
            let one = m.contract(&[x, base.param("one_column", &[embed, single])], embed);
            x * one.sum(single) + base.param("shift", &[])
        })
    };
    for width in VectorWidth::ALL.into_iter().filter(|width| width.is_supported()) {
        let options = Options { width, budget: 1e5, gradients: true, serving: true };
        let found = check_programs([odd()], options, &Compiler::find().unwrap(), &KernelCache::standard());
        none_differ(found, &[]);
    }
}
