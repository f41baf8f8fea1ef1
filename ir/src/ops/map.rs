//! `map(f, xs…)`: a scalar function applied pointwise, on the union of its
//! operands' axes. It knows nothing of vectors or loops.

use super::{Linearity, Literal, Op, Operator, elements, sum_to};
use crate::evaluate::{Context, Value};
use crate::text::Reader;
use crate::{Axes, Axis, DType, Graph, IrError, NodeId, Result, TensorType};

/// A scalar function. Composites (SiLU, GELU, a mask) are several nodes; fusion
/// makes one loop of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum ScalarFn {
    Add,
    Sub,
    Mul,
    Div,
    /// `a` if `a > b`, otherwise `b`.
    Max,
    /// `a` if `a < b`, otherwise `b`.
    Min,
    Neg,
    Exp,
    Log,
    Sqrt,
    /// One over the square root.
    Rsqrt,
    Tanh,
    Sigmoid,
    Erf,
    Sin,
    Cos,
    Abs,
    Less,
    LessEqual,
    Equal,
    And,
    Or,
    Not,
    /// `b` where the truth value `a` holds, otherwise `c`.
    Select,
    /// The value itself, with no gradient.
    Detach,
    /// `a` as a bf16 number, the one above or the one below, each as likely as it is near: see [`round_randomly`].
    RoundRandomly,
}

/// What a scalar function takes and gives.
enum Signature {
    Arithmetic,
    Real,
    Comparison,
    Logic,
    Select,
    Same,
    Rounding,
}

/// Every scalar function, with its name in the text form and its number of operands.
pub(crate) const SCALAR_FNS: &[(ScalarFn, &str, usize)] = &[
    (ScalarFn::Add, "add", 2),
    (ScalarFn::Sub, "sub", 2),
    (ScalarFn::Mul, "mul", 2),
    (ScalarFn::Div, "div", 2),
    (ScalarFn::Max, "max", 2),
    (ScalarFn::Min, "min", 2),
    (ScalarFn::Neg, "neg", 1),
    (ScalarFn::Exp, "exp", 1),
    (ScalarFn::Log, "log", 1),
    (ScalarFn::Sqrt, "sqrt", 1),
    (ScalarFn::Rsqrt, "rsqrt", 1),
    (ScalarFn::Tanh, "tanh", 1),
    (ScalarFn::Sigmoid, "sigmoid", 1),
    (ScalarFn::Erf, "erf", 1),
    (ScalarFn::Sin, "sin", 1),
    (ScalarFn::Cos, "cos", 1),
    (ScalarFn::Abs, "abs", 1),
    (ScalarFn::Less, "less", 2),
    (ScalarFn::LessEqual, "less_equal", 2),
    (ScalarFn::Equal, "equal", 2),
    (ScalarFn::And, "and", 2),
    (ScalarFn::Or, "or", 2),
    (ScalarFn::Not, "not", 1),
    (ScalarFn::Select, "select", 3),
    (ScalarFn::Detach, "detach", 1),
    (ScalarFn::RoundRandomly, "round_randomly", 3),
];

