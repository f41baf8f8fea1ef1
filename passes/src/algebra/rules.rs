//! The rules, one a row: name, class, what is looked for, what is put there,
//! and under which conditions. To add a rule, add a row; the harness tests it.

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
    /// The values have none of the summed axes.
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
    /// The first op undoes the second.
    Inverse(&'static str, &'static str),
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
    Rule { name, class, left, right, conditions }
}

use Class::{Exact, Real};
use When::{AtMost, Covers, Fresh, Inverse, Joins, Lacks, Narrower, NotZero, ParamOnly, Varies};

/// Every rule.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    // Less work, always.
    rule("negate_twice", Exact, "(neg (neg x))", "x", &[]),
    rule("multiply_by_one", Exact, "(mul x 1)", "x", &[]),
    rule("divide_by_one", Exact, "(div x 1)", "x", &[]),
    rule("subtract_zero", Exact, "(sub x 0)", "x", &[]),
    rule("add_zero", Real, "(add x 0)", "x", &[]),
    rule("add_negative", Exact, "(add x (neg y))", "(sub x y)", &[]),
    rule("subtract_negative", Exact, "(sub x (neg y))", "(add x y)", &[]),
    rule("negate_product", Exact, "(mul (neg x) y)", "(neg (mul x y))", &[]),
    rule("negate_quotient", Exact, "(div (neg x) y)", "(neg (div x y))", &[]),
    rule("negate_difference", Real, "(neg (sub x y))", "(sub y x)", &[]),
    rule("negate_constant_factor", Exact, "(neg (mul $c x))", "(mul (neg c) x)", &[]),
    rule("select_twice", Exact, "(select m (select m x y) z)", "(select m x z)", &[]),
    rule("detach_twice", Exact, "(detach (detach x))", "(detach x)", &[]),
    rule("cast_twice", Exact, "(cast[d] (cast[d] x))", "(cast[d] x)", &[]),
    rule("cast_to_same", Exact, "(cast[d] x)", "x", &[]),
    // Scalars, computed now.
    rule("fold_add", Real, "(add $c $d)", "(=add c d)", &[]),
    rule("fold_sub", Real, "(sub $c $d)", "(=sub c d)", &[]),
    rule("fold_mul", Real, "(mul $c $d)", "(=mul c d)", &[]),
    rule("fold_div", Real, "(div $c $d)", "(=div c d)", &[]),
    rule("fold_neg", Exact, "(neg $c)", "(=neg c)", &[]),
    rule("fold_sqrt", Real, "(sqrt $c)", "(=sqrt c)", &[]),
    rule("fold_rsqrt", Real, "(rsqrt $c)", "(=rsqrt c)", &[]),
    rule("fold_exp", Real, "(exp $c)", "(=exp c)", &[]),
    rule("merge_scales", Real, "(mul $c (mul $d x))", "(mul (=mul c d) x)", &[]),
    rule("merge_scale_and_divisor", Real, "(div (mul $c x) $d)", "(mul (=div c d) x)", &[NotZero("d")]),
    rule("divisor_to_scale", Real, "(div x $c)", "(mul (=div 1 c) x)", &[NotZero("c")]),
    rule("scale_out_of_product", Real, "(mul (mul $c x) y)", "(mul c (mul x y))", &[]),
    rule("scale_out_of_quotient", Real, "(div (mul $c x) y)", "(mul c (div x y))", &[]),
    // Contractions: sums of products of any number of factors.
    rule("sum_is_contraction", Real, "(sum[A] (mul x y))", "(contract[A] x y)", &[]),
    rule("product_into_contraction", Real, "(contract[A] (mul x y) zs..)", "(contract[A] x y zs..)",
        &[AtMost("zs", "zs", 4), When::Some("zs")]),
    rule("sum_of_none", Real, "(sum[] x)", "x", &[]),
    rule("contraction_of_none", Real, "(contract[] x y)", "(mul x y)", &[]),
    rule("contraction_of_one", Real, "(contract[A] x)", "(sum[A] x)", &[]),
    rule("flatten", Real, "(contract[A] (contract[B] xs..) ys..)", "(contract[A+B] xs.. ys..)",
        &[AtMost("xs", "ys", 4), Fresh("B", "xs", "ys", "A")]),
    rule("associate", Real, "(contract[A] x y zs..)", "(contract[A&zs] (contract[A-zs] x y) zs..)",
        &[When::Some("zs"), Joins("x", "y", "A", "zs")]),
    rule("division_out_of_contraction", Real, "(contract[A] (div x d) ys..)", "(div (contract[A] x ys..) d)",
        &[Lacks("d", "A")]),
    rule("division_into_contraction", Real, "(div (contract[A] x ys..) d)", "(contract[A] (div x d) ys..)",
        &[Lacks("d", "A"), Covers("x", "d"), Varies("d")]),
    rule("division_out_of_sum", Real, "(sum[A] (div x d))", "(div (sum[A] x) d)", &[Lacks("d", "A")]),
    rule("scale_into_contraction", Real, "(mul s (contract[A] xs..))", "(contract[A] s xs..)",
        &[Lacks("s", "A"), Narrower("s"), AtMost("xs", "xs", 6)]),
    rule("scale_out_of_contraction", Real, "(contract[A] s x)", "(mul s (sum[A] x))",
        &[When::Some("A"), Lacks("s", "A")]),
    rule("negation_out_of_contraction", Real, "(contract[A] (neg x) ys..)", "(neg (contract[A] x ys..))", &[]),
    rule("add_weights", Real, "(add (contract[A] x xs..) (contract[A] y xs..))", "(contract[A] (add x y) xs..)",
        &[ParamOnly("x"), ParamOnly("y"), When::Some("xs")]),
    // Bookkeeping of axes.
    rule("rename_twice", Exact, "(rename[r] (rename[s] x))", "(rename[r*s] x)", &[]),
    rule("rename_back", Exact, "(rename[r] (rename[s] x))", "x", &[Inverse("r", "s")]),
    rule("slice_twice", Exact, "(slice[r] (slice[s] x))", "(slice[r*s] x)", &[]),
    rule("slice_of_concat", Exact, "(slice[s] (concat[c] xs..))", "(pick[s/c] xs..)", &[]),
    rule("split_of_merge", Exact, "(split[s] (merge[m] x))", "x", &[Inverse("s", "m")]),
    rule("merge_of_split", Exact, "(merge[m] (split[s] x))", "x", &[Inverse("m", "s")]),
];

