//! Extraction against plain enumeration on random graphs.

use super::local::Random;
use super::*;

fn candidate(operands: &[usize], costs: &[f64], original: bool) -> Candidate {
    Candidate { operands: operands.to_vec(), costs: costs.to_vec(), original }
}

/// A graph of classes some of which have a choice. The originals need only
/// earlier classes; of half the graphs, the other candidates need any.
fn random_problem(random: &mut Random, classes: usize, choices: usize, most: usize) -> Problem {
    let bindings = 1 + random.below(3);
    let cyclic = random.below(2) == 0;
    let mut with_choice = vec![false; classes];
    for _ in 0..choices {
        with_choice[random.below(classes)] = true;
    }
    let mut problem = Problem {
        classes: Vec::new(),
        roots: Vec::new(),
        kept: vec![classes - 1],
        factors: (0..bindings).map(|_| random.below(5) as f64).collect(),
        original: vec![Some(0); classes],
    };
    for (class, &with_choice) in with_choice.iter().enumerate() {
        let count = if with_choice { 2 + random.below(most - 1) } else { 1 };
        let candidates = (0..count).map(|number| {
            let range = if number > 0 && cyclic { classes } else { class };
            let arity = if range == 0 { 0 } else { random.below(4) };
            Candidate {
                operands: (0..arity).map(|_| random.below(range)).collect(),
                costs: (0..bindings).map(|_| random.below(8) as f64).collect(),
                original: number == 0 || random.below(3) == 0,
            }
        });
        problem.classes.push(candidates.collect());
    }
    for _ in 0..bindings {
        let count = random.below(3);
        problem.roots.push((0..count).map(|_| classes - 1 - random.below(classes.min(4))).collect());
    }
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

/// What the extraction of a problem costs with and without the price of new nodes, and the least of both.
fn check(problem: &Problem, case: usize) -> (f64, f64) {
    let found = extract(problem);
    let start = joint(problem, &problem.original, 0.0).expect("originals have no cycle");
    let penalty = start * WORTH_IT;
    let best = least(problem, penalty);
    let cost = joint(problem, &found.choice, penalty).expect("a choice without cycles");
    assert!((cost - best).abs() <= 1e-9 * best, "case {case}: {cost}, but {best} is possible\n{problem:?}");
    let least = least(problem, 0.0);
    assert!(found.lower_bound <= least, "case {case}: bound {} above {least}", found.lower_bound);
    assert!(found.lower_bound >= least * (1.0 - 1e-8), "case {case}: {} for {least}", found.lower_bound);
    assert_eq!(Some(found.cost), joint(problem, &found.choice, 0.0), "case {case}");
    (start, least)
}

#[test]
fn small_problems_are_solved_exactly() {
    let mut random = Random(4);
    let (mut changed, mut conflicts) = (0, 0);
    for case in 0..600 {
        let (classes, choices) = (4 + random.below(14), 1 + random.below(9));
        let problem = random_problem(&mut random, classes, choices, 4);
        let (start, best) = check(&problem, case);
        changed += usize::from(best < start * (1.0 - 1e-9));
        // What each binding would choose alone costs less in sum than what they choose together.
        let alone = |binding: usize| {
            let mut factors = vec![0.0; problem.factors.len()];
            factors[binding] = problem.factors[binding];
            least(&Problem { factors, ..problem.clone() }, 0.0)
        };
        let alone: f64 = (0..problem.factors.len()).map(alone).sum();
        conflicts += usize::from(alone < best * (1.0 - 1e-9));
    }
    assert!(changed > 200, "only {changed} of 600 graphs have a better form");
    assert!(conflicts > 30, "only {conflicts} of 600 graphs have bindings that want different forms");
}

#[test]
fn twelve_classes_with_a_choice_are_solved_exactly() {
    let mut random = Random(12);
    for case in 0..40 {
        let mut problem = random_problem(&mut random, 14, 0, 2);
        for class in 2..14 {
            let operands: Vec<usize> = (0..2).map(|_| random.below(14)).collect();
            let costs = problem.factors.iter().map(|_| random.below(8) as f64).collect();
            problem.classes[class].push(Candidate { operands, costs, original: false });
        }
        check(&problem, case);
    }
}

/// Layers of classes, each of whose forms needs up to two classes of the layer below.
fn layered(random: &mut Random, width: usize, depth: usize, bindings: usize) -> Problem {
    let count = width * depth;
    let mut problem = Problem {
        classes: Vec::new(),
        roots: Vec::new(),
        kept: Vec::new(),
        factors: vec![1.0; bindings],
        original: vec![Some(0); count],
    };
    for class in 0..count {
        let layer = class / width;
        let forms = (0..1 + random.below(4)).map(|number| Candidate {
            operands: match layer {
                0 => Vec::new(),
                _ => (0..1 + random.below(2)).map(|_| (layer - 1) * width + random.below(width)).collect(),
            },
            costs: (0..bindings).map(|_| (1 + random.below(100)) as f64).collect(),
            original: number == 0,
        });
        problem.classes.push(forms.collect());
    }
    for _ in 0..bindings {
        problem.roots.push((0..width / 3).map(|_| count - 1 - random.below(width)).collect());
    }
    problem
}

#[test]
fn large_problems_end_with_a_bound_and_the_same_choice_each_time() {
    let mut random = Random(77);
    let mut open = 0;
    for (width, depth, bindings) in [(20, 10, 1), (20, 10, 3), (40, 10, 1), (60, 12, 2)] {
        let problem = layered(&mut random, width, depth, bindings);
        let found = extract(&problem);
        assert_eq!(found.choice, extract(&problem).choice);
        assert_eq!(Some(found.cost), joint(&problem, &found.choice, 0.0));
        let start = joint(&problem, &problem.original, 0.0).expect("no cycle");
        assert!(found.cost < start * 0.8, "{} of {start}", found.cost);
        assert!(found.lower_bound > 0.0 && found.lower_bound <= found.cost);
        // With more work the bound rises, and the choice stays above it.
        let searched = search_bound(&problem, &found.choice, &mut within(10 * SEARCHING));
        assert!(searched >= found.lower_bound && searched <= found.cost * (1.0 + 1e-12), "{searched}");
        // Greedy by all costs, as each part begins its second search, is no better.
        let penalty = start * WORTH_IT;
        let reduced = reduce(&problem).expect("computable");
        let parts = divide(&problem, &reduced, penalty);
        let greedy = parts.parts.iter().fold(parts.base, |sum, part| {
            let choice = greedy::greedy(part, &|form| part.total(form));
            sum + usage::Usage::new(part, &choice).expect("no cycle").cost()
        });
        let cost = joint(&problem, &found.choice, penalty).expect("no cycle");
        assert!(cost <= greedy, "{cost}, but greedy finds {greedy}");
        open += usize::from(found.lower_bound < found.cost * 0.999);
    }
    assert!(open > 1, "all large problems are easy: they test no limit");
}

#[test]
fn a_form_that_costs_the_same_is_not_taken() {
    // Class 2 may be computed from class 0 or, at the same price, from class 1.
    let problem = Problem {
        classes: vec![
            vec![candidate(&[], &[1.0], true)],
            vec![candidate(&[], &[1.0], true)],
            vec![candidate(&[1], &[2.0], true), candidate(&[0], &[2.0], true)],
        ],
        roots: vec![vec![2]],
        kept: Vec::new(),
        factors: vec![1.0],
        original: vec![Some(0), Some(0), Some(1)],
    };
    assert_eq!(extract(&problem).choice[2], Some(1));
    let other = Problem { original: vec![Some(0), Some(0), Some(0)], ..problem };
    assert_eq!(extract(&other).choice[2], Some(0));
}

#[test]
fn a_graph_with_a_cycle_is_returned_as_it_was() {
    let problem = Problem {
        classes: vec![vec![candidate(&[1], &[1.0], true)], vec![candidate(&[0], &[1.0], true)]],
        roots: vec![vec![0]],
        kept: Vec::new(),
        factors: vec![1.0],
        original: vec![Some(0), Some(0)],
    };
    let found = extract(&problem);
    assert_eq!(found.choice, problem.original);
    assert!(found.cost.is_infinite() && found.lower_bound == 0.0);
}

#[test]
fn what_no_best_choice_needs_is_reduced_away() {
    let problem = Problem {
        classes: vec![
            vec![candidate(&[], &[1.0], true)],
            vec![candidate(&[0], &[1.0], true)],
            vec![
                candidate(&[1], &[2.0], true),
                // Dearer, from an operand that is there anyway.
                candidate(&[0], &[3.0], true),
                // Its operand cannot be computed without this class.
                candidate(&[3], &[0.0], true),
                candidate(&[], &[f64::INFINITY], true),
                // Cheaper, but of an operand that costs something.
                candidate(&[4], &[1.0], true),
            ],
            vec![candidate(&[2], &[0.0], true)],
            vec![candidate(&[], &[5.0], true)],
        ],
        roots: vec![vec![2]],
        kept: Vec::new(),
        factors: vec![1.0],
        original: vec![Some(0); 5],
    };
    let reduced = reduce(&problem).expect("computable");
    assert_eq!(reduced.forms, [vec![0], vec![0], vec![0, 1, 4], vec![], vec![0]]);
    // Both 1 and 0 are needed by the first form of 2, so that the second replaces it where it is as cheap.
    let mut cheaper = problem.clone();
    cheaper.classes[2][1].costs[0] = 1.5;
    let reduced = reduce(&cheaper).expect("computable");
    assert_eq!(reduced.forms[2], [1, 4]);
    assert!(reduced.needed[0][2] && !reduced.needed[0][0], "the form of 4 needs nothing else");
}
