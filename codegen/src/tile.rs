//! Tile programs: what a kernel does, in terms of tiles. A grid of independent
//! instances, each a sequence of pointwise nests, dots and transposes, with at
//! most one loop that streams blocks of a long axis. It knows no op, no thread
//! and no instruction set.

use diptych_ir::blocks::BlockFormat;
use diptych_ir::{DType, ReduceKind, ScalarFn, Symbol};
use diptych_passes::layout::Leading;

/// Pairs of a row and an id are multiplied in blocks of at most this many on a processor. It is one number for all
/// kernels, so that they share the table of blocks.
pub const PAIRS: usize = 144;

/// Positions of a sequence are walked in chunks of this many, by absolute
/// position: attention folds them in this order in every entry, and caches are
/// stored in them.
pub const CHUNK: usize = 64;

/// With at most so many rows, on the widest vectors, a dot turns its right operand over in registers.
pub const TURNED_ROWS: usize = 8;

/// A dimension of a program's tiles, by position in [`TileProgram::dims`].
pub type DimId = usize;

/// A dimension: a range of positions that an instance looks at.
#[derive(Clone, PartialEq, Debug)]
pub struct Dim {
    /// A C identifier.
    pub name: String,
    /// The axis of the graph, if it is a fixed one.
    pub axis: Option<Symbol>,
    /// What range.
    pub extent: Extent,
}

/// The range of a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extent {
    /// All of a fixed axis.
    Whole(usize),
    /// A block of a fixed axis: each instance has one, or the stream walks them.
    Blocks {
        /// Size of the axis, in elements.
        size: usize,
        /// Elements of a block.
        block: usize,
    },
    /// A block of run-time rows.
    Rows {
        /// Which rows.
        leading: Leading,
        /// Rows of a block: in a grid, at most so many.
        block: usize,
    },
    /// A chunk of one sequence's tokens.
    Time,
    /// A chunk of one sequence's positions so far.
    Past {
        /// Of an instance's chunk: how many positions a position sees, its own the last. What no new token sees is
        /// not there, and no instance has it.
        window: Option<usize>,
    },
    /// A block of the pairs of a run-time row and one of its ids, sorted by id: all of a block have the
    /// same. The first two arguments are the order of the pairs and where each id's begin.
    Pairs {
        /// Which rows.
        leading: Leading,
        /// Ids of a row.
        each: usize,
        /// The axis that ids point along: an instance has one position.
        along: DimId,
        /// Pairs of a block.
        block: usize,
    },
    /// A fixed axis of the ids: its position follows from the pair.
    Choice {
        /// The dimension of the pairs.
        pair: DimId,
        /// Size of the axis.
        size: usize,
        /// Ids of a row from one position to the next.
        stride: usize,
    },
    /// The sequence whose positions an instance walks.
    Sequence,
    /// The position at hand of that sequence, within steps.
    Position,
    /// A block of a value without run-time axes, in the order of memory.
    Flat {
        /// Elements of a block.
        block: usize,
    },
}

impl Extent {
    /// The most positions that an instance sees at once.
    pub fn most(self) -> usize {
        match self {
            Extent::Whole(size) => size,
            Extent::Blocks { block, .. }
            | Extent::Rows { block, .. }
            | Extent::Pairs { block, .. }
            | Extent::Flat { block } => block,
            Extent::Time | Extent::Past { .. } => CHUNK,
            Extent::Choice { .. } => 1,
            Extent::Sequence | Extent::Position => 1,
        }
    }

    /// Whether it is of a fixed axis.
    pub fn is_fixed(self) -> bool {
        matches!(self, Extent::Whole(_) | Extent::Blocks { .. } | Extent::Choice { .. })
    }

    /// The number of positions, where it is the same in every instance.
    pub fn constant(self) -> Option<usize> {
        match self {
            Extent::Whole(size) => Some(size),
            Extent::Blocks { size, block } if size % block == 0 => Some(block),
            Extent::Choice { .. } => Some(1),
            _ => None,
        }
    }
}

/// Where elements are: an argument of the kernel, a tile of the thread's
/// scratch, or a table in the program text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Base {
    /// An argument, by position.
    Arg(usize),
    /// A scratch tile, by position.
    Tile(usize),
    /// A table of numbers, by position.
    Table(usize),
}

