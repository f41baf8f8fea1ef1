//! One entry of a program in native code, run on texts or stretches of them.
//! It compares nothing with the evaluator.

use super::check::{Case, Options};
use super::programs::CONTEXT;
use super::reference::Text;
use diptych_codegen::entry::{Limits, Role};
use diptych_ir::evaluate::Value;
use diptych_ir::{Axis, DType, EntryKind, Op, Symbol};
use diptych_passes::layout::{Layout, Leading};
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{
    Binding, CacheRooms, CacheSize, CpuExecutable, Kernels, ParameterStore, Sequence, SharedMemory,
};
use std::collections::BTreeMap;

/// The most texts of a run.
const TEXTS: usize = 5;

/// A stretch of a text.
#[derive(Clone, Copy)]
pub struct Piece<'t> {
    /// The text.
    pub text: &'t Text,
    /// Its first position.
    pub start: usize,
    /// Positions.
    pub length: usize,
    /// Where the text is cached, if it is.
    pub chunks: &'t [i32],
}

impl<'t> Piece<'t> {
    /// All of a text, without a cache.
    pub fn whole(text: &'t Text) -> Piece<'t> {
        Piece { text, start: 0, length: text.length, chunks: &[] }
    }

    /// The place of its state: the second chunk of each text has the text's number.
    fn state(&self) -> usize {
        self.chunks.get(1).map_or(0, |&chunk| chunk as usize)
    }
}

/// The rows of each root in a run, by root and piece.
pub type Rows = BTreeMap<Symbol, Vec<Vec<f32>>>;

/// Whether numbers are the same, bit for bit.
pub fn same_bits(left: &[f32], right: &[f32]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Chunks of caches for each of the most texts, in an order that is nobody's.
pub fn chunks() -> Vec<Vec<i32>> {
    let texts = TEXTS as i32;
    (0..texts).map(|text| vec![3 * texts - 1 - text, text, texts + (text + 3) % texts]).collect()
}

/// Room for all that [`chunks`] names.
pub const CACHE: CacheSize = CacheSize { chunks: 3 * TEXTS, sequences: TEXTS };

/// An entry that is run on texts.
pub struct Run<'a> {
    case: &'a Case,
    executable: CpuExecutable,
    binding: Binding,
    roots: Vec<(Symbol, Layout)>,
    kind: EntryKind,
    panel: usize,
}

impl Run<'_> {
    /// Loads an entry, with parameters and the caches that it has.
    ///
    /// # Errors
    /// When something is missing.
    pub fn new<'a>(
        case: &'a Case,
        kind: EntryKind,
        (store, caches): (&ParameterStore, Option<&CacheRooms>),
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<Run<'a>, String> {
        let limits = Limits { rows: TEXTS * CONTEXT, batch: TEXTS };
        let entry = &case.compiled.entries[&kind];
        let shared = SharedMemory { caches, workspace: None };
        let mut executable = CpuExecutable::load(entry, kernels, store, shared, limits, 1, options.width)
            .map_err(|error| error.to_string())?;
        let roots = entry.buffers.iter().filter_map(|buffer| match buffer.role {
            Role::Root(name) => Some((name, buffer.layout.clone())),
            _ => None,
        });
        let binding = Binding::cached(limits, CONTEXT, caches.map_or(CacheSize::default(), CacheRooms::size));
        let panel = options.width.panel();
        executable.refresh(pool, &binding);
        Ok(Run { case, executable, binding, roots: roots.collect(), kind, panel })
    }

    /// The order of a value's axes, as its rows lie.
    fn order(&self, axes: &[Axis]) -> Vec<Axis> {
        let fixed = axes.iter().copied().filter(|axis| axis.fixed_size().is_some());
        let mut order: Vec<Axis> = ["batch", "time"]
            .iter()
            .filter_map(|name| axes.iter().copied().find(|axis| axis.name.as_str() == *name))
            .collect();
        order.extend(self.case.compiled.layouts.ordered(fixed));
        order
    }

    /// A root's value of one sequence, as its rows lie.
    pub fn in_rows(&self, name: Symbol, value: &Value) -> Vec<f64> {
        let entry = self.case.program.entry(self.kind);
        let node = entry.and_then(|entry| entry.root(name.as_str())).expect("a root");
        value.in_order(&self.order(self.case.program.main().graph.axes(node)))
    }

    /// A root of any type, as numbers.
    fn root(&self, name: &str) -> Option<Vec<f32>> {
        let run = &self.executable;
        let whole = || Some(run.root_as::<i32>(DType::I32, name)?.iter().map(|&x| x as f32).collect());
        let mask = || Some(run.root_as::<u8>(DType::Bool, name)?.iter().map(|&x| f32::from(x)).collect());
        run.root(name).map(<[f32]>::to_vec).or_else(whole).or_else(mask)
    }

    /// What an input has for these pieces, one after the other.
    fn input_rows(&self, name: Symbol, axes: &[Axis], pieces: &[Piece]) -> Vec<f64> {
        let order = self.order(axes);
        let has = |name: &str| order.iter().any(|axis| axis.name.as_str() == name);
        let of = |piece: &Piece| piece.text.inputs[&name].in_order(&order);
        match (has("time"), has("batch")) {
            (true, _) => {
                let rows = |piece: &Piece| {
                    let all = of(piece);
                    let width = all.len() / piece.text.length;
                    all[piece.start * width..(piece.start + piece.length) * width].to_vec()
                };
                pieces.iter().flat_map(rows).collect()
            }
            // Which token of each sequence's new ones is asked for.
            (false, true) if name.as_str() == "last" => {
                pieces.iter().map(|piece| (piece.length - 1) as f64).collect()
            }
            (false, true) => pieces.iter().flat_map(of).collect(),
            (false, false) => pieces.iter().take(1).flat_map(of).collect(),
        }
    }

    /// Runs the entry once on these pieces.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn rows(&mut self, pieces: &[Piece], pool: &Pool) -> Result<Rows, String> {
        let sequences: Vec<Sequence> = pieces
            .iter()
            .map(|piece| Sequence {
                origin: piece.start,
                length: piece.length,
                chunks: piece.chunks,
                state: piece.state(),
            })
            .collect();
        self.binding.bind(&sequences).map_err(|error| error.to_string())?;
        let graph = &self.case.program.main().graph;
        for id in graph.ids() {
            let Op::Input(input) = graph.op(id) else { continue };
            let rows = self.input_rows(input.name, &input.ty.axes, pieces);
            if input.ty.dtype == DType::I32 {
                if let Some(room) = self.executable.input::<i32>(input.name.as_str()) {
                    room.iter_mut().zip(&rows).for_each(|(room, &x)| *room = x as i32);
                }
            } else if let Some(room) = self.executable.input::<f32>(input.name.as_str()) {
                room.iter_mut().zip(&rows).for_each(|(room, &x)| *room = x as f32);
            }
        }
        self.executable.run(pool, &self.binding);
        let mut found = Rows::new();
        for (name, layout) in &self.roots {
            let numbers = self.root(name.as_str()).ok_or("a root is missing")?;
            let width = layout.row_elements(self.panel);
            let mut start = 0;
            for piece in pieces {
                let rows = match layout.leading() {
                    Leading::Rows => piece.length,
                    Leading::Batch => 1,
                    _ => continue,
                };
                let end = start + rows * width;
                found.entry(*name).or_default().push(numbers[start..end].to_vec());
                start = end;
            }
        }
        Ok(found)
    }
}
