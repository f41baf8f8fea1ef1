//! The held-out loss of a model in training: the same windows every time, so
//! that losses can be compared over the same documents. It shows nothing.

use crate::failure::Result;
use diptych_data::{DocumentLoss, HeldOut, HeldOutWindow, Vocabulary};
use diptych_runtime::train::Trainer;
use std::collections::BTreeMap;

/// Windows of held-out documents.
pub struct HeldOutSet<'a> {
    windows: Vec<HeldOutWindow<'a>>,
    /// Bytes of the text of each window's targets.
    bytes: Vec<u64>,
}

impl<'a> HeldOutSet<'a> {
    /// The first windows of `time` tokens of each document, at most
    /// `windows_each` of each, of as many documents as hold about `tokens`.
    ///
    /// # Errors
    /// When the vocabulary is not that of the tokens.
    pub fn new(
        held_out: &'a HeldOut,
        vocabulary: &Vocabulary,
        time: usize,
        windows_each: usize,
        tokens: usize,
    ) -> Result<HeldOutSet<'a>> {
        let mut set = HeldOutSet { windows: Vec::new(), bytes: Vec::new() };
        let (mut total, mut document, mut taken) = (0, usize::MAX, 0);
        let (mut inputs, mut targets) = (vec![0; time], vec![0; time]);
        for window in held_out.windows(time) {
            if window.document != document {
                if total >= tokens {
                    break;
                }
                (document, taken) = (window.document, 0);
            }
            taken += 1;
            if taken > windows_each {
                continue;
            }
            total += window.targets();
            let count = window.fill(&mut inputs, &mut targets);
            let ids: Vec<u32> = targets[..count].iter().map(|&id| id as u32).collect();
            set.bytes.push(vocabulary.decode(&ids)?.len() as u64);
            set.windows.push(window);
        }
        Ok(set)
    }

    /// Targets of all windows.
    pub fn tokens(&self) -> u64 {
        self.windows.iter().map(|window| window.targets() as u64).sum()
    }

    /// What the model loses on each document.
    ///
    /// # Errors
    /// When the tokens are not the model's.
    pub fn losses(&self, trainer: &mut Trainer<'_>) -> Result<Vec<DocumentLoss>> {
        let scores = trainer.evaluate(self.windows.len(), |window, inputs, targets| {
            self.windows[window].fill(inputs, targets)
        })?;
        let mut documents: BTreeMap<usize, DocumentLoss> = BTreeMap::new();
        for ((window, bytes), score) in self.windows.iter().zip(&self.bytes).zip(scores) {
            let loss = documents.entry(window.document).or_default();
            loss.nats -= score.log_probability;
            loss.tokens += score.tokens;
            loss.bytes += bytes;
        }
        Ok(documents.into_values().collect())
    }
}
