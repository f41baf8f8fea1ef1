//! A warp: its registers, where its lanes stand, and what it has in flight.

use super::bulk::BulkStores;
use super::copies::Copies;
use super::tensor_memory::TensorAccesses;
use super::warpgroup::WarpgroupQueue;
use crate::program::{Address, Kernel, NONE, Slot};

/// One value per lane.
pub(crate) type Narrow = [u32; 32];
pub(crate) type Wide = [u64; 32];

/// Lanes that stand at one instruction while others of the warp run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub pc: u32,
    pub lanes: u32,
}

/// Why a warp does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Until the barrier's generation is another one.
    Barrier {
        id: usize,
        generation: u64,
    },
    /// Until the phase of the mbarrier is complete.
    Mbarrier {
        address: u32,
        phase: Phase,
    },
    /// Until so many columns of tensor memory are free.
    TensorMemory {
        columns: usize,
    },
    Done,
}

/// The phase of an mbarrier that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Parity(bool),
    Number(u64),
}

pub(crate) struct Warp {
    pub index: usize,
    pub predicates: Vec<u32>,
    pub narrow: Vec<Narrow>,
    pub wide: Vec<Wide>,
    /// For registers that may be read unwritten: lanes that have written them.
    pub valid: Vec<u32>,
    pub pc: u32,
    /// Lanes that execute the instruction at `pc`.
    pub active: u32,
    /// Lanes that have not exited.
    pub live: u32,
    pub others: Vec<Part>,
    /// The lowest order among the other parts: there the active lanes have to wait or to merge.
    pub limit: u32,
    pub state: State,
    pub local: Vec<u8>,
    pub copies: Copies,
    pub warpgroup: WarpgroupQueue,
    pub bulk_stores: BulkStores,
    pub tensor: TensorAccesses,
    /// Failed polls since anything else happened.
    pub polls: u32,
}

impl Warp {
    pub fn new(kernel: &Kernel, index: usize, lanes: u32) -> Self {
        let mut warp = Warp {
            index,
            predicates: vec![0; kernel.predicate_slots as usize],
            narrow: vec![[0; 32]; kernel.narrow_slots as usize],
            wide: vec![[0; 32]; kernel.wide_slots as usize],
            valid: Vec::new(),
            pc: 0,
            active: 0,
            live: 0,
            others: Vec::new(),
            limit: u32::MAX,
            state: State::Done,
            local: Vec::new(),
            copies: Copies::default(),
            warpgroup: WarpgroupQueue::default(),
            bulk_stores: BulkStores::default(),
            tensor: TensorAccesses::default(),
            polls: 0,
        };
        for (slot, value) in &kernel.predicate_constants {
            warp.predicates[*slot as usize] = *value;
        }
        for (slot, value) in &kernel.narrow_constants {
            warp.narrow[*slot as usize] = [*value; 32];
        }
        for (slot, value) in &kernel.wide_constants {
            warp.wide[*slot as usize] = [*value; 32];
        }
        warp.restart(kernel, lanes);
        warp
    }

    /// Makes the warp that of a new block. Registers keep their values: a program that reads what it has not written
    /// finds something else each time, as on the hardware, and is told of it.
    pub fn restart(&mut self, kernel: &Kernel, lanes: u32) {
        self.valid = vec![0; kernel.followed.len()];
        (self.pc, self.active, self.live) = (0, lanes, lanes);
        self.others.clear();
        self.limit = u32::MAX;
        self.state = State::Ready;
        self.local = vec![0; kernel.local_bytes as usize * 32];
        self.copies = Copies::default();
        self.warpgroup = WarpgroupQueue::default();
        self.bulk_stores = BulkStores::default();
        self.tensor = TensorAccesses::default();
        self.polls = 0;
    }

    /// Leaves the active lanes where they are and takes up the part with the lowest order, with all that stand there.
    pub fn regroup(&mut self, kernel: &Kernel) {
        if self.active != 0 {
            self.others.push(Part { pc: self.pc, lanes: self.active });
        }
        let order = |part: &Part| kernel.instructions[part.pc as usize].order;
        let Some(first) = self.others.iter().map(order).min() else {
            self.state = State::Done;
            return;
        };
        self.active = 0;
        self.limit = u32::MAX;
        self.others.retain(|part| {
            let order = order(part);
            if order == first {
                self.pc = part.pc;
                self.active |= part.lanes;
                return false;
            }
            self.limit = self.limit.min(order);
            true
        });
    }

    /// Sends some of the active lanes elsewhere.
    #[inline(always)]
    pub fn branch(&mut self, kernel: &Kernel, lanes: u32, target: u32) {
        if lanes == self.active {
            self.pc = target;
            return;
        }
        self.others.push(Part { pc: target, lanes });
        self.limit = self.limit.min(kernel.instructions[target as usize].order);
        self.active &= !lanes;
        self.pc += 1;
    }

