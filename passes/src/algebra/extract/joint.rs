//! What a choice costs: each binding pays the classes that its own roots need,
//! each once. It chooses nothing.

use super::{Candidate, Choice, Problem};

/// Cost of each binding, in seconds a run; `None` if the choice has a cycle or lacks a class.
pub(in crate::algebra) fn costs(problem: &Problem, choice: &Choice) -> Option<Vec<f64>> {
    (0..problem.factors.len())
        .map(|binding| {
            let used = reach(problem, choice, &problem.roots[binding])?;
            let candidates = used.iter().filter_map(|&class| chosen(problem, choice, class));
            // From positive zero: the sum of nothing is otherwise a negative one.
            Some(candidates.fold(0.0, |sum, candidate| sum + candidate.costs[binding]))
        })
        .collect()
}

fn chosen<'a>(problem: &'a Problem, choice: &Choice, class: usize) -> Option<&'a Candidate> {
    choice[class].and_then(|number| problem.classes[class].get(number))
}

/// Cost of all bindings together, and `penalty` for each node that is new; `None` as for [`costs`].
pub(super) fn joint(problem: &Problem, choice: &Choice, penalty: f64) -> Option<f64> {
    let costs = costs(problem, choice)?;
    let all = reach(problem, choice, &everything(problem))?;
    let new =
        all.iter().filter(|&&class| chosen(problem, choice, class).is_some_and(|c| !c.original)).count();
    let sum = costs.iter().zip(&problem.factors).fold(0.0, |sum, (cost, factor)| sum + cost * factor);
    Some(sum + penalty * new as f64)
}

/// What must be there: the roots of all bindings, and what is kept.
pub(super) fn everything(problem: &Problem) -> Vec<usize> {
    problem.roots.iter().flatten().chain(&problem.kept).copied().collect()
}

/// The classes that these need under a choice, operands first; `None` if it has a cycle or lacks one.
pub(in crate::algebra) fn reach(problem: &Problem, choice: &Choice, roots: &[usize]) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    // 0: not seen, 1: being visited, 2: done.
    let mut state = vec![0u8; problem.classes.len()];
    for &root in roots {
        let mut stack = vec![(root, 0usize)];
        while let Some((class, next)) = stack.pop() {
            if next == 0 {
                match state[class] {
                    0 => state[class] = 1,
                    1 => return None,
                    _ => continue,
                }
            }
            let candidate = chosen(problem, choice, class)?;
            match candidate.operands.get(next) {
                Some(&operand) => {
                    stack.push((class, next + 1));
                    if state[operand] == 1 {
                        return None;
                    }
                    if state[operand] == 0 {
                        stack.push((operand, 0));
                    }
                }
                None => {
                    state[class] = 2;
                    order.push(class);
                }
            }
        }
    }
    Some(order)
}
