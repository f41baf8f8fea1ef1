//! Named axes and sets of them. An axis is a name with a size; a tensor's axes
//! are a set, so nothing here knows of an order in memory.

use crate::Symbol;
use std::fmt;

/// How long an axis is: a number known when the architecture is written, or a
/// symbol (`batch`, `time`, `past`) that a binding gives a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// A size that the architecture fixes, in elements.
    Fixed(usize),
    /// A size that is known when the program runs.
    Symbolic(Symbol),
}

/// A named axis. Two axes are the same when both name and size are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Axis {
    /// The name, unique within a tensor.
    pub name: Symbol,
    /// The size, in elements.
    pub size: Size,
}

impl Axis {
    /// An axis of a fixed size.
    pub fn fixed(name: &str, size: usize) -> Axis {
        Axis { name: name.into(), size: Size::Fixed(size) }
    }

    /// An axis whose size is the symbol of the same name, such as `batch`.
    pub fn symbolic(name: &str) -> Axis {
        Axis { name: name.into(), size: Size::Symbolic(name.into()) }
    }

    /// The size in elements, if the architecture fixes it.
    pub fn fixed_size(self) -> Option<usize> {
        match self.size {
            Size::Fixed(size) => Some(size),
            Size::Symbolic(_) => None,
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            Size::Fixed(size) => write!(f, "{}={size}", self.name),
            Size::Symbolic(symbol) if symbol == self.name => write!(f, "{}", self.name),
            Size::Symbolic(symbol) => write!(f, "{}={symbol}", self.name),
        }
    }
}

impl fmt::Debug for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of axes with distinct names, kept sorted by name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Axes(Vec<Axis>);

impl Axes {
    /// The empty set: the axes of a scalar.
    pub fn none() -> Axes {
        Axes(Vec::new())
    }

    /// The set of these axes, or the first two that share a name.
    pub fn new(axes: impl IntoIterator<Item = Axis>) -> Result<Axes, (Axis, Axis)> {
        let mut sorted: Vec<Axis> = axes.into_iter().collect();
        sorted.sort();
        match sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err((pair[0], pair[1])),
            None => Ok(Axes(sorted)),
        }
    }

    /// The union, or the first two axes of one name and different sizes.
    pub fn union(&self, other: &Axes) -> Result<Axes, (Axis, Axis)> {
        let mut all = self.0.clone();
        for &axis in &other.0 {
            match self.get(axis.name) {
                None => all.push(axis),
                Some(same) if same == axis => {}
                Some(conflict) => return Err((conflict, axis)),
            }
        }
        all.sort();
        Ok(Axes(all))
    }

    /// Those of `self` that are not in `other`.
    pub fn without(&self, other: &[Axis]) -> Axes {
        Axes(self.0.iter().copied().filter(|axis| !other.contains(axis)).collect())
    }

    /// The axis of this name.
    pub fn get(&self, name: Symbol) -> Option<Axis> {
        self.0.iter().copied().find(|axis| axis.name == name)
    }

    /// Whether this very axis (name and size) is in the set.
    pub fn contains(&self, axis: Axis) -> bool {
        self.0.contains(&axis)
    }

    /// Whether every axis of `other` is in `self`.
    pub fn contains_all(&self, other: &[Axis]) -> bool {
        other.iter().all(|axis| self.contains(*axis))
    }
}

impl std::ops::Deref for Axes {
    type Target = [Axis];
    fn deref(&self) -> &[Axis] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Axes {
    type Item = &'a Axis;
    type IntoIter = std::slice::Iter<'a, Axis>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, axis) in self.0.iter().enumerate() {
            write!(f, "{}{axis}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
