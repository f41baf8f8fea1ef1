//! Parameters and what is kept beside them from step to step, stored as the
//! layout pass chose. To the outside they are numbers in the user's order.

use super::blocks::round_to_blocks;
use super::columns::Columns;
use super::memory::{AlignedBytes, OutOfMemory};
use crate::cuda::{CudaError, Gpu, GpuParameters};
use diptych_ir::{Axis, DType, ParamInfo, Program, Symbol, TensorType};
use diptych_passes::layout::{Layout, Layouts, product};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Elements of a value that are copied at once between memory and files: so many that nothing is lost by it, so few
/// that nobody notices the memory.
pub const PART_ELEMENTS: usize = 1 << 20;

/// A stored parameter or state.
#[derive(Debug)]
pub struct Stored {
    /// Axes in the user's order, the layer axis first if there is one.
    pub order: Vec<Axis>,
    /// The layer axis.
    pub layers: Option<Axis>,
    /// How one layer's value is stored.
    pub layout: Layout,
    /// The type of its elements: of parameters f32, f16 or bf16 (in blocks, f32), of states what the program says.
    pub dtype: DType,
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
    /// A weight in blocks is set whole, or column by column.
    #[error("parameter `{0}` is held in blocks, and cannot be set in parts")]
    InBlocks(String),
    /// Numbers that the blocks, or the type, do not hold.
    #[error("parameter `{name}` has numbers that are not finite, or too large for {format}")]
    Range {
        /// The parameter.
        name: String,
        /// The format of blocks, or the type.
        format: &'static str,
    },
    /// A column that the blocks of a parameter do not have.
    #[error(
        "parameter `{name}` has no column {number} of {found} bytes: it has {columns}, of {expected} bytes each"
    )]
    Column {
        /// The parameter.
        name: String,
        /// Which column.
        number: usize,
        /// How many there are.
        columns: usize,
        /// Bytes of a column.
        expected: usize,
        /// Those given.
        found: usize,
    },
    /// The GPU's copy, which is the newer one, cannot be had.
    #[error("parameter `{name}` cannot be copied from the GPU: {cause}")]
    OnGpu {
        /// The parameter.
        name: String,
        /// Why.
        cause: String,
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
    /// The GPU's copy, where there is one.
    on_gpu: Option<Arc<GpuParameters>>,
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
        for (name, room) in kept(program, layouts, with_states) {
            let bytes = AlignedBytes::zeroed(room.bytes(panel))?;
            let Room { order, layers, layout, dtype } = room;
            values.insert(name, Stored { order, layers, layout, dtype, bytes });
        }
        Ok(ParameterStore { values, panel, on_gpu: None })
    }

    /// The bytes that [`ParameterStore::new`] will take.
    pub fn bytes_for(program: &Program, layouts: &Layouts, panel: usize, with_states: bool) -> usize {
        kept(program, layouts, with_states).map(|(_, room)| room.bytes(panel)).sum()
    }

    /// Gives all values a place on a GPU. What is set is copied there by [`ParameterStore::upload`]; what kernels write
    /// there is copied back when it is asked for.
    ///
    /// # Errors
    /// When the GPU has not enough memory.
    pub fn copy_to(&mut self, gpu: &Gpu, program: &Program) -> Result<(), CudaError> {
        let value = |(&name, stored): (&Symbol, &Stored)| {
            (name, program.states.contains_key(&name), stored.bytes.len())
        };
        self.on_gpu = Some(Arc::new(GpuParameters::new(gpu, self.values.iter().map(value))?));
        Ok(())
    }

    /// Copies to the GPU, if there is a copy there, what was set since the last call. To be called before a run.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn upload(&self) -> Result<(), CudaError> {
        let Some(on_gpu) = &self.on_gpu else { return Ok(()) };
        self.values.iter().try_for_each(|(&name, stored)| on_gpu.upload(name, stored.bytes.as_slice()))
    }

    /// The GPU's copy.
    pub(crate) fn on_gpu(&self) -> Option<Arc<GpuParameters>> {
        self.on_gpu.clone()
    }

    /// Takes a value from the GPU, if it is newer there.
    fn fetch(&self, name: Symbol) -> Result<(), ParameterError> {
        let (Some(on_gpu), Some(stored)) = (&self.on_gpu, self.values.get(&name)) else { return Ok(()) };
        let failed =
            |error: CudaError| ParameterError::OnGpu { name: name.to_string(), cause: error.to_string() };
        // SAFETY: so many bytes, which nobody reads before they have been fetched, and one thread fetches at a time.
        unsafe { on_gpu.download(name, stored.bytes.as_ptr()) }.map_err(failed)
    }

    /// The value is to be copied to the GPU.
    fn was_set(&self, name: Symbol) {
        self.on_gpu.iter().for_each(|on_gpu| on_gpu.host_is_newer(name));
    }

    /// Sets all states to zero.
    pub fn clear_states(&mut self, program: &Program) {
        for state in program.states.keys() {
            if let Some(stored) = self.values.get_mut(state) {
                stored.bytes.as_mut_slice::<u8>().fill(0);
                self.was_set(*state);
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
        let expected = self.elements(name)?;
        if numbers.len() != expected {
            return Err(ParameterError::Length { name: name.to_string(), expected, found: numbers.len() });
        }
        match self.columns(name) {
            Some(columns) => self.set_rounded(name, &columns, numbers),
            None => self.set_part(name, 0, numbers),
        }
    }

    /// Rounds numbers to blocks, column by column.
    fn set_rounded(
        &mut self,
        name: Symbol,
        columns: &Columns,
        numbers: &[f32],
    ) -> Result<(), ParameterError> {
        let mut column = vec![0.0; columns.depth()];
        for number in 0..columns.count() {
            for (row, position) in columns.positions(number).enumerate() {
                column[row] = numbers[position];
            }
            let format = columns.panels.format;
            let blocks = round_to_blocks(format, &column);
            let blocks = blocks
                .ok_or_else(|| ParameterError::Range { name: name.to_string(), format: format.name() })?;
            self.set_column(name, columns, number, &blocks)?;
        }
        Ok(())
    }

    /// The columns of a value that is held in blocks.
    pub fn columns(&self, name: Symbol) -> Option<Columns> {
        Columns::of(self.values.get(&name)?, self.panel)
    }

    /// Sets a column of a value that is held in blocks, from blocks as files have them.
    ///
    /// # Errors
    /// When there is no such value, `columns` is not what [`ParameterStore::columns`] says of it, or it has no such column.
    pub fn set_column(
        &mut self,
        name: Symbol,
        columns: &Columns,
        number: usize,
        blocks: &[u8],
    ) -> Result<(), ParameterError> {
        let own = self.columns(name);
        // The other columns stay as they are.
        self.fetch(name)?;
        let stored = self.values.get_mut(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        let (count, expected) = own.as_ref().map_or((0, 0), |own| (own.count(), own.panels.column_bytes()));
        if own.as_ref() != Some(columns) || number >= count || blocks.len() != expected {
            let (name, found) = (name.to_string(), blocks.len());
            return Err(ParameterError::Column { name, number, columns: count, expected, found });
        }
        let (first, column) = columns.place(number);
        let panel = &mut stored.bytes.as_mut_slice::<u8>()[first..first + columns.panels.panel_bytes()];
        columns.panels.put(panel, column, blocks);
        self.was_set(name);
        Ok(())
    }

    /// Sets the elements of a value from position `start` on, in the user's order.
    ///
    /// # Errors
    /// When there is no such value, or it ends before.
    pub fn set_part(&mut self, name: Symbol, start: usize, numbers: &[f32]) -> Result<(), ParameterError> {
        let part = self.part(name, start, numbers.len())?;
        if self.columns(name).is_some() {
            return Err(ParameterError::InBlocks(name.to_string()));
        }
        if part.len() < self.elements(name)? {
            self.fetch(name)?;
        }
        let panel = self.panel;
        let stored = self.values.get_mut(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        let dtype = stored.dtype;
        if dtype.is_narrow() && numbers.iter().any(|&x| !dtype.round(x).is_finite()) {
            return Err(ParameterError::Range { name: name.to_string(), format: dtype.name() });
        }
        let places = Places::of(stored, panel);
        match dtype {
            DType::F16 => put(&mut stored.bytes, places, part, numbers, |x| f16::from_f32(x).to_bits()),
            DType::BF16 => put(&mut stored.bytes, places, part, numbers, |x| bf16::from_f32(x).to_bits()),
            DType::F32 | DType::I8 | DType::I32 | DType::Bool => {
                put(&mut stored.bytes, places, part, numbers, |x| x);
            }
        }
        self.was_set(name);
        Ok(())
    }

    /// The numbers of a value in the user's order.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn get(&self, name: Symbol) -> Result<Vec<f32>, ParameterError> {
        let mut numbers = vec![0.0; self.elements(name)?];
        self.get_part(name, 0, &mut numbers)?;
        Ok(numbers)
    }

    /// The numbers of a value from position `start` on, in the user's order: as many as there is room for in `numbers`.
    ///
    /// # Errors
    /// When there is no such value, or it ends before.
    pub fn get_part(&self, name: Symbol, start: usize, numbers: &mut [f32]) -> Result<(), ParameterError> {
        let part = self.part(name, start, numbers.len())?;
        self.fetch(name)?;
        let stored = self.values.get(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        if let Some(columns) = self.columns(name) {
            let bytes = stored.bytes.as_slice::<u8>();
            for (position, number) in part.zip(numbers) {
                let (column, row) = columns.of_position(position);
                let (first, within) = columns.place(column);
                *number = columns.panels.get(&bytes[first..], within, row);
            }
            return Ok(());
        }
        let places = Places::of(stored, self.panel);
        match stored.dtype {
            DType::F16 => get(&stored.bytes, places, part, numbers, |x| f16::from_bits(x).to_f32()),
            DType::BF16 => get(&stored.bytes, places, part, numbers, |x| bf16::from_bits(x).to_f32()),
            DType::F32 | DType::I8 | DType::I32 | DType::Bool => {
                get(&stored.bytes, places, part, numbers, |x: f32| x);
            }
        }
        Ok(())
    }

    /// How many numbers a value has.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn elements(&self, name: Symbol) -> Result<usize, ParameterError> {
        let stored = self.values.get(&name).ok_or_else(|| ParameterError::Unknown(name.to_string()))?;
        Ok(product(&stored.order))
    }

    fn part(&self, name: Symbol, start: usize, length: usize) -> Result<Range<usize>, ParameterError> {
        let (expected, end) = (self.elements(name)?, start.saturating_add(length));
        if end > expected {
            return Err(ParameterError::Length { name: name.to_string(), expected, found: end });
        }
        Ok(start..end)
    }
}

/// Stores numbers of a part as elements of a type.
fn put<T: bytemuck::Pod>(
    bytes: &mut AlignedBytes,
    places: Places,
    part: Range<usize>,
    numbers: &[f32],
    narrow: impl Fn(f32) -> T,
) {
    let (start, elements) = (part.start, bytes.as_mut_slice::<T>());
    places.for_each(part, |position, place| elements[place] = narrow(numbers[position - start]));
}

/// Reads elements of a part of a type as numbers.
fn get<T: bytemuck::Pod>(
    bytes: &AlignedBytes,
    places: Places,
    part: Range<usize>,
    numbers: &mut [f32],
    widen: impl Fn(T) -> f32,
) {
    let (start, elements) = (part.start, bytes.as_slice::<T>());
    places.for_each(part, |position, place| numbers[position - start] = widen(elements[place]));
}

/// The parts, of at most [`PART_ELEMENTS`], in which a value of so many elements is read or written.
pub fn parts(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(PART_ELEMENTS).map(move |start| start..elements.min(start + PART_ELEMENTS))
}

/// Room for a parameter or a state: [`Stored`] without bytes.
struct Room {
    order: Vec<Axis>,
    layers: Option<Axis>,
    layout: Layout,
    dtype: DType,
}

impl Room {
    fn bytes(&self, panel: usize) -> usize {
        let layers = self.layers.and_then(Axis::fixed_size).unwrap_or(1);
        layers * self.layout.row_elements(panel) * self.dtype.bytes()
    }
}

/// Parameters, and states if wanted, and how they are stored.
fn kept<'a>(
    program: &'a Program,
    layouts: &'a Layouts,
    with_states: bool,
) -> impl Iterator<Item = (Symbol, Room)> + 'a {
    let layout_of = move |name: Symbol, ty: &TensorType| {
        layouts.params.get(&name).cloned().unwrap_or_else(|| layouts.dense(ty))
    };
    let of_param = move |name: Symbol, info: &ParamInfo| Room {
        order: info.order.clone(),
        layers: info.layers,
        layout: layout_of(name, &info.ty),
        dtype: info.ty.dtype,
    };
    let of_state = move |name: Symbol, ty: &TensorType| {
        let owner = program.owner(name).map(|owner| &program.params[&owner]);
        if let Some(info) = owner.filter(|info| info.ty.axes == ty.axes) {
            return Room { dtype: ty.dtype, ..of_param(name, info) };
        }
        let layout = layout_of(name, ty);
        let within = layout.axes();
        let layers = ty.axes.iter().copied().find(|axis| !within.contains(axis));
        let order = layers.into_iter().chain(within).collect();
        Room { order, layers, layout, dtype: ty.dtype }
    };
    let params = program.params.iter().map(move |(&name, info)| (name, of_param(name, info)));
    let states = program.states.iter().filter(move |_| with_states);
    params.chain(states.map(move |(&name, ty)| (name, of_state(name, ty))))
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
                Layout::Dense { order, .. } | Layout::Rounded { order, .. } => {
                    (nested(order, axis).unwrap_or(0), 0)
                }
                Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => match nested(k, axis) {
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

    /// Visits the positions of a part, each with its place.
    fn for_each(&self, part: Range<usize>, mut visit: impl FnMut(usize, usize)) {
        let mut index = vec![0; self.sizes.len()];
        let (mut linear, mut column, mut rest) = (0, 0, part.start);
        for axis in (0..index.len()).rev() {
            index[axis] = rest % self.sizes[axis];
            rest /= self.sizes[axis];
            linear += index[axis] * self.linear[axis];
            column += index[axis] * self.column[axis];
        }
        for position in part {
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

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_passes::layout::Leading;

    #[test]
    fn parts_add_up_to_the_whole() {
        let [layer, a, b, c] =
            [("layer", 3), ("a", 4), ("b", 5), ("c", 7)].map(|(name, size)| Axis::fixed(name, size));
        let panel = 16;
        for layout in [
            Layout::Packed { k: vec![a], n: vec![c, b] },
            Layout::Dense { leading: Leading::None, order: vec![c, a, b] },
        ] {
            let bytes = AlignedBytes::zeroed(3 * layout.row_elements(panel) * size_of::<f32>()).unwrap();
            let (order, dtype) = (vec![layer, a, b, c], DType::F32);
            let stored = Stored { order, layers: Some(layer), layout, dtype, bytes };
            let name = Symbol::new("w");
            let mut store = ParameterStore { values: BTreeMap::from([(name, stored)]), panel, on_gpu: None };
            let numbers: Vec<f32> = (0..420).map(|at| at as f32 + 1.0).collect();
            for part in [0..1, 1..150, 150..151, 151..420] {
                store.set_part(name, part.start, &numbers[part]).unwrap();
            }
            assert_eq!(store.get(name).unwrap(), numbers);
            let mut some = [0.0; 100];
            store.get_part(name, 277, &mut some).unwrap();
            assert_eq!(some, numbers[277..377]);
            let end = ParameterError::Length { name: "w".into(), expected: 420, found: 421 };
            assert_eq!(store.get_part(name, 321, &mut some), Err(end.clone()));
            assert_eq!(store.set_part(name, 420, &[0.0]), Err(end));
        }
        let lengths: Vec<usize> = parts(2 * PART_ELEMENTS + 3).map(|part| part.len()).collect();
        assert_eq!(lengths, [PART_ELEMENTS, PART_ELEMENTS, 3]);
    }
}
