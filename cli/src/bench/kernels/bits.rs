//! Whether a token's logits have the same bits from scoring, from prompts and from decoding, whatever the batch. The
//! lengths of texts lie on both sides of the edges of chunks.

use super::changed;
use super::check::{Check, MODELS, Measure};
use crate::bench::SEED;
use crate::failure::{Failure, Result};
use crate::objective::ObjectiveConfig;
use crate::output::tell;
use diptych_ir::{DType, EntryKind, NodeId, Program, Symbol};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{SERVING, SequenceId, ServeOptions, Server, Window};
use diptych_runtime::sampling::random_bits;
use diptych_runtime::session::{Device, Session};
use serde_json::json;

/// Lengths of the texts: a batch has the first so many.
const LENGTHS: [usize; 9] = [70, 3, 65, 37, 68, 9, 66, 17, 33];
/// Positions of a sequence.
const CONTEXT: usize = 128;
/// Tokens of each text that are decoded one by one after the others.
const DECODED: usize = 2;
/// The root of scoring that has the logits of all tokens.
const LOGITS: &str = "all_logits";

/// Compares the bits of each model.
///
/// # Errors
/// When a model cannot be compiled, or the device fails.
pub fn run(registry: &Registry, device: &Device, small: bool) -> Result<Vec<Check>> {
    let batches: &[usize] = if small { &[1, 9] } else { &[1, 2, 3, 4, 5, 6, 7, 8, 9] };
    let mut checks = Vec::new();
    let chosen = MODELS.into_iter().filter(|model| !small || *model == ("llama-tiny", "bf16"));
    for (preset, dtype) in chosen {
        tell(format!("bits of {preset} in {dtype}"));
        let fields = json!({ "dtype": dtype, "context": CONTEXT, "standard_deviation": 0.2 });
        let architecture = changed(registry, preset, fields)?;
        let program = with_logits(&build(&*architecture)?)?;
        let config = ObjectiveConfig::default();
        let objective = config.objective(CONTEXT, 1, CONTEXT)?;
        let rewritten = config.rewrite(&program, objective, device.options())?.with_same_bits()?;
        let optimizer = AdamWOptions::default();
        let mut session = Session::compile_rewritten(device, &rewritten, CONTEXT, &SERVING, &optimizer)?;
        for &name in program.params.keys() {
            session.store.set(name, &initialize(&program, name.as_str(), SEED)?)?;
        }
        let rows = LENGTHS.iter().sum();
        let room = ServeOptions {
            rows,
            batch: LENGTHS.len(),
            sequences: LENGTHS.len(),
            cache_positions: LENGTHS.len() * CONTEXT,
        };
        let mut bench =
            Bits { server: Server::new(device, &session, room)?, texts: texts(architecture.vocab()) };
        let mut alone = Vec::new();
        for text in 0..LENGTHS.len() {
            alone.push(bench.scored(&[text])?.remove(0));
        }
        let mut differ = [0; 3];
        for &batch in batches {
            // Other texts come first each time.
            let chosen: Vec<usize> = (0..batch).map(|at| (at + batch) % LENGTHS.len()).collect();
            for (scored, &text) in bench.scored(&chosen)?.iter().zip(&chosen) {
                differ[0] += usize::from(*scored != alone[text]);
            }
            let [prefilled, decoded] = bench.served(&chosen, &alone)?;
            differ[1] += prefilled;
            differ[2] += decoded;
        }
        let numbers: Vec<String> = batches.iter().map(usize::to_string).collect();
        let entries = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
        checks.extend(entries.into_iter().zip(differ).map(|(entry, differ)| Check {
            model: preset.to_owned(),
            dtype,
            what: format!("{}, bits in batches of {}", entry.name(), numbers.join(", ")),
            measure: Measure::Differing,
            found: differ as f64,
            allowed: 0.0,
        }));
    }
    Ok(checks)
}

/// The same program, whose scoring also gives the logits of all tokens.
fn with_logits(program: &Program) -> Result<Program> {
    let mut program = program.clone();
    let node = logits(&program).ok_or_else(|| Failure::new("no logits are found in the model"))?;
    for entry in program.entries.iter_mut().filter(|entry| entry.kind == EntryKind::Score) {
        entry.roots.push((Symbol::new(LOGITS), node));
    }
    let results = &mut program.regions[0].results;
    if !results.contains(&node) {
        results.push(node);
    }
    Ok(program)
}

