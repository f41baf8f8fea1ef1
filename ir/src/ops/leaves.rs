//! The leaves: inputs, parameters, ports of a repeat's body, literals and
//! positions. They know nothing of where their values are stored.

use super::{Op, Operator};
use crate::evaluate::{Context, Value};
use crate::text::{self, Reader};
use crate::{Axes, Axis, DType, Graph, IrError, NodeId, Result, Symbol, TensorType};

/// A named input of an entry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Input {
    /// Its name.
    pub name: Symbol,
    /// Its type.
    pub ty: TensorType,
}

/// A trained parameter, or a state that the optimiser keeps beside it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Param {
    /// Full name, such as `layers.q`.
    pub name: Symbol,
    /// Its type, with the layer axis if it belongs to a stack.
    pub ty: TensorType,
}

/// A port of a repeat's body.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Argument {
    /// Position among the body's arguments.
    pub index: usize,
    /// Its type.
    pub ty: TensorType,
}

/// Known numbers over at most one axis: a scalar, or a table such as the
/// rotary frequencies. Numbers are held by their f64 bits, so that equal
/// literals are equal ops.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Literal {
    /// Element type.
    pub dtype: DType,
    /// The axis of a table; none for a scalar.
    pub axis: Option<Axis>,
    bits: Vec<u64>,
}

impl Literal {
    /// A scalar.
    pub fn scalar(dtype: DType, value: f64) -> Literal {
        Literal { dtype, axis: None, bits: vec![value.to_bits()] }
    }

    /// A table along an axis of fixed size.
    ///
    /// # Errors
    /// When the number of values is not the axis' size.
    pub fn table(dtype: DType, axis: Axis, values: &[f64]) -> Result<Literal> {
        if axis.fixed_size() != Some(values.len()) {
            return Err(IrError::of("literal", format!("{} values for the axis {axis}", values.len())));
        }
        Ok(Literal { dtype, axis: Some(axis), bits: values.iter().map(|value| value.to_bits()).collect() })
    }

    /// The numbers.
    pub fn values(&self) -> Vec<f64> {
        self.bits.iter().map(|&bits| f64::from_bits(bits)).collect()
    }

    /// The number, if it is a scalar.
    pub fn as_scalar(&self) -> Option<f64> {
        self.axis.is_none().then(|| f64::from_bits(self.bits[0]))
    }
}

/// Position along an axis, as an integer. Along a sequence axis it is the
/// absolute position, which varies from sequence to sequence: `origin` then
/// names the axis of the sequences, and input `origin` (i32 over that axis,
/// 0 if not given) says where each begins.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Index {
    /// The axis counted along.
    pub axis: Axis,
    /// The axis of the sequences, for a sequence axis.
    pub origin: Option<Axis>,
}

fn no_operands(name: &str, operands: &[&TensorType]) -> Result<()> {
    match operands.len() {
        0 => Ok(()),
        count => Err(IrError::of(name, format!("takes no operand, but was given {count}"))),
    }
}

macro_rules! typed_leaf {
    ($leaf:ident, $name:literal, $evaluate:expr, $attribute:expr, $parse:expr) => {
        impl Operator for $leaf {
            fn name(&self) -> &'static str {
                $name
            }
            fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
                no_operands($name, operands)?;
                Ok(self.ty.clone())
            }
            fn evaluate(&self, _: &[&Value], _: &TensorType, context: &Context) -> Result<Value> {
                $evaluate(self, context)
            }
            fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
                Ok(Vec::new())
            }
            fn attributes(&self) -> String {
                $attribute(self)
            }
            fn parse(name: &str, text: &mut Reader, ty: &TensorType) -> Option<Result<Op>> {
                (name == $name).then(|| Ok(Op::$leaf($parse(text, ty.clone())?)))
            }
        }
    };
}

