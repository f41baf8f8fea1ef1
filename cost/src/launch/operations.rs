//! Pointwise operations of nests: how many there are, and how many lanes of vector instructions they take.
//! What does not vary along the vectorised dimension is done once a row; a row that does not fill its last
//! vector takes a whole one. It must not know where elements lie.

use super::sizes::{At, Sizes};
use crate::work::ScalarOps;
use diptych_codegen::tile::{DimId, Id, Instr, Nest, Place, View};
use diptych_ir::ScalarFn;

/// Vector operations that load an element by itself and put it in its lane, in the time of which two vector
/// operations are done.
const LANE_LOAD: f64 = 2.0;

/// Counts of a launch.
pub(super) struct Operations {
    lanes: f64,
    /// Whether they are counted as whole kernels of a machine with a conversion to bf16 and with masks that are
    /// looked at only in the blocks that they cut, which are few.
    whole: bool,
    pub(super) scalar: ScalarOps,
    pub(super) issued: ScalarOps,
}

impl Operations {
    pub(super) fn new(lanes: usize) -> Operations {
        Operations {
            lanes: lanes as f64,
            whole: false,
            scalar: ScalarOps::default(),
            issued: ScalarOps::default(),
        }
    }

    /// As [`Operations::new`], of whole kernels.
    pub(super) fn of_whole() -> Operations {
        Operations { whole: true, ..Operations::new(1) }
    }

    /// Operations that are done one element at a time, each in the time of a vector.
    pub(super) fn by_element(&mut self, operations: f64) {
        self.scalar.arithmetic += operations;
        self.issued.arithmetic += operations * self.lanes;
    }

    /// A copy with rows and columns exchanged, by squares of vectors: each vector goes through as many shuffles
    /// as a lane number has bits, one a clock where two additions are.
    pub(super) fn transpose(&mut self, elements: f64) {
        self.issued.arithmetic += elements * 2.0 * self.lanes.log2();
    }

    /// The rounding of elements to blocks: their magnitudes and the largest, whether they are finite, a product, a sum,
    /// and the sums and narrowing of integers.
    pub(super) fn rounding(&mut self, elements: f64) {
        self.scalar.arithmetic += 8.0 * elements;
        self.issued.arithmetic += 8.0 * elements;
    }

    pub(super) fn nest(&mut self, sizes: &Sizes<'_>, nest: &Nest, at: At) {
        let (inner, outer) = match nest.dims.split_last() {
            Some((&inner, outer)) => (Some(inner), outer),
            None => (None, &[][..]),
        };
        let (points, rows) = (sizes.points(&nest.dims, at), sizes.points(outer, at));
        let length = if rows > 0.0 { points / rows } else { 0.0 };
        let issued_points = rows * (length / self.lanes).ceil() * self.lanes;
        let mut varies: Vec<bool> = Vec::with_capacity(nest.body.len());
        let masks = if self.whole { masks(nest) } else { vec![false; nest.body.len()] };
        for (instr, mask) in nest.body.iter().zip(masks) {
            let along = inner.is_some_and(|inner| varies_along(instr, inner, &varies));
            varies.push(along);
            let (scalar, issued) = if along { (points, issued_points) } else { (rows, rows * self.lanes) };
            let each = match instr {
                _ if mask => ScalarOps::default(),
                Instr::Round(..) if self.whole => ScalarOps { arithmetic: 1.0, ..ScalarOps::default() },
                _ => of(instr),
            };
            self.scalar = self.scalar + each * scalar;
            self.issued = self.issued + each * issued;
            if let (Instr::Reduce { over, .. }, Some(inner)) = (instr, inner)
                && over.contains(&inner)
            {
                // The lanes of the sum are added to each other by halves: a shuffle and an addition each time.
                self.issued.arithmetic += rows * self.lanes * 2.0 * self.lanes.log2();
            }
            if along && inner.is_some_and(|inner| by_lanes(instr, inner)) {
                self.issued.arithmetic += points * LANE_LOAD * self.lanes;
            }
        }
    }
}

/// Which instructions only look at positions, or choose by what was found so.
fn masks(nest: &Nest) -> Vec<bool> {
    let mut found: Vec<bool> = Vec::with_capacity(nest.body.len());
    for instr in &nest.body {
        let mask = match instr {
            Instr::Float(_) | Instr::Int(_) | Instr::Position(_) => true,
            Instr::Map(ScalarFn::Select, operands) => found[operands[0]],
            Instr::Map(_, operands) => operands.iter().all(|&operand| found[operand]),
            Instr::ToFloat(value) => found[*value],
            _ => false,
        };
        found.push(mask);
    }
    found
}

