//! Divides what is left to be chosen into parts that do not touch: the choice
//! in one changes neither what another costs nor whether it has a cycle.

use super::Problem;
use super::reduce::Reduced;
use std::ops::Range;

/// A way to compute a class of a part.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// The class, by its place in the part.
    pub class: usize,
    /// Its operands that belong to the part, each once.
    pub operands: Vec<usize>,
    /// Its number among the class's candidates.
    pub number: usize,
}

/// Classes that have to be chosen together. *Payers* are bindings, all those
/// in one that need the same classes of this part: they always pay together.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The classes, by their numbers in the problem.
    pub classes: Vec<usize>,
    /// Their forms, class by class.
    pub forms: Vec<Form>,
    /// Where each class's forms are.
    pub forms_of: Vec<Range<usize>>,
    /// The forms that have each class as an operand.
    pub users: Vec<Vec<usize>>,
    /// Only classes with the same number can be part of a cycle together.
    pub cycles: Vec<usize>,
    /// What each payer needs under every choice.
    pub roots: Vec<Vec<usize>>,
    /// Cost of each form for each payer.
    pub costs: Vec<Vec<f64>>,
    /// The payer that needs whatever any other needs.
    pub everything: usize,
}

impl Part {
    /// How many classes have more than one form.
    pub fn choices(&self) -> usize {
        self.forms_of.iter().filter(|forms| forms.len() > 1).count()
    }

    /// The form of a class if only one is allowed.
    pub fn single(&self, class: usize, allowed: &[bool]) -> Option<usize> {
        let mut forms = self.forms_of[class].clone().filter(|&form| allowed[form]);
        forms.next().filter(|_| forms.next().is_none())
    }

    /// For each payer the classes that it needs if only these forms are allowed.
    pub fn surely_used(&self, allowed: &[bool]) -> Vec<Vec<bool>> {
        let of_payer = |roots: &Vec<usize>| {
            let mut used = vec![false; self.classes.len()];
            let mut waiting = roots.clone();
            while let Some(class) = waiting.pop() {
                if !std::mem::replace(&mut used[class], true)
                    && let Some(form) = self.single(class, allowed)
                {
                    waiting.extend(&self.forms[form].operands);
                }
            }
            used
        };
        self.roots.iter().map(of_payer).collect()
    }

    /// The cost of a form for all payers together.
    pub fn total(&self, form: usize) -> f64 {
        self.costs.iter().fold(0.0, |sum, costs| sum + costs[form])
    }
}

/// A problem in parts.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// What is paid whatever is chosen.
    pub base: f64,
    /// Classes that have one form and belong to no part, with its number.
    pub fixed: Vec<(usize, usize)>,
    /// The parts.
    pub parts: Vec<Part>,
}

