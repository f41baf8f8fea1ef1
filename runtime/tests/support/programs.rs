//! Random well-typed programs: a pool of values with a row for each token, to
//! which random ops are applied, in the main region and in repeats; at the end
//! everything is joined to logits. It computes nothing.

use super::numbers::Numbers;
use super::{blocks, experts};
use diptych_ir::{Axis, DType, EntryKind, Initializer, Op, Program};
use diptych_models::{ModelBuilder, Tensor};

/// The most positions of a sequence.
pub const CONTEXT: usize = 160;
/// Rows of the tables that tokens point into, and the number of classes where it is small.
pub const TOKENS: usize = 17;
/// Sizes of fixed axes: one, primes, vector widths and their neighbours.
const SIZES: [usize; 12] = [1, 2, 3, 5, 7, 16, 17, 31, 33, 48, 64, 100];
/// Most elements of a value, for each row.
pub const MOST_ELEMENTS: usize = 256;
/// Programs of seeds from here on have experts among their steps; those before are what they were without.
pub const ROUTED: u64 = 1_000_000;

/// A program under construction.
pub struct Random<'m> {
    /// The builder.
    pub m: &'m ModelBuilder,
    /// Where choices come from.
    pub numbers: Numbers,
    /// Values with a row for each token.
    pub pool: Vec<Tensor<'m>>,
    /// Those of the pool that nothing has used, by position.
    unused: Vec<usize>,
    /// Whether matrices may be rounded.
    pub low_precision: bool,
    /// Whether no position sees a later one.
    pub causal: bool,
    /// Whether experts are among the steps.
    routed: bool,
    names: usize,
    axes: usize,
}

/// The fixed axes of a value, in the order of their names.
pub fn fixed_axes(x: Tensor<'_>) -> Vec<Axis> {
    let ty = x.ty().expect("a value of an open region");
    ty.axes.iter().copied().filter(|axis| axis.fixed_size().is_some()).collect()
}

/// The product of fixed sizes.
pub fn elements(axes: &[Axis]) -> usize {
    axes.iter().filter_map(|axis| axis.fixed_size()).product()
}

impl<'m> Random<'m> {
    /// A new name.
    pub fn name(&mut self, stem: &str) -> String {
        self.names += 1;
        format!("{stem}{}", self.names)
    }

    /// A new axis of this size.
    pub fn axis_of(&mut self, size: usize) -> Axis {
        self.axes += 1;
        // Names in no order, so that the order of declaration is not that of names.
        let letter = char::from(b'a' + self.numbers.below(26) as u8);
        self.m.axis(&format!("{letter}{}", self.axes), size)
    }

    /// A new axis of a random size, of at most this many elements.
    pub fn axis(&mut self, most: usize) -> Axis {
        let sizes: Vec<usize> = SIZES.into_iter().filter(|&size| size <= most.max(1)).collect();
        let size = self.numbers.pick(&sizes);
        self.axis_of(size)
    }

    /// One or two new axes, of at most this many elements together.
    pub fn some_axes(&mut self, most: usize) -> Vec<Axis> {
        let first = self.axis(most);
        let left = most / elements(&[first]);
        if left < 2 || self.numbers.below(2) == 0 {
            return vec![first];
        }
        vec![first, self.axis(left)]
    }

    /// A parameter of about this size.
    pub fn param(&mut self, axes: &[Axis], size: f64) -> Tensor<'m> {
        let name = self.name("w");
        let mut order = axes.to_vec();
        if self.numbers.below(2) == 0 {
            order.reverse();
        }
        self.m.param(&name, order, Initializer::Uniform { bound: size }, true)
    }

    /// A value of the pool, more often one that nothing has used.
    pub fn value(&mut self) -> Tensor<'m> {
        let fresh = !self.unused.is_empty() && self.numbers.below(3) > 0;
        let at = if fresh { self.numbers.pick(&self.unused) } else { self.numbers.below(self.pool.len()) };
        self.unused.retain(|&other| other != at);
        self.pool[at]
    }

    /// Adds a value to the pool, if it is of a size for it.
    pub fn keep(&mut self, x: Tensor<'m>) {
        let Some(ty) = x.ty() else { return };
        assert!(ty.dtype.is_float(), "the pool holds floats, not {ty}");
        self.pool.push(x);
        self.unused.push(self.pool.len() - 1);
    }

    /// A subset of these axes, not empty unless there are none.
    pub fn subset(&mut self, axes: &[Axis]) -> Vec<Axis> {
        let mut chosen: Vec<Axis> = axes.iter().copied().filter(|_| self.numbers.below(2) == 0).collect();
        if chosen.is_empty() && !axes.is_empty() {
            chosen.push(self.numbers.pick(axes));
        }
        chosen
    }

    /// The axes of a table beside that of its rows: one, as a rule.
    pub fn column(&mut self, axes: &[Axis]) -> Vec<Axis> {
        match axes.is_empty() {
            true => vec![self.axis(16)],
            false if self.numbers.once_in(12) => self.subset(axes),
            false => vec![self.numbers.pick(axes)],
        }
    }

    /// The value brought to exactly these fixed axes, with a parameter.
    pub fn fit(&mut self, x: Tensor<'m>, wanted: &[Axis]) -> Tensor<'m> {
        let own = fixed_axes(x);
        let extra: Vec<Axis> = own.iter().copied().filter(|axis| !wanted.contains(axis)).collect();
        let missing: Vec<Axis> = wanted.iter().copied().filter(|axis| !own.contains(axis)).collect();
        match (extra.is_empty(), missing.is_empty()) {
            (true, true) => x,
            (false, true) if self.numbers.below(2) == 0 => {
                x.sum(extra.clone()) * (1.0 / elements(&extra) as f64)
            }
            (true, false) => x * self.param(&missing, 1.0),
            _ => {
                let size = 1.7 / (elements(&extra) as f64).sqrt();
                let weight = self.param(&[&extra[..], &missing].concat(), size);
                self.m.contract(&[x, weight], extra)
            }
        }
    }

    /// Brings all that nothing has used yet to these axes, and adds it up.
    fn join(&mut self, wanted: &[Axis]) -> Tensor<'m> {
        let rest = std::mem::take(&mut self.unused);
        let mut sum: Option<Tensor<'m>> = None;
        for at in rest {
            let x = self.fit(self.pool[at], wanted);
            sum = Some(match sum {
                Some(sum) => sum + x,
                None => x,
            });
        }
        let x = match sum {
            Some(sum) => sum,
            None => {
                let x = self.pool[self.pool.len() - 1];
                self.fit(x, wanted)
            }
        };
        x * 0.5
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            match self.routed && self.numbers.once_in(4) {
                true => experts::step(self),
                false => blocks::step(self),
            }
        }
    }

    /// A repeat over a random value of the pool.
    fn repeat(&mut self) {
        let x = self.value().cast(DType::F32);
        let axes = fixed_axes(x);
        let name = self.name("layers");
        let count = 1 + self.numbers.below(3);
        let (m, low_precision) = (self.m, self.low_precision);
        let outer = self.pool.clone();
        let mut inner = Random {
            m,
            numbers: self.numbers.clone(),
            pool: Vec::new(),
            unused: Vec::new(),
            low_precision,
            causal: self.causal,
            routed: self.routed,
            names: self.names,
            axes: self.axes,
        };
        let y = m.repeat(&name, count, x, |_, x| {
            inner.keep(x);
            if inner.numbers.once_in(3) {
                let captured = inner.numbers.pick(&outer);
                inner.pool.push(captured);
            }
            let steps = 1 + inner.numbers.below(4);
            inner.steps(steps);
            // Every layer computes something of its own.
            let y = inner.join(&axes);
            let shift = inner.param(&axes, 0.5);
            x * 0.5 + y + shift
        });
        (self.names, self.axes, self.causal) = (inner.names, inner.axes, inner.causal);
        self.numbers = inner.numbers;
        self.keep(y);
    }
}

