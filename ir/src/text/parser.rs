//! Reads a program from its text. Every node's type is inferred anew and must be
//! the one that the text states; whether the program as a whole is well formed
//! is for the verifier to say.

use super::Reader;
use crate::blocks::{BlockFormat, Blocks};
use crate::{
    Bounds, DType, Entry, EntryKind, Initializer, IrError, NodeId, Op, ParamInfo, Program, Region, Result,
    Symbol, TensorType, UpdateRule,
};
use std::collections::{BTreeMap, HashMap};

/// The nodes that a region's text has named so far.
type Nodes = HashMap<u32, NodeId>;

/// The program of this text.
///
/// # Errors
/// The first line that does not read, with what was found and what would be right.
pub fn parse(text: &str) -> Result<Program> {
    let mut reader = Reader::new(text)?;
    let name = reader.after("program", Reader::name)?;
    let mut program = Program::new(name.as_str());
    program.regions.clear();
    let mut main = Nodes::new();
    while !reader.at_end() {
        if reader.has_word("size") {
            let symbol = reader.name()?;
            let (least, most) = (reader.after("from", Reader::whole)?, reader.after("to", Reader::whole)?);
            insert(&reader, &mut program.bounds, symbol, Bounds { least, most })?;
        } else if reader.has_word("param") {
            let name = reader.name()?;
            let info = param(&mut reader)?;
            insert(&reader, &mut program.params, name, info)?;
        } else if reader.has_word("state") {
            let name = reader.name()?;
            reader.mark(':')?;
            let ty = reader.ty()?;
            insert(&reader, &mut program.states, name, ty)?;
        } else if reader.has_word("region") {
            let (wanted, line) = (program.regions.len() as u32, reader.line());
            if reader.region()?.0 != wanted {
                let problem = format!("regions are numbered in order: expected `@{wanted}`");
                return Err(IrError::Parse { line, problem });
            }
            let (region, nodes) = region(&mut reader)?;
            if program.regions.is_empty() {
                main = nodes;
            }
            program.regions.push(region);
        } else if reader.has_word("entry") {
            let entry = entry(&mut reader, &main)?;
            program.entries.push(entry);
        } else {
            return Err(reader.expected("`size`, `param`, `state`, `region` or `entry`"));
        }
    }
    if program.regions.is_empty() {
        return Err(reader.expected("`region @0`"));
    }
    Ok(program)
}

fn insert<T>(reader: &Reader, table: &mut BTreeMap<Symbol, T>, name: Symbol, row: T) -> Result<()> {
    match table.insert(name, row) {
        None => Ok(()),
        Some(_) => Err(reader.wrong(format!("`{name}` is declared twice: names are unique"))),
    }
}

fn param(reader: &mut Reader) -> Result<ParamInfo> {
    reader.mark(':')?;
    let (ty, mut order) = reader.ordered_type()?;
    let initializer = if reader.has_word("constant") {
        Initializer::Constant(reader.number()?)
    } else if reader.has_word("normal") {
        Initializer::Normal { standard_deviation: reader.number()? }
    } else if reader.has_word("uniform") {
        Initializer::Uniform { bound: reader.number()? }
    } else if reader.has_word("between") {
        Initializer::Between { least: reader.number()?, most: reader.after("and", Reader::number)? }
    } else {
        let kinds = "how the parameter starts: `constant`, `normal`, `uniform` or `between`";
        return Err(reader.expected(kinds));
    };
    let update = match reader.has_word("sign_descent") {
        true => UpdateRule::SignDescent { rate: reader.number()? },
        false => UpdateRule::AdamW { decay: reader.has_word("decay") },
    };
    let layers = if reader.has_word("stacked") { Some(reader.axis()?) } else { None };
    if reader.has_word("order") {
        order = reader.axes()?;
    }
    let mut blocks = None;
    if reader.has_word("blocks") {
        let name = reader.any_word("a format of blocks")?;
        let format = BlockFormat::of_name(&name).ok_or_else(|| {
            let known = BlockFormat::ALL.map(BlockFormat::name).join(", ");
            reader.wrong(format!("there is no format of blocks `{name}`: it is one of {known}"))
        })?;
        blocks = Some(Blocks { format, along: reader.after("along", Reader::axes)? });
    }
    Ok(ParamInfo { ty, initializer, update, layers, order, blocks })
}