typed_leaf!(
    Input,
    "input",
    |input: &Input, context: &Context| {
        let value = context.inputs.get(&input.name).cloned();
        value.ok_or_else(|| IrError::Evaluate(format!("no value for the input `{}`", input.name)))
    },
    |input: &Input| text::name(input.name),
    |text: &mut Reader, ty| Result::Ok(Input { name: text.name()?, ty })
);
typed_leaf!(
    Param,
    "param",
    |param: &Param, context: &Context| {
        let value = context.params.get(&param.name).cloned();
        value.ok_or_else(|| IrError::Evaluate(format!("no value for the parameter `{}`", param.name)))
    },
    |param: &Param| text::name(param.name),
    |text: &mut Reader, ty| Result::Ok(Param { name: text.name()?, ty })
);
typed_leaf!(
    Argument,
    "argument",
    |argument: &Argument, _: &Context| {
        Err(IrError::Evaluate(format!("argument {} stands outside of a repeat", argument.index)))
    },
    |argument: &Argument| argument.index.to_string(),
    |text: &mut Reader, ty| Result::Ok(Argument { index: text.whole()?, ty })
);

impl Operator for Literal {
    fn name(&self) -> &'static str {
        "literal"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        no_operands("literal", operands)?;
        let axes = Axes::new(self.axis).map_err(|_| IrError::of("literal", "an axis twice"))?;
        Ok(TensorType::new(self.dtype, axes))
    }

    fn evaluate(&self, _: &[&Value], _: &TensorType, context: &Context) -> Result<Value> {
        let axes = self
            .axis
            .map(|axis| Ok((axis.name, context.size(axis)?)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Value::new(&axes, self.values())
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Ok(Vec::new())
    }

    fn attributes(&self) -> String {
        match self.as_scalar() {
            Some(value) => text::number(value),
            None => text::list(&self.values(), text::number),
        }
    }

    fn parse(name: &str, text: &mut Reader, ty: &TensorType) -> Option<Result<Op>> {
        (name == "literal").then(|| {
            let at = text.line();
            let literal = match ty.axes[..] {
                [] => Literal::scalar(ty.dtype, text.number()?),
                [axis] => {
                    let values = text.list(Reader::number)?;
                    let given = values.len();
                    let problem = || format!("{given} values for the axis {axis}: its size is their number");
                    Literal::table(ty.dtype, axis, &values)
                        .map_err(|_| IrError::Parse { line: at, problem: problem() })?
                }
                _ => return Err(text.wrong("a literal has at most one axis")),
            };
            Ok(Op::Literal(literal))
        })
    }
}

impl Operator for Index {
    fn name(&self) -> &'static str {
        "index"
    }

    fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        no_operands("index", operands)?;
        let axes = Axes::new([self.axis].into_iter().chain(self.origin))
            .map_err(|(axis, _)| IrError::of("index", format!("the axis {axis} cannot be its own origin")))?;
        Ok(TensorType::new(DType::I32, axes))
    }

    fn evaluate(&self, _: &[&Value], ty: &TensorType, context: &Context) -> Result<Value> {
        let origin = self.origin.and_then(|_| context.inputs.get(&Symbol::new("origin")));
        Ok(Value::build(context.shape(&ty.axes)?, |index| {
            index.get(self.axis.name) as f64 + origin.map_or(0.0, |origin| origin.at(index))
        }))
    }

    fn gradient(&self, _: &mut Graph, _: NodeId, _: NodeId) -> Result<Vec<Option<NodeId>>> {
        Ok(Vec::new())
    }

    fn attributes(&self) -> String {
        let origin = self.origin.map(|origin| format!(" from {}", text::axis(origin))).unwrap_or_default();
        format!("{}{origin}", text::axis(self.axis))
    }

    fn parse(name: &str, text: &mut Reader, _: &TensorType) -> Option<Result<Op>> {
        (name == "index").then(|| {
            let axis = text.axis()?;
            let origin = if text.has_word("from") { Some(text.axis()?) } else { None };
            Ok(Op::Index(Index { axis, origin }))
        })
    }
}
