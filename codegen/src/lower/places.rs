//! Where values lie: a value's tile, argument or table, seen through the views
//! (renames, splits, merges, slices) that stand between it and its reader.

use super::stages::Lowering;
use super::{LowerError, Source};
use crate::tile::{Along, Arg, Base, DimId, Extent, PackedView, Place, RowMap, StreamBounds, Tile, View};
use diptych_ir::blocks::BLOCK;
use diptych_ir::{Axis, DType, Graph, NodeId, Op, ScalarFn};
use diptych_passes::fuse::GroupKind;
use diptych_passes::layout::{Layout, Leading, ROUNDED_WORDS, leading, product, symbol};

impl Lowering<'_> {
    /// The dimensions of a node's tile, slowest first.
    pub fn node_dims(&mut self, id: NodeId) -> Vec<DimId> {
        let axes: Vec<Axis> = self.graph.axes(id).iter().copied().collect();
        self.axes_dims(&axes)
    }

    /// The dimensions of a set of axes, slowest first.
    pub fn axes_dims(&mut self, axes: &[Axis]) -> Vec<DimId> {
        if let Some(flat) = self.dims.flat {
            return if axes.is_empty() { Vec::new() } else { vec![flat] };
        }
        let ordered = self.context.layouts.ordered(axes.iter().copied());
        let (fixed, long): (Vec<Axis>, Vec<Axis>) =
            ordered.into_iter().partition(|axis| axis.fixed_size().is_some());
        let mut first: Vec<DimId> = Vec::new();
        let mut last = None;
        for axis in long {
            if let Some(dim) = self.dims.of(axis)
                && !first.contains(&dim)
            {
                first.push(dim);
            }
        }
        if let (Some((time, past)), 2) = (self.dims.sequence, first.len()) {
            (first, last) = (vec![time], Some(past));
        }
        let fixed: Vec<DimId> = fixed.into_iter().filter_map(|axis| self.dims.of(axis)).collect();
        first.into_iter().chain(fixed).chain(last).filter(|dim| !self.dims.single.contains(dim)).collect()
    }

    /// A new tile over these dimensions, for numbers of this type.
    pub fn new_tile(&mut self, name: &str, dims: Vec<DimId>, values: DType) -> View {
        let strides = row_major(&dims, |dim| self.dims.most(dim));
        let elements = dims.iter().map(|&dim| self.dims.most(dim)).product();
        // Arguments end in a number alone: no tile is called what one of them is.
        let name = format!("{name}_t{}", self.tiles.len());
        self.tiles.push(Tile { name, dims, elements, values });
        View {
            base: Base::Tile(self.tiles.len() - 1),
            dtype: DType::F32,
            offset: 0,
            strides,
            rows: RowMap::InOrder,
        }
    }

    /// The argument for a source, added if it is new.
    pub fn arg(&mut self, source: Source, dtype: DType, write: bool) -> usize {
        let position = self.sources.iter().position(|known| *known == source).unwrap_or_else(|| {
            let (Source::Value(id)
            | Source::Cache(id)
            | Source::Chunks(id)
            | Source::Order(id, _)
            | Source::Starts(id, _)
            | Source::State { scan: id, .. }) = source;
            let name = match self.dims.flat {
                // The same work on other values is to be the same text.
                Some(_) => format!("x{}", self.sources.len()),
                None => {
                    let label = self.graph.node(id).label.map(|label| label.to_string());
                    let label = label.unwrap_or_else(|| self.graph.op(id).name().to_owned());
                    let part = match source {
                        Source::Order(..) => "order_",
                        Source::Starts(..) => "starts_",
                        Source::Chunks(_) => "chunks_",
                        _ => "",
                    };
                    format!("{}_{part}{}", super::dims::identifier(&label), id.index())
                }
            };
            self.sources.push(source);
            self.args.push(Arg { name, dtype, written: false });
            self.sources.len() - 1
        });
        self.args[position].written |= write;
        position
    }

    /// Where a stored value lies.
    pub fn stored(&mut self, id: NodeId, write: bool) -> Result<Place, LowerError> {
        if let Some(step) = &self.step {
            let port = step.ports.get(&id).cloned();
            return port.ok_or_else(|| self.error(id, "is not given to the step that reads it".into()));
        }
        let dtype = self.graph.ty(id).dtype;
        let arg = self.arg(Source::Value(id), dtype, write);
        let layout = (self.context.layout)(id);
        self.place_of(arg, dtype, layout, id)
    }

    /// Where a cache lies, read along `past` or written at each token's row.
    pub fn cache(&mut self, history: NodeId, write: bool) -> Result<Place, LowerError> {
        let dtype = self.graph.ty(history).dtype;
        let arg = self.arg(Source::Cache(history), dtype, write);
        let layout = self.context.layouts.dense(self.graph.ty(history));
        let mut place = self.place_of(arg, dtype, layout, history)?;
        if let (Place::Strided(view), true) = (&mut place, write) {
            view.rows = RowMap::Cache;
        }
        Ok(place)
    }

    /// Where what is left of each chunk of a value lies, of which each sequence has one token.
    pub(super) fn left_of_chunks(&mut self, id: NodeId, write: bool) -> Result<Place, LowerError> {
        let arg = self.arg(Source::Chunks(id), DType::F32, write);
        let layout = self.context.layouts.of_chunks(self.graph.ty(id));
        self.place_of(arg, DType::F32, layout, id)
    }

    fn place_of(
        &mut self,
        arg: usize,
        dtype: DType,
        layout: Layout,
        id: NodeId,
    ) -> Result<Place, LowerError> {
        if let Some(flat) = self.dims.flat {
            let strides = if self.graph.axes(id).is_empty() { Vec::new() } else { vec![(flat, 1)] };
            return Ok(Place::Strided(View {
                base: Base::Arg(arg),
                dtype,
                offset: 0,
                strides,
                rows: RowMap::InOrder,
            }));
        }
        self.check_stack(id, &layout)?;
        match layout {
            Layout::Dense { leading, order } => {
                let dims: Vec<DimId> = order.iter().filter_map(|&axis| self.dims.of(axis)).collect();
                let sizes: Vec<usize> = order.iter().map(|axis| axis.fixed_size().unwrap_or(1)).collect();
                let mut strides = Vec::new();
                let mut stride = 1;
                for (&dim, size) in dims.iter().zip(sizes).rev() {
                    strides.insert(0, (dim, stride));
                    stride *= size;
                }
                let row = match (leading, self.dims.row, self.dims.sequence) {
                    (Leading::None, _, _) => None,
                    (Leading::Batch, Some(row), _) if self.walks_tokens(row) => {
                        let problem = "has a row for each sequence, but is read for each token".to_owned();
                        return Err(self.error(id, problem));
                    }
                    (_, Some(row), _) => Some(row),
                    (Leading::Rows, None, Some((time, _))) => Some(time),
                    (Leading::Past | Leading::Chunks, None, Some((_, past))) => Some(past),
                    _ => return Err(self.error(id, "has run-time axes that its kernel does not walk".into())),
                };
                strides.extend(row.map(|row| (row, product(&order))));
                let rows = if leading == Leading::Chunks { RowMap::Chunk } else { RowMap::InOrder };
                Ok(Place::Strided(View { base: Base::Arg(arg), dtype, offset: 0, strides, rows }))
            }
            Layout::Rounded { order, .. } => {
                let row = self
                    .dims
                    .row
                    .ok_or_else(|| self.error(id, "is rounded, but its kernel walks no rows".to_owned()))?;
                Ok(Place::Strided(View {
                    base: Base::Arg(arg),
                    dtype,
                    offset: 0,
                    strides: vec![(row, product(&order) / BLOCK * ROUNDED_WORDS)],
                    rows: RowMap::InOrder,
                }))
            }
            Layout::Packed { .. } | Layout::Blocks { .. } => {
                let blocks = match layout {
                    Layout::Blocks { format, .. } => Some(format),
                    _ => None,
                };
                let (Layout::Packed { k, n } | Layout::Blocks { k, n, .. }) = layout else {
                    return Err(self.error(id, "has no panels".to_owned()));
                };
                let mut nested = |axes: &[Axis]| {
                    let mut stride = 1;
                    let mut strides = Vec::new();
                    for &axis in axes.iter().rev() {
                        strides.extend(self.dims.of(axis).map(|dim| (dim, stride)));
                        stride *= axis.fixed_size().unwrap_or(1);
                    }
                    strides
                };
                let (k_strides, n_strides) = (nested(&k), nested(&n));
                Ok(Place::Packed(PackedView {
                    arg,
                    dtype,
                    blocks,
                    depth: product(&k),
                    first: (0, 0),
                    k: k_strides,
                    n: n_strides,
                }))
            }
        }
    }

    /// Values that lie layer by layer are read by repeats, and where the whole stack is walked as it lies.
    fn check_stack(&self, id: NodeId, layout: &Layout) -> Result<(), LowerError> {
        let graph = self.graph;
        let (first, second): (&[Axis], &[Axis]) = match layout {
            Layout::Dense { order, .. } | Layout::Rounded { order, .. } => (order, &[]),
            Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => (k, n),
        };
        let fixed = graph.axes(id).iter().filter(|axis| axis.fixed_size().is_some());
        let covered = fixed.clone().all(|axis| first.contains(axis) || second.contains(axis));
        let stacked = match graph.op(id) {
            Op::Output(output) => graph.operands(id).first().is_some_and(
                |&operand| matches!(graph.op(operand), Op::Repeat(repeat) if output.index >= repeat.carried),
            ),
            _ => false,
        };
        if covered && !stacked {
            return Ok(());
        }
        Err(self.error(id, "lies layer by layer: use it in a repeat over its layers".to_owned()))
    }

    fn walks_tokens(&self, row: DimId) -> bool {
        matches!(
            self.dims.list[row].extent,
            Extent::Rows { leading: Leading::Rows | Leading::Past, .. }
                | Extent::Pairs { leading: Leading::Rows, .. }
        )
    }

    /// Where the value of an operand lies for a reader, seen through views.
    pub fn place(&mut self, id: NodeId, after_stream: bool) -> Result<Place, LowerError> {
        if let Some(view) = self.value_tile(id, after_stream) {
            return Ok(Place::Strided(view));
        }
        let op = self.graph.op(id).clone();
        let operand = self.graph.operands(id).first().copied();
        match (op, operand) {
            (Op::Literal(literal), _) if literal.axis.is_some() => {
                let values: Vec<f32> = literal.values().iter().map(|&value| value as f32).collect();
                let table = self.tables.iter().position(|known| *known == values).unwrap_or_else(|| {
                    self.tables.push(values);
                    self.tables.len() - 1
                });
                let dim = literal.axis.and_then(|axis| self.dims.of(axis));
                let strides = dim.map(|dim| (dim, 1)).into_iter().collect();
                Ok(Place::Strided(View {
                    base: Base::Table(table),
                    dtype: DType::F32,
                    offset: 0,
                    strides,
                    rows: RowMap::InOrder,
                }))
            }
            // Loads widen.
            (Op::Cast(_), Some(x)) if self.is_free(id) && self.graph.ty(x).dtype.is_narrow() => {
                self.place(x, after_stream)
            }
            (Op::Rename(rename), Some(x)) => {
                let place = self.place(x, after_stream)?;
                self.renamed(place, rename.from, rename.to)
            }
            (Op::History(history), Some(x)) if self.context.history_is_rename => {
                let place = self.place(x, after_stream)?;
                self.renamed(place, history.time, history.past)
            }
            (Op::History(_), _) => self.cache(id, false),
            (Op::Split(split), Some(x)) => {
                let mut place = self.place(x, after_stream)?;
                let mut inner = take_along(&mut place, self.dims.of(split.axis));
                for &axis in split.into.iter().rev() {
                    add_along(&mut place, self.dims.of(axis), inner);
                    inner = times(inner, axis.fixed_size().unwrap_or(1));
                }
                Ok(place)
            }
            (Op::Merge(merge), Some(x)) => {
                let mut place = self.place(x, after_stream)?;
                let (mut innermost, mut outer) = (None, None);
                for &axis in merge.axes.iter().rev() {
                    let along = take_along(&mut place, self.dims.of(axis));
                    // An axis of one position may lie anywhere.
                    let size = axis.fixed_size().unwrap_or(1);
                    if size == 1 {
                        continue;
                    }
                    if outer.is_some_and(|outer| outer != along) {
                        return Err(self.error(id, "merges axes that do not lie one within the other".into()));
                    }
                    innermost = innermost.or(Some(along));
                    outer = Some(times(along, size));
                }
                if let Some(along) = innermost {
                    add_along(&mut place, self.dims.of(merge.into), along);
                }
                Ok(place)
            }
            (Op::Slice(slice), Some(x)) => {
                let mut place = self.place(x, after_stream)?;
                let along = take_along(&mut place, self.dims.of(slice.axis));
                begin_at(&mut place, times(along, slice.start));
                add_along(&mut place, self.dims.of(slice.into), along);
                Ok(place)
            }
            _ => self.stored(id, false),
        }
    }

    fn renamed(&mut self, place: Place, from: Axis, to: Axis) -> Result<Place, LowerError> {
        let (Some(old), Some(new)) = (self.dims.of(from), self.dims.of(to)) else { return Ok(place) };
        let swap = |strides: &mut Vec<(DimId, usize)>| {
            strides.iter_mut().filter(|entry| entry.0 == old).for_each(|entry| entry.0 = new);
        };
        let mut place = place;
        match &mut place {
            Place::Strided(view) => swap(&mut view.strides),
            Place::Packed(view) => {
                swap(&mut view.k);
                swap(&mut view.n);
            }
        }
        Ok(place)
    }

    /// Whether the group has run-time rows of this kind.
    pub fn group_leading(&self) -> Leading {
        match &self.group.kind {
            GroupKind::Rows(leading) | GroupKind::OverRows(leading) => *leading,
            GroupKind::Grouped(grouping) | GroupKind::OverGrouped(grouping) => grouping.leading,
            _ => Leading::None,
        }
    }

    /// The run-time axes of a node.
    pub fn leading(&self, id: NodeId) -> Leading {
        leading(self.graph.axes(id)).unwrap_or(Leading::Quadratic)
    }
}

