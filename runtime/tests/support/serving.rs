//! Prefill and decoding of random programs: the same bits as scoring, however a
//! text is cut in pieces, and the evaluator's logits.

use super::check::{Case, Options, Scored, compare};
use super::numbers::Numbers;
use super::programs::CONTEXT;
use super::reference::{Text, values};
use super::run::{CACHE, Piece, Rows, Run, chunks, same_bits};
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_passes::layout::Leading;
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{CacheRooms, Kernels, ParameterStore};
use std::collections::BTreeMap;

/// Gives prefill the roots of scoring, which have a row for each token. Decoding keeps its own, which have one
/// for each sequence.
pub fn add_probes(program: &mut Program) {
    let score = program.entry(EntryKind::Score).expect("score").roots.clone();
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Prefill) {
        entry.roots = score.clone();
    }
}

/// A text's positions from `start` on, `length` or what is left of them.
fn piece<'t>(text: &'t Text, chunks: &'t [i32], start: usize, length: usize) -> Piece<'t> {
    Piece { text, start, length: length.min(text.length - start), chunks }
}

impl Case {
    /// Prefill, in one and in pieces, and decoding, against what scoring found.
    pub(super) fn check_serving(
        &self,
        scored: &Scored,
        numbers: &BTreeMap<Symbol, Vec<f64>>,
        store: &ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<(), String> {
        let entry = &self.compiled.entries[&EntryKind::Prefill];
        let caches = CacheRooms::new(entry, CACHE).map_err(|error| error.to_string())?;
        let with_caches = (store, Some(&caches));
        let mut prefill = Run::new(self, EntryKind::Prefill, with_caches, kernels, pool, options)?;
        let mut decode = Run::new(self, EntryKind::Decode, with_caches, kernels, pool, options)?;
        let chunks = chunks();
        // Entries that have forms of their own differ in rounding.
        let shared = self.compiled.own.is_empty();
        let texts: Vec<(&Text, &[i32])> =
            scored.texts.iter().zip(&chunks).map(|(text, chunks)| (text, &chunks[..])).collect();
        let whole: Vec<Piece> = texts.iter().map(|(text, chunks)| piece(text, chunks, 0, CONTEXT)).collect();

        // Where a position sees later ones, a text is one piece.
        let mut numbers_of_steps = Numbers::new(self.seed, 5);
        let steps = match self.traits.causal {
            true => vec![CONTEXT, numbers_of_steps.pick(&[64, 50, 13]), 1],
            false => vec![CONTEXT],
        };
        for step in steps {
            let mut found = vec![Rows::new(); texts.len()];
            for start in (0..CONTEXT).step_by(step) {
                let rest: Vec<usize> = (0..texts.len()).filter(|&at| texts[at].0.length > start).collect();
                if rest.is_empty() {
                    break;
                }
                let pieces: Vec<Piece> =
                    rest.iter().map(|&at| piece(texts[at].0, texts[at].1, start, step)).collect();
                for (name, rows) in prefill.rows(&pieces, pool)? {
                    for (&at, rows) in rest.iter().zip(rows) {
                        let so_far = found[at].entry(name).or_insert_with(|| vec![Vec::new()]);
                        so_far[0].extend(rows);
                    }
                }
            }
            for (at, found) in found.iter().enumerate() {
                for (name, wanted) in &scored.rows {
                    let length = texts[at].0.length;
                    let place = format!("prefill in pieces of {step}: {name} of {length} positions");
                    let rows = found.get(name).map_or(&[][..], |rows| &rows[0]);
                    if shared && !same_bits(rows, &wanted[at]) {
                        return Err(format!("{place} has other bits than scoring"));
                    }
                    let wanted: Vec<f64> = wanted[at].iter().map(|&x| f64::from(x)).collect();
                    compare(&place, rows, &wanted, 2.0 * self.tolerance, 0.0)?;
                }
            }
        }

        let logits = Symbol::new("logits");
        let shares_chunks = (self.compiled.entries[&EntryKind::Decode].buffers.iter())
            .any(|buffer| buffer.layout.leading() == Leading::Chunks);
        let at_once = match shares_chunks {
            false => decode.rows(&whole, pool)?,
            // A run has one token of each text.
            true => {
                let mut last = vec![Vec::new(); texts.len()];
                for start in 0..CONTEXT {
                    let rest: Vec<usize> =
                        (0..texts.len()).filter(|&at| texts[at].0.length > start).collect();
                    if rest.is_empty() {
                        break;
                    }
                    let token = |&at: &usize| piece(texts[at].0, texts[at].1, start, 1);
                    let found = decode.rows(&rest.iter().map(token).collect::<Vec<_>>(), pool)?;
                    rest.iter().zip(&found[&logits]).for_each(|(&at, row)| last[at] = row.clone());
                }
                Rows::from([(logits, last)])
            }
        };
        if let Some(at) = (0..texts.len()).min_by_key(|&at| texts[at].0.length) {
            let wanted = values(&self.program, EntryKind::Decode, numbers, texts[at].0);
            let wanted = decode.in_rows(logits, &wanted[&logits]);
            compare("decode: the last logits", &at_once[&logits][at], &wanted, self.tolerance, 0.0)?;
        }
        let long: Vec<usize> = (0..texts.len()).filter(|&at| texts[at].0.length > 1).collect();
        if self.traits.causal && !long.is_empty() {
            let all_but_last = |&at: &usize| piece(texts[at].0, texts[at].1, 0, texts[at].0.length - 1);
            prefill.rows(&long.iter().map(all_but_last).collect::<Vec<_>>(), pool)?;
            let last = |&at: &usize| piece(texts[at].0, texts[at].1, texts[at].0.length - 1, 1);
            let found = decode.rows(&long.iter().map(last).collect::<Vec<_>>(), pool)?;
            for (&at, found) in long.iter().zip(&found[&logits]) {
                let length = texts[at].0.length;
                let place = format!("decode: the logits after {length} positions");
                let wanted = &at_once[&logits][at];
                if shared && !same_bits(found, wanted) {
                    return Err(format!("{place} depend on what is cached"));
                }
                let wanted: Vec<f64> = wanted.iter().map(|&x| f64::from(x)).collect();
                compare(&place, found, &wanted, 2.0 * self.tolerance, 0.0)?;
            }
        }
        Ok(())
    }
}
