//! The forms that a program's entries can take: one for all of them, whose bits
//! are then the same in all, or one for each. What entries must agree on in any case is
//! what each `history` keeps, since prefill and decode share the caches: so
//! for each set of values that may be kept there is a form. Which is the fastest once it is
//! fused and scheduled, the caller finds out.

use super::cost::Binding;
use super::region::{Kept, Wanted};
use super::rules::keeping;
use super::space::{Chosen, Space};
use super::{AlgebraError, AlgebraReport, Objective, RegionSeconds};
use diptych_ir::{EntryKind, Program, text};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How far entries may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Numerics {
    /// Not by a bit: a form is chosen for all entries or for none.
    #[default]
    Same,
    /// In rounding: each entry takes its own form.
    Fast,
}

/// What some entries are compiled from.
#[derive(Clone, Debug)]
pub struct Part {
    /// The entries.
    pub entries: Vec<EntryKind>,
    /// Their program: these entries and no other.
    pub program: Program,
    /// What was done to it.
    pub report: AlgebraReport,
}

/// A form of a whole program.
#[derive(Clone, Debug)]
pub struct Form {
    /// Its programs: one for all entries, or one for each group of them.
    pub parts: Vec<Part>,
    /// What the caches keep, for people to read.
    pub keeps: Vec<String>,
    /// Seconds of a run of each binding of the objective, in the additive model.
    pub seconds: Vec<f64>,
}

impl Form {
    /// Whether all entries have the same form, and so the same bits.
    pub fn is_shared(&self) -> bool {
        self.parts.len() < 2
    }

    /// The text of its programs: forms are the same if that is.
    pub fn printed(&self) -> Vec<String> {
        self.parts.iter().map(|part| text::print(&part.program)).collect()
    }
}

/// Entries that share a form even where each may have its own: what training computes is what is scored.
const GROUPS: [&[EntryKind]; 3] = [
    &[EntryKind::Train, EntryKind::Accumulate, EntryKind::Update, EntryKind::Score],
    &[EntryKind::Prefill],
    &[EntryKind::Decode],
];

/// The forms of a program.
#[derive(Clone, Debug)]
pub struct Forms {
    /// Each once, that with the least cost in the additive model first.
    pub forms: Vec<Form>,
    /// What finding them took, by region.
    pub seconds: Vec<RegionSeconds>,
}

/// The forms of a forward graph, before it is differentiated, that may be the best, each once: that with the least
/// cost in the additive model first. What is computed once for all positions and once for the last alone,
/// such as the logits, keeps its form in both. Training is charged three passes over each op, two of them for gradients.
///
/// # Errors
/// When the objective lacks a size, or when the program is malformed.
pub fn forms(program: &Program, objective: &Objective, numerics: Numerics) -> Result<Forms, AlgebraError> {
    let frozen = vec![Default::default(); program.regions.len()];
    let space = Space::saturate(program, objective, &keeping(objective.class), frozen, 3.0)?;
    forms_in(&space, numerics)
}

/// As [`forms`], of a program that is saturated.
pub(super) fn forms_in(space: &Space, numerics: Numerics) -> Result<Forms, AlgebraError> {
    let objective = space.objective;
    let entries = &space.program.entries;
    let search = Search { space, all: entries.iter().map(|entry| entry.kind).collect() };
    let (mut found, mut known): (Vec<Form>, _) = (Vec::new(), HashSet::new());
    let mut add = |form: Form| {
        if known.insert(form.printed()) {
            found.push(form);
        }
    };
    let aims = search.aims();
    // What training computes depends on no cache.
    let trained = match numerics {
        Numerics::Same => Vec::new(),
        Numerics::Fast => search.of_group(GROUPS[0], None),
    };
    for kept in search.kept_sets() {
        for aim in &aims {
            if let Some(form) = search.shared(&kept, aim)? {
                add(form);
            }
        }
        if numerics == Numerics::Fast {
            search.apart(&kept, &trained)?.into_iter().for_each(&mut add);
        }
    }
    found.sort_by(|a, b| objective.total(&a.seconds).total_cmp(&objective.total(&b.seconds)));
    Ok(Forms { forms: found, seconds: space.spent() })
}

/// The form with the least cost in the additive model, the same for all entries.
///
/// # Errors
/// As of [`forms`].
pub fn optimize_forward(
    program: &Program,
    objective: &Objective,
) -> Result<(Program, AlgebraReport), AlgebraError> {
    let part = forms(program, objective, Numerics::Same)?.forms.into_iter().next();
    let part = part.and_then(|form| form.parts.into_iter().next());
    Ok(part.map_or_else(|| (program.clone(), AlgebraReport::default()), |part| (part.program, part.report)))
}

/// How much more is trained than served where training decides.
const MUCH: f64 = 1e4;

struct Search<'a> {
    space: &'a Space<'a>,
    /// The program's entries.
    all: Vec<EntryKind>,
}

