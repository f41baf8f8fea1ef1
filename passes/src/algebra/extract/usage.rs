//! What a choice in a part uses and costs, kept up to date from one change to the next.

use super::derive::PartChoice;
use super::parts::Part;

/// A choice without cycles, how often each payer uses each class, and what they pay.
#[derive(Clone, Debug)]
pub(super) struct Usage<'a> {
    part: &'a Part,
    choice: PartChoice,
    /// For each payer and class: as a root, and by the chosen forms of classes in use.
    counts: Vec<Vec<u32>>,
    cost: f64,
    /// Classes and forms that were looked at.
    work: usize,
    /// Classes that the last change brought into use.
    entered: Vec<usize>,
}

impl<'a> Usage<'a> {
    /// `None` if the choice has a cycle, or lacks a class that one of its own forms or a payer needs.
    pub fn new(part: &'a Part, choice: &PartChoice) -> Option<Usage<'a>> {
        let mut usage = Usage {
            part,
            choice: choice.clone(),
            counts: vec![vec![0; part.classes.len()]; part.roots.len()],
            cost: 0.0,
            work: 0,
            entered: Vec::new(),
        };
        // 0: not seen, 1: being visited, 2: done. Classes that nothing uses are looked at too: they may come into use.
        let mut state = vec![0u8; part.classes.len()];
        for first in (0..part.classes.len()).filter(|&class| choice[class].is_some()) {
            let mut stack = vec![(first, 0usize)];
            while let Some((class, next)) = stack.pop() {
                if next == 0 && std::mem::replace(&mut state[class], 1) == 2 {
                    state[class] = 2;
                    continue;
                }
                match part.forms[choice[class]?].operands.get(next) {
                    Some(&operand) if state[operand] == 1 => return None,
                    Some(&operand) => {
                        stack.push((class, next + 1));
                        if state[operand] == 0 {
                            stack.push((operand, 0));
                        }
                    }
                    None => state[class] = 2,
                }
            }
        }
        for (payer, roots) in part.roots.iter().enumerate() {
            for &root in roots {
                choice[root]?;
                usage.add(payer, root);
            }
        }
        Some(usage)
    }

    pub fn choice(&self) -> &PartChoice {
        &self.choice
    }

    pub fn cost(&self) -> f64 {
        self.cost
    }

    pub fn work(&self) -> usize {
        self.work
    }

    /// Whether some payer uses a class.
    pub fn is_used(&self, class: usize) -> bool {
        self.counts.iter().any(|counts| counts[class] > 0)
    }

    /// The classes that the last change brought into use.
    pub fn entered(&self) -> &[usize] {
        &self.entered
    }

    /// Gives a class another form. `false`, and nothing is changed, if that would
    /// make a cycle or lacks an operand.
    pub fn switch(&mut self, form: usize) -> bool {
        let class = self.part.forms[form].class;
        let Some(before) = self.choice[class] else { return false };
        if !self.fits(form) {
            return false;
        }
        self.choice[class] = Some(form);
        self.entered.clear();
        for payer in 0..self.counts.len() {
            if self.counts[payer][class] > 0 {
                self.cost += self.part.costs[payer][form] - self.part.costs[payer][before];
                // What both need stays in use throughout.
                for at in 0..self.part.forms[form].operands.len() {
                    self.add(payer, self.part.forms[form].operands[at]);
                }
                for at in 0..self.part.forms[before].operands.len() {
                    self.remove(payer, self.part.forms[before].operands[at]);
                }
            }
        }
        true
    }

    /// Whether all operands of a form can be computed without its class.
    fn fits(&mut self, form: usize) -> bool {
        let part = self.part;
        let class = part.forms[form].class;
        let cycle = part.cycles[class];
        let mut waiting = Vec::new();
        let mut seen = Vec::new();
        for &operand in &part.forms[form].operands {
            if self.choice[operand].is_none() || operand == class {
                return false;
            }
            waiting.push(operand);
        }
        // Only classes of one component can be on a cycle.
        while let Some(below) = waiting.pop() {
            self.work += 1;
            if below == class {
                return false;
            }
            if part.cycles[below] == cycle
                && !seen.contains(&below)
                && let Some(form) = self.choice[below]
            {
                seen.push(below);
                waiting.extend(&part.forms[form].operands);
            }
        }
        true
    }

    fn add(&mut self, payer: usize, class: usize) {
        let mut waiting = vec![class];
        while let Some(class) = waiting.pop() {
            self.work += 1;
            self.counts[payer][class] += 1;
            if self.counts[payer][class] == 1
                && let Some(form) = self.choice[class]
            {
                self.cost += self.part.costs[payer][form];
                self.entered.push(class);
                waiting.extend(&self.part.forms[form].operands);
            }
        }
    }

    fn remove(&mut self, payer: usize, class: usize) {
        let mut waiting = vec![class];
        while let Some(class) = waiting.pop() {
            self.work += 1;
            self.counts[payer][class] -= 1;
            if self.counts[payer][class] == 0
                && let Some(form) = self.choice[class]
            {
                self.cost -= self.part.costs[payer][form];
                waiting.extend(&self.part.forms[form].operands);
            }
        }
    }
}
