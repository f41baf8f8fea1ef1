//! The numbers that a file holds weights in: blocks, or narrow ones. What a file's blocks hold is read without being changed.

use super::Checkpoint;
use crate::{ModelError, Result};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{Axis, DType};
use std::collections::BTreeSet;

/// How a checkpoint holds a parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// In numbers that each stand alone, all of this type; of several types, f32 holds them.
    Plain(DType),
    /// In blocks of one format, along the axes asked for.
    Blocks(BlockFormat),
    /// In blocks of several formats, each in tensors of its own.
    Mixed(BTreeSet<BlockFormat>),
    /// In blocks, but along other axes, or in plain numbers here and blocks there.
    Otherwise,
}

impl Checkpoint {
    /// How the tensors of a parameter are held, if blocks are to lie along these axes.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn held(&self, name: &str, along: &[Axis]) -> Result<Held> {
        let place = self.place(name)?;
        let tensors: Vec<_> =
            (0..place.tensors).filter_map(|number| self.tensors.get(&place.name(number))).collect();
        let formats: BTreeSet<Option<BlockFormat>> = tensors.iter().map(|tensor| tensor.blocks).collect();
        let types: BTreeSet<DType> = tensors.iter().map(|tensor| tensor.dtype).collect();
        let known: BTreeSet<BlockFormat> = formats.iter().copied().flatten().collect();
        Ok(match (formats.contains(&None), known.first()) {
            (_, None) => Held::Plain(match types.first() {
                Some(&dtype) if types.len() == 1 => dtype,
                _ => DType::F32,
            }),
            (true, _) => Held::Otherwise,
            (false, _) if !place.runs_along(along) => Held::Otherwise,
            (false, _) if known.len() > 1 => Held::Mixed(known),
            (false, Some(&format)) => Held::Blocks(format),
        })
    }

    /// Gives back the memory of what was read of a parameter, if the system lets it.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn release(&self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        for tensor in (0..place.tensors).filter_map(|number| self.tensors.get(&place.name(number))) {
            self.files[tensor.file].release(&tensor.bytes);
        }
        Ok(())
    }

    /// The blocks of so many elements of a parameter that follow one another in the file, of which the first stands at this
    /// position in the parameter's order.
    ///
    /// # Errors
    /// When there is no such parameter, or no whole blocks are there.
    pub fn blocks(&self, name: &str, position: usize, elements: usize) -> Result<&[u8]> {
        let place = self.place(name)?;
        let tensor_name = place.name(position / place.elements);
        let tensor = self.tensors.get(&tensor_name).ok_or_else(|| self.missing(&tensor_name))?;
        let file = &self.files[tensor.file];
        let mut first = 0;
        let within = position % place.elements;
        place.for_each(within..within + 1, |at| first = at);
        let wrong = || {
            let problem = format!("tensor `{tensor_name}` has no whole blocks at element {first}");
            ModelError::file(&file.path, problem)
        };
        let format = tensor.blocks.ok_or_else(wrong)?;
        let (size, bytes) = (format.elements(), format.bytes());
        if !first.is_multiple_of(size) || !elements.is_multiple_of(size) {
            return Err(wrong());
        }
        let (start, end) = (first / size * bytes, (first + elements) / size * bytes);
        file.map[tensor.bytes.clone()].get(start..end).ok_or_else(wrong)
    }
}
