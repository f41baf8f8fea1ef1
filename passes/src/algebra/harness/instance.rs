//! Random instances of the left side of a rule, on random shapes, half of whose ops undo or repeat one another. They know
//! no rule's meaning.

use super::super::language::Shape;
use super::super::mesh::Ranks;
use super::super::pattern::{Over, Payload, Term};
use crate::test_support::Numbers;
use diptych_ir::ops::{
    AllGather, AllReduce, Cast, Concat, Contract, History, Input, Literal, Map, Merge, Param, Reduce,
    ReduceScatter, Rename, Slice, Split,
};
use diptych_ir::{Axes, Axis, DType, Graph, NodeId, Op, ReduceKind, ScalarFn, Size, Symbol, TensorType};

/// Random choices.
pub(super) struct Random(pub Numbers);

impl Random {
    pub fn below(&mut self, most: usize) -> usize {
        // The low bits of these numbers are as good as the high ones after mixing.
        let mixed = (self.0.next() * (1u64 << 53) as f64) as u64;
        let mixed = (mixed ^ (mixed >> 23)).wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((mixed >> 33) as usize) % most
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }

    fn subset(&mut self, from: &[Axis]) -> Vec<Axis> {
        from.iter().copied().filter(|_| self.chance(50)).collect()
    }
}

/// Scalar functions that stand for any.
const FUNCTIONS: &[ScalarFn] = {
    use ScalarFn::*;
    &[Neg, Exp, Sigmoid, Abs, Not, Detach, Add, Sub, Mul, Div, Max, LessEqual, And, Select]
};

/// What a variable of a rule stands for in an instance.
#[derive(Clone)]
pub(super) enum Chosen {
    Value(NodeId),
    Values(Vec<NodeId>),
    Axes(Vec<Axis>),
    Payload(Op),
}

/// An instance of a rule's left side.
pub(super) struct Instance {
    pub graph: Graph,
    pub pool: Vec<Axis>,
    /// Axes of tokens: only what is no parameter has them.
    pub tokens: Vec<Axis>,
    /// The axis of the simulated ranks, if the rule speaks of collectives: then the pool has it too.
    pub mesh: Option<Axis>,
    pub chosen: Vec<Option<Chosen>>,
    /// Whether the rule wants a variable to be a parameter, if it says so.
    pub wanted: Vec<Option<bool>>,
}

/// The positions of a call, and all so far.
pub(super) fn time_and_past() -> [Axis; 2] {
    ["time", "past"].map(Axis::symbolic)
}

impl Instance {
    fn leaf(&mut self, variable: usize, random: &mut Random) -> Option<NodeId> {
        let dtype = match random.below(10) {
            0 | 1 => DType::Bool,
            2 => DType::BF16,
            _ => DType::F32,
        };
        let is_param = self.wanted[variable].unwrap_or_else(|| random.chance(60));
        let mut axes = random.subset(&self.pool);
        // On ranks, operands that are pieces of one kind have to be found together.
        if let Some(other) =
            random.pick(&self.graph.ids()).filter(|_| self.mesh.is_some() && random.chance(40))
        {
            axes = self.graph.axes(other).to_vec();
        }
        if !is_param {
            axes.extend(
                self.tokens.iter().zip([70, 15]).filter(|(_, often)| random.chance(*often)).map(|t| *t.0),
            );
        }
        let ty = TensorType::new(dtype, Axes::new(axes).ok()?);
        let name = Symbol::new(&format!("x{}", self.graph.len()));
        match is_param {
            true => self.graph.add(Param { name, ty }, &[]).ok(),
            false => self.graph.add(Input { name, ty }, &[]).ok(),
        }
    }

    fn literal(&mut self, value: f64) -> Option<NodeId> {
        self.graph.add(Literal::scalar(DType::F32, value), &[]).ok()
    }

    pub fn term(&mut self, term: &Term, random: &mut Random) -> Option<NodeId> {
        match term {
            Term::Class(variable) | Term::Item(variable) => match &self.chosen[*variable] {
                Some(Chosen::Value(id)) => Some(*id),
                _ => {
                    let id = self.leaf(*variable, random)?;
                    self.chosen[*variable] = Some(Chosen::Value(id));
                    Some(id)
                }
            },
            Term::Constant(variable) => {
                let value = random.pick(&[0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 0.1])?;
                let id = self.literal(value)?;
                self.chosen[*variable] = Some(Chosen::Value(id));
                Some(id)
            }
            Term::Number(number) => self.literal(*number),
            Term::Node { shape, payload, operands, rests, each } => {
                let mut ids = Vec::new();
                for operand in operands {
                    ids.push(self.term(operand, random)?);
                }
                for &rest in rests {
                    if self.chosen[rest].is_none() {
                        let count = random.below(3);
                        let values =
                            (0..count).map(|_| self.leaf(rest, random)).collect::<Option<Vec<_>>>()?;
                        self.chosen[rest] = Some(Chosen::Values(values));
                    }
                    if let Some(Chosen::Values(values)) = &self.chosen[rest] {
                        ids.extend(values);
                    }
                }
                if let Some(each) = each {
                    ids.extend(self.list(each, random)?);
                }
                let op = self.op(*shape, payload, &ids, random)?;
                self.graph.add(op, &ids).ok()
            }
            _ => None,
        }
    }