/// Whether an instruction gives each lane something of its own.
fn varies_along(instr: &Instr, inner: DimId, varies: &[bool]) -> bool {
    match instr {
        Instr::Float(_) | Instr::Int(_) | Instr::Truth(_) => false,
        Instr::Position(dim) | Instr::PositionOf { dim, .. } => *dim == inner,
        Instr::Load(place) => stride(place, inner) > 0,
        Instr::LoadAt { table, id, .. } => stride(table, inner) > 0 || id_varies(id, inner),
        Instr::Map(_, operands) => operands.iter().any(|&operand| varies[operand]),
        Instr::ToFloat(value) | Instr::Round(_, value) => varies[*value],
        Instr::Store(..) | Instr::AddAt { .. } | Instr::Reduce { .. } => true,
    }
}

fn id_varies(id: &Id, inner: DimId) -> bool {
    match id {
        Id::Stored(view) => view.stride(inner) > 0,
        Id::Position(dim) => *dim == inner,
        Id::Computed(_) => true,
    }
}

fn stride(place: &Place, dim: DimId) -> usize {
    match place {
        Place::Strided(view) => view.stride(dim),
        Place::Packed(view) => {
            let of_k = view.k.iter().find(|entry| entry.0 == dim).map(|entry| entry.1 * 2);
            view.n.iter().find(|entry| entry.0 == dim).map(|entry| entry.1).or(of_k).unwrap_or(0)
        }
    }
}

/// Whether lanes are loaded or stored one by one.
fn by_lanes(instr: &Instr, inner: DimId) -> bool {
    match instr {
        Instr::Load(place) | Instr::Store(place, _) => stride(place, inner) > 1,
        Instr::LoadAt { table, id, .. } | Instr::AddAt { table, id, .. } => {
            id_varies(id, inner) || stride(table, inner) > 1
        }
        Instr::Reduce { over, into: View { .. }, .. } if over.contains(&inner) => false,
        Instr::Reduce { into, .. } => into.stride(inner) > 1,
        _ => false,
    }
}

/// What an instruction does for an element.
fn of(instr: &Instr) -> ScalarOps {
    let arithmetic = |arithmetic: f64| ScalarOps { arithmetic, ..ScalarOps::default() };
    match instr {
        Instr::Float(_)
        | Instr::Int(_)
        | Instr::Truth(_)
        | Instr::Load(_)
        | Instr::LoadAt { .. }
        | Instr::Store(..) => ScalarOps::default(),
        Instr::Position(_)
        | Instr::PositionOf { .. }
        | Instr::ToFloat(_)
        | Instr::AddAt { .. }
        | Instr::Reduce { .. } => arithmetic(1.0),
        // Add half of the last place kept, by its parity, unless it is not a number.
        Instr::Round(..) => arithmetic(5.0),
        Instr::Map(function, _) => of_function(*function),
    }
}

fn of_function(function: ScalarFn) -> ScalarOps {
    let none = ScalarOps::default();
    match function {
        ScalarFn::Detach => none,
        // Four multiplications of a hash, each with a shift and what is mixed in.
        ScalarFn::RoundRandomly => ScalarOps { arithmetic: 18.0, ..none },
        ScalarFn::Div | ScalarFn::Sqrt => ScalarOps { divide: 1.0, ..none },
        ScalarFn::Rsqrt => ScalarOps { divide: 2.0, ..none },
        ScalarFn::Exp => ScalarOps { exponential: 1.0, ..none },
        ScalarFn::Log => ScalarOps { logarithm: 1.0, ..none },
        ScalarFn::Sin | ScalarFn::Cos => ScalarOps { trigonometric: 1.0, ..none },
        ScalarFn::Tanh | ScalarFn::Sigmoid | ScalarFn::Erf => {
            ScalarOps { exponential: 1.0, divide: 1.0, arithmetic: 2.0, ..none }
        }
        ScalarFn::Add
        | ScalarFn::Sub
        | ScalarFn::Mul
        | ScalarFn::Max
        | ScalarFn::Min
        | ScalarFn::Neg
        | ScalarFn::Abs
        | ScalarFn::Less
        | ScalarFn::LessEqual
        | ScalarFn::Equal
        | ScalarFn::And
        | ScalarFn::Or
        | ScalarFn::Not
        | ScalarFn::Select => ScalarOps { arithmetic: 1.0, ..none },
    }
}
