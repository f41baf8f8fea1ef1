//! Random values for the operands of an instance, what its classes come to by the reference evaluator, and where two
//! results differ by more than a rule's class allows.

use super::super::language::EGraph;
use super::super::rules::Class;
use super::instance::Random;
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::{DType, Op, TensorType};
use egg::Id;
use std::collections::HashMap;

/// A random value of a type; with specials, also what floats have beside numbers.
pub(super) fn value(ty: &TensorType, specials: bool, context: &Context, random: &mut Random) -> Value {
    let shape = context.shape(&ty.axes).expect("fixed sizes");
    Value::build(shape, |_| {
        if ty.dtype == DType::Bool {
            return random.below(2) as f64;
        }
        let specials = if specials { 25 } else { 0 };
        let x = match random.chance(specials) {
            true => random
                .pick(&[0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 5e-324])
                .unwrap_or(0.0),
            false => (0.3 + 1.3 * random.0.next()) * if random.chance(50) { 1.0 } else { -1.0 },
        };
        match ty.dtype {
            DType::BF16 => f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_0000)),
            _ => x,
        }
    })
}

/// The value of a class, at one of several calls, of an e-graph in which nothing was united.
pub(super) fn evaluate(
    egraph: &EGraph,
    id: Id,
    calls: &[Context],
    call: usize,
    known: &mut HashMap<(Id, usize), Value>,
) -> Value {
    if let Some(value) = known.get(&(id, call)) {
        return value.clone();
    }
    let (node, ty) = (&egraph[id].nodes[0], &egraph[id].data.ty);
    let value = match node.op {
        Op::History(history) => {
            let kept: Vec<Value> =
                (0..=call).map(|call| evaluate(egraph, node.operands[0], calls, call, known)).collect();
            let lengths = calls.iter().map(|call| call.size(history.time).expect("a size"));
            let starts: Vec<usize> =
                lengths.scan(0, |start, length| Some(std::mem::replace(start, *start + length))).collect();
            Value::build(calls[call].shape(&ty.axes).expect("sizes"), |index| {
                let position = index.get(history.past.name);
                let of = starts.iter().rposition(|&start| start <= position).expect("a call");
                kept[of].at(&index.with(history.time.name, position - starts[of]))
            })
        }
        _ => {
            let operands: Vec<Value> =
                node.operands.iter().map(|&id| evaluate(egraph, id, calls, call, known)).collect();
            let operands: Vec<&Value> = operands.iter().collect();
            node.op.operator().evaluate(&operands, ty, &calls[call]).expect("a value")
        }
    };
    known.insert((id, call), value.clone());
    value
}

/// Where two values differ, if they differ by more than the class allows.
pub(super) fn difference(class: Class, left: &Value, right: &Value) -> Option<String> {
    if left.axes != right.axes {
        return Some(format!("{:?} and {:?}", left.axes, right.axes));
    }
    let scale = left.data.iter().chain(&right.data).fold(1e-300, |most: f64, x| most.max(x.abs()));
    let same = |a: f64, b: f64| match class {
        Class::Exact => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        // Sums of up to 16 terms, each rounded to bf16 on either side.
        Class::Approximate => (a - b).abs() <= 16.0 * 2f64.powi(-8) * scale.max(1.0),
        // Operands are about 1, so a sum that is much less has cancelled.
        Class::Real => (a - b).abs() <= 1e-9 * scale.max(1e-2),
    };
    let unequal = left.data.iter().zip(&right.data).find(|(a, b)| !same(**a, **b));
    unequal.map(|(a, b)| format!("{a} and {b}"))
}
