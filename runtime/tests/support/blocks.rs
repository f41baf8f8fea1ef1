//! The steps of random programs: one op or one well-known composition each, on
//! values kept at a size around one, and away from where a function jumps.

use super::programs::{CONTEXT, MOST_ELEMENTS, Random, TOKENS, elements, fixed_axes};
use diptych_ir::{Axis, DType};
use diptych_models::Tensor;

/// Applies one random step to the pool.
pub fn step(random: &mut Random<'_>) {
    match random.numbers.below(16) {
        0 | 1 => unary(random),
        2 | 3 => binary(random),
        4 => with_param(random),
        5 | 6 => linear(random),
        7 => two_sums(random),
        8 => grouped(random),
        9 => reduce(random),
        10 | 11 => views(random),
        12 => normal(random),
        13 | 14 => attention(random),
        _ => positions(random),
    }
}

/// x, within -1..1.
fn bounded<'m>(x: Tensor<'m>) -> Tensor<'m> {
    x.tanh()
}

fn unary(random: &mut Random<'_>) {
    let x = random.value();
    let y = match random.numbers.below(16) {
        0 => bounded(x).exp(),
        1 => (x.abs() + 0.5).log(),
        2 => (x.abs() + 0.25).sqrt(),
        3 => (x.abs() + 0.5).rsqrt(),
        4 => x.tanh(),
        5 => x.sigmoid(),
        6 => x.erf(),
        7 => (bounded(x) * 4.0).sin(),
        8 => (bounded(x) * 4.0).cos(),
        9 => x.abs(),
        10 => -x,
        11 => bounded(x).gelu(),
        12 => bounded(x).silu(),
        13 => bounded(x).gelu_tanh(),
        14 => x.detach() + x,
        _ => match random.low_precision {
            true => x.cast(DType::F32).cast(DType::BF16),
            false => x.max(0.0),
        },
    };
    random.keep(y);
}

/// Two values of which the union of axes is not too large.
fn pair<'m>(random: &mut Random<'m>) -> (Tensor<'m>, Tensor<'m>) {
    let x = random.value();
    for _ in 0..4 {
        let y = random.numbers.pick(&random.pool.clone());
        if elements(&union(&[x, y])) <= MOST_ELEMENTS {
            return (x, y);
        }
    }
    (x, x)
}

