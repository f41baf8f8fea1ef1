//! Mixtures of experts: grouped-query or latent attention, and in most layers
//! SwiGLU experts of which each token chooses a few (Shazeer et al. 2017), as
//! Mixtral, Qwen3-MoE and DeepSeek-V3 have them. No token is dropped.

mod balance;
mod hugging_face;

pub(super) use hugging_face::parse as parse_hugging_face;

use super::attention::{GroupedQuery, Latent, LatentSizes};
use super::config::{
    divides, norm_epsilon, not_negative, plain_rope, positive, positive_number, rotary, standard_deviation,
};
use super::published::presets;
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::NameMap;
use crate::{Architecture, Family, ModelBuilder, ModelError, Result, Rope, Tensor};
use diptych_ir::{Axis, Initializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "moe";

/// What is added to sums of sigmoids: all of a row may be zero.
const LEAST_SUM: f64 = 1e-20;

/// The rate of the selection bias where none is given: that of DeepSeek-V3 (2024, section 4.2).
const BIAS_RATE: f64 = 0.001;

/// The configuration of a mixture of experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// Number of token ids.
    pub vocab: usize,
    /// The most positions of a sequence.
    pub context: usize,
    /// Number of layers.
    pub layers: usize,
    /// How many of them, the first, have one dense MLP in place of experts.
    #[serde(default)]
    pub dense_layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` if not given. Latent attention has as many as queries.
    #[serde(default)]
    pub key_value_heads: Option<usize>,
    /// Width of a head; `embed / heads` if not given. Latent attention has widths of its own.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Latent attention instead of grouped queries.
    #[serde(default)]
    pub latent: Option<LatentAttention>,
    /// How many positions a query sees, its own included, if not all.
    #[serde(default)]
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases.
    #[serde(default)]
    pub query_key_value_bias: bool,
    /// Whether each head's query and key are normalised before the rotation.
    #[serde(default)]
    pub query_key_norm: bool,
    /// Width of the MLP of dense layers.
    #[serde(default)]
    pub hidden: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// How many of them each token goes through.
    pub chosen: usize,
    /// Width of an expert.
    pub expert_hidden: usize,
    /// Width of the expert that every token goes through besides; 0 for none.
    #[serde(default)]
    pub shared_hidden: usize,
    /// How experts are scored.
    #[serde(default)]
    pub scores: Scores,
    /// Whether the scores of the chosen are divided by their sum.
    #[serde(default = "yes")]
    pub normalized: bool,
    /// What the sum over the chosen experts is multiplied by.
    #[serde(default = "one")]
    pub scale: f64,
    /// Into how many groups experts are cut, of which each token chooses `chosen_groups`: those whose
    /// best two experts have the largest sum of scores (DeepSeek-V3, 2024, section 2.1.2).
    #[serde(default = "one_group")]
    pub groups: usize,
    /// How many groups a token may choose experts of.
    #[serde(default = "one_group")]
    pub chosen_groups: usize,
    /// Whether a bias is added to the scores by which experts are chosen, and to those alone: it balances
    /// the load without a loss (Wang et al. 2024).
    #[serde(default)]
    pub selection_bias: bool,
    /// What an element of that bias changes by at each step of training: up where an expert has less than
    /// the mean load, down where it has more. 0.001 if not given; with 0 it stays as it is.
    #[serde(default)]
    pub bias_rate: Option<f64>,
    /// What the load-balance loss of each layer, `E / k · Σ_e f_e P_e` for each sequence (DeepSeek-V3, 2024,
    /// section 2.1.2), is multiplied by before it is added to the training loss; 0 for none.
    #[serde(default)]
    pub balance_loss: f64,
    /// The rotary embedding.
    #[serde(default = "plain_rope")]
    pub rope: Rope,
    /// What the norms add to the mean square.
    #[serde(default = "norm_epsilon")]
    pub norm_epsilon: f64,
    /// Whether the head shares the embedding's table.
    #[serde(default)]
    pub tied: bool,
    /// The type in which matrices are multiplied.
    #[serde(default)]
    pub dtype: Precision,
    /// Standard deviation of matrices at the start.
    #[serde(default = "standard_deviation")]
    pub standard_deviation: f64,
}

/// Sizes of latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentAttention {
    /// Width of the latent of queries; queries have none if not given.
    #[serde(default)]
    pub query_latent: Option<usize>,
    /// Width of the latent that keys and values share.
    pub latent: usize,
    /// Width of a head's query and key that is not rotated.
    pub content_dim: usize,
    /// Width of a head's query and key that is rotated; the key's is shared by all heads.
    pub rotary_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
}

/// How a router's logits become scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// Softmax over all experts.
    #[default]
    Softmax,
    /// Each by itself.
    Sigmoid,
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn one_group() -> usize {
    1
}

impl Moe {
    /// The configuration, checked, with the sizes of heads filled in.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn check(self) -> Result<Moe> {
        let key_value_heads = self.key_value_heads.unwrap_or(self.heads);
        let dense = if self.dense_layers > 0 { self.hidden } else { 1 };
        positive(
            FAMILY,
            &[
                ("vocab", self.vocab),
                ("context", self.context),
                ("layers", self.layers),
                ("embed", self.embed),
                ("heads", self.heads),
                ("key_value_heads", key_value_heads),
                ("head_dim", self.head_dim.unwrap_or(1)),
                ("window", self.window.unwrap_or(1)),
                ("hidden", dense),
                ("experts", self.experts),
                ("chosen", self.chosen),
                ("expert_hidden", self.expert_hidden),
                ("groups", self.groups),
                ("chosen_groups", self.chosen_groups),
            ],
        )?;
        let at_most = |part: (&str, usize), whole: (&str, usize)| match part.1 <= whole.1 {
            true => Ok(()),
            false => {
                let problem =
                    format!("`{}` is {}, but {} is {}; give at most that", part.0, part.1, whole.0, whole.1);
                Err(ModelError::config(FAMILY, problem))
            }
        };
        divides(FAMILY, ("groups", self.groups), ("experts", self.experts))?;
        at_most(("dense_layers", self.dense_layers), ("the number of `layers` but one", self.layers - 1))?;
        at_most(("chosen_groups", self.chosen_groups), ("`groups`", self.groups))?;
        let open = self.experts / self.groups * self.chosen_groups;
        at_most(("chosen", self.chosen), ("the number of experts in `chosen_groups`", open))?;
        if self.groups > 1 && self.experts / self.groups < 2 {
            let problem = format!("`groups` is {}; each must have at least 2 of the `experts`", self.groups);
            return Err(ModelError::config(FAMILY, problem));
        }
        positive_number(FAMILY, "scale", self.scale)?;
        positive_number(FAMILY, "norm_epsilon", self.norm_epsilon)?;
        positive_number(FAMILY, "standard_deviation", self.standard_deviation)?;
        not_negative(FAMILY, "balance_loss", self.balance_loss)?;
        let bias_rate = match (self.selection_bias, self.bias_rate) {
            (true, rate) => Some(rate.unwrap_or(BIAS_RATE)),
            (false, None) => None,
            (false, Some(_)) => {
                let problem = "`bias_rate` is the rate of the `selection_bias`, which is off; leave it out";
                return Err(ModelError::config(FAMILY, problem));
            }
        };
        not_negative(FAMILY, "bias_rate", bias_rate.unwrap_or(0.0))?;
        match self.latent {
            Some(latent) => {
                positive(
                    FAMILY,
                    &[
                        ("latent.query_latent", latent.query_latent.unwrap_or(1)),
                        ("latent.latent", latent.latent),
                        ("latent.content_dim", latent.content_dim),
                        ("latent.rotary_dim", latent.rotary_dim),
                        ("latent.value_dim", latent.value_dim),
                    ],
                )?;
                rotary(FAMILY, &self.rope, ("latent.rotary_dim", latent.rotary_dim))?;
                let other = [
                    ("key_value_heads", key_value_heads != self.heads),
                    ("head_dim", self.head_dim.is_some()),
                    ("window", self.window.is_some()),
                    ("query_key_value_bias", self.query_key_value_bias),
                    ("query_key_norm", self.query_key_norm),
                ];
                if let Some((name, _)) = other.into_iter().find(|(_, given)| *given) {
                    let problem =
                        format!("`{name}` is an option of grouped queries; leave it out beside `latent`");
                    return Err(ModelError::config(FAMILY, problem));
                }
                Ok(Moe { key_value_heads: None, bias_rate, ..self })
            }
            None => {
                divides(FAMILY, ("key_value_heads", key_value_heads), ("heads", self.heads))?;
                if self.head_dim.is_none() {
                    divides(FAMILY, ("heads", self.heads), ("embed", self.embed))?;
                }
                let head_dim = self.head_dim.unwrap_or(self.embed / self.heads);
                rotary(FAMILY, &self.rope, ("head_dim", head_dim))?;
                Ok(Moe {
                    key_value_heads: Some(key_value_heads),
                    head_dim: Some(head_dim),
                    bias_rate,
                    ..self
                })
            }
        }
    }

    fn latent_sizes(&self, latent: LatentAttention) -> LatentSizes {
        LatentSizes {
            heads: self.heads,
            query_latent: latent.query_latent,
            latent: latent.latent,
            content: latent.content_dim,
            rotary: latent.rotary_dim,
            value: latent.value_dim,
        }
    }

    /// The part of experts that a token may go through, by what the scores order them: those of the
    /// groups whose best two have the largest sum.
    fn in_best_groups<'m>(&self, m: &'m ModelBuilder, order: Tensor<'m>, expert: Axis) -> Tensor<'m> {
        let [group, member] = [("expert_group", self.groups), ("member", self.experts / self.groups)]
            .map(|(name, size)| m.axis(name, size));
        let [chosen_group, best] =
            [("chosen_group", self.chosen_groups), ("best", 2)].map(|(name, size)| m.axis(name, size));
        let order = order.split(expert, [group, member]);
        let sums = order.take(order.top_k(member, best), member).sum(best);
        let chosen = sums.top_k(group, chosen_group);
        let inside = chosen.equal(m.index(group)).select(1.0, 0.0).max_over(chosen_group);
        inside.equal(1.0).select(order, f64::NEG_INFINITY).merge([group, member], expert)
    }

    /// The scores of a token, which sum to 1.
    fn probabilities<'m>(&self, scores: Tensor<'m>, expert: Axis) -> Tensor<'m> {
        match self.scores {
            Scores::Softmax => scores,
            Scores::Sigmoid => scores / (scores.sum(expert) + LEAST_SUM),
        }
    }

    /// The sum of what the chosen experts make of a layer's normalised input, weighed by their scores.
    fn experts<'m>(&self, m: &'m ModelBuilder, h: Tensor<'m>, axes: &Axes) -> Tensor<'m> {
        let Axes { expert, choice, embed, expert_hidden: hidden } = *axes;
        let logits = m.head("router", h, embed, expert);
        let scores = match self.scores {
            Scores::Softmax => logits.softmax(expert),
            Scores::Sigmoid => logits.sigmoid(),
        };
        let mut order = scores.detach();
        let bias = self.selection_bias.then(|| balance::selection_bias(m, expert, self.bias_rate));
        if let Some(bias) = bias {
            order = order + bias.detach();
        }
        if self.groups > 1 {
            order = self.in_best_groups(m, order, expert);
        }
        let ids = order.top_k(expert, choice);
        if let (Some(bias), true) = (bias, self.bias_rate != Some(0.0)) {
            balance::follow_load(m, bias, ids, expert, choice);
        }
        if self.balance_loss > 0.0 {
            balance::add_loss(m, self.balance_loss, self.probabilities(scores, expert), ids, expert, choice);
        }
        let mut weight = scores.take(ids, expert);
        if self.normalized {
            let sum = weight.sum(choice);
            weight = weight / if self.scores == Scores::Sigmoid { sum + LEAST_SUM } else { sum };
        }
        if self.scale != 1.0 {
            weight = weight * self.scale;
        }

        let gate = m.expert_linear("experts.gate", h, ids, expert, embed, hidden).silu();
        let up = m.expert_linear("experts.up", h, ids, expert, embed, hidden);
        // The last map is linear, so what goes into it is weighed: that is narrower than what comes out.
        let weighed = gate * up * weight;
        let routed = m.expert_linear("experts.down", weighed, ids, expert, hidden, embed).sum(choice);
        match self.shared_hidden {
            0 => routed,
            size => routed + swiglu(m, "shared.", h, embed, m.axis("shared_hidden", size)),
        }
    }
}

/// The axes of experts.
struct Axes {
    expert: Axis,
    choice: Axis,
    embed: Axis,
    expert_hidden: Axis,
}

/// A dense SwiGLU MLP.
fn swiglu<'m>(m: &'m ModelBuilder, name: &str, h: Tensor<'m>, embed: Axis, hidden: Axis) -> Tensor<'m> {
    let gate = m.linear(&format!("{name}gate"), h, embed, hidden).silu();
    let up = m.linear(&format!("{name}up"), h, embed, hidden);
    m.linear(&format!("{name}down"), gate * up, hidden, embed)
}

impl Architecture for Moe {
    fn hugging_face(&self) -> Option<NameMap> {
        self.name_map()
    }

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
        let vocab = m.axis("vocab", self.vocab);
        // What a token has for each choice lies together, so the choices are declared first.
        let choice = m.axis("choice", self.chosen);
        let expert = m.axis("expert", self.experts);
        let embed = m.axis("embed", self.embed);
        let axes = Axes { expert, choice, embed, expert_hidden: m.axis("expert_hidden", self.expert_hidden) };
        let epsilon = self.norm_epsilon;
        let attention = Attention::new(self, m, embed);
        let block = |m: &'m ModelBuilder, x, mlp: &dyn Fn(Tensor<'m>) -> Tensor<'m>| {
            let x = x + attention.of(m, m.rms_norm("attention_norm", x, embed, epsilon));
            x + mlp(m.rms_norm("mlp_norm", x, embed, epsilon))
        };

        let table = m.embedding("embedding", vocab, embed);
        let mut x = table.take(m.tokens(), vocab);
        if self.dense_layers > 0 {
            let hidden = m.axis("hidden", self.hidden);
            x = m.repeat("dense_layers", self.dense_layers, x, |m, x| {
                block(m, x, &|h| swiglu(m, "", h, embed, hidden))
            });
        }
        x = m.repeat("layers", self.layers - self.dense_layers, x, |m, x| {
            block(m, x, &|h| self.experts(m, h, &axes))
        });
        let x = m.rms_norm("norm", x, embed, epsilon);
        match self.tied {
            true => m.tied_head(x, table, embed),
            false => m.head("head", x, embed, vocab),
        }
    }
}

/// The attention of all layers.
enum Attention<'m> {
    Grouped(GroupedQuery<'m>),
    Latent(Latent<'m>),
}

impl<'m> Attention<'m> {
    fn new(c: &Moe, m: &'m ModelBuilder, embed: Axis) -> Attention<'m> {
        if let Some(latent) = c.latent {
            return Attention::Latent(Latent::new(m, embed, c.latent_sizes(latent), &c.rope));
        }
        let kv_heads = c.key_value_heads.unwrap_or(c.heads);
        let kv_head = m.axis("kv_head", kv_heads);
        let group = m.axis("group", c.heads / kv_heads);
        let head_dim = m.axis("head_dim", c.head_dim.unwrap_or(c.embed / c.heads));
        Attention::Grouped(GroupedQuery {
            embed,
            kv_head,
            group,
            head_dim,
            rope: m.rotary_table(head_dim, &c.rope),
            window: c.window,
            bias: c.query_key_value_bias,
            norm: c.query_key_norm.then_some(c.norm_epsilon),
        })
    }

    fn of(&self, m: &'m ModelBuilder, h: Tensor<'m>) -> Tensor<'m> {
        match self {
            Attention::Grouped(attention) => attention.of(m, h),
            Attention::Latent(attention) => attention.of(m, h),
        }
    }
}

fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(parse_config::<Moe>(FAMILY, config)?.check()?))
}

/// The family, with sizes for tests and benches.
pub(crate) fn family() -> Family {
    Family {
        name: FAMILY.to_owned(),
        parse,
        presets: [
            (
                "moe-tiny".to_owned(),
                json!({
                    "vocab": 97, "context": 64, "layers": 2, "embed": 24, "heads": 4, "key_value_heads": 2,
                    "experts": 5, "chosen": 2, "expert_hidden": 20,
                }),
            ),
            // DeepSeek-V3 in small: latent attention, a dense layer first, a shared expert, groups, and a bias and
            // a loss that balance the load.
            (
                "moe-latent-tiny".to_owned(),
                json!({
                    "vocab": 97, "context": 64, "layers": 3, "dense_layers": 1, "embed": 24, "heads": 3,
                    "latent": { "query_latent": 14, "latent": 10, "content_dim": 6, "rotary_dim": 4, "value_dim": 5 },
                    "hidden": 40, "experts": 8, "chosen": 3, "expert_hidden": 12, "shared_hidden": 12,
                    "scores": "sigmoid", "scale": 2.5, "groups": 4, "chosen_groups": 2, "selection_bias": true,
                    "balance_loss": 0.01,
                }),
            ),
            // 23M parameters, of which a token uses 9M.
            (
                "moe-23m".to_owned(),
                json!({
                    "vocab": 8192, "context": 1024, "layers": 6, "embed": 288, "heads": 6, "key_value_heads": 2,
                    "experts": 16, "chosen": 4, "expert_hidden": 192, "tied": true,
                }),
            ),
        ]
        .into_iter()
        .chain(presets(FAMILY))
        .collect(),
        // A `deepseek_v3` with experts comes here by way of the family `mla`.
        model_types: ["mixtral", "qwen3_moe"].map(str::to_owned).to_vec(),
        parse_hugging_face,
    }
}
