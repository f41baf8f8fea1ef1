//! What attention is written with: values at every position so far, masks and
//! softmax. Attention itself is no op and no function: models write it.

use super::builder::AxisList;
use crate::Tensor;
use diptych_ir::Axis;
use diptych_ir::ops::History;

impl<'m> Tensor<'m> {
    /// The value at every position so far, along `past` instead of `time`.
    #[track_caller]
    pub fn history(self) -> Tensor<'m> {
        self.history_window(None)
    }

    /// The value at every position so far, of which only the last `window`
    /// are kept, if one is given. The mask is not implied: see [`Tensor::window`].
    #[track_caller]
    pub fn history_window(self, window: impl Into<Option<usize>>) -> Tensor<'m> {
        let builder = self.builder();
        let (time, past, room) = (builder.time(), builder.past(), builder.next_room());
        builder.add(History { time, past, window: window.into(), room }, &[self])
    }

    /// These scores where the key is not after the query, otherwise -inf.
    #[track_caller]
    pub fn causal(self) -> Tensor<'m> {
        let builder = self.builder();
        let seen = builder.index(builder.past()).less_equal(builder.index(builder.time()));
        self.where_seen("causal", seen)
    }

    /// These scores where the key is less than `size` positions before the
    /// query (the query's own position counts), otherwise -inf.
    #[track_caller]
    pub fn window(self, size: usize) -> Tensor<'m> {
        let builder = self.builder();
        if size == 0 || size > i32::MAX as usize {
            return builder.fail("window", format!("{size} positions; a window has at least 1"));
        }
        let end = builder.index(builder.past()) + size as f64;
        self.where_seen("window", builder.index(builder.time()).less(end))
    }

    #[track_caller]
    fn where_seen(self, op: &str, seen: Tensor<'m>) -> Tensor<'m> {
        let builder = self.builder();
        if let Some(ty) = self.ty()
            && !ty.axes.contains_all(&[builder.time(), builder.past()])
        {
            return builder.fail(op, format!("masks scores over time and past, but was given {ty}"));
        }
        seen.select(self, f64::NEG_INFINITY)
    }

    /// exp(x) over its sum along these axes, in f32, with the largest element
    /// taken off first.
    #[track_caller]
    pub fn softmax(self, over: impl Into<AxisList>) -> Tensor<'m> {
        let over = over.into();
        let weight = (self - self.max_over(over.clone()).detach()).exp();
        weight / weight.sum(over)
    }

    /// log softmax of the element at `ids` (i32) along `axis`, in f32.
    #[track_caller]
    pub fn log_softmax_at(self, ids: Tensor<'m>, axis: Axis) -> Tensor<'m> {
        let picked = self.builder().index(axis).equal(ids).select(self, 0.0).sum(axis);
        let largest = self.max_over(axis).detach();
        picked - (largest + (self - largest).exp().sum(axis).log())
    }
}
