//! The body of a kernel: declarations, labels, positions in the source, and instructions with their operands.

use super::lexer::Token;
use super::parser::{Parser, number, type_size};
use super::{Class, Kernel, Operand, Register, SourceLine, Space, Statement, Variable};
use crate::error::LoadError;
use std::collections::HashMap;

/// Registers that one declaration can make.
const MAXIMUM_REGISTERS: u64 = 1 << 20;
/// Bytes of shared or local memory that a kernel can declare.
const MAXIMUM_BYTES: usize = 1 << 24;
/// Braces and brackets within each other in an operand.
const MAXIMUM_DEPTH: u32 = 8;

/// File, line and column.
type Position = (u32, u32, u32);

/// Names declared in one pair of braces.
#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    /// Labels get a unique name, since inline assembly repeats them in scopes of its own.
    labels: HashMap<String, String>,
}

pub(super) struct Body<'a> {
    parser: &'a mut Parser,
    scopes: Vec<Scope>,
    /// Where the code of a position was inlined, for the chain of calls.
    parents: HashMap<Position, Position>,
    source: Option<u32>,
    names: HashMap<SourceLine, u32>,
    depth: u32,
}

impl<'a> Body<'a> {
    pub fn of(parser: &'a mut Parser) -> Self {
        Body {
            parser,
            scopes: Vec::new(),
            parents: HashMap::new(),
            source: None,
            names: HashMap::new(),
            depth: 0,
        }
    }

    pub fn parse(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        self.parser.expect("{")?;
        self.open_scope(kernel);
        while !self.scopes.is_empty() {
            let line = self.parser.line();
            let text = self.parser.next()?;
            match text.as_str() {
                "{" => self.open_scope(kernel),
                "}" => {
                    self.scopes.pop();
                }
                ";" => {}
                ".reg" => self.registers(kernel)?,
                ".shared" | ".local" => self.variable(kernel, &text, line)?,
                ".loc" => self.location(kernel)?,
                ".pragma" => self.parser.skip_past(";")?,
                _ if self.parser.peek() == ":" => {
                    self.parser.at += 1;
                    let unique = self.label(&text);
                    kernel.labels.insert(unique, kernel.statements.len());
                }
                _ => {
                    self.parser.at -= 1;
                    let statement = self.statement(line)?;
                    kernel.statements.push(statement);
                }
            }
        }
        Ok(())
    }

