//! What a launch has to do as a whole, however it is cut: the contractions with all of their rows, columns and
//! depth, the distinct bytes, each pointwise operation once. It is what a machine needs that cuts kernels its own
//! way (a GPU), where tile programs were lowered with the blocks of a CPU. It must not know machines.

use super::operations::Operations;
use super::sizes::{At, RunSizes, Sizes};
use super::variation::Variation;
use super::{Counter, accesses};
use crate::machine::Precision;
use crate::work::ScalarOps;
use diptych_codegen::entry::Launch;
use diptych_codegen::tile::{self, Base, DimId, Extent, Instr, Place, Stmt, TileProgram};
use std::cell::RefCell;

/// One contraction over all that a launch is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contraction {
    /// Independent products.
    pub batch: f64,
    /// Rows of each.
    pub rows: f64,
    /// Columns of each.
    pub columns: f64,
    /// Length of each sum.
    pub depth: f64,
    /// Floating-point operations, two for a multiply-add, those that masks leave out not counted.
    pub flops: f64,
    /// Type in which a matrix unit takes the factors: the narrowest of the launch. Where the graph leaves the other
    /// factor in f32 (a gradient, a probability), it is taken to be rounded on its way in, as others do.
    pub precision: Precision,
    /// Whether it is done block by block while positions of a sequence stream past (attention).
    pub streamed: bool,
}

/// How the positions of sequences stream past those that a block holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Independent walks over each sequence: key and value heads.
    pub heads: f64,
    /// Rows that a held position has in a walk: the query heads that share a key head.
    pub rows_per_position: f64,
    /// Held positions of each sequence.
    pub held: Vec<f64>,
    /// Most positions that stream past one block.
    pub longest: f64,
    /// The same, on average over blocks.
    pub mean: f64,
    /// Bytes in f32 of what a walk accumulates, over all: what is kept for each part if a walk is cut in parts.
    pub carried_bytes: f64,
}

/// All that a launch has to do, undivided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whole {
    /// Contractions.
    pub contractions: Vec<Contraction>,
    /// The walk over sequences, where there is one.
    pub stream: Option<Stream>,
    /// Pointwise operations.
    pub scalar: ScalarOps,
    /// Distinct bytes read.
    pub read_bytes: f64,
    /// Distinct bytes written.
    pub written_bytes: f64,
}

/// The work of one launch of `program` in a run of these sizes, undivided.
pub fn whole_work(program: &TileProgram, launch: &Launch, run: &RunSizes) -> Whole {
    // What stores nothing is left out by whoever writes the kernel.
    if !program.args.iter().any(|arg| arg.written) {
        return Whole::default();
    }
    let sizes = Sizes { program, launch, run, differs: RefCell::new(None) };
    // Panels are a matter of the CPU's vectors: one column wide, none is filled up.
    let mut counter = Counter {
        operations: Operations::of_whole(),
        variation: Some(Variation::new(program)),
        ..Counter::new(&sizes, 2)
    };
    counter.statements(&program.body, At::INSTANCE);
    let narrow = narrow_tiles(program);
    let mut whole = Whole { scalar: counter.operations.scalar, ..Whole::default() };
    (whole.read_bytes, whole.written_bytes) = counter.accesses.distinct_bytes();
    let variation = Variation::new(program);
    for &(dot, at) in &counter.contractions {
        *sizes.differs.borrow_mut() = Some(variation.of_dot(dot));
        // Where chunks are divided among instances, positions stream past tokens all the same.
        let dims = [&dot.batch[..], &dot.m, &dot.n, &dot.k].concat();
        let streamed = at.stream.map(|stream| stream.0).filter(|&dim| sizes.is_sequence(dim));
        let streamed = streamed.or_else(|| divided_walk(&sizes, &dims));
        let streams = streamed.is_some();
        let all = |dims: &[DimId]| dims.iter().map(|&dim| sizes.total(dim)).product::<f64>();
        let factors = [is_narrow_view(&dot.a, program, &narrow), is_narrow(&dot.b, program, &narrow)];
        let mut contraction = Contraction {
            batch: all(&dot.batch),
            rows: all(&dot.m),
            columns: all(&dot.n),
            depth: all(&dot.k),
            flops: 2.0 * sizes.points(&dims, at),
            precision: if factors.contains(&true) { Precision::Bf16 } else { Precision::F32 },
            streamed: streams,
        };
        let [a, b, c] = variation.of_operands(dot);
        for dim in sizes.loops(at).into_iter().filter(|dim| !dims.contains(dim) && !sizes.is_sequence(*dim)) {
            let blocks = sizes.blocks(dim);
            match (a.contains(&dim), b.contains(&dim), c.contains(&dim)) {
                (false, false, false) => {}
                (true, false, _) => contraction.rows *= blocks,
                (false, true, _) => contraction.columns *= blocks,
                _ => contraction.batch *= blocks,
            }
        }
        // Rows that chose the same weights are multiplied together: a product for each weight that is used.
        if let Some(used) = dot.m.iter().find_map(|&dim| sizes.used_ids(dim)) {
            contraction.batch *= used;
            contraction.rows /= used;
        }
        whole.contractions.push(contraction);
        if let Some(dim) = streamed {
            let stream = whole.stream.get_or_insert_with(|| shape(&sizes, at));
            if let Some(held) =
                dot.m.iter().chain(&dot.n).find(|&&held| held != dim && sizes.is_sequence(held))
            {
                let side = if dot.m.contains(held) { &dot.m } else { &dot.n };
                let others: Vec<DimId> = side.iter().copied().filter(|each| each != held).collect();
                stream.rows_per_position = stream.rows_per_position.max(all(&others));
            }
            if dot.k.contains(&dim) {
                let results = [&dot.batch[..], &dot.m, &dot.n].concat();
                // Divided chunks each have the results of all tokens, of which each sequence has one.
                let chunks = if at.stream.is_none() { sizes.blocks(dim) / run.rows() as f64 } else { 1.0 };
                stream.carried_bytes += 4.0 * sizes.points(&results, At::INSTANCE) / chunks;
            }
        }
    }
    let narrowest = whole.contractions.iter().map(|each| each.precision).min();
    if let Some(precision) = narrowest {
        whole.contractions.iter_mut().for_each(|each| each.precision = precision);
    }
    whole
}

