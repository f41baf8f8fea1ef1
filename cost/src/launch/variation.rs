//! Among which blocks of a kernel's grid a statement does different things. Instances that differ only in other
//! blocks do it over again, for how the work was divided: a norm that each block of columns computes for itself.
//! It must not know sizes.

use diptych_codegen::tile::{Base, DimId, Dot, Id, Instr, Place, Stmt, TileProgram, View};

/// The blocks among which each scratch tile's contents differ.
pub(super) struct Variation {
    grid: Vec<DimId>,
    tiles: Vec<Vec<DimId>>,
}

impl Variation {
    /// Found by going round until no tile gains a dimension.
    pub(super) fn new(program: &TileProgram) -> Variation {
        let mut variation = Variation { grid: loops(program), tiles: vec![Vec::new(); program.tiles.len()] };
        while variation.pass(&program.body) {}
        variation
    }

    /// The blocks among which a statement differs: those that something it looks at, or stores to, depends on.
    pub(super) fn of(&self, stmt: &Stmt) -> Vec<DimId> {
        let mut found = Vec::new();
        self.collect(stmt, &mut found);
        found
    }

    /// As [`Variation::of`], of a contraction.
    pub(super) fn of_dot(&self, dot: &Dot) -> Vec<DimId> {
        self.of_operands(dot).concat()
    }

    /// The blocks among which left operand, right operand and result of a contraction differ.
    pub(super) fn of_operands(&self, dot: &Dot) -> [Vec<DimId>; 3] {
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        self.view(&dot.a, &mut found[0]);
        self.place(&dot.b, &mut found[1]);
        // What a tile of results held before says nothing of what is multiplied now.
        if let Place::Strided(View { base: Base::Tile(_), .. }) = &dot.c {
            found[2] = [&found[0][..], &found[1]].concat();
        } else {
            self.place(&dot.c, &mut found[2]);
        }
        found
    }

    /// One round; whether a tile gained a dimension.
    fn pass(&mut self, body: &[Stmt]) -> bool {
        let mut gained = false;
        for stmt in body {
            match stmt {
                Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => {
                    gained |= self.pass(body);
                    continue;
                }
                Stmt::When { yes, no, .. } => {
                    gained |= self.pass(yes);
                    gained |= self.pass(no);
                    continue;
                }
                _ => {}
            }
            let found = self.of(stmt);
            for tile in written(stmt) {
                for &dim in &found {
                    if !self.tiles[tile].contains(&dim) {
                        self.tiles[tile].push(dim);
                        gained = true;
                    }
                }
            }
        }
        gained
    }

    fn collect(&self, stmt: &Stmt, found: &mut Vec<DimId>) {
        match stmt {
            Stmt::Nest(nest) => {
                found.extend(nest.dims.iter().filter(|dim| self.grid.contains(dim)));
                for instr in &nest.body {
                    match instr {
                        Instr::Load(place) | Instr::Store(place, _) => self.place(place, found),
                        Instr::LoadAt { table, id, .. } | Instr::AddAt { table, id, .. } => {
                            self.place(table, found);
                            self.id(id, found);
                        }
                        Instr::Position(dim) | Instr::PositionOf { dim, .. } => self.dim(*dim, found),
                        Instr::Reduce { .. }
                        | Instr::Float(_)
                        | Instr::Int(_)
                        | Instr::Truth(_)
                        | Instr::Map(..)
                        | Instr::ToFloat(_)
                        | Instr::Round(..) => {}
                    }
                }
            }
            Stmt::Dot(dot) => {
                for dim in [&dot.batch, &dot.m, &dot.n, &dot.k].into_iter().flatten() {
                    self.dim(*dim, found);
                }
                found.extend(self.of_dot(dot));
                dot.turned.iter().for_each(|from| self.view(from, found));
            }
            Stmt::Transpose { rows, columns, from, .. } => {
                rows.iter().chain(columns).for_each(|&dim| self.dim(dim, found));
                self.place(from, found);
            }
            Stmt::Fill { place, .. } => self.argument(place, found),
            Stmt::TopK { rows, from, .. } | Stmt::Round { rows, from, .. } => {
                rows.iter().for_each(|&dim| self.dim(dim, found));
                self.view(from, found);
            }
            Stmt::Group { .. } => {}
            Stmt::AddRows(added) => {
                added.dims.iter().for_each(|&dim| self.dim(dim, found));
                self.view(&added.from, found);
                self.place(&added.table, found);
            }
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => {
                body.iter().for_each(|stmt| self.collect(stmt, found));
            }
            Stmt::When { yes, no, .. } => yes.iter().chain(no).for_each(|stmt| self.collect(stmt, found)),
        }
    }

