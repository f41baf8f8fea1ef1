//! What kind of work a launch does, for those who add up its time: told from
//! the tile program that it runs and from the nodes that it computes. It decides nothing.

use crate::entry::{CompiledEntry, Launch, Role};
use crate::tile::{Dot, Extent, Instr, Stmt, TileProgram};
use diptych_ir::ops::ReduceKind;
use diptych_ir::{Axis, EntryKind, Op, Program};
use std::collections::{HashSet, VecDeque};

/// A kind of work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Contractions of tokens with weights, with what comes before and after.
    Products,
    /// Contractions over tokens: gradients of weights.
    WeightGradients,
    /// Sums along the positions of a sequence, never storing scores.
    Attention,
    /// Where logits are formed to be scored, and their gradients.
    Loss,
    /// Weights that ids choose, and what sorts the ids.
    Routed,
    /// Positions of a sequence, one after the other.
    Recurrence,
    /// Sums without a contraction.
    Norms,
    /// Rows that ids choose, and the adjoint.
    Gather,
    /// All else, element by element.
    Pointwise,
    /// The update of parameters.
    Optimizer,
}

impl Family {
    /// All kinds.
    pub const ALL: [Family; 10] = [
        Family::Products,
        Family::WeightGradients,
        Family::Attention,
        Family::Loss,
        Family::Routed,
        Family::Recurrence,
        Family::Norms,
        Family::Gather,
        Family::Pointwise,
        Family::Optimizer,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Family::Products => "products with weights",
            Family::WeightGradients => "gradients of weights",
            Family::Attention => "attention",
            Family::Loss => "loss",
            Family::Routed => "routed experts",
            Family::Recurrence => "recurrences",
            Family::Norms => "norms and sums",
            Family::Gather => "gather and scatter",
            Family::Pointwise => "pointwise",
            Family::Optimizer => "optimiser",
        }
    }

    /// The kind of a launch of an entry. `program` is what the entry was compiled from.
    pub fn of(program: &Program, entry: &CompiledEntry, launch: &Launch) -> Family {
        if entry.kind == EntryKind::Update {
            return Family::Optimizer;
        }
        if entry.kind == EntryKind::Step && updates(entry, launch) {
            return Family::Optimizer;
        }
        if forms_scored_logits(program, entry.kind, launch) {
            return Family::Loss;
        }
        let tiles = &entry.programs[launch.kernel];
        let found = Found::of(tiles);
        let extents = || tiles.dims.iter().map(|dim| dim.extent);
        if found.groups || extents().any(|extent| matches!(extent, Extent::Pairs { .. })) {
            return Family::Routed;
        }
        if found.steps {
            return Family::Recurrence;
        }
        if found.streams_a_sequence {
            return Family::Attention;
        }
        match (found.dots, found.sums_over_rows) {
            (true, true) => Family::WeightGradients,
            (true, false) => Family::Products,
            _ if found.gathers => Family::Gather,
            _ if found.reduces => Family::Norms,
            _ => Family::Pointwise,
        }
    }
}

/// The axis of what is scored: the first along which a maximum is taken on the way to the log-probabilities.
fn scored_axis(program: &Program, kind: EntryKind) -> Option<Axis> {
    let graph = &program.main().graph;
    let root = program.entry(kind)?.root("log_prob")?;
    let (mut waiting, mut seen) = (VecDeque::from([root]), HashSet::from([root]));
    while let Some(id) = waiting.pop_front() {
        if let Op::Reduce(reduce) = graph.op(id)
            && reduce.kind == ReduceKind::Max
        {
            return reduce.over.iter().copied().find(|axis| axis.fixed_size().is_some());
        }
        waiting.extend(graph.operands(id).into_iter().filter(|&operand| seen.insert(operand)));
    }
    None
}

/// Whether a launch writes parameters or moments.
fn updates(entry: &CompiledEntry, launch: &Launch) -> bool {
    let args = launch.args.iter().zip(&entry.programs[launch.kernel].args);
    args.into_iter()
        .any(|(place, arg)| arg.written && matches!(entry.buffers[place.buffer].role, Role::Stored(_)))
}

/// Whether a launch computes something for each token and each id that it is scored against.
fn forms_scored_logits(program: &Program, kind: EntryKind, launch: &Launch) -> bool {
    if launch.region != Program::MAIN {
        return false;
    }
    let Some(scored) = scored_axis(program, kind) else { return false };
    let graph = &program.main().graph;
    // What entries add for themselves the program has not.
    launch.nodes.iter().filter(|&&id| graph.contains(id)).any(|&id| {
        let axes = graph.axes(id);
        axes.contains(scored) && axes.iter().any(|axis| axis.fixed_size().is_none())
    })
}

/// What stands in a tile program.
#[derive(Default)]
struct Found {
    dots: bool,
    sums_over_rows: bool,
    streams_a_sequence: bool,
    reduces: bool,
    gathers: bool,
    groups: bool,
    steps: bool,
}

impl Found {
    fn of(tiles: &TileProgram) -> Found {
        let mut found = Found::default();
        found.statements(tiles, &tiles.body);
        found
    }

    fn statements(&mut self, tiles: &TileProgram, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Nest(nest) => {
                    for instr in &nest.body {
                        self.reduces |= matches!(instr, Instr::Reduce { .. });
                        self.gathers |= matches!(instr, Instr::LoadAt { .. } | Instr::AddAt { .. });
                    }
                }
                Stmt::Dot(Dot { k, .. }) => {
                    self.dots = true;
                    let rows = |&dim: &usize| matches!(tiles.dims[dim].extent, Extent::Rows { .. });
                    self.sums_over_rows |= k.iter().any(rows);
                }
                Stmt::Group { .. } => self.groups = true,
                Stmt::AddRows(_) => self.gathers = true,
                Stmt::Steps { body, .. } => {
                    self.steps = true;
                    self.statements(tiles, body);
                }
                Stmt::When { yes, no, .. } => {
                    self.statements(tiles, yes);
                    self.statements(tiles, no);
                }
                Stmt::Stream { dim, body, .. } => {
                    let extent = tiles.dims[*dim].extent;
                    self.streams_a_sequence |= matches!(extent, Extent::Time | Extent::Past { .. });
                    self.statements(tiles, body);
                }
                Stmt::Round { .. } => self.reduces = true,
                Stmt::Transpose { .. } | Stmt::Fill { .. } | Stmt::TopK { .. } => {}
            }
        }
    }
}
