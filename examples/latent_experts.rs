//! Latent attention and experts, as in DeepSeek-V3 (2024). The cache keeps latents, not keys and values. A dense
//! layer comes first; the others have a shared expert and routed ones, scored by sigmoids, chosen with a bias.
//! It gets every command: `cargo run --release --example latent_experts -- train --model latent-experts-small`.

use diptych::ir::Initializer;
use diptych::{Architecture, Family, ModelBuilder, ModelError, Registry, Rope, Tensor, parse_config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatentExperts {
    vocab: usize,
    context: usize,
    expert_layers: usize,
    embed: usize,
    heads: usize,
    latent: usize,
    content: usize,
    rotary: usize,
    hidden: usize,
    experts: usize,
    chosen: usize,
    expert_hidden: usize,
}

impl Architecture for LatentExperts {
    fn name(&self) -> &str {
        "latent-experts"
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
        let (vocab, embed) = (m.axis("vocab", self.vocab), m.axis("embed", self.embed));
        let (head, latent) = (m.axis("head", self.heads), m.axis("latent", self.latent));
        let (content, rotary) = (m.axis("content", self.content), m.axis("rotary", self.rotary));
        let (choice, expert) = (m.axis("choice", self.chosen), m.axis("expert", self.experts));
        let (hidden, inner) = (m.axis("hidden", self.hidden), m.axis("inner", self.expert_hidden));
        let rope = m.rotary_table(rotary, &Rope { theta: 10000.0, scaling: Default::default() });
        let norm = |name: &str, x| m.rms_norm(name, x, embed, 1e-6);
        let attention = |x| {
            let h = norm("attention_norm", x);
            let c = m.rms_norm("latent_norm", m.linear("compress", h, embed, latent), latent, 1e-6).history();
            let k = m.linear("k_content", c, latent, [head, content]);
            let k_rotary = m.linear("k_rotary", h, embed, rotary).rotary(rotary, &rope).history();
            let q = m.linear("q_content", h, embed, [head, content]);
            let q_rotary = m.linear("q_rotary", h, embed, [head, rotary]).rotary(rotary, &rope);
            let scale = ((self.content + self.rotary) as f64).powf(-0.5);
            let scores = (q.dot(k, content) + q_rotary.dot(k_rotary, rotary)) * scale;
            let v = m.linear("v", c, latent, [head, content]);
            x + m.linear("o", scores.causal().softmax(m.past()).dot(v, m.past()), [head, content], embed)
        };
        let mlp = |name: &str, h, hidden| {
            let [gate, up] = ["gate", "up"].map(|part| m.linear(&format!("{name}.{part}"), h, embed, hidden));
            m.linear(&format!("{name}.down"), gate.silu() * up, hidden, embed)
        };
        let x = attention(m.embedding("embedding", vocab, embed).take(m.tokens(), vocab));
        let x = x + mlp("mlp", norm("mlp_norm", x), hidden);
        let x = m.repeat("layers", self.expert_layers, x, |m, x| {
            let x = attention(x);
            let h = norm("mlp_norm", x);
            let scores = m.head("router", h, embed, expert).sigmoid();
            let bias = m.param("router.bias", expert, Initializer::Constant(0.0), false);
            let ids = (scores + bias).detach().top_k(expert, choice);
            let chosen = scores.take(ids, expert);
            let map = |name, x, from, to| m.expert_linear(name, x, ids, expert, from, to);
            let y = map("gate", h, embed, inner).silu() * map("up", h, embed, inner);
            let y = y * chosen / (chosen.sum(choice) + 1e-20);
            x + mlp("shared", h, inner) + map("down", y, inner, embed).sum(choice)
        });
        m.head("head", norm("norm", x), embed, vocab)
    }
}

/// The family, for the registry.
pub fn family() -> Family {
    let small = json!({ "vocab": 2048, "context": 512, "expert_layers": 3, "embed": 128, "heads": 4, "latent": 32,
        "content": 32, "rotary": 16, "hidden": 384, "experts": 8, "chosen": 2, "expert_hidden": 96 });
    Family {
        name: "latent-experts".to_owned(),
        parse: |config| Ok(Box::new(parse_config::<LatentExperts>("latent-experts", config)?)),
        presets: vec![("latent-experts-small".to_owned(), small)],
        model_types: Vec::new(),
        parse_hugging_face: |_| Err(ModelError::config("latent-experts", "transformers has no such model")),
    }
}

fn main() -> std::process::ExitCode {
    let mut registry = Registry::zoo();
    registry.register(family());
    diptych::main(registry)
}
