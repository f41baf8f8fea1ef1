//! Mixtral, Qwen3-MoE and DeepSeek-V3 as transformers keeps them: names of
//! tensors and fields of `config.json`. It knows nothing of graphs.

use super::super::attention::{GroupedQuery, Latent};
use super::super::config::{Fields, rope_parameters};
use super::{LatentAttention, Moe, Scores};
use crate::architecture::Precision;
use crate::hugging_face::{NameMap, tensor};
use crate::{Architecture, ModelError, Result};
use serde_json::{Value, json};

/// The names of the tensors of a routed layer.
struct RouterNames {
    block: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

const MIXTRAL: RouterNames = RouterNames { block: "block_sparse_moe", gate: "w1", up: "w3", down: "w2" };
const OTHERS: RouterNames = RouterNames { block: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" };

impl Moe {
    /// How transformers writes this model, if it can.
    pub(super) fn name_map(&self) -> Option<NameMap> {
        let config = self.hugging_face_config()?;
        let names = if config["model_type"] == "mixtral" { MIXTRAL } else { OTHERS };
        let mut tensors = vec![
            tensor("model.embed_tokens.weight", "embedding", "vocab, embed"),
            tensor("model.norm.weight", "norm", "embed"),
        ];
        if !self.tied {
            tensors.push(tensor("lm_head.weight", "head", "vocab, embed"));
        }
        let routed = match self.dense_layers {
            0 => "model.layers.{layer}".to_owned(),
            dense => format!("model.layers.{{layer+{dense}}}"),
        };
        let mut stacks = vec![(routed.as_str(), "layers")];
        if self.dense_layers > 0 {
            stacks.push(("model.layers.{layer}", "dense_layers"));
        }
        for (layer, params) in stacks {
            tensors.extend(match self.latent {
                Some(latent) => Latent::rows(layer, params, self.latent_sizes(latent)),
                None => GroupedQuery::rows(layer, params, self.query_key_value_bias, self.query_key_norm),
            });
            for (name, param) in
                [("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm")]
            {
                tensors.push(tensor(
                    &format!("{layer}.{name}.weight"),
                    &format!("{params}.{param}"),
                    "embed",
                ));
            }
        }
        let mut mlp = |name: &str, params: &str, hidden: &str, names: &RouterNames| {
            for (own, param, dims) in [
                (names.gate, "gate", format!("{hidden}, embed")),
                (names.up, "up", format!("{hidden}, embed")),
                (names.down, "down", format!("embed, {hidden}")),
            ] {
                tensors.push(tensor(&format!("{name}.{own}.weight"), &format!("{params}{param}"), dims));
            }
        };
        if self.dense_layers > 0 {
            mlp("model.layers.{layer}.mlp", "dense_layers.", "hidden", &OTHERS);
        }
        let block = format!("{routed}.{}", names.block);
        mlp(&format!("{block}.experts.{{expert}}"), "layers.experts.", "expert_hidden", &names);
        if self.shared_hidden > 0 {
            mlp(&format!("{block}.shared_experts"), "layers.shared.", "shared_hidden", &names);
        }
        tensors.push(tensor(&format!("{block}.gate.weight"), "layers.router", "expert, embed"));
        if self.selection_bias {
            tensors.push(tensor(
                &format!("{block}.gate.e_score_correction_bias"),
                "layers.router.bias",
                "expert",
            ));
        }
        Some(NameMap { config, prefix: "", ignored: &["rotary_emb.inv_freq"], tensors })
    }

    /// The `config.json` of the model type that has these options, if there is one.
    fn hugging_face_config(&self) -> Option<Value> {
        let plain = self.scores == Scores::Softmax
            && self.latent.is_none()
            && !self.selection_bias
            && !self.query_key_value_bias
            && (self.dense_layers, self.shared_hidden, self.groups) == (0, 0, 1)
            && self.scale == 1.0;
        let grouped = json!({
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim,
            "num_local_experts": self.experts,
            "output_router_logits": self.balance_loss > 0.0,
        });
        let (class, shared, own) = match self.latent {
            None if plain && self.normalized && !self.query_key_norm => (
                ("mixtral", "MixtralForCausalLM"),
                grouped,
                json!({
                    "intermediate_size": self.expert_hidden,
                    "sliding_window": self.window,
                    "router_jitter_noise": 0.0,
                }),
            ),
            None if plain && self.query_key_norm && self.window.is_none() => (
                ("qwen3_moe", "Qwen3MoeForCausalLM"),
                grouped,
                json!({
                    "moe_intermediate_size": self.expert_hidden,
                    // The width of dense layers, of which there are none.
                    "intermediate_size": self.expert_hidden * self.chosen,
                    "norm_topk_prob": self.normalized,
                    "attention_bias": false,
                    "decoder_sparse_step": 1,
                    "mlp_only_layers": [],
                    "use_sliding_window": false,
                }),
            ),
            Some(latent)
                if self.scores == Scores::Sigmoid
                    && self.selection_bias
                    && self.shared_hidden > 0
                    && self.shared_hidden.is_multiple_of(self.expert_hidden) =>
            {
                (("deepseek_v3", "DeepseekV3ForCausalLM"), self.latent_fields(latent), self.routing_fields())
            }
            _ => return None,
        };
        let mut config = json!({
            "architectures": [class.1],
            "model_type": class.0,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "num_hidden_layers": self.layers,
            "hidden_size": self.embed,
            "num_attention_heads": self.heads,
            "num_experts_per_tok": self.chosen,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_epsilon,
            "rope_parameters": rope_parameters(&self.rope),
            "tie_word_embeddings": self.tied,
            "initializer_range": self.standard_deviation,
            "dtype": "float32",
        });
        let loss = match self.latent {
            None if self.balance_loss > 0.0 => {
                json!({ "router_aux_loss_coef": self.balance_loss * self.layers as f64 / self.chosen as f64 })
            }
            _ => json!({}),
        };
        for fields in [shared, own, loss] {
            if let (Value::Object(all), Value::Object(fields)) = (&mut config, fields) {
                all.extend(fields);
            }
        }
        Some(config)
    }

    fn latent_fields(&self, latent: LatentAttention) -> Value {
        json!({
            "num_key_value_heads": self.heads,
            "head_dim": latent.rotary_dim,
            "q_lora_rank": latent.query_latent,
            "kv_lora_rank": latent.latent,
            "qk_nope_head_dim": latent.content_dim,
            "qk_rope_head_dim": latent.rotary_dim,
            "qk_head_dim": latent.content_dim + latent.rotary_dim,
            "v_head_dim": latent.value_dim,
            "attention_bias": false,
            "rope_interleave": true,
        })
    }

    fn routing_fields(&self) -> Value {
        json!({
            "first_k_dense_replace": self.dense_layers,
            "intermediate_size": self.hidden.max(1),
            "moe_intermediate_size": self.expert_hidden,
            "n_routed_experts": self.experts,
            "n_shared_experts": self.shared_hidden / self.expert_hidden,
            "n_group": self.groups,
            "topk_group": self.chosen_groups,
            "norm_topk_prob": self.normalized,
            "routed_scaling_factor": self.scale,
        })
    }
}

/// The architecture of a `config.json` of one of the model types.
pub(in crate::zoo) fn parse(config: &Value) -> Result<Box<dyn Architecture>> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("mixtral").to_owned();
    let mut fields = Fields::new(&model_type, config)?;
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    fields.one_of("hidden_act", &[json!("silu")])?;
    let heads: usize = fields.required("num_attention_heads")?;
    let mut moe = Moe {
        vocab: fields.required("vocab_size")?,
        context: fields.required("max_position_embeddings")?,
        layers: fields.required("num_hidden_layers")?,
        dense_layers: 0,
        embed: fields.required("hidden_size")?,
        heads,
        key_value_heads: None,
        head_dim: None,
        latent: None,
        window: None,
        query_key_value_bias: false,
        query_key_norm: false,
        hidden: 0,
        experts: 0,
        chosen: fields.required("num_experts_per_tok")?,
        expert_hidden: 0,
        shared_hidden: 0,
        scores: Scores::Softmax,
        normalized: true,
        scale: 1.0,
        groups: 1,
        chosen_groups: 1,
        selection_bias: false,
        bias_rate: None,
        balance_loss: 0.0,
        rope: fields.rope()?,
        norm_epsilon: fields.required("rms_norm_eps")?,
        tied: fields.or("tie_word_embeddings", false)?,
        dtype: Precision::F32,
        standard_deviation: deviation,
    };
    fields.one_of("attention_bias", &[json!(false)])?;
    match model_type.as_str() {
        "deepseek_v3" => deepseek(&mut moe, &mut fields)?,
        _ => {
            moe.balance_loss = balance_loss(&moe, &mut fields)?;
            grouped(&mut moe, &mut fields, &model_type)?;
        }
    }
    fields.finish()?;
    Ok(Box::new(moe.check()?))
}

/// The coefficient of the load-balance loss. transformers adds its loss only when it is asked for the router's
/// logits: one number for all layers, `E Σ_e f_e P_e` with means over all tokens of a batch and all layers, which is
/// `k` where the load is even. Ours is one for each layer and sequence, and 1 there, so that `k / layers` times
/// their coefficient weighs alike.
fn balance_loss(moe: &Moe, fields: &mut Fields) -> Result<f64> {
    let coefficient: f64 = fields.or("router_aux_loss_coef", 0.001)?;
    let added = fields.or("output_router_logits", false)?;
    Ok(if added { coefficient * moe.chosen as f64 / moe.layers as f64 } else { 0.0 })
}

fn grouped(moe: &mut Moe, fields: &mut Fields, model_type: &str) -> Result<()> {
    let older: Option<usize> = fields.optional("num_experts")?;
    moe.experts = match older {
        Some(experts) => experts,
        None => fields.required("num_local_experts")?,
    };
    moe.key_value_heads = Some(fields.or("num_key_value_heads", moe.heads)?);
    moe.head_dim = fields.optional("head_dim")?;
    let window: Option<usize> = fields.optional("sliding_window")?;
    if model_type == "mixtral" {
        moe.window = window;
        moe.expert_hidden = fields.required("intermediate_size")?;
        fields.one_of("router_jitter_noise", &[json!(0.0)])?;
        return Ok(());
    }
    fields.ignore(&["intermediate_size", "max_window_layers"]);
    fields.one_of("use_sliding_window", &[json!(false)])?;
    fields.one_of("decoder_sparse_step", &[json!(1)])?;
    fields.one_of("mlp_only_layers", &[json!([])])?;
    moe.query_key_norm = true;
    moe.expert_hidden = fields.required("moe_intermediate_size")?;
    moe.normalized = fields.or("norm_topk_prob", false)?;
    Ok(())
}

fn deepseek(moe: &mut Moe, fields: &mut Fields) -> Result<()> {
    // transformers' DeepSeek-V3 has no load-balance loss, whatever these say.
    fields.ignore(&["output_router_logits", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux"]);
    fields.one_of("rope_interleave", &[json!(true)])?;
    fields.one_of("scoring_func", &[json!("sigmoid")])?;
    fields.one_of("topk_method", &[json!("noaux_tc")])?;
    fields.one_of("moe_layer_freq", &[json!(1)])?;
    fields.one_of("num_key_value_heads", &[json!(moe.heads)])?;
    // Layers that predict further tokens are not part of the model that transformers runs.
    fields.ignore(&["ep_size", "num_nextn_predict_layers"]);
    moe.dense_layers = fields.required("first_k_dense_replace")?;
    moe.hidden = if moe.dense_layers > 0 { fields.required("intermediate_size")? } else { 0 };
    fields.ignore(&["intermediate_size"]);
    moe.experts = fields.required("n_routed_experts")?;
    moe.expert_hidden = fields.required("moe_intermediate_size")?;
    let shared: usize = fields.required("n_shared_experts")?;
    if shared == 0 {
        let problem = "`n_shared_experts` is 0; transformers' DeepSeek-V3 has at least 1".to_owned();
        return Err(ModelError::config("deepseek_v3", problem));
    }
    moe.shared_hidden = shared * moe.expert_hidden;
    moe.scores = Scores::Sigmoid;
    moe.selection_bias = true;
    moe.normalized = fields.or("norm_topk_prob", true)?;
    moe.scale = fields.or("routed_scaling_factor", 2.5)?;
    moe.groups = fields.or("n_group", 8)?;
    moe.chosen_groups = fields.or("topk_group", 4)?;
    let latent = LatentAttention {
        query_latent: fields.optional("q_lora_rank")?,
        latent: fields.required("kv_lora_rank")?,
        content_dim: fields.required("qk_nope_head_dim")?,
        rotary_dim: fields.required("qk_rope_head_dim")?,
        value_dim: fields.required("v_head_dim")?,
    };
    fields.one_of("head_dim", &[json!(latent.rotary_dim)])?;
    fields.one_of("qk_head_dim", &[json!(latent.content_dim + latent.rotary_dim)])?;
    moe.latent = Some(latent);
    Ok(())
}
