//! Patterns: what a rule looks for and what it puts there instead, read from
//! text. A variable that only the right side has is refused here, so no rule
//! can bring in something unbound.
//!
//! ```text
//! x y        any value                    2.0            the literal
//! $c         a known scalar               xs..           all other operands
//! (mul x y)  a scalar function            (=mul c d)     its value, computed now (right)
//! (contract[A] x ys..)  (sum[A] x)  (reduce_max[A] x)   A: the summed axes
//!            [A+B] both  [A&ys] those that ys have  [A-ys] the others  [] none (right)
//! (rename[r] x)  likewise slice, concat, split, merge, cast, history; [r*s] one after the other (right)
//! (map[f] x ys..)   any scalar function          (move[m] x)   any rename, split, merge or slice
//! (all_reduce[r] x)  sums over ranks; likewise all_gather, reduce_scatter. On the right, these and split take
//!            what another of them was bound to: mesh axis, whole and piece; [r/x] also cuts an axis of x;
//!            [A/g] the summed axes, with the piece in place of the whole of g
//! (size[A-x])  how many points the axes have, if that is known (right)
//! (concat[c] (cast[d] @xs)..)   left: all operands are such nodes, and xs is what they are of;
//!            right: one such node for each of xs. There, a value that has not what a move is of
//!            is the same all along it, and stays as it is.
//! (pick[s/c] xs..)  the operand of the concat c that the slice s cuts out (right)
//! (cut[c] y)        y where the piece of c lies that this item is about (right, in a list);
//!            [A/c] in a list: A, with that piece in place of the axis of the concat c
//! (total (neg @xs)..)  the list, added up from the left (right)
//! (zip[c/d] xs.. ys.. (mul @xs @ys)..)  the concat of a list over the pieces of two concats (right)
//! (join[P|Q] v w)   the axes P of v, and Q of w, made one axis each and put one after the other;
//!            [P|Q] that axis; here and there v stands for all axes of v (right)
//! (first[P|Q] y) (second[P|Q] y)  what of y lies along P, or Q, with its axes (right)
//! ```

use super::language::Shape;
use diptych_ir::ScalarFn;

/// What a variable stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Class,
    Constant,
    Rest,
    Axes,
    Payload,
}

/// A pattern. Variables are numbered within their rule.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Term {
    Class(usize),
    Constant(usize),
    Number(f64),
    Node {
        shape: Shape,
        payload: Payload,
        operands: Vec<Term>,
        rests: Vec<usize>,
        /// What stands for each operand that is left, or for each item of a list.
        each: Option<Box<Term>>,
    },
    /// An item of a list.
    Item(usize),
    Total(Box<Term>),
    Cut {
        concat: usize,
        value: Box<Term>,
    },
    Zip {
        concats: [usize; 2],
        lists: [usize; 2],
        each: Box<Term>,
    },
    Join {
        along: [Over; 2],
        values: [Box<Term>; 2],
    },
    /// One of the two that are joined.
    Part {
        along: [Over; 2],
        second: bool,
        of: Box<Term>,
    },
    Fold {
        function: ScalarFn,
        operands: Vec<Term>,
    },
    Pick {
        slice: usize,
        concat: usize,
        from: usize,
    },
    /// The number of points of some axes.
    Size(Over),
}

/// What stands in brackets.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Payload {
    None,
    Over(Over),
    Bound(usize),
    /// The first applied to what the second gives.
    Composed(usize, usize),
    /// The ranks of the first, with an axis of the second's value cut over them.
    Cutting(usize, usize),
}

/// A set of summed axes.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Over {
    Empty,
    Bound(usize),
    Both(Box<Over>, Box<Over>),
    /// Those that a variable's values have.
    Within(Box<Over>, usize),
    /// Those that they lack.
    Outside(Box<Over>, usize),
    /// All axes of a value.
    Of(usize),
    /// With the piece in place of the whole: of a concat, the piece that a list is at; of a gather, a rank's.
    Piece(Box<Over>, usize),
    /// The one axis that two sets of axes are joined to.
    Joined(Box<[Over; 2]>),
}

