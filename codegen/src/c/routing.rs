//! Statements of routing: what is largest along an axis, and the sorting of
//! rows by what they chose. It knows nothing of experts.

use super::operations::scalar_load;
use super::writer::{Writer, rows_of};
use crate::tile::{AddedRows, DimId, View};
use diptych_ir::DType;
use diptych_passes::layout::Leading;

impl Writer<'_> {
    /// One search for each rank: ranks are few.
    pub(super) fn top_k(&mut self, rows: &[DimId], (along, ranks): (DimId, DimId), from: &View, to: &View) {
        for &dim in rows {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        if rows.is_empty() {
            self.open("{");
        }
        let (size, k) = (self.positions(along), self.positions(ranks));
        let index = |dim: DimId| {
            let name = self.name(dim);
            (rows.contains(&dim) || dim == along || dim == ranks).then(|| format!("i_{name}"))
        };
        let source = self.address(from, &index);
        let target = self.address(to, &index);
        let [along, ranks] = [along, ranks].map(|dim| format!("i_{}", self.name(dim)));
        let (kind, element) = match from.dtype {
            DType::I32 => ("int32_t", format!("*({source})")),
            dtype => ("float", scalar_load(dtype, &source)),
        };
        self.line(format!("{kind} value[{size}];"));
        self.line(format!("uint8_t taken[{size}] = {{0}};"));
        self.line(format!(
            "for (int64_t {along} = 0; {along} < {size}; {along}++) value[{along}] = {element};"
        ));
        self.open(format!("for (int64_t {ranks} = 0; {ranks} < {k}; {ranks}++) {{"));
        self.line("int32_t best = -1;");
        self.open(format!("for (int32_t each = 0; each < {size}; each++) {{"));
        self.line("if (taken[each]) continue;");
        self.line("const int number = value[each] == value[each];");
        self.line("if (best < 0 || (number && !(value[best] >= value[each]))) best = each;");
        self.close();
        self.line("taken[best] = 1;");
        self.line(format!("*({target}) = best;"));
        self.close();
        for _ in 0..rows.len().max(1) {
            self.close();
        }
    }

    /// Rows of one id one after the other, as the order by ids has them.
    pub(super) fn add_rows(&mut self, added: &AddedRows) {
        let AddedRows { row, dims, ids, count, order, starts, from, table, along } = added;
        let [order, starts] = [order, starts].map(|&arg| self.program.args[arg].name.clone());
        let at = |pair: &str| {
            let row_of_pair = format!("{order}[{pair}]");
            let own = |dim: DimId| dims.contains(&dim).then(|| format!("i_{}", self.name(dim)));
            move |dim: DimId| if dim == *row { Some(row_of_pair.clone()) } else { own(dim) }
        };
        let id = self.address(ids, &at("first"));
        let element = scalar_load(from.dtype, &self.address(from, &at("pair")));
        let target = self.element_at(table, "id", *along, dims, None, "0");
        self.line(format!("const int64_t {}_start = 0;", self.name(*row)));
        self.open(format!("for (int64_t first = 0; first < {starts}[{count}];) {{"));
        self.line(format!("const int64_t id = *({id});"));
        self.line(format!("const int64_t end = {starts}[id + 1];"));
        for &dim in dims {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        self.line("float sum = 0;");
        self.line(format!("for (int64_t pair = first; pair < end; pair++) sum += {element};"));
        self.line(format!("*({target}) += sum;"));
        dims.iter().for_each(|_| self.close());
        self.line("first = end;");
        self.close();
    }

    /// A counting sort: pairs of one id stay in their order.
    pub(super) fn group(
        &mut self,
        ids: &View,
        leading: Leading,
        dims: &[DimId],
        count: usize,
        (order, starts): (usize, usize),
        block: usize,
    ) {
        let [order, starts] = [order, starts].map(|arg| self.program.args[arg].name.clone());
        let index = |dim: DimId| dims.contains(&dim).then(|| format!("i_{}", self.name(dim)));
        let id = self.address(ids, &index);
        let loops: Vec<String> = dims
            .iter()
            .map(|&dim| {
                let (name, total) = (self.name(dim), self.positions(dim));
                let total = if total == usize::MAX { rows_of(leading).to_owned() } else { total.to_string() };
                format!("for (int64_t i_{name} = 0; i_{name} < {total}; i_{name}++) {{")
            })
            .collect();
        let row = dims.first().map(|&dim| self.name(dim).to_owned());
        if let Some(row) = row {
            self.line(format!("const int64_t {row}_start = 0;"));
        }
        self.line("/* How many pairs each id has, and from that where its pairs begin. */");
        self.line(format!("for (int64_t i = 0; i < 2 * ({count} + 1); i++) {starts}[i] = 0;"));
        loops.iter().for_each(|each| self.open(each));
        self.line(format!("const uint32_t id = *({id});"));
        self.line(format!("if (id < {count}) {starts}[id + 1]++;"));
        loops.iter().for_each(|_| self.close());
        self.line(format!("for (int64_t i = 0; i < {count}; i++) {starts}[i + 1] += {starts}[i];"));
        self.line(format!("int32_t *next = {starts} + {count} + 1;"));
        self.line(format!("for (int64_t i = 0; i < {count}; i++) next[i] = {starts}[i];"));
        self.line("int32_t pair = 0;");
        loops.iter().for_each(|each| self.open(each));
        self.line(format!("const uint32_t id = *({id});"));
        self.line(format!("if (id < {count}) {order}[next[id]++] = pair;"));
        self.line("pair++;");
        loops.iter().for_each(|_| self.close());
        self.line("/* Each id's first block. */");
        self.line("next[0] = 0;");
        self.line(format!(
            "for (int64_t i = 0; i < {count}; i++) next[i + 1] = next[i] + ({starts}[i + 1] - {starts}[i] + {block} - 1) / {block};"
        ));
    }
}
