//! From which statement to which a tile holds what is still read, so that tiles that are not needed at the same time
//! can share memory. It knows no sizes.

use crate::condense::accesses::{Access, views};
use crate::tile::{Base, Instr, Stmt, TileProgram};
use std::collections::BTreeMap;

/// The first and the last statement that need a tile, in the order of the text; loops are walked once.
pub(super) type Lifetime = (usize, usize);

/// What a statement does to a tile.
struct Event {
    time: usize,
    /// Whether it writes the tile without a look at what it held.
    anew: bool,
    /// The loops and conditions around it, outermost first.
    around: Vec<usize>,
}

/// A loop, or what a condition chooses among.
struct Around {
    first: usize,
    last: usize,
    is_loop: bool,
}

#[derive(Default)]
struct Walk {
    time: usize,
    path: Vec<usize>,
    around: Vec<Around>,
    events: BTreeMap<usize, Vec<Event>>,
}

/// The lifetime of each tile of a program; `None` for one that nothing uses.
pub(super) fn lifetimes(program: &TileProgram) -> Vec<Option<Lifetime>> {
    let mut walk = Walk::default();
    walk.statements(&program.body);
    (0..program.tiles.len()).map(|tile| walk.lifetime(tile)).collect()
}

impl Walk {
    fn statements(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => self.within(true, &[body]),
                Stmt::When { yes, no, .. } => self.within(false, &[yes, no]),
                stmt => {
                    for (tile, anew) in touched(stmt) {
                        let event = Event { time: self.time, anew, around: self.path.clone() };
                        self.events.entry(tile).or_default().push(event);
                    }
                    self.time += 1;
                }
            }
        }
    }

    fn within(&mut self, is_loop: bool, bodies: &[&[Stmt]]) {
        let id = self.around.len();
        self.around.push(Around { first: self.time, last: self.time, is_loop });
        self.path.push(id);
        bodies.iter().for_each(|body| self.statements(body));
        self.path.pop();
        self.around[id].last = self.time.saturating_sub(1).max(self.around[id].first);
    }

    /// What a turn of a loop leaves for the next lives through the whole loop, and so does what the loop only reads or
    /// only writes. What each turn writes anew before it reads it does not.
    fn lifetime(&self, tile: usize) -> Option<Lifetime> {
        let events = self.events.get(&tile)?;
        let mut life = (events.first()?.time, events.last()?.time);
        for (id, around) in self.around.iter().enumerate().filter(|(_, around)| around.is_loop) {
            let inside: Vec<&Event> = events.iter().filter(|event| event.around.contains(&id)).collect();
            let Some(first) = inside.first() else { continue };
            let unconditional = first.around.iter().all(|&at| self.around[at].is_loop);
            if inside.len() < events.len() || !first.anew || !unconditional {
                life = (life.0.min(around.first), life.1.max(around.last));
            }
        }
        Some(life)
    }
}

/// The tiles that a statement looks at, and whether it only writes each.
fn touched(stmt: &Stmt) -> BTreeMap<usize, bool> {
    let mut found: BTreeMap<usize, bool> = BTreeMap::new();
    views(&mut stmt.clone(), &mut |view, access| {
        if let Base::Tile(tile) = view.base {
            let anew = found.entry(tile).or_insert(true);
            *anew &= access == Access::Write;
        }
    });
    let mut goes_on = |base: Base| {
        if let Base::Tile(tile) = base {
            found.insert(tile, false);
        }
    };
    match stmt {
        Stmt::Dot(dot) if dot.accumulate => goes_on(dot.c.base()),
        Stmt::Nest(nest) => nest.body.iter().for_each(|instr| match instr {
            Instr::Reduce { into, fresh: false, .. } => goes_on(into.base),
            Instr::AddAt { table, .. } => goes_on(table.base()),
            _ => {}
        }),
        _ => {}
    }
    found
}