/// A rule, read.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub rule: Rule,
    pub left: Term,
    pub right: Term,
    pub variables: Variables,
    /// The conditions, with the numbers of their variables.
    pub conditions: Vec<Condition>,
}

/// A condition over numbered variables: see [`When`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Condition {
    ParamOnly(usize),
    Lacks(usize, usize),
    Some(usize),
    AtMost(usize, usize, usize),
    Narrower(usize),
    Covers(usize, usize),
    Joins(usize, usize, usize, usize),
    Inverse(usize, usize),
    NotZero(usize),
    Varies(usize),
    Fresh { over: usize, within: usize, apart: usize, outer: usize },
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
    let right = parse(rule.right, &mut variables, false)?;
    let find =
        |name: &str| variables.find(name).ok_or_else(|| format!("no variable `{name}` in the left side"));
    let conditions = rule
        .conditions
        .iter()
        .map(|when| {
            Ok(match *when {
                When::ParamOnly(x) => Condition::ParamOnly(find(x)?),
                When::Lacks(x, axes) => Condition::Lacks(find(x)?, find(axes)?),
                When::Some(xs) => Condition::Some(find(xs)?),
                When::AtMost(xs, ys, most) => Condition::AtMost(find(xs)?, find(ys)?, most),
                When::Covers(x, y) => Condition::Covers(find(x)?, find(y)?),
                When::Joins(x, y, axes, zs) => Condition::Joins(find(x)?, find(y)?, find(axes)?, find(zs)?),
                When::Narrower(x) => Condition::Narrower(find(x)?),
                When::Inverse(outer, inner) => Condition::Inverse(find(outer)?, find(inner)?),
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
    Ok(Compiled { rule: *rule, left, right, variables, conditions })
}