/// Takes a dimension out of a place: how far its positions were apart.
pub(super) fn take_along(place: &mut Place, dim: Option<DimId>) -> Along {
    let take = |strides: &mut Vec<(DimId, usize)>| {
        let at = strides.iter().position(|entry| Some(entry.0) == dim)?;
        Some(strides.remove(at).1)
    };
    match place {
        Place::Strided(view) => Along::Stride(take(&mut view.strides).unwrap_or(0)),
        Place::Packed(view) => match take(&mut view.k) {
            Some(rows) => Along::PackedK(rows),
            None => Along::PackedN(take(&mut view.n).unwrap_or(0)),
        },
    }
}

/// Gives a place a dimension whose positions are so far apart.
pub(super) fn add_along(place: &mut Place, dim: Option<DimId>, along: Along) {
    match (place, along) {
        (Place::Strided(view), Along::Stride(step)) => view.strides.extend(dim.map(|dim| (dim, step))),
        (Place::Packed(view), Along::PackedK(step)) => view.k.extend(dim.map(|dim| (dim, step))),
        (Place::Packed(view), Along::PackedN(step)) => view.n.extend(dim.map(|dim| (dim, step))),
        (Place::Strided(_) | Place::Packed(_), _) => {}
    }
}

/// Moves the first element of a place.
pub(super) fn begin_at(place: &mut Place, start: Along) {
    match (place, start) {
        (Place::Strided(view), Along::Stride(start)) => view.offset += start,
        (Place::Packed(view), Along::PackedK(start)) => view.first.0 += start,
        (Place::Packed(view), Along::PackedN(start)) => view.first.1 += start,
        (Place::Strided(_) | Place::Packed(_), _) => {}
    }
}

