//! What an op costs in a binding: the additive model that extraction
//! optimises. It knows no fusion and no kernel; see the crate `cost` for those.

use diptych_ir::{Axes, Axis, EntryKind, Op, ScalarFn, Size, Symbol};
use std::collections::BTreeMap;

use super::language::Facts;
use super::rules::Class;

/// How an entry is run, and how much of that there will be.
#[derive(Clone, PartialEq, Debug)]
pub struct Binding {
    /// The entry.
    pub entry: EntryKind,
    /// A typical value of each symbolic size.
    pub sizes: BTreeMap<Symbol, usize>,
    /// Tokens that it will process over the model's life.
    pub tokens: f64,
}

impl Binding {
    /// Sequences of `batch`, `time` new tokens each, which see `past` positions.
    pub fn new(entry: EntryKind, batch: usize, time: usize, past: usize, tokens: f64) -> Binding {
        let sizes = [("batch", batch), ("time", time), ("past", past)];
        Binding { entry, sizes: sizes.map(|(name, size)| (Symbol::new(name), size)).into(), tokens }
    }

    /// How often the entry is run.
    pub fn runs(&self) -> f64 {
        let size = |name: &str| self.sizes.get(&Symbol::new(name)).copied().unwrap_or(1).max(1) as f64;
        self.tokens / (size("batch") * size("time"))
    }

    /// Elements along an axis; `None` if its symbol has no value.
    pub(super) fn size(&self, axis: Axis) -> Option<f64> {
        match axis.size {
            Size::Fixed(size) => Some(size as f64),
            Size::Symbolic(symbol) => self.sizes.get(&symbol).map(|&size| size as f64),
        }
    }
}

/// What is to be made small: the time that all entries take together.
#[derive(Clone, PartialEq, Debug)]
pub struct Objective {
    /// Peak floating-point operations per second of a matrix product.
    pub flops_per_second: f64,
    /// Bytes per second to and from memory.
    pub bytes_per_second: f64,
    /// Whether values that depend on parameters only are computed once, at
    /// load, when serving. If not, they are paid in each run as when training.
    pub derived_at_load: bool,
    /// Whether products that share an operand are one kernel, so that it is read once for all of them. If not, each
    /// product reads both of its operands, as where a library's routine is called for each.
    pub shared_reads: bool,
    /// The entries, with their weights.
    pub bindings: Vec<Binding>,
    /// Which rules are applied: those of this class and of stricter ones.
    pub class: Class,
    /// When saturation stops.
    pub limits: Limits,
}

impl Objective {
    /// With weights derived at load: training on 8×256 tokens, prompts of 256 and decoding at 1024 positions,
    /// for so many tokens trained and served (half of these prompts).
    pub fn typical(flops_per_second: f64, bytes_per_second: f64, trained: f64, served: f64) -> Objective {
        Objective {
            flops_per_second,
            bytes_per_second,
            derived_at_load: true,
            shared_reads: true,
            bindings: vec![
                Binding::new(EntryKind::Train, 8, 256, 256, trained),
                Binding::new(EntryKind::Prefill, 1, 256, 256, served / 2.0),
                Binding::new(EntryKind::Decode, 1, 1, 1024, served / 2.0),
            ],
            class: Class::Real,
            limits: Limits::default(),
        }
    }
}

impl Objective {
    /// Seconds over the model's life, given those of a run of each binding.
    pub fn total(&self, seconds: &[f64]) -> f64 {
        self.bindings.iter().zip(seconds).map(|(binding, seconds)| binding.runs() * seconds).sum()
    }
}

/// When saturation of a layer stops. There is no limit of time: what is
/// compiled must not depend on how busy the machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// E-nodes: never more than these.
    pub nodes: usize,
    /// E-nodes after which no further round begins.
    pub enough: usize,
    /// Rounds of all rules.
    pub rounds: usize,
    /// Matching steps; a million take about a tenth of a second.
    pub steps: usize,
    /// Matches of one rule in one class in one round: layers that are alike are explored alike.
    pub matches: usize,
}

/// Nodes of a layer, about, with its backward pass.
const LAYER: usize = 200;

impl Limits {
    /// The limits of a region of so many nodes: one that holds several layers gets as much for each, so that equal
    /// layers come out alike.
    pub(super) fn of_region(self, nodes: usize) -> Limits {
        let scaled = |limit: usize| limit * nodes.max(LAYER) / LAYER;
        let Limits { nodes: most, enough, rounds, steps, matches } = self;
        Limits { nodes: scaled(most), enough: scaled(enough), rounds, steps: scaled(steps), matches }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 20_000, enough: 5_000, rounds: 100, steps: 4_000_000, matches: 400 }
    }
}

// Scalar operations of pointwise code in units of a matrix product's: vector
// code gets one result where the product gets a multiplication and an addition,
// a division takes about 8 of these, a polynomial for a transcendental 12.
const PLAIN: f64 = 2.0;
const DIVISION: f64 = 16.0;
const TRANSCENDENTAL: f64 = 24.0;

