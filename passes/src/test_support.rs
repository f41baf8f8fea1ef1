//! What the tests of several passes share: small programs, random values and
//! central finite differences on the reference evaluator.

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::ops::{Contract, Input, Param};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Entry, EntryKind, Initializer, NodeId, ParamInfo, Program, Size, TensorType,
    UpdateRule,
};

/// Numbers in [0, 1) that are the same in every run. They follow the golden
/// ratio (Weyl's sequence), so that no two of some hundreds come close: finite
/// differences would step over the edge of a maximum.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub fn f32_type(axes: &[Axis]) -> TensorType {
    TensorType::new(DType::F32, Axes::new(axes.iter().copied()).expect("axes"))
}

/// Declares a parameter and adds a node that reads it.
pub fn param(program: &mut Program, name: &str, axes: &[Axis]) -> NodeId {
    let ty = f32_type(axes);
    let info = ParamInfo {
        ty: ty.clone(),
        initializer: Initializer::Constant(0.0),
        update: UpdateRule::AdamW { decay: axes.len() > 1 },
        layers: None,
        order: axes.to_vec(),
        blocks: None,
    };
    program.params.insert(name.into(), info);
    program.main_mut().graph.add(Param { name: name.into(), ty }, &[]).expect("param")
}

pub fn input(program: &mut Program, name: &str, dtype: DType, axes: &[Axis]) -> NodeId {
    let ty = TensorType { dtype, ..f32_type(axes) };
    program.main_mut().graph.add(Input { name: name.into(), ty }, &[]).expect("input")
}

/// Makes the sum of a value times an input `weights`, over some of its axes,
/// the loss of `Train`, and the value itself the root of `Score`.
pub fn weighted_loss(program: &mut Program, value: NodeId, weight_axes: &[Axis]) {
    let weights = input(program, "weights", DType::F32, weight_axes);
    let graph = &mut program.main_mut().graph;
    let over = graph.ordered(graph.axes(value).iter().copied());
    let loss = graph.add(Contract { over }, &[value, weights]).expect("loss");
    set_loss(program, loss);
    program.entries.push(Entry {
        kind: EntryKind::Score,
        roots: vec![("value".into(), value)],
        updates: Vec::new(),
    });
}

pub fn set_loss(program: &mut Program, loss: NodeId) {
    bound_sizes(program);
    let roots = vec![("loss".into(), loss)];
    program.entries.push(Entry { kind: EntryKind::Train, roots, updates: Vec::new() });
}

/// Gives every symbolic size of the program bounds, as the verifier asks.
fn bound_sizes(program: &mut Program) {
    for region in &program.regions {
        for axis in region.graph.ids().into_iter().flat_map(|id| region.graph.axes(id)) {
            if let Size::Symbolic(symbol) = axis.size {
                program.bounds.insert(symbol, Bounds { least: 1, most: 1024 });
            }
        }
    }
}

/// Random values in `low..high` for every parameter, and `weights`.
pub fn random_context(program: &Program, sizes: &[(&str, usize)], seed: u64, low: f64, high: f64) -> Context {
    let sizes = sizes.iter().map(|&(name, size)| (name.into(), size)).collect();
    let mut context = Context { sizes, ..Context::default() };
    let mut numbers = Numbers(seed.wrapping_mul(0xd134_2543_de82_ef95));
    for (&name, info) in &program.params {
        let value = random_value(&context, &info.ty.axes, &mut numbers, low, high);
        context.params.insert(name, value);
    }
    for id in program.main().graph.ids() {
        if let diptych_ir::Op::Input(input) = program.main().graph.op(id)
            && input.ty.dtype == DType::F32
        {
            let value = random_value(&context, &input.ty.axes, &mut numbers, -1.0, 1.0);
            context.inputs.insert(input.name, value);
        }
    }
    context
}

pub fn random_value(context: &Context, axes: &Axes, numbers: &mut Numbers, low: f64, high: f64) -> Value {
    Value::build(context.shape(axes).expect("sizes"), |_| low + (high - low) * numbers.next())
}

/// The values of an entry's roots and updates.
pub fn run_entry(program: &Program, kind: EntryKind, context: &Context) -> Vec<(String, Value)> {
    let entry = program.entry(kind).expect("entry");
    let (names, roots): (Vec<_>, Vec<_>) =
        entry.roots.iter().chain(&entry.updates).map(|&(name, id)| (name.to_string(), id)).unzip();
    names.into_iter().zip(evaluate(program, &roots, context).expect("evaluate")).collect()
}

pub fn loss(program: &Program, context: &Context) -> f64 {
    run_entry(program, EntryKind::Train, context)[0].1.data[0]
}

/// Checks every element of every gradient of a differentiated program against
/// central differences of the loss of the original.
pub fn check_gradients(original: &Program, differentiated: &Program, context: &Context) {
    diptych_ir::verify(differentiated).expect("a well-formed program");
    let outcome = run_entry(differentiated, EntryKind::Train, context);
    let expected = loss(original, context);
    assert!((outcome[0].1.data[0] - expected).abs() <= 1e-12 * expected.abs().max(1.0), "the loss changed");
    let step = 1e-5;
    for (&name, value) in &context.params {
        let state = format!("gradient.{name}");
        let Some(gradient) = outcome.iter().find(|row| row.0 == state).map(|row| &row.1) else { continue };
        assert_eq!(gradient.axes, value.axes, "axes of the gradient of {name}");
        let scale = gradient.data.iter().fold(1.0, |scale: f64, g| scale.max(g.abs()));
        for element in 0..value.data.len() {
            let mut moved = context.clone();
            let mut at = |delta: f64| {
                moved.params.get_mut(&name).expect("param").data[element] = value.data[element] + delta;
                loss(original, &moved)
            };
            let slope = (at(step) - at(-step)) / (2.0 * step);
            let found = gradient.data[element];
            assert!(
                (slope - found).abs() < 3e-7 * scale,
                "gradient of {name}[{element}]: {found}, but the slope is {slope}"
            );
        }
    }
}
