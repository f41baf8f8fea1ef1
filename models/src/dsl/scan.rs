//! `scan`: a recurrence along the positions of a sequence, written as one step.
//! It knows how a step's ports are found, not what a step computes.

use super::builder::{AxisList, Frame, State, reorder_arguments};
use crate::{ModelBuilder, Tensor};
use diptych_ir::{Axis, DType, Initializer, IrError, NodeId, Region, Span, TensorType};
use std::collections::HashSet;

impl ModelBuilder {
    /// A recurrence along `time`: `step` is given what the step before carried
    /// on (the first, `start`: f32[batch, …] without `time`), and returns what it
    /// carries on, of the same types, and what it yields, which comes out along
    /// `time`.
    ///
    /// Values from around can be used in the step: of one that varies along
    /// `time` it sees the position at hand. What is carried continues from call
    /// to call when serving, as what a [`Tensor::history`] has seen does.
    ///
    /// ```
    /// # use diptych_models::ModelBuilder;
    /// # ModelBuilder::new("running", 64).finish(|m| {
    /// # let (vocab, embed) = (m.axis("vocab", 32), m.axis("embed", 16));
    /// # let table = m.embedding("embedding", vocab, embed);
    /// let x = table.take(m.tokens(), vocab);
    /// let gate = m.linear("gate", x, embed, m.axis("channel", 16)).sigmoid();
    /// let input = m.linear("input", x, embed, m.axis("channel", 16));
    /// let start = m.zeros([m.batch(), m.axis("channel", 16)]);
    /// let [y] = m.scan("state", [start], |_, [state]| {
    ///     let state = state * gate + input;
    ///     ([state], [state])
    /// });
    /// # m.head("head", y, m.axis("channel", 16), vocab)
    /// # })?;
    /// # Ok::<(), diptych_models::ModelError>(())
    /// ```
    #[track_caller]
    pub fn scan<'m, const C: usize, const Y: usize>(
        &'m self,
        name: &str,
        start: [Tensor<'m>; C],
        step: impl FnOnce(&'m ModelBuilder, [Tensor<'m>; C]) -> ([Tensor<'m>; C], [Tensor<'m>; Y]),
    ) -> [Tensor<'m>; Y] {
        let yielded = self.scan_all(name, &start, |m, given| {
            let mut given = given.iter().copied();
            let given = start.map(|_| given.next().unwrap_or_else(|| Tensor::poisoned(m)));
            let (carried, yielded) = step(m, given);
            (carried.to_vec(), yielded.to_vec())
        });
        let mut yielded = yielded.into_iter();
        [(); Y].map(|()| yielded.next().unwrap_or_else(|| Tensor::poisoned(self)))
    }

    /// As [`ModelBuilder::scan`], with as many values as a configuration says.
    /// After a mistake nothing is returned.
    #[track_caller]
    pub fn scan_all<'m>(
        &'m self,
        name: &str,
        start: &[Tensor<'m>],
        step: impl FnOnce(&'m ModelBuilder, &[Tensor<'m>]) -> (Vec<Tensor<'m>>, Vec<Tensor<'m>>),
    ) -> Vec<Tensor<'m>> {
        self.scan_results(name, start, step).into_iter().skip(start.len()).collect()
    }

    /// The sums of values along `time`, for each sequence by itself: f32[batch, …]. Positions are added one after the
    /// other, so no bit depends on what else is in the batch. They are for what is added to the loss; when
    /// serving they are sums of all positions so far.
    #[track_caller]
    pub fn sum_over_positions<'m, const N: usize>(
        &'m self,
        name: &str,
        values: [Tensor<'m>; N],
    ) -> [Tensor<'m>; N] {
        let (span, batch, time) = (Span::caller(), self.batch(), self.time());
        for ty in values.iter().filter_map(|value| value.ty()) {
            if !(ty.axes.contains(batch) && ty.axes.contains(time)) {
                let problem = format!("`{name}` sums along the time of each sequence, but was given {ty}");
                return values.map(|_| self.poison_at("sum_over_positions", problem.clone(), span));
            }
        }
        let rest = |value: Tensor<'m>| value.ty().map_or(Vec::new(), |ty| ty.axes.without(&[time]).to_vec());
        let start = values.map(|value| if value.is_poisoned() { value } else { self.zeros(rest(value)) });
        let sums = self.scan_results(name, &start, |_, sums| {
            let next = sums.iter().zip(values).map(|(&sum, value)| sum + value.cast(DType::F32));
            (next.collect(), Vec::new())
        });
        let mut sums = sums.into_iter();
        values.map(|_| sums.next().unwrap_or_else(|| Tensor::poisoned(self)))
    }

    /// What a scan carries at the end, then what it yields; nothing after a mistake.
    #[track_caller]
    fn scan_results<'m>(
        &'m self,
        name: &str,
        start: &[Tensor<'m>],
        step: impl FnOnce(&'m ModelBuilder, &[Tensor<'m>]) -> (Vec<Tensor<'m>>, Vec<Tensor<'m>>),
    ) -> Vec<Tensor<'m>> {
        let span = Span::caller();
        if start.iter().any(|tensor| tensor.is_poisoned()) {
            return Vec::new();
        }
        let done = self.open_scan(name, start).and_then(|inputs| {
            let (carried, yielded) = step(self, &inputs);
            if carried.len() != start.len() {
                let problem = format!("`{name}` carries {} values, then {}", start.len(), carried.len());
                return Err(IrError::of("scan", problem));
            }
            self.close_scan(&inputs, &[carried, yielded].concat(), name, span)
        });
        match done {
            Ok(outputs) => outputs,
            Err(error) => {
                self.poison(error, span);
                Vec::new()
            }
        }
    }

    /// A convolution along `time` for each channel apart: the sum of the value
    /// at hand and those at the `taps - 1` positions before it, each times a
    /// weight `name.tapN` over `channel`, the last that of the value at hand. In f32.
    #[track_caller]
    pub fn causal_convolution<'m>(
        &'m self,
        name: &str,
        x: Tensor<'m>,
        channel: Axis,
        taps: usize,
    ) -> Tensor<'m> {
        let initializer = Initializer::Uniform { bound: (taps.max(1) as f64).powf(-0.5) };
        let weights: Vec<Tensor<'m>> = (0..taps)
            .map(|tap| self.param(&format!("{name}.tap{tap}"), channel, initializer, true))
            .collect();
        let start = vec![self.zeros([self.batch(), channel]); taps.saturating_sub(1)];
        let convolved = self.scan_all(name, &start, |m, before| {
            let window = [before, &[x.cast(DType::F32)]].concat();
            let products = window.iter().zip(&weights).map(|(&x, &weight)| x * weight);
            let sum = products.reduce(|sum, product| sum + product);
            let sum = sum.unwrap_or_else(|| m.fail("causal_convolution", format!("`{name}` has 0 taps")));
            (window[1.min(window.len())..].to_vec(), vec![sum])
        });
        convolved.first().copied().unwrap_or_else(|| Tensor::poisoned(self))
    }

    /// Zeros over these axes, f32: what a recurrence starts from. They take no memory there.
    #[track_caller]
    pub fn zeros(&self, axes: impl Into<AxisList>) -> Tensor<'_> {
        // No position is negative.
        let never = axes.into().0.into_iter().map(|axis| self.position(axis).less(0.0));
        match never.reduce(|left, right| left.and(right)) {
            Some(never) => never.cast(DType::F32),
            None => self.number(DType::F32, 0.0),
        }
    }

    /// Opens the step, with the carried values as its first arguments.
    fn open_scan(&self, name: &str, start: &[Tensor<'_>]) -> Result<Vec<Tensor<'_>>, IrError> {
        let over = self.time();
        let state = &mut *self.state.borrow_mut();
        if state.frames.iter().any(|frame| frame.over.is_some()) {
            return Err(IrError::of("scan", "a scan within a scan: carry both values in one"));
        }
        let outer = start.iter().map(|tensor| state.resolve(*tensor, "scan"));
        let outer = outer.collect::<Result<Vec<NodeId>, IrError>>()?;
        let parent = state.frames[state.frames.len() - 1].region;
        let graph = &state.program.region(parent).graph;
        let types: Vec<TensorType> = outer.iter().map(|&node| graph.ty(node).clone()).collect();
        if let Some(ty) = types.iter().find(|ty| ty.axes.contains(over) || !ty.axes.contains(self.batch())) {
            let problem = format!(
                "`{name}` starts from {ty}; a recurrence carries a value for each sequence, \
                 over batch and not over time"
            );
            return Err(IrError::of("scan", problem));
        }
        let mut region = Region::new(name);
        for &name in state.program.main().graph.axis_order() {
            region.graph.declare_axis(name);
        }
        let arguments = types.into_iter().map(|ty| region.add_argument(ty));
        let arguments = arguments.collect::<Result<Vec<NodeId>, IrError>>()?;
        let region = state.program.add_region(region);
        let mut frame = Frame::new(region, None);
        frame.over = Some(over);
        frame.start = outer;
        let tensors = arguments.iter().map(|&argument| Tensor::new(self, frame.id, argument)).collect();
        state.frames.push(frame);
        Ok(tensors)
    }

    /// Closes the step and adds the scan to the region around it. Returns all its results.
    fn close_scan(
        &self,
        given: &[Tensor<'_>],
        results: &[Tensor<'_>],
        name: &str,
        span: Span,
    ) -> Result<Vec<Tensor<'_>>, IrError> {
        let label = self.full_name(name);
        let state = &mut *self.state.borrow_mut();
        let nodes: Result<Vec<NodeId>, IrError> =
            results.iter().map(|result| state.resolve(*result, "scan")).collect();
        let State { program, frames, .. } = state;
        let Some(frame) = frames.pop() else { return Ok(Vec::new()) };
        if results.iter().any(|result| result.is_poisoned()) {
            return Ok(Vec::new());
        }
        let (nodes, over) = (nodes?, self.time());
        let graph = &program.region(frame.region).graph;
        let live: HashSet<NodeId> = graph.ancestors(&nodes).into_iter().collect();
        let Some(parent) = frames.last() else { return Ok(Vec::new()) };
        let outer = &program.region(parent.region).graph;
        let along = |port: &&(NodeId, NodeId)| outer.axes(port.0).contains(over);
        let captured = || frame.captured.iter().filter(|port| live.contains(&port.1));
        let (sequenced, slices): (Vec<NodeId>, Vec<NodeId>) = captured().filter(along).copied().unzip();
        let (invariant, ports): (Vec<NodeId>, Vec<NodeId>) =
            captured().filter(|port| !along(port)).copied().unzip();
        let own = given.iter().filter_map(|tensor| tensor.place()).map(|place| place.1);
        let arguments: Vec<NodeId> = own.chain(slices).chain(ports).collect();
        let (mut region, copies) = reorder_arguments(program.region(frame.region), &arguments, &live)?;
        region.results = nodes.iter().filter_map(|node| copies.get(node).copied()).collect();
        *program.region_mut(frame.region) = region;
        let (parent, id) = (parent.region, parent.id);
        let outputs =
            program.add_scan(parent, frame.region, over, false, &frame.start, &sequenced, &invariant)?;
        if let Some(&first) = outputs.first() {
            let graph = &mut program.region_mut(parent).graph;
            let scan = graph.operands(first)[0];
            graph.annotate(scan, Some(span), Some(label));
        }
        Ok(outputs.into_iter().map(|output| Tensor::new(self, id, output)).collect())
    }

    /// Position along an axis, whatever the sequence.
    #[track_caller]
    fn position(&self, axis: Axis) -> Tensor<'_> {
        self.add(diptych_ir::ops::Index { axis, origin: None }, &[])
    }
}
