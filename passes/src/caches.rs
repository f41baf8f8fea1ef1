//! Caches in fewer bytes: what every `history` keeps is rounded before it, and widened where it is read, in all entries
//! alike. It decides on no format, and leaves the states of recurrences as they are.

use crate::narrow_weights::replace_in;
use diptych_ir::ops::{Cast, Contract, History, Literal, Map, Reduce};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Program, ReduceKind, Result, ScalarFn};
use std::collections::BTreeSet;

/// In which numbers caches keep what they keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheFormat {
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit integers, with an f32 scale for each vector: the elements of one position that a product sums over, or
    /// along which it gives a result, such as a head's. A vector's largest magnitude becomes 127. The scale has no
    /// dimension of the vector, so products are of the integers, and multiplied with the scale once for each position.
    /// It is f32 since it has all the range of what it scales, and is a small part beside its vector.
    Q8,
}

impl CacheFormat {
    /// Every format.
    pub const ALL: [CacheFormat; 3] = [CacheFormat::F16, CacheFormat::BF16, CacheFormat::Q8];

    /// `f16`, `bf16` or `q8`.
    pub fn name(self) -> &'static str {
        match self {
            CacheFormat::F16 => "f16",
            CacheFormat::BF16 => "bf16",
            CacheFormat::Q8 => "q8",
        }
    }

    /// The format of this name.
    pub fn of_name(name: &str) -> Option<CacheFormat> {
        CacheFormat::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// A vector with no magnitude from this on is all zeros.
const LEAST_MAGNITUDE: f64 = 1e-30;

/// The program whose caches keep numbers in this format. It is to run after divisions have moved out of sums.
///
/// # Errors
/// When the program is malformed.
pub fn keep_in(program: &Program, format: CacheFormat) -> Result<Program> {
    let mut program = program.clone();
    for index in 0..program.regions.len() {
        for id in program.regions[index].graph.topological_order() {
            let graph = &mut program.regions[index].graph;
            let Op::History(history) = graph.op(id).clone() else { continue };
            let replaced = match format {
                CacheFormat::F16 => rounded(graph, id, history, DType::F16)?,
                CacheFormat::BF16 => rounded(graph, id, history, DType::BF16)?,
                CacheFormat::Q8 => scaled(graph, id, history)?,
            };
            for (old, new) in replaced {
                rename_results(&mut program, index, old, new);
            }
        }
        let region = &mut program.regions[index];
        let kept = [&region.arguments[..], &region.results].concat();
        region.graph.retain_ancestors(&kept);
    }
    diptych_ir::verify(&program)?;
    Ok(program)
}

fn rename_results(program: &mut Program, region: usize, old: NodeId, new: NodeId) {
    let results = program.regions[region].results.iter_mut();
    results.filter(|result| **result == old).for_each(|result| *result = new);
    if region == Program::MAIN.0 as usize {
        let entries = program.entries.iter_mut();
        let roots = entries.flat_map(|entry| entry.roots.iter_mut().chain(&mut entry.updates));
        roots.filter(|root| root.1 == old).for_each(|root| root.1 = new);
    }
}

/// Nodes, each with what takes its place.
type Replaced = Vec<(NodeId, NodeId)>;

/// A history of rounded numbers. Products read them as they are; what else reads them gets the type that was there.
fn rounded(graph: &mut Graph, id: NodeId, history: History, dtype: DType) -> Result<Replaced> {
    let (x, was) = (graph.operands(id)[0], graph.ty(id).dtype);
    if was == dtype && *graph.op(id) == Op::History(history) {
        return Ok(Vec::new());
    }
    let narrow = graph.add(Cast(dtype), &[x])?;
    let kept = graph.add(history, &[narrow])?;
    label_as(graph, kept, id);
    let (products, others): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        graph.users(id).into_iter().partition(|&user| matches!(graph.op(user), Op::Contract(_)));
    let wide = graph.add(Cast(was), &[kept])?;
    replace_in(graph, &products, id, kept)?;
    replace_in(graph, &others, id, wide)?;
    Ok(vec![(id, wide)])
}

fn label_as(graph: &mut Graph, new: NodeId, old: NodeId) {
    let (span, label) = (graph.node(old).span, graph.node(old).label);
    graph.annotate(new, span, label);
}

/// A product of two values, one of them a history's.
struct Product {
    id: NodeId,
    contract: Contract,
    other: NodeId,
}

/// The product that a node is, if it is one with that history.
fn product(graph: &Graph, id: NodeId, history: NodeId) -> Option<Product> {
    let Op::Contract(contract) = graph.op(id) else { return None };
    let [left, right] = graph.operands(id)[..] else { return None };
    let other = match (left == history, right == history) {
        (true, false) => right,
        (false, true) => left,
        _ => return None,
    };
    Some(Product { id, contract: contract.clone(), other })
}

/// The fixed axes of a history along which a product needs no scale of its own: those that it sums over, and those that
/// the other factor does not have.
fn vector_of(graph: &Graph, product: &Product, history: NodeId) -> Vec<Axis> {
    let fixed = graph.axes(history).iter().copied().filter(|axis| axis.fixed_size().is_some());
    let other = graph.axes(product.other);
    fixed.filter(|axis| product.contract.over.contains(axis) || !other.contains(*axis)).collect()
}

/// A history of integers and one of their scales. The scale goes around products: onto what they give for each position,
/// or onto the weights with which positions are summed.
fn scaled(graph: &mut Graph, id: NodeId, history: History) -> Result<Replaced> {
    let (x, was) = (graph.operands(id)[0], graph.ty(id).dtype);
    let users = graph.users(id);
    let products: Vec<Product> = users.iter().filter_map(|&user| product(graph, user, id)).collect();
    let of_products = products.first().map(|first| vector_of(graph, first, id)).unwrap_or_default();
    let fixed: Vec<Axis> =
        graph.axes(id).iter().copied().filter(|axis| axis.fixed_size().is_some()).collect();
    // Without a product to say it, the axis that lies innermost.
    let over = match (of_products.is_empty(), graph.ordered(fixed).last()) {
        (false, _) => of_products,
        (true, Some(&last)) => vec![last],
        (true, None) => return rounded(graph, id, integers_of(history), DType::F16),
    };
    let float = if was == DType::F32 { x } else { graph.add(Cast(DType::F32), &[x])? };
    let (integers, scale) = divided_by_scales(graph, float, &over)?;
    let integers = graph.add(integers_of(history), &[integers])?;
    let scale = graph.add(History { room: 2 * history.room + 1, ..history }, &[scale])?;
    label_as(graph, integers, id);
    let mut others: BTreeSet<NodeId> = users.into_iter().collect();
    let mut replaced = Vec::new();
    for found in products {
        if vector_of(graph, &found, id) != over {
            continue;
        }
        let Product { id: product, contract, other } = found;
        let scaled = if contract.over.contains(&history.past) {
            let weights = graph.add(Map(ScalarFn::Mul), &[other, scale])?;
            graph.add(contract, &[weights, integers])?
        } else {
            let sums = graph.add(contract, &[other, integers])?;
            graph.add(Map(ScalarFn::Mul), &[sums, scale])?
        };
        label_as(graph, scaled, product);
        let readers = graph.users(product).into_iter().collect();
        replace_in(graph, &readers, product, scaled)?;
        others.remove(&product);
        replaced.push((product, scaled));
    }
    let wide = graph.add(Cast(DType::F32), &[integers])?;
    let whole = graph.add(Map(ScalarFn::Mul), &[wide, scale])?;
    let whole = if was == DType::F32 { whole } else { graph.add(Cast(was), &[whole])? };
    replace_in(graph, &others, id, whole)?;
    replaced.push((id, whole));
    Ok(replaced)
}

/// The history of the integers: each cache of the program becomes two, wherever it is.
fn integers_of(history: History) -> History {
    History { room: 2 * history.room, ..history }
}

/// Integers of at most 127 and the scale of each vector along these axes.
fn divided_by_scales(graph: &mut Graph, x: NodeId, over: &[Axis]) -> Result<(NodeId, NodeId)> {
    let number = |graph: &mut Graph, value: f64| graph.add(Literal::scalar(DType::F32, value), &[]);
    let magnitude = graph.add(Map(ScalarFn::Abs), &[x])?;
    let largest = graph.add(Reduce { kind: ReduceKind::Max, over: over.to_vec() }, &[magnitude])?;
    let (most, least, zero) = (number(graph, 127.0)?, number(graph, LEAST_MAGNITUDE)?, number(graph, 0.0)?);
    let part = number(graph, f64::from(1.0_f32 / 127.0))?;
    let scale = graph.add(Map(ScalarFn::Mul), &[largest, part])?;
    let inverse = graph.add(Map(ScalarFn::Div), &[most, largest])?;
    let counts = graph.add(Map(ScalarFn::Less), &[least, largest])?;
    let inverse = graph.add(Map(ScalarFn::Select), &[counts, inverse, zero])?;
    let steps = graph.add(Map(ScalarFn::Mul), &[x, inverse])?;
    Ok((graph.add(Cast(DType::I8), &[steps])?, scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::divide_after_sums;
    use diptych_models::{Registry, build};
    use std::collections::BTreeSet;

    fn program(preset: &str) -> Program {
        divide_after_sums(&build(&*Registry::zoo().preset(preset).unwrap()).unwrap()).unwrap()
    }

    fn of<T>(program: &Program, found: impl Fn(&Graph, NodeId) -> Option<T>) -> Vec<T> {
        let graphs = program.regions.iter().map(|region| &region.graph);
        graphs
            .flat_map(|graph| graph.ids().into_iter().filter_map(|id| found(graph, id)).collect::<Vec<_>>())
            .collect()
    }

    fn histories(program: &Program) -> Vec<(usize, DType)> {
        of(program, |graph, id| match graph.op(id) {
            Op::History(history) => Some((history.room, graph.ty(id).dtype)),
            _ => None,
        })
    }

    #[test]
    fn every_history_is_of_the_format() {
        for preset in ["llama-tiny", "gpt2-tiny", "mla-tiny", "hybrid-tiny"] {
            let written = program(preset);
            let rooms: BTreeSet<usize> = histories(&written).into_iter().map(|kept| kept.0).collect();
            for (format, dtype) in [(CacheFormat::F16, DType::F16), (CacheFormat::BF16, DType::BF16)] {
                let kept = keep_in(&written, format).unwrap();
                let wanted: Vec<_> = histories(&written).into_iter().map(|(room, _)| (room, dtype)).collect();
                let found: BTreeSet<_> = histories(&kept).into_iter().collect();
                assert_eq!(found, wanted.into_iter().collect(), "{preset} {format:?}");
            }
            let kept = keep_in(&written, CacheFormat::Q8).unwrap();
            let wanted = rooms.iter().flat_map(|room| [(2 * room, DType::I8), (2 * room + 1, DType::F32)]);
            assert_eq!(histories(&kept).into_iter().collect::<BTreeSet<_>>(), wanted.collect(), "{preset}");
        }
    }

    #[test]
    fn scales_go_around_products() {
        let kept = keep_in(&program("llama-tiny"), CacheFormat::Q8).unwrap();
        // Scores of integers, and sums of integers with scaled weights: nothing widens a whole cache.
        let products = of(&kept, |graph, id| {
            let reads = |&operand: &NodeId| graph.ty(operand).dtype == DType::I8;
            (matches!(graph.op(id), Op::Contract(_)) && graph.operands(id).iter().any(reads)).then_some(id)
        });
        assert_eq!(products.len(), 2);
        let widened = of(&kept, |graph, id| {
            let widens = matches!(graph.op(id), Op::Cast(_))
                && graph.ty(graph.operands(id)[0]).dtype == DType::I8
                && !graph.users(id).is_empty();
            widens.then_some(id)
        });
        assert!(widened.is_empty());
        // A scale for each head: it has all axes of the cache but the one along which a head's numbers lie.
        let scales = of(&kept, |graph, id| {
            (matches!(graph.op(id), Op::History(_)) && graph.ty(id).dtype == DType::F32)
                .then(|| graph.axes(id).len())
        });
        assert_eq!(scales, [3, 3]);
    }
}
