//! Operands that TMA copies: the tensor that a view or a weight in panels is, and where an instance's boxes of it
//! begin.

use super::writer::Writer;
use super::{PANEL, Swizzle, TensorDim, TensorExtent, TensorMap};
use crate::tile::{Base, DimId, Extent, PackedView, Place, RowMap, View};
use diptych_ir::DType;
use diptych_passes::layout::Leading;

/// k of a slot of the ring: see `prelude/ring.cu`.
pub(super) const RING_STEP: usize = 64;

/// An operand as boxes of a tensor.
pub(super) struct Boxes {
    pub(super) map: TensorMap,
    /// Where the instance begins, along each dimension of the tensor.
    first: Vec<String>,
    /// The tensor's dimensions of rows (or columns) and of k, and how many of these a position is.
    x: (usize, usize),
    k: (usize, usize),
    pub(super) along_k: bool,
    /// Whether a box may hold something behind the last k.
    pub(super) zeroed: bool,
    /// Whether it may hold what nobody wrote behind the last row (or column).
    pub(super) rows_zeroed: bool,
}

impl Boxes {
    /// As the prelude has them, for tiles of so many rows (or columns), with the map at an address.
    pub(super) fn text(&self, extent: usize, map: &str) -> String {
        let (dims, (x, x_unit), (k, k_unit)) = (self.first.len(), self.x, self.k);
        let (along_k, first) = (self.along_k, self.first.join(", "));
        format!("boxes<{dims}, {extent}, {along_k}, {x}, {x_unit}, {k}, {k_unit}>{{{map}, {{{first}}}}}")
    }
}

/// A dimension of a tensor on its way.
struct Axis {
    stride: usize,
    extent: TensorExtent,
    first: Vec<String>,
    box_size: usize,
}

/// Whether what comes behind the last of these k is zero in a tensor that is as long as their axis, or has no place
/// in a box of k that begins at a multiple of [`RING_STEP`].
fn ends_with_its_axis(extents: &[Extent]) -> bool {
    match extents {
        &[Extent::Whole(_)] => true,
        &[Extent::Blocks { block, .. } | Extent::Rows { block, .. }] => block.is_multiple_of(RING_STEP),
        several => {
            let sizes = several.iter().map(|extent| extent.constant());
            sizes.product::<Option<usize>>().is_some_and(|size| size.is_multiple_of(RING_STEP))
        }
    }
}