/// How the run-time row of an element is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowMap {
    /// Rows lie in order.
    InOrder,
    /// Each token's row of a cache, by table.
    Cache,
    /// The row of each sequence's token that an argument (i32 a sequence,
    /// counted from the sequence's first new token) names.
    Chosen(usize),
    /// The place of each sequence's state.
    State,
    /// The row of the states that are kept at the position at hand, or the last before it.
    Checkpoint,
    /// The row of the chunk of positions so far at hand: where it stands among those of the cache.
    Chunk,
}

/// Strided elements: `base[offset + sum over dims of position * stride]`.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// Where the elements are.
    pub base: Base,
    /// Their type.
    pub dtype: DType,
    /// First element.
    pub offset: usize,
    /// Elements from one position to the next, for each dimension that matters.
    pub strides: Vec<(DimId, usize)>,
    /// How run-time rows are found.
    pub rows: RowMap,
}

impl View {
    /// The stride along a dimension: 0 if the view does not vary along it.
    pub fn stride(&self, dim: DimId) -> usize {
        self.strides.iter().find(|entry| entry.0 == dim).map_or(0, |entry| entry.1)
    }
}

/// Elements of a weight in panels: (k, n) stands at
/// `(n / panel) * depth * panel + k * panel + n % panel`.
#[derive(Clone, PartialEq, Debug)]
pub struct PackedView {
    /// The argument.
    pub arg: usize,
    /// Element type.
    pub dtype: DType,
    /// Whether elements are integers in blocks, and of what format.
    pub blocks: Option<BlockFormat>,
    /// Rows of a panel: the product of the k axes.
    pub depth: usize,
    /// First row and first column, where part of a value is meant.
    pub first: (usize, usize),
    /// Stride of each dimension in k, counted in rows of a panel.
    pub k: Vec<(DimId, usize)>,
    /// Stride of each dimension in n, counted in columns.
    pub n: Vec<(DimId, usize)>,
}

/// A place that elements are read from or written to.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// Strided.
    Strided(View),
    /// In panels.
    Packed(PackedView),
}

impl Place {
    /// Where the elements are.
    pub fn base(&self) -> Base {
        match self {
            Place::Strided(view) => view.base,
            Place::Packed(view) => Base::Arg(view.arg),
        }
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Place::Strided(view) => view.dtype,
            Place::Packed(view) => view.dtype,
        }
    }
}

/// A value of a nest, by position in [`Nest::body`].
pub type ValueId = usize;

/// One instruction of a nest: it yields a value for each point, or stores one.
#[derive(Clone, PartialEq, Debug)]
pub enum Instr {
    /// A float literal.
    Float(f32),
    /// An integer literal.
    Int(i32),
    /// A truth value.
    Truth(bool),
    /// Position along a dimension, absolute in its axis or sequence.
    Position(DimId),
    /// Absolute position of the row of each sequence that an argument (i32 a
    /// sequence, counted from the sequence's first new token) names.
    PositionOf {
        /// The dimension of sequences.
        dim: DimId,
        /// The argument.
        chosen: usize,
    },
    /// A load, widened to f32 (integers stay integers).
    Load(Place),
    /// A load at a position that another load gives: a gather of a row.
    LoadAt {
        /// The table.
        table: Place,
        /// The id.
        id: Id,
        /// Stride of the id's axis: elements, or columns or rows of panels.
        along: Along,
        /// Size of the id's axis. An id outside of it is taken for the nearest within.
        size: usize,
    },
    /// A scalar function.
    Map(ScalarFn, Vec<ValueId>),
    /// Integer or truth value to float.
    ToFloat(ValueId),
    /// Rounds to a narrow type.
    Round(DType, ValueId),
    /// Stores, rounding to the place's type.
    Store(Place, ValueId),
    /// Adds to where an element is that another load names, in the order of the nest: the adjoint of a gather.
    AddAt {
        /// The table, f32.
        table: Place,
        /// The id.
        id: Id,
        /// Stride of the id's axis.
        along: Along,
        /// Size of the id's axis. An id outside of it is taken for the nearest within.
        size: usize,
        /// What is added.
        value: ValueId,
    },
    /// Combines the values along dimensions of the nest into a tile that is
    /// set anew if `fresh`, otherwise taken from where it stands.
    Reduce {
        /// How.
        kind: ReduceKind,
        /// What.
        value: ValueId,
        /// The dimensions that go.
        over: Vec<DimId>,
        /// Where the result is kept (f32).
        into: View,
        /// Whether to start from nothing.
        fresh: bool,
        /// Which sum of the graph it is, by position in [`Launch::sums`](crate::entry::Launch::sums).
        sum: usize,
    },
}

