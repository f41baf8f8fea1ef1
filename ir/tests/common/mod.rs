//! What the tests of ops share: applying one op to values, and random values.

#![allow(dead_code)] // Each test file uses its own part.

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::ops::{Input, Operator};
use diptych_ir::{Axes, Axis, DType, Graph, NodeId, Op, Program, Result, TensorType};

/// A value with its type, its elements row-major over the axes as listed.
#[derive(Clone)]
pub struct Given {
    pub dtype: DType,
    pub axes: Vec<Axis>,
    pub data: Vec<f64>,
}

pub fn floats(axes: &[Axis], data: &[f64]) -> Given {
    Given { dtype: DType::F32, axes: axes.to_vec(), data: data.to_vec() }
}

pub fn ints(axes: &[Axis], data: &[f64]) -> Given {
    Given { dtype: DType::I32, ..floats(axes, data) }
}

pub fn truths(axes: &[Axis], data: &[f64]) -> Given {
    Given { dtype: DType::Bool, ..floats(axes, data) }
}

impl Given {
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, Axes::new(self.axes.iter().copied()).expect("distinct names"))
    }

    pub fn value(&self) -> Value {
        let shape: Vec<_> =
            self.axes.iter().map(|axis| (axis.name, axis.fixed_size().expect("a fixed size"))).collect();
        Value::new(&shape, self.data.clone()).expect("as many elements as the axes hold")
    }
}

/// Adds an input that holds this value.
pub fn add_input(graph: &mut Graph, context: &mut Context, name: &str, given: &Given) -> NodeId {
    context.inputs.insert(name.into(), given.value());
    graph.add(Input { name: name.into(), ty: given.ty() }, &[]).expect("an input")
}

/// The value of an op applied to these operands.
pub fn apply(op: impl Into<Op>, operands: &[Given]) -> Result<Value> {
    let mut program = Program::new("one op");
    let mut context = Context::default();
    let graph = &mut program.main_mut().graph;
    let operands: Vec<NodeId> = operands
        .iter()
        .enumerate()
        .map(|(position, given)| add_input(graph, &mut context, &format!("x{position}"), given))
        .collect();
    let node = graph.add(op, &operands)?;
    Ok(evaluate(&program, &[node], &context)?.remove(0))
}

/// The elements that an op gives, row-major over these axes.
#[track_caller]
pub fn gives(op: impl Into<Op>, operands: &[Given], axes: &[Axis]) -> Vec<f64> {
    let value = apply(op, operands).expect("operands that fit");
    assert_eq!(value.axes.len(), axes.len(), "the value has {:?}, the test expects {axes:?}", value.axes);
    value.in_order(axes)
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number, a multiple of 1/8 in [-8, 8): sums and products of few are exact.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) % 128) as f64 / 8.0 - 8.0
    }

    /// The next whole number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next();
        (self.0 >> 33) as usize % bound
    }

    pub fn floats(&mut self, axes: &[Axis]) -> Given {
        let count = axes.iter().map(|axis| axis.fixed_size().expect("a fixed size")).product();
        let data: Vec<f64> = (0..count).map(|_| self.next()).collect();
        floats(axes, &data)
    }

    pub fn ids(&mut self, axes: &[Axis], bound: usize) -> Given {
        let mut ids = Given { dtype: DType::I32, ..self.floats(axes) };
        ids.data.iter_mut().for_each(|id| *id = self.below(bound) as f64);
        ids
    }
}

/// The inner product over the axes of the first; the second may leave out axes
/// along which it is constant.
pub fn inner(whole: &Value, part: &Value) -> f64 {
    let mut sum = 0.0;
    Value::build(whole.axes.clone(), |index| {
        sum += whole.at(index) * part.at(index);
        0.0
    });
    sum
}

/// What the gradient of `op` gives for one operand and this cotangent.
pub fn gradient(op: impl Into<Op>, operands: &[Given], position: usize, cotangent: &Given) -> Option<Value> {
    let op = op.into();
    let mut program = Program::new("one op");
    let mut context = Context::default();
    let graph = &mut program.main_mut().graph;
    let inputs: Vec<NodeId> = operands
        .iter()
        .enumerate()
        .map(|(place, given)| add_input(graph, &mut context, &format!("x{place}"), given))
        .collect();
    let node = graph.add(op.clone(), &inputs).expect("operands that fit");
    let cotangent = add_input(graph, &mut context, "cotangent", cotangent);
    let operator: &dyn Operator = op.operator();
    let gradient = operator.gradient(graph, node, cotangent).expect("a gradient")[position]?;
    Some(evaluate(&program, &[gradient], &context).expect("a value").remove(0))
}
