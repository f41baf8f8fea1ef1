//! Random small language models: what published ones have in their layers, in any combination, at small odd
//! sizes.

use super::attention;
use super::numbers::Numbers;
use diptych_ir::{Axis, DType, Initializer, Program};
use diptych_models::{Linear, ModelBuilder, Rope, RopeScaling, RotaryTable, Tensor};

/// Token ids are below this in all of them.
pub const TOKENS: usize = 17;
const EPSILON: f64 = 1e-3;

/// A model that was drawn.
pub struct Architecture {
    /// Its program, with the entries of a model.
    pub program: Program,
    /// Whether matrices are multiplied in bf16: comparisons are then coarser.
    pub low_precision: bool,
}

/// The architecture of a seed, for sequences of at most `context` positions.
pub fn architecture(seed: u64, context: usize) -> Architecture {
    let mut numbers = Numbers::new(seed, 11);
    let low_precision = numbers.once_in(5);
    let program = ModelBuilder::new(&format!("architecture_{seed}"), context).finish(|m| {
        if low_precision {
            m.compute_in(DType::BF16);
        }
        m.initialize_with(Initializer::Uniform { bound: 0.8 });
        let vocab = m.axis("vocab", TOKENS + numbers.below(5));
        let embed = m.axis("embed", numbers.pick(&[3, 5, 6, 7, 8, 12, 17]));
        let rotated = m.axis("rotated", numbers.pick(&[2, 4, 6]));
        let rope = m.rotary_table(rotated, &Rope { theta: 100.0, scaling: RopeScaling::None });
        let mut layers = Layers { m, numbers, prefix: String::new(), embed, rotated, rope, axes: 0 };
        let table = m.embedding("embedding", vocab, embed);
        let mut x = table.take(m.tokens(), vocab);
        if layers.numbers.once_in(4) {
            x = x * (embed.fixed_size().unwrap_or(1) as f64).sqrt();
        }
        if layers.numbers.once_in(5) {
            let positions = m.axis("positions", context);
            x = x + m.embedding("positions", positions, embed).take(m.index(m.time()), positions);
        }
        let count = 1 + layers.numbers.below(2);
        if layers.numbers.below(2) == 0 {
            x = m.repeat("layers", count, x, |_, x| layers.layer(x));
        } else {
            for number in 0..count {
                layers.prefix = format!("layer{number}.");
                x = layers.layer(x);
            }
        }
        layers.prefix = String::new();
        let x = layers.norm("norm", x, embed);
        let logits = match layers.numbers.below(2) {
            0 => m.tied_head(x, table, embed),
            _ => m.head("head", x, embed, vocab),
        };
        match layers.numbers.below(6) {
            0 => logits * 0.37,
            1 => (logits * 0.2).tanh() * 5.0,
            _ => logits,
        }
    });
    let program = program.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    Architecture { program, low_precision }
}

/// What layers are drawn with.
pub struct Layers<'m> {
    /// The builder.
    pub m: &'m ModelBuilder,
    /// Where choices come from.
    pub numbers: Numbers,
    /// Stands before the names of a layer's parameters.
    prefix: String,
    /// The axis of the residual stream.
    pub embed: Axis,
    /// The axis that `rope` rotates.
    pub rotated: Axis,
    /// Its table.
    pub rope: RotaryTable<'m>,
    axes: usize,
}

impl<'m> Layers<'m> {
    /// A new axis of one of these sizes.
    pub fn axis(&mut self, name: &str, sizes: &[usize]) -> Axis {
        self.axes += 1;
        let size = self.numbers.pick(sizes);
        self.m.axis(&format!("{name}{}", self.axes), size)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn param(&self, name: &str, axes: &[Axis], initializer: Initializer) -> Tensor<'m> {
        self.m.param(&self.name(name), axes.to_vec(), initializer, true)
    }