impl Term {
    /// The kinds of op that the pattern names, from the outermost on.
    pub fn shapes(&self) -> Vec<Shape> {
        let Term::Node { shape, operands, each, .. } = self else { return Vec::new() };
        let inner = operands.iter().chain(each.as_deref()).flat_map(Term::shapes);
        std::iter::once(*shape).chain(inner).collect()
    }

    /// The lists that a term takes an item of.
    pub fn lists(&self, into: &mut Vec<usize>) {
        match self {
            Term::Item(list) => into.push(*list),
            Term::Node { operands, .. } | Term::Fold { operands, .. } => {
                operands.iter().for_each(|operand| operand.lists(into));
            }
            Term::Cut { value, .. } => value.lists(into),
            _ => {}
        }
    }

    /// The variables that a left side binds.
    pub fn bound(&self, into: &mut Vec<usize>) {
        match self {
            Term::Class(variable) | Term::Constant(variable) | Term::Item(variable) => into.push(*variable),
            Term::Node { payload, operands, rests, each, .. } => {
                match payload {
                    Payload::Over(Over::Bound(variable)) | Payload::Bound(variable) => into.push(*variable),
                    _ => {}
                }
                into.extend(rests);
                operands.iter().chain(each.as_deref()).for_each(|operand| operand.bound(into));
            }
            _ => {}
        }
    }
}

/// The variables of a rule, by number.
#[derive(Clone, Default, Debug)]
pub(super) struct Variables(pub Vec<(String, Kind)>);

impl Variables {
    /// The number of a variable.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|known| known.0 == name)
    }
}

/// Reads one side of a rule. On the left, new variables are entered; on the right, they are refused.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse(text: &str, variables: &mut Variables, left: bool) -> Result<Term, String> {
    let mut reader = Reader { rest: text, variables, left };
    let term = reader.term()?;
    match reader.rest.trim() {
        "" => Ok(term),
        more => Err(format!("`{more}` is left over in `{text}`")),
    }
}

struct Reader<'a> {
    rest: &'a str,
    variables: &'a mut Variables,
    left: bool,
}

impl<'a> Reader<'a> {
    fn variable(&mut self, name: &str, kind: Kind) -> Result<usize, String> {
        let known = self.variables.find(name);
        match known {
            Some(number) if self.variables.0[number].1 == kind => Ok(number),
            Some(number) => {
                Err(format!("`{name}` is of kind {:?}, but used as {kind:?}", self.variables.0[number].1))
            }
            None if self.left => {
                self.variables.0.push((name.to_owned(), kind));
                Ok(self.variables.0.len() - 1)
            }
            None => Err(format!("`{name}` is not bound by the left side")),
        }
    }

