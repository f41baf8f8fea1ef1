//! Contractions as dots: which operand gives the columns, which dimensions lie
//! as one, and which operands must first be copied or transposed to a tile.

use super::LowerError;
use super::emit::{Order, Schedule};
use super::stages::{Lowering, Phase};
use crate::tile::{DimId, Dot, Extent, Instr, PackedView, Place, Stmt, TURNED_ROWS, View};
use diptych_ir::{DType, NodeId, Op};

/// The parts of a contraction.
struct Sides {
    rows_of: NodeId,
    columns_of: NodeId,
    batch: Vec<DimId>,
    m: Vec<DimId>,
    n: Vec<DimId>,
    k: Vec<DimId>,
}

impl Lowering<'_> {
    pub(super) fn emit_dot(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let computed = self.computed[&id].clone();
        let folded = computed.chunk.clone();
        let direct = computed.direct;
        let c = match (folded.clone().or_else(|| computed.tile.clone()), direct) {
            (_, true) => self.stored(id, true)?,
            (Some(tile), false) => Place::Strided(tile),
            (None, false) => return Err(self.error(id, "has no tile".into())),
        };
        let order = self.result_order(&c, &computed.dims);
        let Sides { rows_of, columns_of, mut batch, m, n, k } = self.sides(id, &order);
        // Of rows and columns that do not lie as one in the result, the outer ones are walked one by one.
        let (outer_m, m) = self.as_one(&c, m);
        let (outer_n, n) = self.as_one(&c, n);
        batch.extend(outer_m.into_iter().chain(outer_n));
        let reading_after = computed.phase == Phase::After;
        if k.iter().skip(1).any(|&dim| self.constant(dim).is_none()) {
            return Err(
                self.error(id, "sums over axes that do not lie as one, in the order of its sum".into())
            );
        }
        let (a_dims, b_dims) = (self.node_dims(rows_of), self.node_dims(columns_of));
        let of = |dims: &[DimId]| batch.iter().copied().filter(|dim| dims.contains(dim)).collect::<Vec<_>>();
        let (a_batch, b_batch) = (of(&a_dims), of(&b_dims));
        let a = self.left_operand(schedule, rows_of, (&a_batch, &m, &k), reading_after, computed.stage)?;
        let rows: Option<usize> = m.iter().map(|&dim| self.constant(dim)).product();
        let turns =
            matches!(c, Place::Strided(_)) && batch.is_empty() && rows.is_none_or(|rows| rows <= TURNED_ROWS);
        let sides = (&b_batch[..], &k[..], &n[..]);
        let turning = turns.then_some(computed.phase);
        let (b, turned, across) = match matches!(self.graph.op(rows_of), Op::RoundBlocks(_)) {
            true if !matches!(c, Place::Strided(_)) => {
                return Err(
                    self.error(id, "is a product with a weight in blocks, and is packed itself".into())
                );
            }
            true => (self.weight_in_blocks(id, columns_of, sides)?, None, false),
            false => match self.weight_across(columns_of, sides, reading_after)? {
                Some(weight) => (weight, None, true),
                None => {
                    let (stage, after) = (computed.stage, reading_after);
                    let (b, turned) =
                        self.right_operand(schedule, columns_of, sides, after, stage, turning)?;
                    (b, turned, false)
                }
            },
        };
        let accumulate = computed.over_stream && folded.is_none();
        if accumulate {
            self.start_sum(schedule, id, &order, &c, 0.0)?;
        }
        let values = [rows_of, columns_of].map(|id| self.graph.ty(id).dtype);
        let turned = turned.map(Box::new);
        let sum = self.sum(id)?;
        let stmt = Stmt::Dot(Dot { batch, m, n, k, a, b, across, turned, c, accumulate, values, sum });
        schedule.push(computed.phase, computed.stage, Order::Last, stmt);
        if direct { Ok(()) } else { self.emit_store(schedule, id) }
    }

    /// Cuts dimensions of a result in those to be walked one by one, and those within that lie as one.
    fn as_one(&self, place: &Place, dims: Vec<DimId>) -> (Vec<DimId>, Vec<DimId>) {
        let Place::Strided(view) = place else { return (Vec::new(), dims) };
        let start =
            (0..dims.len()).find(|&start| self.runs_as_one(view, &dims[start..])).unwrap_or(dims.len());
        (dims[..start].to_vec(), dims[start..].to_vec())
    }

    /// Whether dimensions of a view lie one within the other, so that one stride serves them all.
    pub(super) fn runs_as_one(&self, view: &View, dims: &[DimId]) -> bool {
        dims.windows(2).all(|pair| {
            let inner = self.constant(pair[1]);
            inner.is_some_and(|inner| view.stride(pair[0]) == view.stride(pair[1]) * inner)
        })
    }

    /// Whether these are all dimensions of a packed weight, in the order in
    /// which they lie, one within the other, and the instance's columns begin where a panel does; so do those at
    /// each position of the dimensions that are walked one by one.
    fn panels_run(&self, view: &PackedView, k: &[DimId], n: &[DimId], batch: &[DimId]) -> bool {
        let long = |strides: &[(DimId, usize)]| {
            let mut long = strides.to_vec();
            long.retain(|entry| self.constant(entry.0) != Some(1) && !batch.contains(&entry.0));
            long.sort_by_key(|entry| std::cmp::Reverse(entry.1));
            long.into_iter().map(|entry| entry.0).collect::<Vec<_>>()
        };
        let nested = |strides: &[(DimId, usize)], dims: &[DimId]| {
            let stride = |dim: DimId| strides.iter().find(|entry| entry.0 == dim).map_or(0, |entry| entry.1);
            dims.last().is_none_or(|&last| stride(last) == 1)
                && dims.windows(2).all(|pair| {
                    self.constant(pair[1]).is_some_and(|inner| stride(pair[0]) == stride(pair[1]) * inner)
                })
        };
        let whole = |dims: &[DimId]| dims.iter().skip(1).all(|&dim| !self.is_divided(dim));
        let aligned = view.n.iter().all(|&(dim, stride)| match self.dims.list[dim].extent {
            Extent::Blocks { size, block } => {
                let step = if batch.contains(&dim) { stride } else { block * stride };
                block >= size && !batch.contains(&dim) || step.is_multiple_of(self.context.panel)
            }
            _ => !batch.contains(&dim) || stride.is_multiple_of(self.context.panel),
        }) && view.first.1.is_multiple_of(self.context.panel);
        let in_order = long(&view.k) == k && long(&view.n) == n;
        in_order && nested(&view.k, k) && nested(&view.n, n) && whole(k) && whole(n) && aligned
    }

    /// Whether an instance sees part of a dimension only.
    fn is_divided(&self, dim: DimId) -> bool {
        match self.dims.list[dim].extent {
            Extent::Whole(_) => false,
            Extent::Blocks { size, block } => block < size,
            _ => true,
        }
    }

    /// Which operand gives rows and which columns, and the dimensions of each
    /// part. The columns are those of the operand that has the last dimension
    /// of the result. Dimensions of one position are left out.
    fn sides(&mut self, id: NodeId, order: &[DimId]) -> Sides {
        let operands = super::grouped::factors(self.graph, id);
        let (left, right) = (operands[0], operands[1]);
        let last = order.last().copied();
        let (left_dims, right_dims) = (self.node_dims(left), self.node_dims(right));
        let swapped = last.is_some_and(|last| left_dims.contains(&last) && !right_dims.contains(&last));
        let (rows_of, columns_of) = if swapped { (right, left) } else { (left, right) };
        let (a_dims, b_dims) = if swapped { (right_dims, left_dims) } else { (left_dims, right_dims) };
        let long = |dim: &DimId| self.constant(*dim) != Some(1);
        let in_both = |dim: &DimId| a_dims.contains(dim) && b_dims.contains(dim);
        let of = |wanted: &dyn Fn(&DimId) -> bool| {
            order.iter().copied().filter(|dim| long(dim) && wanted(dim)).collect()
        };
        let batch: Vec<DimId> = of(&in_both);
        let m: Vec<DimId> = of(&|dim| a_dims.contains(dim) && !in_both(dim));
        let n: Vec<DimId> = of(&|dim| b_dims.contains(dim) && !in_both(dim));
        let mut k: Vec<DimId> = Vec::new();
        if let Op::Contract(contract) = self.graph.op(id).clone() {
            for axis in contract.over {
                if let Some(dim) = self.dims.of(axis)
                    && !k.contains(&dim)
                    && !self.dims.single.contains(&dim)
                    && self.constant(dim) != Some(1)
                {
                    k.push(dim);
                }
            }
        } else {
            k.extend(self.dims.row);
        }
        Sides { rows_of, columns_of, batch, m, n, k }
    }

    /// Whether a dot can write straight to where its value is stored: nobody in
    /// the group reads it, and its rows and columns lie as one there.
    pub(super) fn find_direct(&mut self, id: NodeId) -> Result<bool, LowerError> {
        let read = self.group.nodes.iter().any(|&node| self.reads(node).iter().any(|(read, _)| *read == id));
        let folded = self.fold.as_ref().is_some_and(|fold| fold.sums.contains(&id));
        if !self.group.outputs.contains(&id) || read || folded || !self.caches_of(id).is_empty() {
            return Ok(false);
        }
        let c = self.stored(id, true)?;
        if self.is_scattered(&c) {
            return Ok(false);
        }
        let order = self.result_order(&c, &self.computed[&id].dims);
        let Sides { batch, m, n, .. } = self.sides(id, &order);
        Ok(match &c {
            Place::Strided(view) => {
                self.runs_as_one(view, &m) && self.runs_as_one(view, &n) && is_contiguous(view, &n)
            }
            Place::Packed(view) => batch.is_empty() && self.panels_run(view, &m, &n, &[]),
        })
    }

    /// The dimensions of a dot's tile, slowest first: those of its value, if
    /// its rows and columns lie as one then, and else so ordered that they do.
    pub(super) fn dot_tile_dims(&mut self, id: NodeId) -> Vec<DimId> {
        let dims = self.computed[&id].dims.clone();
        let Sides { batch, m, n, .. } = self.sides(id, &dims);
        let adjacent =
            |part: &[DimId]| dims.windows(part.len().max(1)).any(|window| window == part) || part.is_empty();
        if adjacent(&m) && adjacent(&n) && (n.is_empty() || dims.ends_with(&n)) {
            return dims;
        }
        let rest = dims.iter().copied().filter(|dim| ![&batch, &m, &n].iter().any(|part| part.contains(dim)));
        rest.chain(batch.iter().copied()).chain(m.iter().copied()).chain(n.iter().copied()).collect()
    }

    /// The result's dimensions, as they lie where it is written.
    pub(super) fn result_order(&self, c: &Place, dims: &[DimId]) -> Vec<DimId> {
        match c {
            Place::Strided(_) => dims.to_vec(),
            Place::Packed(view) => {
                let of = |strides: &[(DimId, usize)]| {
                    let mut sorted = strides.to_vec();
                    sorted.sort_by_key(|entry| std::cmp::Reverse(entry.1));
                    sorted
                        .into_iter()
                        .map(|entry| entry.0)
                        .filter(|dim| dims.contains(dim))
                        .collect::<Vec<_>>()
                };
                [of(&view.k), of(&view.n)].concat()
            }
        }
    }

    fn constant(&self, dim: DimId) -> Option<usize> {
        self.dims.list[dim].extent.constant()
    }

    fn left_operand(
        &mut self,
        schedule: &mut Schedule,
        id: NodeId,
        (batch, m, k): (&[DimId], &[DimId], &[DimId]),
        after: bool,
        stage: usize,
    ) -> Result<View, LowerError> {
        let place = self.place(id, after)?;
        if let Place::Strided(view) = &place
            && (view.dtype == DType::F32 || self.context.operands_as_they_lie && view.dtype.is_float())
            && !self.is_scattered(&place)
            && self.runs_as_one(view, m)
            && self.runs_as_one(view, k)
        {
            return Ok(view.clone());
        }
        self.copied(schedule, id, &[batch, m, k].concat(), after, stage)
    }

    /// The right operand, and what it is turned over from if the dot does that itself, as it may in this phase.
    fn right_operand(
        &mut self,
        schedule: &mut Schedule,
        id: NodeId,
        (batch, k, n): (&[DimId], &[DimId], &[DimId]),
        after: bool,
        stage: usize,
        turning: Option<Phase>,
    ) -> Result<(Place, Option<View>), LowerError> {
        let place = self.place(id, after)?;
        match &place {
            Place::Strided(_) if self.is_scattered(&place) => {}
            Place::Strided(view) => {
                let as_one = self.runs_as_one(view, n) && self.runs_as_one(view, k);
                if as_one && (is_contiguous(view, n) || self.context.operands_as_they_lie) {
                    return Ok((place, None));
                }
                let rows_contiguous = k.last().is_some_and(|&dim| view.stride(dim) == 1);
                if rows_contiguous && batch.is_empty() && as_one {
                    let dims = [k, n].concat();
                    if turning == Some(self.copy_phase(id, &dims, after)) {
                        let tile = self.new_tile(
                            &format!("{}_turned", self.name(id)),
                            dims,
                            self.graph.ty(id).dtype,
                        );
                        return Ok((Place::Strided(tile), Some(view.clone())));
                    }
                    let tile = self.transposed(schedule, id, place.clone(), (k, n), after, stage);
                    return Ok((tile, None));
                }
            }
            // What is multiplied with f32 is f32 itself.
            Place::Packed(view) if view.blocks.is_some() => {}
            Place::Packed(view) => {
                if self.panels_run(view, k, n, batch) {
                    return Ok((place, None));
                }
                if batch.is_empty() && self.panels_run(view, n, k, &[]) {
                    let tile = self.transposed(schedule, id, place.clone(), (k, n), after, stage);
                    return Ok((tile, None));
                }
            }
        }
        let copy = self.copied(schedule, id, &[batch, k, n].concat(), after, stage)?;
        Ok((Place::Strided(copy), None))
    }

    /// A weight of floats that is summed along what its panels have for columns: the dot turns them over.
    fn weight_across(
        &mut self,
        id: NodeId,
        (batch, k, n): (&[DimId], &[DimId], &[DimId]),
        after: bool,
    ) -> Result<Option<Place>, LowerError> {
        let place = self.place(id, after)?;
        let lies_across = match &place {
            Place::Packed(view) => {
                (view.dtype == DType::F32 || self.context.operands_as_they_lie)
                    && view.blocks.is_none()
                    && view.first.0 == 0
                    && batch.is_empty()
                    && !self.panels_run(view, k, n, batch)
                    && self.panels_run(view, n, k, &[])
            }
            Place::Strided(_) => false,
        };
        Ok(lies_across.then_some(place))
    }

    /// The weight of a product with rounded rows.
    fn weight_in_blocks(
        &mut self,
        product: NodeId,
        id: NodeId,
        (batch, k, n): (&[DimId], &[DimId], &[DimId]),
    ) -> Result<Place, LowerError> {
        match self.place(id, false)? {
            Place::Packed(view)
                if view.blocks.is_some() && view.first.0 == 0 && self.panels_run(&view, k, n, batch) =>
            {
                Ok(Place::Packed(view))
            }
            _ => Err(self.error(
                product,
                "multiplies rounded rows with what is no weight in blocks, or with one in another order"
                    .into(),
            )),
        }
    }

    /// The phase in which a copy of an operand is made: in the stream if it varies along it.
    fn copy_phase(&self, id: NodeId, dims: &[DimId], after: bool) -> Phase {
        if let Some(step) = &self.step {
            return if step.moving.contains(&id) { Phase::Stream } else { Phase::Before };
        }
        let streamed = self.dims.stream.is_some_and(|stream| dims.contains(&stream));
        let sources = self.reads(id);
        let inside = self.computed.contains_key(&id) || !sources.is_empty();
        match (streamed, after && inside) {
            (true, _) => Phase::Stream,
            (false, true) => Phase::After,
            (false, false) => Phase::Before,
        }
    }

    pub(super) fn copied(
        &mut self,
        schedule: &mut Schedule,
        id: NodeId,
        dims: &[DimId],
        after: bool,
        stage: usize,
    ) -> Result<View, LowerError> {
        let tile = self.new_tile(&format!("{}_copy", self.name(id)), dims.to_vec(), self.graph.ty(id).dtype);
        let phase = self.copy_phase(id, dims, after);
        let nest = schedule.nest(phase, stage, dims);
        let value = self.value(nest, id, phase)?;
        nest.push(Instr::Store(Place::Strided(tile.clone()), value));
        Ok(tile)
    }

    fn transposed(
        &mut self,
        schedule: &mut Schedule,
        id: NodeId,
        from: Place,
        (rows, columns): (&[DimId], &[DimId]),
        after: bool,
        stage: usize,
    ) -> Place {
        let dims = [rows, columns].concat();
        let to =
            self.new_tile(&format!("{}_transposed", self.name(id)), dims.clone(), self.graph.ty(id).dtype);
        let phase = self.copy_phase(id, &dims, after);
        let stmt = Stmt::Transpose { rows: rows.to_vec(), columns: columns.to_vec(), from, to: to.clone() };
        schedule.push(phase, stage, Order::First, stmt);
        Place::Strided(to)
    }
}

/// Whether the last of these dimensions has one element after the other.
fn is_contiguous(view: &View, dims: &[DimId]) -> bool {
    dims.last().is_none_or(|&dim| view.stride(dim) == 1)
}
