//! Random attention: grouped heads or latents, what is kept of them, windows, norms and rotations.

use super::architecture::Layers;
use diptych_ir::Axis;
use diptych_models::Tensor;

/// Attention of a random kind over a layer's input, projected back.
pub fn attention<'m>(layers: &mut Layers<'m>, h: Tensor<'m>) -> Tensor<'m> {
    let heads: Vec<Axis> = match layers.numbers.once_in(5) {
        true => Vec::new(),
        false => vec![layers.axis("head", &[1, 2, 3])],
    };
    let group: Vec<Axis> = match layers.numbers.once_in(3) {
        true => vec![layers.axis("group", &[1, 2])],
        false => Vec::new(),
    };
    let window = if layers.numbers.once_in(4) { Some(layers.numbers.pick(&[1, 2, 3, 64, 65])) } else { None };
    let seen = match layers.numbers.below(5) {
        0..2 => latent(layers, h, &heads, &group, window),
        _ => grouped(layers, h, &heads, &group, window),
    };
    let Seen { query, key, value, depth, width } = seen;
    let m = layers.m;
    let sum: Vec<Axis> = depth.clone();
    let size: usize = depth.iter().filter_map(|axis| axis.fixed_size()).product();
    let mut scores = match layers.numbers.below(6) {
        // As T5 has it.
        0 => query.dot(key, sum),
        1 => query.dot(key, sum) * 0.25,
        _ => query.dot(key, sum) * (size as f64).powf(-0.5),
    };
    if layers.numbers.once_in(7) {
        scores = (scores * 0.5).tanh() * 2.0;
    }
    scores = scores.causal();
    if let Some(window) = window {
        scores = scores.window(window);
    }
    let mixed = scores.softmax(m.past()).dot(value, m.past());
    let axes = [&heads[..], &group, &[width]].concat();
    let embed = layers.embed;
    layers.linear("o", mixed, &axes, &[embed])
}

/// What attention is given.
struct Seen<'m> {
    query: Tensor<'m>,
    key: Tensor<'m>,
    value: Tensor<'m>,
    /// What scores sum over.
    depth: Vec<Axis>,
    /// The axis of values that keys lack.
    width: Axis,
}

fn grouped<'m>(
    layers: &mut Layers<'m>,
    h: Tensor<'m>,
    heads: &[Axis],
    group: &[Axis],
    window: Option<usize>,
) -> Seen<'m> {
    let embed = layers.embed;
    let rotates = layers.numbers.below(3) > 0;
    let depth = if rotates { layers.rotated } else { layers.axis("depth", &[1, 2, 3, 5, 8]) };
    let mut query = layers.linear("q", h, &[embed], &[heads, group, &[depth]].concat());
    let mut key = layers.linear("k", h, &[embed], &[heads, &[depth]].concat());
    if layers.numbers.once_in(3) {
        (query, key) = (layers.norm("q_norm", query, depth), layers.norm("k_norm", key, depth));
    }
    if rotates {
        let rope = &layers.rope;
        (query, key) = (query.rotary(depth, rope), key.rotary(depth, rope));
    }
    let key = key.history_window(window);
    if layers.numbers.once_in(8) {
        return Seen { query, key, value: key, depth: vec![depth], width: depth };
    }
    let width = layers.axis("width", &[2, 3, 4, 6]);
    let value = layers.linear("v", h, &[embed], &[heads, &[width]].concat()).history_window(window);
    Seen { query, key, value, depth: vec![depth], width }
}

/// Keys and values from a latent (DeepSeek-V2, 2024, section 2.1). The history is of the latent or of what it
/// is expanded to; beside it keys may have a part that is rotated and the same for all heads.
fn latent<'m>(
    layers: &mut Layers<'m>,
    h: Tensor<'m>,
    heads: &[Axis],
    group: &[Axis],
    window: Option<usize>,
) -> Seen<'m> {
    let (m, embed, rotated) = (layers.m, layers.embed, layers.rotated);
    let (mut source, mut from) = (h, embed);
    if layers.numbers.once_in(3) {
        from = layers.axis("query_latent", &[3, 5]);
        source = layers.linear("q_compress", h, &[embed], &[from]);
        source = layers.norm("q_latent_norm", source, from);
    }
    let latent = layers.axis("latent", &[2, 3, 4, 6]);
    let content = layers.axis("content", &[2, 3, 5]);
    let width = layers.axis("width", &[2, 3, 4]);
    let keeps_latent = layers.numbers.below(2) == 0;
    let kept = |x: Tensor<'m>, here: bool| if here { x.history_window(window) } else { x };
    let compressed = layers.linear("compress", h, &[embed], &[latent]);
    let compressed = layers.norm("latent_norm", compressed, latent);
    let compressed = kept(compressed, keeps_latent);
    let query = layers.linear("q", source, &[from], &[heads, group, &[content]].concat());
    let key = layers.linear("k", compressed, &[latent], &[heads, &[content]].concat());
    let value = layers.linear("v", compressed, &[latent], &[heads, &[width]].concat());
    let (key, value) = (kept(key, !keeps_latent), kept(value, !keeps_latent));
    if layers.numbers.below(2) == 0 {
        return Seen { query, key, value, depth: vec![content], width };
    }
    let turned = layers.linear("q_rotary", source, &[from], &[heads, group, &[rotated]].concat());
    let turned = turned.rotary(rotated, &layers.rope);
    let shared = layers.linear("k_rotary", h, &[embed], &[rotated]).rotary(rotated, &layers.rope);
    let shared = shared.history_window(window);
    let sizes = [content, rotated].map(|axis| axis.fixed_size().unwrap_or(1));
    let depth = layers.axis("depth", &[sizes[0] + sizes[1]]);
    let query = m.concat(&[(query, content), (turned, rotated)], depth);
    let key = m.concat(&[(key, content), (shared, rotated)], depth);
    Seen { query, key, value, depth: vec![depth], width }
}
