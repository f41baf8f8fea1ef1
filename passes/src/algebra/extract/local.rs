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
    loop {
        let mut changed = false;
        for class in 0..part.classes.len() {
            for form in part.forms_of[class].clone() {
                if out_of_work(&usage, budget) {
                    break;
                }
                if usage.is_used(class) && usage.choice()[class] != Some(form) {
                    changed |= attempt(part, &mut usage, form);
                }
            }
        }
        if !changed || *budget == 0 {
            // Counted anew: sums and differences have errors of rounding.
            let choice = usage.choice().clone();
            return Some((Usage::new(part, &choice)?.cost(), choice));
        }
    }
}

/// Switches to a form, and then each class that it brought into use to its best one. Whether that is cheaper; if not,
/// nothing is changed.
fn attempt(part: &Part, usage: &mut Usage, form: usize) -> bool {
    let before = usage.cost();
    let falls = |usage: &Usage, from: f64| usage.cost() < from - from.abs() * ROUNDING;
    let Some(old) = usage.choice()[part.forms[form].class] else { return false };
    if !usage.switch(form) {
        return false;
    }
    let mut undo = vec![old];
    if !falls(usage, before) {
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
