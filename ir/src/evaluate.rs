//! The reference evaluator: every op in f64, by the plainest loops there are.
//! It is the truth that fast paths are tested against and is never optimised.

use crate::{Axes, Axis, Graph, IrError, Loop, NodeId, Op, Program, RegionId, Result, Size, Symbol};
use std::collections::{BTreeMap, HashMap};

/// A dense value: f64 elements, row-major over its axes in name order. Integers
/// and truth values (0 and 1) are held exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Axis names and sizes, sorted by name.
    pub axes: Vec<(Symbol, usize)>,
    /// The elements.
    pub data: Vec<f64>,
}

impl Value {
    /// A scalar.
    pub fn scalar(value: f64) -> Value {
        Value { axes: Vec::new(), data: vec![value] }
    }

    /// Elements given row-major over these axes, in any order of axes.
    ///
    /// # Errors
    /// When the number of elements is not the product of the sizes.
    pub fn new(axes: &[(Symbol, usize)], data: Vec<f64>) -> Result<Value> {
        let count: usize = axes.iter().map(|axis| axis.1).product();
        if count != data.len() {
            return Err(IrError::Evaluate(format!(
                "{axes:?} hold {count} elements, but {} were given",
                data.len()
            )));
        }
        let given = Value { axes: axes.to_vec(), data };
        let mut sorted = axes.to_vec();
        sorted.sort();
        Ok(Value::build(sorted, |index| given.at(index)))
    }

    /// The value whose element at each index is `element(index)`.
    pub fn build(axes: Vec<(Symbol, usize)>, mut element: impl FnMut(&Index) -> f64) -> Value {
        let mut data = Vec::with_capacity(axes.iter().map(|axis| axis.1).product());
        let mut index = Index::default();
        for_each_index(&axes, &mut index, &mut |index| data.push(element(index)));
        Value { axes, data }
    }

    /// The element at an index; axes that this value lacks are ignored.
    pub fn at(&self, index: &Index) -> f64 {
        self.data[self.offset(index)]
    }

    /// Position of the element at an index.
    pub fn offset(&self, index: &Index) -> usize {
        self.axes.iter().fold(0, |offset, &(name, size)| offset * size + index.get(name))
    }

    /// The elements row-major over these axes, which must be all of its axes.
    pub fn in_order(&self, order: &[Axis]) -> Vec<f64> {
        let sizes: HashMap<Symbol, usize> = self.axes.iter().copied().collect();
        let axes = order.iter().map(|axis| (axis.name, sizes[&axis.name])).collect();
        Value::build(axes, |index| self.at(index)).data
    }
}

/// Calls `visit` for each index of the axes, the last axis fastest.
pub fn for_each_index(axes: &[(Symbol, usize)], index: &mut Index, visit: &mut dyn FnMut(&Index)) {
    match axes {
        [] => visit(index),
        [(name, size), rest @ ..] => {
            let outer = index.0.iter().find(|entry| entry.0 == *name).map(|entry| entry.1);
            for position in 0..*size {
                index.set(*name, position);
                for_each_index(rest, index, visit);
            }
            match outer {
                Some(position) => index.set(*name, position),
                None => index.0.retain(|entry| entry.0 != *name),
            }
        }
    }
}

/// A position along each of some axes.
#[derive(Clone, Debug, Default)]
pub struct Index(Vec<(Symbol, usize)>);

impl Index {
    /// Position along an axis; 0 along one that is not indexed.
    pub fn get(&self, name: Symbol) -> usize {
        self.0.iter().find(|entry| entry.0 == name).map_or(0, |entry| entry.1)
    }

    /// Sets the position along an axis.
    pub fn set(&mut self, name: Symbol, position: usize) {
        match self.0.iter_mut().find(|entry| entry.0 == name) {
            Some(entry) => entry.1 = position,
            None => self.0.push((name, position)),
        }
    }

    /// The same index with another position along an axis.
    pub fn with(&self, name: Symbol, position: usize) -> Index {
        let mut index = self.clone();
        index.set(name, position);
        index
    }
}

/// What an evaluation is given.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Values of symbolic sizes.
    pub sizes: BTreeMap<Symbol, usize>,
    /// Inputs by name.
    pub inputs: BTreeMap<Symbol, Value>,
    /// Parameters by name.
    pub params: BTreeMap<Symbol, Value>,
}

impl Context {
    /// The size of an axis, in elements.
    ///
    /// # Errors
    /// When its symbol has no value.
    pub fn size(&self, axis: Axis) -> Result<usize> {
        match axis.size {
            Size::Fixed(size) => Ok(size),
            Size::Symbolic(symbol) => {
                let known = self.sizes.get(&symbol).copied();
                known.ok_or_else(|| IrError::Evaluate(format!("no value for the size `{symbol}`")))
            }
        }
    }