/// What says which row of a table is meant.
#[derive(Clone, PartialEq, Debug)]
pub enum Id {
    /// An i32 that is stored.
    Stored(View),
    /// The position along a dimension.
    Position(DimId),
    /// An integer of the nest.
    Computed(ValueId),
}

/// Along which part of a table's layout ids point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Along {
    /// A strided table: elements from one id to the next.
    Stride(usize),
    /// An n axis of a packed table: columns from one id to the next.
    PackedN(usize),
    /// A k axis of a packed table: rows of a panel from one id to the next.
    PackedK(usize),
}

/// A loop nest over dimensions, the last vectorised.
#[derive(Clone, PartialEq, Debug)]
pub struct Nest {
    /// The loops, outermost first.
    pub dims: Vec<DimId>,
    /// What is done at each point.
    pub body: Vec<Instr>,
}

/// A contraction of two tiles: `c[b, m, n] (+)= sum over k of a[b, m, k] * b[b, k, n]`,
/// for each element one chain of fused multiply-adds over ascending k. Where b is in blocks, a is rounded rows, and the
/// chain is one over the blocks, within which sums are of integers.
#[derive(Clone, PartialEq, Debug)]
pub struct Dot {
    /// Dimensions that all three have, walked one by one.
    pub batch: Vec<DimId>,
    /// Dimensions of a and c. They lie as one.
    pub m: Vec<DimId>,
    /// Dimensions of b and c. They lie as one, the last contiguous.
    pub n: Vec<DimId>,
    /// Summed dimensions. They lie as one in a and in b.
    pub k: Vec<DimId>,
    /// Left operand, f32 or rounded.
    pub a: View,
    /// Right operand, f32 or narrow.
    pub b: Place,
    /// Whether `b` is a weight whose panels lie across: they hold k where a dot has columns.
    pub across: bool,
    /// If `b` is a tile that this is turned over into first: k lies contiguous in it, as one, and n as one. Few rows do
    /// without the tile.
    pub turned: Option<Box<View>>,
    /// Result, f32.
    pub c: Place,
    /// Whether the chains go on from what c holds.
    pub accumulate: bool,
    /// What the numbers of a and of b are as the graph has them, wherever they lie.
    pub values: [DType; 2],
    /// Which sum of the graph it is, by position in [`Launch::sums`](crate::entry::Launch::sums).
    pub sum: usize,
}

/// One statement of a program.
#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// A pointwise nest.
    Nest(Nest),
    /// A contraction.
    Dot(Dot),
    /// Copies b into a tile so that `columns` lie last: `to[rows, columns] = from`.
    Transpose {
        /// Dimensions that lie contiguous in `from`, as one.
        rows: Vec<DimId>,
        /// Dimensions that shall lie contiguous, as one.
        columns: Vec<DimId>,
        /// What is copied.
        from: Place,
        /// An f32 tile.
        to: View,
    },
    /// Rounds elements to 8-bit integers with a scale for each block of 32.
    Round {
        /// The dimensions of the rows, which lie as one.
        rows: Vec<DimId>,
        /// The dimensions that are cut into blocks; they lie as one.
        over: Vec<DimId>,
        /// What is rounded, f32.
        from: View,
        /// Where the blocks of each row go.
        to: View,
    },
    /// Sets a tile or a place to a number.
    Fill {
        /// Its dimensions.
        dims: Vec<DimId>,
        /// Where.
        place: Place,
        /// The number.
        value: f32,
    },
    /// Finds the positions of the largest elements along a dimension: largest first, the lower position
    /// first among equals, what is not a number last.
    TopK {
        /// The dimensions of the rows that are searched, walked one by one.
        rows: Vec<DimId>,
        /// The searched dimension.
        along: DimId,
        /// The dimension of the ranks.
        ranks: DimId,
        /// Where the elements are.
        from: View,
        /// Where positions go, i32.
        to: View,
    },
    /// Adds rows to those of a table that ids name: what is added to each is the sum of its rows, in their order.
    AddRows(AddedRows),
    /// Sorts pairs of a row and one of its ids by id, by row and position among equals.
    Group {
        /// The ids.
        ids: View,
        /// Which rows.
        leading: Leading,
        /// The run-time rows and the fixed dimensions of the ids, slowest first.
        dims: Vec<DimId>,
        /// How many ids there are.
        count: usize,
        /// The argument for the order of the pairs, i32 each.
        order: usize,
        /// The argument for each id's first pair, and the end; then each id's first block, and the end.
        starts: usize,
        /// Pairs of a block.
        block: usize,
    },
    /// The body once for each position of the instance's sequence, or block of positions.
    Steps {
        /// The dimension of the position.
        dim: DimId,
        /// In which order.
        walk: Walk,
        /// What is done.
        body: Vec<Stmt>,
    },
    /// One of two lists of statements.
    When {
        /// What says which.
        condition: Condition,
        /// What is done where it holds.
        yes: Vec<Stmt>,
        /// What is done where it does not.
        no: Vec<Stmt>,
    },
    /// The body once for each block of the streamed dimension.
    Stream {
        /// The dimension.
        dim: DimId,
        /// Blocks that a mask leaves out entirely.
        bounds: StreamBounds,
        /// What is done.
        body: Vec<Stmt>,
    },
}

