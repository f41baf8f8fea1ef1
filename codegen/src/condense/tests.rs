use super::{condense, remove_arguments};
use crate::tile::{Arg, Base, Dim, Dot, Extent, Instr, Nest, Place, RowMap, Stmt, Tile, TileProgram, View};
use diptych_ir::{DType, ReduceKind, ScalarFn};

const ROW: usize = 0;
const COLUMN: usize = 1;

fn view(base: Base, strides: &[(usize, usize)]) -> View {
    View { base, dtype: DType::F32, offset: 0, strides: strides.to_vec(), rows: RowMap::InOrder }
}

/// A matrix: an argument or a tile.
fn matrix(base: Base) -> Place {
    Place::Strided(view(base, &[(ROW, 8), (COLUMN, 1)]))
}

fn columns(base: Base) -> View {
    view(base, &[(COLUMN, 1)])
}

fn nest(body: Vec<Instr>) -> Stmt {
    Stmt::Nest(Nest { dims: vec![ROW, COLUMN], body })
}

fn map(function: ScalarFn, left: usize, right: usize) -> Instr {
    Instr::Map(function, vec![left, right])
}

fn sum(value: usize, into: Base) -> Instr {
    Instr::Reduce { kind: ReduceKind::Sum, value, over: vec![ROW], into: columns(into), fresh: false, sum: 0 }
}

/// A program over 4 × 8 elements, with arguments and tiles of that size.
fn program(args: usize, tiles: usize, body: Vec<Stmt>) -> TileProgram {
    let dim = |name: &str, size| Dim { name: name.to_owned(), axis: None, extent: Extent::Whole(size) };
    let arg = |at| Arg { name: format!("a{at}"), dtype: DType::F32, written: true };
    let tile =
        |at| Tile { name: format!("t{at}"), dims: vec![ROW, COLUMN], elements: 32, values: DType::F32 };
    TileProgram {
        name: "test".to_owned(),
        notes: Vec::new(),
        args: (0..args).map(arg).collect(),
        dims: vec![dim("row", 4), dim("column", 8)],
        grid: Vec::new(),
        tiles: (0..tiles).map(tile).collect(),
        tables: Vec::new(),
        body,
    }
}

/// A step of the delta rule in small: the state, tile 0, is scaled into tile 1 and summed into tile 2, and then
/// becomes what is scaled, plus the sums.
fn step(between: Vec<Stmt>, function: ScalarFn) -> Vec<Stmt> {
    let [state, scaled, sums] = [0, 1, 2].map(Base::Tile);
    let scale = nest(vec![
        Instr::Load(matrix(state)),
        Instr::Float(0.5),
        map(function, 0, 1),
        Instr::Store(matrix(scaled), 2),
        sum(2, sums),
    ]);
    let update = nest(vec![
        Instr::Load(matrix(state)), // of which nothing comes
        Instr::Load(matrix(scaled)),
        Instr::Load(Place::Strided(columns(sums))),
        map(ScalarFn::Add, 1, 2),
        Instr::Store(matrix(state), 3),
    ]);
    [vec![scale], between, vec![update]].concat()
}

fn stores(program: &TileProgram, base: Base) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Nest(nest) => nest.body.iter().filter(|instr| **instr == Instr::Store(matrix(base), 2)).count(),
        _ => 0,
    };
    program.body.iter().map(of).sum()
}

#[test]
fn a_value_takes_the_place_of_what_it_is_computed_from() {
    let mut found = program(1, 3, step(Vec::new(), ScalarFn::Div));
    condense(&mut found);
    assert_eq!(found.tiles.len(), 2, "{found:?}");
    assert_eq!(stores(&found, Base::Tile(0)), 2, "{found:?}");
}

#[test]
fn a_cheap_value_is_computed_again_where_what_it_needs_is_still_read() {
    // The state is read in between, in another order, so it must stay.
    let body = vec![Instr::Load(matrix(Base::Tile(0))), Instr::Store(matrix(Base::Arg(0)), 0)];
    let read = Stmt::Nest(Nest { dims: vec![COLUMN, ROW], body });
    let mut found = program(1, 3, step(vec![read.clone()], ScalarFn::Mul));
    condense(&mut found);
    assert_eq!(found.tiles.len(), 2, "{found:?}");
    // A division is not cheap.
    let before = program(1, 3, step(vec![read], ScalarFn::Div));
    let mut kept = before.clone();
    condense(&mut kept);
    assert_eq!(kept.tiles, before.tiles);
}

