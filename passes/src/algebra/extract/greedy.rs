//! Greedy over directed acyclic graphs: for each class the form whose whole set
//! of classes, each counted once, costs least. (What `extraction-gym` calls
//! faster greedy DAG.)

use super::derive::PartChoice;
use super::parts::Part;
use std::collections::BTreeSet;

struct Best {
    form: usize,
    total: f64,
    set: Vec<(usize, f64)>,
}

/// Chooses by a weight for each form. Within a form, what two operands share is counted once.
pub(super) fn greedy(part: &Part, weight: &dyn Fn(usize) -> f64) -> PartChoice {
    let mut best: Vec<Option<Best>> = (0..part.classes.len()).map(|_| None).collect();
    let mut waiting: BTreeSet<usize> = (0..part.classes.len()).collect();
    let mut stamps = vec![0usize; part.classes.len()];
    let mut stamp = 0;
    // Each class is looked at a bounded number of times, cycles of equal cost or not.
    let mut visits = part.classes.len() * 40;
    while let (Some(class), true) = (waiting.pop_first(), visits > 0) {
        visits -= 1;
        let mut improved = false;
        for form in part.forms_of[class].clone() {
            let operands = &part.forms[form].operands;
            if operands.iter().any(|&operand| best[operand].is_none()) {
                continue;
            }
            stamp += 1;
            let own = weight(form);
            let mut set = vec![(class, own)];
            let mut total = own;
            let mut cyclic = false;
            for part in operands.iter().filter_map(|&operand| best[operand].as_ref()) {
                for &(below, cost) in &part.set {
                    cyclic |= below == class;
                    if stamps[below] != stamp {
                        stamps[below] = stamp;
                        total += cost;
                        set.push((below, cost));
                    }
                }
            }
            let known = best[class].as_ref().map_or(f64::INFINITY, |best| best.total);
            if !cyclic && total < known * (1.0 - 1e-14) {
                best[class] = Some(Best { form, total, set });
                improved = true;
            }
        }
        if improved {
            waiting.extend(part.users[class].iter().map(|&form| part.forms[form].class));
        }
    }
    best.into_iter().map(|best| best.map(|best| best.form)).collect()
}
