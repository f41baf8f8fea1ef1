//! How a nest is walked: in passes, in each of which all sums run over the same dimensions. What a pass sums over is
//! walked by one thread, or by the lanes of one row; the points of the other dimensions are dealt out over threads.

use crate::tile::{Along, DimId, Extent, Id, Instr, Nest, Place, Stmt, TileProgram, ValueId, View};
use diptych_ir::DType;

/// A walk over all points of a nest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pass {
    /// The dimensions that are walked in order, outermost first.
    pub(super) serial: Vec<DimId>,
    /// The other dimensions.
    pub(super) kept: Vec<DimId>,
    /// The instructions that it does.
    pub(super) does: Vec<bool>,
}

/// The lanes that share a row of so many elements at most: a function of that alone, since the tree of a sum is that of
/// its lanes. Very long rows take four warps.
pub(super) fn lanes(length: usize) -> usize {
    match length {
        2048.. => 128,
        32.. => 32,
        _ => length.max(1).next_power_of_two(),
    }
}

impl Pass {
    /// The instructions of a nest that this pass does.
    pub(super) fn part(&self, nest: &Nest) -> Vec<Instr> {
        let done = nest.body.iter().zip(&self.does).filter(|(_, does)| **does);
        done.map(|(instr, _)| instr.clone()).collect()
    }

    /// The lanes that share what is summed, if the last dimension is among it.
    pub(super) fn lanes(&self, program: &TileProgram, nest: &Nest) -> Option<usize> {
        let &last = nest.dims.last()?;
        let adds = nest.body.iter().zip(&self.does);
        let adds = adds.into_iter().any(|(instr, &does)| does && matches!(instr, Instr::AddAt { .. }));
        (self.serial.contains(&last) && !adds).then(|| lanes(program.dims[last].extent.most()))
    }
}

/// Whether some statement has rows that more than a warp share.
///
/// # Errors
/// As [`passes`].
pub(super) fn has_long_rows(program: &TileProgram, body: &[Stmt]) -> Result<bool, String> {
    let mut found = false;
    for stmt in body {
        found |= match stmt {
            Stmt::Nest(nest) => {
                passes(program, nest)?.iter().any(|pass| pass.lanes(program, nest) > Some(32))
            }
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => has_long_rows(program, body)?,
            Stmt::When { yes, no, .. } => has_long_rows(program, yes)? || has_long_rows(program, no)?,
            _ => false,
        };
    }
    Ok(found)
}

/// The passes of a nest. All stores are made in the last, so that each pass finds what was there before.
///
/// # Errors
/// When a pass before the last would read what the nest stores on its way.
pub(super) fn passes(program: &TileProgram, nest: &Nest) -> Result<Vec<Pass>, String> {
    let mut sets: Vec<Vec<DimId>> = Vec::new();
    let mut of: Vec<Option<usize>> = vec![None; nest.body.len()];
    for (id, instr) in nest.body.iter().enumerate() {
        let Some(serial) = serial(program, nest, instr) else { continue };
        let known = sets.iter().position(|set| *set == serial).unwrap_or_else(|| {
            sets.push(serial);
            sets.len() - 1
        });
        of[id] = Some(known);
    }
    if sets.is_empty() {
        sets.push(Vec::new());
    }
    let last = sets.len() - 1;
    let mut found = Vec::new();
    for (at, serial) in sets.into_iter().enumerate() {
        let mut does = vec![false; nest.body.len()];
        for (id, instr) in nest.body.iter().enumerate().rev() {
            does[id] |= of[id] == Some(at) || at == last && matches!(instr, Instr::Store(..));
            if does[id] {
                operands(instr).into_iter().for_each(|operand| does[operand] = true);
            }
        }
        if at < last {
            refuse_reading_of_stores(nest, &does)?;
        }
        let kept = nest.dims.iter().copied().filter(|dim| !serial.contains(dim)).collect();
        found.push(Pass { serial, kept, does });
    }
    Ok(found)
}

/// A load that comes after a store to the same place reads what this nest stored.
fn refuse_reading_of_stores(nest: &Nest, does: &[bool]) -> Result<(), String> {
    for (id, instr) in nest.body.iter().enumerate().filter(|(id, _)| does[*id]) {
        let (Instr::Load(place) | Instr::LoadAt { table: place, .. }) = instr else { continue };
        let stored = |before: &Instr| matches!(before, Instr::Store(to, _) if to.base() == place.base());
        if nest.body[..id].iter().any(stored) {
            return Err("sums along several dimensions what it stores on its way".to_owned());
        }
    }
    Ok(())
}

