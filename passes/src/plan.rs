//! Memory: where in one arena each temporary value lies, given when it is
//! first written and last read. It knows no graph, only sizes and times.

/// A value to place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// Size, in bytes.
    pub bytes: usize,
    /// The step that first writes it.
    pub first: usize,
    /// The last step that reads it (or writes it).
    pub last: usize,
}

/// Offsets of values in an arena.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arena {
    /// Offset of each value, in bytes.
    pub offsets: Vec<usize>,
    /// Size of the arena, in bytes.
    pub bytes: usize,
}

/// Values start at multiples of this, in bytes: a cache line and more, so that
/// neighbours share none.
pub const ALIGNMENT: usize = 128;

/// Places values so that no two that live at the same time overlap: the largest
/// first, each in the smallest gap that holds it.
pub fn place(values: &[Lifetime]) -> Arena {
    let mut order: Vec<usize> = (0..values.len()).filter(|&value| values[value].bytes > 0).collect();
    order.sort_by_key(|&value| (std::cmp::Reverse(values[value].bytes), values[value].first, value));
    let mut offsets = vec![0; values.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut bytes = 0;
    for value in order {
        let size = values[value].bytes.next_multiple_of(ALIGNMENT);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&other| {
                values[other].first <= values[value].last && values[value].first <= values[other].last
            })
            .map(|&other| (offsets[other], offsets[other] + values[other].bytes.next_multiple_of(ALIGNMENT)))
            .collect();
        taken.sort_unstable();
        let mut best: Option<(usize, usize)> = None;
        let mut end = 0;
        for (from, to) in taken {
            if from >= end + size && best.is_none_or(|(gap, _)| from - end < gap) {
                best = Some((from - end, end));
            }
            end = end.max(to);
        }
        offsets[value] = best.map_or(end, |(_, offset)| offset);
        bytes = bytes.max(offsets[value] + size);
        placed.push(value);
    }
    Arena { offsets, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
        #[test]
        fn values_that_live_together_do_not_overlap(
            values in proptest::collection::vec((0usize..5000, 0usize..20, 0usize..10), 0..40)
        ) {
            let values: Vec<Lifetime> =
                values.into_iter().map(|(bytes, first, length)| Lifetime { bytes, first, last: first + length }).collect();
            let arena = place(&values);
            for (i, a) in values.iter().enumerate() {
                prop_assert!(a.bytes == 0 || arena.offsets[i] + a.bytes <= arena.bytes);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last && a.bytes > 0 && b.bytes > 0;
                    let apart = arena.offsets[i] + a.bytes <= arena.offsets[j] || arena.offsets[j] + b.bytes <= arena.offsets[i];
                    prop_assert!(!together || apart);
                }
            }
            let total: usize = values.iter().map(|value| value.bytes.next_multiple_of(ALIGNMENT)).sum();
            prop_assert!(arena.bytes <= total);
        }
    }

    #[test]
    fn a_value_takes_the_place_of_one_that_is_gone() {
        let values = [(1000, 0, 1), (1000, 2, 3), (500, 1, 2)].map(|(bytes, first, last)| Lifetime {
            bytes,
            first,
            last,
        });
        assert_eq!(place(&values).bytes, 1024 + 512);
    }
}
