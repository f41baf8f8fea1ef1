//! Groups that run in turns: how long their values live, and which of those that are kept for a turn take the place of
//! others. It decides no groups.

use super::build::{Builder, Scope};
use super::error::CompileError;
use super::together::join;
use super::{BufferId, Launch, Limits, PlanStep};
use crate::tile::{Base, Instr, Nest, Place, RowMap, Stmt, TileProgram, View};
use diptych_passes::fuse::Turns;
use std::collections::BTreeMap;

impl Builder<'_> {
    /// What any of the groups touches is there through all of them, since each runs again after the others.
    pub(super) fn turns(&mut self, scope: &mut Scope, turns: &Turns) -> Result<PlanStep, CompileError> {
        let start = self.time;
        let mut launches = Vec::new();
        for group in &turns.groups {
            self.time += 1;
            launches.extend(self.group(scope, group, false, true)?);
        }
        let kept: Vec<BufferId> =
            turns.kept.iter().filter_map(|kept| scope.places.get(kept)).map(|place| place.buffer).collect();
        let row_bytes =
            |&buffer: &BufferId| self.buffers[buffer].bytes(Limits { rows: 1, batch: 1 }, self.options.panel);
        let most = self.options.blocks.turn_bytes / kept.iter().map(row_bytes).sum::<usize>().max(1);
        let rows = self.options.turn_rows.min(most).max(1);
        for &buffer in &kept {
            self.buffers[buffer].turn = Some(rows);
        }
        for (from, to) in self.replaced(&launches, &kept) {
            for place in launches.iter_mut().flat_map(|launch| &mut launch.args) {
                if place.buffer == to {
                    place.buffer = from;
                }
            }
            scope
                .places
                .values_mut()
                .filter(|place| place.buffer == to)
                .for_each(|place| place.buffer = from);
            // Nobody uses it any more, and it takes no room.
            self.buffers[to].turn = Some(0);
            self.buffers[to].first = start;
        }
        for place in launches.iter().flat_map(|launch: &Launch| &launch.args) {
            let buffer = &mut self.buffers[place.buffer];
            buffer.first = buffer.first.min(start);
            buffer.last = buffer.last.max(self.time);
        }
        let body =
            join(launches.into_iter().map(PlanStep::Launch).collect(), &self.kernels, &mut self.buffers);
        Ok(PlanStep::Turns { rows, body })
    }

    /// Of values that are kept for a turn: which is read for the last time by the kernel that computes another of the
    /// same type, element by element.
    fn replaced(&self, launches: &[Launch], kept: &[BufferId]) -> BTreeMap<BufferId, BufferId> {
        let mut found = BTreeMap::new();
        for (position, launch) in launches.iter().enumerate() {
            let program = &self.kernels[launch.kernel];
            let arg = |buffer: BufferId| launch.args.iter().position(|place| place.buffer == buffer);
            let later = |buffer: BufferId| {
                launches[position + 1..]
                    .iter()
                    .flat_map(|launch| &launch.args)
                    .any(|place| place.buffer == buffer)
            };
            for &from in kept.iter().filter(|&&from| !later(from)) {
                let taken = |buffer: BufferId| found.values().any(|&to| to == buffer);
                let alike = |to: BufferId| {
                    let (one, other) = (&self.buffers[from], &self.buffers[to]);
                    from != to && one.layout == other.layout && one.dtype == other.dtype && !taken(to)
                };
                let to = kept.iter().copied().find(|&to| {
                    let args = arg(from).zip(arg(to));
                    alike(to) && args.is_some_and(|(read, written)| turns_into(program, read, written))
                });
                if let Some(to) = to.filter(|_| !taken(from)) {
                    found.insert(from, to);
                }
            }
        }
        found
    }
}

/// Whether one nest alone looks at two arguments, reading an element of one before it writes that of the other.
fn turns_into(program: &TileProgram, read: usize, written: usize) -> bool {
    let args = &program.args;
    if args[read].written || !args[written].written {
        return false;
    }
    let mut nests = Vec::new();
    let touching = of_args(&program.body, [read, written], &mut nests);
    let [nest] = nests[..] else { return false };
    let [loads @ .., Access::Store(stored)] = &accesses(&nest.body, [read, written])[..] else {
        return false;
    };
    // Each point of the nest, and each instance, has elements of its own.
    let walked = nest.dims.iter().chain(&program.grid).all(|&dim| stored.stride(dim) > 0);
    let alike = |access: &Access| matches!(access, Access::Load(loaded) if same_elements(loaded, stored));
    touching == 1 && walked && !loads.is_empty() && loads.iter().all(alike)
}

enum Access<'a> {
    Load(&'a View),
    Store(&'a View),
}

/// The statements that look at arguments, counted, and the nests among them.
fn of_args<'a>(body: &'a [Stmt], args: [usize; 2], nests: &mut Vec<&'a Nest>) -> usize {
    let mut count = 0;
    for stmt in body {
        count += match stmt {
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => of_args(body, args, nests),
            Stmt::When { yes, no, .. } => of_args(yes, args, nests) + of_args(no, args, nests),
            other => {
                let touches = crate::condense::touches(other, &args.map(Base::Arg));
                if let (Stmt::Nest(nest), true) = (other, touches) {
                    nests.push(nest);
                }
                usize::from(touches)
            }
        };
    }
    count
}

/// How the instructions of a nest look at arguments, in their order.
fn accesses(nest: &[Instr], args: [usize; 2]) -> Vec<Access<'_>> {
    let of = |view: &View| args.map(Base::Arg).contains(&view.base);
    let mut found = Vec::new();
    for instr in nest {
        match instr {
            Instr::Load(Place::Strided(view)) if of(view) => found.push(Access::Load(view)),
            Instr::Store(Place::Strided(view), _) if of(view) => found.push(Access::Store(view)),
            _ => {}
        }
    }
    found
}

fn same_elements(one: &View, other: &View) -> bool {
    let strides = |view: &View| {
        let mut strides = view.strides.clone();
        strides.sort_unstable();
        strides
    };
    one.base != other.base
        && (one.offset, one.rows, strides(one)) == (other.offset, other.rows, strides(other))
        && one.rows == RowMap::InOrder
}
