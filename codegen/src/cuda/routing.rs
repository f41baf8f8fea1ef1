//! Statements of routing: what is largest along an axis, and rows by what they chose. Integers are counted with atomics,
//! which give the same count in any order; floats never are. It knows nothing of experts.

use super::passes::is_number;
use super::writer::{THREADS, Writer, rows_of};
use crate::tile::{AddedRows, DimId, View};
use diptych_passes::layout::Leading;

impl Writer<'_> {
    /// A warp searches a row once for each rank, among what comes after the one before.
    pub(super) fn top_k(&mut self, rows: &[DimId], (along, ranks): (DimId, DimId), from: &View, to: &View) {
        let total = self.counts(rows);
        let warps = THREADS / 32;
        self.open(format!("for (int point = threadIdx.x / 32; point < {total}; point += {warps}) {{"));
        self.row_coordinates(rows);
        let (size, k) = (self.positions(along), self.positions(ranks));
        let all = [rows, &[along, ranks]].concat();
        let source = self.address(from, &self.walked(&all));
        let target = self.address(to, &self.walked(&all));
        let [along, ranks] = [along, ranks].map(|dim| format!("i_{}", self.name(dim)));
        let kind = if is_number(from.dtype) { "float" } else { "int" };
        self.line(format!("ranked<{kind}> last = ranked<{kind}>::none();"));
        self.open(format!("for (int {ranks} = 0; {ranks} < {k}; {ranks}++) {{"));
        self.line(format!("ranked<{kind}> best = ranked<{kind}>::none();"));
        self.open(format!("for (int {along} = threadIdx.x % 32; {along} < {size}; {along} += 32) {{"));
        self.line(format!("const ranked<{kind}> each = {{({kind})load({source}), {along}}};"));
        self.line(
            "if ((last.at < 0 || last.before(each)) && (best.at < 0 || each.before(best))) best = each;",
        );
        self.close();
        self.line("last = first_of_warp(best);");
        self.line(format!("if (threadIdx.x % 32 == 0) store({target}, last.at);"));
        self.close();
        self.close();
    }

    /// The coordinates of `point` among rows of which the counts are those of the instance.
    fn row_coordinates(&mut self, rows: &[DimId]) {
        let mut lines = Vec::new();
        let mut inner = "1".to_owned();
        for (position, &dim) in rows.iter().enumerate().rev() {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            let divided = if inner == "1" { "point".to_owned() } else { format!("point / ({inner})") };
            let own = if position == 0 { divided } else { format!("{divided} % {count}") };
            lines.push(format!("const int i_{name} = {own};"));
            inner = if inner == "1" { count } else { format!("{count} * {inner}") };
        }
        lines.iter().rev().for_each(|line| self.line(line));
    }

    /// Threads share the elements of a row and, as far as there are more threads, the ids. Rows of one id are added one
    /// after the other, as the order by ids has them.
    pub(super) fn add_rows(&mut self, added: &AddedRows) {
        let AddedRows { row, dims, ids: _, count, order, starts, from, table, along } = added;
        let [order, starts] = [order, starts].map(|&arg| self.program.args[arg].name.clone());
        let elements = self.counts(dims);
        self.line(format!("const int {}_start = 0;", self.name(*row)));
        self.open(format!(
            "for (long long pair_of = threadIdx.x; pair_of < (long long){count} * ({elements}); pair_of += {THREADS}) {{"
        ));
        self.line(format!(
            "const int id = (int)(pair_of / ({elements})), point = (int)(pair_of % ({elements}));"
        ));
        self.line(format!("const int first = {starts}[id], end = {starts}[id + 1];"));
        self.line("if (first == end) continue;");
        self.row_coordinates(dims);
        let row_of_pair = format!("{order}[pair]");
        let own = |dim: DimId| dims.contains(&dim).then(|| format!("i_{}", self.name(dim)));
        let at = |dim: DimId| if dim == *row { Some(row_of_pair.clone()) } else { own(dim) };
        let element = self.address(from, &at);
        let target = self.element_at(table, "id", *along, &own);
        self.line("float added = 0.0f;");
        self.line(format!("for (int pair = first; pair < end; pair++) added += load({element});"));
        self.line(format!("*({target}) += added;"));
        self.close();
    }

    /// A counting sort in which pairs of one id stay in their order: threads take as many pairs as they are at a time,
    /// and each finds how many before it in those have its id.
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
        let each: usize = dims.iter().skip(1).map(|&dim| self.positions(dim)).product();
        let total = format!("{} * {each}", rows_of(leading));
        if let Some(&row) = dims.first() {
            self.line(format!("const int {}_start = 0;", self.name(row)));
        }
        let id = self.address(ids, &self.walked(dims));
        self.line(format!("__shared__ int seen[{THREADS}];"));
        self.line("// How many pairs each id has, and from that where its pairs begin.");
        self.line(format!(
            "for (int i = threadIdx.x; i < 2 * ({count} + 1); i += {THREADS}) {starts}[i] = 0;"
        ));
        self.line("workers_wait();");
        self.open(format!("for (int point = threadIdx.x; point < {total}; point += {THREADS}) {{"));
        self.pair_coordinates(dims);
        self.line(format!("const unsigned id = (unsigned)load({id});"));
        self.line(format!("if (id < {count}) atomicAdd(&{starts}[id + 1], 1);"));
        self.close();
        self.line("workers_wait();");
        self.line(format!("int *const next = {starts} + {};", count + 1));
        self.line(format!("running_sums({starts}, {count} + 1, seen);"));
        self.line(format!("for (int i = threadIdx.x; i < {count}; i += {THREADS}) next[i] = {starts}[i];"));
        self.line("workers_wait();");
        self.open(format!("for (int from = 0; from < {total}; from += {THREADS}) {{"));
        self.line("const int point = from + threadIdx.x;");
        self.line("int id = -1;");
        self.open(format!("if (point < {total}) {{"));
        self.pair_coordinates(dims);
        self.line(format!("id = load({id});"));
        self.line(format!("if (id >= {count}) id = -1;"));
        self.close();
        self.line("seen[threadIdx.x] = id;");
        self.line("workers_wait();");
        self.line("int before = 0, after = 0;");
        self.open("if (id >= 0) {");
        self.line("for (int other = 0; other < (int)threadIdx.x; other++) before += seen[other] == id;");
        self.line(format!(
            "for (int other = threadIdx.x + 1; other < {THREADS}; other++) after += seen[other] == id;"
        ));
        self.line(format!("{order}[next[id] + before] = point;"));
        self.close();
        self.line("workers_wait();");
        self.line("if (id >= 0 && after == 0) next[id] += before + 1;");
        self.line("workers_wait();");
        self.close();
        self.line("// Each id's first block.");
        self.line("if (threadIdx.x == 0) next[0] = 0;");
        self.open(format!("for (int i = threadIdx.x; i < {count}; i += {THREADS}) {{"));
        self.line(format!("next[i + 1] = ({starts}[i + 1] - {starts}[i] + {}) / {block};", block - 1));
        self.close();
        self.line("workers_wait();");
        self.line(format!("running_sums(next, {count} + 1, seen);"));
    }

    /// The coordinates of the pair `point`, of all rows of the run.
    fn pair_coordinates(&mut self, dims: &[DimId]) {
        let mut inner = 1;
        let mut lines = Vec::new();
        for (position, &dim) in dims.iter().enumerate().rev() {
            let (name, size) = (self.name(dim).to_owned(), self.positions(dim));
            let divided = if inner == 1 { "point".to_owned() } else { format!("point / {inner}") };
            lines.push(match position {
                0 => format!("const int i_{name} = {divided};"),
                _ => format!("const int i_{name} = {divided} % {size};"),
            });
            if position > 0 {
                inner *= size;
            }
        }
        lines.iter().rev().for_each(|line| self.line(line));
    }
}
