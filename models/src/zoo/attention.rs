//! The kinds of attention that several families of the zoo have, as blocks of a
//! layer: axes and options, what they compute, and where transformers keeps the
//! weights. They know nothing of the rest of a layer.

use crate::hugging_face::{TensorMap, tensor};
use crate::{Linear, ModelBuilder, Rope, RotaryTable, Tensor};
use diptych_ir::Axis;

/// What the norms of the latents add to the mean square, whatever the other norms add (the default of
/// DeepSeek's RMSNorm).
pub(super) const LATENT_NORM_EPSILON: f64 = 1e-6;

/// Grouped-query attention (Ainslie et al. 2023) with rotary positions.
pub(super) struct GroupedQuery<'m> {
    pub embed: Axis,
    pub kv_head: Axis,
    pub group: Axis,
    pub head_dim: Axis,
    pub rope: RotaryTable<'m>,
    /// How many positions a query sees, its own included, if not all.
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases.
    pub bias: bool,
    /// Whether each head's query and key are normalised before the rotation, and what that adds to the mean square.
    pub norm: Option<f64>,
}

impl<'m> GroupedQuery<'m> {
    /// What a layer's normalised input attends to, projected back.
    pub fn of(&self, m: &'m ModelBuilder, h: Tensor<'m>) -> Tensor<'m> {
        let GroupedQuery { embed, kv_head, group, head_dim, .. } = *self;
        let qkv = Linear { bias: self.bias, ..Linear::default() };
        let mut q = m.linear_with("q", h, embed, [kv_head, group, head_dim], qkv);
        let mut k = m.linear_with("k", h, embed, [kv_head, head_dim], qkv);
        if let Some(epsilon) = self.norm {
            q = m.rms_norm("q_norm", q, head_dim, epsilon);
            k = m.rms_norm("k_norm", k, head_dim, epsilon);
        }
        let q = q.rotary(head_dim, &self.rope);
        let k = k.rotary(head_dim, &self.rope).history_window(self.window);
        let v = m.linear_with("v", h, embed, [kv_head, head_dim], qkv).history_window(self.window);
        let scale = (head_dim.fixed_size().unwrap_or(1) as f64).powf(-0.5);
        let mut scores = (q.dot(k, head_dim) * scale).causal();
        if let Some(window) = self.window {
            scores = scores.window(window);
        }
        m.linear("o", scores.softmax(m.past()).dot(v, m.past()), [kv_head, group, head_dim], embed)
    }

    /// Where transformers keeps the weights of each layer.
    pub fn rows(layer: &str, params: &str, bias: bool, norm: bool) -> Vec<TensorMap> {
        let row = |name: &str, param: &str, dims: &str| {
            tensor(&format!("{layer}.self_attn.{name}"), &format!("{params}.{param}"), dims)
        };
        let mut rows = vec![row("o_proj.weight", "o", "embed, kv_head group head_dim")];
        for (name, param, to) in [
            ("q_proj", "q", "kv_head group head_dim"),
            ("k_proj", "k", "kv_head head_dim"),
            ("v_proj", "v", "kv_head head_dim"),
        ] {
            rows.push(row(&format!("{name}.weight"), param, &format!("{to}, embed")));
            if bias {
                rows.push(row(&format!("{name}.bias"), &format!("{param}.bias"), to));
            }
        }
        if norm {
            rows.extend(["q_norm", "k_norm"].map(|name| row(&format!("{name}.weight"), name, "head_dim")));
        }
        rows
    }
}

/// Multi-head latent attention (DeepSeek-V2, 2024, section 2.1), written naively: keys and values are compressed
/// into a latent, which is kept, and expanded for each head where they are used.
pub(super) struct Latent<'m> {
    pub embed: Axis,
    /// Of queries, if they have a latent.
    pub query_latent: Option<Axis>,
    pub latent: Axis,
    pub kv_head: Axis,
    pub group: Axis,
    pub content: Axis,
    pub rotary: Axis,
    pub head_dim: Axis,
    pub value: Axis,
    pub rope: RotaryTable<'m>,
    /// What scores are multiplied by.
    pub scale: f64,
}

/// Sizes of latent attention.
#[derive(Clone, Copy)]
pub(super) struct LatentSizes {
    pub heads: usize,
    pub query_latent: Option<usize>,
    pub latent: usize,
    pub content: usize,
    pub rotary: usize,
    pub value: usize,
}

