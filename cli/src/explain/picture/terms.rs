//! How a value is computed, as a person would write it: infix where there is a
//! sign for it, and with names for what is drawn elsewhere. It knows no graph.

use diptych_ir::ops::Literal;
use diptych_ir::{Axis, Op};

/// An expression, with what is needed to place it within another.
#[derive(Clone, Debug)]
pub struct Term {
    /// The text.
    pub text: String,
    binds: Binds,
}

/// How tightly an expression holds together, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Binds {
    Loose,
    Sum,
    Product,
    Call,
}

impl Term {
    /// The name of a value.
    pub fn name(text: impl Into<String>) -> Term {
        Term { text: text.into(), binds: Binds::Call }
    }

    /// An op of these operands.
    pub fn of(op: &Op, operands: &[Term]) -> Term {
        let call = |head: &str, last: Option<String>| {
            let inner = operands.iter().map(|operand| operand.text.clone()).chain(last);
            Term::name(format!("{head}({})", inner.collect::<Vec<_>>().join(", ")))
        };
        let over = |axes: &[Axis]| axes.iter().map(|axis| axis.name.as_str()).collect::<Vec<_>>().join(" ");
        match op {
            Op::Literal(literal) => literal_term(literal),
            Op::Index(index) => Term::name(format!("index({})", index.axis.name)),
            Op::Cast(cast) => call(cast.0.name(), None),
            Op::Rename(rename) => call(&format!("{}→{}", rename.from.name, rename.to.name), None),
            Op::Slice(slice) => {
                let length = slice.into.fixed_size().unwrap_or_default();
                let range = format!("[{}..{}]", slice.start, slice.start + length);
                match operands {
                    [operand] => Term::name(within(operand, operand.binds == Binds::Call) + &range),
                    _ => call("slice", Some(range)),
                }
            }
            Op::Contract(contract) => {
                let product = joined(operands, " · ", Binds::Product);
                match contract.over.is_empty() {
                    true => product,
                    false => Term {
                        text: format!("Σ[{}] {}", over(&contract.over), product.text),
                        binds: Binds::Loose,
                    },
                }
            }
            Op::Reduce(reduce) => {
                let sign = if op.name() == "reduce_sum" { "Σ" } else { "max" };
                let inner = joined(operands, ", ", Binds::Product);
                Term { text: format!("{sign}[{}] {}", over(&reduce.over), inner.text), binds: Binds::Loose }
            }
            op => match (op.name(), operands.len()) {
                ("add", 2) => joined(operands, " + ", Binds::Sum),
                ("sub", 2) => apart(operands, " − ", Binds::Sum),
                ("mul", 2) => joined(operands, " · ", Binds::Product),
                ("div", 2) => apart(operands, " / ", Binds::Product),
                ("less", 2) => apart(operands, " < ", Binds::Loose),
                ("less_equal", 2) => apart(operands, " ≤ ", Binds::Loose),
                ("equal", 2) => apart(operands, " = ", Binds::Loose),
                // Its value is that of its operand.
                ("detach", 1) => operands[0].clone(),
                (name, _) => call(name, None),
            },
        }
    }
}

/// Operands of an operation that is the same in whatever order it is carried out on the page.
fn joined(operands: &[Term], sign: &str, binds: Binds) -> Term {
    let parts: Vec<String> = operands.iter().map(|operand| within(operand, operand.binds >= binds)).collect();
    match operands {
        [one] => Term { text: parts.concat(), binds: one.binds.max(binds) },
        _ => Term { text: parts.join(sign), binds },
    }
}

/// Operands of an operation that goes from left to right.
fn apart(operands: &[Term], sign: &str, binds: Binds) -> Term {
    let part = |(at, operand): (usize, &Term)| {
        within(operand, operand.binds > binds || at == 0 && operand.binds == binds && binds > Binds::Loose)
    };
    let parts: Vec<String> = operands.iter().enumerate().map(part).collect();
    Term { text: parts.join(sign), binds }
}

fn within(operand: &Term, bare: bool) -> String {
    if bare { operand.text.clone() } else { format!("({})", operand.text) }
}

fn literal_term(literal: &Literal) -> Term {
    Term::name(literal.as_scalar().map_or_else(|| "numbers".to_owned(), number))
}

/// Four significant digits, without zeros at the end.
fn number(value: f64) -> String {
    let plain = value.abs() < 1e7 && (value == value.trunc() || value.abs() >= 1e-3);
    let text = if plain { format!("{value:.4}") } else { format!("{value:.3e}") };
    let (mantissa, exponent) = text.split_once('e').map_or((text.as_str(), ""), |parts| parts);
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    if exponent.is_empty() { mantissa.to_owned() } else { format!("{mantissa}e{exponent}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_ir::ScalarFn;
    use diptych_ir::ops::{Contract, Map};

    #[test]
    fn parentheses_say_what_is_computed_first() {
        let map = |function, operands: &[Term]| Term::of(&Map(function).into(), operands);
        let [a, b, c] = ["a", "b", "c"].map(Term::name);
        let sum = map(ScalarFn::Add, &[a.clone(), b.clone()]);
        let difference = map(ScalarFn::Sub, &[c.clone(), sum.clone()]);
        assert_eq!(difference.text, "c − (a + b)");
        assert_eq!(map(ScalarFn::Sub, &[sum.clone(), c.clone()]).text, "a + b − c");
        let ratio = map(ScalarFn::Div, &[sum.clone(), c.clone()]);
        assert_eq!(map(ScalarFn::Div, &[ratio.clone(), a.clone()]).text, "(a + b) / c / a");
        assert_eq!(map(ScalarFn::Div, &[a.clone(), ratio]).text, "a / ((a + b) / c)");
        let contract =
            |operands: &[Term]| Term::of(&Contract { over: vec![Axis::fixed("embed", 8)] }.into(), operands);
        let product = contract(&[a.clone(), sum]);
        assert_eq!(product.text, "Σ[embed] a · (a + b)");
        assert_eq!(map(ScalarFn::Mul, &[product, b]).text, "(Σ[embed] a · (a + b)) · b");
        assert_eq!(map(ScalarFn::Exp, &[difference]).text, "exp(c − (a + b))");
    }

    #[test]
    fn numbers_are_short() {
        let given = [0.0, 1.0, -2.5, 0.10206207633018494, 1e-5, -1e30, 512.0, 0.001];
        assert_eq!(given.map(number), ["0", "1", "-2.5", "0.1021", "1e-5", "-1e30", "512", "0.001"]);
    }
}
