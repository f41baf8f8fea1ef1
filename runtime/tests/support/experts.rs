//! Experts in random programs: rows that choose weights, in any number, by one id or several, with what models do
//! before and after. What is chosen does not hang on the last bits of what is computed.

use super::blocks::weighted;
use super::programs::{MOST_ELEMENTS, Random, TOKENS, elements, fixed_axes};
use diptych_ir::{Axis, DType};
use diptych_models::Tensor;

/// Most elements that a map of an expert sums over.
const MOST_SUMMED: usize = 33;

/// Ids along `expert`, and their own axes.
struct Choice<'m> {
    ids: Tensor<'m>,
    expert: Axis,
    own: Vec<Axis>,
}

/// Adds a layer of experts to the pool.
pub fn step(random: &mut Random<'_>) {
    let x = random.value();
    let mut axes = fixed_axes(x);
    let x = match (1..=MOST_SUMMED).contains(&elements(&axes)) && !axes.is_empty() {
        true => x,
        false => {
            axes = vec![random.axis(MOST_SUMMED)];
            random.fit(x, &axes)
        }
    };
    let over = random.subset(&axes);
    let rest: Vec<Axis> = axes.iter().copied().filter(|axis| !over.contains(axis)).collect();
    let choice = choose(random, x, &axes, &rest);
    let m = random.m;
    let left = MOST_ELEMENTS / elements(&rest) / elements(&choice.own);
    let hidden = random.axis(left.clamp(1, 48));
    let first = table(random, &choice, &over, &[hidden]);
    let mut h = map(random, x, first, &choice, &over);
    if random.numbers.once_in(2) {
        // The same weights for another value, or others for the same.
        let other = match random.numbers.once_in(3) {
            true => map(random, x * 0.5 - 0.25, first, &choice, &over),
            false => {
                let second = table(random, &choice, &over, &[hidden]);
                map(random, x, second, &choice, &over)
            }
        };
        h = h * h.sigmoid() * other;
    }
    if random.numbers.once_in(3) {
        let shift = random.param(&[hidden], 0.5);
        h = h + shift;
    }
    let weight = weights(random, x, &axes, &choice);
    let before = random.numbers.once_in(2);
    if let (Some(weight), true) = (weight, before) {
        h = h * weight;
    }
    if random.numbers.once_in(4) && elements(&fixed_axes(h)) <= MOST_ELEMENTS {
        random.keep(h.tanh());
    }
    let to = random.some_axes((left / 2).clamp(1, 33));
    let second = table(random, &choice, &[hidden], &to);
    let mut y = map(random, h, second, &choice, &[hidden]);
    if let (Some(weight), false) = (weight, before) {
        y = y * weight;
    }
    if !choice.own.is_empty() && !random.numbers.once_in(5) {
        y = y.sum(choice.own.clone());
    }
    if random.numbers.once_in(3) {
        // A shared expert.
        let all = weighted(random, x, &over, &to);
        y = y + all * all.sigmoid();
    }
    if random.numbers.once_in(4) {
        // How often each is chosen.
        let chosen = choice.ids.equal(m.index(choice.expert)).select(1.0, 0.0);
        let share = random.param(&[choice.expert], 1.0);
        let over = [&choice.own[..], &[choice.expert]].concat();
        y = y + (chosen * share).sum(over);
    }
    if elements(&fixed_axes(y)) > MOST_ELEMENTS {
        let one = random.axis(33);
        y = random.fit(y, &[one]);
    }
    random.keep(y);
}

/// Experts of each row.
fn choose<'m>(random: &mut Random<'m>, x: Tensor<'m>, axes: &[Axis], rest: &[Axis]) -> Choice<'m> {
    let m = random.m;
    if random.numbers.once_in(6) {
        return Choice { ids: m.tokens(), expert: random.axis_of(TOKENS), own: Vec::new() };
    }
    let size = random.numbers.pick(&[1, 2, 3, 4, 5, 8, 16]);
    let expert = random.axis_of(size);
    let count = 1 + random.numbers.below(size.min(4));
    let chosen = random.axis_of(count);
    // Sometimes for each position of an axis that the rows have, or of one of their own.
    let each: Vec<Axis> = match random.numbers.below(8) {
        0 if !rest.is_empty() => vec![random.numbers.pick(rest)],
        1 => vec![random.axis(3)],
        _ => Vec::new(),
    };
    let rows = random.axis_of(TOKENS);
    let table = random.param(&[&[rows][..], &each, &[expert]].concat(), 1.0);
    let mut order = table.take(m.tokens(), rows);
    if random.numbers.once_in(2) {
        let here = m.index(m.time()).less(random.numbers.below(40) as f64);
        order = here.select(order, -order);
    }
    // A little of what is computed, so that ids depend on it; its error is far below what tells scores apart.
    if !random.low_precision && random.numbers.once_in(3) {
        order = order + weighted(random, x.tanh(), axes, &[expert]).tanh() * 0.01;
    }
    Choice { ids: order.top_k(expert, chosen), expert, own: [&[chosen][..], &each].concat() }
}

/// A parameter of a matrix for each expert.
fn table<'m>(random: &mut Random<'m>, choice: &Choice<'m>, from: &[Axis], to: &[Axis]) -> Tensor<'m> {
    let size = 1.7 / (elements(from) as f64).sqrt();
    random.param(&[&[choice.expert][..], from, to].concat(), size)
}

fn map<'m>(
    random: &mut Random<'m>,
    x: Tensor<'m>,
    table: Tensor<'m>,
    choice: &Choice<'m>,
    from: &[Axis],
) -> Tensor<'m> {
    let dtype = match random.low_precision && random.numbers.once_in(2) {
        true => DType::BF16,
        false => DType::F32,
    };
    let chosen = table.cast(dtype).take(choice.ids, choice.expert);
    random.m.contract(&[x.cast(dtype), chosen], from.to_vec())
}

/// What the chosen are weighed by, if by anything.
fn weights<'m>(
    random: &mut Random<'m>,
    x: Tensor<'m>,
    axes: &[Axis],
    choice: &Choice<'m>,
) -> Option<Tensor<'m>> {
    let kind = random.numbers.below(4);
    if kind == 0 {
        return None;
    }
    let logits = weighted(random, x, axes, &[choice.expert]).cast(DType::F32);
    let scores = if kind == 1 { logits.sigmoid() } else { logits.softmax(choice.expert) };
    let weight = scores.take(choice.ids, choice.expert);
    Some(match choice.own.is_empty() || random.numbers.once_in(2) {
        true => weight,
        false => weight / (weight.sum(choice.own[0]) + 0.05),
    })
}