impl Search<'_> {
    /// Weights of the bindings for which forms are looked for: all of them, those that train, and those that serve.
    /// A form that is best for one of these alone may be the best for all once it is fused, which the additive model does
    /// not see; and only if it is looked at can the choice for all never cost more.
    fn aims(&self) -> Vec<Vec<f64>> {
        let mut aims: Vec<Vec<f64>> = Vec::new();
        let counts: [&dyn Fn(EntryKind) -> bool; 3] = [&|_| true, &EntryKind::trains, &|kind| !kind.trains()];
        for factors in counts.map(|counts| self.weights(counts)).into_iter().flatten() {
            if !aims.contains(&factors) {
                aims.push(factors);
            }
        }
        aims
    }

    /// One for each binding that counts and is run at all, and zero for others; `None` if there is none that does.
    fn weights(&self, counts: &dyn Fn(EntryKind) -> bool) -> Option<Vec<f64>> {
        let weight = |binding: &Binding| {
            if counts(binding.entry) && binding.runs() > 0.0 { 1.0 } else { 0.0 }
        };
        let weights: Vec<f64> = self.space.objective.bindings.iter().map(weight).collect();
        weights.contains(&1.0).then_some(weights)
    }

    /// What the caches may keep: what the graph keeps as it was written, and what is best for all entries
    /// together, as they are weighed or with much more training, for those that serve, and for each of these.
    fn kept_sets(&self) -> BTreeSet<BTreeSet<Kept>> {
        let bindings = &self.space.objective.bindings;
        // Training alone does not say which of two values that cost it the same should be kept.
        let mostly_trained = |mut weights: Vec<f64>| {
            for (weight, binding) in weights.iter_mut().zip(bindings) {
                *weight /= if binding.entry.cached() { MUCH } else { 1.0 };
            }
            weights
        };
        let everything = self.weights(&|_| true);
        let mut factors = vec![everything.clone().map(mostly_trained), everything];
        let each = [EntryKind::Prefill, EntryKind::Decode];
        factors.push(self.weights(&EntryKind::cached));
        factors.extend(each.map(|kind| self.weights(&|entry| entry == kind)));
        let wanted = |factors| Wanted { factors, entries: &self.all, histories: None, without: None };
        let best = factors.iter().flatten().map(|factors| self.space.choose(wanted(factors)));
        let mut chosen: Vec<Chosen> = best.collect();
        let all = vec![1.0; self.space.objective.bindings.len()];
        chosen.push(self.space.as_written(wanted(&all)));
        chosen.iter().map(|chosen| self.kept(chosen)).collect()
    }

    /// What a choice keeps for the entries that serve.
    fn kept(&self, chosen: &Chosen) -> BTreeSet<Kept> {
        let cached = self.all.iter().filter(|kind| kind.cached());
        cached.flat_map(|&kind| self.space.histories(chosen, kind)).collect()
    }

    /// The best form that is the same for all entries, by these weights.
    fn shared(&self, kept: &BTreeSet<Kept>, factors: &[f64]) -> Result<Option<Form>, AlgebraError> {
        let wanted = Wanted { factors, entries: &self.all, histories: Some(kept), without: None };
        let Some(chosen) = self.space.choose_within(wanted) else { return Ok(None) };
        let rooms = numbered(&self.kept(&chosen));
        let (program, report) = self.space.rebuild(&chosen, &self.all, &rooms)?;
        let part = Part { entries: self.all.clone(), program, report };
        Ok(Some(Form {
            parts: vec![part],
            keeps: rooms.keys().map(|kept| self.space.describe(kept)).collect(),
            seconds: self.space.costs(&chosen),
        }))
    }

    /// The forms in which each group of entries has one that is best for it, with what may be the best for training.
    fn apart(&self, kept: &BTreeSet<Kept>, trained: &[Chosen]) -> Result<Vec<Form>, AlgebraError> {
        let bindings = &self.space.objective.bindings;
        let rooms = numbered(kept);
        let keeps = kept.iter().map(|kept| self.space.describe(kept)).collect();
        let mut forms = vec![Form { parts: Vec::new(), keeps, seconds: vec![0.0; bindings.len()] }];
        for group in GROUPS {
            let entries = self.present(group);
            if entries.is_empty() {
                continue;
            }
            let own;
            let choices = match group.iter().any(|kind| kind.cached()) {
                true => {
                    own = self.of_group(group, Some(kept));
                    &own
                }
                false => trained,
            };
            let mut longer = Vec::new();
            for chosen in choices {
                let (program, report) = self.space.rebuild(chosen, &entries, &rooms)?;
                let part = Part { entries: entries.clone(), program, report };
                let seconds = self.space.costs(chosen);
                for form in &forms {
                    let mut form = form.clone();
                    for (index, _) in bindings.iter().enumerate().filter(|(_, b)| group.contains(&b.entry)) {
                        form.seconds[index] = seconds[index];
                    }
                    form.parts.push(part.clone());
                    longer.push(form);
                }
            }
            forms = longer;
        }
        Ok(forms)
    }

    /// The entries of a group that the program has.
    fn present(&self, group: &[EntryKind]) -> Vec<EntryKind> {
        self.all.iter().copied().filter(|kind| group.contains(kind)).collect()
    }

    /// What may be the best for a group of entries alone; nothing if they cannot keep this. Those that keep nothing may stay
    /// as they were written as well: fusion may have more use of that than the additive model sees.
    fn of_group(&self, group: &[EntryKind], kept: Option<&BTreeSet<Kept>>) -> Vec<Chosen> {
        let own = |binding: &Binding| if group.contains(&binding.entry) { 1.0 } else { 0.0 };
        let factors: Vec<f64> = self.space.objective.bindings.iter().map(own).collect();
        let entries = self.present(group);
        let wanted = Wanted { factors: &factors, entries: &entries, histories: kept, without: None };
        let mut choices: Vec<Chosen> = self.space.choose_within(wanted).into_iter().collect();
        match kept {
            Some(kept) => choices
                .retain(|chosen| entries.iter().all(|&kind| self.space.histories(chosen, kind) == *kept)),
            None => choices.push(self.space.as_written(wanted)),
        }
        choices
    }
}

fn numbered(kept: &BTreeSet<Kept>) -> BTreeMap<Kept, usize> {
    kept.iter().cloned().enumerate().map(|(room, kept)| (kept, room)).collect()
}
