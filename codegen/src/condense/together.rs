//! Two nests over the same dimensions become one, where what stands between them
//! allows it: what both load is then loaded once.

use super::accesses::{Access, views};
use super::in_place::covers;
use super::unused::operands;
use crate::tile::{Base, DimId, Instr, Nest, Place, Stmt, ValueId, View};

/// Joins nests of a list that load the same and do not wait for each other.
pub(super) fn join(list: &mut Vec<Stmt>) {
    for stmt in list.iter_mut() {
        match stmt {
            Stmt::Steps { body, .. } | Stmt::Stream { body, .. } => join(body),
            Stmt::When { yes, no, .. } => {
                join(yes);
                join(no);
            }
            _ => {}
        }
    }
    let mut second = 1;
    while second < list.len() {
        match (0..second).find_map(|first| joined(list, first, second)) {
            Some(shorter) => *list = shorter,
            None => second += 1,
        }
    }
}

/// The list with the first of two statements as a part of the second, if they are nests that gain by it. What stood
/// between them and needs the first, or what does, comes after both.
fn joined(list: &mut [Stmt], first: usize, second: usize) -> Option<Vec<Stmt>> {
    let (Stmt::Nest(a), Stmt::Nest(b)) = (&list[first], &list[second]) else { return None };
    if a.dims.len() < 2 || a.dims != b.dims || !share_loads(a, b) || !sum_alike(a, b) || !independent(a, b) {
        return None;
    }
    let together = Stmt::Nest(both(a, b));
    let touched: Vec<Vec<(Base, Access)>> = list[first..=second].iter_mut().map(touched).collect();
    let mut later = vec![0];
    for at in 1..second - first {
        if later.iter().any(|&other| conflict(&touched[other], &touched[at])) {
            later.push(at);
        }
    }
    let of_second = &touched[second - first];
    if later[1..].iter().any(|&at| conflict(&touched[at], of_second)) {
        return None;
    }
    let mut order = list[..first].to_vec();
    let earlier = (1..second - first).filter(|at| !later.contains(at));
    order.extend(earlier.map(|at| list[first + at].clone()));
    order.push(together);
    order.extend(later[1..].iter().map(|&at| list[first + at].clone()));
    order.extend_from_slice(&list[second + 1..]);
    Some(order)
}

/// The bases that a statement reads and writes.
fn touched(stmt: &mut Stmt) -> Vec<(Base, Access)> {
    let mut found = Vec::new();
    views(stmt, &mut |view, access| found.push((view.base, access)));
    found
}

/// Whether the order of two statements matters.
fn conflict(a: &[(Base, Access)], b: &[(Base, Access)]) -> bool {
    let either = |access: Access, other: Access| access == Access::Write || other == Access::Write;
    a.iter()
        .any(|&(base, access)| b.iter().any(|&(other, of_other)| base == other && either(access, of_other)))
}

fn loads(nest: &Nest) -> impl Iterator<Item = &View> {
    nest.body.iter().filter_map(|instr| match instr {
        Instr::Load(Place::Strided(view)) => Some(view),
        _ => None,
    })
}

/// Whether two nests load the same at each point.
fn share_loads(a: &Nest, b: &Nest) -> bool {
    loads(a).any(|view| covers(view, a) && loads(b).any(|other| other == view))
}

/// Whether all sums of two nests that go down their columns go along the same dimensions.
fn sum_alike(a: &Nest, b: &Nest) -> bool {
    let inner = a.dims.last();
    let columns = |nest: &Nest| -> Vec<Vec<DimId>> {
        let of = |instr: &Instr| match instr {
            Instr::Reduce { over, .. } if !over.iter().any(|dim| Some(dim) == inner) => Some(over.clone()),
            _ => None,
        };
        nest.body.iter().filter_map(of).collect()
    };
    let all = [columns(a), columns(b)].concat();
    all.windows(2).all(|pair| pair[0] == pair[1])
}

/// Whether the second nest reads nothing that the first writes, and writes what the first reads at the same points
/// only. Both must be of loads, stores and sums.
fn independent(a: &Nest, b: &Nest) -> bool {
    let plain = |nest: &Nest| {
        nest.body.iter().all(|instr| match instr {
            Instr::LoadAt { .. } | Instr::AddAt { .. } | Instr::Load(Place::Packed(_)) => false,
            Instr::Store(place, _) => matches!(place, Place::Strided(_)),
            _ => true,
        })
    };
    let written = |nest: &Nest| -> Vec<(View, bool)> {
        let of = |instr: &Instr| match instr {
            Instr::Store(Place::Strided(view), _) => Some((view.clone(), true)),
            Instr::Reduce { into, .. } => Some((into.clone(), false)),
            _ => None,
        };
        nest.body.iter().filter_map(of).collect()
    };
    let (by_a, by_b) = (written(a), written(b));
    let read_by_b = |base: Base| loads(b).any(|view| view.base == base);
    let overwritten = |view: &View| {
        by_b.iter().all(|(to, each)| to.base != view.base || *each && to == view && covers(view, b))
    };
    plain(a)
        && plain(b)
        && by_a
            .iter()
            .all(|(to, _)| !read_by_b(to.base) && by_b.iter().all(|(other, _)| other.base != to.base))
        && loads(a).all(overwritten)
}

/// What one nest does at a point, then what the other does there.
fn both(a: &Nest, b: &Nest) -> Nest {
    let mut body = a.body.clone();
    let mut places: Vec<ValueId> = Vec::new();
    for instr in &b.body {
        let mut instr = instr.clone();
        operands(&mut instr, &mut |operand| *operand = places[*operand]);
        let acts = matches!(instr, Instr::Store(..) | Instr::Reduce { .. });
        // The first nest writes nothing that the second loads.
        let known = a.body.iter().position(|known| !acts && *known == instr);
        places.push(known.unwrap_or(body.len()));
        if known.is_none() {
            body.push(instr);
        }
    }
    Nest { dims: a.dims.clone(), body }
}