/// What a seed's program is like.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Whether values are rounded to bf16 on the way: comparisons are then coarser.
    pub low_precision: bool,
    /// Whether no position sees a later one: a text may then be run in pieces.
    pub causal: bool,
}

/// The program of a seed, with the entries of a model, of which `Score` has
/// some values on the way as roots beside its own.
pub fn program(seed: u64) -> (Program, Traits) {
    let mut numbers = Numbers::new(seed, 1);
    let low_precision = numbers.once_in(4);
    let builder = ModelBuilder::new(&format!("random_{seed}"), CONTEXT);
    let mut extra = numbers.clone();
    let mut causal = true;
    let program = builder.finish(|m| {
        let mut random = Random {
            m,
            numbers,
            pool: Vec::new(),
            unused: Vec::new(),
            low_precision,
            causal: true,
            routed: seed >= ROUTED,
            names: 0,
            axes: 0,
        };
        let x = random.axis(100);
        random.keep(m.input("x", DType::F32, [m.batch(), m.time(), x]));
        let rows = random.axis_of(TOKENS);
        // Most tables have two axes, as in models.
        let columns = if random.numbers.once_in(12) { random.some_axes(64) } else { vec![random.axis(64)] };
        let table = random.param(&[&[rows][..], &columns].concat(), 1.0);
        random.keep(table.take(m.tokens(), rows));
        let before = 1 + random.numbers.below(4);
        random.steps(before);
        if random.numbers.below(2) == 0 {
            random.repeat();
            let after = random.numbers.below(4);
            random.steps(after);
        }
        let embed = random.axis(33);
        let x = random.join(&[embed]);
        let classes = random.numbers.pick(&[TOKENS, TOKENS, 31, 100, 272, 300]);
        let vocab = random.axis_of(classes);
        let weight = random.param(&[vocab, embed], 1.7 / (elements(&[embed]) as f64).sqrt());
        causal = random.causal;
        m.contract(&[x, weight], embed)
    });
    let mut program = program.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    add_roots(&mut program, &mut extra);
    (program, Traits { low_precision, causal })
}

/// Makes a few values that have a row for each token roots of `Score`.
fn add_roots(program: &mut Program, numbers: &mut Numbers) {
    let graph = &program.main().graph;
    let score: Vec<_> =
        program.entry(EntryKind::Score).expect("score").roots.iter().map(|root| root.1).collect();
    let candidates: Vec<_> = graph
        .ancestors(&score)
        .into_iter()
        .filter(|&id| {
            let ty = graph.ty(id);
            let rows = ty.axes.iter().filter(|axis| axis.fixed_size().is_none()).count() == 2
                && ty.axes.get("batch".into()).is_some()
                && ty.axes.get("time".into()).is_some();
            let fixed = ty.axes.iter().filter_map(|axis| axis.fixed_size()).product::<usize>();
            rows && ty.dtype == DType::F32
                && fixed <= MOST_ELEMENTS
                && !matches!(graph.op(id), Op::Input(_))
                && !score.contains(&id)
        })
        .collect();
    if candidates.is_empty() {
        return;
    }
    for number in 0..1 + numbers.below(3) {
        let id = numbers.pick(&candidates);
        let entry = program.entries.iter_mut().find(|entry| entry.kind == EntryKind::Score).expect("score");
        entry.roots.push((format!("root{number}").as_str().into(), id));
        let results = &mut program.regions[0].results;
        if !results.contains(&id) {
            results.push(id);
        }
    }
}
