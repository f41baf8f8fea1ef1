//! What a collective speaks of, or a split into a mesh axis: the ranks, and how
//! an axis is cut over them. It lets a rule turn one into another. It knows no rule.

use super::language::Shape;
use diptych_ir::ops::{AllGather, AllReduce, ReduceScatter, Split};
use diptych_ir::{Axes, Axis, Op, ReduceKind};

/// The ranks of a mesh axis and, where an axis is cut over them, how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ranks {
    pub mesh: Axis,
    pub cut: Option<Cut>,
}

/// An axis and a rank's piece of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    pub whole: Axis,
    pub piece: Axis,
}

impl Ranks {
    /// What an op speaks of. A split speaks of ranks if its first part is a mesh
    /// axis, which only the collective that it is compared with can tell.
    pub fn of(op: &Op) -> Option<Ranks> {
        Some(match op {
            Op::AllReduce(reduce) if reduce.kind == ReduceKind::Sum => Ranks { mesh: reduce.mesh, cut: None },
            Op::AllGather(AllGather { mesh, piece, whole })
            | Op::ReduceScatter(ReduceScatter { mesh, piece, whole }) => {
                Ranks { mesh: *mesh, cut: Some(Cut { whole: *whole, piece: *piece }) }
            }
            Op::Split(split) => match split.into[..] {
                [mesh, piece] => Ranks { mesh, cut: Some(Cut { whole: split.axis, piece }) },
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The axes that it is of.
    pub fn axes(self) -> Vec<Axis> {
        let cut = self.cut.into_iter().flat_map(|cut| [cut.whole, cut.piece]);
        std::iter::once(self.mesh).chain(cut).collect()
    }

    /// Whether both speak of the same ranks and, where both cut an axis, of the same cut.
    pub fn agrees(self, other: Ranks) -> bool {
        let same_cut = self.cut.zip(other.cut).is_none_or(|(left, right)| left == right);
        self.mesh == other.mesh && same_cut
    }

    /// The op of this kind that speaks of the same; `None` if it would need a cut and there is none.
    pub fn op(self, shape: Shape) -> Option<Op> {
        let mesh = self.mesh;
        Some(match (shape, self.cut) {
            (Shape::AllReduce, _) => AllReduce { mesh, kind: ReduceKind::Sum }.into(),
            (Shape::AllGather, Some(Cut { whole, piece })) => AllGather { mesh, piece, whole }.into(),
            (Shape::ReduceScatter, Some(Cut { whole, piece })) => ReduceScatter { mesh, piece, whole }.into(),
            (Shape::Split, Some(Cut { whole, piece })) => {
                Split { axis: whole, into: vec![mesh, piece] }.into()
            }
            _ => return None,
        })
    }

    /// These ranks with the longest of some axes cut over them, the first by
    /// name of equally long ones. One choice and not all: each would double what
    /// follows from it, and where another is wanted a split says so.
    pub fn cutting(self, axes: &Axes) -> Option<Ranks> {
        let ranks = self.mesh.fixed_size()?;
        let pieces = axes.iter().filter_map(|&whole| {
            let size = whole.fixed_size().filter(|size| whole != self.mesh && size % ranks == 0)?;
            let piece = Axis::fixed(&format!("{}.piece", whole.name), size / ranks);
            Some((size, Cut { whole, piece }))
        });
        let longest = pieces.reduce(|longest, next| if next.0 > longest.0 { next } else { longest })?;
        Some(Ranks { cut: Some(longest.1), ..self })
    }
}
