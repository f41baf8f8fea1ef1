//! How an op's value depends on sums: what decides whether a sum over ranks may
//! move past it. It knows no mesh.

use super::Op;

/// In which of its operands an op is linear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linearity {
    /// In none.
    None,
    /// In all of them taken together: `f(x + x', y + y') = f(x, y) + f(x', y')`.
    All,
    /// In these taken together, the others held fixed.
    In(&'static [usize]),
    /// In each one alone, the others held fixed, as a product is.
    Each,
}

impl Op {
    /// Whether the value is a partial sum over ranks, given which operands are:
    /// then the sum may be taken after the op instead of before. `None` if the
    /// operands must be summed first.
    pub fn partial(&self, operands: &[bool]) -> Option<bool> {
        let count = operands.iter().filter(|&&partial| partial).count();
        let holds = match self.operator().linearity() {
            _ if count == 0 => return Some(false),
            Linearity::None => false,
            Linearity::All => count == operands.len(),
            Linearity::In(linear) => {
                operands.iter().enumerate().all(|(position, &partial)| partial == linear.contains(&position))
            }
            Linearity::Each => count == 1,
        };
        holds.then_some(true)
    }
}