    /// Operands that are all of one form.
    fn list(&mut self, each: &Term, random: &mut Random) -> Option<Vec<NodeId>> {
        let mut lists = Vec::new();
        each.lists(&mut lists);
        let list = *lists.first()?;
        let (mut items, mut built) = (Vec::new(), Vec::new());
        for _ in 0..=random.below(3) {
            self.chosen[list] = None;
            built.push(self.term(each, random)?);
            if let Some(Chosen::Value(item)) = self.chosen[list] {
                items.push(item);
            }
        }
        self.chosen[list] = Some(Chosen::Values(items));
        Some(built)
    }

    /// A concat that was chosen before.
    fn concat(&self) -> Option<&Concat> {
        self.chosen.iter().find_map(|chosen| match chosen {
            Some(Chosen::Payload(Op::Concat(concat))) => Some(concat),
            _ => None,
        })
    }

    fn op(&mut self, shape: Shape, payload: &Payload, ids: &[NodeId], random: &mut Random) -> Option<Op> {
        let mut axes = Axes::none();
        for &id in ids {
            axes = axes.union(self.graph.axes(id)).ok()?;
        }
        let over = match payload {
            Payload::Over(Over::Bound(variable)) => match &self.chosen[*variable] {
                Some(Chosen::Axes(axes)) => axes.clone(),
                _ => {
                    let over = self.graph.ordered(random.subset(&axes));
                    self.chosen[*variable] = Some(Chosen::Axes(over.clone()));
                    over
                }
            },
            _ => Vec::new(),
        };
        Some(match (shape, payload) {
            (Shape::Map(function), _) => Map(function).into(),
            (Shape::Contract, _) => Contract { over }.into(),
            (Shape::Sum, _) => Reduce { kind: ReduceKind::Sum, over }.into(),
            (Shape::Max, _) => Reduce { kind: ReduceKind::Max, over }.into(),
            (_, Payload::Bound(variable)) => {
                if let Some(Chosen::Payload(op)) = &self.chosen[*variable] {
                    return Some(op.clone());
                }
                let op = self.structural(shape, ids, &axes, random)?;
                self.chosen[*variable] = Some(Chosen::Payload(op.clone()));
                op
            }
            _ => return None,
        })
    }

