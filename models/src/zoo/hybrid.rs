//! Recurrent layers, alone or with a layer of attention after every few of them:
//! gated linear attention (Yang et al. 2023), the gated delta rule (Yang et al.
//! 2024) or Mamba-2 (Dao and Gu 2024). What each layer computes is in `mixers`.

mod mixers;

use super::config::{
    Fields, divides, norm_epsilon, plain_rope, positive, positive_number, rotary, standard_deviation,
};
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, Family, Linear, ModelBuilder, ModelError, Result, Rope, Tensor};
use diptych_ir::{Axis, Initializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "hybrid";

/// How a recurrent layer carries its state on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// Each key's part of the state decays by a gate of its own.
    GatedLinear,
    /// What the state has for a key is replaced, at a learned rate.
    GatedDelta,
    /// A state space with one decay a head, after a short convolution.
    Mamba2,
}

/// The configuration of a model with recurrent layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hybrid {
    /// Number of token ids.
    pub vocab: usize,
    /// The most positions of a sequence.
    pub context: usize,
    /// Number of layers, of both kinds together.
    pub layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// What recurrent layers compute.
    pub recurrence: Recurrence,
    /// How many recurrent layers come before each layer of attention; if not given, all layers are recurrent.
    #[serde(default)]
    pub recurrent_before_attention: Option<usize>,
    /// Heads of recurrent layers.
    pub recurrent_heads: usize,
    /// Width of a head's keys (Mamba-2: of its state).
    pub key_dim: usize,
    /// Width of a head's values.
    pub value_dim: usize,
    /// Groups of heads that share keys and queries, in Mamba-2.
    #[serde(default = "one")]
    pub groups: usize,
    /// Positions that the short convolution of the gated delta rule and of Mamba-2 sees.
    #[serde(default = "four")]
    pub taps: usize,
    /// Whether the convolution of Mamba-2 has a bias.
    #[serde(default = "yes")]
    pub convolution_bias: bool,
    /// Query heads of attention.
    #[serde(default = "one")]
    pub heads: usize,
    /// Key and value heads of attention; each serves `heads / key_value_heads` query heads.
    #[serde(default = "one")]
    pub key_value_heads: usize,
    /// Width of a head of attention; `embed / heads` if not given.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Width of the MLP after each layer; none if not given, as in Mamba-2.
    #[serde(default)]
    pub hidden: Option<usize>,
    /// The rotary embedding of attention.
    #[serde(default = "plain_rope")]
    pub rope: Rope,
    /// What the norms add to the mean square.
    #[serde(default = "norm_epsilon")]
    pub norm_epsilon: f64,
    /// Whether the head shares the embedding's table.
    #[serde(default)]
    pub tied: bool,
    /// The type in which matrices are multiplied; recurrences run in f32.
    #[serde(default)]
    pub dtype: Precision,
    /// Standard deviation of matrices at the start.
    #[serde(default = "standard_deviation")]
    pub standard_deviation: f64,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn yes() -> bool {
    true
}

impl Hybrid {
    /// The configuration, checked.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn check(self) -> Result<Hybrid> {
        positive(
            FAMILY,
            &[
                ("vocab", self.vocab),
                ("context", self.context),
                ("layers", self.layers),
                ("embed", self.embed),
                ("recurrent_before_attention", self.recurrent_before_attention.unwrap_or(1)),
                ("recurrent_heads", self.recurrent_heads),
                ("key_dim", self.key_dim),
                ("value_dim", self.value_dim),
                ("groups", self.groups),
                ("taps", self.taps),
                ("heads", self.heads),
                ("key_value_heads", self.key_value_heads),
                ("hidden", self.hidden.unwrap_or(1)),
                ("head_dim", self.head_dim.unwrap_or(1)),
            ],
        )?;
        divides(FAMILY, ("groups", self.groups), ("recurrent_heads", self.recurrent_heads))?;
        let period = self.period();
        divides(FAMILY, ("recurrent_before_attention + 1", period), ("layers", self.layers))?;
        positive_number(FAMILY, "norm_epsilon", self.norm_epsilon)?;
        positive_number(FAMILY, "standard_deviation", self.standard_deviation)?;
        if self.recurrent_before_attention.is_some() {
            divides(FAMILY, ("key_value_heads", self.key_value_heads), ("heads", self.heads))?;
            if self.head_dim.is_none() {
                divides(FAMILY, ("heads", self.heads), ("embed", self.embed))?;
            }
            rotary(FAMILY, &self.rope, ("head_dim", self.head_width()))?;
        }
        Ok(self)
    }

    fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.embed / self.heads)
    }

    /// Layers after which the pattern begins again.
    fn period(&self) -> usize {
        self.recurrent_before_attention.map_or(1, |recurrent| recurrent + 1)
    }

    /// A layer's mixer and MLP, with what goes around them; names begin with `prefix`.
    fn layer<'m>(
        &self,
        m: &'m ModelBuilder,
        prefix: &str,
        x: Tensor<'m>,
        embed: Axis,
        mixer: impl FnOnce(Tensor<'m>) -> Tensor<'m>,
    ) -> Tensor<'m> {
        let h = m.rms_norm(&format!("{prefix}norm"), x, embed, self.norm_epsilon);
        let x = x + mixer(h);
        let Some(hidden) = self.hidden else { return x };
        let hidden = m.axis("hidden", hidden);
        let h = m.rms_norm(&format!("{prefix}mlp_norm"), x, embed, self.norm_epsilon);
        let gate = m.linear(&format!("{prefix}mlp_gate"), h, embed, hidden).silu();
        let up = m.linear(&format!("{prefix}mlp_up"), h, embed, hidden);
        x + m.linear(&format!("{prefix}mlp_down"), gate * up, hidden, embed)
    }
}

