//! What is known of the numbers in tiles while a kernel is written: which tile has the largest numbers of the rows of
//! another, so that a difference of the two is at most zero, and which tile has no infinite numbers. What is simpler to
//! compute for such numbers has the same bits. What no instance has in a tile may be anything. It writes no text.

use crate::condense::accesses::{Access, views};
use crate::tile::{Base, Instr, Nest, Place, Stmt, TileProgram, ValueId, View};
use diptych_ir::{ReduceKind, ScalarFn};

/// What is known at a place of the text.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Ranges {
    /// A tile and another, of whose rows it has the largest numbers.
    maxima: Vec<[usize; 2]>,
    /// Tiles whose numbers are finite, or none.
    finite: Vec<usize>,
}

impl Ranges {
    /// Whether the numbers of a base are finite, or none.
    pub(super) fn is_finite(&self, base: Base) -> bool {
        matches!(base, Base::Tile(tile) if self.finite.contains(&tile))
    }

    /// Whether a value of a nest is at most zero, or no number.
    pub(super) fn is_at_most_zero(&self, program: &TileProgram, nest: &Nest, value: ValueId) -> bool {
        let Instr::Map(ScalarFn::Sub, operands) = &nest.body[value] else { return false };
        let [of, most] = operands[..] else { return false };
        let loaded = |value| loaded(program, nest, value);
        let (Some(of), Some(most)) = (loaded(of), loaded(finite_of(nest, most))) else {
            return false;
        };
        self.maxima.contains(&[most, of])
    }

    /// Notes what a statement that holds no others does.
    pub(super) fn after(&mut self, program: &TileProgram, stmt: &Stmt) {
        let mut found = Ranges::default();
        if let Stmt::Nest(nest) = stmt {
            for instr in &nest.body {
                match instr {
                    Instr::Reduce { kind: ReduceKind::Max, value, into, fresh: true, .. } => {
                        let stored = nest.body.iter().filter_map(|instr| stored(program, instr, *value));
                        found.maxima.extend(stored.filter_map(|tile| Some([whole(program, into)?, tile])));
                    }
                    Instr::Store(_, value) => {
                        let exponential = match &nest.body[*value] {
                            Instr::Map(ScalarFn::Exp, of) => {
                                of.iter().all(|&of| self.is_at_most_zero(program, nest, of))
                            }
                            _ => false,
                        };
                        found.finite.extend(stored(program, instr, *value).filter(|_| exponential));
                    }
                    _ => {}
                }
            }
        }
        views(&mut stmt.clone(), &mut |view, access| {
            if let (Base::Tile(tile), Access::Write) = (view.base, access) {
                self.maxima.retain(|pair| !pair.contains(&tile));
                self.finite.retain(|other| *other != tile);
            }
        });
        self.maxima.extend(found.maxima);
        self.finite.extend(found.finite);
    }
}

/// The tile of which a view is all: it has all of its dimensions.
fn whole(program: &TileProgram, view: &View) -> Option<usize> {
    match view.base {
        Base::Tile(tile) if view.offset == 0 => {
            program.tiles[tile].dims.iter().all(|&dim| view.stride(dim) > 0).then_some(tile)
        }
        _ => None,
    }
}

/// The tile that a value is stored to.
fn stored(program: &TileProgram, instr: &Instr, wanted: ValueId) -> Option<usize> {
    match instr {
        Instr::Store(Place::Strided(view), value) if *value == wanted => whole(program, view),
        _ => None,
    }
}

/// The tile that a value is loaded from.
fn loaded(program: &TileProgram, nest: &Nest, value: ValueId) -> Option<usize> {
    match &nest.body[value] {
        Instr::Load(Place::Strided(view)) => whole(program, view),
        _ => None,
    }
}

/// The value that is taken unless it is minus infinity, in place of which zero is.
fn finite_of(nest: &Nest, value: ValueId) -> ValueId {
    let Instr::Map(ScalarFn::Select, operands) = &nest.body[value] else { return value };
    let [condition, zero, other] = operands[..] else { return value };
    let is =
        |value: ValueId, number: f32| matches!(&nest.body[value], Instr::Float(float) if *float == number);
    let is_masked = match &nest.body[condition] {
        Instr::Map(ScalarFn::Equal, of) => of[..] == [other, of[1]] && is(of[1], f32::NEG_INFINITY),
        _ => false,
    };
    if is_masked && is(zero, 0.0) { other } else { value }
}
