//! The grammar of PTX modules, as far as NVRTC and inline assembly use it.

use super::lexer::{Token, tokens};
use super::{
    Class, Kernel, Module, ModuleVariable, Operand, Parameter, Register, SourceLine, Space, Statement,
    Variable,
};
use crate::error::LoadError;
use std::collections::HashMap;
use std::sync::Arc;

/// First byte of static shared memory: as on the hardware, the first KiB of a block is the system's, so that a null
/// pointer is never a valid shared address.
pub(crate) const SHARED_START: u32 = 1024;

type Position = (u32, u32, u32);

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    files: HashMap<u32, Arc<str>>,
}

/// Parses a module. Errors name the line.
pub(crate) fn parse(text: &str) -> Result<Module, LoadError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, files: HashMap::new() };
    parser.files();
    parser.module()
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", |token| &token.text)
    }

    fn next(&mut self) -> Result<String, LoadError> {
        let token = self
            .tokens
            .get(self.at)
            .ok_or_else(|| LoadError::syntax(self.line(), "the text ends too early"))?;
        self.at += 1;
        Ok(token.text.clone())
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), LoadError> {
        let line = self.line();
        let found = self.next()?;
        if found == text {
            return Ok(());
        }
        Err(LoadError::syntax(line, format!("expected `{text}`, found `{found}`")))
    }

    fn skip_past(&mut self, text: &str) -> Result<(), LoadError> {
        while self.next()? != text {}
        Ok(())
    }

    fn skip_block(&mut self) -> Result<(), LoadError> {
        let mut depth = 0;
        loop {
            match self.next()?.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => return Ok(()),
                "}" => depth -= 1,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Result<u64, LoadError> {
        let line = self.line();
        let text = self.next()?;
        number(&text).ok_or_else(|| LoadError::syntax(line, format!("expected a number, found `{text}`")))
    }

    /// `.file` directives stand at the end of the module, so they are collected first.
    fn files(&mut self) {
        for window in self.tokens.windows(3) {
            if window[0].is(".file")
                && let Some(index) = number(&window[1].text)
            {
                self.files.insert(index as u32, window[2].text.trim_matches('"').into());
            }
        }
    }

    fn module(&mut self) -> Result<Module, LoadError> {
        let mut module = Module::default();
        let mut dynamic: Vec<(String, u32)> = Vec::new();
        while self.at < self.tokens.len() {
            let line = self.line();
            match self.next()?.as_str() {
                ".version" | ".address_size" => {
                    self.next()?;
                }
                ".target" => {
                    module.target = self.next()?;
                    while self.eat(",") {
                        self.next()?;
                    }
                }
                ".file" => {
                    self.at += 2;
                    while self.eat(",") {
                        self.next()?;
                    }
                }
                ".visible" | ".extern" | ".weak" | ".common" | ";" => {}
                ".section" => {
                    self.next()?;
                    self.skip_block()?;
                }
                ".pragma" => self.skip_past(";")?,
                ".func" => {
                    while !matches!(self.peek(), "{" | ";") {
                        self.next()?;
                    }
                    if self.peek() == "{" { self.skip_block()? } else { self.at += 1 }
                }
                ".shared" => {
                    let (name, alignment, bytes, _) = self.variable()?;
                    if !bytes.is_empty() {
                        return Err(LoadError::syntax(
                            line,
                            format!("shared variable {name} of the module: declare it within the kernel"),
                        ));
                    }
                    dynamic.push((name, alignment as u32));
                }
                space @ (".global" | ".const") => {
                    let constant = space == ".const";
                    let (name, alignment, bytes, initialised) = self.variable()?;
                    module.variables.push(ModuleVariable { name, constant, alignment, bytes, initialised });
                }
                ".entry" => {
                    let mut kernel = self.kernel()?;
                    for (name, alignment) in &dynamic {
                        kernel.dynamic_alignment = kernel.dynamic_alignment.max(*alignment);
                        kernel.variables.insert(
                            name.clone(),
                            Variable { space: Space::Shared, offset: u64::MAX, size: 0 },
                        );
                    }
                    let start = kernel.static_shared.next_multiple_of(kernel.dynamic_alignment.max(16));
                    for (name, _) in &dynamic {
                        kernel.variables.get_mut(name).expect("inserted above").offset = u64::from(start);
                    }
                    if !dynamic.is_empty() {
                        kernel.static_shared = start;
                    }
                    module.kernels.push(kernel);
                }
                other => return Err(LoadError::syntax(line, format!("`{other}` is not expected here"))),
            }
        }
        Ok(module)
    }

    /// After the space: `.align 4 .b8 name[16] = {1, 2};`. Gives name, alignment, bytes, and whether a value was given.
    fn variable(&mut self) -> Result<(String, u64, Vec<u8>, bool), LoadError> {
        let mut alignment = 0;
        if self.eat(".attribute") {
            self.skip_past(")")?;
        }
        if self.eat(".align") {
            alignment = self.number()?;
        }
        let line = self.line();
        let kind = self.next()?;
        let element = type_size(kind.trim_start_matches('.'))
            .ok_or_else(|| LoadError::syntax(line, format!("`{kind}` is not a type")))?;
        alignment = alignment.max(element as u64);
        let name = self.next()?;
        let mut count = 1;
        while self.eat("[") {
            count *= if self.peek() == "]" { 0 } else { self.number()? as usize };
            self.expect("]")?;
        }
        let mut bytes = vec![0; count.saturating_mul(element)];
        let initialised = self.eat("=");
        if initialised {
            let mut at = 0;
            while !self.eat(";") {
                let line = self.line();
                let text = self.next()?;
                match text.as_str() {
                    "{" | "}" | "," => {}
                    text => {
                        let negative = text == "-";
                        let digits = if negative { self.next()? } else { text.to_string() };
                        let value =
                            number(&digits).filter(|_| at + element <= bytes.len()).ok_or_else(|| {
                                LoadError::syntax(line, format!("`{digits}` cannot initialise {name}"))
                            })?;
                        let value = if negative { value.wrapping_neg() } else { value };
                        bytes[at..at + element].copy_from_slice(&value.to_le_bytes()[..element]);
                        at += element;
                    }
                }
            }
        } else {
            self.expect(";")?;
        }
        Ok((name, alignment, bytes, initialised))
    }

    fn kernel(&mut self) -> Result<Kernel, LoadError> {
        let mut kernel =
            Kernel { name: self.next()?, cluster_size: 1, static_shared: SHARED_START, ..Kernel::default() };
        if self.eat("(") {
            self.parameters(&mut kernel)?;
        }
        while self.peek() != "{" {
            let line = self.line();
            let directive = self.next()?;
            match directive.as_str() {
                ".maxntid" | ".reqntid" | ".reqnctapercluster" | ".maxclusterrank" | ".minnctapersm"
                | ".maxnreg" => {
                    let mut sizes = vec![self.number()? as u32];
                    while self.eat(",") {
                        sizes.push(self.number()? as u32);
                    }
                    let product = sizes.iter().product();
                    sizes.resize(3, 1);
                    match directive.as_str() {
                        ".maxntid" => kernel.maximum_threads = product,
                        ".reqntid" => {
                            kernel.maximum_threads = product;
                            kernel.required_threads = Some([sizes[0], sizes[1], sizes[2]]);
                        }
                        ".reqnctapercluster" => kernel.cluster_size = product,
                        _ => {}
                    }
                }
                ".explicitcluster" | ".noreturn" | ".blocksareclusters" => {}
                ".pragma" => self.skip_past(";")?,
                ";" => return Ok(kernel),
                other => {
                    return Err(LoadError::syntax(line, format!("`{other}` is not a directive of a kernel")));
                }
            }
        }
        Body {
            parser: self,
            scopes: Vec::new(),
            parents: HashMap::new(),
            source: None,
            names: HashMap::new(),
        }
        .parse(&mut kernel)?;
        Ok(kernel)
    }

    fn parameters(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        let mut end = 0;
        while !self.eat(")") {
            self.expect(".param")?;
            let (mut alignment, mut kind) = (0, String::new());
            while self.peek().starts_with('.') {
                match self.next()?.as_str() {
                    ".align" => alignment = self.number()? as usize,
                    ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                    other => kind = other.trim_start_matches('.').to_string(),
                }
                // `.param .u64 .ptr .align 16 name`: that alignment is of what is pointed to.
                if !kind.is_empty() && self.peek() == ".ptr" {
                    while self.peek().starts_with('.') {
                        if self.next()? == ".align" {
                            self.number()?;
                        }
                    }
                }
            }
            let line = self.line();
            let element = type_size(&kind)
                .ok_or_else(|| LoadError::syntax(line, format!("`{kind}` is not a type of a parameter")))?;
            let name = self.next()?;
            let mut size = element;
            if self.eat("[") {
                size *= self.number()? as usize;
                self.expect("]")?;
            }
            let offset = usize::next_multiple_of(end, alignment.max(element));
            end = offset + size;
            let variable = Variable { space: Space::Parameter, offset: offset as u64, size: size as u64 };
            kernel.variables.insert(name.clone(), variable);
            kernel.parameters.push(Parameter { name, offset, size });
            self.eat(",");
        }
        Ok(())
    }
}

/// Names declared in one pair of braces.
#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    /// Labels get a unique name, since inline assembly repeats them in scopes of its own.
    labels: HashMap<String, String>,
}

struct Body<'a> {
    parser: &'a mut Parser,
    scopes: Vec<Scope>,
    /// Where the code of a position was inlined, for the chain of calls.
    parents: HashMap<Position, Position>,
    source: Option<u32>,
    names: HashMap<SourceLine, u32>,
}

impl Body<'_> {
    fn parse(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
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

/// The bits of a number as PTX writes it: decimal, `0x`, octal, `0f` and `0d` with the bits of a float.
fn number(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = text.strip_suffix('U').unwrap_or(text);
    let prefix = digits.get(..2).unwrap_or("");
    match prefix {
        "0x" | "0X" => u64::from_str_radix(&digits[2..], 16).ok(),
        "0f" | "0F" if digits.len() == 10 => u64::from_str_radix(&digits[2..], 16).ok(),
        "0d" | "0D" if digits.len() == 18 => u64::from_str_radix(&digits[2..], 16).ok(),
        "0b" | "0B" => u64::from_str_radix(&digits[2..], 2).ok(),
        _ if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(&digits[1..], 8).ok(),
        _ => digits.parse().ok(),
    }
}

/// Size in bytes of a fundamental type.
pub(crate) fn type_size(kind: &str) -> Option<usize> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}
