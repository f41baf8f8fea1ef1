//! Global memory: allocations, which of their bytes are defined, and which block of a launch touched each last.

use crate::clocks::AGENTS;
use crate::error::MemoryError;

/// First address that is given out.
const FIRST_ADDRESS: u64 = 0x0010_0000_0000;
/// Distance between allocations: an overrun lands in none.
const GUARD: u64 = 1 << 16;
const PAGE: usize = 4096;
/// In place of a block: several blocks have read.
const MANY: u32 = (1 << 28) - 1;

/// Who touched a unit of memory: launch (24 bits), block (28), epoch of that block (11), atomic (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Touch(u64);

impl Touch {
    fn new(launch: u32, block: u32, epoch: u32, atomic: bool) -> Self {
        let launch = u64::from(launch & 0xff_ffff);
        Touch(launch << 40 | u64::from(block) << 12 | u64::from(epoch.min(0x7ff)) << 1 | u64::from(atomic))
    }

    fn launch(self) -> u32 {
        (self.0 >> 40) as u32
    }

    fn block(self) -> u32 {
        (self.0 >> 12) as u32 & MANY
    }

    fn epoch(self) -> u32 {
        (self.0 >> 1) as u32 & 0x7ff
    }

    fn atomic(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Touches of 4 KiB. The unit is 4 bytes until a narrower access comes.
struct Page {
    shift: u32,
    writers: Vec<Touch>,
    readers: Vec<Touch>,
    /// Of the writers, the warp and its clock.
    stamps: Vec<Stamp>,
}

/// A warp and its clock, by which warps of one block are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Stamp {
    warp: u32,
    clock: u32,
}

impl Page {
    fn new() -> Self {
        Page {
            shift: 2,
            writers: vec![Touch::default(); PAGE / 4],
            readers: vec![Touch::default(); PAGE / 4],
            stamps: vec![Stamp::default(); PAGE / 4],
        }
    }

    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        for touches in [&mut self.writers, &mut self.readers] {
            *touches = touches.iter().flat_map(|touch| std::iter::repeat_n(*touch, copies)).collect();
        }
        self.stamps = self.stamps.iter().flat_map(|stamp| std::iter::repeat_n(*stamp, copies)).collect();
        self.shift = shift;
    }
}

struct Allocation {
    base: u64,
    length: usize,
    freed: bool,
    bytes: Vec<u8>,
    /// A bit for each byte; set where it was written.
    defined: Vec<u64>,
    pages: Vec<Option<Box<Page>>>,
}

/// The accessing side of a race check.
pub(crate) struct Accessor<'a> {
    pub launch: u32,
    pub block: u32,
    pub epoch: u32,
    pub atomic: bool,
    /// Blocks whose writes up to an epoch were made visible by fences and atomics.
    pub acquired: &'a std::collections::HashMap<u32, u32>,
    /// The warp, and what it has seen of the others of its block; none for the asynchronous proxy.
    pub warp: Option<(usize, &'a [u32; AGENTS])>,
}

impl Accessor<'_> {
    fn touch(&self) -> Touch {
        Touch::new(self.launch, self.block, self.epoch, self.atomic)
    }

    fn stamp(&self) -> Stamp {
        self.warp.map_or(Stamp::default(), |(warp, seen)| Stamp { warp: warp as u32, clock: seen[warp] })
    }

    /// Whether another warp of the block wrote, and no barrier orders that before this access.
    fn conflicts_within(&self, other: Touch, stamp: Stamp) -> bool {
        let same = other.launch() == self.launch & 0xff_ffff && other.block() == self.block;
        let Some((warp, seen)) = self.warp else { return false };
        let writer = stamp.warp as usize;
        same && !(other.atomic() && self.atomic) && writer != warp && stamp.clock > seen[writer]
    }

    fn conflicts(&self, other: Touch) -> bool {
        if other.launch() != self.launch & 0xff_ffff
            || other.block() == self.block
            || (other.atomic() && self.atomic)
        {
            return false;
        }
        if self.acquired.is_empty() {
            return true;
        }
        other.block() != MANY && self.acquired.get(&other.block()).is_none_or(|epoch| other.epoch() > *epoch)
    }
}

/// What is wrong with an access by a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GlobalProblem {
    OutOfBounds,
    /// Offset of the first byte that nobody wrote.
    Undefined(usize),
    /// Offset, the other block, or none where several read it, and whether the other wrote.
    Race {
        offset: usize,
        block: Option<u32>,
        wrote: bool,
    },
    /// With a warp of the same block, which wrote.
    RaceWithin {
        offset: usize,
        warp: u32,
    },
}

