//! How values are stored: which axes come first, and which weights are packed
//! in panels. It decides order in memory only; it knows no kernel.

mod weights;

pub use weights::Weights;

use diptych_ir::blocks::{BLOCK, BlockFormat};
use diptych_ir::{Axes, Axis, NodeId, Op, Program, RegionId, Size, Symbol, TensorType};
use std::collections::{BTreeMap, HashMap};

/// The run-time axes of a value, which always come first in memory.
///
/// Tokens of all sequences of a batch lie one after the other, with nothing
/// between them: the axes `batch` and `time` together are *rows*. The axes
/// `batch` and `past` together are rows too, reached through a table of chunks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Leading {
    /// No run-time axis: a parameter, or what depends on parameters only.
    None,
    /// One row a token: `batch` and `time`.
    Rows,
    /// One row a sequence: `batch` alone.
    Batch,
    /// One row a position so far: `batch` and `past`.
    Past,
    /// One row for each [`CHECKPOINT`] tokens of a sequence: the states of a
    /// recurrence, of which those between are computed again.
    Checkpoints,
    /// One row for each chunk of a sequence's positions so far: what a walk over chunks leaves of each, to be folded.
    Chunks,
    /// Pairs of positions: `batch`, `time` and `past`. Never stored.
    Quadratic,
}

/// The states of a recurrence are kept at positions that are multiples of this.
pub const CHECKPOINT: usize = 16;

/// The symbols that a run binds.
pub fn symbol(axis: Axis) -> Option<&'static str> {
    match axis.size {
        Size::Symbolic(name) => Some(name.as_str()),
        Size::Fixed(_) => None,
    }
}

/// The run-time axes of a value, or what is wrong with them.
pub fn leading(axes: &Axes) -> Result<Leading, String> {
    let mut symbols: Vec<&str> = axes.iter().filter_map(|&axis| symbol(axis)).collect();
    symbols.sort_unstable();
    match symbols[..] {
        [] => Ok(Leading::None),
        ["batch"] => Ok(Leading::Batch),
        ["batch", "time"] => Ok(Leading::Rows),
        ["batch", "past"] => Ok(Leading::Past),
        // Positions so far, without sequences: formed where they are used, as what has both long axes is.
        ["batch", "past", "time"] | ["past"] => Ok(Leading::Quadratic),
        _ => {
            Err(format!("no storage for a value over {axes}: the run-time axes must be batch, time and past"))
        }
    }
}

/// How a value is stored.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Layout {
    /// Row-major: the run-time rows, then these axes, the last fastest.
    Dense {
        /// The run-time axes.
        leading: Leading,
        /// The fixed axes, slowest first.
        order: Vec<Axis>,
    },
    /// A weight of a contraction, cut into panels of the vector code's width:
    /// element (k, n) stands at `(n / panel) * K * panel + k * panel + n % panel`.
    /// The last panel is filled up with zeros.
    Packed {
        /// The axes that contraction sums over, slowest first.
        k: Vec<Axis>,
        /// The other axes, slowest first.
        n: Vec<Axis>,
    },
    /// A weight of a contraction in blocks of small integers, cut into panels as a packed one is. Within a panel
    /// blocks of 32 rows follow one another (of 16-bit numbers for 256 rows, those come before them), each with its
    /// scales and then its integers: see [`bytes_of_256`].
    Blocks {
        /// The format.
        format: BlockFormat,
        /// The axes that contraction sums over, slowest first.
        k: Vec<Axis>,
        /// The other axes, slowest first.
        n: Vec<Axis>,
    },
    /// Rounded activations: for each block of 32 elements its scale, sums of its integers, and these: [`ROUNDED_WORDS`]
    /// numbers of four bytes.
    Rounded {
        /// The run-time axes.
        leading: Leading,
        /// The axes that are cut into blocks, slowest first.
        order: Vec<Axis>,
    },
}

/// Words of four bytes for a block of rounded activations: the f32 scale, the scale times the sum of the block's
/// integers, that sum negated, that of the first half negated (i32 each), and 32 i8.
pub const ROUNDED_WORDS: usize = 12;

