//! What a model adds to the training loss beside the cross-entropy. It knows no
//! entry: `entries` makes the loss of what is noted here.

use crate::{ModelBuilder, Tensor};
use diptych_ir::ops::{Input, Map};
use diptych_ir::{DType, IrError, NodeId, Op, ScalarFn, Span, Symbol, TensorType};

impl ModelBuilder {
    /// One over the number of targets that a step learns from, all its micro-batches together:
    /// f32[]. A sum over tokens times this is their mean.
    #[track_caller]
    pub fn inverse_tokens(&self) -> Tensor<'_> {
        let span = Span::caller();
        let added = {
            let state = &mut *self.state.borrow_mut();
            let input = Input { name: "inverse_tokens".into(), ty: TensorType::scalar(DType::F32) };
            let outermost = &state.frames[0];
            let node = state.program.region_mut(outermost.region).graph.add(input, &[]);
            node.map(|node| Tensor::new(self, outermost.id, node))
        };
        added.unwrap_or_else(|error| self.poison(error, span))
    }

    /// Adds a number, f32[], to the loss that training descends; in the body of a repeat, the
    /// sum over its layers. Scores, generated text and the reported cross-entropy know nothing of
    /// it, and what only it needs is computed in training alone.
    ///
    /// A step adds up the gradients of its micro-batches, so the number must be a sum over
    /// sequences, each by itself: then it does not matter how a batch is cut. One of parameters alone is refused. Times
    /// [`ModelBuilder::inverse_tokens`] it is on the scale of the cross-entropy.
    ///
    /// ```
    /// # use diptych_models::ModelBuilder;
    /// # ModelBuilder::new("calm", 64).finish(|m| {
    /// # let (vocab, embed) = (m.axis("vocab", 32), m.axis("embed", 16));
    /// # let table = m.embedding("embedding", vocab, embed);
    /// # let x = table.take(m.tokens(), vocab);
    /// let logits = m.head("head", x, embed, vocab);
    /// // The z-loss of PaLM (Chowdhery et al. 2022, section 5): log-normalisers stay near 0.
    /// let normaliser = logits.exp().sum(vocab).log();
    /// let squares = (normaliser * normaliser).sum([m.batch(), m.time()]);
    /// m.add_to_loss("z", squares * m.inverse_tokens() * 1e-4);
    /// # logits
    /// # })?;
    /// # Ok::<(), diptych_models::ModelError>(())
    /// ```
    #[track_caller]
    pub fn add_to_loss(&self, name: &str, number: Tensor<'_>) {
        if number.is_poisoned() {
            return;
        }
        let span = Span::caller();
        let full = self.full_name(name);
        if let Err(error) = self.note_loss(full, number) {
            self.poison(error, span);
        }
    }

    fn note_loss(&self, name: Symbol, number: Tensor<'_>) -> Result<(), IrError> {
        let wrong = |problem: String| Err(IrError::of("add_to_loss", format!("`{name}` {problem}")));
        let state = &mut *self.state.borrow_mut();
        let top = state.frames.len() - 1;
        if state.frames[top].over.is_some() {
            return wrong("is added in the step of a scan; let the step yield it, and add its sum".into());
        }
        let node = state.resolve(number, "add_to_loss")?;
        let graph = &state.program.region(state.frames[top].region).graph;
        let ty = graph.ty(node);
        if ty.dtype != DType::F32 {
            return wrong(format!("is {ty}; what is added to the loss is f32[]: cast it"));
        }
        if !ty.axes.is_empty() {
            return wrong(format!(
                "is {ty}; what is added to the loss is one number, f32[]: sum it over its axes"
            ));
        }
        let along_tokens = |&id: &NodeId| {
            let whole = matches!(graph.op(id), Op::Output(_));
            whole || graph.axes(id).iter().any(|axis| axis.fixed_size().is_none())
        };
        if !graph.ancestors(&[node]).iter().any(along_tokens) {
            return wrong(
                "depends on no token, so it would count once for each micro-batch; weight decay is an option of training"
                    .into(),
            );
        }
        if state.frames.iter().flat_map(|frame| &frame.losses).any(|loss| loss.0 == name) {
            return wrong("is added twice; give each part of the loss a name of its own".into());
        }
        state.frames[top].losses.push((name, node));
        Ok(())
    }

    /// The sum of all that was added to the loss in the main region, if anything was.
    pub(crate) fn added_to_loss(&self) -> Result<Option<Tensor<'_>>, IrError> {
        let state = &mut *self.state.borrow_mut();
        let losses: Vec<NodeId> = state.frames[0].losses.iter().map(|loss| loss.1).collect();
        let Some((&first, rest)) = losses.split_first() else { return Ok(None) };
        let graph = &mut state.program.main_mut().graph;
        let sum = rest.iter().try_fold(first, |sum, &loss| graph.add(Map(ScalarFn::Add), &[sum, loss]))?;
        Ok(Some(Tensor::new(self, state.frames[0].id, sum)))
    }
}
