//! PTX text to tokens. A word keeps its dots and double colons (`shared::cluster`), so that an opcode with all its
//! modifiers is one token.

use crate::error::LoadError;

/// A token and the line of the PTX text that it stands on, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub text: String,
    pub line: u32,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// True for a word (opcode, name, number), false for punctuation and strings.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(is_word_character)
    }
}

fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '%')
}

/// Splits PTX into tokens; comments are dropped.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, LoadError> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut result = Vec::new();
    while at < bytes.len() {
        let c = bytes[at] as char;
        let start = at;
        if c == '\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == '\0' {
            at += 1;
        } else if text[at..].starts_with("//") {
            while at < bytes.len() && bytes[at] != b'\n' {
                at += 1;
            }
        } else if text[at..].starts_with("/*") {
            let length = text[at..]
                .find("*/")
                .ok_or_else(|| LoadError::syntax(line, "a comment that is never closed"))?;
            line += text[at..at + length].matches('\n').count() as u32;
            at += length + 2;
        } else if c == '"' {
            let length = text[at + 1..]
                .find('"')
                .ok_or_else(|| LoadError::syntax(line, "a string that is never closed"))?;
            at += length + 2;
            result.push(Token { text: text[start..at].to_string(), line });
            line += text[start..at].matches('\n').count() as u32;
        } else if is_word_character(c) {
            while at < bytes.len() {
                let double_colon = text[at..].starts_with("::");
                if double_colon {
                    at += 2;
                } else if is_word_character(bytes[at] as char) {
                    at += 1;
                } else {
                    break;
                }
            }
            result.push(Token { text: text[start..at].to_string(), line });
        } else if c.is_ascii() {
            at += 1;
            result.push(Token { text: c.to_string(), line });
        } else {
            return Err(LoadError::syntax(line, "a character that is not ASCII"));
        }
    }
    Ok(result)
}