/// The logits of all tokens: what the log-probability is computed from that has the vocabulary's axis.
fn logits(program: &Program) -> Option<NodeId> {
    let graph = &program.main().graph;
    let last = program.entry(EntryKind::Prefill)?.root("logits")?;
    let vocabulary = graph.axes(last).iter().copied().find(|axis| axis.fixed_size().is_some())?;
    let log_prob = program.entry(EntryKind::Score)?.root("log_prob")?;
    graph.ancestors(&[log_prob]).into_iter().find(|&id| {
        let axes = graph.axes(id);
        axes.contains(vocabulary) && axes.len() == 3 && graph.ty(id).dtype == DType::F32
    })
}

fn texts(vocabulary: usize) -> Vec<Vec<i32>> {
    let token = |text: usize, at: usize| (random_bits(text as u64, at as u64) % vocabulary as u64) as i32;
    let text = |(text, &length): (usize, &usize)| (0..length).map(|at| token(text, at)).collect();
    LENGTHS.iter().enumerate().map(text).collect()
}

struct Bits<'s> {
    server: Server<'s>,
    texts: Vec<Vec<i32>>,
}

impl Bits<'_> {
    /// The logits of all tokens of some texts, scored together, as bits.
    fn scored(&mut self, chosen: &[usize]) -> Result<Vec<Vec<u32>>> {
        let windows: Vec<Window> = chosen
            .iter()
            .map(|&text| Window { tokens: &self.texts[text], targets: &self.texts[text] })
            .collect();
        self.server.score(&windows, &mut Vec::new())?;
        let vocabulary = self.server.vocabulary();
        let score = self.server.executable(EntryKind::Score);
        let all = score.as_ref().and_then(|score| score.root(LOGITS));
        let all = all.ok_or_else(|| Failure::new("scoring gave no logits"))?;
        let mut start = 0;
        let rows = chosen.iter().map(|&text| {
            let end = start + LENGTHS[text] * vocabulary;
            let bits = all[start..end].iter().map(|number| number.to_bits()).collect();
            start = end;
            bits
        });
        Ok(rows.collect())
    }

    /// Of how many texts a prompt, and of how many tokens decoding, have other bits than scoring.
    fn served(&mut self, chosen: &[usize], alone: &[Vec<u32>]) -> Result<[usize; 2]> {
        let vocabulary = self.server.vocabulary();
        let of =
            |text: usize, position: usize| &alone[text][position * vocabulary..(position + 1) * vocabulary];
        let differs = |found: &[f32], text: usize, position: usize| {
            usize::from(!found.iter().map(|number| number.to_bits()).eq(of(text, position).iter().copied()))
        };
        let ids: Vec<SequenceId> =
            chosen.iter().map(|_| self.server.start()).collect::<std::result::Result<_, _>>()?;
        // The last tokens of some texts only, so that the batches of decoding have gaps.
        let first = |text: usize| LENGTHS[text] - 1 - text % (DECODED + 1);
        let prompts: Vec<(SequenceId, &[i32])> =
            ids.iter().zip(chosen).map(|(&id, &text)| (id, &self.texts[text][..first(text)])).collect();
        let (mut prefilled, mut decoded) = (0, 0);
        let found = self.server.prefill(&prompts)?;
        for (found, &text) in found.chunks(vocabulary).zip(chosen) {
            prefilled += differs(found, text, first(text) - 1);
        }
        for step in 0..=DECODED {
            let left: Vec<(usize, SequenceId)> = chosen
                .iter()
                .zip(&ids)
                .filter(|(text, _)| first(**text) + step < LENGTHS[**text])
                .map(|(&text, &id)| (text, id))
                .collect();
            let tokens: Vec<(SequenceId, i32)> =
                left.iter().map(|&(text, id)| (id, self.texts[text][first(text) + step])).collect();
            let found = self.server.decode(&tokens)?;
            for (found, &(text, _)) in found.chunks(vocabulary).zip(&left) {
                decoded += differs(found, text, first(text) + step);
            }
        }
        ids.into_iter().for_each(|id| self.server.release(id));
        Ok([prefilled, decoded])
    }
}