/// The positions so far, of a contraction over them and over tokens, where instances have a chunk of them each.
fn divided_walk(sizes: &Sizes<'_>, dims: &[DimId]) -> Option<DimId> {
    let is_past = |dim: &DimId| matches!(sizes.extent(*dim), Extent::Past { .. });
    let past = sizes.program.grid.iter().copied().find(is_past).filter(|past| dims.contains(past))?;
    dims.iter().any(|&dim| sizes.extent(dim) == Extent::Time).then_some(past)
}

/// The stream at `at`, without what contractions say of it.
fn shape(sizes: &Sizes<'_>, at: At) -> Stream {
    let grid = &sizes.program.grid;
    let heads = grid.iter().filter(|&&dim| !sizes.is_sequence(dim)).map(|&dim| sizes.total(dim)).product();
    let holds = |&dim: &DimId| matches!(sizes.extent(dim), Extent::Past { .. });
    let by_past = at.stream.is_some() && grid.iter().any(holds);
    let held = sizes.run.sequences.iter().map(|sequence| match by_past {
        true => (sequence.origin + sequence.length) as f64,
        false => sequence.length as f64,
    });
    let (longest, mean) = match at.stream {
        Some(_) => sizes.streamed_positions(at),
        None => {
            let positions = sizes.run.sequences.iter().map(|sequence| sequence.origin + sequence.length);
            let (longest, all) = (positions.clone().max().unwrap_or(0), positions.sum::<usize>());
            (longest as f64, all as f64 / sizes.run.batch().max(1) as f64)
        }
    };
    Stream { heads, rows_per_position: 1.0, held: held.collect(), longest, mean, carried_bytes: 0.0 }
}

/// Which tiles hold only what was rounded to a narrow type. Tiles hold f32 whatever is in them, since the CPU multiplies
/// in f32; a matrix unit would take the narrow values themselves.
fn narrow_tiles(program: &TileProgram) -> Vec<bool> {
    let mut narrow = vec![true; program.tiles.len()];
    // A tile that takes from a wide one is found wide in the next round: as many rounds as tiles suffice.
    for _ in 0..=program.tiles.len() {
        let mut next = vec![None; program.tiles.len()];
        mark(&program.body, program, &narrow, &mut next);
        let next: Vec<bool> = next.into_iter().map(|found| found.unwrap_or(false)).collect();
        if next == narrow {
            break;
        }
        narrow = next;
    }
    narrow
}

fn mark(body: &[Stmt], program: &TileProgram, narrow: &[bool], found: &mut [Option<bool>]) {
    for stmt in body {
        match stmt {
            Stmt::Nest(nest) => {
                let mut values: Vec<bool> = Vec::with_capacity(nest.body.len());
                for instr in &nest.body {
                    let value = match instr {
                        Instr::Load(place) | Instr::LoadAt { table: place, .. } => {
                            is_narrow(place, program, narrow)
                        }
                        Instr::Round(..) => true,
                        // What fills up the rest is zero.
                        Instr::Float(value) => *value == 0.0,
                        Instr::Map(diptych_ir::ScalarFn::Select, operands) => {
                            operands[1..].iter().all(|&operand| values[operand])
                        }
                        _ => false,
                    };
                    values.push(value);
                    match instr {
                        Instr::Store(place, value) => write(found, place, values[*value]),
                        Instr::Reduce { into, .. } => write(found, &Place::Strided(into.clone()), false),
                        _ => {}
                    }
                }
            }
            Stmt::Dot(dot) => {
                if let Some(from) = &dot.turned {
                    write(found, &dot.b, is_narrow_view(from, program, narrow));
                }
                write(found, &dot.c, false);
            }
            Stmt::Transpose { from, to, .. } => {
                write(found, &Place::Strided(to.clone()), is_narrow(from, program, narrow));
            }
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => mark(body, program, narrow, found),
            Stmt::When { yes, no, .. } => {
                mark(yes, program, narrow, found);
                mark(no, program, narrow, found);
            }
            Stmt::Fill { .. }
            | Stmt::TopK { .. }
            | Stmt::Group { .. }
            | Stmt::AddRows(_)
            | Stmt::Round { .. } => {}
        }
    }
}

/// What is written at a place is narrow, or is not.
fn write(found: &mut [Option<bool>], place: &Place, is_narrow: bool) {
    if let Place::Strided(tile::View { base: Base::Tile(tile), .. }) = place {
        found[*tile] = Some(found[*tile].unwrap_or(true) && is_narrow);
    }
}

fn is_narrow_view(view: &tile::View, program: &TileProgram, narrow: &[bool]) -> bool {
    match view.base {
        Base::Tile(tile) => narrow[tile],
        Base::Arg(arg) => program.args[arg].dtype.is_narrow(),
        Base::Table(_) => false,
    }
}

fn is_narrow(place: &Place, program: &TileProgram, narrow: &[bool]) -> bool {
    match place {
        Place::Strided(view) => is_narrow_view(view, program, narrow),
        Place::Packed(_) => accesses::argument(place).is_some_and(|arg| program.args[arg].dtype.is_narrow()),
    }
}