fn union(values: &[Tensor<'_>]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = values.iter().flat_map(|&x| fixed_axes(x)).collect();
    axes.sort();
    axes.dedup();
    axes
}

fn binary(random: &mut Random<'_>) {
    let (x, y) = pair(random);
    let z = match random.numbers.below(7) {
        0 => x + y,
        1 => x - y,
        2 => bounded(x) * bounded(y),
        3 => x / (y.abs() + 0.5),
        4 => x.max(y * 0.9),
        5 => x.min(y * 0.9),
        _ => x * y.sigmoid(),
    };
    random.keep(z);
}

/// A value met by one that depends on parameters alone.
fn with_param(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    let own = random.subset(&axes);
    let left = MOST_ELEMENTS / elements(&axes);
    let mut wide = own.clone();
    if left >= 2 && random.numbers.once_in(3) {
        wide.push(random.axis(left));
    }
    let weight = random.param(&wide, 1.0);
    let weight = match random.numbers.below(5) {
        0 if !own.is_empty() => weight.softmax(own),
        1 => {
            let inner = random.axis(33);
            let (left, right) =
                (random.param(&[&wide[..], &[inner]].concat(), 0.5), random.param(&[inner], 0.5));
            weight + random.m.contract(&[left, right], inner)
        }
        2 => {
            let mid = random.axis(17);
            let split = wide.len() / 2;
            let left = random.param(&[&wide[..split], &[mid]].concat(), 0.5);
            let right = random.param(&[&wide[split..], &[mid]].concat(), 0.5);
            random.m.contract(&[left, right], mid) + weight
        }
        3 => weight.tanh() * 2.0,
        _ => weight,
    };
    let y = match random.numbers.below(3) {
        0 => x * weight,
        1 => x + weight,
        _ => x / (weight.abs() + 0.5),
    };
    random.keep(y);
}

pub fn weighted<'m>(random: &mut Random<'m>, x: Tensor<'m>, over: &[Axis], to: &[Axis]) -> Tensor<'m> {
    let size = 1.7 / (elements(over) as f64).sqrt();
    let weight = random.param(&[over, to].concat(), size);
    match random.low_precision && random.numbers.below(2) == 0 {
        true => random.m.contract(&[x.cast(DType::BF16), weight.cast(DType::BF16)], over),
        false => random.m.contract(&[x, weight], over),
    }
}

/// One to three contractions that share their left operand.
fn linear(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    let over = random.subset(&axes);
    if over.is_empty() {
        return random.keep(x * 0.5);
    }
    let rest = elements(&axes) / elements(&over);
    for _ in 0..1 + random.numbers.below(3) {
        let to = random.some_axes((MOST_ELEMENTS / rest).min(128));
        let y = weighted(random, x, &over, &to);
        let y = if random.numbers.once_in(3) { y + random.param(&to, 0.5) } else { y };
        let y = if random.numbers.once_in(3) { y * y.sigmoid() } else { y };
        let y = if random.low_precision && random.numbers.once_in(3) { y.cast(DType::BF16) } else { y };
        random.keep(y);
    }
}

/// The sum of two contractions with the same columns; or the product of two rows.
fn two_sums(random: &mut Random<'_>) {
    let (x, y) = (random.value(), random.value());
    let (left, right) = (fixed_axes(x), fixed_axes(y));
    let shared: Vec<Axis> = left.iter().copied().filter(|axis| right.contains(axis)).collect();
    if !shared.is_empty() && random.numbers.below(2) == 0 && elements(&union(&[x, y])) <= 1024 {
        let over = random.subset(&shared);
        let z = random.m.contract(&[x, y], over.clone()) * (1.0 / elements(&over) as f64);
        if elements(&fixed_axes(z)) <= MOST_ELEMENTS {
            return random.keep(z);
        }
        let z = random.fit(z, &[]);
        return random.keep(z);
    }
    let to = random.some_axes(64);
    let (x, y) = if left.is_empty() || right.is_empty() {
        (random.fit(x, &to), random.fit(y, &to))
    } else {
        (weighted(random, x, &left, &to), weighted(random, y, &right, &to))
    };
    random.keep(x + y);
}

/// A contraction with a weight that keeps an axis of the value; or of three factors.
fn grouped(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    if axes.len() < 2 {
        random.keep(x);
        return linear(random);
    }
    let over = vec![random.numbers.pick(&axes)];
    let kept: Vec<Axis> = axes.iter().copied().filter(|axis| !over.contains(axis)).collect();
    let kept = random.subset(&kept);
    let rest = elements(&axes) / elements(&over);
    let to = random.some_axes((MOST_ELEMENTS / rest).min(64));
    let size = 1.7 / (elements(&over) as f64).sqrt();
    let weight = random.param(&[&over[..], &kept, &to].concat(), size);
    let y = if random.numbers.once_in(3) {
        let third = random.param(&over, 1.0);
        random.m.contract(&[x, weight, third], over)
    } else {
        random.m.contract(&[x, weight], over)
    };
    random.keep(y);
}

fn reduce(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    if axes.is_empty() {
        return random.keep(x.abs());
    }
    let over = random.subset(&axes);
    let size = elements(&over) as f64;
    let y = match random.numbers.below(5) {
        0 => x.max_over(over),
        1 => x.sum(over) * (1.0 / size),
        2 => x - x.max_over(over),
        3 => x * (x * x).sum(over).sigmoid(),
        _ => x.softmax(over) * size,
    };
    random.keep(y);
}

/// Axis bookkeeping.
fn views(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    if axes.is_empty() {
        let wanted = random.some_axes(32);
        let y = random.fit(x, &wanted);
        return random.keep(y);
    }
    let axis = random.numbers.pick(&axes);
    let size = elements(&[axis]);
    let left = MOST_ELEMENTS / elements(&axes);
    match random.numbers.below(7) {
        0 => {
            let new = random.axis_of(size);
            random.keep(x.rename(axis, new));
        }
        1 if size > 1 => {
            let length = 1 + random.numbers.below(size - 1);
            let start = random.numbers.below(size - length + 1);
            let into = random.axis_of(length);
            random.keep(x.slice(axis, start, into));
        }
        2 => {
            let divisors: Vec<usize> = (1..=size).filter(|divisor| size.is_multiple_of(*divisor)).collect();
            let outer = random.numbers.pick(&divisors);
            let into = [random.axis_of(outer), random.axis_of(size / outer)];
            random.keep(x.split(axis, into));
        }
        3 if axes.len() > 1 => {
            let mut parts = random.subset(&axes);
            if random.numbers.below(2) == 0 {
                parts.reverse();
            }
            let into = random.axis_of(elements(&parts));
            random.keep(x.merge(parts, into));
        }
        4 if left >= 2 => {
            // Two halves the other way round, as in a rotation.
            let half = size / 2;
            if half == 0 {
                return random.keep(-x);
            }
            let (one, two) = (random.axis_of(half), random.axis_of(size - half));
            let (low, high) = (x.slice(axis, 0, one), x.slice(axis, half, two));
            let low = if random.numbers.below(2) == 0 { -low } else { low };
            let into = random.axis_of(size);
            random.keep(random.m.concat(&[(high, two), (low, one)], into));
        }
        5 if left >= 2 => {
            let (piece, into) = (random.axis_of(3), size + 3);
            let into = random.axis_of(into);
            if elements(&axes) / size * elements(&[into]) > MOST_ELEMENTS {
                return random.keep(x * 0.5);
            }
            let other = random.param(&[piece], 1.0);
            random.keep(random.m.concat(&[(x, axis), (other, piece)], into));
        }
        _ => {
            let new = random.axis_of(size);
            random.keep(x.rename(axis, new) * 2.0 - 0.25);
        }
    }
}

fn normal(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    if axes.is_empty() {
        return random.keep(x.sigmoid());
    }
    let over = random.subset(&axes);
    let name = random.name("norm");
    let y = match random.numbers.below(2) {
        0 => random.m.rms_norm(&name, x.cast(DType::F32), over, 0.1),
        _ => random.m.layer_norm(&name, x.cast(DType::F32), over, 0.1),
    };
    // A skip, as models have it.
    let y = if random.numbers.below(2) == 0 { x + y } else { y };
    random.keep(y);
}

/// Values that depend on tokens and positions.
fn positions(random: &mut Random<'_>) {
    let x = random.value();
    let axes = fixed_axes(x);
    let m = random.m;
    let y = match random.numbers.below(6) {
        0 => {
            let axis = random.axis_of(CONTEXT);
            let own = random.column(&axes);
            let table = random.param(&[&[axis][..], &own].concat(), 1.0);
            x + table.take(m.index(m.time()), axis)
        }
        1 => x * (m.index(m.time()).cast(DType::F32) * 0.25).cos(),
        2 => {
            let axis = random.axis_of(TOKENS);
            let own = random.column(&axes);
            let table = random.param(&[&own[..], &[axis]].concat(), 1.0);
            x * table.take(m.tokens(), axis)
        }
        3 if !axes.is_empty() => {
            let axis = random.numbers.pick(&axes);
            let size = elements(&[axis]);
            let most = random.numbers.below(size + 1) as f64;
            let (low, other) = (m.index(axis).less(most), x * 0.5 - 1.0);
            low.select(x, other)
        }
        4 if !axes.is_empty() => {
            let axis = random.numbers.pick(&axes);
            let values: Vec<f64> = (0..elements(&[axis])).map(|_| random.numbers.signed()).collect();
            x * m.table(axis, &values)
        }
        _ => {
            let here = m.tokens().equal(3.0).or(m.index(m.time()).less(2.0));
            here.select(x, -x)
        }
    };
    random.keep(y);
}

/// Attention of a random kind: heads or none, groups, any score function, mask and bias.
fn attention(random: &mut Random<'_>) {
    let m = random.m;
    let x = random.value();
    let axes = fixed_axes(x);
    let x = match axes.is_empty() {
        true => {
            let wanted = random.some_axes(17);
            random.fit(x, &wanted)
        }
        false => x,
    };
    let axes = fixed_axes(x);
    let small = |random: &mut Random<'_>, sizes: &[usize]| {
        let size = random.numbers.pick(sizes);
        random.axis_of(size)
    };
    let depth = small(random, &[1, 3, 5, 8, 16, 17]);
    let width = if random.numbers.below(2) == 0 { small(random, &[1, 2, 7, 16]) } else { depth };
    let heads: Vec<Axis> = match random.numbers.below(3) {
        0 => Vec::new(),
        _ => vec![small(random, &[1, 2, 3])],
    };
    let group: Vec<Axis> = match random.numbers.below(3) {
        0 => vec![small(random, &[2, 3])],
        _ => Vec::new(),
    };
    let query = weighted(random, x, &axes, &[&heads[..], &group, &[depth]].concat());
    let key = weighted(random, x, &axes, &[&heads[..], &[depth]].concat()).history();
    let value = match width == depth && random.numbers.below(2) == 0 {
        true => key,
        false => weighted(random, x, &axes, &[&heads[..], &[width]].concat()).history(),
    };
    let mut score = query.dot(key, depth) * (1.0 / (elements(&[depth]) as f64).sqrt());
    if random.numbers.once_in(4) {
        score = (score * 0.5).tanh() * 2.0;
    }
    if random.numbers.once_in(3) {
        let distance = (m.index(m.past()).cast(DType::F32) - m.index(m.time()).cast(DType::F32)) * 0.0625;
        let slope = random.param(&heads, 1.0);
        score = score + distance * slope;
    }
    let all = score;
    let window = random.numbers.pick(&[1, 3, 31, 64, 65, 100]);
    let mask = random.numbers.below(4);
    random.causal &= mask > 0;
    score = match mask {
        0 => score,
        1 => score.window(window).causal(),
        _ => score.causal(),
    };
    let mixed = match random.numbers.below(5) {
        0 if mask > 0 => {
            // No softmax: masked scores count as nothing.
            let seen = m.index(m.past()).less_equal(m.index(m.time()));
            let power = seen.select(all.tanh(), 0.0);
            power.dot(value, m.past()) * 0.125
        }
        1 => {
            let weight = score.softmax(m.past());
            weight.dot(value, m.past()) + weight.dot(bounded(value), m.past())
        }
        _ => score.softmax(m.past()).dot(value, m.past()),
    };
    let mixed = if random.numbers.once_in(3) { mixed * 2.0 } else { mixed };
    random.keep(mixed);
    if random.numbers.once_in(4) {
        let spread = score.max_over(m.past());
        random.keep(spread.sigmoid());
    }
}