    /// Names and sizes of a set of axes, by name.
    pub fn shape(&self, axes: &Axes) -> Result<Vec<(Symbol, usize)>> {
        axes.iter().map(|&axis| Ok((axis.name, self.size(axis)?))).collect()
    }
}

/// Evaluates nodes of the main region.
///
/// # Errors
/// When an input, a parameter or a size is missing or has another shape.
pub fn evaluate(program: &Program, roots: &[NodeId], context: &Context) -> Result<Vec<Value>> {
    evaluate_watched(program, roots, context, &mut |_, _| {})
}

/// A node on the way of an evaluation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched<'p> {
    /// Its region.
    pub region: RegionId,
    /// The node.
    pub node: NodeId,
    /// The position along the axis of each loop that it is within, outermost first: of a repeat, the layer.
    pub positions: &'p [usize],
}

/// As [`evaluate`], and shows each value on the way, those within loops too.
///
/// # Errors
/// As said there.
pub fn evaluate_watched(
    program: &Program,
    roots: &[NodeId],
    context: &Context,
    watch: &mut dyn FnMut(Watched<'_>, &Value),
) -> Result<Vec<Value>> {
    let mut evaluation = Evaluation { program, context, watch, positions: Vec::new() };
    evaluation.region(Program::MAIN, &[], roots)
}

/// What an evaluation keeps in mind on its way through regions.
struct Evaluation<'a> {
    program: &'a Program,
    context: &'a Context,
    watch: &'a mut dyn FnMut(Watched<'_>, &Value),
    positions: Vec<usize>,
}

impl Evaluation<'_> {
    fn region(&mut self, region: RegionId, arguments: &[Value], roots: &[NodeId]) -> Result<Vec<Value>> {
        let graph: &Graph = &self.program.region(region).graph;
        let context = self.context;
        let mut values: HashMap<NodeId, Value> = HashMap::new();
        let mut loops: HashMap<NodeId, Vec<Value>> = HashMap::new();
        for id in graph.ancestors(roots) {
            let operands = graph.operands(id);
            let value = match graph.op(id) {
                op @ (Op::Repeat(_) | Op::Scan(_)) => {
                    let given: Vec<Value> = operands.iter().map(|operand| values[operand].clone()).collect();
                    if let Some(looped) = op.as_loop() {
                        loops.insert(id, self.looped(looped, given)?);
                    }
                    continue;
                }
                Op::Output(output) => loops[&operands[0]][output.index].clone(),
                Op::Argument(argument) => arguments
                    .get(argument.index)
                    .cloned()
                    .ok_or_else(|| IrError::Evaluate(format!("no argument {}", argument.index)))?,
                op => {
                    let given: Vec<&Value> = operands.iter().map(|operand| &values[operand]).collect();
                    op.operator().evaluate(&given, graph.ty(id), context)?
                }
            };
            if value.axes != context.shape(graph.axes(id))? {
                let wanted = graph.ty(id);
                return Err(IrError::Evaluate(format!(
                    "{} gives {:?}, not {wanted}",
                    graph.op(id).name(),
                    value.axes
                )));
            }
            (self.watch)(Watched { region, node: id, positions: &self.positions }, &value);
            values.insert(id, value);
        }
        Ok(roots.iter().map(|root| values[root].clone()).collect())
    }

    fn looped(&mut self, looped: Loop, operands: Vec<Value>) -> Result<Vec<Value>> {
        let context = self.context;
        let (runs, name) = (context.size(looped.over)?, looped.over.name);
        let (mut carried, rest) = (operands[..looped.carried].to_vec(), &operands[looped.carried..]);
        let (sequenced, invariant) = rest.split_at(looped.sequenced);
        let results = &self.program.region(looped.body).results;
        let mut yielded: Vec<Vec<Value>> =
            vec![vec![Value::scalar(0.0); runs]; results.len() - looped.carried];
        for run in 0..runs {
            let position = if looped.reverse { runs - 1 - run } else { run };
            let slices = sequenced.iter().map(|value| {
                let axes = value.axes.iter().copied().filter(|axis| axis.0 != name).collect();
                Value::build(axes, |index| value.at(&index.with(name, position)))
            });
            let arguments: Vec<Value> =
                carried.iter().cloned().chain(slices).chain(invariant.iter().cloned()).collect();
            self.positions.push(position);
            let mut outputs = self.region(looped.body, &arguments, results)?;
            self.positions.pop();
            for (sequence, value) in yielded.iter_mut().zip(outputs.split_off(looped.carried)) {
                sequence[position] = value;
            }
            carried = outputs;
        }
        let sequences = yielded.into_iter().zip(&looped.results[looped.carried..]).map(|(sequence, ty)| {
            Ok(Value::build(context.shape(&ty.axes)?, |index| sequence[index.get(name)].at(index)))
        });
        carried.into_iter().map(Ok).chain(sequences).collect()
    }
}
