//! The builder: the program under construction, the regions that are open, and
//! the first error. It knows graphs and parameters, not what layers compute.

use crate::{ModelError, Result, Tensor};
use diptych_ir::ops::{Index, Input, Literal, Param};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Initializer, IrError, NodeId, Op, ParamInfo, Program, Region, RegionId, Span,
    Symbol, TensorType, UpdateRule,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// The most sequences that a batch may have, unless the program's bounds are
/// narrowed later.
const MOST_SEQUENCES: usize = 1 << 16;

/// A list of axes, from one axis, an array, a slice or a vector.
#[derive(Clone, Debug)]
pub struct AxisList(pub(crate) Vec<Axis>);

impl From<Axis> for AxisList {
    fn from(axis: Axis) -> Self {
        AxisList(vec![axis])
    }
}

impl<const N: usize> From<[Axis; N]> for AxisList {
    fn from(axes: [Axis; N]) -> Self {
        AxisList(axes.to_vec())
    }
}

impl From<&[Axis]> for AxisList {
    fn from(axes: &[Axis]) -> Self {
        AxisList(axes.to_vec())
    }
}

impl From<Vec<Axis>> for AxisList {
    fn from(axes: Vec<Axis>) -> Self {
        AxisList(axes)
    }
}

/// What a model is written with. It hands out [`Tensor`]s, which are copied
/// freely; the first mistake is kept, with the user's line, and told by
/// [`ModelBuilder::finish`]. Whatever is built from a mistaken tensor is
/// mistaken too, and silent.
pub struct ModelBuilder {
    pub(crate) state: RefCell<State>,
}

/// A region that is being built: the main one, the body of a repeat, or the step of a scan.
pub(crate) struct Frame {
    /// Unique among all frames of all builders, so that a tensor that is used
    /// where it does not belong is noticed.
    pub id: u64,
    pub region: RegionId,
    /// The axis that counts layers, in the body of a repeat.
    pub layers: Option<Axis>,
    /// Nodes of the enclosing frame that this one reads, with their arguments here.
    pub captured: Vec<(NodeId, NodeId)>,
    /// The axis along which a scan runs, in its step.
    pub over: Option<Axis>,
    /// What a scan starts from, in the enclosing frame.
    pub start: Vec<NodeId>,
    /// Stacked parameters in the enclosing frame, with their arguments here.
    pub stacked: Vec<(NodeId, NodeId)>,
    /// What is added to the training loss, by full name: nodes of this frame.
    pub losses: Vec<(Symbol, NodeId)>,
}

impl Frame {
    pub fn new(region: RegionId, layers: Option<Axis>) -> Frame {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Frame {
            id,
            region,
            layers,
            captured: Vec::new(),
            over: None,
            start: Vec::new(),
            stacked: Vec::new(),
            losses: Vec::new(),
        }
    }
}

pub(crate) struct State {
    pub program: Program,
    pub frames: Vec<Frame>,
    /// What the open repeat was given, in the region around it.
    pub carried: Vec<NodeId>,
    pub dtype: DType,
    pub initializer: Initializer,
    /// How many histories there are.
    rooms: usize,
    error: Option<ModelError>,
}

impl ModelBuilder {
    /// A builder of the architecture `name`, for sequences of up to `context`
    /// positions. Values are computed in f32 and matrices start as N(0, 0.02)
    /// unless told otherwise.
    pub fn new(name: &str, context: usize) -> ModelBuilder {
        let mut program = Program::new(name);
        let whole = Bounds { least: 1, most: context };
        program.bounds.insert("batch".into(), Bounds { least: 1, most: MOST_SEQUENCES });
        program.bounds.insert("time".into(), whole);
        program.bounds.insert("past".into(), whole);
        let builder = ModelBuilder {
            state: RefCell::new(State {
                program,
                frames: vec![Frame::new(Program::MAIN, None)],
                carried: Vec::new(),
                dtype: DType::F32,
                initializer: Initializer::Normal { standard_deviation: 0.02 },
                rooms: 0,
                error: None,
            }),
        };
        for axis in [builder.batch(), builder.time(), builder.past()] {
            builder.declare(axis);
        }
        builder
    }

    /// The axis of the sequences.
    pub fn batch(&self) -> Axis {
        Axis::symbolic("batch")
    }

    /// The axis of the positions that are computed.
    pub fn time(&self) -> Axis {
        Axis::symbolic("time")
    }

    /// The axis of the positions so far: what [`Tensor::history`] yields.
    pub fn past(&self) -> Axis {
        Axis::symbolic("past")
    }

