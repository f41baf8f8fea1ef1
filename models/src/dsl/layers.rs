//! The layers that most models are made of: embeddings, linear maps and norms.
//! Each is a function over ops; none is an op.

use super::builder::AxisList;
use crate::{ModelBuilder, Tensor};
use diptych_ir::{Axis, DType, Initializer, Span};

/// What a linear map has beside its weight, and how it starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Whether a bias is added, which starts at 0 and does not decay.
    pub bias: bool,
    /// How the weight starts, if not as `ModelBuilder::initialize_with` says.
    pub initializer: Option<Initializer>,
}

impl ModelBuilder {
    /// A linear map from `from` to `to`, without bias. Its weight `name` has
    /// the axes `from`, then `to`; it decays. The result has the type of
    /// [`ModelBuilder::compute_in`].
    #[track_caller]
    pub fn linear<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        from: impl Into<AxisList>,
        to: impl Into<AxisList>,
    ) -> Tensor<'m> {
        self.linear_with(name, x, from, to, Linear::default())
    }

    /// A linear map with options. A bias `name.bias` has the axes `to`; it is
    /// added in f32, before the result is rounded.
    #[track_caller]
    pub fn linear_with<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        from: impl Into<AxisList>,
        to: impl Into<AxisList>,
        options: Linear,
    ) -> Tensor<'m> {
        let (from, to) = (from.into(), to.into());
        if let Some(problem) = misfit(name, x, &from.0, &to.0) {
            return self.poison_at("linear", problem, Span::caller());
        }
        let initializer = options.initializer.unwrap_or(self.state.borrow().initializer);
        let axes: Vec<Axis> = from.0.iter().chain(&to.0).copied().collect();
        let weight = self.param(name, axes, initializer, true);
        let y = self.product(x, weight, from).label(self.full_name(name));
        let y = match options.bias {
            true => y + self.param(&format!("{name}.bias"), to, Initializer::Constant(0.0), false),
            false => y,
        };
        y.cast(self.compute_type())
    }

    /// The logits f32 of a projection to the vocabulary: a linear map whose
    /// result is not rounded.
    #[track_caller]
    pub fn head<'m>(&'m self, name: &str, x: Tensor<'m>, from: Axis, vocab: Axis) -> Tensor<'m> {
        if let Some(problem) = misfit(name, x, &[from], &[vocab]) {
            return self.poison_at("head", problem, Span::caller());
        }
        let initializer = self.state.borrow().initializer;
        let weight = self.param(name, [vocab, from], initializer, true);
        self.product(x, weight, from.into()).label(self.full_name(name))
    }

    /// The logits f32 of a projection by the table of the embedding.
    #[track_caller]
    pub fn tied_head<'m>(&'m self, x: Tensor<'m>, table: Tensor<'m>, from: Axis) -> Tensor<'m> {
        self.product(x, table, from.into())
    }

    /// The product with a weight, both rounded to the type of computation, in f32.
    #[track_caller]
    fn product<'m>(&'m self, x: Tensor<'m>, weight: Tensor<'m>, over: AxisList) -> Tensor<'m> {
        let dtype = self.compute_type();
        self.contract(&[x.cast(dtype), weight.cast(dtype)], over)
    }

    /// The type in which matrices are multiplied.
    pub fn compute_type(&self) -> DType {
        self.state.borrow().dtype
    }

    /// A table f32[vocab, embed] of one row for each id; it does not decay.
    /// Its rows are had by [`Tensor::take`].
    #[track_caller]
    pub fn embedding(&self, name: &str, vocab: Axis, embed: Axis) -> Tensor<'_> {
        let initializer = self.state.borrow().initializer;
        self.param(name, [vocab, embed], initializer, false)
    }

    /// x / sqrt(mean(x²) + epsilon) · weight over these axes (Zhang and
    /// Sennrich 2019), in f32, rounded to the type of x. The weight starts at 1.
    #[track_caller]
    pub fn rms_norm<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        over: impl Into<AxisList>,
        epsilon: f64,
    ) -> Tensor<'m> {
        let over = over.into();
        let Some(ty) = x.ty() else { return Tensor::poisoned(self) };
        if let Some(problem) = misfit(name, x, &over.0, &[]) {
            return self.poison_at("rms_norm", problem, Span::caller());
        }
        let scale = ((x * x).mean(over.clone()) + epsilon).rsqrt();
        let weight = self.param(name, over, Initializer::Constant(1.0), false);
        (x * scale * weight).label(self.full_name(name)).cast(ty.dtype)
    }

    /// (x - mean(x)) / sqrt(variance(x) + epsilon) · weight + bias over these
    /// axes (Ba et al. 2016), in f32, rounded to the type of x. The weight
    /// starts at 1, the bias `name.bias` at 0.
    #[track_caller]
    pub fn layer_norm<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        over: impl Into<AxisList>,
        epsilon: f64,
    ) -> Tensor<'m> {
        let over = over.into();
        let Some(ty) = x.ty() else { return Tensor::poisoned(self) };
        if let Some(problem) = misfit(name, x, &over.0, &[]) {
            return self.poison_at("layer_norm", problem, Span::caller());
        }
        let centred = x - x.mean(over.clone());
        let scale = ((centred * centred).mean(over.clone()) + epsilon).rsqrt();
        let weight = self.param(name, over.clone(), Initializer::Constant(1.0), false);
        let bias = self.param(&format!("{name}.bias"), over, Initializer::Constant(0.0), false);
        (centred * scale * weight + bias).label(self.full_name(name)).cast(ty.dtype)
    }
}

/// What keeps `x` from being mapped from one list of axes to another.
pub(super) fn misfit(name: &str, x: Tensor<'_>, from: &[Axis], to: &[Axis]) -> Option<String> {
    let ty = x.ty()?;
    if let Some(axis) = from.iter().find(|axis| !ty.axes.contains(**axis)) {
        return Some(format!("`{name}` works along {axis}, but its input is {ty}"));
    }
    let shared = to.iter().find(|axis| ty.axes.without(from).get(axis.name).is_some())?;
    Some(format!(
        "`{name}` yields the axis {shared}, but its input {ty} has one of that name; rename it first"
    ))
}
