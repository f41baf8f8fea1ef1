//! The rules, one a row: name, class, what is looked for, what is put there,
//! and under which conditions. One file a subject; to add a rule, add a row;
//! the harness tests it.

mod axes;
mod collectives;
mod contractions;
mod histories;
mod merges;
mod pieces;
mod reductions;
mod scalars;
mod weights;

use super::pattern::{Term, Variables, parse};

/// What a rule keeps of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Every bit, also of infinities, NaN and signed zeros.
    Exact,
    /// The value over the reals; rounding may differ.
    Real,
    /// The value up to a bounded error: only on request.
    Approximate,
}

/// A condition on what the variables of a rule stand for. Lists of values are
/// named without their dots.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum When {
    /// The value depends on parameters and literals only.
    ParamOnly(&'static str),
    /// The value was there before any rewrite, or is several such values joined.
    Given(&'static str),
    /// The values depend on more than parameters.
    AtRun(&'static str),
    /// The values have none of the summed axes, or of those that the op is of.
    Lacks(&'static str, &'static str),
    /// There is at least one value, or one summed axis.
    Some(&'static str),
    /// There are at most so many values in the two lists together (a list named
    /// twice counts twice): it bounds the number of contraction trees.
    AtMost(&'static str, &'static str, usize),
    /// The first value has all axes of the second.
    Covers(&'static str, &'static str),
    /// Of the summed axes (third), one that the first two values have is none
    /// of the values in the fourth list's, or one of the two covers the other:
    /// a product for which neither holds only makes values larger.
    Joins(&'static str, &'static str, &'static str, &'static str),
    /// The value has fewer axes than the one that is rewritten.
    Narrower(&'static str),
    /// The value has at most so many times the elements, at a position, of the one that is rewritten.
    Light(&'static str, usize),
    /// Among the summed axes is one of tokens.
    OverTokens(&'static str),
    /// Of two values that play the same part, the first and all that was joined to it came before the
    /// second, which was joined to nothing: one of the many orders in which to join several is enough.
    Ordered(&'static str, &'static str),
    /// The first op undoes the second.
    Inverse(&'static str, &'static str),
    /// The two ops speak of the same ranks and, where both cut an axis over
    /// these, of the same pieces.
    SameRanks(&'static str, &'static str),
    /// Of the summed axes (first), one is in none of the values (second).
    Alone(&'static str, &'static str),
    /// The two values may change places: they are taken in one order only, or
    /// everything would be found twice.
    Symmetric(&'static str, &'static str),
    /// The constant is greater than zero.
    Positive(&'static str),
    /// A scale of the value can go into weights that it is linear in.
    ScalesWeights(&'static str),
    /// The constant is not zero.
    NotZero(&'static str),
    /// The value is no known constant.
    Varies(&'static str),
    /// The summed axes (first) that are also axes of the values (third) or
    /// summed already (fourth) get new names, in the list of values (second):
    /// a summed axis is a bound name.
    Fresh(&'static str, &'static str, &'static str, &'static str),
}

/// A rewrite: wherever the left pattern stands, the right one is equal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rule {
    /// A name, unique among rules.
    pub name: &'static str,
    /// What it keeps.
    pub class: Class,
    /// What is looked for, in the form that `pattern` describes.
    pub left: &'static str,
    /// What is equal to it.
    pub right: &'static str,
    /// A second value and what is equal to it: this rule is about two that share variables.
    pub beside: Option<[&'static str; 2]>,
    /// Under which conditions.
    pub conditions: &'static [When],
}

const fn rule(
    name: &'static str,
    class: Class,
    left: &'static str,
    right: &'static str,
    conditions: &'static [When],
) -> Rule {
    Rule { name, class, left, right, beside: None, conditions }
}

/// A rule about two values that share variables.
const fn pair(
    name: &'static str,
    class: Class,
    [left, beside]: [&'static str; 2],
    [right, equal]: [&'static str; 2],
    conditions: &'static [When],
) -> Rule {
    Rule { name, class, left, right, beside: Some([beside, equal]), conditions }
}

/// The rows of each file: to add a file of rules, add it here.
const TABLES: &[&[Rule]] = &[
    scalars::ROWS,
    contractions::ROWS,
    weights::ROWS,
    reductions::ROWS,
    axes::ROWS,
    histories::ROWS,
    pieces::ROWS,
    merges::ROWS,
    collectives::ROWS,
];

/// Every rule.
pub const RULES: &[Rule] = &joined::<{ count() }>();

const fn count() -> usize {
    let (mut count, mut table) = (0, 0);
    while table < TABLES.len() {
        count += TABLES[table].len();
        table += 1;
    }
    count
}

const fn joined<const COUNT: usize>() -> [Rule; COUNT] {
    let mut rules = [TABLES[0][0]; COUNT];
    let (mut filled, mut table) = (0, 0);
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            rules[filled] = TABLES[table][row];
            filled += 1;
            row += 1;
        }
        table += 1;
    }
    rules
}

/// The rules that keep as much of a value as a class does, or more.
pub(super) fn keeping(class: Class) -> Vec<Rule> {
    RULES.iter().filter(|rule| rule.class <= class).copied().collect()
}

/// A rule, read.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub rule: Rule,
    pub left: Term,
    pub right: Term,
    /// The second value's two sides.
    pub beside: Option<(Term, Term)>,
    pub variables: Variables,
    /// The conditions, with the numbers of their variables.
    pub conditions: Vec<Condition>,
}

/// A condition over numbered variables: see [`When`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Condition {
    ParamOnly(usize),
    Given(usize),
    AtRun(usize),
    Light(usize, usize),
    OverTokens(usize),
    Ordered(usize, usize),
    Lacks(usize, usize),
    Some(usize),
    AtMost(usize, usize, usize),
    Narrower(usize),
    Covers(usize, usize),
    Joins(usize, usize, usize, usize),
    Inverse(usize, usize),
    SameRanks(usize, usize),
    Alone(usize, usize),
    Symmetric(usize, usize),
    Positive(usize),
    ScalesWeights(usize),
    NotZero(usize),
    Varies(usize),
    Fresh { over: usize, within: usize, apart: usize, outer: usize },
}

impl Condition {
    /// The variables that it is about.
    pub fn variables(self) -> Vec<usize> {
        match self {
            Condition::ParamOnly(x)
            | Condition::Given(x)
            | Condition::AtRun(x)
            | Condition::Light(x, _)
            | Condition::OverTokens(x)
            | Condition::Some(x)
            | Condition::Narrower(x)
            | Condition::NotZero(x)
            | Condition::Positive(x)
            | Condition::ScalesWeights(x)
            | Condition::Varies(x) => vec![x],
            Condition::Ordered(x, y)
            | Condition::Lacks(x, y)
            | Condition::AtMost(x, y, _)
            | Condition::Covers(x, y)
            | Condition::SameRanks(x, y)
            | Condition::Symmetric(x, y)
            | Condition::Alone(x, y)
            | Condition::Inverse(x, y) => vec![x, y],
            Condition::Joins(x, y, axes, zs) => vec![x, y, axes, zs],
            Condition::Fresh { over, within, apart, outer } => vec![over, within, apart, outer],
        }
    }
}

/// Reads rules.
///
/// # Errors
/// Which rule is not well formed, and why.
pub(super) fn compile(rules: &[Rule]) -> Result<Vec<Compiled>, String> {
    rules
        .iter()
        .map(|rule| compile_one(rule).map_err(|problem| format!("rule `{}`: {problem}", rule.name)))
        .collect()
}

fn compile_one(rule: &Rule) -> Result<Compiled, String> {
    let mut variables = Variables::default();
    let left = parse(rule.left, &mut variables, true)?;
    if !matches!(left, Term::Node { .. }) {
        return Err("the left side must be an op".into());
    }
    let second = rule.beside.map(|[left, _]| parse(left, &mut variables, true)).transpose()?;
    if matches!(&second, Some(left) if !matches!(left, Term::Node { .. })) {
        return Err("the second left side must be an op".into());
    }
    let right = parse(rule.right, &mut variables, false)?;
    let beside = match (second, rule.beside) {
        (Some(left), Some([_, right])) => Some((left, parse(right, &mut variables, false)?)),
        _ => None,
    };
    let find =
        |name: &str| variables.find(name).ok_or_else(|| format!("no variable `{name}` in the left side"));
    let conditions = rule
        .conditions
        .iter()
        .map(|when| {
            Ok(match *when {
                When::ParamOnly(x) => Condition::ParamOnly(find(x)?),
                When::Given(x) => Condition::Given(find(x)?),
                When::AtRun(x) => Condition::AtRun(find(x)?),
                When::Light(x, most) => Condition::Light(find(x)?, most),
                When::OverTokens(axes) => Condition::OverTokens(find(axes)?),
                When::Ordered(x, y) => Condition::Ordered(find(x)?, find(y)?),
                When::Lacks(x, axes) => Condition::Lacks(find(x)?, find(axes)?),
                When::Some(xs) => Condition::Some(find(xs)?),
                When::AtMost(xs, ys, most) => Condition::AtMost(find(xs)?, find(ys)?, most),
                When::Covers(x, y) => Condition::Covers(find(x)?, find(y)?),
                When::Joins(x, y, axes, zs) => Condition::Joins(find(x)?, find(y)?, find(axes)?, find(zs)?),
                When::Narrower(x) => Condition::Narrower(find(x)?),
                When::Inverse(outer, inner) => Condition::Inverse(find(outer)?, find(inner)?),
                When::SameRanks(left, right) => Condition::SameRanks(find(left)?, find(right)?),
                When::Alone(axes, ys) => Condition::Alone(find(axes)?, find(ys)?),
                When::ScalesWeights(x) => Condition::ScalesWeights(find(x)?),
                When::Symmetric(x, y) => Condition::Symmetric(find(x)?, find(y)?),
                When::Positive(c) => Condition::Positive(find(c)?),
                When::NotZero(c) => Condition::NotZero(find(c)?),
                When::Varies(x) => Condition::Varies(find(x)?),
                When::Fresh(over, within, apart, outer) => Condition::Fresh {
                    over: find(over)?,
                    within: find(within)?,
                    apart: find(apart)?,
                    outer: find(outer)?,
                },
            })
        })
        .collect::<Result<_, String>>()?;
    Ok(Compiled { rule: *rule, left, right, beside, variables, conditions })
}