/// Rows that are added to a table.
#[derive(Clone, PartialEq, Debug)]
pub struct AddedRows {
    /// The run-time rows, all of them.
    pub row: DimId,
    /// The dimensions of a row's elements.
    pub dims: Vec<DimId>,
    /// The id of each row.
    pub ids: View,
    /// How many ids there are.
    pub count: usize,
    /// The argument for the order of rows by id.
    pub order: usize,
    /// The argument for each id's first row in that order, and the end: see [`Stmt::Group`].
    pub starts: usize,
    /// The rows.
    pub from: View,
    /// The table, f32.
    pub table: Place,
    /// Stride of the id's axis.
    pub along: Along,
}

/// In which order positions of a sequence are walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// From the first new one to the last.
    Forward,
    /// From the last to the first.
    Backward,
    /// In blocks between kept states, the last block first; the position at hand is a block's first.
    Blocks,
    /// Those of the block at hand but the last of them, in order.
    Replay,
    /// Those of the block at hand, the last first.
    BlockBackward,
}

/// What a statement depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The sequence has no past.
    AtOrigin,
    /// States are kept at the position at hand.
    AtCheckpoint,
    /// The rows at hand are the first of those that kernels walk in turns.
    AtFirstTurn,
}

/// What a mask says of which pairs of positions count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StreamBounds {
    /// A position sees none after its own.
    pub causal: bool,
    /// A position sees this many, its own the last.
    pub window: Option<usize>,
}

/// A scratch tile of an instance. Views of it are of f32, or of i32 where they say so.
#[derive(Clone, PartialEq, Debug)]
pub struct Tile {
    /// A name for the reader.
    pub name: String,
    /// Its dimensions, slowest first; each takes its largest extent.
    pub dims: Vec<DimId>,
    /// Elements.
    pub elements: usize,
    /// What its numbers are. A processor's tiles have four bytes an element; what is rounded already may lie narrow.
    pub values: DType,
}

/// An argument of a kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Arg {
    /// A C identifier.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// A fused group as a grid of independent instances.
#[derive(Clone, PartialEq, Debug)]
pub struct TileProgram {
    /// A C identifier that names what is fused.
    pub name: String,
    /// What is fused, a line each.
    pub notes: Vec<String>,
    /// Buffers, in the order of the call.
    pub args: Vec<Arg>,
    /// All dimensions.
    pub dims: Vec<Dim>,
    /// Those that divide the work into instances, slowest first.
    pub grid: Vec<DimId>,
    /// Scratch.
    pub tiles: Vec<Tile>,
    /// Number tables.
    pub tables: Vec<Vec<f32>>,
    /// What an instance does.
    pub body: Vec<Stmt>,
}

impl TileProgram {
    /// Whether another program does the same to its arguments, whatever things are called.
    pub fn does_the_same_as(&self, other: &TileProgram) -> bool {
        let alike = |a: &Arg, b: &Arg| (a.dtype, a.written) == (b.dtype, b.written);
        self.grid == other.grid
            && self.dims.len() == other.dims.len()
            && self.dims.iter().zip(&other.dims).all(|(a, b)| a.extent == b.extent)
            && self.args.len() == other.args.len()
            && self.args.iter().zip(&other.args).all(|(a, b)| alike(a, b))
            && self.tiles.len() == other.tiles.len()
            && self
                .tiles
                .iter()
                .zip(&other.tiles)
                .all(|(a, b)| (&a.dims, a.elements, a.values) == (&b.dims, b.elements, b.values))
            && self.tables == other.tables
            && self.body == other.body
    }

    /// Floats of scratch that the tiles take, each aligned to a cache line.
    pub fn scratch_floats(&self) -> usize {
        self.tiles.iter().map(|tile| tile.elements.next_multiple_of(16)).sum()
    }
}
