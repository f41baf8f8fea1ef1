//! Handles to values, and the operations on them. A handle is copied freely
//! and knows its builder; it holds no numbers.

use super::builder::AxisList;
use crate::ModelBuilder;
use diptych_ir::ops::{Cast, Concat, Contract, Map, Merge, Reduce, Rename, Slice, Split, Take, TopK};
use diptych_ir::{Axis, DType, NodeId, ReduceKind, ScalarFn, Span, Symbol, TensorType};

/// A value of the model under construction. Pointwise operations work on the
/// union of their operands' axes. A tensor made by a mistake is poisoned: all
/// that is built from it is too, and only the mistake is told.
#[derive(Clone, Copy)]
pub struct Tensor<'m> {
    builder: &'m ModelBuilder,
    place: Option<(u64, NodeId)>,
}

/// The other operand of an operator: a tensor or a number.
#[derive(Clone, Copy)]
pub enum Operand<'m> {
    /// A tensor.
    Tensor(Tensor<'m>),
    /// A number, of the same kind (integer or float) as the tensor it meets.
    Number(f64),
}

impl<'m> From<Tensor<'m>> for Operand<'m> {
    fn from(tensor: Tensor<'m>) -> Self {
        Operand::Tensor(tensor)
    }
}

impl From<f64> for Operand<'_> {
    fn from(number: f64) -> Self {
        Operand::Number(number)
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $function:ident,)*) => {
        $($(#[$doc])*
        #[track_caller]
        pub fn $name(self) -> Tensor<'m> {
            self.builder.add(Map(ScalarFn::$function), &[self])
        })*
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident $function:ident,)*) => {
        $($(#[$doc])*
        #[track_caller]
        pub fn $name(self, other: impl Into<Operand<'m>>) -> Tensor<'m> {
            self.pointwise(ScalarFn::$function, other.into())
        })*
    };
}

impl<'m> Tensor<'m> {
    pub(crate) fn new(builder: &'m ModelBuilder, frame: u64, node: NodeId) -> Tensor<'m> {
        Tensor { builder, place: Some((frame, node)) }
    }

    pub(crate) fn poisoned(builder: &'m ModelBuilder) -> Tensor<'m> {
        Tensor { builder, place: None }
    }

    pub(crate) fn is_poisoned(self) -> bool {
        self.place.is_none()
    }

    pub(crate) fn place(self) -> Option<(u64, NodeId)> {
        self.place
    }

    pub(crate) fn builder(self) -> &'m ModelBuilder {
        self.builder
    }

    /// Its type; `None` for a poisoned tensor and for one of a repeat that has ended.
    pub fn ty(self) -> Option<TensorType> {
        let (id, node) = self.place?;
        let state = self.builder.state.borrow();
        let frame = state.frames.iter().find(|frame| frame.id == id)?;
        Some(state.program.region(frame.region).graph.ty(node).clone())
    }

    /// Names the value for the reader of a report.
    pub fn label(self, name: Symbol) -> Tensor<'m> {
        let state = &mut *self.builder.state.borrow_mut();
        if let Some((id, node)) = self.place
            && let Some(frame) = state.frames.iter().find(|frame| frame.id == id)
        {
            state.program.region_mut(frame.region).graph.annotate(node, None, Some(name));
        }
        self
    }

    unary! {
        /// e to its power.
        exp Exp,
        /// The natural logarithm.
        log Log,
        /// The square root.
        sqrt Sqrt,
        /// One over the square root.
        rsqrt Rsqrt,
        /// The hyperbolic tangent.
        tanh Tanh,
        /// 1 / (1 + exp(-x)).
        sigmoid Sigmoid,
        /// The error function.
        erf Erf,
        /// The sine.
        sin Sin,
        /// The cosine.
        cos Cos,
        /// The magnitude.
        abs Abs,
        /// The value itself, through which no gradient flows.
        detach Detach,
    }

    binary! {
        /// The larger of the two.
        max Max,
        /// The smaller of the two.
        min Min,
        /// Where it is less.
        less Less,
        /// Where it is less or equal.
        less_equal LessEqual,
        /// Where the two are equal.
        equal Equal,
        /// Where both truth values hold.
        and And,
        /// Where one of the truth values holds.
        or Or,
    }

    #[track_caller]
    fn pointwise(self, function: ScalarFn, other: Operand<'m>) -> Tensor<'m> {
        let other = self.meet(other);
        self.builder.add(Map(function), &[self, other])
    }

    /// The operand as a tensor; a number takes the kind of this tensor.
    #[track_caller]
    fn meet(self, other: Operand<'m>) -> Tensor<'m> {
        match other {
            Operand::Tensor(tensor) => tensor,
            Operand::Number(number) => {
                let integer = self.ty().is_some_and(|ty| ty.dtype == DType::I32);
                self.builder.number(if integer { DType::I32 } else { DType::F32 }, number)
            }
        }
    }

    /// `yes` where this truth value holds, otherwise `no`.
    #[track_caller]
    pub fn select(self, yes: impl Into<Operand<'m>>, no: impl Into<Operand<'m>>) -> Tensor<'m> {
        let (yes, no) = (yes.into(), no.into());
        let like = |other: Operand<'m>, operand: Operand<'m>| match other {
            Operand::Tensor(tensor) => tensor.meet(operand),
            Operand::Number(_) => self.meet(operand),
        };
        let (yes, no) = (like(no, yes), like(yes, no));
        self.builder.add(Map(ScalarFn::Select), &[self, yes, no])
    }

    /// x · sigmoid(x) (Elfwing et al. 2017).
    #[track_caller]
    pub fn silu(self) -> Tensor<'m> {
        self * self.sigmoid()
    }

    /// log(1 + exp(x)), without overflow.
    #[track_caller]
    pub fn softplus(self) -> Tensor<'m> {
        self.max(0.0) + ((-self.abs()).exp() + 1.0).log()
    }

    /// x · Φ(x), by the error function (Hendrycks and Gimpel 2016).
    #[track_caller]
    pub fn gelu(self) -> Tensor<'m> {
        let normal = (self * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
        self * 0.5 * normal
    }

    /// The approximation of GELU by tanh that GPT-2 has.
    #[track_caller]
    pub fn gelu_tanh(self) -> Tensor<'m> {
        let cube = self * self * self;
        let inner = (self + cube * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// The same value in another element type, rounded if that is narrower. No
    /// op if it has that type.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Tensor<'m> {
        match self.ty() {
            Some(ty) if ty.dtype == dtype => self,
            _ => self.builder.add(Cast(dtype), &[self]),
        }
    }

    /// The sum over these axes, in f32.
    #[track_caller]
    pub fn sum(self, over: impl Into<AxisList>) -> Tensor<'m> {
        self.reduce(ReduceKind::Sum, over.into())
    }

    /// The largest element over these axes.
    #[track_caller]
    pub fn max_over(self, over: impl Into<AxisList>) -> Tensor<'m> {
        self.reduce(ReduceKind::Max, over.into())
    }

    /// The mean over axes of fixed size, in f32.
    #[track_caller]
    pub fn mean(self, over: impl Into<AxisList>) -> Tensor<'m> {
        let over = over.into();
        let count: Option<usize> = over.0.iter().map(|axis| axis.fixed_size()).product();
        match count {
            Some(count) => self.sum(over) / count as f64,
            None => self.builder.fail("mean", format!("takes axes of fixed size, not {:?}", over.0)),
        }
    }

    #[track_caller]
    fn reduce(self, kind: ReduceKind, over: AxisList) -> Tensor<'m> {
        let over = self.builder.ordered(over);
        self.builder.add(Reduce { kind, over }, &[self])
    }

    /// The product with another tensor, summed over these axes, in f32. Both
    /// must have them.
    #[track_caller]
    pub fn dot(self, other: Tensor<'m>, over: impl Into<AxisList>) -> Tensor<'m> {
        let over = over.into();
        for operand in [self, other] {
            if let Some(ty) = operand.ty()
                && let Some(axis) = over.0.iter().find(|axis| !ty.axes.contains(**axis))
            {
                return self.builder.fail("dot", format!("sums over {axis}, but an operand is {ty}"));
            }
        }
        self.builder.contract(&[self, other], over)
    }

    /// Gives an axis another name; the sizes must be equal.
    #[track_caller]
    pub fn rename(self, from: Axis, to: Axis) -> Tensor<'m> {
        self.builder.declare(to);
        self.builder.add(Rename { from, to }, &[self])
    }

    /// Cuts an axis into several whose sizes multiply to its own, the first slowest.
    #[track_caller]
    pub fn split(self, axis: Axis, into: impl Into<AxisList>) -> Tensor<'m> {
        let into = into.into().0;
        into.iter().for_each(|&part| self.builder.declare(part));
        self.builder.add(Split { axis, into }, &[self])
    }

    /// Joins axes into one, the first slowest.
    #[track_caller]
    pub fn merge(self, axes: impl Into<AxisList>, into: Axis) -> Tensor<'m> {
        self.builder.declare(into);
        self.builder.add(Merge { axes: axes.into().0, into }, &[self])
    }

    /// The elements of `axis` from `start` on, as many as `into` has.
    #[track_caller]
    pub fn slice(self, axis: Axis, start: usize, into: Axis) -> Tensor<'m> {
        self.builder.declare(into);
        self.builder.add(Slice { axis, start, into }, &[self])
    }

    /// For each id (i32), the slice of this table there along `axis`. Axes
    /// that both have are walked together.
    #[track_caller]
    pub fn take(self, ids: Tensor<'m>, axis: Axis) -> Tensor<'m> {
        self.builder.add(Take { axis }, &[self, ids])
    }

    /// Where the largest elements along `axis` are, as many as `into` has: i32
    /// positions, largest first, the lower position first among equals. No
    /// gradient flows through them; [`Tensor::take`] fetches the elements.
    #[track_caller]
    pub fn top_k(self, axis: Axis, into: Axis) -> Tensor<'m> {
        self.builder.declare(into);
        self.builder.add(TopK { axis, into }, &[self])
    }
}