/// The memory of the device.
pub(crate) struct GlobalMemory {
    /// Ascending by base: addresses are never given out twice.
    allocations: Vec<Allocation>,
    next: u64,
    total: usize,
    used: usize,
    /// Index of the allocation that was found last.
    recent: usize,
}

impl GlobalMemory {
    pub fn new(total: usize) -> Self {
        GlobalMemory { allocations: Vec::new(), next: FIRST_ADDRESS, total, used: 0, recent: 0 }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free_bytes(&self) -> usize {
        self.total - self.used
    }

    pub fn allocate(&mut self, length: usize) -> Result<u64, MemoryError> {
        if length > self.free_bytes() {
            return Err(MemoryError::OutOfMemory {
                asked: length,
                free: self.free_bytes(),
                total: self.total,
            });
        }
        let base = self.next;
        self.next = (base + length as u64 + GUARD).next_multiple_of(GUARD);
        self.used += length;
        self.allocations.push(Allocation {
            base,
            length,
            freed: false,
            bytes: vec![0; length],
            defined: vec![0; length.div_ceil(64)],
            pages: (0..length.div_ceil(PAGE)).map(|_| None).collect(),
        });
        Ok(base)
    }

    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let found = self.allocations.binary_search_by_key(&address, |allocation| allocation.base);
        let allocation =
            found.ok().map(|index| &mut self.allocations[index]).filter(|allocation| !allocation.freed);
        let allocation = allocation.ok_or(MemoryError::NotAnAllocation(address))?;
        allocation.freed = true;
        (allocation.bytes, allocation.defined, allocation.pages) = (Vec::new(), Vec::new(), Vec::new());
        self.used -= allocation.length;
        Ok(())
    }

    /// Base and length of the allocation that holds an address.
    pub fn allocation_of(&mut self, address: u64) -> Option<(u64, usize)> {
        let index = self.find(address, 0)?;
        Some((self.allocations[index].base, self.allocations[index].length))
    }

    fn find(&mut self, address: u64, length: usize) -> Option<usize> {
        let holds = |allocation: &Allocation| {
            let end = address.checked_add(length as u64);
            !allocation.freed
                && address >= allocation.base
                && end.is_some_and(|end| end <= allocation.base + allocation.length as u64)
        };
        if self.allocations.get(self.recent).is_some_and(holds) {
            return Some(self.recent);
        }
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let index = after.checked_sub(1)?;
        if !holds(&self.allocations[index]) {
            return None;
        }
        self.recent = index;
        Some(index)
    }

    /// Words for a message: where an address lies that is in no allocation.
    pub fn describe(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let Some(allocation) = after.checked_sub(1).map(|index| &self.allocations[index]) else {
            return String::new();
        };
        let (base, length) = (allocation.base, allocation.length);
        let offset = address - base;
        if allocation.freed {
            return format!(
                ": offset {offset} of an allocation of {length} bytes at {base:#x} that was freed"
            );
        }
        format!(": offset {offset} of the allocation of {length} bytes at {base:#x}")
    }

    fn host(&mut self, address: u64, length: usize) -> Result<(&mut Allocation, usize), MemoryError> {
        match self.find(address, length) {
            Some(index) => {
                let allocation = &mut self.allocations[index];
                let offset = (address - allocation.base) as usize;
                Ok((allocation, offset))
            }
            None => Err(MemoryError::OutOfBounds { address, length, near: self.describe(address) }),
        }
    }