    fn take(&mut self, expected: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.rest = self.rest.trim_start();
        let end =
            self.rest.find(|c: char| c.is_whitespace() || "()[]".contains(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(format!("a name is missing before `{}`", self.rest));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word)
    }

    fn term(&mut self) -> Result<Term, String> {
        if self.take('(') {
            return self.node();
        }
        let word = self.word()?;
        if let Ok(number) = word.parse::<f64>() {
            return Ok(Term::Number(number));
        }
        if let Some(list) = word.strip_prefix('@') {
            return self.variable(list, Kind::Rest).map(Term::Item);
        }
        match word.strip_prefix('$') {
            Some(name) => self.variable(name, Kind::Constant).map(Term::Constant),
            // On the right, a constant is named as any value is.
            None if !self.left && self.is_constant(word) => {
                self.variable(word, Kind::Constant).map(Term::Constant)
            }
            None => self.variable(word, Kind::Class).map(Term::Class),
        }
    }

    fn is_constant(&self, name: &str) -> bool {
        self.variables.find(name).is_some_and(|number| self.variables.0[number].1 == Kind::Constant)
    }

    fn node(&mut self) -> Result<Term, String> {
        let name = self.word()?;
        let bracket = self.bracket()?;
        let (mut operands, mut rests, mut each) = (Vec::new(), Vec::new(), None);
        while !self.take(')') {
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() {
                return Err("`)` is missing".into());
            }
            if each.is_some() {
                return Err("a list must come last".into());
            }
            let end =
                self.rest.find(|c: char| c.is_whitespace() || "()[]".contains(c)).unwrap_or(self.rest.len());
            match self.rest[..end].strip_suffix("..") {
                Some(name) => {
                    self.rest = &self.rest[end..];
                    if self.left && !rests.is_empty() {
                        return Err(format!(
                            "`{name}..` is the second rest of a node: on the left there is one"
                        ));
                    }
                    rests.push(self.variable(name, Kind::Rest)?);
                }
                None => {
                    let term = self.term()?;
                    match self.rest.strip_prefix("..") {
                        Some(rest) => {
                            self.rest = rest;
                            each = Some(Box::new(term));
                        }
                        None if !rests.is_empty() => return Err("a rest must come last".into()),
                        None => operands.push(term),
                    }
                }
            }
        }
        if let Some(name) = name.strip_prefix('=') {
            let function = ScalarFn::from_name(name).ok_or_else(|| format!("no scalar function `{name}`"))?;
            if self.left || !rests.is_empty() {
                return Err(format!("`={name}` computes constants, on the right only"));
            }
            return Ok(Term::Fold { function, operands });
        }
        if name == "pick" {
            let (slice, concat) = bracket.split_once('/').ok_or("`pick` wants [slice/concat]")?;
            let slice = self.variable(slice.trim(), Kind::Payload)?;
            let concat = self.variable(concat.trim(), Kind::Payload)?;
            let ([from], []) = (&rests[..], &operands[..]) else {
                return Err("`pick` wants a rest alone".into());
            };
            let from = *from;
            return Ok(Term::Pick { slice, concat, from });
        }
        if let Some(each) = &each {
            self.check_list(each, !rests.is_empty())?;
        }
        if let Some(built) = self.built(name, bracket, &mut operands, &rests, &mut each)? {
            return Ok(built);
        }
        if name == "size" {
            if self.left || !operands.is_empty() || !rests.is_empty() {
                return Err("`size` is a number, on the right only".into());
            }
            return Ok(Term::Size(self.over(bracket)?));
        }
        let shape = shape_of(name).ok_or_else(|| format!("no op `{name}`"))?;
        let payload = match shape {
            Shape::Map(function) => {
                if !rests.is_empty() || each.is_some() || operands.len() != function.arity() {
                    return Err(format!("`{name}` takes {} operands", function.arity()));
                }
                Payload::None
            }
            Shape::Contract | Shape::Sum | Shape::Max => Payload::Over(self.over(bracket)?),
            _ => match (bracket.split_once('*'), bracket.split_once('/')) {
                (Some((outer, inner)), _) => Payload::Composed(
                    self.variable(outer.trim(), Kind::Payload)?,
                    self.variable(inner.trim(), Kind::Payload)?,
                ),
                (None, Some((ranks, of))) => Payload::Cutting(
                    self.variable(ranks.trim(), Kind::Payload)?,
                    self.variable(of.trim(), Kind::Class)?,
                ),
                (None, None) => Payload::Bound(self.variable(bracket.trim(), Kind::Payload)?),
            },
        };
        if self.left && matches!(payload, Payload::Composed(..) | Payload::Cutting(..)) {
            return Err("a composition or a cut can stand on the right only".into());
        }
        Ok(Term::Node { shape, payload, operands, rests, each })
    }

    fn check_list(&self, each: &Term, after_rest: bool) -> Result<(), String> {
        let mut lists = Vec::new();
        each.lists(&mut lists);
        match lists.len() {
            0 => Err("a list wants an item, such as `@xs`".into()),
            1 if !after_rest => Ok(()),
            _ if self.left => Err("on the left, a list has one item and stands alone".into()),
            _ => Ok(()),
        }
    }

    /// What stands on the right only and is no op by itself.
    fn built(
        &mut self,
        name: &str,
        bracket: &str,
        operands: &mut Vec<Term>,
        rests: &[usize],
        each: &mut Option<Box<Term>>,
    ) -> Result<Option<Term>, String> {
        if !["total", "cut", "zip", "join", "first", "second"].contains(&name) {
            return Ok(None);
        }
        if self.left {
            return Err(format!("`{name}` can stand on the right only"));
        }
        let wrong = || format!("`{name}` is given what it does not take");
        let given: Vec<Term> = std::mem::take(operands);
        let each = each.take();
        Ok(Some(match (name, <[Term; 1]>::try_from(given), rests, each) {
            ("total", Err(none), [], Some(each)) if none.is_empty() => Term::Total(each),
            ("cut", Ok([value]), [], None) => {
                Term::Cut { concat: self.variable(bracket.trim(), Kind::Payload)?, value: Box::new(value) }
            }
            ("zip", Err(none), &[xs, ys], Some(each)) if none.is_empty() => {
                let (left, right) = bracket.split_once('/').ok_or("`zip` wants [concat/concat]")?;
                let left = self.variable(left.trim(), Kind::Payload)?;
                let right = self.variable(right.trim(), Kind::Payload)?;
                Term::Zip { concats: [left, right], lists: [xs, ys], each }
            }
            ("first" | "second", Ok([value]), [], None) => {
                Term::Part { along: self.joined(bracket)?, second: name == "second", of: Box::new(value) }
            }
            ("join", Err(two), [], None) => {
                let [left, right] = <[Term; 2]>::try_from(two).map_err(|_| wrong())?;
                Term::Join { along: self.joined(bracket)?, values: [Box::new(left), Box::new(right)] }
            }
            _ => return Err(wrong()),
        }))
    }

    fn joined(&mut self, bracket: &str) -> Result<[Over; 2], String> {
        let (left, right) = bracket.split_once('|').ok_or_else(|| format!("[{bracket}] wants a `|`"))?;
        Ok([self.over(left)?, self.over(right)?])
    }

    fn bracket(&mut self) -> Result<&'a str, String> {
        match self.rest.strip_prefix('[') {
            None => Ok(""),
            Some(inner) => {
                let end = inner.find(']').ok_or("`]` is missing")?;
                self.rest = &inner[end + 1..];
                Ok(&inner[..end])
            }
        }
    }

