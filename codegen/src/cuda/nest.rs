//! Pointwise nests: the points are dealt out over threads, the last dimension fastest, so that neighbouring threads read
//! neighbouring elements. Sums along the last dimension are shared by the lanes of a row, in a tree that follows from
//! the row's length alone; other sums are a thread's own, over ascending positions. What is done at a point is in
//! `operations`.

use super::addresses::float;
use super::barriers::touched;
use super::passes::{Pass, passes};
use super::writer::Writer;
use crate::kinds::{Kind, kinds};
use crate::tile::{DimId, Extent, Instr, Nest, Place, Stmt, View};
use diptych_ir::ReduceKind;

/// A nest on its way to text.
pub(super) struct Points<'n> {
    pub(super) nest: &'n Nest,
    pub(super) pass: &'n Pass,
    pub(super) kinds: Vec<Kind>,
    /// Whether threads walk the elements that they hold in registers.
    pub(super) held: bool,
}

/// A sum of a pass.
pub(super) struct Sum<'n> {
    pub(super) id: usize,
    pub(super) kind: ReduceKind,
    pub(super) into: &'n View,
    pub(super) fresh: bool,
}

impl<'n> Points<'n> {
    pub(super) fn sums(&self) -> Vec<Sum<'n>> {
        let of = |(id, instr): (usize, &'n Instr)| match instr {
            Instr::Reduce { kind, into, fresh, .. } if self.pass.does[id] => {
                Some(Sum { id, kind: *kind, into, fresh: *fresh })
            }
            _ => None,
        };
        self.nest.body.iter().enumerate().filter_map(of).collect()
    }
}