    pub fn exit(&mut self, kernel: &Kernel, lanes: u32) {
        self.live &= !lanes;
        self.active &= !lanes;
        self.pc += 1;
        if self.active == 0 {
            self.regroup(kernel);
        }
    }

    /// The value that all executing lanes have to agree on.
    pub fn uniform(&self, slot: Slot, lanes: u32) -> Option<u32> {
        let values = &self.narrow[slot as usize];
        let first = values[lanes.trailing_zeros() as usize & 31];
        (0..32).all(|lane| lanes >> lane & 1 == 0 || values[lane] == first).then_some(first)
    }

    #[inline(always)]
    pub fn set_narrow(&mut self, slot: Slot, values: &Narrow, mask: u32) {
        let target = &mut self.narrow[slot as usize];
        if mask == u32::MAX {
            *target = *values;
            return;
        }
        for lane in 0..32 {
            let keep = (mask >> lane & 1).wrapping_sub(1);
            target[lane] = target[lane] & keep | values[lane] & !keep;
        }
    }

    #[inline(always)]
    pub fn set_wide(&mut self, slot: Slot, values: &Wide, mask: u32) {
        let target = &mut self.wide[slot as usize];
        if mask == u32::MAX {
            *target = *values;
            return;
        }
        for lane in 0..32 {
            let keep = (u64::from(mask) >> lane & 1).wrapping_sub(1);
            target[lane] = target[lane] & keep | values[lane] & !keep;
        }
    }

    #[inline(always)]
    pub fn set_predicate(&mut self, slot: Slot, values: u32, mask: u32) {
        if slot != NONE {
            let target = &mut self.predicates[slot as usize];
            *target = *target & !mask | values & mask;
        }
    }

    #[inline(always)]
    pub fn map_narrow(&mut self, d: Slot, a: Slot, mask: u32, f: impl Fn(u32) -> u32) {
        let a = self.narrow[a as usize];
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane]);
        }
        self.set_narrow(d, &result, mask);
    }

    #[inline(always)]
    pub fn map_narrow2(&mut self, d: Slot, a: Slot, b: Slot, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.narrow[a as usize], self.narrow[b as usize]);
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane], b[lane]);
        }
        self.set_narrow(d, &result, mask);
    }

    #[inline(always)]
    pub fn map_narrow3(&mut self, d: Slot, sources: [Slot; 3], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let [a, b, c] = sources.map(|slot| self.narrow[slot as usize]);
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.set_narrow(d, &result, mask);
    }

    #[inline(always)]
    pub fn map_wide(&mut self, d: Slot, a: Slot, mask: u32, f: impl Fn(u64) -> u64) {
        let a = self.wide[a as usize];
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane]);
        }
        self.set_wide(d, &result, mask);
    }

    #[inline(always)]
    pub fn map_wide2(&mut self, d: Slot, a: Slot, b: Slot, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.wide[a as usize], self.wide[b as usize]);
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane], b[lane]);
        }
        self.set_wide(d, &result, mask);
    }

    #[inline(always)]
    pub fn map_wide3(&mut self, d: Slot, sources: [Slot; 3], mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let [a, b, c] = sources.map(|slot| self.wide[slot as usize]);
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.set_wide(d, &result, mask);
    }

    /// Lanes for which a comparison holds.
    #[inline(always)]
    pub fn compare_narrow(&self, a: Slot, b: Slot, f: impl Fn(u32, u32) -> bool) -> u32 {
        let (a, b) = (&self.narrow[a as usize], &self.narrow[b as usize]);
        let mut result = 0;
        for lane in 0..32 {
            result |= u32::from(f(a[lane], b[lane])) << lane;
        }
        result
    }

    #[inline(always)]
    pub fn compare_wide(&self, a: Slot, b: Slot, f: impl Fn(u64, u64) -> bool) -> u32 {
        let (a, b) = (&self.wide[a as usize], &self.wide[b as usize]);
        let mut result = 0;
        for lane in 0..32 {
            result |= u32::from(f(a[lane], b[lane])) << lane;
        }
        result
    }

    /// The addresses of all lanes.
    #[inline(always)]
    pub fn addresses(&self, address: &Address) -> Wide {
        let mut result = [0; 32];
        if address.wide {
            let base = &self.wide[address.base as usize];
            for lane in 0..32 {
                result[lane] = base[lane].wrapping_add(address.offset as u64);
            }
        } else {
            let base = &self.narrow[address.base as usize];
            for lane in 0..32 {
                result[lane] = u64::from(base[lane].wrapping_add(address.offset as u32));
            }
        }
        result
    }
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros();
        left &= left - 1;
        Some(lane as usize)
    })
}