impl ScalarFn {
    /// Its name in the text form.
    pub fn name(self) -> &'static str {
        SCALAR_FNS.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The function of this name.
    pub fn from_name(name: &str) -> Option<ScalarFn> {
        SCALAR_FNS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// How many operands it takes.
    pub fn arity(self) -> usize {
        SCALAR_FNS.iter().find(|row| row.0 == self).map_or(0, |row| row.2)
    }

    /// Whether it costs many times what an addition does.
    pub fn is_transcendental(self) -> bool {
        use ScalarFn::*;
        matches!(self, Exp | Log | Tanh | Sigmoid | Erf | Sin | Cos)
    }

    fn signature(self) -> Signature {
        use ScalarFn::*;
        match self {
            Add | Sub | Mul | Max | Min | Neg | Abs => Signature::Arithmetic,
            Div | Exp | Log | Sqrt | Rsqrt | Tanh | Sigmoid | Erf | Sin | Cos => Signature::Real,
            Less | LessEqual | Equal => Signature::Comparison,
            And | Or | Not => Signature::Logic,
            Select => Signature::Select,
            Detach => Signature::Same,
            RoundRandomly => Signature::Rounding,
        }
    }

    /// The value at a point. Truth values are 0 and 1.
    pub fn apply(self, x: &[f64]) -> f64 {
        use ScalarFn::*;
        let truth = |holds: bool| f64::from(u8::from(holds));
        match self {
            Add => x[0] + x[1],
            Sub => x[0] - x[1],
            Mul => x[0] * x[1],
            Div => x[0] / x[1],
            Max => {
                if x[0] > x[1] {
                    x[0]
                } else {
                    x[1]
                }
            }
            Min => {
                if x[0] < x[1] {
                    x[0]
                } else {
                    x[1]
                }
            }
            Neg => -x[0],
            Exp => x[0].exp(),
            Log => x[0].ln(),
            Sqrt => x[0].sqrt(),
            Rsqrt => 1.0 / x[0].sqrt(),
            Tanh => x[0].tanh(),
            Sigmoid => 1.0 / (1.0 + (-x[0]).exp()),
            Erf => erf(x[0]),
            Sin => x[0].sin(),
            Cos => x[0].cos(),
            Abs => x[0].abs(),
            Less => truth(x[0] < x[1]),
            LessEqual => truth(x[0] <= x[1]),
            Equal => truth(x[0] == x[1]),
            And => truth(x[0] != 0.0 && x[1] != 0.0),
            Or => truth(x[0] != 0.0 || x[1] != 0.0),
            Not => truth(x[0] == 0.0),
            Select => {
                if x[0] != 0.0 {
                    x[1]
                } else {
                    x[2]
                }
            }
            Detach => x[0],
            RoundRandomly => f64::from(round_randomly(x[0] as f32, x[1] as f32, x[2] as i32)),
        }
    }
}

/// A number rounded to bf16 at random: up or down, so that the mean is the number itself. The random number is a hash of the
/// number, of another one that stands beside it (`salt`), and of a seed, so that it depends on no position, order or
/// layout. What is no finite number stays what it is.
pub fn round_randomly(x: f32, salt: f32, seed: i32) -> f32 {
    let bits = x.to_bits();
    if !x.is_finite() {
        return f32::from_bits((if x.is_nan() { bits | 0x40_0000 } else { bits }) & 0xffff_0000);
    }
    // Multiplications and shifts of MurmurHash3's finalizer.
    let mix = |hash: u32, factor: u32, shift: u32| {
        let product = hash.wrapping_mul(factor);
        product ^ (product >> shift)
    };
    let hash = mix(bits, 0x9e37_79b1, 15) ^ salt.to_bits();
    let hash = mix(hash, 0x85eb_ca6b, 13) ^ seed as u32;
    let noise = mix(mix(hash, 0xc2b2_ae35, 16), 0x27d4_eb2f, 15) >> 16;
    f32::from_bits((bits + noise) & 0xffff_0000)
}

/// The error function in f64: its Maclaurin series for small arguments, the
/// continued fraction of its complement for large ones (Abramowitz and Stegun
/// 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return x;
    }
    let value = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..200 {
            term *= 2.0 * magnitude * magnitude / f64::from(2 * n + 1);
            sum += term;
            if term < sum * 1e-18 {
                break;
            }
        }
        sum * (-magnitude * magnitude).exp() * std::f64::consts::FRAC_2_SQRT_PI
    } else if magnitude > 6.5 {
        1.0
    } else {
        let fraction = (1..=60).rev().fold(magnitude, |below, n| magnitude + f64::from(n) / 2.0 / below);
        1.0 - (-magnitude * magnitude).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
    };
    value.copysign(x)
}

/// A scalar function applied pointwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Map(
    /// The function.
    pub ScalarFn,
);

