//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each block,
//! GELU by tanh, biases everywhere, and a head that shares the embedding.

use super::config::{Fields, divides, norm_epsilon, positive, positive_number, standard_deviation};
use super::published::presets;
use crate::architecture::{Precision, parse_config};
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, Family, Linear, ModelBuilder, Result, Tensor};
use diptych_ir::Initializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FAMILY: &str = "gpt2";

/// The configuration of a GPT-2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpt2 {
    /// Number of token ids.
    pub vocab: usize,
    /// The most positions of a sequence: each has an embedding.
    pub context: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// Heads, each `embed / heads` wide.
    pub heads: usize,
    /// Width of the MLP; `4 · embed` if not given.
    #[serde(default)]
    pub hidden: Option<usize>,
    /// What the norms add to the variance.
    #[serde(default = "norm_epsilon")]
    pub norm_epsilon: f64,
    /// The type in which matrices are multiplied.
    #[serde(default)]
    pub dtype: Precision,
    /// Standard deviation of matrices and embeddings at the start. Those that
    /// write to the residual stream start at this over sqrt(2 · layers)
    /// (section 2.3 of the paper, as transformers reads it).
    #[serde(default = "standard_deviation")]
    pub standard_deviation: f64,
}

impl Gpt2 {
    /// The configuration, checked.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn check(self) -> Result<Gpt2> {
        positive(
            FAMILY,
            &[
                ("vocab", self.vocab),
                ("context", self.context),
                ("layers", self.layers),
                ("embed", self.embed),
                ("heads", self.heads),
                ("hidden", self.hidden.unwrap_or(1)),
            ],
        )?;
        divides(FAMILY, ("heads", self.heads), ("embed", self.embed))?;
        positive_number(FAMILY, "norm_epsilon", self.norm_epsilon)?;
        positive_number(FAMILY, "standard_deviation", self.standard_deviation)?;
        Ok(self)
    }
}

impl Architecture for Gpt2 {
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
        let position = m.axis("position", self.context);
        let embed = m.axis("embed", self.embed);
        let kv_head = m.axis("kv_head", self.heads);
        let group = m.axis("group", 1);
        let head_dim = m.axis("head_dim", self.embed / self.heads);
        let hidden = m.axis("hidden", self.hidden.unwrap_or(4 * self.embed));
        let epsilon = self.norm_epsilon;
        let inner = Linear { bias: true, initializer: None };
        let narrow = self.standard_deviation / (2.0 * self.layers as f64).sqrt();
        let residual =
            Linear { bias: true, initializer: Some(Initializer::Normal { standard_deviation: narrow }) };
        let scale = (self.embed as f64 / self.heads as f64).powf(-0.5);

