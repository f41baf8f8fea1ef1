//! Reads the small things that lines of a text are made of: names, numbers, axes,
//! types and lists. Ops read their attributes through it. It knows no op.

use super::token::{Token, tokens};
use crate::{Axes, Axis, DType, IrError, RegionId, Result, Size, Symbol, TensorType};

/// A place in a text. Each method reads one thing there and moves on, or says
/// which line has what instead.
pub struct Reader {
    tokens: Vec<(usize, Token)>,
    next: usize,
}

impl Reader {
    /// At the start of a text.
    ///
    /// # Errors
    /// At the first characters that form no token.
    pub fn new(text: &str) -> Result<Reader> {
        Ok(Reader { tokens: tokens(text)?, next: 0 })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|token| &token.1)
    }

    /// The line of what comes next; at the end, the last line.
    pub fn line(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(1, |token| token.0)
    }

    /// Whether all is read.
    pub fn at_end(&self) -> bool {
        self.peek().is_none()
    }

    /// An error here.
    pub fn wrong(&self, problem: impl Into<String>) -> IrError {
        IrError::Parse { line: self.line(), problem: problem.into() }
    }

    /// The error that something else was expected here.
    pub fn expected(&self, what: &str) -> IrError {
        match self.peek() {
            Some(found) => self.wrong(format!("expected {what}, found {found}")),
            None => self.wrong(format!("expected {what}, but the text ends")),
        }
    }

    fn read<T>(&mut self, what: &str, meaning: impl FnOnce(&Token) -> Option<T>) -> Result<T> {
        let read = self.peek().and_then(meaning).ok_or_else(|| self.expected(what))?;
        self.next += 1;
        Ok(read)
    }

    fn has(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    /// Reads this word if it comes next.
    pub fn has_word(&mut self, word: &str) -> bool {
        self.has(&Token::Word(word.to_owned()))
    }

    /// Reads this word.
    pub fn word(&mut self, word: &str) -> Result<()> {
        if self.has_word(word) { Ok(()) } else { Err(self.expected(&format!("`{word}`"))) }
    }

    /// Reads this word and what stands after it.
    pub fn after<T>(&mut self, word: &str, read: impl FnOnce(&mut Reader) -> Result<T>) -> Result<T> {
        self.word(word)?;
        read(self)
    }

    /// Reads any plain word, such as the name of an op.
    pub fn any_word(&mut self, what: &str) -> Result<String> {
        self.read(what, |token| match token {
            Token::Word(word) => Some(word.clone()),
            _ => None,
        })
    }

    /// Reads this punctuation if it comes next.
    pub fn has_mark(&mut self, mark: char) -> bool {
        self.has(&Token::Mark(mark))
    }

    /// Whether operands come next.
    pub(super) fn opens(&self) -> bool {
        self.peek() == Some(&Token::Mark('('))
    }

    /// Reads this punctuation.
    pub fn mark(&mut self, mark: char) -> Result<()> {
        if self.has_mark(mark) { Ok(()) } else { Err(self.expected(&format!("`{mark}`"))) }
    }

    /// Reads a name, quoted or not.
    pub fn name(&mut self) -> Result<Symbol> {
        self.read("a name", |token| match token {
            Token::Word(text) | Token::Quoted(text) => Some(Symbol::new(text)),
            _ => None,
        })
    }

    /// Reads a whole number, with a sign if the type has one.
    pub fn whole<T: std::str::FromStr>(&mut self) -> Result<T> {
        self.read("a whole number", |token| match token {
            Token::Number(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// Reads a number, bit for bit: a decimal, `inf`, `-inf` or its f64 bits as `0x…`.
    pub fn number(&mut self) -> Result<f64> {
        self.read("a number", |token| match token {
            Token::Number(text) => match text.strip_prefix("0x") {
                Some(bits) => u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
                None => text.parse().ok(),
            },
            Token::Word(word) if word == "inf" => Some(f64::INFINITY),
            _ => None,
        })
    }

    /// Reads a node's number, `%7`.
    pub fn node(&mut self) -> Result<u32> {
        self.read("a node such as `%0`", |token| match token {
            Token::Node(number) => Some(*number),
            _ => None,
        })
    }

    /// Reads a region, `@1`.
    pub fn region(&mut self) -> Result<RegionId> {
        self.read("a region such as `@1`", |token| match token {
            Token::Region(number) => Some(RegionId(*number)),
            _ => None,
        })
    }

    /// Reads an axis: `batch`, `embed=288` or `past=time`.
    pub fn axis(&mut self) -> Result<Axis> {
        let name = self.name()?;
        if !self.has_mark('=') {
            return Ok(Axis { name, size: Size::Symbolic(name) });
        }
        let size = match self.peek() {
            Some(Token::Number(_)) => Size::Fixed(self.whole()?),
            _ => Size::Symbolic(self.name()?),
        };
        Ok(Axis { name, size })
    }

    /// Reads items between `open` and `close`, with commas between them.
    pub fn between<T>(
        &mut self,
        open: char,
        close: char,
        item: impl Fn(&mut Reader) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.mark(open)?;
        let mut items = Vec::new();
        while !self.has_mark(close) {
            if !items.is_empty() && !self.has_mark(',') {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Reads a list in brackets.
    pub fn list<T>(&mut self, item: impl Fn(&mut Reader) -> Result<T>) -> Result<Vec<T>> {
        self.between('[', ']', item)
    }

    /// Reads axes in brackets, in the order in which they stand.
    pub fn axes(&mut self) -> Result<Vec<Axis>> {
        self.list(Reader::axis)
    }

    /// Reads a type, and its axes in the order in which they stand.
    pub fn ordered_type(&mut self) -> Result<(TensorType, Vec<Axis>)> {
        let dtype = self.read("an element type: f32, bf16, f16, i8, i32 or bool", |token| match token {
            Token::Word(word) => DType::ALL.into_iter().find(|dtype| dtype.name() == word),
            _ => None,
        })?;
        let order = self.axes()?;
        let axes = Axes::new(order.iter().copied())
            .map_err(|(axis, _)| self.wrong(format!("a type with two axes named `{}`", axis.name)))?;
        Ok((TensorType::new(dtype, axes), order))
    }

    /// Reads a type.
    pub fn ty(&mut self) -> Result<TensorType> {
        Ok(self.ordered_type()?.0)
    }
}
