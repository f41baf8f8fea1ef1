//! What the values of a nest are, for writers: floats, integers or truth values. It knows no language.

use crate::tile::{Instr, Nest, Place};
use diptych_ir::{DType, ScalarFn};

/// What a variable of a nest holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Float,
    Int,
    Mask,
}

/// The kind of each value of a nest.
pub(crate) fn kinds(nest: &Nest) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::with_capacity(nest.body.len());
    for instr in &nest.body {
        kinds.push(match instr {
            Instr::Int(_) | Instr::Position(_) | Instr::PositionOf { .. } => Kind::Int,
            Instr::Load(Place::Strided(view)) if view.dtype == DType::I32 => Kind::Int,
            Instr::LoadAt { table: Place::Strided(view), .. } if view.dtype == DType::I32 => Kind::Int,
            Instr::Truth(_) => Kind::Mask,
            Instr::Load(place) | Instr::LoadAt { table: place, .. } if place.dtype() == DType::Bool => {
                Kind::Mask
            }
            Instr::Map(function, operands) => match function {
                ScalarFn::Less | ScalarFn::LessEqual | ScalarFn::Equal => Kind::Mask,
                ScalarFn::And | ScalarFn::Or | ScalarFn::Not => Kind::Mask,
                ScalarFn::Select => kinds[operands[1]],
                _ => kinds[operands[0]],
            },
            _ => Kind::Float,
        });
    }
    kinds
}
