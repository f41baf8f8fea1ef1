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
//! (rename[r] x)  likewise slice, concat, split, merge, cast; [r*s] one after the other (right)
//! (pick[s/c] xs..)  the operand of the concat c that the slice s cuts out (right)
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
    Node { shape: Shape, payload: Payload, operands: Vec<Term>, rests: Vec<usize> },
    Fold { function: ScalarFn, operands: Vec<Term> },
    Pick { slice: usize, concat: usize, from: usize },
}

/// What stands in brackets.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Payload {
    None,
    Over(Over),
    Bound(usize),
    /// The first applied to what the second gives.
    Composed(usize, usize),
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
        let (mut operands, mut rests) = (Vec::new(), Vec::new());
        while !self.take(')') {
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() {
                return Err("`)` is missing".into());
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
                None if !rests.is_empty() => return Err("a rest must come last".into()),
                None => operands.push(self.term()?),
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
        let shape = shape_of(name).ok_or_else(|| format!("no op `{name}`"))?;
        let payload = match shape {
            Shape::Map(function) => {
                if !rests.is_empty() || operands.len() != function.arity() {
                    return Err(format!("`{name}` takes {} operands", function.arity()));
                }
                Payload::None
            }
            Shape::Contract | Shape::Sum | Shape::Max => Payload::Over(self.over(bracket)?),
            _ => match bracket.split_once('*') {
                Some((outer, inner)) => Payload::Composed(
                    self.variable(outer.trim(), Kind::Payload)?,
                    self.variable(inner.trim(), Kind::Payload)?,
                ),
                None => Payload::Bound(self.variable(bracket.trim(), Kind::Payload)?),
            },
        };
        if self.left && matches!(payload, Payload::Composed(..)) {
            return Err("a composition can stand on the right only".into());
        }
        Ok(Term::Node { shape, payload, operands, rests })
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
        let Some(at) = text.rfind(['+', '&', '-']) else {
            return match text {
                "" => Ok(Over::Empty),
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
        name => Shape::Map(ScalarFn::from_name(name)?),
    })
}