    fn dim(&self, dim: DimId, found: &mut Vec<DimId>) {
        if self.grid.contains(&dim) {
            found.push(dim);
        }
    }

    fn id(&self, id: &Id, found: &mut Vec<DimId>) {
        match id {
            Id::Stored(view) => self.view(view, found),
            Id::Position(dim) => self.dim(*dim, found),
            Id::Computed(_) => {}
        }
    }

    fn argument(&self, place: &Place, found: &mut Vec<DimId>) {
        if super::accesses::argument(place).is_some() {
            self.place(place, found);
        }
    }

    fn place(&self, place: &Place, found: &mut Vec<DimId>) {
        match place {
            Place::Strided(view) => self.view(view, found),
            Place::Packed(view) => {
                view.k
                    .iter()
                    .chain(&view.n)
                    .filter(|entry| entry.1 > 0)
                    .for_each(|entry| self.dim(entry.0, found));
            }
        }
    }

    fn view(&self, view: &View, found: &mut Vec<DimId>) {
        view.strides.iter().filter(|entry| entry.1 > 0).for_each(|entry| self.dim(entry.0, found));
        if let Base::Tile(tile) = view.base {
            found.extend(&self.tiles[tile]);
        }
    }
}

/// The dimensions of the grid and of the streams within it.
fn loops(program: &TileProgram) -> Vec<DimId> {
    fn streams(body: &[Stmt], found: &mut Vec<DimId>) {
        for stmt in body {
            match stmt {
                Stmt::Stream { dim, body, .. } | Stmt::Steps { dim, body, .. } => {
                    found.push(*dim);
                    streams(body, found);
                }
                Stmt::When { yes, no, .. } => {
                    streams(yes, found);
                    streams(no, found);
                }
                _ => {}
            }
        }
    }
    let mut found = program.grid.clone();
    streams(&program.body, &mut found);
    found
}

/// The tiles that a statement writes.
fn written(stmt: &Stmt) -> Vec<usize> {
    let tile = |view: &View| match view.base {
        Base::Tile(tile) => Some(tile),
        Base::Arg(_) | Base::Table(_) => None,
    };
    let of_place = |place: &Place| match place {
        Place::Strided(view) => tile(view),
        Place::Packed(_) => None,
    };
    match stmt {
        Stmt::Nest(nest) => nest
            .body
            .iter()
            .filter_map(|instr| match instr {
                Instr::Store(place, _) => of_place(place),
                Instr::Reduce { into, .. } => tile(into),
                _ => None,
            })
            .collect(),
        Stmt::Dot(dot) => {
            let turned = dot.turned.iter().filter_map(|_| of_place(&dot.b));
            turned.chain(of_place(&dot.c)).collect()
        }
        Stmt::Transpose { to, .. } | Stmt::Round { to, .. } => tile(to).into_iter().collect(),
        Stmt::Fill { .. } | Stmt::TopK { .. } | Stmt::Group { .. } | Stmt::AddRows(_) => Vec::new(),
        // Their statements are looked at one by one.
        Stmt::Stream { .. } | Stmt::Steps { .. } | Stmt::When { .. } => Vec::new(),
    }
}
