//! Model FLOPs utilisation, as the PaLM paper defines it, so that figures compare with published ones.
//! It counts what the model asks for, not what kernels do: recomputation does not raise it.
//! It must not know kernels.

/// The sizes of a transformer that its FLOPs depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelSize {
    /// Parameters that take part in a multiply-add for each token. A tied or untied output head counts, a
    /// table that is only looked up (input embedding, learned positions) does not.
    pub matmul_parameters: f64,
    /// Layers with attention.
    pub attention_layers: f64,
    /// Query heads.
    pub query_heads: f64,
    /// Mean of the width of a head in scores (queries and keys) and in the weighted sum (values). They are
    /// the same but for latent attention.
    pub head_dim: f64,
}

impl ModelSize {
    /// Floating-point operations of one training token, forward and backward: `6 N + 12 L H Q T`.
    ///
    /// Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", arXiv:2204.02311, appendix B.
    /// N parameters, L layers, H heads, Q head width, T positions attended to. As there, every position is
    /// counted as attending to all `context_tokens` of the sequence: the causal half is not taken off.
    pub fn train_flops_per_token(&self, context_tokens: f64) -> f64 {
        3.0 * self.forward_flops_per_token(context_tokens)
    }

    /// Floating-point operations of one token going forward with so many positions attended to:
    /// `2 N + 4 L H Q T`, a third of training's.
    pub fn forward_flops_per_token(&self, context_tokens: f64) -> f64 {
        let attention = 4.0 * self.attention_layers * self.query_heads * self.head_dim * context_tokens;
        2.0 * self.matmul_parameters + attention
    }
}

/// Share of the machine's peak that the model's own FLOPs use: tokens a second observed, over tokens a second
/// at peak. `peak_flops_per_second` is of all machines taking part, at the precision of the contractions.
pub fn model_flops_utilisation(
    flops_per_token: f64,
    tokens_per_second: f64,
    peak_flops_per_second: f64,
) -> f64 {
    flops_per_token * tokens_per_second / peak_flops_per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 3 of the paper: PaLM 540B, 118 layers, 48 heads of 256, sequences of 2048, 6144 TPU v4 of 275
    /// TFLOP/s, 238.3 thousand tokens a second, 46.2% (45.7% without attention).
    #[test]
    fn palm_540b_has_the_published_utilisation() {
        let palm = ModelSize {
            matmul_parameters: 540.35e9,
            attention_layers: 118.0,
            query_heads: 48.0,
            head_dim: 256.0,
        };
        let peak = 6144.0 * 275e12;
        let with = model_flops_utilisation(palm.train_flops_per_token(2048.0), 238.3e3, peak);
        assert!((with - 0.462).abs() < 0.001, "{with}");
        let without = model_flops_utilisation(palm.train_flops_per_token(0.0), 238.3e3, peak);
        assert!((without - 0.457).abs() < 0.001, "{without}");
    }
}