    fn over(&mut self, text: &str) -> Result<Over, String> {
        let text = text.trim();
        if text.contains('|') && !self.left {
            return Ok(Over::Joined(Box::new(self.joined(text)?)));
        }
        let Some(at) = text.rfind(['+', '&', '-', '/']) else {
            let is_value = |known: usize| self.variables.0[known].1 == Kind::Class;
            return match text {
                "" => Ok(Over::Empty),
                name if !self.left && self.variables.find(name).is_some_and(is_value) => {
                    self.variable(name, Kind::Class).map(Over::Of)
                }
                name => self.variable(name, Kind::Axes).map(Over::Bound),
            };
        };
        if self.left {
            return Err(format!("[{text}]: on the left stands one name for the summed axes"));
        }
        let (before, after) = (Box::new(self.over(&text[..at])?), text[at + 1..].trim());
        let values = |reader: &mut Self| {
            reader.variable(after, Kind::Rest).or_else(|_| reader.variable(after, Kind::Class))
        };
        Ok(match &text[at..=at] {
            "+" => Over::Both(before, Box::new(self.over(after)?)),
            "&" => Over::Within(before, values(self)?),
            "/" => Over::Piece(before, self.variable(after, Kind::Payload)?),
            _ => Over::Outside(before, values(self)?),
        })
    }
}

fn shape_of(name: &str) -> Option<Shape> {
    Some(match name {
        "contract" => Shape::Contract,
        "sum" => Shape::Sum,
        "reduce_max" => Shape::Max,
        "rename" => Shape::Rename,
        "slice" => Shape::Slice,
        "concat" => Shape::Concat,
        "split" => Shape::Split,
        "merge" => Shape::Merge,
        "cast" => Shape::Cast,
        "history" => Shape::History,
        "all_reduce" => Shape::AllReduce,
        "all_gather" => Shape::AllGather,
        "reduce_scatter" => Shape::ReduceScatter,
        "map" => Shape::AnyMap,
        "move" => Shape::AnyMove,
        name => Shape::Map(ScalarFn::from_name(name)?),
    })
}
