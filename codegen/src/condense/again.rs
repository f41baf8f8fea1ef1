//! A cheap value that is computed again where it is read, from what it was
//! computed from, instead of being stored for the readers and loaded by them.

use super::accesses::count;
use super::in_place::{covers, writer};
use super::unused::operands;
use crate::tile::{Base, Dim, DimId, Instr, Nest, Place, Stmt, ValueId, View};
use diptych_ir::{DType, ScalarFn};

/// The most operations that are done again for a load and a share of a store. A vector multiplication takes a clock
/// where a store takes two (Zen 4), and what is stored pushes other things out of the first cache.
const MOST_OPERATIONS: usize = 2;

/// Computes what a tile holds in each nest that reads it, if only this list of statements looks at it and everything
/// that it is computed from is still there. Returns whether it could; the tile is then not read any more.
pub(super) fn compute(list: &mut [Stmt], tile: usize, all_dims: &[Dim]) -> bool {
    let Some((at, stored, own)) = writer(list, tile) else { return false };
    let Stmt::Nest(nest) = &list[at] else { return false };
    let Some(value) = Value::of(nest, stored) else { return false };
    if own.dtype != DType::F32 {
        return false;
    }
    let dims = nest.dims.clone();
    let readers: Vec<usize> =
        (at + 1..list.len()).filter(|&at| count(&mut list[at], own.base).0 > 0).collect();
    for &reader in &readers {
        let changed =
            |base: Base, list: &mut [Stmt]| list[at..reader].iter_mut().any(|stmt| count(stmt, base).1 > 0);
        if value.loads.iter().any(|view| changed(view.base, list)) {
            return false;
        }
        let reads = count(&mut list[reader], own.base).0;
        let Stmt::Nest(nest) = &list[reader] else { return false };
        if nest.dims != dims || !value.fits(nest, &own, reads, all_dims) {
            return false;
        }
    }
    for &reader in &readers {
        if let Stmt::Nest(nest) = &mut list[reader] {
            value.compute_in(nest, &own);
        }
    }
    if let Stmt::Nest(nest) = &mut list[at] {
        nest.body.remove(stored);
        for instr in &mut nest.body {
            operands(instr, &mut |value| *value -= usize::from(*value > stored));
        }
    }
    true
}

/// A value as the instructions that compute it, the last its own, with operands by position among them.
struct Value {
    body: Vec<Instr>,
    loads: Vec<View>,
}

impl Value {
    /// What a store of a nest stores, if it is cheap.
    fn of(nest: &Nest, stored: usize) -> Option<Value> {
        let Instr::Store(_, value) = nest.body[stored] else { return None };
        let mut needed = vec![false; value + 1];
        needed[value] = true;
        for at in (0..=value).rev() {
            if needed[at] {
                operands(&mut nest.body[at].clone(), &mut |operand| needed[*operand] = true);
            }
        }
        let mut value = Value { body: Vec::new(), loads: Vec::new() };
        let mut places = vec![0; needed.len()];
        let mut operations = 0;
        for at in (0..needed.len()).filter(|&at| needed[at]) {
            let mut instr = nest.body[at].clone();
            match &instr {
                Instr::Float(_) => {}
                Instr::Load(Place::Strided(view)) if view.dtype == DType::F32 || view.dtype.is_narrow() => {
                    value.loads.push(view.clone());
                }
                Instr::Map(ScalarFn::Add | ScalarFn::Sub | ScalarFn::Mul | ScalarFn::Neg, _) => {
                    operations += 1
                }
                _ => return None,
            }
            operands(&mut instr, &mut |operand| *operand = places[*operand]);
            places[at] = value.body.len();
            value.body.push(instr);
        }
        (operations <= MOST_OPERATIONS).then_some(value)
    }

    /// Whether a nest that reads the value from a tile, so many times, can compute it, with no more loads of as many
    /// elements than it has.
    fn fits(&self, nest: &Nest, own: &View, reads: usize, dims: &[Dim]) -> bool {
        let loads = |view: &View| {
            nest.body
                .iter()
                .position(|instr| matches!(instr, Instr::Load(Place::Strided(other)) if other == view))
        };
        let same = |instr: &&Instr| matches!(instr, Instr::Load(Place::Strided(view)) if view == own);
        if nest.body.iter().filter(same).count() != reads {
            return false;
        }
        let first = nest.body.iter().position(|instr| same(&instr)).unwrap_or(0);
        let more = self.loads.iter().filter(|view| covers(view, nest) && loads(view).is_none());
        if more.count() > 1 {
            return false;
        }
        // What the nest writes itself must be the same point's, and later, or elsewhere.
        self.loads.iter().all(|view| {
            nest.body.iter().enumerate().all(|(at, instr)| match instr {
                Instr::Store(Place::Strided(to), _) if to.base == view.base => {
                    apart(to, view, nest, dims) || to == view && covers(view, nest) && at > first
                }
                Instr::Reduce { into, .. } => into.base != view.base,
                Instr::AddAt { .. } => false,
                _ => true,
            })
        })
    }

    /// Puts the value's own instructions where a nest loads it.
    fn compute_in(&self, nest: &mut Nest, own: &View) {
        let mut body: Vec<Instr> = Vec::new();
        let mut places: Vec<ValueId> = Vec::new();
        for mut instr in std::mem::take(&mut nest.body) {
            if matches!(&instr, Instr::Load(Place::Strided(view)) if view == own) {
                let mut within: Vec<ValueId> = Vec::new();
                for instr in &self.body {
                    let mut instr = instr.clone();
                    operands(&mut instr, &mut |operand| *operand = within[*operand]);
                    let known = body.iter().position(|known| pure(known) && *known == instr);
                    within.push(known.unwrap_or(body.len()));
                    if known.is_none() {
                        body.push(instr);
                    }
                }
                places.push(within.last().copied().unwrap_or(0));
                continue;
            }
            operands(&mut instr, &mut |operand| *operand = places[*operand]);
            places.push(body.len());
            body.push(instr);
        }
        nest.body = body;
    }
}

/// Whether two views of a nest have no element in common: alike, but too far from each other.
fn apart(a: &View, b: &View, nest: &Nest, dims: &[Dim]) -> bool {
    let walked = |entry: &&(DimId, usize)| nest.dims.contains(&entry.0);
    let span: usize =
        a.strides.iter().filter(walked).map(|&(dim, stride)| (dims[dim].extent.most() - 1) * stride).sum();
    a.strides == b.strides && a.rows == b.rows && a.offset.abs_diff(b.offset) > span
}

/// Whether an instruction gives the same wherever it stands before what a nest writes.
fn pure(instr: &Instr) -> bool {
    matches!(instr, Instr::Float(_) | Instr::Load(_) | Instr::Map(..))
}