    /// Declares an axis of this size, in elements. Sums over several axes walk
    /// them in the order of these calls.
    #[track_caller]
    pub fn axis(&self, name: &str, size: usize) -> Axis {
        let axis = Axis::fixed(name, size);
        if size == 0 {
            self.fail("axis", format!("`{name}` has size 0; an axis has at least 1 element"));
        }
        self.declare(axis);
        axis
    }

    pub(crate) fn declare(&self, axis: Axis) {
        let state = &mut *self.state.borrow_mut();
        for frame in &state.frames {
            state.program.region_mut(frame.region).graph.declare_axis(axis.name);
        }
    }

    /// Matrices are multiplied in this type from here on: with bf16, `linear`
    /// and its kin round their input and weight to bf16, accumulate in f32 and
    /// round the result to bf16. Norms, softmax, the residual stream (whatever
    /// is added to an f32 value) and the logits stay in f32, and parameters are
    /// always held in f32.
    #[track_caller]
    pub fn compute_in(&self, dtype: DType) {
        if !dtype.is_float() {
            self.fail("compute_in", format!("models compute in f32 or bf16, not {dtype}"));
        }
        self.state.borrow_mut().dtype = dtype;
    }

    /// How matrices and embeddings start, from here on, where nothing else is said.
    pub fn initialize_with(&self, initializer: Initializer) {
        self.state.borrow_mut().initializer = initializer;
    }

