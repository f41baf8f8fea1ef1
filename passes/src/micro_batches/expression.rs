//! What a gradient is in terms of sums over tokens: one of them, or computed from several and from parameters. It
//! decides nothing.

use diptych_ir::{Axis, Graph, IrError, NodeId, Op, Program, ReduceKind, Region, Result, TensorType};

/// A sum over tokens, whose value has no run-time axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    /// The node of the main region: the sum, or the repeat whose body computes it.
    pub(super) node: NodeId,
    /// The sum in the body.
    pub(super) in_body: Option<NodeId>,
}

/// How a gradient is computed.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expression {
    /// What can only be taken as it is.
    Whole(NodeId),
    /// A sum over tokens.
    Sum(Sum),
    /// A parameter or a number, in the main region.
    Given(NodeId),
    /// An op on other expressions.
    Of(Op, Vec<Expression>),
    /// For each layer along the axis, what an expression of slices gives.
    Layers(Axis, Box<Expression>),
}

impl Expression {
    /// The sum, if it is one and nothing else.
    pub(super) fn as_sum(&self) -> Option<Sum> {
        match self {
            Expression::Sum(sum) => Some(*sum),
            Expression::Layers(_, of_layer) => of_layer.as_sum(),
            _ => None,
        }
    }

    /// The sums, each once, in the order in which they are read.
    pub(super) fn sums(&self) -> Vec<Sum> {
        let mut sums = Vec::new();
        let mut stack = vec![self];
        while let Some(expression) = stack.pop() {
            match expression {
                Expression::Sum(sum) if !sums.contains(sum) => sums.push(*sum),
                Expression::Of(_, operands) => stack.extend(operands.iter().rev()),
                Expression::Layers(_, of_layer) => stack.push(of_layer),
                _ => {}
            }
        }
        sums
    }

    /// Adds the expression to the main region, with `held` in the place of sums; what each layer has, in a repeat.
    pub(super) fn build(
        &self,
        program: &mut Program,
        held: &dyn Fn(Sum) -> Option<NodeId>,
    ) -> Result<NodeId> {
        match self {
            Expression::Layers(layers, of_layer) => {
                let mut body = Region::new(layers.name);
                for &name in program.main().graph.axis_order() {
                    body.graph.declare_axis(name);
                }
                let mut given = Vec::new();
                let mut slice = |body: &mut Region, leaf: &Expression| {
                    let node = leaf.leaf(held)?;
                    if let Some(at) = given.iter().position(|&known| known == node) {
                        return Ok(body.arguments[at]);
                    }
                    given.push(node);
                    body.add_argument(program.main().graph.ty(node).without_axis(*layers))
                };
                let result = of_layer.add_to(&mut body, &mut slice)?;
                body.results.push(result);
                let body = program.add_region(body);
                let outputs = program.add_repeat(Program::MAIN, body, *layers, false, &[], &given, &[])?;
                Ok(outputs[0])
            }
            other => other.add_to(program.main_mut(), &mut |_, leaf| leaf.leaf(held)),
        }
    }

    /// The main region's node for what is no op.
    fn leaf(&self, held: &dyn Fn(Sum) -> Option<NodeId>) -> Result<NodeId> {
        let found = match self {
            Expression::Whole(node) | Expression::Given(node) => Some(*node),
            Expression::Sum(sum) => held(*sum),
            Expression::Of(..) | Expression::Layers(..) => None,
        };
        found.ok_or_else(|| IrError::Invalid("what a gradient is computed from is kept nowhere".into()))
    }

    /// Adds ops to a region, on what `given` says of the leaves.
    fn add_to(
        &self,
        region: &mut Region,
        given: &mut dyn FnMut(&mut Region, &Expression) -> Result<NodeId>,
    ) -> Result<NodeId> {
        let Expression::Of(op, operands) = self else { return given(region, self) };
        let operands = operands.iter().map(|operand| operand.add_to(region, given));
        let operands = operands.collect::<Result<Vec<NodeId>>>()?;
        region.graph.add(op.clone(), &operands)
    }
}