/// How costs are counted in one binding of one region.
#[derive(Clone, Debug)]
pub(super) struct Rates<'a> {
    pub objective: &'a Objective,
    pub binding: &'a Binding,
    /// Passes over each op for one of its value: three when its gradient is still to come.
    pub passes: f64,
}

impl Rates<'_> {
    /// Seconds that an op takes in one run, beside what its operands take.
    pub fn seconds(&self, op: &Op, operands: &[&Facts], result: &Facts) -> f64 {
        let serving = !self.binding.entry.trains();
        if result.param_only && serving && self.objective.derived_at_load {
            return 0.0;
        }
        let elements =
            |axes: &Axes| -> f64 { axes.iter().filter_map(|&axis| self.binding.size(axis)).product() };
        let stored = |facts: &Facts| match is_quadratic(&facts.ty.axes) {
            true => 0.0,
            false => elements(&facts.ty.axes) * facts.ty.dtype.bytes() as f64,
        };
        let read = || operands.iter().map(|facts| stored(facts)).sum::<f64>();
        let write = stored(result);
        // Weights and what caches keep are read by each product. What is computed is read once for all that share it,
        // which its own product is charged.
        let at_product = |facts: &Facts| facts.param_only || over_past(&facts.ty.axes);
        let moved_by_product = || match self.objective.shared_reads {
            true => {
                operands.iter().filter(|facts| at_product(facts)).map(|facts| stored(facts)).sum::<f64>()
                    + 2.0 * write
            }
            false => read() + write,
        };
        // A pointwise op is fused into its users, but weights are made before they are used.
        let materialized = if result.param_only { read() + write } else { 0.0 };
        let (flops, bytes) = match op {
            Op::Contract(contract) => {
                let axes: Axes = operands
                    .iter()
                    .try_fold(Axes::none(), |axes, facts| axes.union(&facts.ty.axes))
                    .unwrap_or_default();
                let points = elements(&axes);
                match operands {
                    [left, right] if is_matrix_product(&left.ty.axes, &right.ty.axes, &contract.over) => {
                        (2.0 * points, moved_by_product())
                    }
                    // An order is still to be chosen: charged as if each factor were a pass over all points.
                    [_, _, _, ..] => {
                        let passes = (operands.len() - 1) as f64;
                        (2.0 * PLAIN * points * passes, read() + write + points * 4.0 * passes)
                    }
                    // What is no matrix product becomes a pointwise product and a sum.
                    _ => {
                        let product = PLAIN * points * operands.len().saturating_sub(1) as f64;
                        match contract.over.is_empty() {
                            true => (product, materialized),
                            false => {
                                let widest = if is_quadratic(&axes) { read() } else { points * 4.0 };
                                (product + PLAIN * points, widest + write)
                            }
                        }
                    }
                }
            }
            Op::Reduce(_) => {
                (operands.iter().map(|facts| PLAIN * elements(&facts.ty.axes)).sum(), read() + write)
            }
            Op::Map(map) => {
                let weight = match map.0 {
                    ScalarFn::Detach => 0.0,
                    ScalarFn::Div | ScalarFn::Sqrt | ScalarFn::Rsqrt => DIVISION,
                    function if function.is_transcendental() => TRANSCENDENTAL,
                    _ => PLAIN,
                };
                (weight * elements(&result.ty.axes), materialized)
            }
            Op::Cast(_) => (PLAIN * elements(&result.ty.axes), materialized),
            Op::Concat(_) | Op::Take(_) => (0.0, write + write),
            Op::PutAdd(_) => (operands.last().map_or(0.0, |facts| elements(&facts.ty.axes)), read() + write),
            _ => (0.0, 0.0),
        };
        self.passes * (flops / self.objective.flops_per_second + bytes / self.objective.bytes_per_second)
    }
}

/// Pairs of positions: such a value is never stored.
fn is_quadratic(axes: &Axes) -> bool {
    let sequences = axes.iter().filter(|axis| match axis.size {
        Size::Fixed(_) => false,
        Size::Symbolic(symbol) => symbol.as_str() != "batch",
    });
    sequences.count() > 1
}

/// One value for each position so far.
fn over_past(axes: &Axes) -> bool {
    axes.iter().any(|axis| matches!(axis.size, Size::Symbolic(symbol) if symbol.as_str() == "past"))
}

/// Both operands have an axis of their own, and they share a summed one.
fn is_matrix_product(left: &Axes, right: &Axes, over: &[Axis]) -> bool {
    let own = |x: &Axes, y: &Axes| x.iter().any(|&axis| !y.contains(axis));
    let shared = over.iter().any(|&axis| left.contains(axis) && right.contains(axis));
    shared && own(left, right) && own(right, left)
}