    /// The input of token ids: i32[batch, time].
    #[track_caller]
    pub fn tokens(&self) -> Tensor<'_> {
        self.input("tokens", DType::I32, [self.batch(), self.time()])
    }

    /// A named input.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, axes: impl Into<AxisList>) -> Tensor<'_> {
        match Axes::new(axes.into().0) {
            Ok(axes) => self.leaf(Input { name: name.into(), ty: TensorType::new(dtype, axes) }),
            Err((axis, _)) => self.fail("input", format!("`{name}` has two axes named {}", axis.name)),
        }
    }

    /// The position along an axis, i32. Along `time` it is the absolute
    /// position, which varies along `batch`.
    #[track_caller]
    pub fn index(&self, axis: Axis) -> Tensor<'_> {
        let origin = (axis == self.time()).then(|| self.batch());
        self.leaf(Index { axis, origin })
    }

    /// A number. It is rounded to f32, or must be whole for i32.
    #[track_caller]
    pub fn number(&self, dtype: DType, value: f64) -> Tensor<'_> {
        let rounded = if dtype == DType::I32 { f64::from(value as i32) } else { f64::from(value as f32) };
        if dtype == DType::I32 && rounded != value {
            return self.fail("number", format!("{value} is not an i32"));
        }
        self.leaf(Literal::scalar(dtype, rounded))
    }

    /// Known numbers along an axis, rounded to f32.
    #[track_caller]
    pub fn table(&self, axis: Axis, values: &[f64]) -> Tensor<'_> {
        let rounded: Vec<f64> = values.iter().map(|&value| f64::from(value as f32)).collect();
        match Literal::table(DType::F32, axis, &rounded) {
            Ok(table) => self.leaf(table),
            Err(error) => self.poison(error, Span::caller()),
        }
    }

    /// A parameter over these axes, f32, which is the order of its elements in
    /// checkpoints. In the body of a repeat there is one for each layer, and
    /// the full name has the repeat's in front: `layers.q`.
    #[track_caller]
    pub fn param(
        &self,
        name: &str,
        axes: impl Into<AxisList>,
        initializer: Initializer,
        decay: bool,
    ) -> Tensor<'_> {
        let span = Span::caller();
        let axes = axes.into().0;
        match self.add_param(name, &axes, initializer, UpdateRule::AdamW { decay }, span) {
            Ok(tensor) => tensor,
            Err(error) => self.poison(error, span),
        }
    }

    /// As [`ModelBuilder::param`], but each step moves every element by `rate` against the sign
    /// of its gradient, whatever the optimiser: no moments, no clipping, no part of the norm of
    /// the gradients.
    #[track_caller]
    pub fn sign_descent_param(
        &self,
        name: &str,
        axes: impl Into<AxisList>,
        initializer: Initializer,
        rate: f64,
    ) -> Tensor<'_> {
        let span = Span::caller();
        if !(rate.is_finite() && rate > 0.0) {
            let problem = format!("`{name}` is to change by {rate} at a step; give a positive number");
            return self.fail("sign_descent_param", problem);
        }
        let axes = axes.into().0;
        match self.add_param(name, &axes, initializer, UpdateRule::SignDescent { rate }, span) {
            Ok(tensor) => tensor,
            Err(error) => self.poison(error, span),
        }
    }

    fn add_param(
        &self,
        name: &str,
        axes: &[Axis],
        initializer: Initializer,
        update: UpdateRule,
        span: Span,
    ) -> Result<Tensor<'_>, IrError> {
        let state = &mut *self.state.borrow_mut();
        let State { program, frames, .. } = state;
        let top = frames.len() - 1;
        if frames[top].over.is_some() {
            let problem = format!("`{name}` is declared in the step of a scan; declare it around the scan");
            return Err(IrError::of("param", problem));
        }
        let layers = frames[top].layers;
        let full: Symbol = match layers {
            Some(layers) => Symbol::new(&format!("{}.{name}", layers.name)),
            None => Symbol::new(name),
        };
        let wrong = |problem: String| IrError::of("param", format!("`{full}` {problem}"));
        if let Some(axis) = axes.iter().find(|axis| axis.fixed_size().is_none()) {
            return Err(wrong(format!("has the axis {axis}, whose size is not fixed")));
        }
        if program.params.contains_key(&full) {
            return Err(wrong("is declared twice; give each parameter a name of its own".into()));
        }
        let order: Vec<Axis> = layers.into_iter().chain(axes.iter().copied()).collect();
        let own = Axes::new(axes.iter().copied());
        let (Ok(whole), Ok(own)) = (Axes::new(order.iter().copied()), own) else {
            return Err(wrong(format!("has two axes of one name: {order:?}")));
        };
        let ty = TensorType::new(DType::F32, whole);
        let holder = if layers.is_some() { top - 1 } else { top };
        let graph = &mut program.region_mut(frames[holder].region).graph;
        let node = graph.add(Param { name: full, ty: ty.clone() }, &[])?;
        graph.annotate(node, Some(span), Some(full));
        program.params.insert(full, ParamInfo { ty, initializer, update, layers, order, blocks: None });
        let frame = &mut frames[top];
        let node = match layers {
            None => node,
            Some(_) => {
                let region = program.region_mut(frame.region);
                let argument =
                    region.add_argument(TensorType::new(DType::F32, own)).map(|argument| (node, argument))?;
                region.graph.annotate(argument.1, Some(span), Some(full));
                frame.stacked.push(argument);
                argument.1
            }
        };
        Ok(Tensor::new(self, frame.id, node))
    }

    /// Adds an op to the innermost open region; operands from around it are
    /// captured. A mistake yields a poisoned tensor.
    #[track_caller]
    pub(crate) fn add(&self, op: impl Into<Op>, operands: &[Tensor<'_>]) -> Tensor<'_> {
        let span = Span::caller();
        let op = op.into();
        if operands.iter().any(|operand| operand.is_poisoned()) {
            return Tensor::poisoned(self);
        }
        match self.try_add(op, operands, span) {
            Ok(tensor) => tensor,
            Err(error) => self.poison(error, span),
        }
    }

    #[track_caller]
    fn leaf(&self, op: impl Into<Op>) -> Tensor<'_> {
        self.add(op, &[])
    }

    fn try_add(&self, op: Op, operands: &[Tensor<'_>], span: Span) -> Result<Tensor<'_>, IrError> {
        let state = &mut *self.state.borrow_mut();
        let nodes = operands
            .iter()
            .map(|operand| state.resolve(*operand, op.name()))
            .collect::<Result<Vec<NodeId>, IrError>>()?;
        let frame = &state.frames[state.frames.len() - 1];
        let graph = &mut state.program.region_mut(frame.region).graph;
        let node = graph.add(op, &nodes)?;
        graph.annotate(node, Some(span), None);
        Ok(Tensor::new(self, frame.id, node))
    }

    /// The number of a new history.
    pub(crate) fn next_room(&self) -> usize {
        let state = &mut *self.state.borrow_mut();
        state.rooms += 1;
        state.rooms - 1
    }

    /// Records an error of the definition at the caller's line.
    #[track_caller]
    pub(crate) fn fail(&self, op: &str, problem: impl Into<String>) -> Tensor<'_> {
        self.poison(IrError::of(op, problem), Span::caller())
    }

    pub(crate) fn poison(&self, error: IrError, span: Span) -> Tensor<'_> {
        self.state.borrow_mut().error.get_or_insert(ModelError::Graph(error.at(span)));
        Tensor::poisoned(self)
    }

    /// The full name, in the innermost open region, of something called `name`.
    pub(crate) fn full_name(&self, name: &str) -> Symbol {
        let state = self.state.borrow();
        match state.frames.iter().rev().find_map(|frame| frame.layers) {
            Some(layers) => Symbol::new(&format!("{}.{name}", layers.name)),
            None => Symbol::new(name),
        }
    }

    /// The program, with its entries, from the logits f32[batch, time, one more
    /// axis: the vocabulary]. It has been verified.
    ///
    /// # Errors
    /// The first mistake in the definition, with its line.
    pub fn finish(self, logits: impl FnOnce(&ModelBuilder) -> Tensor<'_>) -> Result<Program> {
        let logits = logits(&self);
        let entries = crate::entries::define(&self, logits);
        let state = self.state.into_inner();
        if let Some(error) = state.error {
            return Err(error);
        }
        let mut program = state.program;
        program.entries = entries?;
        let roots = program.entries.iter().flat_map(|entry| &entry.roots).map(|root| root.1);
        let mut results: Vec<NodeId> = roots.collect();
        results.sort_unstable();
        results.dedup();
        program.main_mut().graph.retain_ancestors(&results);
        if let Some(unused) = unused_param(&program) {
            let problem = format!("`{unused}` is declared, but no entry depends on it");
            return Err(IrError::of("param", problem).into());
        }
        program.main_mut().results = results;
        diptych_ir::verify(&program)?;
        Ok(program)
    }
}

