//! `repeat`: a stack of equal blocks written once. It knows how a body's ports
//! are found, not what a body computes.

use super::builder::{Frame, State, reorder_arguments};
use crate::{ModelBuilder, Tensor};
use diptych_ir::ops::Reduce;
use diptych_ir::{Axis, IrError, NodeId, ReduceKind, Region, Span};
use std::collections::HashSet;

impl ModelBuilder {
    /// A stack of `count` equal blocks: `body` is given what the block before
    /// it returned (the first, `x`) and returns a value of the same type.
    /// Parameters made in the body have one slice for each layer, along an axis
    /// called `name`; values from around the body can be used in it and are the
    /// same for all layers.
    #[track_caller]
    pub fn repeat<'m>(
        &'m self,
        name: &str,
        count: usize,
        x: Tensor<'m>,
        body: impl FnOnce(&'m ModelBuilder, Tensor<'m>) -> Tensor<'m>,
    ) -> Tensor<'m> {
        let [x] = self.repeat_all(name, count, [x], |m, [x]| [body(m, x)]);
        x
    }

    /// As [`ModelBuilder::repeat`], with several values handed from block to block.
    #[track_caller]
    pub fn repeat_all<'m, const N: usize>(
        &'m self,
        name: &str,
        count: usize,
        carried: [Tensor<'m>; N],
        body: impl FnOnce(&'m ModelBuilder, [Tensor<'m>; N]) -> [Tensor<'m>; N],
    ) -> [Tensor<'m>; N] {
        let span = Span::caller();
        if carried.iter().any(|tensor| tensor.is_poisoned()) {
            return carried.map(|_| Tensor::poisoned(self));
        }
        let layers = Axis::fixed(name, count);
        let inputs = match self.open(layers, &carried) {
            Ok(inputs) => inputs,
            Err(error) => return carried.map(|_| self.poison(error.clone(), span)),
        };
        let mut inputs = inputs.into_iter();
        let given = carried.map(|_| inputs.next().unwrap_or_else(|| Tensor::poisoned(self)));
        let results = body(self, given);
        let outputs = match self.close(layers, &given, &results) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.poison(error, span);
                Vec::new()
            }
        };
        let mut outputs = outputs.into_iter();
        carried.map(|_| outputs.next().unwrap_or_else(|| Tensor::poisoned(self)))
    }

    /// Opens the body, with the carried values captured as its first arguments.
    fn open(&self, layers: Axis, carried: &[Tensor<'_>]) -> Result<Vec<Tensor<'_>>, IrError> {
        self.declare(layers);
        let state = &mut *self.state.borrow_mut();
        if state.frames.len() > 1 {
            return Err(IrError::of(
                "repeat",
                "a repeat within a repeat; write the inner blocks out in the body of the outer one",
            ));
        }
        if layers.fixed_size() == Some(0) {
            return Err(IrError::of(
                "repeat",
                format!("`{}` has 0 layers; it needs at least 1", layers.name),
            ));
        }
        let taken = format!("{}.", layers.name);
        if state.program.params.keys().any(|param| param.as_str().starts_with(&taken)) {
            return Err(IrError::of("repeat", format!("there is a repeat called `{}` already", layers.name)));
        }
        let outer = carried.iter().map(|tensor| state.resolve(*tensor, "repeat"));
        let outer = outer.collect::<Result<Vec<NodeId>, IrError>>()?;
        let main = &state.program.main().graph;
        let mut region = Region::new(layers.name);
        for &name in main.axis_order() {
            region.graph.declare_axis(name);
        }
        let types: Vec<_> = outer.iter().map(|&node| main.ty(node).clone()).collect();
        let arguments = types.into_iter().map(|ty| region.add_argument(ty));
        let arguments = arguments.collect::<Result<Vec<NodeId>, IrError>>()?;
        let region = state.program.add_region(region);
        let frame = Frame::new(region, Some(layers));
        let tensors = arguments.iter().map(|&argument| Tensor::new(self, frame.id, argument)).collect();
        state.frames.push(frame);
        state.carried = outer;
        Ok(tensors)
    }

    /// Closes the body and adds the repeat to the region around it.
    fn close(
        &self,
        layers: Axis,
        given: &[Tensor<'_>],
        results: &[Tensor<'_>],
    ) -> Result<Vec<Tensor<'_>>, IrError> {
        let state = &mut *self.state.borrow_mut();
        let nodes: Result<Vec<NodeId>, IrError> =
            results.iter().map(|result| state.resolve(*result, "repeat")).collect();
        let State { program, frames, carried, .. } = state;
        let carried = std::mem::take(carried);
        let Some(frame) = frames.pop() else { return Ok(Vec::new()) };
        if results.iter().any(|result| result.is_poisoned()) {
            return Ok(Vec::new());
        }
        let mut nodes = nodes?;
        // What layers add to the loss comes out stacked, so that an entry without the loss computes none of it.
        nodes.extend(frame.losses.iter().map(|loss| loss.1));
        let graph = &program.region(frame.region).graph;
        let live: HashSet<NodeId> = graph.ancestors(&nodes).into_iter().collect();
        if let Some(&(_, unused)) = frame.stacked.iter().find(|port| !live.contains(&port.1)) {
            let node = graph.node(unused);
            let name = node.label.map_or("", |label| label.as_str());
            let error = IrError::of("param", format!("`{name}` is declared, but its block does not use it"));
            return Err(node.span.map_or(error.clone(), |span| error.at(span)));
        }
        let captured = frame.captured.iter().filter(|port| live.contains(&port.1));
        let (invariant, ports): (Vec<NodeId>, Vec<NodeId>) = captured.copied().unzip();
        let (stacked, slices): (Vec<NodeId>, Vec<NodeId>) = frame.stacked.iter().copied().unzip();
        let own = given.iter().filter_map(|tensor| tensor.place()).map(|place| place.1);
        let arguments: Vec<NodeId> = own.chain(slices).chain(ports).collect();
        let (mut region, copies) = reorder_arguments(program.region(frame.region), &arguments, &live)?;
        region.results = nodes.iter().filter_map(|node| copies.get(node).copied()).collect();
        *program.region_mut(frame.region) = region;
        let Some(parent) = frames.last_mut() else { return Ok(Vec::new()) };
        let mut outputs =
            program.add_repeat(parent.region, frame.region, layers, false, &carried, &stacked, &invariant)?;
        for ((name, _), stack) in frame.losses.iter().zip(outputs.split_off(results.len())) {
            let graph = &mut program.region_mut(parent.region).graph;
            let sum = graph.add(Reduce { kind: ReduceKind::Sum, over: vec![layers] }, &[stack])?;
            graph.annotate(sum, None, Some(*name));
            parent.losses.push((*name, sum));
        }
        Ok(outputs.into_iter().map(|output| Tensor::new(self, parent.id, output)).collect())
    }
}
