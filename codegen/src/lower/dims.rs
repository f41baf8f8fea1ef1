//! The dimensions of a group's tiles: which axes are divided among instances,
//! which is streamed, and in what blocks. Block sizes depend on fixed sizes
//! and the kind of group alone; of rows it is the most, and a run divides them evenly.

mod patches;

use super::{Context, LowerError, chunks, padding, past};
use crate::tile::{Dim, DimId, Extent};
use diptych_ir::{Axis, Graph, NodeId, Op, ReduceKind, Size};
use diptych_passes::fuse::{Group, GroupKind, Grouping, StreamAxis};
use diptych_passes::layout::{Layout, Leading, leading, product, symbol};
use std::collections::HashMap;

/// Instances of a product of few rows that a thread should have at least.
const SHARES: usize = 2;

/// The dimensions of a group.
pub struct Dims {
    /// All of them.
    pub list: Vec<Dim>,
    by_axis: HashMap<Axis, DimId>,
    /// The dimension of run-time rows, in groups of rows.
    pub row: Option<DimId>,
    /// The chunks of tokens and of positions so far, in groups of sequences.
    pub sequence: Option<(DimId, DimId)>,
    /// The sequence and the position at hand, in a recurrence.
    pub steps: Option<(DimId, DimId)>,
    /// The one dimension of a flat group.
    pub flat: Option<DimId>,
    /// Those divided among instances.
    pub grid: Vec<DimId>,
    /// The one that is streamed.
    pub stream: Option<DimId>,
    /// Fixed axes of which an instance has one position: no tile has them.
    pub single: Vec<DimId>,
}

impl Dims {
    fn add(&mut self, name: &str, extent: Extent) -> DimId {
        let mut name = identifier(name);
        if self.list.iter().any(|dim| dim.name == name) {
            name = format!("{name}_{}", self.list.len());
        }
        self.list.push(Dim { name, axis: None, extent });
        self.list.len() - 1
    }

    /// The dimension of an axis; a fixed axis not seen before is whole.
    pub fn of(&mut self, axis: Axis) -> Option<DimId> {
        match axis.size {
            Size::Symbolic(_) => match (self.row, self.sequence, symbol(axis)) {
                (Some(row), _, _) => Some(row),
                (None, None, Some("batch")) => self.steps.map(|steps| steps.0),
                (None, None, Some("time")) => self.steps.map(|steps| steps.1),
                (None, Some((time, _)), Some("time")) => Some(time),
                (None, Some((_, past)), Some("past")) => Some(past),
                _ => None,
            },
            Size::Fixed(size) => {
                if let Some(&dim) = self.by_axis.get(&axis) {
                    return Some(dim);
                }
                let dim = self.add(axis.name.as_str(), Extent::Whole(size));
                self.list[dim].axis = Some(axis.name);
                self.by_axis.insert(axis, dim);
                Some(dim)
            }
        }
    }

    fn set(&mut self, axis: Axis, extent: Extent) -> Option<DimId> {
        let dim = self.of(axis)?;
        self.list[dim].extent = extent;
        Some(dim)
    }

    /// The dimensions of grouped rows: the pairs of one position along the ids' axis, at which an instance
    /// is, and the ids' own axes, of which each pair has one position.
    fn pairs(&mut self, grouping: &Grouping, block: usize, context: &Context) -> Option<DimId> {
        let size = grouping.axis.fixed_size()?;
        let along = self.set(grouping.axis, Extent::Blocks { size, block: 1 })?;
        let each = grouping.ids_of_row();
        let pair = self.add("pair", Extent::Pairs { leading: grouping.leading, each, along, block });
        self.row = Some(pair);
        self.single.push(along);
        let mut stride = each;
        for axis in context.layouts.ordered(grouping.choices.iter().copied()) {
            let size = axis.fixed_size()?;
            stride /= size;
            let choice = self.set(axis, Extent::Choice { pair, size, stride });
            self.single.extend(choice);
        }
        Some(pair)
    }

    /// Divides a fixed axis among instances.
    fn divide(&mut self, axis: Axis, extent: Extent) {
        let dim = self.set(axis, extent);
        self.grid.extend(dim);
    }

