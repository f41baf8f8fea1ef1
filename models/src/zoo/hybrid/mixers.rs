//! What the layers of a hybrid compute between its norms: attention, and the
//! three recurrences. Names of parameters begin with the layer's prefix.

use super::{Hybrid, Linear, ModelBuilder, Recurrence, Tensor};
use crate::RotaryTable;
use diptych_ir::{Axis, DType, Initializer};

/// What a key's length is kept from being zero by.
const LENGTH_EPSILON: f64 = 1e-6;
/// The gates of gated linear attention are this root of a logistic function, so that they start near one.
const GATE_ROOT: f64 = 16.0;

/// x over its length along an axis.
fn unit(x: Tensor<'_>, axis: Axis) -> Tensor<'_> {
    x * ((x * x).sum(axis) + LENGTH_EPSILON).rsqrt()
}

impl Hybrid {
    pub(super) fn attention<'m>(
        &self,
        m: &'m ModelBuilder,
        h: Tensor<'m>,
        embed: Axis,
        head_dim: Axis,
        rope: &RotaryTable<'m>,
    ) -> Tensor<'m> {
        let kv_head = m.axis("kv_head", self.key_value_heads);
        let group = m.axis("query_group", self.heads / self.key_value_heads);
        let scale = (self.head_width() as f64).powf(-0.5);
        let q = m.linear("attention.q", h, embed, [kv_head, group, head_dim]).rotary(head_dim, rope);
        let k = m.linear("attention.k", h, embed, [kv_head, head_dim]).rotary(head_dim, rope).history();
        let v = m.linear("attention.v", h, embed, [kv_head, head_dim]).history();
        let seen = (q.dot(k, head_dim) * scale).causal().softmax(m.past()).dot(v, m.past());
        m.linear("attention.o", seen, [kv_head, group, head_dim], embed)
    }

    pub(super) fn recurrent<'m>(
        &self,
        m: &'m ModelBuilder,
        prefix: &str,
        h: Tensor<'m>,
        embed: Axis,
    ) -> Tensor<'m> {
        match self.recurrence {
            Recurrence::GatedLinear => self.gated_linear(m, prefix, h, embed),
            Recurrence::GatedDelta => self.gated_delta(m, prefix, h, embed),
            Recurrence::Mamba2 => self.mamba2(m, prefix, h, embed),
        }
    }

    fn gated_linear<'m>(&self, m: &'m ModelBuilder, prefix: &str, h: Tensor<'m>, embed: Axis) -> Tensor<'m> {
        let name = |name: &str| format!("{prefix}{name}");
        let head = m.axis("recurrent_head", self.recurrent_heads);
        let (key, value) = (m.axis("key", self.key_dim), m.axis("value", self.value_dim));
        let q = m.linear(&name("q"), h, embed, [head, key]) * (self.key_dim as f64).powf(-0.5);
        let k = m.linear(&name("k"), h, embed, [head, key]);
        let v = m.linear(&name("v"), h, embed, [head, value]);
        let gate =
            m.linear_with(&name("decay"), h, embed, [head, key], Linear { bias: true, ..Linear::default() });
        let gate = ((-gate).softplus() * (-1.0 / GATE_ROOT)).exp();
        let start = m.zeros([m.batch(), head, key, value]);
        let [y] = m.scan(&name("state"), [start], |_, [state]| {
            let state = state * gate + k * v;
            ([state], [state.dot(q, key)])
        });
        self.gated_output(m, prefix, y, h, [embed, head, value])
    }

    fn gated_delta<'m>(&self, m: &'m ModelBuilder, prefix: &str, h: Tensor<'m>, embed: Axis) -> Tensor<'m> {
        let name = |name: &str| format!("{prefix}{name}");
        let heads = self.recurrent_heads;
        let head = m.axis("recurrent_head", heads);
        let (key, value) = (m.axis("key", self.key_dim), m.axis("value", self.value_dim));
        let mixed = |what: &str, flat: &str, width: Axis| {
            let channel = m.axis(flat, heads * width.fixed_size().unwrap_or(1));
            let x = m.linear(&name(what), h, embed, channel);
            let x = m.causal_convolution(&name(&format!("convolution_{what}")), x, channel, self.taps);
            x.silu().split(channel, [head, width])
        };
        let q = unit(mixed("q", "keys", key), key) * (self.key_dim as f64).powf(-0.5);
        let k = unit(mixed("k", "keys", key), key);
        let v = mixed("v", "inner", value);
        let rate = m.linear(&name("rate"), h, embed, head).sigmoid();
        let decay = self.decay(m, prefix, m.linear(&name("dt"), h, embed, head), head).1;
        let start = m.zeros([m.batch(), head, key, value]);
        let [y] = m.scan(&name("state"), [start], |_, [state]| {
            let state = state * decay;
            let state = state + k * ((v - state.dot(k, key)) * rate);
            ([state], [state.dot(q, key)])
        });
        self.gated_output(m, prefix, y, h, [embed, head, value])
    }

    /// The output of a recurrence: each head normalised, times a gate, and mapped back.
    fn gated_output<'m>(
        &self,
        m: &'m ModelBuilder,
        prefix: &str,
        y: Tensor<'m>,
        h: Tensor<'m>,
        [embed, head, value]: [Axis; 3],
    ) -> Tensor<'m> {
        let y = m.rms_norm(&format!("{prefix}mixer_norm"), y, value, self.norm_epsilon);
        let gate = m.linear(&format!("{prefix}z"), h, embed, [head, value]).silu();
        m.linear(&format!("{prefix}o"), y * gate, [head, value], embed)
    }

    /// A head's step, positive, from `dt`; and how much of its state remains after that step.
    fn decay<'m>(
        &self,
        m: &'m ModelBuilder,
        prefix: &str,
        dt: Tensor<'m>,
        head: Axis,
    ) -> (Tensor<'m>, Tensor<'m>) {
        // Steps start between 0.001 and 0.1, evenly in their logarithm, which near zero is softplus' inverse.
        let steps = Initializer::Between { least: 0.001f64.ln(), most: 0.1f64.ln() };
        let bias = m.param(&format!("{prefix}dt_bias"), head, steps, false);
        let rates = Initializer::Between { least: 0.0, most: 16f64.ln() };
        let rate = m.param(&format!("{prefix}decay_log"), head, rates, false).exp();
        let step = (dt.cast(DType::F32) + bias).softplus();
        (step, (-(step * rate)).exp())
    }

    fn mamba2<'m>(&self, m: &'m ModelBuilder, prefix: &str, h: Tensor<'m>, embed: Axis) -> Tensor<'m> {
        let name = |name: &str| format!("{prefix}{name}");
        let (heads, groups) = (self.recurrent_heads, self.groups);
        let (group, group_head) = (m.axis("group", groups), m.axis("group_head", heads / groups));
        let (key, value) = (m.axis("key", self.key_dim), m.axis("value", self.value_dim));
        let head = m.axis("recurrent_head", heads);
        let (inner, keys) = (m.axis("inner", heads * self.value_dim), m.axis("keys", groups * self.key_dim));
        let convolved = |what: &str, channel: Axis| {
            let x = m.linear(&name(what), h, embed, channel);
            let convolution = name(&format!("convolution_{what}"));
            let x = m.causal_convolution(&convolution, x, channel, self.taps);
            let x = match self.convolution_bias {
                true => {
                    x + m.param(&format!("{convolution}.bias"), channel, Initializer::Constant(0.0), false)
                }
                false => x,
            };
            x.silu()
        };
        let x = convolved("x", inner).split(inner, [group, group_head, value]);
        let b = convolved("b", keys).split(keys, [group, key]);
        let c = convolved("c", keys).split(keys, [group, key]);
        let (step, decay) = self.decay(m, prefix, m.linear(&name("dt"), h, embed, head), head);
        let step = step.split(head, [group, group_head]);
        let decay = decay.split(head, [group, group_head]);
        let skip = m.param(&name("skip"), [group, group_head], Initializer::Constant(1.0), false);
        let input = x * step;
        let start = m.zeros([m.batch(), group, group_head, key, value]);
        let [y] = m.scan(&name("state"), [start], |_, [state]| {
            let state = state * decay + b * input;
            ([state], [state.dot(c, key)])
        });
        let z = m.linear(&name("z"), h, embed, inner).silu().split(inner, [group, group_head, value]);
        let y = (y + x * skip) * z;
        let scale = ((y * y).mean([group_head, value]) + self.norm_epsilon).rsqrt();
        let all = [group, group_head, value];
        let weight = m.param(&name("mixer_norm"), all, Initializer::Constant(1.0), false);
        m.linear(&name("o"), y * scale * weight, all, embed)
    }
}