    /// Enters a scope; its labels are looked up ahead, since jumps go forward as well.
    fn open_scope(&mut self, kernel: &Kernel) {
        let mut scope = Scope::default();
        let (mut at, mut depth) = (self.parser.at, 0);
        while let Some(token) = self.parser.tokens.get(at) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                ":" if depth == 0 => {
                    let name = &self.parser.tokens[at - 1].text;
                    scope.labels.insert(name.clone(), format!("{name}@{}:{at}", kernel.name));
                }
                _ => {}
            }
            at += 1;
        }
        self.scopes.push(scope);
    }

    fn label(&self, name: &str) -> String {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.labels.get(name))
            .cloned()
            .unwrap_or_else(|| name.to_string())
    }

    fn registers(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        let line = self.parser.line();
        let kind = self.parser.next()?;
        let class = match kind.as_str() {
            ".pred" => Class::Predicate,
            ".b64" | ".u64" | ".s64" | ".f64" => Class::Wide,
            other => match type_size(other.trim_start_matches('.')) {
                Some(1..=4) => Class::Narrow,
                _ => {
                    return Err(LoadError::syntax(
                        line,
                        format!("registers of type `{other}` are not modelled"),
                    ));
                }
            },
        };
        let scope = self.scopes.last_mut().expect("within the braces of a body");
        loop {
            let name = self.parser.next()?;
            let next = &mut kernel.registers[class as usize];
            if self.parser.eat("<") {
                let count = self.parser.number()?;
                if count > MAXIMUM_REGISTERS {
                    return Err(LoadError::syntax(line, format!("{count} registers {name}")));
                }
                self.parser.expect(">")?;
                for index in 0..count as u32 {
                    scope
                        .registers
                        .insert(format!("{name}{index}"), Register { class, index: *next + index });
                }
                *next += count as u32;
            } else {
                scope.registers.insert(name, Register { class, index: *next });
                *next += 1;
            }
            if !self.parser.eat(",") {
                break;
            }
        }
        self.parser.expect(";")
    }

    fn variable(&mut self, kernel: &mut Kernel, space: &str, line: u32) -> Result<(), LoadError> {
        let (name, alignment, bytes, initialised) = self.parser.variable()?;
        if initialised {
            return Err(LoadError::syntax(line, format!("{name} cannot have an initial value")));
        }
        let (space, end) = match space {
            ".shared" => (Space::Shared, &mut kernel.static_shared),
            _ => (Space::Local, &mut kernel.local_bytes),
        };
        if *end as usize + bytes.len() + alignment as usize > MAXIMUM_BYTES {
            return Err(LoadError::syntax(line, format!("{name} has {} bytes, too many", bytes.len())));
        }
        let offset = end.next_multiple_of(alignment as u32);
        *end = offset + bytes.len() as u32;
        kernel
            .variables
            .insert(name, Variable { space, offset: u64::from(offset), size: bytes.len() as u64 });
        Ok(())
    }

    /// `.loc file line column[, function_name label, inlined_at file line column]`.
    fn location(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        let position = self.position()?;
        self.parents.remove(&position);
        while self.parser.eat(",") {
            match self.parser.next()?.as_str() {
                "function_name" => {
                    self.parser.next()?;
                    if self.parser.eat("+") {
                        self.parser.next()?;
                    }
                }
                "inlined_at" => {
                    let parent = self.position()?;
                    self.parents.insert(position, parent);
                }
                _ => {}
            }
        }
        let (file, line, _) = position;
        if line == 0 {
            return Ok(());
        }
        let mut inlined_at = Vec::new();
        let mut at = position;
        while let Some(parent) = self.parents.get(&at)
            && inlined_at.len() < 32
        {
            inlined_at.push(parent.1);
            at = *parent;
        }
        let file = self.parser.files.get(&file).cloned().unwrap_or_else(|| "?".into());
        let source = SourceLine { file, line, inlined_at };
        let count = kernel.source_lines.len() as u32;
        let index = *self.names.entry(source.clone()).or_insert(count);
        if index == count {
            kernel.source_lines.push(source);
        }
        self.source = Some(index);
        Ok(())
    }

    fn position(&mut self) -> Result<Position, LoadError> {
        Ok((self.parser.number()? as u32, self.parser.number()? as u32, self.parser.number()? as u32))
    }

    fn statement(&mut self, line: u32) -> Result<Statement, LoadError> {
        let mut guard = None;
        if self.parser.eat("@") {
            let negated = self.parser.eat("!");
            let name = self.parser.next()?;
            let register = self.register(&name).filter(|register| register.class == Class::Predicate);
            let register =
                register.ok_or_else(|| LoadError::syntax(line, format!("`{name}` is not a predicate")))?;
            guard = Some((register, !negated));
        }
        if !self.parser.tokens.get(self.parser.at).is_some_and(Token::is_word) {
            return Err(LoadError::syntax(
                line,
                format!("expected an instruction, found `{}`", self.parser.peek()),
            ));
        }
        let opcode = self.parser.next()?;
        let mut operands = Vec::new();
        if opcode == "call" || opcode.starts_with("call.") {
            self.parser.skip_past(";")?;
            return Ok(Statement { guard, opcode, operands, line, source: self.source });
        }
        while !self.parser.eat(";") {
            operands.push(self.operand()?);
            if !self.parser.eat(",") {
                self.parser.expect(";")?;
                break;
            }
        }
        Ok(Statement { guard, opcode, operands, line, source: self.source })
    }

    fn register(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| scope.registers.get(name)).copied()
    }

    fn operand(&mut self) -> Result<Operand, LoadError> {
        let line = self.parser.line();
        self.depth += 1;
        if self.depth > MAXIMUM_DEPTH {
            return Err(LoadError::syntax(line, "an operand with too many brackets"));
        }
        let operand = self.operand_at(line);
        self.depth -= 1;
        operand
    }

    fn operand_at(&mut self, line: u32) -> Result<Operand, LoadError> {
        let text = self.parser.next()?;
        match text.as_str() {
            "[" => self.address(),
            "{" => {
                let mut elements = Vec::new();
                while !self.parser.eat("}") {
                    elements.push(self.operand()?);
                    self.parser.eat(",");
                }
                Ok(Operand::Vector(elements))
            }
            "!" => {
                let name = self.parser.next()?;
                let register = self.register(&name);
                register
                    .map(Operand::Not)
                    .ok_or_else(|| LoadError::syntax(line, format!("`{name}` is not a register")))
            }
            "-" => match self.operand()? {
                Operand::Immediate(value) => Ok(Operand::Immediate(value.wrapping_neg())),
                _ => {
                    Err(LoadError::syntax(line, "a minus sign stands before something that is not a number"))
                }
            },
            word => {
                let first = if let Some(value) = number(word) {
                    Operand::Immediate(value)
                } else if let Some(register) = self.register(word) {
                    Operand::Register(register)
                } else {
                    Operand::Name(self.label(word))
                };
                if self.parser.eat("|") {
                    return Ok(Operand::Pair(Box::new(first), Box::new(self.operand()?)));
                }
                // `variable+4` as an operand of mov.
                if matches!(first, Operand::Name(_)) && self.parser.eat("+") {
                    let offset = self.parser.number()? as i64;
                    return Ok(Operand::Address { base: Box::new(first), offset, coordinates: Vec::new() });
                }
                Ok(first)
            }
        }
    }

    fn address(&mut self) -> Result<Operand, LoadError> {
        let line = self.parser.line();
        let base = match self.operand()? {
            // `variable+4` was read as a whole.
            Operand::Address { base, offset, .. } => (base, offset),
            other => (Box::new(other), 0),
        };
        let (base, mut offset) = base;
        let mut coordinates = Vec::new();
        loop {
            let text = self.parser.next()?;
            match text.as_str() {
                "+" => {
                    let negative = self.parser.eat("-");
                    let value = self.parser.number()? as i64;
                    offset = offset.wrapping_add(if negative { value.wrapping_neg() } else { value });
                }
                "-" => offset = offset.wrapping_sub(self.parser.number()? as i64),
                "," => coordinates.push(self.operand()?),
                "]" => return Ok(Operand::Address { base, offset, coordinates }),
                other => {
                    return Err(LoadError::syntax(line, format!("`{other}` is not expected in an address")));
                }
            }
        }
    }
}
