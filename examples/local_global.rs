//! Layers of two kinds in a pattern, as in Gemma 3 (Gemma Team 2025): some that see a window of the last tokens,
//! then one that sees all. A repeat's body holds one round of the pattern; layers of a kind share their kernels.
//! It gets every command: `cargo run --release --example local_global -- train --model local-global-small`.

use diptych::{Architecture, Family, ModelBuilder, ModelError, Registry, Rope, Tensor, parse_config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalGlobal {
    vocab: usize,
    context: usize,
    rounds: usize,
    local_layers: usize,
    window: usize,
    embed: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    hidden: usize,
}

impl Architecture for LocalGlobal {
    fn name(&self) -> &str {
        "local-global"
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
        let [vocab, embed, hidden] = [("vocab", self.vocab), ("embed", self.embed), ("hidden", self.hidden)]
            .map(|(name, size)| m.axis(name, size));
        let (kv_head, head_dim) =
            (m.axis("kv_head", self.key_value_heads), m.axis("head_dim", self.head_dim));
        let group = m.axis("group", self.heads / self.key_value_heads);
        let table = |theta| m.rotary_table(head_dim, &Rope { theta, scaling: Default::default() });
        let (local, global) = (table(1e4), table(1e6));
        let norm = |name: &str, x| m.rms_norm(name, x, embed, 1e-6);
        let layer = |name: &str, x, window: Option<usize>| {
            let of = |part: &str| format!("{name}.{part}");
            let rope = if window.is_some() { &local } else { &global };
            let h = norm(&of("attention_norm"), x);
            let q = m.linear(&of("q"), h, embed, [kv_head, group, head_dim]);
            let k = m.linear(&of("k"), h, embed, [kv_head, head_dim]);
            let q = m.rms_norm(&of("q_norm"), q, head_dim, 1e-6).rotary(head_dim, rope);
            let k = m.rms_norm(&of("k_norm"), k, head_dim, 1e-6).rotary(head_dim, rope);
            let v = m.linear(&of("v"), h, embed, [kv_head, head_dim]).history_window(window);
            let scores = q.dot(k.history_window(window), head_dim) * (self.head_dim as f64).powf(-0.5);
            let seen = window.map_or(scores, |size| scores.window(size)).causal().softmax(m.past());
            let o = m.linear(&of("o"), seen.dot(v, m.past()), [kv_head, group, head_dim], embed);
            let x = x + norm(&of("attention_post_norm"), o);
            let h = norm(&of("mlp_norm"), x);
            let gate = m.linear(&of("gate"), h, embed, hidden).gelu_tanh();
            let down = m.linear(&of("down"), gate * m.linear(&of("up"), h, embed, hidden), hidden, embed);
            x + norm(&of("mlp_post_norm"), down)
        };
        let embedding = m.embedding("embedding", vocab, embed);
        let x = embedding.take(m.tokens(), vocab) * (self.embed as f64).sqrt();
        let x = m.repeat("rounds", self.rounds, x, |_, x| {
            let x =
                (0..self.local_layers).fold(x, |x, at| layer(&format!("local_{at}"), x, Some(self.window)));
            layer("global", x, None)
        });
        m.tied_head(norm("norm", x), embedding, embed)
    }
}

/// The family, for the registry.
pub fn family() -> Family {
    let parse = |config: &Value| {
        let model: LocalGlobal = parse_config("local-global", config)?;
        if model.key_value_heads == 0 || !model.heads.is_multiple_of(model.key_value_heads) {
            return Err(ModelError::config("local-global", "`key_value_heads` must divide `heads`"));
        }
        Ok(Box::new(model) as Box<dyn Architecture>)
    };
    let small = json!({ "vocab": 2048, "context": 512, "rounds": 2, "local_layers": 5, "window": 128, "embed": 128,
        "heads": 4, "key_value_heads": 1, "head_dim": 32, "hidden": 384 });
    Family {
        name: "local-global".to_owned(),
        parse,
        presets: vec![("local-global-small".to_owned(), small)],
        model_types: Vec::new(),
        parse_hugging_face: |_| Err(ModelError::config("local-global", "transformers has no such model")),
    }
}

fn main() -> std::process::ExitCode {
    let mut registry = Registry::zoo();
    registry.register(family());
    diptych::main(registry)
}
