//! Choices made from the bottom up, each class taking the form that is cheapest
//! with all of its operands' own: fast, and blind to what is shared.

use super::parts::Part;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A form for each class of a part that can be computed.
pub(super) type PartChoice = Vec<Option<usize>>;

/// First what is left of costs, then the costs themselves.
pub(super) type Weight = (f64, f64);

/// A form whose operands are all there, with the weight of all that it needs: the greatest is the cheapest.
pub(super) struct Cheapest {
    pub weight: Weight,
    pub form: usize,
}

impl Ord for Cheapest {
    fn cmp(&self, other: &Cheapest) -> Ordering {
        (other.weight.0.total_cmp(&self.weight.0))
            .then(other.weight.1.total_cmp(&self.weight.1))
            .then(other.form.cmp(&self.form))
    }
}

impl PartialOrd for Cheapest {
    fn partial_cmp(&self, other: &Cheapest) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cheapest {
    fn eq(&self, other: &Cheapest) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cheapest {}

/// Chooses for each class the form whose weight, with those of all that its
/// operands need (what is shared counted again), is least; it has no cycle.
/// (Knuth's generalization of Dijkstra's algorithm, 1977.)
pub(super) fn derive(part: &Part, allowed: &[bool], weight: &dyn Fn(usize) -> Weight) -> PartChoice {
    let mut missing: Vec<usize> = part.forms.iter().map(|form| form.operands.len()).collect();
    let mut sums: Vec<Weight> = (0..part.forms.len()).map(weight).collect();
    let mut choice: PartChoice = vec![None; part.classes.len()];
    let ready = (0..part.forms.len()).filter(|&form| allowed[form] && missing[form] == 0);
    let mut heap: BinaryHeap<Cheapest> = ready.map(|form| Cheapest { weight: sums[form], form }).collect();
    while let Some(Cheapest { weight, form }) = heap.pop() {
        let class = part.forms[form].class;
        if choice[class].is_some() {
            continue;
        }
        choice[class] = Some(form);
        for &user in &part.users[class] {
            sums[user] = (sums[user].0 + weight.0, sums[user].1 + weight.1);
            missing[user] -= 1;
            if missing[user] == 0 && allowed[user] {
                heap.push(Cheapest { weight: sums[user], form: user });
            }
        }
    }
    choice
}
