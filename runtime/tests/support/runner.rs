//! Entries of a session that run on stretches of texts, and the bits of what they give, each at its place. It does not
//! say what the bits should be.

use diptych_codegen::entry::Limits;
use diptych_ir::{DType, EntryKind, NodeId, Program, Symbol};
use diptych_runtime::executor::{Binding, CacheRooms, CacheSize, Executable, Sequence};
use diptych_runtime::session::{Device, Session};

/// Chunks that a text has in caches.
const CHUNKS: usize = 3;

/// The logits of all tokens.
pub fn logits(program: &Program) -> NodeId {
    let graph = &program.main().graph;
    let last = program.entry(EntryKind::Prefill).unwrap().root("logits").unwrap();
    let vocab = graph.axes(last).iter().copied().find(|axis| axis.fixed_size().is_some()).unwrap();
    let of_tokens = |id: &NodeId| {
        graph.axes(*id).contains(vocab) && graph.axes(*id).len() == 3 && graph.ty(*id).dtype == DType::F32
    };
    let log_prob = program.entry(EntryKind::Score).unwrap().root("log_prob").unwrap();
    graph.ancestors(&[log_prob]).into_iter().find(of_tokens).unwrap()
}

/// How many tokens a program chooses from.
pub fn vocabulary(program: &Program) -> usize {
    program.main().graph.axes(logits(program)).iter().find_map(|axis| axis.fixed_size()).unwrap()
}

/// The program whose prefill and decode give what is asked of all tokens.
pub fn with_probes(program: &Program) -> Program {
    let mut program = program.clone();
    let logits = logits(&program);
    let log_prob = program.entry(EntryKind::Score).unwrap().root("log_prob").unwrap();
    for entry in &mut program.entries {
        if entry.kind.cached() {
            entry.roots = vec![(Symbol::new("log_prob"), log_prob), (Symbol::new("all_logits"), logits)];
        }
    }
    program
}

/// Room in caches for so many texts.
pub fn room(texts: usize) -> CacheSize {
    CacheSize { chunks: CHUNKS * texts, sequences: texts }
}

/// Texts, each with its targets; some positions have none.
pub struct Texts {
    pub tokens: Vec<Vec<i32>>,
    pub targets: Vec<Vec<i32>>,
}

impl Texts {
    pub fn new(lengths: &[usize], vocab: usize) -> Texts {
        let id = |text: usize, at: usize| ((text * 7919 + at * 104_729 + at * at * 31) % vocab) as i32;
        let target = |text: usize, at: usize| if at % 11 == 5 { -1 } else { id(text, at + 1) };
        let each = |of: &dyn Fn(usize, usize) -> i32| {
            lengths
                .iter()
                .enumerate()
                .map(|(text, &length)| (0..length).map(|at| of(text, at)).collect())
                .collect()
        };
        Texts { tokens: each(&id), targets: each(&target) }
    }
}

/// A stretch of a text that runs at once.
#[derive(Clone, Copy)]
pub struct Piece {
    pub text: usize,
    pub start: usize,
    pub length: usize,
}

/// An entry with its tables, and the chunks that each text has, if it has any.
pub struct Runner<'d> {
    device: &'d Device,
    run: Executable,
    binding: Binding,
    chunks: Vec<Vec<i32>>,
}

impl<'d> Runner<'d> {
    /// Of runs of at most these sizes, with room for as many texts.
    pub fn new(
        device: &'d Device,
        session: &Session,
        kind: EntryKind,
        caches: Option<&CacheRooms>,
        limits: Limits,
    ) -> Runner<'d> {
        let mut run = session.executable(device, kind, caches, limits).unwrap();
        let size = caches.map_or(CacheSize::default(), CacheRooms::size);
        let binding = Binding::cached(limits, session.context, size);
        run.refresh(device, &binding).unwrap();
        // Each text's chunks, in an order that is nobody's.
        let texts = limits.batch as i32;
        let chunks = |text| vec![CHUNKS as i32 * texts - 1 - text, text, texts + (text + 3) % texts];
        let chunks =
            (0..texts).map(|text| if caches.is_some() { chunks(text) } else { Vec::new() }).collect();
        Runner { device, run, binding, chunks }
    }

    pub fn run(&mut self, texts: &Texts, pieces: &[Piece]) {
        let sequences: Vec<Sequence> = pieces
            .iter()
            .map(|piece| Sequence {
                origin: piece.start,
                length: piece.length,
                chunks: &self.chunks[piece.text],
                state: piece.text,
            })
            .collect();
        self.binding.bind(&sequences).unwrap();
        for (name, from) in [("tokens", &texts.tokens), ("targets", &texts.targets)] {
            let ids: Vec<i32> = pieces
                .iter()
                .flat_map(|piece| from[piece.text][piece.start..piece.start + piece.length].iter().copied())
                .collect();
            self.run.input::<i32>(name).unwrap()[..ids.len()].copy_from_slice(&ids);
        }
        if let Some(inverse) = self.run.input::<f32>("inverse_tokens") {
            inverse[0] = 0.01;
        }
        self.run.run(self.device, &self.binding).unwrap();
    }

    /// Runs pieces and puts each one's rows of a root to their places in `found`.
    pub fn collect(&mut self, texts: &Texts, pieces: &[Piece], root: &str, found: &mut [Vec<u32>]) {
        self.run(texts, pieces);
        self.take(pieces, root, found);
    }

    pub fn take(&self, pieces: &[Piece], root: &str, found: &mut [Vec<u32>]) {
        let width = self.run.root_width(root).unwrap();
        let mut rows = self.run.root(root).unwrap().chunks_exact(width);
        for piece in pieces {
            for at in piece.start..piece.start + piece.length {
                let row = rows.next().unwrap();
                for (found, x) in found[piece.text][at * width..(at + 1) * width].iter_mut().zip(row) {
                    *found = x.to_bits();
                }
            }
        }
    }
}

/// Fails at the first position that differs.
pub fn assert_same(case: &str, width: usize, expected: &[Vec<u32>], found: &[Vec<u32>]) {
    for (text, (expected, found)) in expected.iter().zip(found).enumerate() {
        let differs = |(a, b): (&u32, &u32)| a != b;
        let count = expected.iter().zip(found).filter(|pair| differs(*pair)).count();
        if let Some(at) = expected.iter().zip(found).position(differs) {
            let (a, b) = (f32::from_bits(expected[at]), f32::from_bits(found[at]));
            let length = expected.len() / width;
            panic!(
                "{case}: {count} of {} bits of text {text} of {length} tokens differ, first at position {}: {a:e} is not {b:e}",
                expected.len(),
                at / width
            );
        }
    }
}
