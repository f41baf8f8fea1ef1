//! A place in the bytes of a file that moves on as they are read, and never past their end. Problems
//! are told without the file's name, which the caller adds.

use std::ops::Range;

/// The next bytes of a file.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at }
    }

    /// The offset of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Where the next `count` bytes lie, and moves past them.
    pub fn skip(&mut self, count: u64, what: &str) -> Result<Range<usize>, String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        match end {
            Some(end) if end <= self.bytes.len() => {
                let start = std::mem::replace(&mut self.at, end);
                Ok(start..end)
            }
            _ => Err(format!(
                "truncated: {what} takes {count} bytes at byte {}, but the file has {}",
                self.at,
                self.bytes.len()
            )),
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let range = self.skip(N as u64, what)?;
        let bytes = &self.bytes[range];
        Ok(std::array::from_fn(|at| bytes[at]))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The bytes of a string: its length, then so many.
    pub fn string(&mut self, what: &str) -> Result<&'a [u8], String> {
        let length = self.u64(what)?;
        let range = self.skip(length, what)?;
        Ok(&self.bytes[range])
    }

    /// A string that must be UTF-8.
    pub fn text(&mut self, what: &str) -> Result<&'a str, String> {
        let at = self.at;
        let bytes = self.string(what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what} at byte {at} is not UTF-8"))
    }
}