impl Writer<'_> {
    /// An operand as boxes for tiles of `extent` rows (or columns), if TMA can copy it: it lies in an argument that
    /// the kernel does not write, and is a tensor as TMA has them.
    pub(super) fn boxes(
        &self,
        place: &Place,
        (x, k): (&[DimId], &[DimId]),
        batch: &[DimId],
        across: bool,
        extent: usize,
    ) -> Option<Boxes> {
        let Base::Arg(arg) = place.base() else { return None };
        if place.dtype() != DType::BF16 || self.program.args[arg].written {
            return None;
        }
        match place {
            Place::Strided(view) => self.boxes_of_view(view, arg, (x, k), batch, extent),
            Place::Packed(view) => self.boxes_of_panels(view, k, batch, across, extent),
        }
    }

    fn boxes_of_view(
        &self,
        view: &View,
        arg: usize,
        (x, k): (&[DimId], &[DimId]),
        batch: &[DimId],
        extent: usize,
    ) -> Option<Boxes> {
        if k.is_empty() {
            return None;
        }
        // A single row is one of a dimension of its own.
        let single =
            Axis { stride: RING_STEP, extent: TensorExtent::Fixed(1), first: Vec::new(), box_size: 0 };
        let mut rows = if x.is_empty() { single } else { self.axis(view, x, batch)? };
        let mut depth = self.axis(view, k, batch)?;
        let along_k = depth.stride == 1;
        (rows.box_size, depth.box_size) = (if along_k { extent } else { RING_STEP }, RING_STEP);
        let mut axes = vec![(0, rows), (1, depth)];
        for &(dim, _) in view.strides.iter().filter(|entry| entry.1 > 0) {
            if !x.contains(&dim) && !k.contains(&dim) {
                axes.push((2, Axis { box_size: 1, ..self.axis(view, &[dim], batch)? }));
            }
        }
        let rows_zeroed = axes[0].1.extent == TensorExtent::Room;
        axes.sort_by_key(|(_, axis)| axis.stride);
        let position = |which: usize| axes.iter().position(|(of, _)| *of == which).unwrap_or(0);
        let dim = |(_, axis): &(usize, Axis)| TensorDim {
            extent: axis.extent,
            stride: axis.stride,
            box_size: axis.box_size,
        };
        let map =
            TensorMap::new(arg, view.dtype, view.offset, axes.iter().map(dim).collect(), Swizzle::Bytes128)
                .ok()?;
        let first = |(_, axis): &(usize, Axis)| match &axis.first[..] {
            [] => "0".to_owned(),
            terms => terms.join(" + "),
        };
        let extents: Vec<Extent> = k.iter().map(|&dim| self.extent(dim)).collect();
        Some(Boxes {
            map,
            first: axes.iter().map(first).collect(),
            x: (position(0), 1),
            k: (position(1), 1),
            along_k,
            zeroed: !ends_with_its_axis(&extents),
            rows_zeroed,
        })
    }

    /// Dimensions of a view that lie as one, as a dimension of a tensor; `None` where a tensor has no such dimension.
    fn axis(&self, view: &View, dims: &[DimId], batch: &[DimId]) -> Option<Axis> {
        let stride = dims.last().map(|&dim| view.stride(dim)).filter(|stride| *stride > 0)?;
        let mut first = Vec::new();
        for &dim in dims {
            let scattered = matches!(self.extent(dim), Extent::Rows { .. } | Extent::Time)
                && view.rows != RowMap::InOrder
                || matches!(self.extent(dim), Extent::Past { .. }) && view.rows == RowMap::Chunk;
            if scattered || !view.stride(dim).is_multiple_of(stride) {
                return None;
            }
            if let Some(position) = self.place_of(dim, &self.walked(batch)) {
                let steps = view.stride(dim) / stride;
                first.push(if steps == 1 { position } else { format!("{position} * {steps}") });
            }
        }
        let of_one = |dim: DimId| match self.extent(dim) {
            Extent::Whole(size) | Extent::Blocks { size, .. } => Some(TensorExtent::Fixed(size)),
            Extent::Rows { leading, .. } => Some(TensorExtent::Leading(leading)),
            Extent::Time => Some(TensorExtent::Leading(Leading::Rows)),
            Extent::Past { .. } => Some(TensorExtent::Room),
            _ => None,
        };
        let extent = match dims {
            &[dim] => of_one(dim)?,
            several => {
                let mut size = 1;
                for &dim in several.iter().rev() {
                    match of_one(dim)? {
                        TensorExtent::Fixed(positions) if view.stride(dim) == stride * size => {
                            size *= positions
                        }
                        _ => return None,
                    }
                }
                TensorExtent::Fixed(size)
            }
        };
        Some(Axis { stride, extent, first, box_size: 0 })
    }

    /// Panels are a tensor of 64 columns, so many k, and so many panels.
    fn boxes_of_panels(
        &self,
        view: &PackedView,
        k: &[DimId],
        batch: &[DimId],
        across: bool,
        extent: usize,
    ) -> Option<Boxes> {
        let begins_at_panels = |&(dim, stride): &(DimId, usize)| {
            let step = match self.extent(dim) {
                _ if batch.contains(&dim) => Some(stride),
                Extent::Blocks { size, block } if block < size => Some(block * stride),
                Extent::Blocks { .. } | Extent::Whole(_) => None,
                _ => Some(1),
            };
            step.is_none_or(|step| step.is_multiple_of(PANEL))
        };
        if view.blocks.is_some()
            || !view.first.1.is_multiple_of(PANEL)
            || !view.n.iter().all(begins_at_panels)
        {
            return None;
        }
        let (row, column) = self.packed_positions(view, &self.walked(batch));
        let fixed =
            |size, stride, box_size| TensorDim { extent: TensorExtent::Fixed(size), stride, box_size };
        let (rows, panels) = (view.depth, self.columns_of(view).div_ceil(PANEL));
        let dims = vec![
            fixed(PANEL, 1, PANEL),
            fixed(rows, PANEL, if across { extent } else { RING_STEP }),
            fixed(panels, rows * PANEL, 1),
        ];
        let map = TensorMap::new(view.arg, view.dtype, 0, dims, Swizzle::Bytes128).ok()?;
        let summed: Option<usize> = k.iter().map(|&dim| self.extent(dim).constant()).product();
        let all = !across && row == "0" && summed == Some(rows);
        let first = if column == "0" { column } else { format!("({column}) / {PANEL}") };
        let (x, k) = if across { ((1, 1), (2, PANEL)) } else { ((2, PANEL), (1, 1)) };
        Some(Boxes {
            map,
            first: vec!["0".to_owned(), row, first],
            x,
            k,
            along_k: across,
            zeroed: !all && !summed.is_some_and(|size| size.is_multiple_of(RING_STEP)),
            rows_zeroed: false,
        })
    }
}
