//! Which registers are live where, and a slot for each: PTX names a new register for almost every value, and register
//! files of that size would not stay in the processor's cache.

use crate::control_flow::Graph;
use crate::decode::Assignment;
use crate::parse::{Class, Register};

/// What an instruction does to registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    pub reads: Vec<Register>,
    pub writes: Vec<Register>,
    /// A guarded instruction may leave what it writes as it was.
    pub guarded: bool,
    /// Registers that an asynchronous instruction owns beyond its own end.
    pub in_flight: Vec<Register>,
}

pub(crate) struct Liveness {
    pub assignment: Assignment,
    /// Registers that some path reads before any write.
    pub followed: Vec<Register>,
    /// 32-bit registers in use at once at most.
    pub pressure: u32,
}

/// Sets of registers as bits, the three classes one after the other.
struct Numbers {
    first: [usize; 3],
    words: usize,
}

impl Numbers {
    fn of(&self, register: Register) -> usize {
        self.first[register.class as usize] + register.index as usize
    }
}

fn insert(set: &mut [u64], index: usize) {
    set[index / 64] |= 1 << (index % 64);
}

fn contains(set: &[u64], index: usize) -> bool {
    set[index / 64] >> (index % 64) & 1 != 0
}

/// Finds live ranges over the order of the text and packs them into slots.
pub(crate) fn analyse(registers: [u32; 3], effects: &[Effects], graph: &Graph) -> Liveness {
    let [predicates, narrow, wide] = registers.map(|count| count as usize);
    let total = predicates + narrow + wide;
    let numbers = Numbers { first: [0, predicates, predicates + narrow], words: total.div_ceil(64) };
    let live_in = live_at_start(effects, graph, &numbers);
    let mut range: Vec<Option<(u32, u32)>> = vec![None; total];
    let mut extend = |index: usize, at: u32| {
        let (start, end) = range[index].get_or_insert((at, at));
        (*start, *end) = ((*start).min(at), (*end).max(at));
    };
    for (block, bounds) in graph.starts.windows(2).enumerate() {
        for register in 0..total {
            if contains(&live_in[block], register) {
                extend(register, bounds[0]);
            }
            if graph.successors[block].iter().any(|next| contains(&live_in[*next], register)) {
                extend(register, bounds[1] - 1);
            }
        }
        for at in bounds[0]..bounds[1] {
            let effect = &effects[at as usize];
            for register in effect.reads.iter().chain(&effect.writes) {
                extend(numbers.of(*register), at);
            }
        }
    }
    let all = |class: Class, count: usize| (0..count as u32).map(move |index| Register { class, index });
    let every: Vec<Register> = all(Class::Predicate, predicates)
        .chain(all(Class::Narrow, narrow))
        .chain(all(Class::Wide, wide))
        .collect();
    let followed: Vec<Register> =
        every.iter().copied().filter(|register| contains(&live_in[0], numbers.of(*register))).collect();
    let last = effects.len() as u32;
    for register in followed.iter().chain(effects.iter().flat_map(|effect| &effect.in_flight)) {
        range[numbers.of(*register)] = Some((0, last));
    }
    let (assignment, pressure) = assign(&every, &range, registers);
    Liveness { assignment, followed, pressure }
}

fn live_at_start(effects: &[Effects], graph: &Graph, numbers: &Numbers) -> Vec<Vec<u64>> {
    let blocks = graph.successors.len();
    // Reads that come before any write of the block, and writes that happen whatever comes.
    let mut reads = vec![vec![0; numbers.words]; blocks];
    let mut kills = vec![vec![0; numbers.words]; blocks];
    for (block, bounds) in graph.starts.windows(2).enumerate() {
        for effect in &effects[bounds[0] as usize..bounds[1] as usize] {
            for register in &effect.reads {
                let index = numbers.of(*register);
                if !contains(&kills[block], index) {
                    insert(&mut reads[block], index);
                }
            }
            if !effect.guarded {
                effect.writes.iter().for_each(|register| insert(&mut kills[block], numbers.of(*register)));
            }
        }
    }
    let mut live_in = reads.clone();
    let mut changed = true;
    while changed {
        changed = false;
        for block in (0..blocks).rev() {
            for word in 0..numbers.words {
                let out = graph.successors[block].iter().fold(0, |out, next| out | live_in[*next][word]);
                let new = reads[block][word] | (out & !kills[block][word]);
                changed |= new != live_in[block][word];
                live_in[block][word] = new;
            }
        }
    }
    live_in
}

/// Linear scan. A slot is free again after the instruction that reads it last, never within it, so that operations may
/// write a result before they have read all operands.
fn assign(every: &[Register], range: &[Option<(u32, u32)>], registers: [u32; 3]) -> (Assignment, u32) {
    let mut assignment = Assignment { slots: registers.map(|count| vec![0; count as usize]), count: [0; 3] };
    let mut by_start: Vec<(u32, u32, Register)> = every
        .iter()
        .zip(range)
        .filter_map(|(register, range)| range.map(|(start, end)| (start, end, *register)))
        .collect();
    by_start.sort_unstable_by_key(|(start, _, register)| (*start, *register));
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut busy: std::collections::BinaryHeap<std::cmp::Reverse<(u32, usize, u32)>> = Default::default();
    let (mut in_use, mut pressure) = (0u32, 0);
    let size = |class: usize| [0, 1, 2][class];
    for (start, end, register) in by_start {
        while let Some(std::cmp::Reverse((busy_end, class, slot))) = busy.peek().copied()
            && busy_end < start
        {
            busy.pop();
            free[class].push(slot);
            in_use -= size(class);
        }
        let class = register.class as usize;
        let slot = free[class].pop().unwrap_or_else(|| {
            assignment.count[class] += 1;
            assignment.count[class] - 1
        });
        assignment.slots[class][register.index as usize] = slot;
        busy.push(std::cmp::Reverse((end, class, slot)));
        in_use += size(class);
        pressure = pressure.max(in_use);
    }
    (assignment, pressure)
}