impl Architecture for Hybrid {
    fn name(&self) -> &str {
        FAMILY
    }

    fn describe(&self) -> Value {
        json!(self)
    }

    fn context(&self) -> usize {
        self.context
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn define<'m>(&self, m: &'m ModelBuilder) -> Tensor<'m> {
        m.compute_in(self.dtype.dtype());
        m.initialize_with(Initializer::Normal { standard_deviation: self.standard_deviation });
        let (vocab, embed) = (m.axis("vocab", self.vocab), m.axis("embed", self.embed));
        let table = m.embedding("embedding", vocab, embed);
        let head_dim = m.axis("head_dim", self.head_width());
        let rope = self.recurrent_before_attention.map(|_| m.rotary_table(head_dim, &self.rope));
        let count = self.layers / self.period();
        let x = m.repeat("layers", count, table.take(m.tokens(), vocab), |m, mut x| {
            for at in 0..self.recurrent_before_attention.unwrap_or(1) {
                // Where all layers are alike, names say nothing of the pattern.
                let prefix = self.recurrent_before_attention.map(|_| format!("recurrent{at}."));
                let prefix = prefix.unwrap_or_default();
                x = self.layer(m, &prefix, x, embed, |h| self.recurrent(m, &prefix, h, embed));
            }
            match &rope {
                Some(rope) => {
                    self.layer(m, "attention.", x, embed, |h| self.attention(m, h, embed, head_dim, rope))
                }
                None => x,
            }
        });
        let x = m.rms_norm("norm", x, embed, self.norm_epsilon);
        match self.tied {
            true => m.tied_head(x, table, embed),
            false => m.head("head", x, embed, vocab),
        }
    }

    fn hugging_face(&self) -> Option<NameMap> {
        let plain = self.recurrence == Recurrence::Mamba2
            && self.recurrent_before_attention.is_none()
            && self.hidden.is_none()
            && self.embed > 0
            && (self.recurrent_heads * self.value_dim).is_multiple_of(self.embed);
        if !plain {
            return None;
        }
        let (inner, keys) = (self.recurrent_heads * self.value_dim, self.groups * self.key_dim);
        let channels = inner + 2 * keys;
        let projected = inner + channels + self.recurrent_heads;
        let mut tensors = vec![
            tensor("backbone.embeddings.weight", "embedding", "vocab, embed"),
            tensor("backbone.norm_f.weight", "norm", "embed"),
        ];
        if !self.tied {
            tensors.push(tensor("lm_head.weight", "head", "vocab, embed"));
        }
        let mut layer = |name: &str, param: &str, dims: &str| {
            tensors.push(tensor(
                &format!("backbone.layers.{{layer}}.{name}"),
                &format!("layers.{param}"),
                dims,
            ));
        };
        layer("norm.weight", "norm", "embed");
        let parts = [
            ("z", "inner", 0),
            ("x", "inner", inner),
            ("b", "keys", 2 * inner),
            ("c", "keys", 2 * inner + keys),
            ("dt", "recurrent_head", inner + channels),
        ];
        for (param, axis, start) in parts {
            layer("mixer.in_proj.weight", param, &format!("{axis}@{start}/{projected}, embed"));
        }
        for (param, axis, start) in [("x", "inner", 0), ("b", "keys", inner), ("c", "keys", inner + keys)] {
            for tap in 0..self.taps {
                let dims = format!("{axis}@{start}/{channels}, _@0/1, _@{tap}/{}", self.taps);
                layer("mixer.conv1d.weight", &format!("convolution_{param}.tap{tap}"), &dims);
            }
            if self.convolution_bias {
                let dims = format!("{axis}@{start}/{channels}");
                layer("mixer.conv1d.bias", &format!("convolution_{param}.bias"), &dims);
            }
        }
        layer("mixer.dt_bias", "dt_bias", "recurrent_head");
        layer("mixer.A_log", "decay_log", "recurrent_head");
        layer("mixer.D", "skip", "group group_head");
        layer("mixer.norm.weight", "mixer_norm", "group group_head value");
        layer("mixer.out_proj.weight", "o", "embed, group group_head value");
        let config = json!({
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "vocab_size": self.vocab,
            "hidden_size": self.embed,
            "num_hidden_layers": self.layers,
            "num_heads": self.recurrent_heads,
            "head_dim": self.value_dim,
            "state_size": self.key_dim,
            "n_groups": self.groups,
            "expand": inner / self.embed,
            "conv_kernel": self.taps,
            "use_conv_bias": self.convolution_bias,
            "use_bias": false,
            "hidden_act": "silu",
            "layer_norm_epsilon": self.norm_epsilon,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            "initializer_range": self.standard_deviation,
            "dtype": "float32",
        });
        Some(NameMap { config, prefix: "", ignored: &[], tensors })
    }
}

fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(parse_config::<Hybrid>(FAMILY, config)?.check()?))
}

/// The context of models whose configuration says none: what Mamba-2 was trained with.
const CONTEXT: usize = 2048;

fn parse_hugging_face(config: &Value) -> Result<Box<dyn Architecture>> {
    let mut fields = Fields::new("mamba2", config)?;
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.1);
    fields.one_of("hidden_act", &[json!("silu")])?;
    fields.one_of("use_bias", &[json!(false)])?;
    // Of how steps start, are cut in chunks, or are kept in memory, nothing changes what is computed.
    fields.ignore(&[
        "chunk_size",
        "residual_in_fp32",
        "rescale_prenorm_residual",
        "rms_norm",
        "time_step_floor",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        "layer_types",
    ]);
    // Steps are limited to between zero and infinity, which is no JSON, and is read as null.
    let endless = [json!([0.0, null]), json!([0.0, { "__float__": "Infinity" }])];
    fields.one_of("time_step_limit", &endless)?;
    let hybrid = Hybrid {
        vocab: fields.required("vocab_size")?,
        context: fields.or("max_position_embeddings", CONTEXT)?,
        layers: fields.required("num_hidden_layers")?,
        embed: fields.required("hidden_size")?,
        recurrence: Recurrence::Mamba2,
        recurrent_before_attention: None,
        recurrent_heads: fields.required("num_heads")?,
        key_dim: fields.required("state_size")?,
        value_dim: fields.required("head_dim")?,
        groups: fields.or("n_groups", 8)?,
        taps: fields.or("conv_kernel", 4)?,
        convolution_bias: fields.or("use_conv_bias", true)?,
        heads: 1,
        key_value_heads: 1,
        head_dim: None,
        hidden: None,
        rope: plain_rope(),
        norm_epsilon: fields.or("layer_norm_epsilon", 1e-5)?,
        tied: fields.or("tie_word_embeddings", false)?,
        dtype: Precision::F32,
        standard_deviation: deviation,
    };
    let expand: usize = fields.or("expand", 2)?;
    let (inner, wanted) = (hybrid.recurrent_heads * hybrid.value_dim, expand * hybrid.embed);
    if inner != wanted {
        let problem = format!(
            "`num_heads` times `head_dim` is {inner}; it must be `expand` times `hidden_size`, {wanted}"
        );
        return Err(ModelError::config("mamba2", problem));
    }
    fields.finish()?;
    Ok(Box::new(hybrid.check()?))
}

/// The family, with sizes for tests and benches.
pub(crate) fn family() -> Family {
    let sized = |recurrence: &str, vocab, context, layers, embed, ratio: Option<usize>, heads, key, value| {
        json!({
            "vocab": vocab, "context": context, "layers": layers, "embed": embed, "recurrence": recurrence,
            "recurrent_before_attention": ratio, "recurrent_heads": heads, "key_dim": key, "value_dim": value,
        })
    };
    let with = |mut config: Value, more: Value| {
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    };
    let attention = json!({ "heads": 4, "key_value_heads": 2, "hidden": 40 });
    Family {
        name: FAMILY.to_owned(),
        parse,
        presets: vec![
            (
                "hybrid-tiny".to_owned(),
                with(sized("gated_delta", 97, 64, 4, 24, Some(1), 2, 6, 10), attention.clone()),
            ),
            (
                "gated-linear-tiny".to_owned(),
                with(sized("gated_linear", 97, 64, 3, 24, Some(2), 3, 8, 8), attention),
            ),
            (
                "mamba2-tiny".to_owned(),
                with(sized("mamba2", 97, 64, 2, 24, None, 6, 7, 8), json!({ "groups": 2 })),
            ),
            // About the size of `bench-multi-head`, with three recurrent layers to one of attention.
            (
                "bench-hybrid".to_owned(),
                with(
                    sized("gated_delta", 4096, 8192, 8, 256, Some(3), 4, 64, 64),
                    json!({ "heads": 4, "key_value_heads": 4, "hidden": 384, "tied": true }),
                ),
            ),
            // The shape of state-spaces/mamba2-130m.
            (
                "mamba2-130m".to_owned(),
                with(sized("mamba2", 50288, 2048, 24, 768, None, 24, 128, 64), json!({ "tied": true })),
            ),
        ],
        model_types: vec!["mamba2".to_owned()],
        parse_hugging_face,
    }
}