/// So many times as far.
pub(super) fn times(along: Along, count: usize) -> Along {
    match along {
        Along::Stride(step) => Along::Stride(step * count),
        Along::PackedN(step) => Along::PackedN(step * count),
        Along::PackedK(step) => Along::PackedK(step * count),
    }
}

/// Strides of a row-major tile.
pub fn row_major(dims: &[DimId], most: impl Fn(DimId) -> usize) -> Vec<(DimId, usize)> {
    let mut strides = Vec::new();
    let mut stride = 1usize;
    for &dim in dims.iter().rev() {
        strides.insert(0, (dim, stride));
        stride = stride.saturating_mul(most(dim));
    }
    strides
}

/// What a mask says of pairs of positions, where it is made of comparisons of
/// `index(past)` and `index(time)`; what it does not understand bounds nothing.
pub(super) fn mask_bounds(graph: &Graph, mask: NodeId) -> StreamBounds {
    let operands = graph.operands(mask);
    let Op::Map(map) = graph.op(mask) else { return StreamBounds::default() };
    let affine = |id: NodeId| affine(graph, id);
    match (map.0, &operands[..]) {
        (ScalarFn::And, &[left, right]) => {
            let (left, right) = (mask_bounds(graph, left), mask_bounds(graph, right));
            let window = [left.window, right.window].into_iter().flatten().min();
            StreamBounds { causal: left.causal || right.causal, window }
        }
        (ScalarFn::Less | ScalarFn::LessEqual, &[left, right]) => {
            let (Some(left), Some(right)) = (affine(left), affine(right)) else {
                return StreamBounds::default();
            };
            // left (<|<=) right as: past coefficient * past + time coefficient * time <= constant.
            let strict = i64::from(map.0 == ScalarFn::Less);
            let (past, time) = (left.past - right.past, left.time - right.time);
            let constant = right.constant - left.constant - strict;
            match (past, time) {
                (1, -1) if constant <= 0 => StreamBounds { causal: true, window: None },
                (-1, 1) if constant >= 0 => {
                    StreamBounds { causal: false, window: Some(constant as usize + 1) }
                }
                _ => StreamBounds::default(),
            }
        }
        _ => StreamBounds::default(),
    }
}

struct Affine {
    past: i64,
    time: i64,
    constant: i64,
}

fn affine(graph: &Graph, id: NodeId) -> Option<Affine> {
    let operands = graph.operands(id);
    match graph.op(id) {
        Op::Index(index) => match symbol(index.axis)? {
            "past" => Some(Affine { past: 1, time: 0, constant: 0 }),
            "time" => Some(Affine { past: 0, time: 1, constant: 0 }),
            _ => None,
        },
        Op::Literal(literal) => Some(Affine { past: 0, time: 0, constant: literal.as_scalar()? as i64 }),
        Op::Map(map) if matches!(map.0, ScalarFn::Add | ScalarFn::Sub) => {
            let sign = if map.0 == ScalarFn::Add { 1 } else { -1 };
            let (left, right) = (affine(graph, operands[0])?, affine(graph, operands[1])?);
            Some(Affine {
                past: left.past + sign * right.past,
                time: left.time + sign * right.time,
                constant: left.constant + sign * right.constant,
            })
        }
        _ => None,
    }
}