/// The expression of a gradient, a node of the main region.
pub(super) fn expression(program: &Program, node: NodeId) -> Expression {
    of_main(program, node).unwrap_or(Expression::Whole(node))
}

/// The type of a sum, with the axis of layers if each has one.
pub(super) fn type_of(program: &Program, sum: Sum) -> Option<TensorType> {
    let graph = &program.main().graph;
    match (sum.in_body, graph.op(sum.node)) {
        (Some(inner), Op::Repeat(repeat)) => {
            program.region(repeat.body).graph.ty(inner).with_axis(repeat.layers)
        }
        _ => Some(graph.ty(sum.node).clone()),
    }
}

/// The output of a repeat that yields this node of its body for each layer.
pub(super) fn yielded_by(program: &Program, repeat: NodeId, inner: NodeId) -> Option<NodeId> {
    let graph = &program.main().graph;
    let Op::Repeat(looped) = graph.op(repeat) else { return None };
    let results = &program.region(looped.body).results;
    graph.users(repeat).into_iter().find(|&user| match graph.op(user) {
        Op::Output(output) => output.index >= looped.carried && results[output.index] == inner,
        _ => false,
    })
}

/// Whether a node sums over run-time axes, and leaves none of them.
pub(super) fn is_sum_over_tokens(graph: &Graph, id: NodeId) -> bool {
    let of_tokens = |axis: &Axis| axis.fixed_size().is_none();
    let sums = match graph.op(id) {
        Op::Contract(contract) => contract.over.iter().any(of_tokens),
        Op::Reduce(reduce) => reduce.kind == ReduceKind::Sum && reduce.over.iter().any(of_tokens),
        Op::PutAdd(_) => graph.operands(id).iter().any(|&operand| graph.axes(operand).iter().any(of_tokens)),
        _ => false,
    };
    sums && !graph.axes(id).iter().any(of_tokens)
}

/// Whether an op on sums over tokens can be done when all of them are there.
fn can_wait(op: &Op) -> bool {
    matches!(op, Op::Map(_) | Op::Cast(_) | Op::Contract(_) | Op::Reduce(_))
}

fn of_main(program: &Program, id: NodeId) -> Option<Expression> {
    let graph = &program.main().graph;
    let operands = graph.operands(id);
    match graph.op(id) {
        _ if is_sum_over_tokens(graph, id) => Some(Expression::Sum(Sum { node: id, in_body: None })),
        Op::Param(_) | Op::Literal(_) => Some(Expression::Given(id)),
        Op::Output(output) => match graph.op(operands[0]) {
            Op::Repeat(repeat) if output.index >= repeat.carried => {
                let result = program.region(repeat.body).results[output.index];
                let of_layer = of_body(program, operands[0], result)?;
                Some(Expression::Layers(repeat.layers, Box::new(of_layer)))
            }
            _ => None,
        },
        op if can_wait(op) => {
            let operands = operands.into_iter().map(|operand| of_main(program, operand));
            Some(Expression::Of(op.clone(), operands.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The same of a node in the body of a repeat.
fn of_body(program: &Program, repeat: NodeId, id: NodeId) -> Option<Expression> {
    let main = &program.main().graph;
    let Op::Repeat(looped) = main.op(repeat) else { return None };
    let graph = &program.region(looped.body).graph;
    match graph.op(id) {
        _ if is_sum_over_tokens(graph, id) => Some(Expression::Sum(Sum { node: repeat, in_body: Some(id) })),
        Op::Literal(_) => Some(Expression::Of(graph.op(id).clone(), Vec::new())),
        Op::Argument(argument) if argument.index >= looped.carried => {
            let given = main.operands(repeat)[argument.index];
            let stacked = argument.index < looped.carried + looped.stacked;
            (stacked && matches!(main.op(given), Op::Param(_))).then_some(Expression::Given(given))
        }
        op if can_wait(op) => {
            let operands = graph.operands(id).into_iter().map(|operand| of_body(program, repeat, operand));
            Some(Expression::Of(op.clone(), operands.collect::<Option<_>>()?))
        }
        _ => None,
    }
}
