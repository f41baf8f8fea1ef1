//! Repeats of an entry: where what they carry, stack and are given lies, and
//! what is copied into them and out of them. It knows no kernel.

use super::build::{Builder, Scope};
use super::error::CompileError;
use super::{ArgRef, BufferId, PlanStep, Role, Slot};
use diptych_ir::{NodeId, Op};
use std::collections::HashMap;

impl Builder<'_> {
    /// The steps of a repeat.
    pub(super) fn repeat(
        &mut self,
        scope: &mut Scope,
        node: NodeId,
        steps: &mut Vec<PlanStep>,
        load_steps: &mut Vec<PlanStep>,
    ) -> Result<(), CompileError> {
        let program = self.program;
        let graph = &program.region(scope.region).graph;
        let Op::Repeat(repeat) = graph.op(node).clone() else { return Ok(()) };
        if scope.layers.is_some() {
            return Err(self.error("a repeat within a repeat"));
        }
        let layers =
            repeat.layers.fixed_size().ok_or_else(|| self.error("the number of layers must be fixed"))?;
        let body = program.region(repeat.body);
        let operands = graph.operands(node);
        let outputs: HashMap<usize, NodeId> = graph
            .users(node)
            .into_iter()
            .filter_map(|user| match graph.op(user) {
                Op::Output(output) => Some((output.index, user)),
                _ => None,
            })
            .collect();
        let mut inner = Scope {
            region: repeat.body,
            places: HashMap::new(),
            targets: HashMap::new(),
            layers: Some(layers),
            between: HashMap::new(),
        };
        let mut outer: Vec<ArgRef> = Vec::new();
        let mut entering: Vec<PlanStep> = Vec::new();
        let mut first_in_body: Vec<PlanStep> = Vec::new();

        // What each layer yields, stacked.
        let mut stacks: HashMap<NodeId, BufferId> = HashMap::new();
        for position in repeat.carried..repeat.results.len() {
            let result = body.results[position];
            let carried = body.arguments[..repeat.carried].contains(&result) && !repeat.reverse;
            let target = outputs.get(&position).and_then(|output| scope.targets.get(output).copied());
            let place = match target {
                Some(target) if !carried => target,
                _ => {
                    let slots = layers + usize::from(carried);
                    ArgRef {
                        buffer: self.add_buffer(Role::Temporary, repeat.body, result, slots),
                        slot: Slot::First,
                    }
                }
            };
            let of_layer = ArgRef { buffer: place.buffer, slot: Slot::Layer };
            outer.push(place);
            if let Some(&output) = outputs.get(&position) {
                scope.places.insert(output, place);
            }
            if carried {
                stacks.insert(result, place.buffer);
            } else if let Some(argument) = body.arguments.iter().position(|&argument| argument == result) {
                let from = self.argument_place(scope, &repeat, &operands, argument)?;
                first_in_body.push(PlanStep::Copy { from, to: of_layer });
            } else {
                inner.targets.insert(result, of_layer);
            }
        }
        for (position, &argument) in body.arguments.iter().enumerate() {
            if position >= repeat.carried {
                let place = self.argument_place(scope, &repeat, &operands, position)?;
                outer.push(place);
                inner.places.insert(argument, place);
                continue;
            }
            let (buffer, before, after, end) = match stacks.get(&argument) {
                Some(&buffer) => (buffer, Slot::Before, Slot::After, Slot::Final(layers)),
                None => {
                    let buffer = self.add_buffer(Role::Temporary, repeat.body, argument, 2);
                    (buffer, Slot::BeforeInTurn, Slot::AfterInTurn, Slot::FinalInTurn(layers))
                }
            };
            let operand = operands[position];
            let from = self
                .place(scope, operand)
                .ok_or_else(|| self.error("a repeat is given a value that is not stored"))?;
            let start = ArgRef { buffer, slot: Slot::First };
            if self.buffers[from.buffer].layout != self.buffers[buffer].layout {
                return Err(self.error("what a repeat carries is stored otherwise than what it starts from"));
            }
            entering.push(PlanStep::Copy { from, to: start });
            outer.extend([from, start]);
            inner.places.insert(argument, ArgRef { buffer, slot: before });
            let result = body.results[position];
            if inner.targets.contains_key(&result) || body.arguments.contains(&result) {
                return Err(self.error("a layer passes on a value that it does not compute itself"));
            }
            inner.targets.insert(result, ArgRef { buffer, slot: after });
            if let Some(&output) = outputs.get(&position) {
                scope.places.insert(output, ArgRef { buffer, slot: end });
            }
        }
        for &place in &outer {
            self.touch(place);
        }
        let (mut run, load) = self.region(&mut inner)?;
        self.time += 1;
        for &place in &outer {
            self.touch(place);
        }
        first_in_body.append(&mut run);
        steps.extend(entering);
        steps.push(PlanStep::Repeat { layers, reverse: repeat.reverse, body: first_in_body });
        if !load.is_empty() {
            load_steps.push(PlanStep::Repeat { layers, reverse: false, body: load });
        }
        for (position, &output) in outputs.iter().filter(|(position, _)| **position < repeat.carried) {
            if let (Some(&target), Some(&from)) = (scope.targets.get(&output), scope.places.get(&output)) {
                debug_assert!(*position < repeat.carried);
                if self.buffers[from.buffer].layout != self.buffers[target.buffer].layout {
                    return Err(self.error("what a repeat carries is stored otherwise than what it becomes"));
                }
                self.touch(target);
                steps.push(PlanStep::Copy { from, to: target });
            }
        }
        Ok(())
    }

    /// Where a stacked or invariant argument of a repeat is, seen from its body.
    fn argument_place(
        &mut self,
        scope: &mut Scope,
        repeat: &diptych_ir::ops::Repeat,
        operands: &[NodeId],
        position: usize,
    ) -> Result<ArgRef, CompileError> {
        let operand = operands[position];
        let place = self
            .place(scope, operand)
            .ok_or_else(|| self.error("a repeat is given a value that is not stored"))?;
        if position < repeat.carried || position >= repeat.carried + repeat.stacked {
            return Ok(place);
        }
        let slots = self.buffers[place.buffer].slots;
        if repeat.layers.fixed_size().is_none_or(|layers| slots < layers) || place.slot != Slot::First {
            return Err(self.error("a stacked value does not lie layer by layer"));
        }
        Ok(ArgRef { buffer: place.buffer, slot: Slot::Layer })
    }
}
