//! The tables that say which tensor of a checkpoint holds which parameter, and
//! where each element is. They know names and axes, not files.

use crate::{ModelError, Result};
use diptych_ir::{Axis, Program, Symbol};

/// One parameter's place in a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMap {
    /// The tensor's name, with `{layer}` for the number of the layer (`{layer+K}` where the stack begins
    /// after K others), and `{AXIS}` where there is a tensor for each position along the parameter's
    /// first axis.
    pub tensor: String,
    /// The parameter's full name.
    pub param: String,
    /// The tensor's dimensions, in order, with commas between: each one or more
    /// of the parameter's axes (without those in its name), the first slowest. An
    /// axis that fills only a part of a fused tensor is written
    /// `axis@start/total` (`_@start/total` where the part is one wide and the
    /// parameter has no axis for it). An axis whose two halves are interleaved
    /// in the tensor, element by element, has a `~` after its name.
    pub dims: String,
}

/// A row of a table: tensor, parameter, dimensions.
pub fn tensor(tensor: &str, param: &str, dims: impl Into<String>) -> TensorMap {
    TensorMap { tensor: tensor.to_owned(), param: param.to_owned(), dims: dims.into() }
}

/// The parameters' rows, with what the program knows of them and where
/// their elements are.
///
/// # Errors
/// When a parameter of the program has no row, or a row does not fit it.
pub(crate) fn places<'a>(rows: &'a [TensorMap], program: &'a Program) -> Result<Vec<Place<'a>>> {
    let missing = |name: &Symbol| !rows.iter().any(|row| row.param == name.as_str());
    if let Some(name) = program.params.keys().find(|name| missing(name)) {
        let problem = format!("its table of tensors has no row for the parameter `{name}`");
        return Err(ModelError::config(&program.name, problem));
    }
    rows.iter().map(|row| Place::new(row, program)).collect()
}

/// As [`places`], of one parameter.
///
/// # Errors
/// When there is no such parameter, or its row does not fit it.
pub(super) fn place<'a>(rows: &'a [TensorMap], program: &'a Program, param: &str) -> Result<Place<'a>> {
    let row = rows.iter().find(|row| row.param == param).ok_or_else(|| {
        let known: Vec<&str> = program.params.keys().map(|name| name.as_str()).collect();
        ModelError::Unknown { what: "parameter", name: param.to_owned(), known: known.join(", ") }
    })?;
    Place::new(row, program)
}

/// Where the elements of a parameter are, in the tensor of each layer.
pub(crate) struct Place<'a> {
    pub row: &'a TensorMap,
    /// How many tensors it has: one for each layer of its stack, and for each position of an axis that
    /// the tensor's name has.
    pub tensors: usize,
    /// Shape of a tensor.
    pub shape: Vec<usize>,
    /// Elements of the parameter in a tensor.
    pub elements: usize,
    /// The parameter's axes within a tensor, in declared order.
    own: Vec<Axis>,
    /// The axis in the tensor's name.
    named: Option<Axis>,
    start: usize,
    /// For each axis in declared order, how far each position along it is
    /// from the first, in elements of the tensor.
    offsets: Vec<Vec<usize>>,
}

/// One axis in one dimension of a tensor.
struct Token<'a> {
    axis: Option<Axis>,
    interleaved: bool,
    start: usize,
    total: usize,
    text: &'a str,
}