    /// The host writes.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.host(address, bytes.len())?;
        allocation.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        set_bits(&mut allocation.defined, offset, bytes.len(), true);
        Ok(())
    }

    /// The host reads; undefined bytes as they are.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.host(address, bytes.len())?;
        bytes.copy_from_slice(&allocation.bytes[offset..offset + bytes.len()]);
        Ok(())
    }

    pub fn fill(&mut self, address: u64, value: &[u8], count: usize) -> Result<(), MemoryError> {
        let length = count.saturating_mul(value.len());
        let (allocation, offset) = self.host(address, length)?;
        let bytes = &mut allocation.bytes[offset..offset + length];
        match value {
            [] => {}
            [first, others @ ..] if others.iter().all(|other| other == first) => bytes.fill(*first),
            _ => bytes.chunks_exact_mut(value.len()).for_each(|chunk| chunk.copy_from_slice(value)),
        }
        set_bits(&mut allocation.defined, offset, length, true);
        Ok(())
    }

    /// Copies within the device; undefined bytes stay undefined.
    pub fn copy(&mut self, to: u64, from: u64, length: usize) -> Result<(), MemoryError> {
        let (source, offset) = self.host(from, length)?;
        let bytes = source.bytes[offset..offset + length].to_vec();
        let undefined: Vec<usize> = (0..length).filter(|at| !bit(&source.defined, offset + at)).collect();
        self.write(to, &bytes)?;
        let (target, offset) = self.host(to, length)?;
        for at in undefined {
            set_bits(&mut target.defined, offset + at, 1, false);
        }
        Ok(())
    }

    /// Makes bytes count as never written: for a buffer within an arena that is used anew.
    pub fn forget(&mut self, address: u64, length: usize) -> Result<(), MemoryError> {
        let (allocation, offset) = self.host(address, length)?;
        set_bits(&mut allocation.defined, offset, length, false);
        Ok(())
    }

    /// Bytes for a kernel's read, checked as asked.
    #[inline]
    pub fn kernel_read(
        &mut self,
        address: u64,
        length: usize,
        defined: bool,
        accessor: Option<&Accessor>,
    ) -> Result<&[u8], GlobalProblem> {
        let index = self.find(address, length).ok_or(GlobalProblem::OutOfBounds)?;
        let allocation = &mut self.allocations[index];
        let offset = (address - allocation.base) as usize;
        if defined && let Some(at) = first_clear(&allocation.defined, offset, length) {
            return Err(GlobalProblem::Undefined(at - offset));
        }
        if let Some(accessor) = accessor {
            allocation.touch(offset, length, accessor, false)?;
        }
        Ok(&self.allocations[index].bytes[offset..offset + length])
    }

    /// Bytes for a kernel's write, checked as asked; they count as defined afterwards.
    #[inline]
    pub fn kernel_write(
        &mut self,
        address: u64,
        length: usize,
        accessor: Option<&Accessor>,
    ) -> Result<&mut [u8], GlobalProblem> {
        let index = self.find(address, length).ok_or(GlobalProblem::OutOfBounds)?;
        let allocation = &mut self.allocations[index];
        let offset = (address - allocation.base) as usize;
        if let Some(accessor) = accessor {
            allocation.touch(offset, length, accessor, true)?;
        }
        set_bits(&mut allocation.defined, offset, length, true);
        Ok(&mut allocation.bytes[offset..offset + length])
    }

    /// Which of some bytes nobody wrote, by offset.
    pub fn undefined(&mut self, address: u64, length: usize) -> Vec<usize> {
        let Some(index) = self.find(address, length) else { return Vec::new() };
        let allocation = &self.allocations[index];
        let offset = (address - allocation.base) as usize;
        if first_clear(&allocation.defined, offset, length).is_none() {
            return Vec::new();
        }
        (0..length).filter(|at| !bit(&allocation.defined, offset + at)).collect()
    }

    /// Whether an address and a length lie in one allocation.
    pub fn holds(&mut self, address: u64, length: usize) -> bool {
        self.find(address, length).is_some()
    }
}

impl Allocation {
    fn touch(
        &mut self,
        offset: usize,
        length: usize,
        accessor: &Accessor,
        write: bool,
    ) -> Result<(), GlobalProblem> {
        let (touch, stamp) = (accessor.touch(), accessor.stamp());
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let page_end = (at / PAGE + 1) * PAGE;
            let stop = end.min(page_end);
            let page = self.pages[at / PAGE].get_or_insert_with(|| Box::new(Page::new()));
            let shift = (at | stop).trailing_zeros().min(2);
            if shift < page.shift {
                page.refine(shift);
            }
            let units = (at % PAGE) >> page.shift..(at % PAGE + stop - at) >> page.shift;
            let first = units.start;
            let place = |unit: usize, shift: u32| at + ((unit - first) << shift) - offset;
            let mut clear = (Touch(u64::MAX), stamp);
            for unit in units {
                let (writer, wrote_at) = (page.writers[unit], page.stamps[unit]);
                if (writer, wrote_at) != clear {
                    if accessor.conflicts(writer) {
                        let offset = place(unit, page.shift);
                        return Err(GlobalProblem::Race { offset, block: Some(writer.block()), wrote: true });
                    }
                    if accessor.conflicts_within(writer, wrote_at) {
                        let offset = place(unit, page.shift);
                        return Err(GlobalProblem::RaceWithin { offset, warp: wrote_at.warp });
                    }
                    clear = (writer, wrote_at);
                }
                let reader = page.readers[unit];
                if write {
                    if reader.0 != 0 && accessor.conflicts(reader) {
                        let block = Some(reader.block()).filter(|block| *block != MANY);
                        return Err(GlobalProblem::Race {
                            offset: place(unit, page.shift),
                            block,
                            wrote: false,
                        });
                    }
                    page.writers[unit] = touch;
                    page.stamps[unit] = stamp;
                    if accessor.atomic {
                        page.readers[unit] = touch;
                    }
                } else if reader.launch() != touch.launch() || reader.block() == touch.block() {
                    page.readers[unit] = touch;
                } else {
                    page.readers[unit] =
                        Touch::new(accessor.launch, MANY, 0, reader.atomic() && accessor.atomic);
                }
            }
            at = stop;
        }
        Ok(())
    }
}

