//! Where all threads of a block have to wait for one another: before a statement reads or overwrites what others wrote
//! since they last waited, or overwrites what others read. It follows from what statements read and write.

use super::passes::passes;
use super::placement::Placement;
use crate::condense::accesses::{self, Access, views};
use crate::tile::{Base, Nest, Stmt, TileProgram};
use std::collections::BTreeSet;

/// What a statement, or a pass of a nest, reads and writes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Touched {
    reads: BTreeSet<Base>,
    writes: BTreeSet<Base>,
}

/// What a statement that holds no others looks at.
pub(super) fn touched(stmt: &Stmt) -> Touched {
    let mut touched = Touched::default();
    let mut stmt = stmt.clone();
    views(&mut stmt, &mut |view, access| match (view.base, access) {
        (Base::Table(_), _) => {}
        (base, Access::Read) => drop(touched.reads.insert(base)),
        (base, Access::Write) => drop(touched.writes.insert(base)),
    });
    match stmt {
        Stmt::Group { order, starts, .. } => touched.writes.extend([order, starts].map(Base::Arg)),
        // The other arguments that it names say where something is.
        mut stmt => accesses::arguments(&mut stmt, &mut |arg| {
            let base = Base::Arg(*arg);
            if !touched.writes.contains(&base) {
                touched.reads.insert(base);
            }
        }),
    }
    touched
}

/// What a statement looks at, one part after the other: nests have passes.
///
/// # Errors
/// As [`passes`].
pub(super) fn parts(program: &TileProgram, stmt: &Stmt) -> Result<Vec<Touched>, String> {
    let Stmt::Nest(nest) = stmt else { return Ok(vec![touched(stmt)]) };
    let of_pass = |pass: &super::passes::Pass| {
        touched(&Stmt::Nest(Nest { dims: nest.dims.clone(), body: pass.part(nest) }))
    };
    Ok(passes(program, nest)?.iter().map(of_pass).collect())
}

/// What threads may have read and written since they last waited.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Pending {
    since: Touched,
}

impl Pending {
    /// Whether threads have to wait before what is touched next; notes that it is.
    pub(super) fn waits_before(&mut self, next: &Touched, placement: &Placement) -> bool {
        let meet = |one: &BTreeSet<Base>, other: &BTreeSet<Base>| {
            one.iter().any(|&a| other.iter().any(|&b| placement.meet(a, b)))
        };
        let waits = meet(&self.since.writes, &next.reads)
            || meet(&self.since.writes, &next.writes)
            || meet(&self.since.reads, &next.writes);
        if waits {
            self.since = Touched::default();
        }
        self.since.reads.extend(&next.reads);
        self.since.writes.extend(&next.writes);
        waits
    }

    /// Either of two.
    pub(super) fn or(mut self, other: &Pending) -> Pending {
        self.since.reads.extend(&other.since.reads);
        self.since.writes.extend(&other.since.writes);
        self
    }

    /// What is pending after some statements, given what is before them.
    pub(super) fn after(
        self,
        program: &TileProgram,
        body: &[Stmt],
        placement: &Placement,
    ) -> Result<Pending, String> {
        let mut pending = self;
        for stmt in body {
            pending = match stmt {
                Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => {
                    let entry = pending.at_loop(program, body, placement)?;
                    entry.clone().after(program, body, placement)?.or(&entry)
                }
                Stmt::When { yes, no, .. } => {
                    let other = pending.clone().after(program, no, placement)?;
                    pending.after(program, yes, placement)?.or(&other)
                }
                stmt => {
                    for part in parts(program, stmt)? {
                        pending.waits_before(&part, placement);
                    }
                    pending
                }
            };
        }
        Ok(pending)
    }

    /// What may be pending where a turn of a loop begins: what was before the loop, and what a turn leaves.
    pub(super) fn at_loop(
        self,
        program: &TileProgram,
        body: &[Stmt],
        placement: &Placement,
    ) -> Result<Pending, String> {
        let mut entry = self;
        loop {
            let next = entry.clone().after(program, body, placement)?.or(&entry);
            if next == entry {
                return Ok(entry);
            }
            entry = next;
        }
    }
}