impl ModelBuilder {
    /// The product of any number of tensors, summed over these axes, in f32.
    #[track_caller]
    pub fn contract<'m>(&'m self, operands: &[Tensor<'m>], over: impl Into<AxisList>) -> Tensor<'m> {
        let over = self.ordered(over.into());
        self.add(Contract { over }, operands)
    }

    /// The operands one after the other along `into`, each with the axis that
    /// is its stretch; one that lacks that axis is constant along it.
    #[track_caller]
    pub fn concat<'m>(&'m self, parts: &[(Tensor<'m>, Axis)], into: Axis) -> Tensor<'m> {
        self.declare(into);
        let operands: Vec<Tensor<'m>> = parts.iter().map(|part| part.0).collect();
        let pieces = parts.iter().map(|part| part.1).collect();
        self.add(Concat { pieces, into }, &operands)
    }

    fn ordered(&self, axes: AxisList) -> Vec<Axis> {
        self.state.borrow().program.main().graph.ordered(axes.0)
    }

    pub(crate) fn poison_at<'m>(&'m self, op: &str, problem: String, span: Span) -> Tensor<'m> {
        self.poison(diptych_ir::IrError::of(op, problem), span)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident,)*) => {
        $(impl<'m, R: Into<Operand<'m>>> std::ops::$trait<R> for Tensor<'m> {
            type Output = Tensor<'m>;
            #[track_caller]
            fn $method(self, other: R) -> Tensor<'m> {
                self.pointwise(ScalarFn::$trait, other.into())
            }
        }

        impl<'m> std::ops::$trait<Tensor<'m>> for f64 {
            type Output = Tensor<'m>;
            #[track_caller]
            fn $method(self, other: Tensor<'m>) -> Tensor<'m> {
                let number = other.meet(Operand::Number(self));
                number.pointwise(ScalarFn::$trait, Operand::Tensor(other))
            }
        })*
    };
}

operators! {
    Add add,
    Sub sub,
    Mul mul,
    Div div,
}

macro_rules! prefix_operators {
    ($($trait:ident $method:ident,)*) => {
        $(impl<'m> std::ops::$trait for Tensor<'m> {
            type Output = Tensor<'m>;
            #[track_caller]
            fn $method(self) -> Tensor<'m> {
                self.builder.add(Map(ScalarFn::$trait), &[self])
            }
        })*
    };
}

prefix_operators! {
    Neg neg,
    Not not,
}
