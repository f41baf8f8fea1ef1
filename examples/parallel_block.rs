//! An architecture that is not in the zoo: attention and MLP read the same norm
//! and are added to the stream together (Wang and Komatsuzaki 2021, GPT-J).
//! It gets every command: `cargo run --release --example parallel_block -- train --model parallel-small`.

use diptych::{Architecture, Family, ModelBuilder, ModelError, Registry, Rope, Tensor, parse_config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parallel {
    vocab: usize,
    context: usize,
    layers: usize,
    embed: usize,
    heads: usize,
    hidden: usize,
}

impl Architecture for Parallel {
    fn name(&self) -> &str {
        "parallel"
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
        let width = self.embed / self.heads;
        let (vocab, embed) = (m.axis("vocab", self.vocab), m.axis("embed", self.embed));
        let (head, head_dim) = (m.axis("head", self.heads), m.axis("head_dim", width));
        let hidden = m.axis("hidden", self.hidden);
        let rope = m.rotary_table(head_dim, &Rope { theta: 10000.0, scaling: Default::default() });
        let table = m.embedding("embedding", vocab, embed);
        let x = m.repeat("layers", self.layers, table.take(m.tokens(), vocab), |m, x| {
            let h = m.rms_norm("norm", x, embed, 1e-5);
            let q = m.linear("q", h, embed, [head, head_dim]).rotary(head_dim, &rope);
            let k = m.linear("k", h, embed, [head, head_dim]).rotary(head_dim, &rope).history();
            let v = m.linear("v", h, embed, [head, head_dim]).history();
            let seen = (q.dot(k, head_dim) * (width as f64).powf(-0.5)).causal().softmax(m.past());
            let gate = m.linear("gate", h, embed, hidden).silu() * m.linear("up", h, embed, hidden);
            x + m.linear("o", seen.dot(v, m.past()), [head, head_dim], embed)
                + m.linear("down", gate, hidden, embed)
        });
        m.tied_head(m.rms_norm("norm", x, embed, 1e-5), table, embed)
    }
}

/// The family, for the registry.
pub fn family() -> Family {
    let parse = |config: &Value| {
        let model: Parallel = parse_config("parallel", config)?;
        if model.heads == 0 || !model.embed.is_multiple_of(2 * model.heads) {
            return Err(ModelError::config("parallel", "`embed` must be an even multiple of `heads`"));
        }
        Ok(Box::new(model) as Box<dyn Architecture>)
    };
    let small =
        json!({ "vocab": 2048, "context": 512, "layers": 4, "embed": 128, "heads": 4, "hidden": 384 });
    Family {
        name: "parallel".to_owned(),
        parse,
        presets: vec![("parallel-small".to_owned(), small)],
        model_types: Vec::new(),
        parse_hugging_face: |_| Err(ModelError::config("parallel", "transformers has no such model")),
    }
}

fn main() -> std::process::ExitCode {
    let mut registry = Registry::zoo();
    registry.register(family());
    diptych::main(registry)
}
