//! What a launch has to do, counted from its tile program at run-time sizes: multiply-adds, pointwise operations,
//! and how each argument moves. Right by construction whatever was fused, since the program is all that is done.
//! It must not know ops, machines or how the program is written down in C.

mod accesses;
mod operations;
mod sizes;
mod variation;
mod whole;

pub use sizes::{RunSizes, Sequence};
pub use whole::{Contraction, Stream, Whole, whole_work};

use crate::machine::Precision;
use crate::work::{Direction, Dot, Traffic, Work};
use accesses::Accesses;
use diptych_codegen::entry::Launch;
use diptych_codegen::tile::{
    self, Base, PackedView, Place, Stmt, StreamBounds, TURNED_ROWS, TileProgram, Walk,
};
use operations::Operations;
use sizes::{At, Sizes};
use std::cell::RefCell;
use variation::Variation;

/// The work of one launch of `program` in a run of these sizes. `panel` is the number of columns of a packed
/// panel ([`diptych_codegen::entry::CompiledEntry::panel`]), two vectors.
///
/// Distances to the last use are not known to a launch alone: see [`crate::entry::predict_entry`].
pub fn launch_work(program: &TileProgram, launch: &Launch, run: &RunSizes, panel: usize) -> Work {
    let counted = count(program, launch, run, panel);
    let mut work = counted.work;
    work.traffic.extend(counted.operands.into_iter().map(|(_, traffic)| traffic));
    work
}

/// The work of a launch, with its operands apart.
pub(crate) struct Counted {
    /// Without the traffic of operands; what moves within a thread's caches is there.
    pub(crate) work: Work,
    /// How each argument moves, by its position.
    pub(crate) operands: Vec<(usize, Traffic)>,
}

pub(crate) fn count(program: &TileProgram, launch: &Launch, run: &RunSizes, panel: usize) -> Counted {
    let sizes = Sizes { program, launch, run, differs: RefCell::new(None) };
    let mut counter = Counter::new(&sizes, panel);
    counter.statements(&program.body, At::INSTANCE);
    let (operands, near) = counter.accesses.traffic();
    let work = Work {
        dots: counter.dots,
        scalar: counter.operations.scalar,
        issued: counter.operations.issued,
        traffic: near,
        instances: sizes.instances(),
        launches: 1.0,
    };
    Counted { work, operands }
}

struct Counter<'a> {
    sizes: &'a Sizes<'a>,
    panel: usize,
    operations: Operations,
    accesses: Accesses<'a>,
    dots: Vec<Dot>,
    contractions: Vec<(&'a tile::Dot, At)>,
    /// Where each statement is counted once: see [`Sizes::differs`].
    variation: Option<Variation>,
}