/// The dimensions of a nest that an instruction needs to be walked in order, in the nest's order; `None`: any will do.
fn serial(program: &TileProgram, nest: &Nest, instr: &Instr) -> Option<Vec<DimId>> {
    let of = |wanted: &dyn Fn(DimId) -> bool| nest.dims.iter().copied().filter(|&dim| wanted(dim)).collect();
    match instr {
        Instr::Reduce { over, .. } => Some(of(&|dim| over.contains(&dim))),
        // Points that may add to one element: those along which it does not move, and those that name it.
        Instr::AddAt { table, id, .. } => {
            let named = named_by(program, nest, id);
            Some(of(&|dim| !moves(table, dim) || named.contains(&dim)))
        }
        _ => None,
    }
}

fn moves(place: &Place, dim: DimId) -> bool {
    let of = |strides: &[(DimId, usize)]| strides.iter().any(|&(other, stride)| other == dim && stride > 0);
    match place {
        Place::Strided(view) => of(&view.strides),
        Place::Packed(view) => of(&view.k) || of(&view.n),
    }
}

/// The dimensions along which an id may vary.
fn named_by(program: &TileProgram, nest: &Nest, id: &Id) -> Vec<DimId> {
    match id {
        Id::Stored(view) => of_view(program, view),
        Id::Position(dim) => vec![*dim],
        Id::Computed(value) => of_value(program, nest, *value),
    }
}

fn of_view(program: &TileProgram, view: &View) -> Vec<DimId> {
    let mut dims: Vec<DimId> = Vec::new();
    for &(dim, _) in view.strides.iter().filter(|entry| entry.1 > 0) {
        dims.push(dim);
        if let Extent::Choice { pair, .. } = program.dims[dim].extent {
            dims.push(pair);
        }
    }
    dims
}

/// The dimensions along which a value of a nest may vary.
fn of_value(program: &TileProgram, nest: &Nest, value: ValueId) -> Vec<DimId> {
    let of_place = |place: &Place| match place {
        Place::Strided(view) => of_view(program, view),
        Place::Packed(view) => view.k.iter().chain(&view.n).map(|entry| entry.0).collect(),
    };
    let instr = &nest.body[value];
    let mut dims = match instr {
        Instr::Position(dim) | Instr::PositionOf { dim, .. } => match program.dims[*dim].extent {
            Extent::Choice { pair, .. } => vec![*dim, pair],
            _ => vec![*dim],
        },
        Instr::Load(place) => of_place(place),
        Instr::LoadAt { table, id, .. } => [of_place(table), named_by(program, nest, id)].concat(),
        _ => Vec::new(),
    };
    operands(instr).into_iter().for_each(|operand| dims.extend(of_value(program, nest, operand)));
    dims
}

/// The values that an instruction takes.
pub(super) fn operands(instr: &Instr) -> Vec<ValueId> {
    let computed = |id: &Id| match id {
        Id::Computed(value) => Some(*value),
        Id::Stored(_) | Id::Position(_) => None,
    };
    match instr {
        Instr::Map(_, operands) => operands.clone(),
        Instr::ToFloat(value) | Instr::Round(_, value) | Instr::Store(_, value) => vec![*value],
        Instr::Reduce { value, .. } => vec![*value],
        Instr::LoadAt { id, .. } => computed(id).into_iter().collect(),
        Instr::AddAt { id, value, .. } => computed(id).into_iter().chain([*value]).collect(),
        Instr::Float(_)
        | Instr::Int(_)
        | Instr::Truth(_)
        | Instr::Position(_)
        | Instr::PositionOf { .. }
        | Instr::Load(_) => Vec::new(),
    }
}

/// How far an id's axis moves in a table, in the table's own terms.
pub(super) fn along_text(along: Along, id: &str) -> String {
    match along {
        Along::Stride(1) | Along::PackedN(1) | Along::PackedK(1) => id.to_owned(),
        Along::Stride(step) | Along::PackedN(step) | Along::PackedK(step) => format!("{id} * {step}"),
    }
}

/// Whether values of a type are numbers with a fraction.
pub(super) fn is_number(dtype: DType) -> bool {
    !matches!(dtype, DType::I32 | DType::Bool)
}
