//! Models that keep little and compute the rest of it for all positions so far, wherever they are seen.

use super::CONTEXT;
use diptych_ir::{Axis, DType, Initializer, Program};
use diptych_models::{ModelBuilder, Rope, RopeScaling, RotaryTable, Tensor};

const EPSILON: f64 = 1e-6;

/// The axes of latent attention.
#[derive(Clone, Copy)]
struct Latent<'m> {
    embed: Axis,
    latent: Axis,
    head: Axis,
    content: Axis,
    rotary: Axis,
    head_dim: Axis,
    value: Axis,
    table: RotaryTable<'m>,
    window: Option<usize>,
}

impl<'m> Latent<'m> {
    fn new(m: &'m ModelBuilder, window: Option<usize>) -> Latent<'m> {
        let rotary = m.axis("rotary", 8);
        Latent {
            embed: m.axis("embed", 40),
            latent: m.axis("latent", 24),
            head: m.axis("head", 3),
            content: m.axis("content", 12),
            rotary,
            head_dim: m.axis("head_dim", 20),
            value: m.axis("value", 10),
            table: m.rotary_table(rotary, &Rope { theta: 10_000.0, scaling: RopeScaling::None }),
            window,
        }
    }

    /// Multi-head latent attention (DeepSeek-V2, 2024, section 2.1) that keeps what it needs of each position, the
    /// latent and the key's rotated part, and expands keys and values from it.
    fn of(self, m: &'m ModelBuilder, h: Tensor<'m>) -> Tensor<'m> {
        let Latent { embed, latent, head, content, rotary, head_dim, value, table, window } = self;
        let q_content = m.linear("q_content", h, embed, [head, content]);
        let q_rotary = m.linear("q_rotary", h, embed, [head, rotary]).rotary(rotary, &table);
        let q = m.concat(&[(q_content, content), (q_rotary, rotary)], head_dim);
        let compressed = m.linear("kv_compress", h, embed, latent).history_window(window);
        let compressed = m.rms_norm("kv_latent_norm", compressed, latent, EPSILON);
        let k_content = m.linear("k_content", compressed, latent, [head, content]);
        let k_rotary = m.linear("k_rotary", h, embed, rotary).rotary(rotary, &table).history_window(window);
        let k = m.concat(&[(k_content, content), (k_rotary, rotary)], head_dim);
        let v = m.linear("v", compressed, latent, [head, value]);
        let mut scores = (q.dot(k, head_dim) * 20f64.powf(-0.5)).causal();
        if let Some(window) = window {
            scores = scores.window(window);
        }
        m.linear("o", scores.softmax(m.past()).dot(v, m.past()), [head, value], embed)
    }
}

fn model(dtype: DType, body: impl for<'m> Fn(&'m ModelBuilder, Tensor<'m>, Axis) -> Tensor<'m>) -> Program {
    let program = ModelBuilder::new("naive", CONTEXT).finish(|m| {
        m.compute_in(dtype);
        m.initialize_with(Initializer::Normal { standard_deviation: 0.2 });
        let (vocab, embed) = (m.axis("vocab", 61), m.axis("embed", 40));
        let x = body(m, m.embedding("embedding", vocab, embed).take(m.tokens(), vocab), embed);
        m.head("head", m.rms_norm("norm", x, embed, EPSILON), embed, vocab)
    });
    program.unwrap()
}

/// Two layers of latent attention.
pub fn latent(dtype: DType, window: Option<usize>) -> Program {
    model(dtype, |m, x, embed| {
        let attention = Latent::new(m, window);
        m.repeat("layers", 2, x, |m, x| x + attention.of(m, m.rms_norm("attention_norm", x, embed, EPSILON)))
    })
}

/// A layer with all that can be done row by row: functions of the position, sums and the largest of a row, parts and
/// joins, products of two values over the past; and with parts of which more is kept than of others.
fn mixed<'m>(
    m: &'m ModelBuilder,
    name: &str,
    x: Tensor<'m>,
    embed: Axis,
    [near, far]: [Option<usize>; 2],
) -> Tensor<'m> {
    let (head, depth, half) = (m.axis("head", 4), m.axis("depth", 10), m.axis("half", 5));
    let value = m.axis("value", 6);
    let part = |kind: &str| format!("{name}.{kind}");
    let h = m.rms_norm(&part("norm"), x, embed, EPSILON);
    let q = m.linear(&part("q"), h, embed, [head, depth]);
    let seen = m.linear(&part("down"), h, embed, depth).history_window(near).cast(DType::F32);
    let gate = m.linear(&part("gate"), h, embed, head).history_window(far).cast(DType::F32).sigmoid();
    let angle = m.index(m.past()).cast(DType::F32) * m.table(half, &[1.0, 0.5, 0.25, 0.125, 0.0625]);
    let (first, second) = (seen.slice(depth, 0, half), seen.slice(depth, 5, half));
    let turned = [
        (first * angle.cos() - second * angle.sin(), half),
        (second * angle.cos() + first * angle.sin(), half),
    ];
    let turned = m.concat(&turned, depth).silu();
    let wide = m.linear(&part("up"), turned, depth, [head, half]).cast(DType::F32);
    let k = m.concat(&[(wide, half), (first * 0.5 + turned.max_over(depth), half)], depth) * gate;
    let v = m.linear(&part("v"), (k + k.dot(turned, depth)).tanh(), depth, value);
    let mut scores = (q.dot(k.cast(m.compute_type()), depth) * 0.3).causal();
    if let Some(window) = near {
        scores = scores.window(window);
    }
    x + m.linear(&part("o"), scores.softmax(m.past()).dot(v, m.past()), [head, value], embed)
}

/// Such layers, written out.
pub fn everything(dtype: DType) -> Program {
    model(dtype, |m, x, embed| {
        let x = mixed(m, "one", x, embed, [Some(40), Some(70)]);
        let x = mixed(m, "two", x, embed, [Some(70), Some(70)]);
        mixed(m, "three", x, embed, [Some(33), Some(65)])
    })
}
