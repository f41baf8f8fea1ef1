//! Models of one recurrence each: linear attention, the delta rule, gates alone,
//! a matrix at each step, several carried values. They compute nothing here.

use crate::support::numbers::Numbers;
use crate::support::programs::{CONTEXT, TOKENS, elements, fixed_axes};
use diptych_ir::{Axis, Initializer, Program};
use diptych_models::{ModelBuilder, Tensor};

/// A model of one recurrence between an embedding and a head; `layer` is given
/// a value over an axis of 24, and returns one over the same axis.
fn model(name: &str, layer: impl for<'m> FnOnce(&'m ModelBuilder, Tensor<'m>) -> Tensor<'m>) -> Program {
    let program = ModelBuilder::new(name, CONTEXT).finish(|m| {
        m.initialize_with(Initializer::Uniform { bound: 0.4 });
        let (vocab, embed) = (m.axis("vocab", TOKENS), m.axis("embed", 24));
        let table = m.embedding("embedding", vocab, embed);
        let x = table.take(m.tokens(), vocab);
        let y = layer(m, x);
        m.head("head", x + y, embed, vocab)
    });
    program.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Linear attention with a gate for each key (Yang et al. 2023).
fn gated(heads: usize, keys: usize, values: usize) -> Program {
    model("gated", |m, x| {
        let embed = m.axis("embed", 24);
        let (head, key, value) = (m.axis("head", heads), m.axis("key", keys), m.axis("value", values));
        let q = m.linear("q", x, embed, [head, key]);
        let k = m.linear("k", x, embed, [head, key]);
        let v = m.linear("v", x, embed, [head, value]);
        let gate = m.linear("gate", x, embed, [head, key]).sigmoid();
        let [y] = m.scan("state", [m.zeros([m.batch(), head, key, value])], |_, [state]| {
            let state = state * gate + k * v;
            ([state], [state.dot(q, key)])
        });
        m.linear("o", y, [head, value], embed)
    })
}

/// The gated delta rule (Yang et al. 2024).
fn delta(heads: usize, keys: usize, values: usize) -> Program {
    model("delta", |m, x| {
        let embed = m.axis("embed", 24);
        let (head, key, value) = (m.axis("head", heads), m.axis("key", keys), m.axis("value", values));
        let q = m.linear("q", x, embed, [head, key]);
        let k = m.linear("k", x, embed, [head, key]);
        let k = k * ((k * k).sum(key) + 0.1).rsqrt();
        let v = m.linear("v", x, embed, [head, value]);
        let rate = m.linear("rate", x, embed, head).sigmoid();
        let decay = m.linear("decay", x, embed, head).sigmoid();
        let [y] = m.scan("state", [m.zeros([m.batch(), head, key, value])], |_, [state]| {
            let state = state * decay;
            let state = state + k * ((v - state.dot(k, key)) * rate);
            ([state], [state.dot(q, key)])
        });
        m.linear("o", y, [head, value], embed)
    })
}

/// A gate for each channel, with nothing mixed: one multiplication a position.
fn channels(width: usize) -> Program {
    model("channels", |m, x| {
        let (embed, channel) = (m.axis("embed", 24), m.axis("channel", width));
        let gate = m.linear("gate", x, embed, channel).sigmoid();
        let input = m.linear("input", x, embed, channel);
        let [y] = m.scan("state", [m.zeros([m.batch(), channel])], |_, [state]| {
            let state = state * gate + input;
            ([state], [state])
        });
        m.linear("o", y, channel, embed)
    })
}

/// A recurrent network that multiplies by a matrix at each step, and starts from a parameter.
fn network(width: usize) -> Program {
    model("network", |m, x| {
        let (embed, hidden, next) = (m.axis("embed", 24), m.axis("hidden", width), m.axis("next", width));
        let input = m.linear("input", x, embed, next);
        let weight = m.param("weight", [hidden, next], Initializer::Uniform { bound: 0.3 }, true);
        let first = m.param("first", hidden, Initializer::Uniform { bound: 0.3 }, true);
        let start = m.zeros([m.batch(), hidden]) + first;
        let [y] = m.scan("state", [start], |_, [state]| {
            let state = (state.dot(weight, hidden) + input).tanh().rename(next, hidden);
            ([state], [state])
        });
        m.linear("o", y, hidden, embed)
    })
}

/// Two values that are carried, of which one is the other of the position before.
fn shifted() -> Program {
    model("shifted", |m, x| {
        let (embed, channel) = (m.axis("embed", 24), m.axis("channel", 20));
        let input = m.linear("input", x, embed, channel);
        let zero = m.zeros([m.batch(), channel]);
        let [y] = m.scan("state", [zero, zero], |_, [one, two]| {
            let next = (one * 0.5 - two * 0.25 + input).tanh();
            ([next, one], [next * two + one])
        });
        m.linear("o", y, channel, embed)
    })
}

/// Within the layers of a stack.
fn stacked() -> Program {
    model("stacked", |m, x| {
        let embed = m.axis("embed", 24);
        let (head, key, value) = (m.axis("head", 2), m.axis("key", 12), m.axis("value", 12));
        m.repeat("layers", 3, x, |m, x| {
            let k = m.linear("k", x, embed, [head, key]);
            let v = m.linear("v", x, embed, [head, value]);
            let decay = m.param("decay", [head], Initializer::Constant(0.3), false).sigmoid();
            let [y] = m.scan("state", [m.zeros([m.batch(), head, key, value])], |_, [state]| {
                let state = state * decay + k * v;
                ([state], [state.dot(k, key)])
            });
            x + m.linear("o", y, [head, value], embed) * 0.3
        })
    })
}

/// All of them, with sizes on both sides of vectors and caches.
pub fn all() -> Vec<Program> {
    vec![
        gated(3, 5, 7),
        gated(2, 64, 64),
        gated(1, 100, 128),
        delta(3, 5, 7),
        delta(2, 16, 33),
        channels(20),
        channels(100),
        network(17),
        shifted(),
        stacked(),
    ]
}

/// A recurrence whose step is drawn at random: one to three carried values, over which pointwise functions,
/// products, sums and maxima over axes, and products with a matrix are taken in any order.
pub fn random(seed: u64) -> Program {
    let mut numbers = Numbers::new(seed, 4);
    model(&format!("random_recurrence_{seed}"), |m, x| {
        let embed = m.axis("embed", 24);
        let sizes = [1, 2, 3, 5, 7, 16, 17, 33];
        let axes = ["a", "b", "c"].map(|name| m.axis(name, numbers.pick(&sizes)));
        let some = |numbers: &mut Numbers| -> Vec<Axis> {
            axes.iter().copied().filter(|_| numbers.below(2) == 0).collect()
        };
        let mut outside: Vec<Tensor<'_>> = Vec::new();
        for (at, axis) in axes.into_iter().enumerate() {
            let mut own = some(&mut numbers);
            if own.is_empty() {
                own.push(axis);
            }
            outside.push(m.linear(&format!("input{at}"), x, embed, own).tanh());
        }
        let other = m.axis("other", axes[0].fixed_size().unwrap_or(1));
        let matrix = m.param("matrix", [axes[0], other], Initializer::Uniform { bound: 0.4 }, true);
        let scale = m.param("scale", [axes[1]], Initializer::Uniform { bound: 0.8 }, false);
        outside.push(scale);
        let first = m.linear("first", x, embed, axes[0]);
        let carried: Vec<Vec<Axis>> = (0..1 + numbers.below(3)).map(|_| some(&mut numbers)).collect();
        let start: Vec<Tensor<'_>> =
            carried.iter().map(|own| m.zeros([&[m.batch()], &own[..]].concat())).collect();
        let yielded = m.scan_all("state", &start, |_, before| {
            let mut pool: Vec<Tensor<'_>> = before.iter().chain(&outside).copied().collect();
            pool.push(first.dot(matrix, axes[0]).rename(other, axes[0]).tanh());
            for _ in 0..3 + numbers.below(5) {
                let (left, right) = (numbers.pick(&pool), numbers.pick(&pool));
                let own = fixed_axes(left);
                let next = match numbers.below(8) {
                    0 => left.tanh(),
                    1 => left.sigmoid() * right,
                    2 => left + right,
                    3 => (left * right).tanh(),
                    4 => left.less(right).select(left, right * 0.5),
                    5 if own.contains(&axes[0]) => left.dot(matrix, axes[0]).rename(other, axes[0]).tanh(),
                    6 if !own.is_empty() => left.max_over(numbers.pick(&own)),
                    _ if !own.is_empty() => {
                        let over = numbers.pick(&own);
                        left.sum(over) * (1.0 / over.fixed_size().unwrap_or(1) as f64)
                    }
                    _ => left * right,
                };
                pool.push(next);
            }
            let after = before.iter().zip(&carried).map(|(&before, own)| {
                let next = numbers.pick(&pool);
                let rest: Vec<Axis> =
                    fixed_axes(next).into_iter().filter(|axis| !own.contains(axis)).collect();
                let next = if rest.is_empty() {
                    next
                } else {
                    next.sum(rest.clone()) * (1.0 / elements(&rest) as f64)
                };
                before * 0.5 + next.tanh()
            });
            let after: Vec<Tensor<'_>> = after.collect();
            // All that is there is asked for.
            let all = after.iter().chain(&pool[before.len()..]).copied().reduce(|sum, x| sum + x);
            (after, all.into_iter().collect())
        });
        let y = yielded[0];
        m.linear("o", y, fixed_axes(y), embed)
    })
}
