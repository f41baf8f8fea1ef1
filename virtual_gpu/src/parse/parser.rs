//! The grammar of PTX modules, as far as NVRTC and inline assembly use it.

use super::body::Body;
use super::lexer::{Token, tokens};
use super::{Kernel, Module, ModuleVariable, Parameter, Space, Variable};
use crate::error::LoadError;
use std::collections::HashMap;
use std::sync::Arc;

/// First byte of static shared memory: as on the hardware, the first KiB of a block is the system's, so that a null
/// pointer is never a valid shared address.
pub(crate) const SHARED_START: u32 = 1024;

/// Bytes of a variable at most.
const MAXIMUM_VARIABLE: usize = 1 << 30;

pub(super) struct Parser {
    pub tokens: Vec<Token>,
    pub at: usize,
    pub files: HashMap<u32, Arc<str>>,
}

/// Parses a module. Errors name the line.
pub(crate) fn parse(text: &str) -> Result<Module, LoadError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, files: HashMap::new() };
    parser.files();
    parser.module()
}

impl Parser {
    pub fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    pub fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", |token| &token.text)
    }

    pub fn next(&mut self) -> Result<String, LoadError> {
        let token = self
            .tokens
            .get(self.at)
            .ok_or_else(|| LoadError::syntax(self.line(), "the text ends too early"))?;
        self.at += 1;
        Ok(token.text.clone())
    }

    pub fn eat(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, text: &str) -> Result<(), LoadError> {
        let line = self.line();
        let found = self.next()?;
        if found == text {
            return Ok(());
        }
        Err(LoadError::syntax(line, format!("expected `{text}`, found `{found}`")))
    }

    pub fn skip_past(&mut self, text: &str) -> Result<(), LoadError> {
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

    pub fn number(&mut self) -> Result<u64, LoadError> {
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
    pub fn variable(&mut self) -> Result<(String, u64, Vec<u8>, bool), LoadError> {
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
        let mut count = 1usize;
        while self.eat("[") {
            count = count.saturating_mul(if self.peek() == "]" { 0 } else { self.number()? as usize });
            self.expect("]")?;
        }
        if !alignment.is_power_of_two() || alignment > 1 << 16 {
            return Err(LoadError::syntax(line, format!("{name} has an alignment of {alignment}")));
        }
        let size = count.saturating_mul(element);
        if size > MAXIMUM_VARIABLE {
            let problem = format!("{name} has {size} bytes: more than {MAXIMUM_VARIABLE} are not modelled");
            return Err(LoadError::syntax(line, problem));
        }
        let mut bytes = vec![0; size];
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
                    let product = sizes.iter().fold(1u32, |product, size| product.saturating_mul(*size));
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
        Body::of(self).parse(&mut kernel)?;
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
                size = size.saturating_mul(self.number()? as usize);
                self.expect("]")?;
            }
            // Parameters have 32,764 bytes together at most.
            let alignment = alignment.max(element);
            if !alignment.is_power_of_two() || alignment > 4096 || size > 1 << 15 || end > 1 << 15 {
                return Err(LoadError::syntax(
                    line,
                    format!("{name} has {size} bytes, aligned to {alignment}"),
                ));
            }
            let offset = usize::next_multiple_of(end, alignment);
            end = offset + size;
            let variable = Variable { space: Space::Parameter, offset: offset as u64, size: size as u64 };
            kernel.variables.insert(name.clone(), variable);
            kernel.parameters.push(Parameter { name, offset, size });
            self.eat(",");
        }
        Ok(())
    }
}

/// The bits of a number as PTX writes it: decimal, `0x`, octal, `0f` and `0d` with the bits of a float.
pub(super) fn number(text: &str) -> Option<u64> {
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