/// Divides a problem, with a cost for each new node.
pub(super) fn divide(problem: &Problem, reduced: &Reduced, penalty: f64) -> Parts {
    let count = problem.classes.len();
    let last = problem.roots.len();
    let there = |class: &usize| reduced.usable[last][*class];
    let optional: Vec<bool> = (0..count)
        .map(|class| (0..=last).any(|b| reduced.usable[b][class] && !reduced.needed[b][class]))
        .collect();
    let cycles = cycles(problem, reduced);
    let mut members = vec![0usize; count];
    cycles.iter().for_each(|&cycle| members[cycle] += 1);
    let in_part =
        |class: usize| optional[class] || reduced.forms[class].len() > 1 || members[cycles[class]] > 1;
    let mut groups = Groups((0..count).collect());
    for class in (0..count).filter(there).filter(|&class| in_part(class)) {
        groups.join(class, cycles[class]);
        for operand in operands(problem, reduced, class).filter(|&operand| optional[operand]) {
            groups.join(class, operand);
        }
    }

    // What a form of a class costs in a binding, the last of which is that of new nodes.
    let price = |binding: usize, class: usize, number: usize| {
        let candidate = &problem.classes[class][number];
        match problem.factors.get(binding) {
            Some(factor) => candidate.costs[binding] * factor,
            None if candidate.original => 0.0,
            None => penalty,
        }
    };
    let mut divided = Parts { base: 0.0, fixed: Vec::new(), parts: Vec::new() };
    let mut part_of: Vec<Option<usize>> = vec![None; count];
    let mut place = vec![0usize; count];
    let mut lists: Vec<Vec<usize>> = Vec::new();
    for class in (0..count).filter(there) {
        if !in_part(class) {
            for &number in &reduced.forms[class] {
                divided.fixed.push((class, number));
                let paying = (0..=last).filter(|&binding| reduced.needed[binding][class]);
                divided.base += paying.fold(0.0, |sum, binding| sum + price(binding, class, number));
            }
            continue;
        }
        let leader = groups.leader(class);
        let part = *part_of[leader].get_or_insert_with(|| {
            lists.push(Vec::new());
            lists.len() - 1
        });
        place[class] = lists[part].len();
        lists[part].push(class);
    }
    for classes in lists {
        let leader = groups.leader(classes[0]);
        let mut forms = Vec::new();
        let mut forms_of = Vec::new();
        for (local, &class) in classes.iter().enumerate() {
            let first = forms.len();
            for &number in &reduced.forms[class] {
                let operands = problem.classes[class][number].operands.iter();
                let inside =
                    operands.filter(|&&operand| in_part(operand) && groups.leader(operand) == leader);
                let mut operands: Vec<usize> = inside.map(|&operand| place[operand]).collect();
                operands.sort_unstable();
                operands.dedup();
                forms.push(Form { class: local, operands, number });
            }
            forms_of.push(first..forms.len());
        }
        let mut users = vec![Vec::new(); classes.len()];
        for (number, form) in forms.iter().enumerate() {
            form.operands.iter().for_each(|&operand| users[operand].push(number));
        }
        let mut roots: Vec<Vec<usize>> = Vec::new();
        let mut costs: Vec<Vec<f64>> = Vec::new();
        let mut everything = 0;
        for binding in 0..=last {
            let needed: Vec<usize> =
                (0..classes.len()).filter(|&local| reduced.needed[binding][classes[local]]).collect();
            let pays = problem.factors.get(binding).is_none_or(|&factor| factor > 0.0);
            if needed.is_empty() || !pays {
                continue;
            }
            let prices = forms.iter().map(|form| price(binding, classes[form.class], form.number));
            everything = match roots.iter().position(|roots| *roots == needed) {
                Some(payer) => {
                    costs[payer].iter_mut().zip(prices).for_each(|(cost, price)| *cost += price);
                    payer
                }
                None => {
                    roots.push(needed);
                    costs.push(prices.collect());
                    roots.len() - 1
                }
            };
        }
        let cycles = classes.iter().map(|&class| cycles[class]).collect();
        divided.parts.push(Part { classes, forms, forms_of, users, cycles, roots, costs, everything });
    }
    divided
}

fn operands<'a>(
    problem: &'a Problem,
    reduced: &'a Reduced,
    class: usize,
) -> impl Iterator<Item = usize> + 'a {
    let candidates = reduced.forms[class].iter().map(move |&number| &problem.classes[class][number]);
    candidates.flat_map(|candidate| candidate.operands.iter().copied())
}

/// Classes in groups that grow together, each with a leader.
struct Groups(Vec<usize>);

impl Groups {
    fn leader(&mut self, mut class: usize) -> usize {
        while self.0[class] != class {
            self.0[class] = self.0[self.0[class]];
            class = self.0[class];
        }
        class
    }

    fn join(&mut self, one: usize, two: usize) {
        let (one, two) = (self.leader(one), self.leader(two));
        self.0[one.max(two)] = one.min(two);
    }
}

/// The strongly connected components of all forms (Tarjan, 1972), by one of their classes.
fn cycles(problem: &Problem, reduced: &Reduced) -> Vec<usize> {
    let count = problem.classes.len();
    let mut component: Vec<usize> = (0..count).collect();
    let mut index = vec![usize::MAX; count];
    let mut low = vec![0usize; count];
    let mut open = vec![false; count];
    let mut path = Vec::new();
    let mut next = 0;
    for first in 0..count {
        if index[first] != usize::MAX {
            continue;
        }
        let mut stack: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut enter = Some(first);
        loop {
            if let Some(class) = enter.take() {
                index[class] = next;
                low[class] = next;
                next += 1;
                open[class] = true;
                path.push(class);
                stack.push((class, operands(problem, reduced, class).collect()));
            }
            let Some((class, below)) = stack.last_mut() else { break };
            let class = *class;
            match below.pop() {
                Some(operand) if index[operand] == usize::MAX => enter = Some(operand),
                Some(operand) if open[operand] => low[class] = low[class].min(index[operand]),
                Some(_) => {}
                None => {
                    stack.pop();
                    if let Some((above, _)) = stack.last() {
                        low[*above] = low[*above].min(low[class]);
                    }
                    if low[class] == index[class] {
                        while let Some(member) = path.pop() {
                            open[member] = false;
                            component[member] = class;
                            if member == class {
                                break;
                            }
                        }
                    }
                }
            }
        }
    }
    component
}