fn node_of(reader: &mut Reader, nodes: &Nodes) -> Result<NodeId> {
    let line = reader.line();
    let number = reader.node()?;
    let problem = || format!("`%{number}` is not defined above: operands come before users");
    nodes.get(&number).copied().ok_or_else(|| IrError::Parse { line, problem: problem() })
}

fn region(reader: &mut Reader) -> Result<(Region, Nodes)> {
    let mut region = Region::new(reader.name()?);
    let mut nodes = Nodes::new();
    let mut arguments = BTreeMap::new();
    reader.mark('{')?;
    if reader.has_word("axes") {
        for axis in reader.list(Reader::name)? {
            region.graph.declare_axis(axis);
        }
    }
    while !reader.has_word("results") {
        let line = reader.line();
        let number = reader.node().map_err(|_| reader.expected("a node such as `%0`, or `results`"))?;
        let id = add_node(reader, &mut region, &nodes, line)?;
        if nodes.insert(number, id).is_some() {
            let problem = format!("`%{number}` is defined twice: each line has its own number");
            return Err(IrError::Parse { line, problem });
        }
        if let Op::Argument(argument) = region.graph.op(id)
            && arguments.insert(argument.index, id).is_some()
        {
            let problem = format!("argument {} stands twice in one region", argument.index);
            return Err(IrError::Parse { line, problem });
        }
    }
    region.results = reader.list(|reader| node_of(reader, &nodes))?;
    if let Some((gap, _)) = arguments.keys().enumerate().find(|(position, index)| position != *index) {
        return Err(reader.wrong(format!("region `{}` has no argument {gap}, but one beyond", region.name)));
    }
    region.arguments = arguments.into_values().collect();
    reader.mark('}')?;
    Ok((region, nodes))
}

fn add_node(reader: &mut Reader, region: &mut Region, nodes: &Nodes, line: usize) -> Result<NodeId> {
    let ty = if reader.has_mark(':') { Some(reader.ty()?) } else { None };
    reader.mark('=')?;
    let name = reader.any_word("the name of an op")?;
    let mut operands = Vec::new();
    if reader.opens() {
        operands = reader.between('(', ')', |reader| node_of(reader, nodes))?;
    }
    let declared = ty.clone().unwrap_or(TensorType::scalar(DType::F32));
    let at = |problem: String| IrError::Parse { line, problem };
    let op = Op::parse(&name, reader, &declared)
        .ok_or_else(|| at(format!("there is no op named `{name}`")))?
        .map_err(|error| match error {
            IrError::Parse { .. } => error,
            other => at(other.to_string()),
        })?;
    if ty.is_none() && op.as_loop().is_none() {
        return Err(at(format!("expected `: TYPE` before `= {name}`")));
    }
    let id = region.graph.add(op, &operands).map_err(|error| at(error.to_string()))?;
    if *region.graph.ty(id) != declared {
        return Err(at(format!("{name} gives {}, but the line says {declared}", region.graph.ty(id))));
    }
    if reader.has_mark('#') {
        region.graph.annotate(id, None, Some(reader.name()?));
    }
    Ok(id)
}

fn entry(reader: &mut Reader, nodes: &Nodes) -> Result<Entry> {
    let kind = reader.entry_kind()?;
    let mut entry = Entry { kind, roots: Vec::new(), updates: Vec::new() };
    reader.mark('{')?;
    while !reader.has_mark('}') {
        let rows = if reader.has_word("root") {
            &mut entry.roots
        } else if reader.has_word("update") {
            &mut entry.updates
        } else {
            return Err(reader.expected("`root`, `update` or `}`"));
        };
        rows.push((reader.name()?, node_of(reader, nodes)?));
    }
    Ok(entry)
}

impl Reader {
    fn entry_kind(&mut self) -> Result<EntryKind> {
        let known: Vec<&str> = EntryKind::ALL.iter().map(|kind| kind.name()).collect();
        let what = format!("an entry: {}", known.join(", "));
        let line = self.line();
        let name = self.any_word(&what)?;
        let kind = EntryKind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| IrError::Parse { line, problem: format!("expected {what}, found `{name}`") })
    }
}