impl Map {
    fn result(self, operands: &[&TensorType]) -> Result<DType, String> {
        let kinds: Vec<DType> = operands.iter().map(|ty| ty.dtype).collect();
        let all = |accepted: fn(DType) -> bool| kinds.iter().all(|&kind| accepted(kind));
        let expected = match self.0.signature() {
            Signature::Arithmetic if all(DType::is_float) => return Ok(DType::F32),
            Signature::Arithmetic if all(|kind| kind == DType::I32) => return Ok(DType::I32),
            Signature::Arithmetic => "only floats or only i32",
            Signature::Real if all(DType::is_float) => return Ok(DType::F32),
            Signature::Real => "floats",
            Signature::Comparison if all(DType::is_float) || all(|kind| kind == DType::I32) => {
                return Ok(DType::Bool);
            }
            Signature::Comparison => "only floats or only i32",
            Signature::Logic if all(|kind| kind == DType::Bool) => return Ok(DType::Bool),
            Signature::Logic => "truth values",
            Signature::Select if kinds[0] == DType::Bool && kinds[1].is_float() && kinds[2].is_float() => {
                return Ok(DType::F32);
            }
            Signature::Select if kinds[0] == DType::Bool && kinds[1] == kinds[2] => return Ok(kinds[1]),
            Signature::Select => "a truth value and two operands of one type",
            Signature::Same => return Ok(kinds[0]),
            Signature::Rounding if kinds[0].is_float() && kinds[1].is_float() && kinds[2] == DType::I32 => {
                return Ok(DType::F32);
            }
            Signature::Rounding => "two floats and an i32",
        };
        Err(format!("takes {expected}, but was given {operands:?}"))
    }
}

impl Operator for Map {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        if operands.len() != self.0.arity() {
            let problem = format!("takes {} operands, but was given {}", self.0.arity(), operands.len());
            return Err(IrError::of(self.name(), problem));
        }
        let dtype = self.result(operands).map_err(|problem| IrError::of(self.name(), problem))?;
        let axes = union(self.name(), operands)?;
        Ok(TensorType::new(dtype, axes))
    }

    fn evaluate(&self, operands: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let mut point = vec![0.0; operands.len()];
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            for (x, operand) in point.iter_mut().zip(operands) {
                *x = operand.at(index);
            }
            self.0.apply(&point)
        }))
    }

    fn gradient(&self, graph: &mut Graph, node: NodeId, cotangent: NodeId) -> Result<Vec<Option<NodeId>>> {
        let x = graph.operands(node);
        let wanted: Vec<bool> = x.iter().map(|&operand| graph.ty(operand).dtype.is_float()).collect();
        let parts = partials(self.0, graph, node, &x, cotangent)?;
        let result = graph.axes(node).clone();
        let sums = parts.into_iter().zip(x).zip(wanted).map(|((part, operand), wanted)| match part {
            Some(part) if wanted => {
                let axes = graph.axes(operand).clone();
                // A sum is negated rather than each of its terms.
                if !axes.contains_all(&result)
                    && let Op::Map(Map(ScalarFn::Neg)) = graph.op(part)
                {
                    let sum = sum_to(graph, graph.operands(part)[0], &result, &axes)?;
                    return graph.add(Map(ScalarFn::Neg), &[sum]).map(Some);
                }
                sum_to(graph, part, &result, &axes).map(Some)
            }
            _ => Ok(None),
        });
        sums.collect()
    }

    fn linearity(&self) -> Linearity {
        use ScalarFn::*;
        match self.0 {
            Add | Sub | Neg | Detach => Linearity::All,
            Mul => Linearity::Each,
            Div => Linearity::In(&[0]),
            Select => Linearity::In(&[1, 2]),
            _ => Linearity::None,
        }
    }

    fn flops(&self, _: &[&TensorType], ty: &TensorType, size: &dyn Fn(Axis) -> f64) -> f64 {
        elements(ty, size)
    }

    fn parse(name: &str, _: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        ScalarFn::from_name(name).map(|function| Ok(Op::Map(Map(function))))
    }
}