/// Bytes that 256 numbers of a column take in panels.
pub fn bytes_of_256(format: BlockFormat) -> usize {
    match format {
        BlockFormat::Q8_0 => 8 * (2 + 32),
        BlockFormat::Q4_0 => 8 * (2 + 16),
        BlockFormat::Q4_1 => 8 * (4 + 16),
        // The 6-bit scales have a byte each.
        BlockFormat::Q4K => 4 + 8 * (2 + 16),
        BlockFormat::Q6K => 2 + 8 * (2 + 24),
    }
}

/// The product of fixed sizes, in elements.
pub fn product(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.fixed_size().unwrap_or(1)).product()
}

impl Layout {
    /// Elements stored for each run-time row (for the whole value if it has none); of blocks, words of four bytes.
    pub fn row_elements(&self, panel: usize) -> usize {
        match self {
            Layout::Dense { order, .. } => product(order),
            Layout::Packed { k, n } => product(k) * product(n).next_multiple_of(panel),
            Layout::Blocks { format, k, n } => {
                product(k) * product(n).next_multiple_of(panel) * bytes_of_256(*format)
                    / 256
                    / size_of::<f32>()
            }
            Layout::Rounded { order, .. } => product(order) / BLOCK * ROUNDED_WORDS,
        }
    }

    /// The fixed axes, slowest first.
    pub fn axes(&self) -> Vec<Axis> {
        match self {
            Layout::Dense { order, .. } => order.clone(),
            Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => [&k[..], n].concat(),
            Layout::Rounded { order, .. } => order.clone(),
        }
    }

    /// The run-time axes.
    pub fn leading(&self) -> Leading {
        match self {
            Layout::Dense { leading, .. } | Layout::Rounded { leading, .. } => *leading,
            Layout::Packed { .. } | Layout::Blocks { .. } => Leading::None,
        }
    }

    /// Where the element at each fixed position stands within a row: `positions`
    /// gives the position along each axis. In blocks, where it would stand if it were an element of its own.
    pub fn offset(&self, panel: usize, positions: &dyn Fn(Axis) -> usize) -> usize {
        let flat = |axes: &[Axis]| {
            axes.iter().fold(0, |flat, &axis| flat * axis.fixed_size().unwrap_or(1) + positions(axis))
        };
        match self {
            Layout::Dense { order, .. } | Layout::Rounded { order, .. } => flat(order),
            Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => {
                let (row, column) = (flat(k), flat(n));
                (column / panel) * product(k) * panel + row * panel + column % panel
            }
        }
    }
}

/// The order of axes in memory, for a whole program, and the layouts of its parameters.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    order: Vec<Symbol>,
    /// Layouts of parameters and of the states that go with them, without the layer axis.
    pub params: BTreeMap<Symbol, Layout>,
}

impl Layouts {
    /// Chooses how each parameter is stored: packed for the first contraction
    /// with run-time rows that uses it or what is computed from it element by
    /// element (see [`Weights`]), row-major if there is none. A state
    /// named `KIND.NAME` is stored as the parameter `NAME` is, if it has its axes.
    pub fn choose(program: &Program) -> Layouts {
        let mut layouts = Layouts::default();
        for region in &program.regions {
            for &name in region.graph.axis_order() {
                if !layouts.order.contains(&name) {
                    layouts.order.push(name);
                }
            }
        }
        layouts.params.extend(Weights::of(program, &layouts).params);
        for (&name, info) in &program.params {
            let others = |axis: &Axis| Some(*axis) != info.layers;
            if let Some(blocks) = &info.blocks {
                let k = blocks.along.clone();
                let n = layouts.ordered(info.ty.axes.without(&k).iter().copied().filter(others));
                layouts.params.insert(name, Layout::Blocks { format: blocks.format, k, n });
            }
            if !layouts.params.contains_key(&name) {
                let axes = info.ty.axes.iter().copied().filter(|axis| Some(*axis) != info.layers);
                let order = layouts.ordered(axes);
                layouts.params.insert(name, Layout::Dense { leading: Leading::None, order });
            }
        }
        for (&state, ty) in &program.states {
            let owner = program.owner(state).filter(|owner| program.params[owner].ty.axes == ty.axes);
            let layout = owner.and_then(|owner| layouts.params.get(&owner).cloned());
            let layout = layout.unwrap_or_else(|| layouts.dense(&of_layer(program, ty)));
            layouts.params.insert(state, layout);
        }
        layouts
    }

