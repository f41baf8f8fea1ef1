//! Multi-head latent attention as DeepSeek has it (DeepSeek-V2, 2024, section
//! 2.1), with dense SwiGLU blocks; with experts it is in the family `moe`.

use super::attention::{Latent, LatentSizes};
use super::config::{Fields, plain_rope, positive, positive_number, rope_parameters, rotary};
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, Family, ModelBuilder, Result, Rope, Tensor};
use diptych_ir::Initializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "mla";

/// The configuration of a model with latent attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mla {
    /// Number of token ids.
    pub vocab: usize,
    /// The most positions of a sequence.
    pub context: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the latent of queries; queries have none if not given.
    #[serde(default)]
    pub query_latent: Option<usize>,
    /// Width of the latent that keys and values share.
    pub latent: usize,
    /// Width of a head's query and key that is not rotated.
    pub content_dim: usize,
    /// Width of a head's query and key that is rotated; the key's is shared by
    /// all heads.
    pub rotary_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Width of the MLP.
    pub hidden: usize,
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
    /// Standard deviation of matrices at the start: 0.006 (DeepSeek-V3, 2024,
    /// section 4.2).
    #[serde(default = "standard_deviation")]
    pub standard_deviation: f64,
}

fn norm_epsilon() -> f64 {
    1e-6
}

fn standard_deviation() -> f64 {
    0.006
}

impl Mla {
    /// The configuration, checked.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn check(self) -> Result<Mla> {
        positive(
            FAMILY,
            &[
                ("vocab", self.vocab),
                ("context", self.context),
                ("layers", self.layers),
                ("embed", self.embed),
                ("heads", self.heads),
                ("query_latent", self.query_latent.unwrap_or(1)),
                ("latent", self.latent),
                ("content_dim", self.content_dim),
                ("rotary_dim", self.rotary_dim),
                ("value_dim", self.value_dim),
                ("hidden", self.hidden),
            ],
        )?;
        positive_number(FAMILY, "norm_epsilon", self.norm_epsilon)?;
        positive_number(FAMILY, "standard_deviation", self.standard_deviation)?;
        rotary(FAMILY, &self.rope, ("rotary_dim", self.rotary_dim))?;
        Ok(self)
    }
}

impl Mla {
    fn sizes(&self) -> LatentSizes {
        LatentSizes {
            heads: self.heads,
            query_latent: self.query_latent,
            latent: self.latent,
            content: self.content_dim,
            rotary: self.rotary_dim,
            value: self.value_dim,
        }
    }
}

impl Architecture for Mla {
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
        let embed = m.axis("embed", self.embed);
        let attention = Latent::new(m, embed, self.sizes(), &self.rope);
        let hidden = m.axis("hidden", self.hidden);
        let epsilon = self.norm_epsilon;

        let table = m.embedding("embedding", vocab, embed);
        let x = m.repeat("layers", self.layers, table.take(m.tokens(), vocab), |m, x| {
            let x = x + attention.of(m, m.rms_norm("attention_norm", x, embed, epsilon));
            let h = m.rms_norm("mlp_norm", x, embed, epsilon);
            let gate = m.linear("gate", h, embed, hidden).silu();
            x + m.linear("down", gate * m.linear("up", h, embed, hidden), hidden, embed)
        });
        let x = m.rms_norm("norm", x, embed, epsilon);
        match self.tied {
            true => m.tied_head(x, table, embed),
            false => m.head("head", x, embed, vocab),
        }
    }

    fn hugging_face(&self) -> Option<NameMap> {
        let mut tensors = vec![
            tensor("model.embed_tokens.weight", "embedding", "vocab, embed"),
            tensor("model.norm.weight", "norm", "embed"),
        ];
        if !self.tied {
            tensors.push(tensor("lm_head.weight", "head", "vocab, embed"));
        }
        let mut layer = |name: &str, param: &str, dims: String| {
            let name = format!("model.layers.{{layer}}.{name}.weight");
            tensors.push(tensor(&name, &format!("layers.{param}"), dims));
        };
        layer("input_layernorm", "attention_norm", "embed".into());
        layer("post_attention_layernorm", "mlp_norm", "embed".into());
        layer("mlp.gate_proj", "gate", "hidden, embed".into());
        layer("mlp.up_proj", "up", "hidden, embed".into());
        layer("mlp.down_proj", "down", "embed, hidden".into());
        tensors.extend(Latent::rows("model.layers.{layer}", "layers", self.sizes()));
        let (content, rotary, value) = (self.content_dim, self.rotary_dim, self.value_dim);
        let config = json!({
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "num_hidden_layers": self.layers,
            "first_k_dense_replace": self.layers,
            "hidden_size": self.embed,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": rotary,
            "q_lora_rank": self.query_latent,
            "kv_lora_rank": self.latent,
            "qk_nope_head_dim": content,
            "qk_rope_head_dim": rotary,
            "qk_head_dim": content + rotary,
            "v_head_dim": value,
            "intermediate_size": self.hidden,
            "hidden_act": "silu",
            "attention_bias": false,
            "rope_interleave": true,
            "rope_parameters": rope_parameters(&self.rope),
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            "initializer_range": self.standard_deviation,
            "dtype": "float32",
        });
        Some(NameMap { config, prefix: "", ignored: &["rotary_emb.inv_freq"], tensors })
    }
}

fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(parse_config::<Mla>(FAMILY, config)?.check()?))
}

fn parse_hugging_face(config: &Value) -> Result<Box<dyn Architecture>> {
    let model_type = "deepseek_v3";
    let mut fields = Fields::new(model_type, config)?;
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    fields.one_of("hidden_act", &[json!("silu")])?;
    fields.one_of("attention_bias", &[json!(false)])?;
    fields.one_of("rope_interleave", &[json!(true)])?;
    // These have no effect where no layer has experts, and what follows from other fields.
    fields.ignore(&[
        "moe_intermediate_size",
        "moe_layer_freq",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
    ]);
    fields.ignore(&[
        "norm_topk_prob",
        "num_experts_per_tok",
        "output_router_logits",
        "routed_scaling_factor",
    ]);
    fields.ignore(&["scoring_func", "topk_group", "topk_method", "aux_loss_alpha", "seq_aux", "ep_size"]);
    fields.ignore(&["num_nextn_predict_layers"]);
    let layers: usize = fields.required("num_hidden_layers")?;
    let dense: usize = fields.required("first_k_dense_replace")?;
    if dense < layers {
        return super::moe::parse_hugging_face(config);
    }
    let heads: usize = fields.required("num_attention_heads")?;
    fields.one_of("num_key_value_heads", &[json!(heads)])?;
    let mla = Mla {
        vocab: fields.required("vocab_size")?,
        context: fields.required("max_position_embeddings")?,
        layers,
        embed: fields.required("hidden_size")?,
        heads,
        query_latent: fields.optional("q_lora_rank")?,
        latent: fields.required("kv_lora_rank")?,
        content_dim: fields.required("qk_nope_head_dim")?,
        rotary_dim: fields.required("qk_rope_head_dim")?,
        value_dim: fields.required("v_head_dim")?,
        hidden: fields.required("intermediate_size")?,
        rope: fields.rope()?,
        norm_epsilon: fields.required("rms_norm_eps")?,
        tied: fields.or("tie_word_embeddings", false)?,
        dtype: Precision::F32,
        standard_deviation: deviation,
    };
    fields.one_of("head_dim", &[json!(mla.rotary_dim)])?;
    fields.one_of("qk_head_dim", &[json!(mla.content_dim + mla.rotary_dim)])?;
    fields.finish()?;
    Ok(Box::new(mla.check()?))
}

/// The family, with sizes for tests and benches.
pub(crate) fn family() -> Family {
    Family {
        name: FAMILY.to_owned(),
        parse,
        presets: vec![
            (
                "mla-tiny".to_owned(),
                json!({
                    "vocab": 97, "context": 64, "layers": 2, "embed": 24, "heads": 3, "query_latent": 14,
                    "latent": 10, "content_dim": 6, "rotary_dim": 4, "value_dim": 5, "hidden": 40,
                }),
            ),
            // For measuring where which form of attention is the better one.
            (
                "latent-512".to_owned(),
                json!({
                    "vocab": 4096, "context": 8192, "layers": 4, "embed": 512, "heads": 8, "latent": 128,
                    "content_dim": 64, "rotary_dim": 32, "value_dim": 64, "hidden": 1408, "tied": true,
                    "standard_deviation": 0.02,
                }),
            ),
            // As many parameters as `bench-multi-head` within 2%, started as wide.
            (
                "bench-latent".to_owned(),
                json!({
                    "vocab": 4096, "context": 2048, "layers": 6, "embed": 256, "heads": 8, "latent": 64,
                    "content_dim": 32, "rotary_dim": 16, "value_dim": 32, "hidden": 704, "tied": true,
                    "standard_deviation": 0.02,
                }),
            ),
        ],
        model_types: vec!["deepseek_v3".to_owned()],
        parse_hugging_face,
    }
}
