//! Llama and its kin: rotary positions, RMSNorm, grouped-query attention and
//! SwiGLU (Touvron et al. 2023), with the options that make it Mistral (a
//! window), Qwen2 (biases) or Qwen3 (normalised queries and keys).

use super::config::{
    Fields, divides, norm_epsilon, plain_rope, positive, positive_number, rope_parameters, rotary,
    standard_deviation,
};
use super::published::presets;
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, Family, Linear, ModelBuilder, ModelError, Result, Rope, Tensor};
use diptych_ir::Initializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "llama";

/// The configuration of a Llama.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llama {
    /// Number of token ids.
    pub vocab: usize,
    /// The most positions of a sequence.
    pub context: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / key_value_heads` query heads.
    pub key_value_heads: usize,
    /// Width of a head; `embed / heads` if not given.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Width of the MLP.
    pub hidden: usize,
    /// The rotary embedding.
    #[serde(default = "plain_rope")]
    pub rope: Rope,
    /// What the norms add to the mean square.
    #[serde(default = "norm_epsilon")]
    pub norm_epsilon: f64,
    /// How many positions a query sees, its own included, if not all.
    #[serde(default)]
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases (Qwen2).
    #[serde(default)]
    pub query_key_value_bias: bool,
    /// Whether the output of attention has a bias.
    #[serde(default)]
    pub attention_output_bias: bool,
    /// Whether the MLP's maps have biases.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Whether each head's query and key are normalised before the rotation (Qwen3).
    #[serde(default)]
    pub query_key_norm: bool,
    /// Whether the head shares the embedding's table.
    #[serde(default)]
    pub tied: bool,
    /// The type in which matrices are multiplied.
    #[serde(default)]
    pub dtype: Precision,
    /// Standard deviation of matrices at the start: 0.02, as transformers'
    /// `initializer_range` has it for these models.
    #[serde(default = "standard_deviation")]
    pub standard_deviation: f64,
}

impl Llama {
    /// The configuration, checked, with the width of a head filled in.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn check(self) -> Result<Llama> {
        positive(
            FAMILY,
            &[
                ("vocab", self.vocab),
                ("context", self.context),
                ("layers", self.layers),
                ("embed", self.embed),
                ("heads", self.heads),
                ("key_value_heads", self.key_value_heads),
                ("hidden", self.hidden),
                ("head_dim", self.head_dim.unwrap_or(1)),
                ("window", self.window.unwrap_or(1)),
            ],
        )?;
        divides(FAMILY, ("key_value_heads", self.key_value_heads), ("heads", self.heads))?;
        if self.head_dim.is_none() {
            divides(FAMILY, ("heads", self.heads), ("embed", self.embed))?;
        }
        positive_number(FAMILY, "norm_epsilon", self.norm_epsilon)?;
        positive_number(FAMILY, "standard_deviation", self.standard_deviation)?;
        rotary(FAMILY, &self.rope, ("head_dim", self.head_width()))?;
        Ok(Llama { head_dim: Some(self.head_width()), ..self })
    }

    fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.embed / self.heads)
    }
}

impl Architecture for Llama {
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
        let kv_head = m.axis("kv_head", self.key_value_heads);
        let group = m.axis("group", self.heads / self.key_value_heads);
        let head_dim = m.axis("head_dim", self.head_width());
        let hidden = m.axis("hidden", self.hidden);
        let epsilon = self.norm_epsilon;
        let qkv = Linear { bias: self.query_key_value_bias, ..Linear::default() };
        let out = Linear { bias: self.attention_output_bias, ..Linear::default() };
        let mlp = Linear { bias: self.mlp_bias, ..Linear::default() };
        let scale = (self.head_width() as f64).powf(-0.5);

        let table = m.embedding("embedding", vocab, embed);
        let rope = m.rotary_table(head_dim, &self.rope);
        let x = m.repeat("layers", self.layers, table.take(m.tokens(), vocab), |m, x| {
            let h = m.rms_norm("attention_norm", x, embed, epsilon);
            let mut q = m.linear_with("q", h, embed, [kv_head, group, head_dim], qkv);
            let mut k = m.linear_with("k", h, embed, [kv_head, head_dim], qkv);
            if self.query_key_norm {
                q = m.rms_norm("q_norm", q, head_dim, epsilon);
                k = m.rms_norm("k_norm", k, head_dim, epsilon);
            }
            let q = q.rotary(head_dim, &rope);
            let k = k.rotary(head_dim, &rope).history_window(self.window);
            let v = m.linear_with("v", h, embed, [kv_head, head_dim], qkv).history_window(self.window);
            let mut scores = (q.dot(k, head_dim) * scale).causal();
            if let Some(window) = self.window {
                scores = scores.window(window);
            }
            let seen = scores.softmax(past).dot(v, past);
            let x = x + m.linear_with("o", seen, [kv_head, group, head_dim], embed, out);
            let h = m.rms_norm("mlp_norm", x, embed, epsilon);
            let gate = m.linear_with("gate", h, embed, hidden, mlp).silu();
            let up = m.linear_with("up", h, embed, hidden, mlp);
            x + m.linear_with("down", gate * up, hidden, embed, mlp)
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
        let mut layer = |name: &str, param: &str, dims: &str| {
            tensors.push(tensor(&format!("model.layers.{{layer}}.{name}"), &format!("layers.{param}"), dims));
        };
        layer("input_layernorm.weight", "attention_norm", "embed");
        layer("post_attention_layernorm.weight", "mlp_norm", "embed");
        let maps = [
            ("self_attn.q_proj", "q", "kv_head group head_dim", "embed", self.query_key_value_bias),
            ("self_attn.k_proj", "k", "kv_head head_dim", "embed", self.query_key_value_bias),
            ("self_attn.v_proj", "v", "kv_head head_dim", "embed", self.query_key_value_bias),
            ("self_attn.o_proj", "o", "embed", "kv_head group head_dim", self.attention_output_bias),
            ("mlp.gate_proj", "gate", "hidden", "embed", self.mlp_bias),
            ("mlp.up_proj", "up", "hidden", "embed", self.mlp_bias),
            ("mlp.down_proj", "down", "embed", "hidden", self.mlp_bias),
        ];
        for (name, param, to, from, bias) in maps {
            layer(&format!("{name}.weight"), param, &format!("{to}, {from}"));
            if bias {
                layer(&format!("{name}.bias"), &format!("{param}.bias"), to);
            }
        }
        if self.query_key_norm {
            layer("self_attn.q_norm.weight", "q_norm", "head_dim");
            layer("self_attn.k_norm.weight", "k_norm", "head_dim");
        }
        let config = self.hugging_face_config()?;
        Some(NameMap { config, prefix: "", ignored: &["rotary_emb.inv_freq"], tensors })
    }
}

impl Llama {
    /// The `config.json` of the model type that has these options, if there is one.
    fn hugging_face_config(&self) -> Option<Value> {
        let options = (
            self.window.is_some(),
            self.query_key_value_bias,
            self.attention_output_bias,
            self.query_key_norm,
            self.mlp_bias,
        );
        let (model_type, class, own) = match options {
            (false, bias, same, false, mlp) if bias == same => {
                ("llama", "LlamaForCausalLM", json!({ "attention_bias": bias, "mlp_bias": mlp }))
            }
            (true, false, false, false, false) => {
                ("mistral", "MistralForCausalLM", json!({ "sliding_window": self.window }))
            }
            (false, true, false, false, false) => {
                ("qwen2", "Qwen2ForCausalLM", json!({ "use_sliding_window": false }))
            }
            (false, bias, same, true, false) if bias == same => {
                let own = json!({ "attention_bias": bias, "use_sliding_window": false });
                ("qwen3", "Qwen3ForCausalLM", own)
            }
            _ => return None,
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "num_hidden_layers": self.layers,
            "hidden_size": self.embed,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width(),
            "intermediate_size": self.hidden,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_epsilon,
            "rope_parameters": rope_parameters(&self.rope),
            "tie_word_embeddings": self.tied,
            "initializer_range": self.standard_deviation,
            "dtype": "float32",
        });
        if let (Value::Object(all), Value::Object(own)) = (&mut config, own) {
            all.extend(own);
        }
        Some(config)
    }
}

fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(parse_config::<Llama>(FAMILY, config)?.check()?))
}

fn parse_hugging_face(config: &Value) -> Result<Box<dyn Architecture>> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or(FAMILY).to_owned();
    let mut fields = Fields::new(&model_type, config)?;
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    fields.one_of("hidden_act", &[json!("silu")])?;
    fields.ignore(&["max_window_layers"]);
    let layer_types: Option<Vec<String>> = fields.optional("layer_types")?;
    let layers: usize = fields.required("num_hidden_layers")?;
    let heads: usize = fields.required("num_attention_heads")?;
    let bias = match model_type.as_str() {
        "qwen2" => true,
        "mistral" => false,
        _ => fields.or("attention_bias", false)?,
    };
    let window: Option<usize> = fields.optional("sliding_window")?;
    let window = if model_type == "mistral" { window } else { None };
    fields.one_of("use_sliding_window", &[json!(false)])?;
    fields.one_of("use_mrope", &[json!(false)])?;
    let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
    if let Some(other) = layer_types.iter().flatten().find(|kind| *kind != expected) {
        let problem = format!("`layer_types` has `{other}`; all layers must be `{expected}`");
        return Err(ModelError::config(&model_type, problem));
    }
    let llama = Llama {
        vocab: fields.required("vocab_size")?,
        context: fields.required("max_position_embeddings")?,
        layers,
        embed: fields.required("hidden_size")?,
        heads,
        key_value_heads: fields.or("num_key_value_heads", heads)?,
        head_dim: fields.optional("head_dim")?,
        hidden: fields.required("intermediate_size")?,
        rope: fields.rope()?,
        norm_epsilon: fields.required("rms_norm_eps")?,
        window,
        query_key_value_bias: bias,
        attention_output_bias: bias && model_type != "qwen2",
        mlp_bias: fields.or("mlp_bias", false)?,
        query_key_norm: model_type == "qwen3",
        tied: fields.or("tie_word_embeddings", false)?,
        dtype: Precision::F32,
        standard_deviation: deviation,
    };
    fields.finish()?;
    Ok(Box::new(llama.check()?))
}

/// The family, with sizes for tests and benches, and the published ones.
pub(crate) fn family() -> Family {
    let sized = |vocab, context, layers, embed, heads, key_value_heads, hidden, tied| {
        json!({
            "vocab": vocab, "context": context, "layers": layers, "embed": embed, "heads": heads,
            "key_value_heads": key_value_heads, "hidden": hidden, "tied": tied,
        })
    };
    Family {
        name: FAMILY.to_owned(),
        parse,
        presets: [
            ("llama-tiny".to_owned(), sized(97, 64, 2, 24, 4, 2, 40, false)),
            // The three of the bench have the same number of parameters within 2%:
            // what one saves on attention goes to the MLP.
            ("bench-multi-head".to_owned(), sized(4096, 2048, 6, 256, 8, 8, 640, true)),
            ("bench-grouped-query".to_owned(), sized(4096, 2048, 6, 256, 8, 2, 768, true)),
            // The shape of llama2.c's stories15M.
            ("llama-15m".to_owned(), sized(32000, 256, 6, 288, 6, 6, 768, true)),
            // The shape of SmolLM-135M.
            ("llama-135m".to_owned(), sized(49152, 2048, 30, 576, 9, 3, 1536, true)),
        ]
        .into_iter()
        .chain(presets(FAMILY))
        .collect(),
        model_types: ["llama", "mistral", "qwen2", "qwen3"].map(str::to_owned).to_vec(),
        parse_hugging_face,
    }
}