    /// These layouts for another form of the same program: the parameters are stored once, and caches in one order.
    pub fn alongside(&self, program: &Program) -> Layouts {
        let mut layouts = self.clone();
        for &name in program.regions.iter().flat_map(|region| region.graph.axis_order()) {
            if !layouts.order.contains(&name) {
                layouts.order.push(name);
            }
        }
        layouts
    }

    /// The axes in the order in which they lie in memory, slowest first.
    pub fn ordered(&self, axes: impl IntoIterator<Item = Axis>) -> Vec<Axis> {
        let mut sorted: Vec<Axis> = axes.into_iter().collect();
        // Where an axis of one element stands makes no difference in memory; as the last, it would be what vectors hold.
        let rank = |axis: &Axis| {
            let declared = self.order.iter().position(|&name| name == axis.name).unwrap_or(usize::MAX);
            (axis.fixed_size() != Some(1), declared, axis.name)
        };
        sorted.sort_by_key(rank);
        sorted
    }

    /// The row-major layout of a value.
    pub fn dense(&self, ty: &TensorType) -> Layout {
        let order = self.ordered(ty.axes.iter().copied().filter(|axis| axis.fixed_size().is_some()));
        Layout::Dense { leading: leading(&ty.axes).unwrap_or(Leading::Quadratic), order }
    }

    /// The row-major layout of what is left of each chunk of positions so far, of a value of which each sequence has one.
    pub fn of_chunks(&self, ty: &TensorType) -> Layout {
        let order = self.ordered(ty.axes.iter().copied().filter(|axis| axis.fixed_size().is_some()));
        Layout::Dense { leading: Leading::Chunks, order }
    }
}

/// The type of one layer's slice of a value that repeats yield for each layer.
fn of_layer(program: &Program, ty: &TensorType) -> TensorType {
    let layers = program.ops().filter_map(|op| match op {
        Op::Repeat(repeat) => Some(repeat.layers),
        _ => None,
    });
    layers.fold(ty.clone(), |ty, layers| ty.without_axis(layers))
}

/// The parameter that each node stands for: `param` nodes, and the arguments of
/// repeats that are given a parameter or a layer's slice of one.
pub fn parameter_names(program: &Program) -> HashMap<(RegionId, NodeId), Symbol> {
    let mut names = HashMap::new();
    // Regions are added before the repeats that use them, so the callers are looked at from the last on.
    let mut waiting = vec![Program::MAIN];
    while let Some(region_id) = waiting.pop() {
        let graph = &program.region(region_id).graph;
        for id in graph.topological_order() {
            match graph.op(id) {
                Op::Param(param) => {
                    names.insert((region_id, id), param.name);
                }
                Op::Repeat(repeat) => {
                    let body = program.region(repeat.body);
                    for (operand, &argument) in graph.operands(id).into_iter().zip(&body.arguments) {
                        if let Some(&name) = names.get(&(region_id, operand)) {
                            names.insert((repeat.body, argument), name);
                        }
                    }
                    waiting.push(repeat.body);
                }
                Op::Scan(scan) => {
                    let body = program.region(scan.body);
                    let ports = graph.operands(id).into_iter().zip(&body.arguments);
                    for (operand, &argument) in ports.skip(scan.carried + scan.sequenced) {
                        if let Some(&name) = names.get(&(region_id, operand)) {
                            names.insert((scan.body, argument), name);
                        }
                    }
                    waiting.push(scan.body);
                }
                _ => {}
            }
        }
    }
    names
}