    /// A random op that moves axes, one that undoes its operand in half of the cases.
    fn structural(&self, shape: Shape, ids: &[NodeId], axes: &Axes, random: &mut Random) -> Option<Op> {
        if let Some(op) = self.mesh.and_then(|mesh| self.over_ranks(shape, mesh, axes, random)) {
            return Some(op);
        }
        let inner = ids.first().map(|&id| self.graph.op(id).clone());
        let undo = random.chance(50);
        let axis = random.pick(axes);
        let name = random.pick(&["a", "b", "c", "e", "f"])?;
        Some(match (shape, inner) {
            (Shape::AnyMap, _) => {
                let fit: Vec<ScalarFn> =
                    FUNCTIONS.iter().copied().filter(|f| f.arity() == ids.len()).collect();
                Map(random.pick(&fit)?).into()
            }
            (Shape::AnyMove, _) => {
                let moves = [Shape::Rename, Shape::Slice, Shape::Split, Shape::Merge];
                return self.structural(random.pick(&moves)?, ids, axes, random);
            }
            (Shape::History, _) => {
                let [time, past] = time_and_past();
                History { time, past, window: random.pick(&[None, Some(2)])?, room: 0 }.into()
            }
            (Shape::Cast, _) => Cast(random.pick(&[DType::F32, DType::BF16])?).into(),
            (Shape::Rename, Some(Op::Rename(inner))) if undo => {
                Rename { from: inner.to, to: inner.from }.into()
            }
            (Shape::Rename, _) => {
                let from = axis?;
                Rename { from, to: Axis::fixed(name, from.fixed_size()?) }.into()
            }
            (Shape::Split, Some(Op::Merge(inner))) => {
                let mut into = inner.axes.clone();
                if undo {
                    into.reverse();
                }
                Split { axis: inner.into, into }.into()
            }
            (Shape::Merge, Some(Op::Split(inner))) => {
                let mut axes = inner.into.clone();
                if undo {
                    axes.reverse();
                }
                Merge { axes, into: inner.axis }.into()
            }
            (Shape::Split, _) => {
                let axis = axis?;
                let size = axis.fixed_size()?;
                let first = random.pick(&(1..=size).filter(|part| size % part == 0).collect::<Vec<_>>())?;
                Split { axis, into: vec![Axis::fixed("e", first), Axis::fixed("f", size / first)] }.into()
            }
            (Shape::Merge, _) => {
                let (first, second) = (axis?, random.pick(axes)?);
                let size = first.fixed_size()? * second.fixed_size()?;
                Merge { axes: vec![first, second], into: Axis::fixed("e", size) }.into()
            }
            (Shape::Slice, Some(Op::Concat(concat))) => {
                let piece = random.below(concat.pieces.len());
                let (start, size) = (concat.starts()[piece], concat.pieces[piece].fixed_size()?);
                Slice { axis: concat.into, start, into: Axis::fixed(name, size) }.into()
            }
            (Shape::Slice, _) => {
                let axis = axis?;
                let size = axis.fixed_size()?;
                let start = random.below(size);
                let length = 1 + random.below(size - start);
                Slice { axis, start, into: Axis::fixed(name, length) }.into()
            }
            (Shape::Concat, _) if undo && self.concat().is_some() => {
                // Beside another concat: pieces of the same sizes.
                let other = self.concat()?;
                let sizes: Vec<usize> = match ids.len() == other.pieces.len() {
                    true => other.pieces.iter().filter_map(|piece| piece.fixed_size()).collect(),
                    false if ids.len() == 1 => vec![other.into.fixed_size()?],
                    false => return None,
                };
                let pieces = ids.iter().zip(sizes).map(|(&id, size)| {
                    let fit = |axis: &&Axis| axis.fixed_size() == Some(size);
                    let known: Vec<Axis> = self.graph.axes(id).iter().filter(fit).copied().collect();
                    random.pick(&known).unwrap_or(Axis::fixed(name, size))
                });
                Concat { pieces: pieces.collect(), into: other.into }.into()
            }
            (Shape::Concat, _) => {
                let pieces = ids.iter().map(|&id| {
                    let known = random.pick(self.graph.axes(id));
                    known.or(Some(Axis::fixed("f", 2)))
                });
                let pieces: Vec<Axis> = pieces.collect::<Option<_>>()?;
                let total = pieces.iter().map(|piece| piece.fixed_size().unwrap_or(0)).sum();
                Concat { pieces, into: Axis::fixed("e", total) }.into()
            }
            _ => return None,
        })
    }
}

impl Instance {
    /// A random collective or split over the ranks: half of them speak of what another op of the instance does.
    fn over_ranks(&self, shape: Shape, mesh: Axis, axes: &Axes, random: &mut Random) -> Option<Op> {
        let spoken = self.chosen.iter().filter_map(|chosen| match chosen {
            Some(Chosen::Payload(op)) => Ranks::of(op).filter(|ranks| ranks.mesh == mesh),
            _ => None,
        });
        let spoken: Vec<Ranks> = spoken.collect();
        if random.chance(50)
            && let Some(op) = random.pick(&spoken).and_then(|ranks| ranks.op(shape))
        {
            return Some(op);
        }
        let ranks = mesh.fixed_size()?;
        let axis = random.pick(axes).filter(|axis| *axis != mesh);
        let op = match shape {
            Shape::AllReduce => AllReduce { mesh, kind: ReduceKind::Sum }.into(),
            Shape::AllGather => {
                let piece = axis?;
                let whole = self.axis_of(piece.fixed_size()? * ranks, piece.name, "whole", random);
                AllGather { mesh, piece, whole }.into()
            }
            Shape::ReduceScatter | Shape::Split => {
                let whole = axis?;
                let size = whole.fixed_size().filter(|size| size % ranks == 0)?;
                let piece = self.axis_of(size / ranks, whole.name, "piece", random);
                match shape {
                    Shape::Split => Split { axis: whole, into: vec![mesh, piece] }.into(),
                    _ => ReduceScatter { mesh, whole, piece }.into(),
                }
            }
            _ => return None,
        };
        Some(op)
    }

    /// An axis of this size: one that other values may have, one that keeps a name, or a new one.
    fn axis_of(&self, size: usize, kept: Symbol, new: &str, random: &mut Random) -> Axis {
        let fit = |axis: &Axis| axis.fixed_size() == Some(size) && Some(*axis) != self.mesh;
        let known: Vec<Axis> = self.pool.iter().copied().filter(fit).collect();
        let name = match random.below(4) {
            0 => kept,
            1 => Symbol::new(new),
            _ => random.pick(&known).map_or(Symbol::new(new), |axis| axis.name),
        };
        Axis { name, size: Size::Fixed(size) }
    }
}
