//! Multi-head latent attention as DeepSeek has it (DeepSeek-V2, 2024, section
//! 2.1), with dense SwiGLU blocks. It is written naively: keys and values are
//! compressed, expanded for each head, and kept expanded.

use super::config::{Fields, positive, positive_number, rope_parameters, rotary};
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, Family, ModelBuilder, ModelError, Result, Rope, Tensor};
use diptych_ir::Initializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "mla";

/// What the norms of the latents add to the mean square, whatever
/// `norm_epsilon` is (the default of DeepSeek's RMSNorm).
const LATENT_NORM_EPSILON: f64 = 1e-6;

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

fn plain_rope() -> Rope {
    Rope { theta: 10000.0, scaling: Default::default() }
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
        let past = m.past();
        let vocab = m.axis("vocab", self.vocab);
        let embed = m.axis("embed", self.embed);
        let query_latent = self.query_latent.map(|size| m.axis("query_latent", size));
        let latent = m.axis("latent", self.latent);
        let kv_head = m.axis("kv_head", self.heads);
        let group = m.axis("group", 1);
        let content = m.axis("content", self.content_dim);
        let rotary = m.axis("rotary", self.rotary_dim);
        let head_dim = m.axis("head_dim", self.content_dim + self.rotary_dim);
        let value = m.axis("value", self.value_dim);
        let hidden = m.axis("hidden", self.hidden);
        let epsilon = self.norm_epsilon;
        let width = (self.content_dim + self.rotary_dim) as f64;
        let scale = width.powf(-0.5) * self.rope.score_factor();

        let table = m.embedding("embedding", vocab, embed);
        let rope = m.rotary_table(rotary, &self.rope);
        let x = m.repeat("layers", self.layers, table.take(m.tokens(), vocab), |m, x| {
            let h = m.rms_norm("attention_norm", x, embed, epsilon);
            let (source, from) = match query_latent {
                Some(latent) => {
                    let compressed = m.linear("q_compress", h, embed, latent);
                    (m.rms_norm("q_latent_norm", compressed, latent, LATENT_NORM_EPSILON), latent)
                }
                None => (h, embed),
            };
            let q_content = m.linear("q_content", source, from, [kv_head, group, content]);
            let q_rotary = m.linear("q_rotary", source, from, [kv_head, group, rotary]).rotary(rotary, &rope);
            let q = m.concat(&[(q_content, content), (q_rotary, rotary)], head_dim);

            let compressed = m.linear("kv_compress", h, embed, latent);
            let compressed = m.rms_norm("kv_latent_norm", compressed, latent, LATENT_NORM_EPSILON);
            let k_content = m.linear("k_content", compressed, latent, [kv_head, content]);
            let k_rotary = m.linear("k_rotary", h, embed, rotary).rotary(rotary, &rope);
            let k = m.concat(&[(k_content, content), (k_rotary, rotary)], head_dim).history();
            let v = m.linear("v", compressed, latent, [kv_head, value]).history();

            let seen = (q.dot(k, head_dim) * scale).causal().softmax(past).dot(v, past);
            let x = x + m.linear("o", seen, [kv_head, group, value], embed);
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
        let (content, rotary, value) = (self.content_dim, self.rotary_dim, self.value_dim);
        let (source, from) = match self.query_latent {
            Some(_) => {
                layer("self_attn.q_a_proj", "q_compress", "query_latent, embed".into());
                layer("self_attn.q_a_layernorm", "q_latent_norm", "query_latent".into());
                ("self_attn.q_b_proj", "query_latent")
            }
            None => ("self_attn.q_proj", "embed"),
        };
        // DeepSeek stores the rotated elements of a pair beside each other.
        let width = content + rotary;
        layer(source, "q_content", format!("kv_head group content@0/{width}, {from}"));
        layer(source, "q_rotary", format!("kv_head group rotary~@{content}/{width}, {from}"));
        let width = self.latent + rotary;
        let compress = "self_attn.kv_a_proj_with_mqa";
        layer(compress, "kv_compress", format!("latent@0/{width}, embed"));
        layer(compress, "k_rotary", format!("rotary~@{}/{width}, embed", self.latent));
        layer("self_attn.kv_a_layernorm", "kv_latent_norm", "latent".into());
        let width = content + value;
        layer("self_attn.kv_b_proj", "k_content", format!("kv_head content@0/{width}, latent"));
        layer("self_attn.kv_b_proj", "v", format!("kv_head value@{content}/{width}, latent"));
        layer("self_attn.o_proj", "o", "embed, kv_head group value".into());
        layer("input_layernorm", "attention_norm", "embed".into());
        layer("post_attention_layernorm", "mlp_norm", "embed".into());
        layer("mlp.gate_proj", "gate", "hidden, embed".into());
        layer("mlp.up_proj", "up", "hidden, embed".into());
        layer("mlp.down_proj", "down", "embed, hidden".into());
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
        let problem = format!(
            "`first_k_dense_replace` is {dense}, so layers from there on have experts, which this family lacks; \
             it must be at least `num_hidden_layers` ({layers})"
        );
        return Err(ModelError::config(model_type, problem));
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