/// A parameter that no node of the main region reads.
fn unused_param(program: &Program) -> Option<Symbol> {
    let graph = &program.main().graph;
    let read: HashSet<Symbol> = graph
        .ids()
        .into_iter()
        .filter_map(|id| match graph.op(id) {
            Op::Param(param) => Some(param.name),
            _ => None,
        })
        .collect();
    program.params.keys().copied().find(|name| !read.contains(name))
}

impl State {
    /// The node that stands for a tensor in the innermost open region; from
    /// further out it is made an argument of each region between.
    pub fn resolve(&mut self, tensor: Tensor<'_>, op: &str) -> Result<NodeId, IrError> {
        let lost = || {
            let problem = "an operand was made in a repeat or scan that has ended, or by another builder; \
                           only what it returns can be used after it";
            IrError::of(op, problem)
        };
        let (id, mut node) = tensor.place().ok_or_else(lost)?;
        let depth = self.frames.iter().position(|frame| frame.id == id).ok_or_else(lost)?;
        for level in depth + 1..self.frames.len() {
            let ty = self.program.region(self.frames[level - 1].region).graph.ty(node).clone();
            let frame = &mut self.frames[level];
            let known = frame.captured.iter().find(|(outer, _)| *outer == node).map(|&(_, inner)| inner);
            node = match known {
                Some(inner) => inner,
                None => {
                    // A step sees the position at hand.
                    let ty = frame.over.map_or(ty.clone(), |over| ty.without_axis(over));
                    let inner = self.program.region_mut(frame.region).add_argument(ty)?;
                    frame.captured.push((node, inner));
                    inner
                }
            };
        }
        Ok(node)
    }
}

/// A copy of a region with its arguments in this order, and of its other nodes
/// those that are `live`; and where each node went.
pub(crate) fn reorder_arguments(
    old: &Region,
    arguments: &[NodeId],
    live: &HashSet<NodeId>,
) -> Result<(Region, HashMap<NodeId, NodeId>), IrError> {
    let mut new = Region::new(old.name);
    for &name in old.graph.axis_order() {
        new.graph.declare_axis(name);
    }
    let mut copies = HashMap::new();
    for &argument in arguments {
        copies.insert(argument, new.add_argument(old.graph.ty(argument).clone())?);
    }
    // Nodes are in the order in which they were added: operands first.
    let kept: Vec<NodeId> =
        old.graph.ids().into_iter().filter(|id| live.contains(id) || copies.contains_key(id)).collect();
    for id in kept {
        let node = old.graph.node(id);
        let copy = match copies.get(&id) {
            Some(&argument) => argument,
            None => {
                let operands = old.graph.operands(id);
                let operands: Vec<NodeId> =
                    operands.iter().filter_map(|operand| copies.get(operand).copied()).collect();
                new.graph.add(node.op.clone(), &operands)?
            }
        };
        new.graph.annotate(copy, node.span, node.label);
        copies.insert(id, copy);
    }
    Ok((new, copies))
}