impl Writer<'_> {
    pub(super) fn nest(&mut self, nest: &Nest) -> Result<(), String> {
        for pass in &passes(self.program, nest)? {
            let part = Stmt::Nest(Nest { dims: nest.dims.clone(), body: pass.part(nest) });
            self.wait_before(&touched(&part));
            if self.fragments.meet(nest) {
                return self.nest_of_fragments(nest);
            }
            let points = Points { nest, pass, kinds: kinds(nest), held: false };
            match pass.lanes(self.program, nest) {
                Some(lanes) => self.shared_rows(&points, lanes)?,
                None => self.own_points(&points)?,
            }
        }
        Ok(())
    }

    /// Each thread has points of its own, and walks all that is summed at each.
    fn own_points(&mut self, points: &Points<'_>) -> Result<(), String> {
        self.open_points(&points.pass.kept);
        for sum in points.sums() {
            let address = self.result(&sum, points);
            let start = if sum.fresh { neutral(sum.kind).to_owned() } else { format!("load({address})") };
            self.line(format!("float r{} = {start};", sum.id));
        }
        for &dim in &points.pass.serial {
            self.open_loop(dim, "0", "1");
        }
        self.body(points)?;
        points.pass.serial.iter().for_each(|_| self.close());
        for sum in points.sums() {
            let address = self.result(&sum, points);
            self.line(format!("store({address}, r{});", sum.id));
        }
        self.close();
        Ok(())
    }

    /// Lanes share a row: each walks every so manieth element.
    fn shared_rows(&mut self, points: &Points<'_>, lanes: usize) -> Result<(), String> {
        let Pass { serial, kept, .. } = points.pass;
        let (total, rows) = (self.total(kept), self.workers() / lanes);
        if total == "1" {
            self.open("{");
            self.line(format!("const bool there = threadIdx.x < {lanes};"));
        } else {
            self.open(format!("for (int first = 0; first < {total}; first += {rows}) {{"));
            self.line(format!("const int point = first + threadIdx.x / {lanes};"));
            let guards = self.coordinates(kept);
            let mut conditions = vec![format!("point < {total}")];
            conditions.extend(guards);
            self.line(format!("const bool there = {};", conditions.join(" && ")));
        }
        for sum in points.sums() {
            self.line(format!("float r{} = {};", sum.id, neutral(sum.kind)));
        }
        self.open("if (there) {");
        if let Some((&last, outer)) = serial.split_last() {
            outer.iter().for_each(|&dim| self.open_loop(dim, "0", "1"));
            self.open_loop(last, &format!("threadIdx.x % {lanes}"), &lanes.to_string());
        }
        self.body(points)?;
        serial.iter().for_each(|_| self.close());
        self.close();
        for sum in points.sums() {
            let join = join_name(sum.kind);
            let parts = if lanes > 32 { ", parts" } else { "" };
            self.line(format!("r{0} = over_lanes<{lanes}, {join}>(r{0}{parts});", sum.id));
        }
        self.open(format!("if (there && threadIdx.x % {lanes} == 0) {{"));
        for sum in points.sums() {
            let address = self.result(&sum, points);
            let whole = match sum.fresh {
                true => format!("r{}", sum.id),
                false => format!("{}::join(load({address}), r{})", join_name(sum.kind), sum.id),
            };
            self.line(format!("store({address}, {whole});"));
        }
        self.close();
        self.close();
        Ok(())
    }

    fn result(&self, sum: &Sum<'_>, points: &Points<'_>) -> String {
        self.element(&Place::Strided(sum.into.clone()), &self.walked(&points.pass.kept))
    }

    /// A loop of one thread over a dimension.
    fn open_loop(&mut self, dim: DimId, first: &str, step: &str) {
        let (name, count) = (self.name(dim).to_owned(), self.count(dim));
        let index = if self.is_huge(dim) { "long long" } else { "int" };
        let next = if step == "1" { format!("i_{name}++") } else { format!("i_{name} += {step}") };
        self.open(format!("for ({index} i_{name} = {first}; i_{name} < {count}; {next}) {{"));
    }

    fn is_huge(&self, dim: DimId) -> bool {
        matches!(self.extent(dim), Extent::Flat { block: usize::MAX })
    }

    /// The number of points of some dimensions as they are dealt out: of the first as many as there are, of others as
    /// many as there can be, so that coordinates are had by dividing by constants.
    fn total(&self, dims: &[DimId]) -> String {
        let dims: Vec<DimId> = dims.iter().copied().filter(|&dim| !self.is_single(dim)).collect();
        let Some((&first, rest)) = dims.split_first() else { return "1".to_owned() };
        let inner: usize = rest.iter().map(|&dim| self.extent(dim).most()).product();
        match (self.extent(first).constant(), inner) {
            (Some(size), inner) => (size * inner).to_string(),
            (None, 1) => self.count(first),
            (None, inner) => format!("{} * {inner}", self.count(first)),
        }
    }

    /// Declares the coordinates of `point`; gives the conditions under which they are there.
    fn coordinates(&mut self, dims: &[DimId]) -> Vec<String> {
        let dims: Vec<DimId> = dims.iter().copied().filter(|&dim| !self.is_single(dim)).collect();
        let mut inner = 1;
        let mut lines = Vec::new();
        let mut guards = Vec::new();
        for (position, &dim) in dims.iter().enumerate().rev() {
            let (name, most) = (self.name(dim).to_owned(), self.extent(dim).most());
            let divided = if inner == 1 { "point".to_owned() } else { format!("point / {inner}") };
            let own = match position {
                0 => divided,
                _ => format!("{divided} % {most}"),
            };
            lines.push(format!("const int i_{name} = {own};"));
            if position > 0 && self.extent(dim).constant().is_none() {
                guards.push(format!("i_{name} < {}", self.count(dim)));
            }
            if position > 0 {
                inner *= most;
            }
        }
        lines.iter().rev().for_each(|line| self.line(line));
        guards
    }

    /// Deals the points of some dimensions out over threads.
    pub(super) fn open_points(&mut self, dims: &[DimId]) {
        if dims.iter().all(|&dim| self.is_single(dim)) {
            return self.open("if (threadIdx.x == 0) {");
        }
        if let &[dim] = dims
            && self.is_huge(dim)
        {
            let name = self.name(dim).to_owned();
            return self.open(format!(
                "for (long long i_{name} = threadIdx.x; i_{name} < {name}_count; i_{name} += {}) {{",
                self.workers()
            ));
        }
        let (total, workers) = (self.total(dims), self.workers());
        self.open(format!("for (int point = threadIdx.x; point < {total}; point += {workers}) {{"));
        let guards = self.coordinates(dims);
        if !guards.is_empty() {
            self.line(format!("if (!({})) continue;", guards.join(" && ")));
        }
    }
}

/// What changes no sum, or no maximum.
pub(super) fn neutral(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "0.0f",
        ReduceKind::Max => "-INFINITE",
    }
}

/// The type of the prelude that joins two numbers.
pub(super) fn join_name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "sum",
        ReduceKind::Max => "maximum",
    }
}

/// A sum joined with one more number.
pub(super) fn joined(kind: ReduceKind, left: &str, right: &str) -> String {
    match kind {
        ReduceKind::Sum => format!("{left} + {right}"),
        ReduceKind::Max => format!("larger({left}, {right})"),
    }
}

/// A literal of a nest.
pub(super) fn literal(instr: &Instr) -> Option<String> {
    match instr {
        Instr::Float(value) => Some(float(*value)),
        Instr::Int(value) => Some(value.to_string()),
        Instr::Truth(value) => Some(value.to_string()),
        _ => None,
    }
}
