//! AdamW: from gradients in states to new parameters and moments; and sign descent, for
//! parameters that say so. It knows nothing of how gradients came about, of schedules, or of kernels.
//!
//! The arithmetic is that of PyTorch's `torch.optim.AdamW` (one tensor at a
//! time) and `torch.nn.utils.clip_grad_norm_`, operation by operation.

#[cfg(test)]
mod tests;

use diptych_ir::ops::{Cast, Input, Literal, Map, Param, Reduce};
use diptych_ir::{Axis, Region, ScalarFn, Symbol, TensorType, UpdateRule};
use diptych_ir::{DType, Entry, EntryKind, Graph, IrError, NodeId, Program, ReduceKind, Result};
use std::collections::BTreeMap;

/// Settings of AdamW.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWOptions {
    /// Decay of the mean of gradients, per step.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, per step.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate, per step; only on
    /// parameters whose `decay` is set.
    pub weight_decay: f64,
    /// The largest global norm of all gradients; longer ones are scaled to it.
    pub clip_norm: Option<f64>,
    /// The type of moments between steps: f32, or bf16, to which they are rounded at random, so that they are right in
    /// the mean. A step computes with what it has not yet rounded.
    pub moments: DType,
}

impl Default for AdamWOptions {
    /// PyTorch's defaults, with gradients clipped to norm 1.
    fn default() -> Self {
        AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip_norm: Some(1.0),
            moments: DType::F32,
        }
    }
}

/// Scalars that are the same for all parameters.
struct Shared {
    /// What gradients are multiplied by, if they are clipped.
    clip: Option<NodeId>,
    /// `1 - learning_rate * weight_decay`.
    shrink: NodeId,
    /// `learning_rate / bias_correction_mean`.
    step: NodeId,
    /// `sqrt(bias_correction_variance)`.
    variance_root: NodeId,
    one_less_beta1: NodeId,
    beta2: NodeId,
    one_less_beta2: NodeId,
    epsilon: NodeId,
    /// The step's seed, if moments are rounded at random.
    seed: Option<NodeId>,
}

/// Adds the entry `Update`, which applies the gradients in the states
/// `gradient.NAME` that `Train` writes.
///
/// Inputs, f32 scalars: `learning_rate`; `bias_correction_mean`, which is
/// `1 - beta1^t` at step `t`, from 1; `bias_correction_variance`, `1 - beta2^t`. Where moments are bf16 also an i32 scalar,
/// `rounding`: a seed of 0 to 2^30 - 1, another for each step.
/// Root `gradient_norm`: the global norm before clipping. Updates: each
/// parameter with a gradient, and its states `mean.NAME` and `variance.NAME`
/// (of the parameter's axes). The nodes for any two parameters that both
/// decay, or both do not, are alike but for names and axes.
///
/// A parameter of [`UpdateRule::SignDescent`] has no moments, and its gradient is
/// no part of the norm.
///
/// # Errors
/// When `Train` has no gradients yet, or only of parameters of sign descent, or
/// there is an `Update` entry already.
pub fn add_adamw(program: &Program, options: &AdamWOptions) -> Result<Program> {
    let mut program = program.clone();
    if program.entry(EntryKind::Update).is_some() {
        return Err(IrError::Invalid("the program has an optimiser already".into()));
    }
    let names: Vec<Symbol> = program
        .params
        .keys()
        .copied()
        .filter(|&name| program.states.contains_key(&crate::differentiate::gradient_name(name)))
        .collect();
    if names.is_empty() {
        return Err(IrError::Invalid("no parameter has a gradient: differentiate the program first".into()));
    }
    let mut gradients = Vec::new();
    for &name in &names {
        let state = crate::differentiate::gradient_name(name);
        let ty = program.states[&state].clone();
        gradients.push(program.main_mut().graph.add(Param { name: state, ty }, &[])?);
    }
    let in_norm = |name: &Symbol| matches!(program.params[name].update, UpdateRule::AdamW { .. });
    let of_layers = |name: &Symbol| program.params[name].layers;
    let normed: Vec<(NodeId, Option<Axis>)> = names
        .iter()
        .zip(&gradients)
        .filter(|row| in_norm(row.0))
        .map(|row| (*row.1, of_layers(row.0)))
        .collect();
    if normed.is_empty() {
        let problem = "every parameter goes by the sign of its gradient: AdamW has nothing to update";
        return Err(IrError::Invalid(problem.into()));
    }
    let norm = global_norm(&mut program, &normed)?;
    let shared = shared(&mut program.main_mut().graph, options, norm)?;
    let mut updates = Vec::new();
    for (name, gradient) in names.into_iter().zip(gradients) {
        let info = program.params[&name].clone();
        let decay = match info.update {
            UpdateRule::AdamW { decay } => decay,
            UpdateRule::SignDescent { rate } => {
                let graph = &mut program.main_mut().graph;
                let param = graph.add(Param { name, ty: info.ty.clone() }, &[])?;
                let param = sign_step(graph, rate, param, gradient)?;
                updates.push((name, rounded(graph, param, info.ty.dtype)?));
                continue;
            }
        };
        if !options.moments.is_float() {
            let problem = format!("moments are floats, not {}", options.moments);
            return Err(IrError::Invalid(problem));
        }
        let moment_ty = TensorType::new(options.moments, info.ty.axes.clone());
        let [mean_name, variance_name] =
            ["mean", "variance"].map(|moment| Symbol::new(&format!("{moment}.{name}")));
        let graph = &mut program.main_mut().graph;
        let param = graph.add(Param { name, ty: info.ty.clone() }, &[])?;
        let mean = graph.add(Param { name: mean_name, ty: moment_ty.clone() }, &[])?;
        let variance = graph.add(Param { name: variance_name, ty: moment_ty.clone() }, &[])?;
        let old = param;
        let [param, mean, variance] = step(graph, &shared, decay, param, gradient, mean, variance)?;
        let param = rounded(graph, param, info.ty.dtype)?;
        let mut kept =
            |moment: NodeId, name: Symbol| kept(graph, &shared, moment, old, name, options.moments);
        let (mean, variance) = (kept(mean, mean_name)?, kept(variance, variance_name)?);
        updates.extend([(name, param), (mean_name, mean), (variance_name, variance)]);
        program.states.insert(mean_name, moment_ty.clone());
        program.states.insert(variance_name, moment_ty);
    }
    program.entries.push(Entry {
        kind: EntryKind::Update,
        roots: vec![("gradient_norm".into(), norm)],
        updates,
    });
    crate::simplify::drop_unused_nodes(&mut program);
    if cfg!(debug_assertions) {
        diptych_ir::verify(&program)?;
    }
    Ok(program)
}

