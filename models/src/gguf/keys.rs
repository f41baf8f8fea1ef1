//! The metadata of one architecture, asked for key by key; what nobody asked for at the end is unknown.

use crate::Result;
use diptych_gguf::{File, GgufError};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The keys that begin with the architecture's name.
pub(super) struct Keys<'a> {
    pub file: &'a File,
    prefix: String,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub fn new(file: &'a File, architecture: &str) -> Keys<'a> {
        Keys { file, prefix: format!("{architecture}."), asked: RefCell::default() }
    }

    /// The whole name of a key, which is then known.
    fn ask(&self, key: &str) -> String {
        let key = format!("{}{key}", self.prefix);
        self.asked.borrow_mut().insert(key.clone());
        key
    }

    /// An integer; of an array with one for each layer, the one that they all are.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.file.one_count(&self.ask(key))?)
    }

    /// An integer that must be there.
    pub fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key).into())
    }

    /// A floating-point number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.file.float(&self.ask(key))?)
    }

    /// A floating-point number that must be there.
    pub fn required_float(&self, key: &str) -> Result<f64> {
        self.float(key)?.ok_or_else(|| self.missing(key).into())
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<String>> {
        Ok(self.file.string(&self.ask(key))?)
    }

    /// Passes over keys that change nothing of what is computed.
    pub fn ignore(&self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.ask(key)));
    }

    /// Refuses a key whose value is not the one that it must have, if it is there.
    pub fn expect(&self, key: &str, wanted: usize, why: &str) -> Result<()> {
        match self.count(key)? {
            Some(found) if found != wanted => {
                let problem = format!("`{}{key}` is {found}; it must be {wanted}, {why}", self.prefix);
                Err(self.file.wrong(problem).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses keys that nobody asked for.
    pub fn finish(self) -> Result<()> {
        let asked = self.asked.borrow();
        match self.file.keys().find(|key| key.starts_with(&self.prefix) && !asked.contains(*key)) {
            Some(key) => {
                let problem = format!("unknown metadata `{key}`; what it asks for would be left out");
                Err(self.file.wrong(problem).into())
            }
            None => Ok(()),
        }
    }

    fn missing(&self, key: &str) -> GgufError {
        self.file.wrong(format!("the metadata have no `{}{key}`", self.prefix))
    }
}