/// The cotangent times each partial derivative, before sums over broadcast axes.
fn partials(
    function: ScalarFn,
    graph: &mut Graph,
    y: NodeId,
    x: &[NodeId],
    dy: NodeId,
) -> Result<Vec<Option<NodeId>>> {
    use ScalarFn::*;
    let mut map = |f: ScalarFn, operands: &[NodeId]| graph.add(Map(f), operands);
    Ok(match function {
        Add => vec![Some(dy), Some(dy)],
        Sub => vec![Some(dy), Some(map(Neg, &[dy])?)],
        Mul if x[0] == x[1] => {
            let two = scalar(graph, 2.0)?;
            let twice = graph.add(Map(Mul), &[dy, two])?;
            vec![Some(graph.add(Map(Mul), &[twice, x[0]])?), None]
        }
        Mul => vec![Some(map(Mul, &[dy, x[1]])?), Some(map(Mul, &[dy, x[0]])?)],
        Div => {
            let dx = map(Div, &[dy, x[1]])?;
            let scaled = map(Mul, &[dx, y])?;
            vec![Some(dx), Some(map(Neg, &[scaled])?)]
        }
        Neg => vec![Some(map(Neg, &[dy])?)],
        Exp => vec![Some(map(Mul, &[dy, y])?)],
        Log => vec![Some(map(Div, &[dy, x[0]])?)],
        Sin => {
            let cos = map(Cos, &[x[0]])?;
            vec![Some(map(Mul, &[dy, cos])?)]
        }
        Cos => {
            let sin = map(Sin, &[x[0]])?;
            let product = map(Mul, &[dy, sin])?;
            vec![Some(map(Neg, &[product])?)]
        }
        Sqrt => {
            let half = scalar(graph, 0.5)?;
            let scaled = graph.add(Map(Mul), &[dy, half])?;
            vec![Some(graph.add(Map(Div), &[scaled, y])?)]
        }
        Rsqrt => {
            let factor = scalar(graph, -0.5)?;
            let cube = [y, y, y].into_iter().try_fold(dy, |product, y| graph.add(Map(Mul), &[product, y]))?;
            vec![Some(graph.add(Map(Mul), &[cube, factor])?)]
        }
        Tanh => {
            let one = scalar(graph, 1.0)?;
            let square = graph.add(Map(Mul), &[y, y])?;
            let slope = graph.add(Map(Sub), &[one, square])?;
            vec![Some(graph.add(Map(Mul), &[dy, slope])?)]
        }
        Sigmoid => {
            let one = scalar(graph, 1.0)?;
            let rest = graph.add(Map(Sub), &[one, y])?;
            let slope = graph.add(Map(Mul), &[y, rest])?;
            vec![Some(graph.add(Map(Mul), &[dy, slope])?)]
        }
        Erf => {
            let factor = scalar(graph, std::f64::consts::FRAC_2_SQRT_PI)?;
            let square = graph.add(Map(Mul), &[x[0], x[0]])?;
            let negative = graph.add(Map(Neg), &[square])?;
            let bell = graph.add(Map(Exp), &[negative])?;
            let slope = graph.add(Map(Mul), &[bell, factor])?;
            vec![Some(graph.add(Map(Mul), &[dy, slope])?)]
        }
        Abs => {
            let zero = scalar(graph, 0.0)?;
            let negative = graph.add(Map(Less), &[x[0], zero])?;
            let flipped = graph.add(Map(Neg), &[dy])?;
            vec![Some(graph.add(Map(Select), &[negative, flipped, dy])?)]
        }
        Max | Min => {
            let zero = scalar(graph, 0.0)?;
            let (low, high) = if function == Max { (x[1], x[0]) } else { (x[0], x[1]) };
            let first = graph.add(Map(Less), &[low, high])?;
            vec![
                Some(graph.add(Map(Select), &[first, dy, zero])?),
                Some(graph.add(Map(Select), &[first, zero, dy])?),
            ]
        }
        Select => {
            let zero = scalar(graph, 0.0)?;
            let chosen = graph.add(Map(Select), &[x[0], dy, zero])?;
            vec![None, Some(chosen), Some(graph.add(Map(Select), &[x[0], zero, dy])?)]
        }
        Less | LessEqual | Equal | And | Or | Not | Detach | RoundRandomly => vec![None; x.len()],
    })
}

fn scalar(graph: &mut Graph, value: f64) -> Result<NodeId> {
    graph.add(Literal::scalar(DType::F32, value), &[])
}

/// The union of the operands' axes, or which two do not fit.
pub(crate) fn union(op: &str, operands: &[&TensorType]) -> Result<Axes> {
    operands.iter().try_fold(Axes::none(), |axes, ty| {
        axes.union(&ty.axes).map_err(|(left, right)| {
            let list: Vec<String> = operands.iter().map(|ty| ty.axes.to_string()).collect();
            let problem = format!(
                "axis `{}` is {left} in one operand and {right} in another: {}",
                left.name,
                list.join(" and ")
            );
            IrError::of(op, problem)
        })
    })
}
