//! Extraction against plain enumeration on random graphs.

use super::*;

/// A generator of random numbers (Knuth's MMIX), enough to make graphs.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % most.max(1)
    }
}

/// A graph whose classes may need any others, cycles or not; each class has an
/// original that needs only earlier classes.
fn random_problem(random: &mut Random, classes: usize, choices: usize) -> Problem {
    let bindings = 1 + random.below(3);
    let mut problem = Problem {
        classes: Vec::new(),
        roots: Vec::new(),
        kept: Vec::new(),
        factors: (0..bindings).map(|_| random.below(5) as f64).collect(),
        original: vec![Some(0); classes],
    };
    let cyclic = random.below(2) == 0;
    let mut with_choice = vec![false; classes];
    for _ in 0..choices {
        with_choice[random.below(classes)] = true;
    }
    for (class, &with_choice) in with_choice.iter().enumerate() {
        let count = if with_choice { 2 + random.below(3) } else { 1 };
        let candidates = (0..count).map(|number| {
            let range = if number > 0 && cyclic { classes } else { class };
            let arity = if range == 0 { 0 } else { random.below(4) };
            Candidate {
                operands: (0..arity).map(|_| random.below(range)).collect(),
                costs: (0..bindings).map(|_| random.below(8) as f64).collect(),
                original: number == 0 || random.below(3) == 0,
            }
        });
        let candidates = candidates.collect();
        problem.classes.push(candidates);
    }
    for _ in 0..bindings {
        let count = random.below(3);
        problem.roots.push((0..count).map(|_| classes - 1 - random.below(classes.min(4))).collect());
    }
    problem.kept = vec![classes - 1];
    problem
}

/// The least joint cost of all choices, one after the other.
fn least(problem: &Problem, penalty: f64) -> f64 {
    let mut choice: Choice = vec![Some(0); problem.classes.len()];
    let mut least = f64::INFINITY;
    loop {
        if let Some(cost) = joint(problem, &choice, penalty) {
            least = least.min(cost);
        }
        let more = |class: &usize| choice[*class].is_some_and(|n| n + 1 < problem.classes[*class].len());
        let Some(next) = (0..choice.len()).find(more) else { return least };
        choice[..next].fill(Some(0));
        choice[next] = choice[next].map(|number| number + 1);
    }
}

#[test]
fn small_problems_are_solved_exactly() {
    let mut random = Random(4);
    let (mut changed, mut conflicts) = (0, 0);
    for case in 0..600 {
        let classes = 4 + random.below(14);
        let choices = 1 + random.below(9);
        let problem = random_problem(&mut random, classes, choices);
        let found = extract(&problem);
        let start = joint(&problem, &problem.original, 0.0).expect("originals have no cycle");
        let penalty = start * WORTH_IT;
        let best = least(&problem, penalty);
        let cost = joint(&problem, &found.choice, penalty).expect("a choice without cycles");
        assert!(
            (cost - best).abs() <= 1e-9 * best,
            "case {case}: {cost}, but {best} is possible\n{problem:?}"
        );
        let least = least(&problem, 0.0);
        assert!(found.lower_bound <= least, "case {case}: bound {} above {least}", found.lower_bound);
        assert!(found.lower_bound >= least * (1.0 - 1e-8), "case {case}: {} for {least}", found.lower_bound);
        assert_eq!(Some(found.cost), joint(&problem, &found.choice, 0.0), "case {case}");
        changed += usize::from(best < start * (1.0 - 1e-9));
        // What each binding would choose alone costs less in sum than what they choose together.
        let alone: f64 = (0..problem.factors.len())
            .map(|binding| {
                let mut factors = vec![0.0; problem.factors.len()];
                factors[binding] = problem.factors[binding];
                self::least(&Problem { factors, ..problem.clone() }, 0.0)
            })
            .sum();
        conflicts += usize::from(alone < least * (1.0 - 1e-9));
    }
    assert!(changed > 300, "only {changed} of 600 graphs have a better form");
    assert!(conflicts > 30, "only {conflicts} of 600 graphs have bindings that want different forms");
}
