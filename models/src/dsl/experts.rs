//! What mixtures of experts are written with: linear maps whose weight each row
//! chooses. Routing is no op and no function: models write it with `top_k` and `take`.

use super::builder::AxisList;
use super::layers::misfit;
use crate::{ModelBuilder, Tensor};
use diptych_ir::{Axis, Span};

impl ModelBuilder {
    /// A linear map from `from` to `to` by the experts that `ids` (i32, along
    /// `expert`) name: the result has the axes of the ids besides. Its weight
    /// `name` has the axes `expert`, `from`, then `to`; it decays. The work is
    /// that of the chosen experts alone, and only their weights are read.
    ///
    /// ```
    /// use diptych_models::ModelBuilder;
    ///
    /// let m = ModelBuilder::new("routed", 16);
    /// let [vocab, embed, hidden] = [("vocab", 64), ("embed", 8), ("hidden", 16)].map(|(name, size)| m.axis(name, size));
    /// let [expert, choice] = [("expert", 4), ("choice", 2)].map(|(name, size)| m.axis(name, size));
    /// let program = m.finish(|m| {
    ///     let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
    ///     let scores = m.head("router", x, embed, expert).softmax(expert);
    ///     let ids = scores.top_k(expert, choice);
    ///     let up = m.expert_linear("up", x, ids, expert, embed, hidden).silu();
    ///     let weighed = up * scores.take(ids, expert);
    ///     let y = x + m.expert_linear("down", weighed, ids, expert, hidden, embed).sum(choice);
    ///     m.head("head", y, embed, vocab)
    /// });
    /// assert!(program.is_ok());
    /// ```
    #[track_caller]
    pub fn expert_linear<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        ids: Tensor<'m>,
        expert: Axis,
        from: impl Into<AxisList>,
        to: impl Into<AxisList>,
    ) -> Tensor<'m> {
        let (from, to) = (from.into(), to.into());
        if let Some(problem) = misfit(name, x, &from.0, &to.0) {
            return self.poison_at("expert_linear", problem, Span::caller());
        }
        let initializer = self.state.borrow().initializer;
        let axes: Vec<Axis> = [expert].iter().chain(&from.0).chain(&to.0).copied().collect();
        let dtype = self.compute_type();
        let weight = self.param(name, axes, initializer, true).cast(dtype).take(ids, expert);
        self.contract(&[x.cast(dtype), weight], from).label(self.full_name(name)).cast(dtype)
    }
}
