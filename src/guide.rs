#![doc = include_str!("../docs/models.md")]

use crate::ir::{Axis, Initializer, Program};
use crate::{CheckError, ModelBuilder, Result, Tensor, check, reference_context};

/// The frame of this page's examples: an embedding of 32 tokens in 16 elements, `layers` blocks of which each
/// adds what `block` makes of its normalised input (over `batch`, `time` and the axis given), a norm and a head.
///
/// # Errors
/// The first mistake of the definition.
pub fn stack(
    layers: usize,
    block: impl for<'m> FnOnce(&'m ModelBuilder, Tensor<'m>, Axis) -> Tensor<'m>,
) -> Result<Program> {
    ModelBuilder::new("stack", 128).finish(|m| {
        m.initialize_with(Initializer::Normal { standard_deviation: 0.3 });
        let (vocab, embed) = (m.axis("vocab", 32), m.axis("embed", 16));
        let table = m.embedding("embedding", vocab, embed);
        let x = m.repeat("layers", layers, table.take(m.tokens(), vocab), |m, x| {
            x + block(m, m.rms_norm("norm", x, embed, 1e-5), embed)
        });
        m.head("head", m.rms_norm("norm", x, embed, 1e-5), embed, vocab)
    })
}

/// The largest of a program's [`crate::Differences`] on two short texts: what this page's examples are checked by.
///
/// # Errors
/// When the program cannot be compiled or run.
// As large as the largest error of the crates below, and met at most once.
#[allow(clippy::result_large_err)]
pub fn apart(program: &Program) -> Result<f64, CheckError> {
    let texts: [&[i32]; 2] = [&[3, 1, 4, 1, 5, 9, 2, 6], &[2, 7, 1, 8, 2, 8, 1, 8]];
    let found = check(program, &reference_context(program, &texts, 1)?)?;
    Ok(found.score.max(found.serving).max(found.gradients))
}
