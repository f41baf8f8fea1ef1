//! Cuts a text into tokens, each with its line. It knows no grammar.

use crate::{IrError, Result};
use std::fmt;

/// A piece of text that means something.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A plain word: a keyword or a name.
    Word(String),
    /// A quoted name, with its escapes undone.
    Quoted(String),
    /// A number, as written.
    Number(String),
    /// `%7`, a node.
    Node(u32),
    /// `@1`, a region.
    Region(u32),
    /// Punctuation.
    Mark(char),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(text) | Token::Number(text) => write!(f, "`{text}`"),
            Token::Quoted(text) => write!(f, "{text:?}"),
            Token::Node(number) => write!(f, "`%{number}`"),
            Token::Region(number) => write!(f, "`@{number}`"),
            Token::Mark(mark) => write!(f, "`{mark}`"),
        }
    }
}

pub(super) fn starts_word(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

pub(super) fn continues_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '.'
}

/// All tokens of a text, each with its line from 1.
///
/// # Errors
/// At a character that starts no token, an open quote, a bad escape or a number too large.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>> {
    let mut tokens = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let line = line + 1;
        let mut rest = content.trim_start();
        while let (Some(first), false) = (rest.chars().next(), rest.starts_with("//")) {
            let (token, length) = token(first, rest).map_err(|problem| IrError::Parse { line, problem })?;
            tokens.push((line, token));
            rest = rest[length..].trim_start();
        }
    }
    Ok(tokens)
}

/// The token at the start of a text and its length in bytes.
fn token(first: char, rest: &str) -> Result<(Token, usize), String> {
    match first {
        '"' => quoted(rest),
        '%' | '@' => {
            let digits = run(&rest[1..], |_, next| next.is_ascii_digit());
            let number = digits.parse().map_err(|_| format!("expected a number after `{first}`"))?;
            let token = if first == '%' { Token::Node(number) } else { Token::Region(number) };
            Ok((token, 1 + digits.len()))
        }
        '-' | '0'..='9' => {
            let text = run(rest, |before, next| match next {
                '-' => matches!(before, None | Some('e')),
                '+' => before == Some('e'),
                other => continues_word(other),
            });
            Ok((Token::Number(text.to_owned()), text.len()))
        }
        '(' | ')' | '[' | ']' | '{' | '}' | ',' | ':' | '=' | '#' => Ok((Token::Mark(first), 1)),
        other if starts_word(other) => {
            let text = run(rest, |_, next| continues_word(next));
            Ok((Token::Word(text.to_owned()), text.len()))
        }
        other => Err(format!("unexpected character {other:?}: names of other than plain words are quoted")),
    }
}

/// The longest start of a text whose characters, each seen with the one before, belong to it.
fn run(text: &str, belongs: impl Fn(Option<char>, char) -> bool) -> &str {
    let mut before = None;
    for (position, next) in text.char_indices() {
        if !belongs(before, next) {
            return &text[..position];
        }
        before = Some(next);
    }
    text
}

fn quoted(rest: &str) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Ok((Token::Quoted(text), position + 1)),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                Some((_, 'u')) => {
                    let code: String =
                        characters.by_ref().map(|pair| pair.1).take_while(|&c| c != '}').collect();
                    let known = code.strip_prefix('{').and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    let escaped = known.and_then(char::from_u32);
                    text.push(escaped.ok_or("expected \\u{…} with a character's number in hexadecimal")?);
                }
                _ => return Err("expected \\\", \\\\ or \\u{…} after a backslash".into()),
            },
            other => text.push(other),
        }
    }
    Err("a quoted name without its closing quote on the same line".into())
}