impl<'m> Latent<'m> {
    /// Declares the axes.
    pub fn new(m: &'m ModelBuilder, embed: Axis, sizes: LatentSizes, rope: &Rope) -> Latent<'m> {
        let query_latent = sizes.query_latent.map(|size| m.axis("query_latent", size));
        let kv_head = m.axis("kv_head", sizes.heads);
        let group = m.axis("group", 1);
        // After the heads: of what each head has of the latent, elements lie beside one another.
        let latent = m.axis("latent", sizes.latent);
        let content = m.axis("content", sizes.content);
        let rotary = m.axis("rotary", sizes.rotary);
        let head_dim = m.axis("head_dim", sizes.content + sizes.rotary);
        let value = m.axis("value", sizes.value);
        let scale = ((sizes.content + sizes.rotary) as f64).powf(-0.5) * rope.score_factor();
        let rope = m.rotary_table(rotary, rope);
        Latent { embed, query_latent, latent, kv_head, group, content, rotary, head_dim, value, rope, scale }
    }

    /// What a layer's normalised input attends to, projected back.
    pub fn of(&self, m: &'m ModelBuilder, h: Tensor<'m>) -> Tensor<'m> {
        let Latent { embed, latent, kv_head, group, content, rotary, head_dim, value, .. } = *self;
        let (source, from) = match self.query_latent {
            Some(latent) => {
                let compressed = m.linear("q_compress", h, embed, latent);
                (m.rms_norm("q_latent_norm", compressed, latent, LATENT_NORM_EPSILON), latent)
            }
            None => (h, embed),
        };
        let q_content = m.linear("q_content", source, from, [kv_head, group, content]);
        let q_rotary =
            m.linear("q_rotary", source, from, [kv_head, group, rotary]).rotary(rotary, &self.rope);
        let q = m.concat(&[(q_content, content), (q_rotary, rotary)], head_dim);

        let compressed = m.linear("kv_compress", h, embed, latent);
        let compressed = m.rms_norm("kv_latent_norm", compressed, latent, LATENT_NORM_EPSILON).history();
        let k_content = m.linear("k_content", compressed, latent, [kv_head, content]);
        let k_rotary = m.linear("k_rotary", h, embed, rotary).rotary(rotary, &self.rope).history();
        let k = m.concat(&[(k_content, content), (k_rotary, rotary)], head_dim);
        let v = m.linear("v", compressed, latent, [kv_head, value]);

        let seen = (q.dot(k, head_dim) * self.scale).causal().softmax(m.past()).dot(v, m.past());
        m.linear("o", seen, [kv_head, group, value], embed)
    }

    /// Where transformers keeps the weights of each layer.
    pub fn rows(layer: &str, params: &str, sizes: LatentSizes) -> Vec<TensorMap> {
        let LatentSizes { latent, content, rotary, value, .. } = sizes;
        let row = |name: &str, param: &str, dims: String| {
            tensor(&format!("{layer}.self_attn.{name}.weight"), &format!("{params}.{param}"), dims)
        };
        let mut rows = Vec::new();
        let (source, from) = match sizes.query_latent {
            Some(_) => {
                rows.push(row("q_a_proj", "q_compress", "query_latent, embed".into()));
                rows.push(row("q_a_layernorm", "q_latent_norm", "query_latent".into()));
                ("q_b_proj", "query_latent")
            }
            None => ("q_proj", "embed"),
        };
        // DeepSeek stores the rotated elements of a pair beside each other.
        let width = content + rotary;
        rows.push(row(source, "q_content", format!("kv_head group content@0/{width}, {from}")));
        rows.push(row(source, "q_rotary", format!("kv_head group rotary~@{content}/{width}, {from}")));
        let width = latent + rotary;
        rows.push(row("kv_a_proj_with_mqa", "kv_compress", format!("latent@0/{width}, embed")));
        rows.push(row("kv_a_proj_with_mqa", "k_rotary", format!("rotary~@{latent}/{width}, embed")));
        rows.push(row("kv_a_layernorm", "kv_latent_norm", "latent".into()));
        let width = content + value;
        rows.push(row("kv_b_proj", "k_content", format!("kv_head content@0/{width}, latent")));
        rows.push(row("kv_b_proj", "v", format!("kv_head value@{content}/{width}, latent")));
        rows.push(row("o_proj", "o", "embed, kv_head group value".into()));
        rows
    }
}
