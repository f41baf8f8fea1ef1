//! Local search in a part: one class takes another form, and the classes that
//! this brings into use take what suits them then; kept while the cost falls.

use super::derive::PartChoice;
use super::parts::Part;
use super::usage::Usage;

/// Less of a fall in cost than this part of it is the error of its rounding.
const ROUNDING: f64 = 1e-12;

/// Improves a choice until no change helps or the work is done, which is taken
/// off `budget`. `None` if the choice has a cycle or lacks a class.
pub(super) fn improve(part: &Part, start: &PartChoice, budget: &mut usize) -> Option<(f64, PartChoice)> {
    let mut usage = Usage::new(part, start)?;
    let mut spent = 0;
    let mut out_of_work = |usage: &Usage, budget: &mut usize| {
        *budget = budget.saturating_sub(usage.work() - spent);
        spent = usage.work();
        *budget == 0
    };
    // Changes of one class alone while any helps, then one pass of those of several.
    let mut together = false;
    loop {
        let mut changed = false;
        for class in 0..part.classes.len() {
            for form in part.forms_of[class].clone() {
                if out_of_work(&usage, budget) {
                    break;
                }
                if usage.is_used(class) && usage.choice()[class] != Some(form) {
                    changed |= attempt(part, &mut usage, form, together);
                }
            }
        }
        let done = together && !changed;
        together = !together && !changed;
        if done || *budget == 0 {
            // Counted anew: sums and differences have errors of rounding.
            let choice = usage.choice().clone();
            return Some((Usage::new(part, &choice)?.cost(), choice));
        }
    }
}

/// Switches to a form and, if `together`, then each class that it brought into use to its best one. Whether that is
/// cheaper; if not, nothing is changed.
fn attempt(part: &Part, usage: &mut Usage, form: usize, together: bool) -> bool {
    let before = usage.cost();
    let falls = |usage: &Usage, from: f64| usage.cost() < from - from.abs() * ROUNDING;
    let Some(old) = usage.choice()[part.forms[form].class] else { return false };
    if !usage.switch(form) {
        return false;
    }
    let mut undo = vec![old];
    if together && !falls(usage, before) {
        for class in usage.entered().to_vec() {
            for other in part.forms_of[class].clone() {
                let (cost, Some(old)) = (usage.cost(), usage.choice()[class]) else { continue };
                if other != old && usage.is_used(class) && usage.switch(other) {
                    if falls(usage, cost) {
                        undo.push(old);
                    } else {
                        usage.switch(old);
                    }
                }
            }
        }
    }
    if falls(usage, before) {
        return true;
    }
    while let Some(old) = undo.pop() {
        usage.switch(old);
    }
    false
}

/// Gives classes of a part the forms back that they had, one by one, where that costs no more; forms that were
/// reduced away cost more. `None` if the choice has a cycle or lacks a class.
pub(super) fn restore(part: &Part, choice: &PartChoice, original: &PartChoice) -> Option<PartChoice> {
    let mut usage = Usage::new(part, choice)?;
    let least = usage.cost();
    for (class, original) in original.iter().enumerate() {
        let (&Some(form), Some(before)) = (original, usage.choice()[class]) else { continue };
        if form != before
            && usage.is_used(class)
            && usage.switch(form)
            && usage.cost() > least + least * ROUNDING
        {
            usage.switch(before);
        }
    }
    Some(usage.choice().clone())
}

/// Numbers that look random and are the same everywhere (Knuth's generator for MMIX).
pub(super) struct Random(pub u64);

impl Random {
    /// A number below this one, which is not zero.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// How many classes take another form before local search starts again.
const SHAKEN: usize = 6;

/// A choice in which some classes that are used take other forms.
pub(super) fn shaken(part: &Part, choice: &PartChoice, random: &mut Random) -> PartChoice {
    let Some(mut usage) = Usage::new(part, choice) else { return choice.clone() };
    let mut left = SHAKEN;
    // Most classes may be unused: a bounded number is looked at.
    for _ in 0..part.classes.len() * SHAKEN {
        let class = random.below(part.classes.len());
        let forms = part.forms_of[class].clone();
        if left > 0 && usage.is_used(class) && forms.len() > 1 {
            left -= usize::from(usage.switch(forms.start + random.below(forms.len())));
        }
    }
    usage.choice().clone()
}