impl<'a> Place<'a> {
    fn new(row: &'a TensorMap, program: &'a Program) -> Result<Place<'a>> {
        let wrong = |problem: String| {
            let (tensor, param) = (&row.tensor, &row.param);
            ModelError::config(&program.name, format!("row `{tensor}` of `{param}`: {problem}"))
        };
        let info = program.params.get(&Symbol::new(&row.param));
        let info = info.ok_or_else(|| wrong("no such parameter".into()))?;
        if info.layers.is_some() != row.tensor.contains("{layer") {
            return Err(wrong("`{layer}` stands in the names of stacked parameters, and only there".into()));
        }
        let mut own: Vec<Axis> =
            info.order.iter().copied().filter(|&axis| Some(axis) != info.layers).collect();
        let named = own.first().copied().filter(|axis| row.tensor.contains(&format!("{{{}}}", axis.name)));
        own.retain(|&axis| Some(axis) != named);
        let dims = row
            .dims
            .split(',')
            .map(|dim| dim.split_whitespace().map(|text| Token::parse(text, &own)).collect())
            .collect::<Result<Vec<Vec<Token<'_>>>, String>>()
            .map_err(wrong)?;
        let shape: Vec<usize> =
            dims.iter().map(|dim| dim.iter().map(|token| token.total).product()).collect();
        let mut stride = shape.iter().product::<usize>();
        let (mut start, mut offsets) = (0, vec![Vec::new(); own.len()]);
        for token in dims.iter().flatten() {
            stride /= token.total;
            start += token.start * stride;
            let Some(axis) = token.axis else { continue };
            let size = axis.fixed_size().unwrap_or(1);
            let position = own.iter().position(|&other| other == axis).unwrap_or(0);
            if !offsets[position].is_empty() {
                return Err(wrong(format!("`{}` is there twice", token.text)));
            }
            let half = size / 2;
            let place = |index: usize| match token.interleaved {
                true => 2 * (index % half.max(1)) + index / half.max(1),
                false => index,
            };
            offsets[position] = (0..size).map(|index| place(index) * stride).collect();
        }
        if let Some(missing) = offsets.iter().position(|offsets| offsets.is_empty()) {
            return Err(wrong(format!("the axis {} of the parameter is missing", own[missing])));
        }
        let size = |axis: &Axis| axis.fixed_size().unwrap_or(1);
        let tensors = info.layers.iter().chain(&named).map(size).product();
        let elements = own.iter().map(size).product();
        Ok(Place { row, tensors, shape, elements, own, named, start, offsets })
    }

    /// The name of one of its tensors: those of a layer follow one another.
    pub fn name(&self, number: usize) -> String {
        let each = self.named.and_then(|axis| axis.fixed_size()).unwrap_or(1);
        let (layer, position) = (number / each, number % each);
        let name = match self.named {
            Some(axis) => self.row.tensor.replace(&format!("{{{}}}", axis.name), &position.to_string()),
            None => self.row.tensor.clone(),
        };
        let Some((before, rest)) = name.split_once("{layer") else { return name };
        let Some((offset, after)) = rest.split_once('}') else { return name };
        let offset: usize = offset.trim_start_matches('+').parse().unwrap_or(0);
        format!("{before}{}{after}", layer + offset)
    }

    /// Whether elements along these axes, the last fastest, follow one another in the tensor.
    pub fn runs_along(&self, axes: &[Axis]) -> bool {
        let mut stride = 1;
        axes.iter().rev().all(|axis| {
            let Some(at) = self.own.iter().position(|own| own == axis) else { return false };
            let runs = self.offsets[at].iter().enumerate().all(|(index, &offset)| offset == index * stride);
            stride *= self.offsets[at].len();
            runs
        })
    }

    /// Calls `visit` with the position in the tensor of each element of a
    /// layer, in the parameter's order, for the elements of a part.
    pub fn for_each(&self, part: std::ops::Range<usize>, mut visit: impl FnMut(usize)) {
        let Some((last, outer)) = self.offsets.split_last() else {
            return part.for_each(|_| visit(self.start));
        };
        let mut at = part.start;
        while at < part.end {
            // A row along the last axis, or as much of it as is asked for.
            let (mut rest, first) = (at / last.len(), at % last.len());
            let mut start = self.start;
            for offsets in outer.iter().rev() {
                start += offsets[rest % offsets.len()];
                rest /= offsets.len();
            }
            let row = &last[first..last.len().min(first + part.end - at)];
            row.iter().for_each(|offset| visit(start + offset));
            at += row.len();
        }
    }
}

impl<'a> Token<'a> {
    fn parse(text: &'a str, own: &[Axis]) -> Result<Token<'a>, String> {
        let (name, part) = text.split_once('@').map_or((text, None), |(name, part)| (name, Some(part)));
        let (name, interleaved) = name.strip_suffix('~').map_or((name, false), |name| (name, true));
        let axis = own.iter().copied().find(|axis| axis.name.as_str() == name);
        if axis.is_none() && name != "_" {
            return Err(format!("no axis `{name}`; the parameter has {own:?}"));
        }
        let size = axis.and_then(|axis| axis.fixed_size()).unwrap_or(1);
        if interleaved && size % 2 == 1 {
            return Err(format!("`{text}` has an odd size, so it has no halves"));
        }
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is not a number"));
        let (start, total) = match part.map(|part| part.split_once('/')) {
            None => (0, size),
            Some(Some((start, total))) => (number(start)?, number(total)?),
            Some(None) => return Err(format!("`{text}`: a part is written `@start/total`")),
        };
        if start + size > total {
            return Err(format!("`{text}` with {size} elements does not lie within {total}"));
        }
        Ok(Token { axis, interleaved, start, total, text })
    }
}