fn map(graph: &mut Graph, function: ScalarFn, operands: &[NodeId]) -> Result<NodeId> {
    graph.add(Map(function), operands)
}

fn literal(graph: &mut Graph, value: f64) -> Result<NodeId> {
    graph.add(Literal::scalar(DType::F32, value), &[])
}

/// The value in a parameter's type.
fn rounded(graph: &mut Graph, value: NodeId, dtype: DType) -> Result<NodeId> {
    match dtype {
        DType::F32 => Ok(value),
        dtype => graph.add(Cast(dtype), &[value]),
    }
}

/// The norm of gradients, each with its axis of layers. What a layer has is summed by itself, and then what all have: a
/// layer's squares can thus be summed where its gradient is formed.
fn global_norm(program: &mut Program, gradients: &[(NodeId, Option<Axis>)]) -> Result<NodeId> {
    let mut stacks: BTreeMap<Axis, Vec<NodeId>> = BTreeMap::new();
    for &(gradient, layers) in gradients {
        layers.into_iter().for_each(|layers| stacks.entry(layers).or_default().push(gradient));
    }
    let mut of_layers: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for (layers, stack) in stacks {
        let mut body = Region::new(Symbol::new(&format!("{}.squares", layers.name)));
        for &name in program.main().graph.axis_order() {
            body.graph.declare_axis(name);
        }
        for &gradient in &stack {
            let ty = program.main().graph.ty(gradient).without_axis(layers);
            let of_layer = body.add_argument(ty)?;
            let squares = sum_of_squares(&mut body.graph, of_layer)?;
            body.results.push(squares);
        }
        let body = program.add_region(body);
        let sums = program.add_repeat(Program::MAIN, body, layers, false, &[], &stack, &[])?;
        for (gradient, sums) in stack.into_iter().zip(sums) {
            let sum = Reduce { kind: ReduceKind::Sum, over: vec![layers] };
            of_layers.insert(gradient, program.main_mut().graph.add(sum, &[sums])?);
        }
    }
    let graph = &mut program.main_mut().graph;
    let mut total: Option<NodeId> = None;
    for (gradient, _) in gradients {
        let sum = match of_layers.get(gradient) {
            Some(&sum) => sum,
            None => sum_of_squares(graph, *gradient)?,
        };
        total = Some(match total {
            Some(total) => map(graph, ScalarFn::Add, &[total, sum])?,
            None => sum,
        });
    }
    let total = total.ok_or_else(|| IrError::Invalid("the norm of no gradients was asked for".into()))?;
    map(graph, ScalarFn::Sqrt, &[total])
}

fn sum_of_squares(graph: &mut Graph, gradient: NodeId) -> Result<NodeId> {
    let square = map(graph, ScalarFn::Mul, &[gradient, gradient])?;
    let over = graph.ordered(graph.axes(gradient).iter().copied());
    graph.add(Reduce { kind: ReduceKind::Sum, over }, &[square])
}

