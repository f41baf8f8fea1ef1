//! Parameters and what is kept beside them from step to step, stored as the
//! layout pass chose. To the outside they are numbers in the user's order.

use super::memory::{AlignedBytes, OutOfMemory};
use diptych_ir::{Axis, ParamInfo, Program, Symbol};
use diptych_passes::layout::{Layout, Layouts, product};
use std::collections::BTreeMap;

/// A stored parameter or state, f32.
#[derive(Debug)]
pub struct Stored {
    /// Axes in the user's order, the layer axis first if there is one.
    pub order: Vec<Axis>,
    /// The layer axis.
    pub layers: Option<Axis>,
    /// How one layer's value is stored.
    pub layout: Layout,
    /// The bytes: one layer after the other.
    pub bytes: AlignedBytes,
}

/// Why numbers cannot become a parameter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParameterError {
    /// No such parameter.
    #[error("no parameter `{0}`")]
    Unknown(String),
    /// Another number of elements.
    #[error("parameter `{name}` has {expected} elements, but {found} were given")]
    Length {
        /// The parameter.
        name: String,
        /// Its elements.
        expected: usize,
        /// Those given.
        found: usize,
    },
    /// No memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// All parameters and states of a program.
#[derive(Debug)]
pub struct ParameterStore {
    values: BTreeMap<Symbol, Stored>,
    panel: usize,
}

impl ParameterStore {
    /// Room for the parameters of a program, and for its states if it is to be trained.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(
        program: &Program,
        layouts: &Layouts,
        panel: usize,
        with_states: bool,
    ) -> Result<ParameterStore, OutOfMemory> {
        let mut values = BTreeMap::new();
        for (name, info, layout) in kept(program, layouts, with_states) {
            let bytes = AlignedBytes::zeroed(stored_bytes(info, &layout, panel))?;
            values.insert(name, Stored { order: info.order.clone(), layers: info.layers, layout, bytes });
        }
        Ok(ParameterStore { values, panel })
    }

    /// The bytes that [`ParameterStore::new`] will take.
    pub fn bytes_for(program: &Program, layouts: &Layouts, panel: usize, with_states: bool) -> usize {
        kept(program, layouts, with_states).map(|(_, info, layout)| stored_bytes(info, &layout, panel)).sum()
    }

    /// Sets all states to zero.
    pub fn clear_states(&mut self, program: &Program) {
        for state in program.states.keys() {
            if let Some(stored) = self.values.get_mut(state) {
                stored.bytes.as_mut_slice::<u8>().fill(0);
            }
        }
    }

    /// The names of all, in order.
    pub fn names(&self) -> impl Iterator<Item = Symbol> + '_ {
        self.values.keys().copied()
    }

    /// A stored value.
    pub fn stored(&self, name: Symbol) -> Option<&Stored> {
        self.values.get(&name)
    }

    /// Bytes that all take.
    pub fn bytes(&self) -> usize {
        self.values.values().map(|stored| stored.bytes.len()).sum()
    }

    /// The first byte of a stored value.
    pub fn pointer(&self, name: Symbol) -> Option<*mut u8> {
        self.values.get(&name).map(|stored| stored.bytes.as_ptr())
    }

    /// Sets a value from numbers in the user's order.
    ///
    /// # Errors
    /// When there is no such value, or it has another number of elements.
    pub fn set(&mut self, name: Symbol, numbers: &[f32]) -> Result<(), ParameterError> {
        let panel = self.panel;
        let stored = self.values.get_mut(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        let expected = product(&stored.order);
        if numbers.len() != expected {
            return Err(ParameterError::Length { name: name.to_string(), expected, found: numbers.len() });
        }
        let places = Places::of(stored, panel);
        let elements = stored.bytes.as_mut_slice::<f32>();
        places.for_each(|position, place| elements[place] = numbers[position]);
        Ok(())
    }

    /// The numbers of a value in the user's order.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn get(&self, name: Symbol) -> Result<Vec<f32>, ParameterError> {
        let stored = self.values.get(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        let mut numbers = vec![0.0; product(&stored.order)];
        let elements = stored.bytes.as_slice::<f32>();
        Places::of(stored, self.panel).for_each(|position, place| numbers[position] = elements[place]);
        Ok(numbers)
    }
}

/// Parameters, and states if wanted, with what is known of the parameter and how they are stored.
fn kept<'a>(
    program: &'a Program,
    layouts: &'a Layouts,
    with_states: bool,
) -> impl Iterator<Item = (Symbol, &'a ParamInfo, Layout)> {
    let params = program.params.iter().map(|(&name, info)| (name, info));
    let states = program.states.keys().filter(move |_| with_states).filter_map(|&state| {
        let (_, owner) = state.as_str().split_once('.')?;
        Some((state, program.params.get(&Symbol::new(owner))?))
    });
    params.chain(states).map(|(name, info)| {
        let layout = layouts.params.get(&name).cloned().unwrap_or_else(|| layouts.dense(&info.ty));
        (name, info, layout)
    })
}

fn stored_bytes(info: &ParamInfo, layout: &Layout, panel: usize) -> usize {
    let layers = info.layers.and_then(Axis::fixed_size).unwrap_or(1);
    layers * layout.row_elements(panel) * size_of::<f32>()
}

/// Where each element of the user's order is stored: a sum of a part for each
/// axis, but for the column within panels, which are looked up as one.
struct Places {
    sizes: Vec<usize>,
    /// For each axis, what a step along it adds to the linear part.
    linear: Vec<usize>,
    /// For each axis, what a step along it adds to the column of a packed weight.
    column: Vec<usize>,
    depth: usize,
    panel: usize,
}

impl Places {
    fn of(stored: &Stored, panel: usize) -> Places {
        let nested = |axes: &[Axis], axis: Axis| {
            axes.iter().position(|&other| other == axis).map(|at| product(&axes[at + 1..]))
        };
        let layer = stored.layout.row_elements(panel);
        let mut places =
            Places { sizes: Vec::new(), linear: Vec::new(), column: Vec::new(), depth: 0, panel };
        for &axis in &stored.order {
            places.sizes.push(axis.fixed_size().unwrap_or(1));
            let (linear, column) = match &stored.layout {
                _ if Some(axis) == stored.layers => (layer, 0),
                Layout::Dense { order, .. } => (nested(order, axis).unwrap_or(0), 0),
                Layout::Packed { k, n } => match nested(k, axis) {
                    Some(stride) => (stride * panel, 0),
                    None => (0, nested(n, axis).unwrap_or(0)),
                },
            };
            places.linear.push(linear);
            places.column.push(column);
        }
        if let Layout::Packed { k, .. } = &stored.layout {
            places.depth = product(k);
        }
        places
    }

    fn for_each(&self, mut visit: impl FnMut(usize, usize)) {
        let mut index = vec![0; self.sizes.len()];
        let (mut linear, mut column) = (0, 0);
        for position in 0..self.sizes.iter().product() {
            visit(position, linear + column / self.panel * self.depth * self.panel + column % self.panel);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                linear += self.linear[axis];
                column += self.column[axis];
                if index[axis] < self.sizes[axis] {
                    break;
                }
                linear -= self.linear[axis] * self.sizes[axis];
                column -= self.column[axis] * self.sizes[axis];
                index[axis] = 0;
            }
        }
    }
}