        let table = m.embedding("embedding", vocab, embed);
        let positions = m.embedding("position_embedding", position, embed);
        let x = table.take(m.tokens(), vocab) + positions.take(m.index(m.time()), position);
        let x = m.repeat("layers", self.layers, x, |m, x| {
            let h = m.layer_norm("attention_norm", x, embed, epsilon);
            let q = m.linear_with("q", h, embed, [kv_head, group, head_dim], inner);
            let k = m.linear_with("k", h, embed, [kv_head, head_dim], inner).history();
            let v = m.linear_with("v", h, embed, [kv_head, head_dim], inner).history();
            let seen = (q.dot(k, head_dim) * scale).causal().softmax(past).dot(v, past);
            let x = x + m.linear_with("o", seen, [kv_head, group, head_dim], embed, residual);
            let h = m.layer_norm("mlp_norm", x, embed, epsilon);
            let h = m.linear_with("up", h, embed, hidden, inner).gelu_tanh();
            x + m.linear_with("down", h, hidden, embed, residual)
        });
        m.tied_head(m.layer_norm("norm", x, embed, epsilon), table, embed)
    }

    fn hugging_face(&self) -> Option<NameMap> {
        let mut tensors = vec![
            tensor("transformer.wte.weight", "embedding", "vocab, embed"),
            tensor("transformer.wpe.weight", "position_embedding", "position, embed"),
            tensor("transformer.ln_f.weight", "norm", "embed"),
            tensor("transformer.ln_f.bias", "norm.bias", "embed"),
        ];
        // Weights are stored [in, out]; query, key and value are one tensor.
        let maps = [
            ("attn.c_attn", "q", "embed", "_@0/3 kv_head group head_dim"),
            ("attn.c_attn", "k", "embed", "_@1/3 kv_head head_dim"),
            ("attn.c_attn", "v", "embed", "_@2/3 kv_head head_dim"),
            ("attn.c_proj", "o", "kv_head group head_dim", "embed"),
            ("mlp.c_fc", "up", "embed", "hidden"),
            ("mlp.c_proj", "down", "hidden", "embed"),
            ("ln_1", "attention_norm", "", "embed"),
            ("ln_2", "mlp_norm", "", "embed"),
        ];
        for (name, param, from, to) in maps {
            let name = format!("transformer.h.{{layer}}.{name}");
            let dims = if from.is_empty() { to.to_owned() } else { format!("{from}, {to}") };
            tensors.push(tensor(&format!("{name}.weight"), &format!("layers.{param}"), dims));
            tensors.push(tensor(&format!("{name}.bias"), &format!("layers.{param}.bias"), to));
        }
        let config = json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab,
            "n_positions": self.context,
            "n_layer": self.layers,
            "n_embd": self.embed,
            "n_head": self.heads,
            "n_inner": self.hidden,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.norm_epsilon,
            "initializer_range": self.standard_deviation,
            "tie_word_embeddings": true,
            "dtype": "float32",
        });
        // Old checkpoints hold the causal mask, and some the head once more.
        let ignored = &[".attn.bias", ".attn.masked_bias", "lm_head.weight"];
        Some(NameMap { config, prefix: "transformer.", ignored, tensors })
    }
}

fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(parse_config::<Gpt2>(FAMILY, config)?.check()?))
}

fn parse_hugging_face(config: &Value) -> Result<Box<dyn Architecture>> {
    let mut fields = Fields::new(FAMILY, config)?;
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    fields.one_of("activation_function", &[json!("gelu_new"), json!("gelu_pytorch_tanh")])?;
    fields.one_of("add_cross_attention", &[json!(false)])?;
    fields.one_of("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    fields.one_of("scale_attn_weights", &[json!(true)])?;
    fields.one_of("tie_word_embeddings", &[json!(true)])?;
    fields.ignore(&["attn_pdrop", "embd_pdrop", "resid_pdrop", "reorder_and_upcast_attn", "n_ctx"]);
    fields.ignore(&["summary_activation", "summary_first_dropout", "summary_proj_to_labels"]);
    fields.ignore(&["summary_type", "summary_use_proj"]);
    let gpt2 = Gpt2 {
        vocab: fields.required("vocab_size")?,
        context: fields.required("n_positions")?,
        layers: fields.required("n_layer")?,
        embed: fields.required("n_embd")?,
        heads: fields.required("n_head")?,
        hidden: fields.optional("n_inner")?,
        norm_epsilon: fields.required("layer_norm_epsilon")?,
        dtype: Precision::F32,
        standard_deviation: deviation,
    };
    fields.finish()?;
    Ok(Box::new(gpt2.check()?))
}

/// The family, with a size for tests and the published ones.
pub(crate) fn family() -> Family {
    let sized = |vocab, context, layers, embed, heads| json!({ "vocab": vocab, "context": context, "layers": layers, "embed": embed, "heads": heads });
    Family {
        name: FAMILY.to_owned(),
        parse,
        presets: [("gpt2-tiny".to_owned(), sized(97, 64, 2, 24, 3))]
            .into_iter()
            .chain(presets(FAMILY))
            .collect(),
        model_types: vec!["gpt2".to_owned()],
        parse_hugging_face,
    }
}