fn bit(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 != 0
}

/// Words and masks of a range of bits.
fn words(start: usize, length: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = start + length;
    (start / 64..end.div_ceil(64)).map(move |word| {
        let low = start.saturating_sub(word * 64).min(63);
        let high = (end - word * 64).min(64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

fn set_bits(bits: &mut [u64], start: usize, length: usize, value: bool) {
    if length == 0 {
        return;
    }
    for (word, mask) in words(start, length) {
        if value { bits[word] |= mask } else { bits[word] &= !mask }
    }
}

fn first_clear(bits: &[u64], start: usize, length: usize) -> Option<usize> {
    if length == 0 {
        return None;
    }
    words(start, length)
        .find(|(word, mask)| bits[*word] & mask != *mask)
        .map(|(word, mask)| word * 64 + (!bits[word] & mask).trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn accessor(block: u32, acquired: &HashMap<u32, u32>) -> Accessor<'_> {
        Accessor { launch: 1, block, epoch: 0, atomic: false, acquired, warp: None }
    }

    #[test]
    fn bits_of_ranges_across_words() {
        let mut bits = vec![0; 4];
        set_bits(&mut bits, 60, 70, true);
        assert_eq!((0..256).filter(|index| bit(&bits, *index)).count(), 70);
        assert_eq!(first_clear(&bits, 60, 70), None);
        assert_eq!(first_clear(&bits, 60, 71), Some(130));
        assert_eq!(first_clear(&bits, 59, 3), Some(59));
        set_bits(&mut bits, 64, 1, false);
        assert_eq!(first_clear(&bits, 60, 70), Some(64));
    }

    #[test]
    fn freed_and_foreign_addresses_are_refused() {
        let mut memory = GlobalMemory::new(1000);
        let a = memory.allocate(100).unwrap();
        assert!(memory.write(a + 90, &[0; 11]).is_err());
        assert!(matches!(memory.allocate(901), Err(MemoryError::OutOfMemory { free: 900, .. })));
        memory.free(a).unwrap();
        assert_eq!(memory.free(a), Err(MemoryError::NotAnAllocation(a)));
        assert_eq!(memory.kernel_read(a, 4, true, None), Err(GlobalProblem::OutOfBounds));
        assert!(memory.describe(a + 5).contains("freed"));
    }

    #[test]
    fn neighbouring_halves_of_a_word_are_no_race() {
        let none = HashMap::new();
        let mut memory = GlobalMemory::new(1000);
        let a = memory.allocate(16).unwrap();
        memory.kernel_write(a, 4, Some(&accessor(0, &none))).unwrap();
        memory.kernel_write(a + 4, 2, Some(&accessor(1, &none))).unwrap();
        memory.kernel_write(a + 6, 2, Some(&accessor(2, &none))).unwrap();
        let race = memory.kernel_write(a + 6, 2, Some(&accessor(1, &none))).map(|_| ());
        assert_eq!(race, Err(GlobalProblem::Race { offset: 0, block: Some(2), wrote: true }));
    }

    #[test]
    fn a_write_after_reads_of_other_blocks_is_a_race() {
        let none = HashMap::new();
        let mut memory = GlobalMemory::new(1000);
        let a = memory.allocate(16).unwrap();
        memory.write(a, &[1; 16]).unwrap();
        memory.kernel_read(a, 16, true, Some(&accessor(0, &none))).unwrap();
        memory.kernel_read(a, 16, true, Some(&accessor(1, &none))).unwrap();
        let race = memory.kernel_write(a + 8, 4, Some(&accessor(1, &none))).map(|_| ());
        assert_eq!(race, Err(GlobalProblem::Race { offset: 0, block: None, wrote: false }));
        let known = HashMap::from([(0, 0)]);
        let mut memory = GlobalMemory::new(1000);
        let a = memory.allocate(16).unwrap();
        memory.kernel_write(a, 4, Some(&accessor(0, &none))).unwrap();
        assert!(memory.kernel_read(a, 4, true, Some(&accessor(1, &known))).is_ok());
    }
}