    /// The most positions of a dimension.
    pub fn most(&self, dim: DimId) -> usize {
        self.list[dim].extent.most()
    }
}

/// A C identifier for a name.
pub fn identifier(name: &str) -> String {
    let mut text: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

/// Chooses the dimensions of a group.
pub fn choose(group: &Group, context: &Context) -> Result<Dims, LowerError> {
    let graph = &context.program.region(context.region).graph;
    let mut dims = none();
    let sizes = context.blocks;
    let rows_of_contractions = if context.few_rows.is_some() { sizes.few_rows } else { sizes.rows };
    let contractions: Vec<NodeId> =
        group.nodes.iter().copied().filter(|&id| matches!(graph.op(id), Op::Contract(_))).collect();
    let kind = match &group.kind {
        // What does not lie alike is walked axis by axis.
        GroupKind::Flat | GroupKind::FlatSum if !lies_alike(group, graph, context) => {
            GroupKind::Rows(Leading::None)
        }
        kind => kind.clone(),
    };
    match &kind {
        GroupKind::Rows(Leading::None) => {
            if let Some(axes) = patches::exchanged_axes(group, graph, context) {
                patches::divide(&mut dims, graph.axes(group.outputs[0]), axes, context);
            } else if let Some((axis, size)) = first_shared_axis(group, graph, context) {
                let (inner, align) = columns_within(group, axis, context);
                dims.divide(axis, Extent::Blocks { size, block: choose_block(size, inner, 8, align) });
            }
        }
        // Rows of a cache lie chunk by chunk, found through a table.
        GroupKind::Rows(Leading::Past) if !context.history_is_rename => {
            let time = dims.add("time", Extent::Time);
            let past = dims.add("past", Extent::Past { window: past::computed(graph, group) });
            dims.sequence = Some((time, past));
            dims.grid.push(past);
            for (axis, extent) in column_blocks(group, &contractions, graph, context) {
                dims.divide(axis, extent);
            }
        }
        GroupKind::Rows(leading) => {
            let block = if contractions.is_empty() { sizes.pointwise_rows } else { rows_of_contractions };
            let row = dims.add("row", Extent::Rows { leading: *leading, block });
            dims.row = Some(row);
            dims.grid.push(row);
            for (axis, extent) in column_blocks(group, &contractions, graph, context) {
                dims.divide(axis, extent);
            }
        }
        GroupKind::Flat | GroupKind::FlatSum => {
            let divided = group.kind == GroupKind::Flat;
            let flat =
                dims.add("element", Extent::Flat { block: if divided { sizes.flat } else { usize::MAX } });
            dims.flat = Some(flat);
            dims.grid.extend(divided.then_some(flat));
        }
        GroupKind::OverRows(leading) => {
            let row = dims.add("row", Extent::Rows { leading: *leading, block: sizes.streamed_rows });
            dims.row = Some(row);
            dims.stream = Some(row);
            gradient_blocks(&mut dims, group, &contractions, graph, context);
        }
        GroupKind::Grouped(grouping) => {
            let pair = dims.pairs(grouping, sizes.pairs, context);
            dims.grid.extend(pair);
            for (axis, extent) in column_blocks(group, &contractions, graph, context) {
                dims.divide(axis, extent);
            }
        }
        GroupKind::OverGrouped(grouping) => {
            dims.stream = dims.pairs(grouping, sizes.streamed_rows, context);
            let along = dims.of(grouping.axis);
            dims.grid.extend(along);
            let gradients: Vec<NodeId> =
                group.nodes.iter().copied().filter(|&id| matches!(graph.op(id), Op::PutAdd(_))).collect();
            gradient_blocks(&mut dims, group, &gradients, graph, context);
        }
        // What a step computes is in a region of its own: see `recurrence`.
        GroupKind::Scan => {}
        GroupKind::Scatter | GroupKind::AddedRows => scatter_blocks(&mut dims, group, graph, context)?,
        GroupKind::Stream(axes) => {
            let long = |axis: StreamAxis| matches!(axis, StreamAxis::Time | StreamAxis::Past);
            if long(axes.along) {
                let time = dims.add("time", Extent::Time);
                let past = dims.add("past", Extent::Past { window: None });
                dims.sequence = Some((time, past));
            }
            let streamed_rows = matches!(axes.along, StreamAxis::Rows(_));
            for (axis, across) in [(axes.across, true), (axes.along, false)] {
                let dim = match axis {
                    StreamAxis::Time => dims.sequence.map(|pair| pair.0),
                    StreamAxis::Past => dims.sequence.map(|pair| pair.1),
                    StreamAxis::Rows(leading) => {
                        let block = if streamed_rows { sizes.streamed_rows } else { sizes.rows };
                        let row = dims.add("row", Extent::Rows { leading, block });
                        dims.row = Some(row);
                        Some(row)
                    }
                    StreamAxis::Fixed(axis) => {
                        let size = axis.fixed_size().unwrap_or(1);
                        let block = sizes.streamed_columns.min(size);
                        dims.set(axis, Extent::Blocks { size, block })
                    }
                };
                if across {
                    dims.grid.extend(dim);
                } else {
                    dims.stream = dim;
                }
            }
            for &axis in &axes.each {
                let size = axis.fixed_size().unwrap_or(1);
                let dim = dims.set(axis, Extent::Blocks { size, block: 1 });
                dims.grid.extend(dim);
                dims.single.extend(dim);
            }
            // Where all heads see the same keys, a few of them are enough rows for a product. Where chunks are
            // divided, each is to be read by few instances.
            if long(axes.along)
                && (product(&axes.each) == 1 || sizes.divides_groups)
                && let Some((axis, size)) = shared_axis(group, graph, context, &axes.each)
            {
                let rows = match chunks::are_shared(group, context) {
                    true => sizes.heads_of_shared_chunks,
                    false => sizes.heads,
                };
                dims.divide(axis, Extent::Blocks { size, block: choose_block(size, 1, rows, 1) });
            }
        }
    }
    Ok(dims)
}

fn none() -> Dims {
    Dims {
        list: Vec::new(),
        by_axis: HashMap::new(),
        row: None,
        sequence: None,
        steps: None,
        flat: None,
        grid: Vec::new(),
        stream: None,
        single: Vec::new(),
    }
}

/// The dimensions of a recurrence: an instance has one sequence, one position
/// of each of these axes, and a block of one more.
pub(super) fn of_recurrence(each: &[Axis], block: Option<(Axis, usize)>) -> Dims {
    let mut dims = none();
    let sequence = dims.add("sequence", Extent::Sequence);
    let position = dims.add("position", Extent::Position);
    dims.steps = Some((sequence, position));
    dims.grid.push(sequence);
    dims.single.extend([sequence, position]);
    for &axis in each {
        let dim = dims.set(axis, Extent::Blocks { size: axis.fixed_size().unwrap_or(1), block: 1 });
        dims.grid.extend(dim);
        dims.single.extend(dim);
    }
    if let Some((axis, block)) = block {
        dims.divide(axis, Extent::Blocks { size: axis.fixed_size().unwrap_or(1), block });
    }
    dims
}

/// Whether all that a group without run-time axes reads and stores has one
/// layout, so that elements at one place in memory belong together: nothing is
/// seen through a view, and nothing depends on a position.
fn lies_alike(group: &Group, graph: &Graph, context: &Context) -> bool {
    let mut layouts: Vec<Layout> = group
        .outputs
        .iter()
        .filter(|&&id| !graph.axes(id).is_empty())
        .map(|&id| (context.layout)(id))
        .collect();
    let mut stack: Vec<NodeId> = group.nodes.iter().flat_map(|&id| graph.operands(id)).collect();
    while let Some(id) = stack.pop() {
        if group.nodes.contains(&id) || graph.axes(id).is_empty() {
            continue;
        }
        match graph.op(id) {
            Op::Literal(_) | Op::Index(_) => return false,
            Op::Map(_) | Op::Cast(_) if context.in_place.contains(&id) => stack.extend(graph.operands(id)),
            Op::Output(_) => layouts.push((context.layout)(id)),
            op if diptych_passes::fuse::is_view(op) => return false,
            _ => layouts.push((context.layout)(id)),
        }
    }
    // The zeros that fill up panels change no sum, but they may be the largest, and something else may be there.
    let packed = layouts.iter().any(|layout| matches!(layout, Layout::Packed { .. }));
    let padded = layouts.iter().any(|layout| match layout {
        Layout::Packed { n, .. } => !product(n).is_multiple_of(context.panel),
        _ => false,
    });
    let counts = |&id: &NodeId| match graph.op(id) {
        Op::Reduce(reduce) if reduce.kind == ReduceKind::Max => packed,
        Op::Reduce(_) => padded && !padding::is_zero(context.program, context.region, graph.operands(id)[0]),
        _ => false,
    };
    layouts.windows(2).all(|pair| pair[0] == pair[1]) && !group.nodes.iter().any(counts)
}

/// The smallest block of an axis that holds at least `least` elements, with
/// `inner` elements for each position, and is a multiple of `align` elements
/// (or the whole axis).
pub(super) fn choose_block(size: usize, inner: usize, least: usize, align: usize) -> usize {
    let fits = |&block: &usize| {
        size.is_multiple_of(block) && block * inner >= least && (block * inner).is_multiple_of(align)
    };
    (1..=size).find(fits).unwrap_or(size)
}

/// The first axis of more than one element, other than these, that all values of a group have which it computes.
fn shared_axis(group: &Group, graph: &Graph, context: &Context, except: &[Axis]) -> Option<(Axis, usize)> {
    let first = *group.outputs.first()?;
    let axes = context.layouts.ordered(graph.axes(first).iter().copied());
    let everywhere = |axis: &Axis| {
        let computed = group.nodes.iter().filter(|id| !context.in_place.contains(id));
        axis.fixed_size().is_some_and(|size| size > 1)
            && !except.contains(axis)
            && computed.into_iter().all(|&id| graph.axes(id).contains(*axis))
            && unmoved(group, graph, *axis)
    };
    let axis = axes.into_iter().find(everywhere)?;
    Some((axis, axis.fixed_size()?))
}

/// Without run-time rows, the first axis that all nodes have.
fn first_shared_axis(group: &Group, graph: &Graph, context: &Context) -> Option<(Axis, usize)> {
    let first = *group.outputs.first()?;
    let axes = context.layouts.ordered(graph.axes(first).iter().copied());
    let everywhere = |axis: &Axis| {
        group.nodes.iter().all(|&id| graph.axes(id).contains(*axis)) && unmoved(group, graph, *axis)
    };
    let axis = axes.into_iter().find(everywhere)?;
    Some((axis, axis.fixed_size()?))
}

/// Columns of a packed result for each position of an axis, and of how many columns a block is to be a multiple, so
/// that no two instances write to one panel.
fn columns_within(group: &Group, axis: Axis, context: &Context) -> (usize, usize) {
    let Some(&first) = group.outputs.first() else { return (1, 1) };
    let Layout::Packed { n, .. } = (context.layout)(first) else { return (1, 1) };
    match n.iter().position(|&other| other == axis) {
        Some(at) => (product(&n[at + 1..]), context.panel),
        None => (1, 1),
    }
}

/// Whether no node of the group, nor a view of one, moves or sums an axis.
pub(super) fn unmoved(group: &Group, graph: &Graph, axis: Axis) -> bool {
    let moves = |id: NodeId| match graph.op(id) {
        Op::Reduce(reduce) => reduce.over.contains(&axis),
        Op::Contract(contract) => contract.over.contains(&axis),
        Op::Concat(concat) => concat.into == axis || concat.pieces.contains(&axis),
        Op::Slice(slice) => slice.axis == axis || slice.into == axis,
        Op::Split(split) => split.axis == axis || split.into.contains(&axis),
        Op::Merge(merge) => merge.into == axis || merge.axes.contains(&axis),
        Op::Rename(rename) => rename.from == axis || rename.to == axis,
        Op::Take(take) => take.axis == axis,
        Op::TopK(top) => top.axis == axis || top.into == axis,
        Op::RoundBlocks(round) => round.over.contains(&axis),
        _ => false,
    };
    group.nodes.iter().all(|&id| {
        !moves(id)
            && graph.operands(id).into_iter().all(|mut operand| {
                while diptych_passes::fuse::is_view(graph.op(operand))
                    && !matches!(graph.op(operand), Op::Output(_))
                {
                    if moves(operand) {
                        return false;
                    }
                    operand = graph.operands(operand)[0];
                }
                true
            })
    })
}

/// Divides the columns of a group's contractions, if all that follows them can be divided so: by their first axis, and
/// where that is too coarse for few rows, by the next one too.
fn column_blocks(
    group: &Group,
    contractions: &[NodeId],
    graph: &Graph,
    context: &Context,
) -> Vec<(Axis, Extent)> {
    let columns = |id: NodeId| {
        let operands = super::grouped::factors(graph, id);
        let weight =
            operands.into_iter().find(|&operand| leading(graph.axes(operand)) == Ok(Leading::None))?;
        Some(
            context
                .layouts
                .ordered(graph.axes(id).iter().copied().filter(|axis| graph.axes(weight).contains(*axis))),
        )
    };
    let Some(columns) = contractions.iter().map(|&id| columns(id)).collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let Some(first) = columns.first() else { return Vec::new() };
    let mut after: Vec<NodeId> = contractions.to_vec();
    for &id in &group.nodes {
        if graph.operands(id).iter().any(|operand| after.contains(&base(graph, *operand))) {
            after.push(id);
        }
    }
    // What comes before the contractions must not sum or move the axis either.
    let dividable =
        |axis: Axis| after.iter().all(|&id| graph.axes(id).contains(axis)) && unmoved(group, graph, axis);
    // Positions so far are many in any case.
    let few_rows = context.few_rows.filter(|_| group.kind != GroupKind::Rows(Leading::Past));
    let mut blocks: Vec<(Axis, Extent)> = Vec::new();
    let mut instances = 1;
    for (position, &axis) in first.iter().enumerate() {
        // The axes before it have one position each.
        let inner = columns.iter().map(|columns| match columns.get(position) {
            Some(&own) if own == axis => Some(product(&columns[position + 1..])),
            _ => None,
        });
        let (Some(size), Some(inner)) = (axis.fixed_size(), inner.collect::<Option<Vec<_>>>()) else { break };
        if size == 1 {
            continue;
        }
        let fits = |&block: &usize| {
            size.is_multiple_of(block)
                && inner.iter().all(|inner| (block * inner).is_multiple_of(context.panel))
        };
        let columns = |block: usize| inner.iter().map(|inner| block * inner).max().unwrap_or(block);
        let block = match few_rows {
            Some(threads) => finest(threads, instances, size, (1..=size).filter(fits), columns),
            None => (1..size).filter(fits).find(|&block| columns(block) >= context.blocks.columns),
        };
        let Some(block) = block.filter(|&block| block < size && dividable(axis)) else { break };
        blocks.push((axis, Extent::Blocks { size, block }));
        instances *= size / block;
        let coarse = match few_rows {
            Some(threads) => instances < SHARES * threads,
            None => columns(block) > context.blocks.most_columns,
        };
        if block > 1 || !coarse {
            break;
        }
    }
    blocks
}

/// The block of an axis that divides a product of few rows among threads with the least waiting: each instance takes as
/// long as some columns more than it has. Several for each thread, if there can be so many, since none is always there.
fn finest(
    threads: usize,
    instances: usize,
    size: usize,
    blocks: impl Iterator<Item = usize>,
    columns: impl Fn(usize) -> usize,
) -> Option<usize> {
    const OVERHEAD: f64 = 8.0;
    let seconds = |block: usize| {
        let count = instances * (size / block);
        let shares = count.div_ceil(threads.max(1)) as f64;
        shares * (columns(block) as f64 + OVERHEAD)
    };
    let rank = |block: usize| (instances * (size / block) < SHARES * threads, seconds(block));
    let better = |a: &usize, b: &usize| {
        let ((few_a, a), (few_b, b)) = (rank(*a), rank(*b));
        few_a.cmp(&few_b).then(a.total_cmp(&b))
    };
    blocks.min_by(better)
}

fn base(graph: &Graph, mut id: NodeId) -> NodeId {
    while diptych_passes::fuse::is_view(graph.op(id)) && !matches!(graph.op(id), Op::Output(_)) {
        id = graph.operands(id)[0];
    }
    id
}

/// Divides a gradient of a weight by its rows and columns, or a sum by its first axis.
fn gradient_blocks(
    dims: &mut Dims,
    group: &Group,
    contractions: &[NodeId],
    graph: &Graph,
    context: &Context,
) {
    if let [id] = contractions[..] {
        let (rows, columns) = match (context.layout)(id) {
            Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => (k, n),
            Layout::Rounded { order, .. } => (order, Vec::new()),
            Layout::Dense { order, .. } => {
                let operands = super::grouped::factors(graph, id);
                let last = order.last().copied();
                let right = operands
                    .into_iter()
                    .find(|&operand| last.is_some_and(|axis| graph.axes(operand).contains(axis)));
                let of_right = |axis: &Axis| right.is_some_and(|right| graph.axes(right).contains(*axis));
                order.iter().partition(|axis| !of_right(axis))
            }
        };
        let row_blocks = (rows, context.blocks.rows, 1);
        for (mut axes, least, align) in
            [row_blocks, (columns, context.blocks.gradient_columns, context.panel)]
        {
            // Of chosen weights an instance has one already.
            axes.retain(|&axis| dims.of(axis).is_none_or(|dim| !dims.single.contains(&dim)));
            if let [axis, rest @ ..] = &axes[..]
                && let Some(size) = axis.fixed_size()
                && unmoved(group, graph, *axis)
            {
                let block = choose_block(size, product(rest), least, align);
                if block < size {
                    dims.divide(*axis, Extent::Blocks { size, block });
                }
            }
        }
    } else if let Some((axis, size)) = first_shared_axis(group, graph, context) {
        dims.divide(axis, Extent::Blocks { size, block: choose_block(size, 1, 32, 1) });
    }
}

/// Divides the adjoint of a gather by the rows of its table, or by the first
/// further axis: rows that are added to one element are added by one instance.
fn scatter_blocks(
    dims: &mut Dims,
    group: &Group,
    graph: &Graph,
    context: &Context,
) -> Result<(), LowerError> {
    for &id in &group.nodes {
        let Op::PutAdd(put) = graph.op(id) else { continue };
        let error = |problem: String| LowerError {
            node: format!("{}: {}", graph.op(id).name(), graph.ty(id)),
            problem,
        };
        let own = leading(graph.axes(id)).map_err(error)?;
        let mut added = own;
        for operand in graph.operands(id) {
            match leading(graph.axes(operand)).map_err(error)? {
                Leading::None => {}
                other if added == Leading::None || added == other => added = other,
                _ => return Err(error("adds rows of tokens to rows of sequences".to_owned())),
            }
        }
        if added != Leading::None {
            // Where rows are walked by their ids, all of them are.
            let all = group.kind == GroupKind::AddedRows;
            let block = match own {
                _ if all => usize::MAX,
                Leading::None => context.blocks.streamed_rows,
                _ => context.blocks.pointwise_rows,
            };
            let row = dims.add("row", Extent::Rows { leading: added, block });
            dims.row = Some(row);
            match own {
                _ if all => {}
                Leading::None => dims.stream = Some(row),
                _ => dims.grid.push(row),
            }
        }
        let further = context.layouts.ordered(graph.axes(id).without(&[put.axis]).iter().copied());
        let further: Vec<Axis> = further.into_iter().filter(|axis| axis.fixed_size().is_some()).collect();
        if let [axis, rest @ ..] = &further[..]
            && let Some(size) = axis.fixed_size()
        {
            let block = choose_block(size, product(rest), 32, 1);
            dims.divide(*axis, Extent::Blocks { size, block });
        }
    }
    Ok(())
}