    fn layer(&mut self, x: Tensor<'m>) -> Tensor<'m> {
        let before = self.numbers.below(4) > 0;
        let after = !before || self.numbers.once_in(4);
        let embed = self.embed;
        let input = |layers: &mut Layers<'m>, name: &str, x| match before {
            true => layers.norm(name, x, embed),
            false => x,
        };
        let output = |layers: &mut Layers<'m>, name: &str, x: Tensor<'m>, y: Tensor<'m>| {
            let y = if after { layers.norm(name, y, embed) } else { y };
            layers.residual(name, x, y)
        };
        match self.numbers.below(8) {
            // Both from one normalised input (Wang and Komatsuzaki 2021).
            0 | 1 => {
                let h = input(self, "norm", x);
                let attended = attention::attention(self, h);
                let x = output(self, "attention_out", x, attended);
                let y = self.mlp(h);
                output(self, "mlp_out", x, y)
            }
            2 => {
                let h = input(self, "mlp_norm", x);
                let y = self.mlp(h);
                output(self, "mlp_out", x, y)
            }
            _ => {
                let h = input(self, "attention_norm", x);
                let attended = attention::attention(self, h);
                let x = output(self, "attention_out", x, attended);
                let h = input(self, "mlp_norm", x);
                let y = self.mlp(h);
                output(self, "mlp_out", x, y)
            }
        }
    }

    /// A norm of any kind, or none.
    pub fn norm(&mut self, name: &str, x: Tensor<'m>, over: Axis) -> Tensor<'m> {
        let full = self.name(name);
        let dtype = x.ty().map_or(DType::F32, |ty| ty.dtype);
        match self.numbers.below(8) {
            0 => x,
            1 | 2 => (x * ((x * x).mean(over) + EPSILON).rsqrt()).cast(dtype),
            3 => self.m.layer_norm(&full, x, over, EPSILON),
            // The weight is what the norm differs from one by (Gemma).
            4 => {
                let weight = self.param(name, &[over], Initializer::Uniform { bound: 0.3 });
                (x * ((x * x).mean(over) + EPSILON).rsqrt() * (weight + 1.0)).cast(dtype)
            }
            _ => self.m.rms_norm(&full, x, over, EPSILON),
        }
    }

    fn residual(&mut self, name: &str, x: Tensor<'m>, y: Tensor<'m>) -> Tensor<'m> {
        match self.numbers.below(6) {
            0 => x + y * 0.3,
            1 => x * 0.7 + y,
            2 => {
                let scale = self.param(
                    &format!("{name}.residual"),
                    &[self.embed],
                    Initializer::Between { least: 0.2, most: 1.2 },
                );
                x + y * scale
            }
            _ => x + y,
        }
    }

    fn weight(&self, name: &str, from: &[Axis], to: &[Axis]) -> Tensor<'m> {
        self.param(name, &[from, to].concat(), bound(from))
    }

    fn plain(&self, name: &str, x: Tensor<'m>, from: &[Axis], to: &[Axis], bias: bool) -> Tensor<'m> {
        let options = Linear { bias, initializer: Some(bound(from)) };
        self.m.linear_with(&self.name(name), x, from.to_vec(), to.to_vec(), options)
    }

    /// A linear map of any kind: one matrix, two factors, or an adapted one (Hu et al. 2021), scaled or not.
    pub fn linear(&mut self, name: &str, x: Tensor<'m>, from: &[Axis], to: &[Axis]) -> Tensor<'m> {
        let part = |part: &str| format!("{name}.{part}");
        let dtype = self.m.compute_type();
        let y = match self.numbers.below(11) {
            0 => self.plain(name, x, from, to, true),
            1 => {
                let rank = self.axis("rank", &[1, 2, 3, 5]);
                let y = self.plain(&part("down"), x, from, &[rank], false);
                self.plain(&part("up"), y, &[rank], to, false)
            }
            2 => {
                let rank = self.axis("rank", &[1, 2]);
                let y = self.plain(&part("down"), x, from, &[rank], false);
                let y = self.plain(&part("up"), y, &[rank], to, false);
                self.plain(name, x, from, to, false) + y * 0.5
            }
            3 => {
                let rank = self.axis("rank", &[1, 2]);
                let (down, up) =
                    (self.weight(&part("down"), from, &[rank]), self.weight(&part("up"), &[rank], to));
                let weight = self.weight(name, from, to) + self.m.contract(&[down, up], rank) * 0.5;
                self.m.contract(&[x.cast(dtype), weight.cast(dtype)], from.to_vec())
            }
            4 => self.plain(name, x, from, to, false) * 0.6,
            5 => {
                let scale = Initializer::Between { least: 0.5, most: 1.5 };
                let scale = self.param(&part("scale"), &to[to.len() - 1..], scale);
                self.plain(name, x, from, to, false) * scale
            }
            _ => self.plain(name, x, from, to, false),
        };
        y.cast(dtype)
    }

    fn activation(&mut self, x: Tensor<'m>) -> Tensor<'m> {
        match self.numbers.below(5) {
            0 => x.gelu_tanh(),
            1 => x.max(0.0),
            2 => x.sigmoid(),
            3 => x,
            _ => x.silu(),
        }
    }

    fn mlp(&mut self, h: Tensor<'m>) -> Tensor<'m> {
        let embed = self.embed;
        let hidden = self.axis("hidden", &[4, 7, 11, 16]);
        let mut y = self.linear("gate", h, &[embed], &[hidden]);
        y = self.activation(y);
        if self.numbers.below(3) > 0 {
            y = y * self.linear("up", h, &[embed], &[hidden]);
        }
        if self.numbers.once_in(6) {
            y = self.norm("hidden_norm", y, hidden);
        }
        self.linear("down", y, &[hidden], &[embed])
    }
}

/// Keeps results about as large as what is mapped.
fn bound(from: &[Axis]) -> Initializer {
    let inputs: usize = from.iter().filter_map(|axis| axis.fixed_size()).product();
    Initializer::Uniform { bound: 1.5 / (inputs as f64).sqrt() }
}