impl<'a> Counter<'a> {
    fn new(sizes: &'a Sizes<'a>, panel: usize) -> Counter<'a> {
        Counter {
            sizes,
            panel,
            operations: Operations::new(panel / 2),
            accesses: Accesses::new(sizes),
            dots: Vec::new(),
            contractions: Vec::new(),
            variation: None,
        }
    }

    fn statements(&mut self, body: &'a [Stmt], at: At) {
        for stmt in body {
            self.statement(stmt, at);
        }
    }

    fn statement(&mut self, stmt: &'a Stmt, at: At) {
        let sizes = self.sizes;
        if let Some(variation) = &self.variation {
            *sizes.differs.borrow_mut() = Some(variation.of(stmt));
        }
        match stmt {
            Stmt::Nest(nest) => {
                self.operations.nest(sizes, nest, at);
                self.accesses.nest(nest, at);
            }
            Stmt::Dot(dot) => self.dot(dot, at),
            Stmt::Transpose { rows, columns, from, to } => {
                let dims = [&rows[..], columns].concat();
                self.operations.transpose(sizes.points(&dims, at));
                self.accesses.place(from, &dims, Direction::Read, at);
                self.accesses.place(&Place::Strided(to.clone()), &dims, Direction::Write, at);
            }
            Stmt::Fill { dims, place, .. } => {
                // A tile is filled as a whole, whatever part of it the instance uses.
                let of_tile = |tile: usize| sizes.program.tiles[tile].dims.clone();
                let dims = match place {
                    Place::Strided(view) => match view.base {
                        Base::Tile(tile) => of_tile(tile),
                        _ => dims.clone(),
                    },
                    Place::Packed(_) => dims.clone(),
                };
                self.accesses.place(place, &dims, Direction::Write, at);
            }
            Stmt::TopK { rows, along, ranks, from, to } => {
                let searched = [&rows[..], &[*along]].concat();
                let chosen = [&rows[..], &[*ranks]].concat();
                // Two comparisons for each element and rank, one element at a time.
                let compared = 2.0 * sizes.points(&[&searched[..], &[*ranks]].concat(), at);
                self.operations.by_element(compared);
                self.accesses.place(&Place::Strided(from.clone()), &searched, Direction::Read, at);
                self.accesses.place(&Place::Strided(to.clone()), &chosen, Direction::Write, at);
            }
            Stmt::Round { rows, over, from, to } => {
                let dims = [&rows[..], over].concat();
                self.operations.rounding(sizes.points(&dims, at));
                self.accesses.place(&Place::Strided(from.clone()), &dims, Direction::Read, at);
                self.accesses.rounded(to, Direction::Write, at);
            }
            Stmt::AddRows(added) => {
                let dims = [&[added.row], &added.dims[..]].concat();
                self.operations.by_element(sizes.points(&dims, at));
                self.accesses.place(&Place::Strided(added.ids.clone()), &[added.row], Direction::Read, at);
                self.accesses.place(&Place::Strided(added.from.clone()), &dims, Direction::Read, at);
                if let Some(arg) = accesses::argument(&added.table) {
                    self.accesses.rows_of(arg, added.along, sizes.points(&dims, at));
                }
            }
            Stmt::Group { ids, dims, count, order, .. } => {
                let pairs = sizes.points(dims, at);
                self.operations.by_element(8.0 * (pairs + *count as f64));
                self.accesses.place(&Place::Strided(ids.clone()), dims, Direction::Read, at);
                // What is kept for each id is small beside it.
                self.accesses.add(*order, true, 0, dims.clone(), at, 1.0);
            }
            // Of a replay, all positions but the last of a block are walked once more: as many to a good approximation.
            Stmt::Steps { dim, walk, body } => {
                let stream = Some((*dim, StreamBounds::default()));
                self.statements(body, if *walk == Walk::Blocks { at } else { At { stream } });
            }
            Stmt::When { yes, .. } => self.statements(yes, at),
            Stmt::Stream { dim, bounds, body } => self.statements(body, At { stream: Some((*dim, *bounds)) }),
        }
    }

    fn dot(&mut self, dot: &'a tile::Dot, at: At) {
        self.contractions.push((dot, at));
        let sizes = self.sizes;
        let dims = [&dot.batch[..], &dot.m, &dot.n, &dot.k].concat();
        let flops = 2.0 * sizes.points(&dims, at);
        let columns = sizes.mean(&dot.n, at).max(1.0);
        let panel = self.panel as f64;
        let fill = (columns / panel).ceil() * panel / columns;
        self.dots.push(Dot {
            flops,
            issued_flops: flops * fill,
            rows: sizes.mean(&dot.m, at),
            depth: sizes.mean(&dot.k, at),
            precision: match dot.b {
                Place::Packed(PackedView { blocks: Some(_), .. }) => Precision::Int8,
                _ => Precision::F32,
            },
        });
        let direction = if dot.accumulate { Direction::Update } else { Direction::Write };
        match dot.b {
            Place::Packed(PackedView { blocks: Some(_), .. }) => {
                self.accesses.rounded(&dot.a, Direction::Read, at)
            }
            _ => self.accesses.place(&Place::Strided(dot.a.clone()), &dims, Direction::Read, at),
        }
        match &dot.turned {
            Some(from) => {
                let turned = [&dot.n[..], &dot.k].concat();
                self.operations.transpose(sizes.points(&turned, at));
                self.accesses.place(&Place::Strided((**from).clone()), &turned, Direction::Read, at);
                if sizes.mean(&dot.m, at) > TURNED_ROWS as f64 {
                    self.accesses.place(&dot.b, &turned, Direction::Write, at);
                    self.accesses.place(&dot.b, &dims, Direction::Read, at);
                }
            }
            None => self.accesses.place(&dot.b, &dims, Direction::Read, at),
        }
        self.accesses.place(&dot.c, &dims, direction, at);
    }
}

#[cfg(test)]
mod tests;