/// A moment as it is kept until the next step. What is rounded at random is so by a hash of the step's seed, of the moment's
/// name and of its numbers and the parameter's.
fn kept(
    graph: &mut Graph,
    shared: &Shared,
    moment: NodeId,
    param: NodeId,
    name: Symbol,
    dtype: DType,
) -> Result<NodeId> {
    let Some(seed) = shared.seed else { return rounded(graph, moment, dtype) };
    // FNV-1a, in the half of the numbers that leaves room for the step's seed.
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let own = name.as_str().bytes().fold(0x811c_9dc5, hash) >> 2;
    let own = graph.add(Literal::scalar(DType::I32, f64::from(own)), &[])?;
    let seed = map(graph, ScalarFn::Add, &[seed, own])?;
    let moment = map(graph, ScalarFn::RoundRandomly, &[moment, param, seed])?;
    graph.add(Cast(dtype), &[moment])
}

fn shared(graph: &mut Graph, options: &AdamWOptions, norm: NodeId) -> Result<Shared> {
    let mut input =
        |name: &str| graph.add(Input { name: name.into(), ty: TensorType::scalar(DType::F32) }, &[]);
    let learning_rate = input("learning_rate")?;
    let mean_correction = input("bias_correction_mean")?;
    let variance_correction = input("bias_correction_variance")?;
    let seed = match options.moments {
        DType::BF16 => {
            let ty = TensorType::scalar(DType::I32);
            Some(graph.add(Input { name: "rounding".into(), ty }, &[])?)
        }
        _ => None,
    };
    let one = literal(graph, 1.0)?;
    let clip = match options.clip_norm {
        None => None,
        Some(limit) => {
            let limit = literal(graph, limit)?;
            let margin = literal(graph, 1e-6)?;
            let length = map(graph, ScalarFn::Add, &[norm, margin])?;
            let ratio = map(graph, ScalarFn::Div, &[limit, length])?;
            // In this order a norm that is not a number stays visible in the parameters.
            Some(map(graph, ScalarFn::Min, &[one, ratio])?)
        }
    };
    let decay = literal(graph, options.weight_decay)?;
    let decay = map(graph, ScalarFn::Mul, &[learning_rate, decay])?;
    Ok(Shared {
        clip,
        shrink: map(graph, ScalarFn::Sub, &[one, decay])?,
        step: map(graph, ScalarFn::Div, &[learning_rate, mean_correction])?,
        variance_root: map(graph, ScalarFn::Sqrt, &[variance_correction])?,
        one_less_beta1: literal(graph, 1.0 - options.beta1)?,
        beta2: literal(graph, options.beta2)?,
        one_less_beta2: literal(graph, 1.0 - options.beta2)?,
        epsilon: literal(graph, options.epsilon)?,
        seed,
    })
}

/// The new parameter, mean and variance.
fn step(
    graph: &mut Graph,
    shared: &Shared,
    decay: bool,
    param: NodeId,
    gradient: NodeId,
    mean: NodeId,
    variance: NodeId,
) -> Result<[NodeId; 3]> {
    use ScalarFn::{Add, Div, Mul, Sqrt, Sub};
    let gradient = match shared.clip {
        Some(clip) => map(graph, Mul, &[gradient, clip])?,
        None => gradient,
    };
    let param = if decay { map(graph, Mul, &[param, shared.shrink])? } else { param };
    // mean.lerp_(gradient, 1 - beta1)
    let away = map(graph, Sub, &[gradient, mean])?;
    let away = map(graph, Mul, &[away, shared.one_less_beta1])?;
    let mean = map(graph, Add, &[mean, away])?;
    // variance.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2)
    let kept = map(graph, Mul, &[variance, shared.beta2])?;
    let square = map(graph, Mul, &[gradient, shared.one_less_beta2])?;
    let square = map(graph, Mul, &[square, gradient])?;
    let variance = map(graph, Add, &[kept, square])?;
    // param.addcdiv_(mean, sqrt(variance) / sqrt(correction) + epsilon, -learning_rate / correction)
    let root = map(graph, Sqrt, &[variance])?;
    let root = map(graph, Div, &[root, shared.variance_root])?;
    let scale = map(graph, Add, &[root, shared.epsilon])?;
    let change = map(graph, Mul, &[mean, shared.step])?;
    let change = map(graph, Div, &[change, scale])?;
    let param = map(graph, Sub, &[param, change])?;
    Ok([param, mean, variance])
}

/// The parameter, moved by `rate` against the sign of its gradient.
fn sign_step(graph: &mut Graph, rate: f64, param: NodeId, gradient: NodeId) -> Result<NodeId> {
    let [zero, down, up] = [0.0, rate, -rate].map(|value| literal(graph, f64::from(value as f32)));
    let (zero, down, up) = (zero?, down?, up?);
    let positive = map(graph, ScalarFn::Less, &[zero, gradient])?;
    let negative = map(graph, ScalarFn::Less, &[gradient, zero])?;
    let rest = map(graph, ScalarFn::Select, &[negative, up, zero])?;
    let change = map(graph, ScalarFn::Select, &[positive, down, rest])?;
    map(graph, ScalarFn::Sub, &[param, change])
}