#[test]
fn nothing_is_computed_from_what_has_changed() {
    let change = nest(vec![Instr::Float(1.0), Instr::Store(matrix(Base::Tile(0)), 0)]);
    let before = program(1, 3, step(vec![change], ScalarFn::Mul));
    let mut found = before.clone();
    condense(&mut found);
    assert_eq!(found.tiles, before.tiles);
}

/// Two sums of one tile into others, and a copy of the first sum to an argument between them.
fn two_sums(second: Vec<Instr>) -> Vec<Stmt> {
    let first = nest(vec![Instr::Load(matrix(Base::Tile(0))), sum(0, Base::Tile(1))]);
    let copy = Stmt::Nest(Nest {
        dims: vec![COLUMN],
        body: vec![
            Instr::Load(Place::Strided(columns(Base::Tile(1)))),
            Instr::Store(Place::Strided(columns(Base::Arg(0))), 0),
        ],
    });
    vec![first, copy, nest(second)]
}

#[test]
fn nests_that_load_the_same_are_joined_before_what_needs_them() {
    let load = || Instr::Load(matrix(Base::Tile(0)));
    let mut found = program(1, 3, two_sums(vec![load(), map(ScalarFn::Mul, 0, 0), sum(1, Base::Tile(2))]));
    condense(&mut found);
    let joined = vec![load(), sum(0, Base::Tile(1)), map(ScalarFn::Mul, 0, 0), sum(2, Base::Tile(2))];
    assert_eq!(found.body.len(), 2, "{found:?}");
    assert_eq!(found.body[0], nest(joined));
}

#[test]
fn a_nest_that_needs_another_s_result_is_not_joined_with_it() {
    let sums = Instr::Load(Place::Strided(columns(Base::Tile(1))));
    let second =
        vec![Instr::Load(matrix(Base::Tile(0))), sums, map(ScalarFn::Mul, 0, 1), sum(2, Base::Tile(2))];
    let before = program(1, 3, two_sums(second));
    let mut found = before.clone();
    condense(&mut found);
    assert_eq!(found, before);
}

#[test]
fn a_tile_that_is_turned_over_into_is_named_anew_once() {
    let tile = |at| view(Base::Tile(at), &[(ROW, 8), (COLUMN, 1)]);
    // Of six tiles three are looked at: those left are numbered from 0 on.
    let dot = Stmt::Dot(Dot {
        batch: Vec::new(),
        m: vec![ROW],
        n: vec![COLUMN],
        k: vec![ROW],
        a: tile(1),
        b: Place::Strided(tile(4)),
        across: false,
        turned: Some(Box::new(view(Base::Arg(0), &[(ROW, 8), (COLUMN, 1)]))),
        c: Place::Strided(tile(5)),
        accumulate: false,
        values: [DType::F32; 2],
        sum: 0,
    });
    let stored = nest(vec![Instr::Load(matrix(Base::Tile(5))), Instr::Store(matrix(Base::Arg(1)), 0)]);
    let mut program = program(2, 6, vec![dot, stored]);
    condense(&mut program);
    let [Stmt::Dot(dot), _] = &program.body[..] else { panic!("{:?}", program.body) };
    let names: Vec<&str> = program.tiles.iter().map(|tile| tile.name.as_str()).collect();
    assert_eq!(names, ["t1", "t4", "t5"]);
    assert_eq!(dot.b, Place::Strided(tile(1)));
}

#[test]
fn arguments_that_no_statement_names_are_taken_out() {
    let stored = nest(vec![Instr::Load(matrix(Base::Arg(1))), Instr::Store(matrix(Base::Arg(3)), 0)]);
    let mut program = program(4, 0, vec![stored]);
    assert_eq!(remove_arguments(&mut program), [false, true, false, true]);
    let names: Vec<&str> = program.args.iter().map(|arg| arg.name.as_str()).collect();
    assert_eq!(names, ["a1", "a3"]);
    let kept = nest(vec![Instr::Load(matrix(Base::Arg(0))), Instr::Store(matrix(Base::Arg(1)), 0)]);
    assert_eq!(program.body, [kept]);
}
