//! Bulk copies: whole boxes of tensors and runs of bytes, by the asynchronous proxy.
//!
//! Loads land when somebody waits for their mbarrier and nothing but their bytes is missing. Stores read their source
//! when their thread waits for the read, and reach global memory when it waits for the whole, or when the block ends.

use super::block::Block;
use super::copies::Source;
use super::mbarrier::barrier_address;
use super::warp::{Warp, lanes};
use crate::diagnostic::{Fault, Problem};
use crate::memory::global::Accessor;
use crate::memory::shared::PendingRead;
use crate::memory::{PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::program::{Address, Slot, TensorCopy};
use crate::tensor_map::{BoxRow, Swizzle, TensorMap};

type Result<T> = std::result::Result<T, Problem>;

/// Bytes in shared memory and in global memory that a copy moves.
struct Pieces {
    shared: u32,
    swizzle: Swizzle,
    rows: Vec<BoxRow>,
}

/// A load on its way.
pub(crate) struct BulkLoad {
    /// Whether it brings a box, which may have places that nobody wrote: what is wrong is to use them.
    is_box: bool,
    pub barrier: u32,
    pub bytes: usize,
    pieces: Pieces,
    instruction: u32,
    lane: usize,
}

/// A store of a thread.
pub(crate) struct BulkStore {
    lane: usize,
    group: u32,
    pieces: Pieces,
    bytes: usize,
    instruction: u32,
    ticket: u64,
    /// The source, once it has been read.
    data: Option<Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct BulkStores {
    in_flight: Vec<BulkStore>,
    committed: [u32; 32],
}

impl BulkStores {
    pub fn commit(&mut self, mask: u32) {
        lanes(mask).for_each(|lane| self.committed[lane] += 1);
    }
}

fn shared_offset(address: u64) -> u64 {
    address.checked_sub(SHARED_WINDOW).unwrap_or(address)
}

impl Block<'_> {
    /// fence.proxy.tensormap::generic.acquire: from here on the block's tensor copies see these maps.
    pub fn acquire_maps(&mut self, warp: &Warp, map: &Address, mask: u32) {
        let (addresses, clock) = (warp.addresses(map), self.clocks.seen(warp.index)[warp.index]);
        for lane in lanes(mask) {
            let acquired = (addresses[lane], warp.index, clock);
            if !self.acquired_maps.contains(&acquired) {
                self.acquired_maps.push(acquired);
            }
        }
    }

    /// A map in global memory was put there by the generic proxy: the warp, or one that it has heard of since, must have
    /// acquired it.
    fn check_acquired(&self, warp: &Warp, address: u64, lane: usize) -> Result<()> {
        let seen = self.clocks.seen(warp.index);
        let known =
            |&(map, by, clock): &(u64, usize, u32)| map == address && (by == warp.index || clock <= seen[by]);
        if !self.configuration.races || self.acquired_maps.iter().any(known) {
            return Ok(());
        }
        let message = format!(
            "a copy by the tensor map at {address:#x} of global memory, which this block has not acquired: \
             fence.proxy.tensormap::generic.acquire is missing before"
        );
        Err(Problem::at_lane(Fault::MissingFence, lane as u32, message))
    }

    fn tensor_map(&mut self, warp: &Warp, address: u64, lane: usize) -> Result<TensorMap> {
        let mut bytes = [0; 128];
        let within = (PARAMETER_WINDOW..PARAMETER_WINDOW + WINDOW_BYTES).contains(&address);
        let found = if within {
            let start = (address - PARAMETER_WINDOW) as usize;
            self.parameters
                .get(start..start.saturating_add(128))
                .map(|found| bytes.copy_from_slice(found))
                .is_some()
        } else {
            self.check_acquired(warp, address, lane)?;
            self.memory.read(address, &mut bytes).is_ok()
        };
        let map = if found && address.is_multiple_of(64) { TensorMap::decode(&bytes) } else { None };
        map.ok_or_else(|| {
            let message = format!(
                "no tensor map at {address:#x}: one that cuTensorMapEncodeTiled made is expected, at a multiple of 64, \
                 as a __grid_constant__ parameter or in global memory"
            );
            Problem::at_lane(Fault::InvalidUse, lane as u32, message)
        })
    }

    fn tensor_pieces(&mut self, warp: &Warp, copy: &TensorCopy, lane: usize) -> Result<Pieces> {
        let map = self.tensor_map(warp, warp.wide[copy.map as usize][lane], lane)?;
        if map.sizes.len() != usize::from(copy.dimensions) {
            let message = format!("{} dimensions for a tensor map of {}", copy.dimensions, map.sizes.len());
            return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
        }
        let coordinates: Vec<i32> = copy.coordinates[..usize::from(copy.dimensions)]
            .iter()
            .map(|slot| warp.narrow[*slot as usize][lane] as i32)
            .collect();
        let shared = if copy.shared_wide {
            shared_offset(warp.wide[copy.shared as usize][lane])
        } else {
            warp.narrow[copy.shared as usize][lane].into()
        };
        if shared % 128 != 0 {
            let message =
                format!("a tensor copy at {shared:#x} of shared memory: a multiple of 128 is needed");
            return Err(Problem::at_lane(Fault::Misaligned, lane as u32, message));
        }
        Ok(Pieces { shared: shared as u32, swizzle: map.swizzle, rows: map.rows(&coordinates) })
    }

    pub fn tensor_load(&mut self, warp: &mut Warp, copy: &TensorCopy, mask: u32) -> Result<()> {
        for lane in lanes(mask) {
            let pieces = self.tensor_pieces(warp, copy, lane)?;
            let barrier = if copy.barrier_wide {
                barrier_address(warp.wide[copy.barrier as usize][lane])
            } else {
                warp.narrow[copy.barrier as usize][lane]
            };
            self.start_load(warp, pieces, barrier, lane, true)?;
        }
        Ok(())
    }

    fn flat_pieces(&self, shared: u64, global: u64, bytes: u32, lane: usize) -> Result<Pieces> {
        let shared = shared_offset(shared);
        if !shared.is_multiple_of(16) || !global.is_multiple_of(16) || !bytes.is_multiple_of(16) {
            let message = format!(
                "a bulk copy of {bytes} bytes between {global:#x} and {shared:#x} of shared memory: all three have to \
                 be multiples of 16"
            );
            return Err(Problem::at_lane(Fault::Misaligned, lane as u32, message));
        }
        let length = bytes as usize;
        let row = BoxRow { offset: 0, row_bytes: length, skip: 0, length, address: global };
        Ok(Pieces { shared: shared as u32, swizzle: Swizzle::None, rows: vec![row] })
    }

    pub fn bulk_load(
        &mut self,
        warp: &mut Warp,
        shared: &Address,
        global: &Address,
        bytes: Slot,
        barrier: &Address,
        mask: u32,
    ) -> Result<()> {
        let (to, from, barriers) = (warp.addresses(shared), warp.addresses(global), warp.addresses(barrier));
        for lane in lanes(mask) {
            let pieces = self.flat_pieces(to[lane], from[lane], warp.narrow[bytes as usize][lane], lane)?;
            self.start_load(warp, pieces, barrier_address(barriers[lane]), lane, false)?;
        }
        Ok(())
    }

    fn start_load(
        &mut self,
        warp: &Warp,
        pieces: Pieces,
        barrier: u32,
        lane: usize,
        is_box: bool,
    ) -> Result<()> {
        self.find_mbarrier(barrier, warp, lane)?;
        let bytes: usize = pieces.rows.iter().map(|row| row.row_bytes).sum();
        let start = u64::from(pieces.shared);
        if let Err(problem) = self.shared.start_copy(start, bytes, warp.index, warp.pc, &self.clocks) {
            let mut problem = self.describe_shared(problem, start as usize, bytes, true);
            problem.lane = Some(lane as u32);
            return Err(problem);
        }
        for row in &pieces.rows {
            if row.length > 0 && !self.memory.holds(row.address, row.length) {
                let place = self.memory.describe(row.address);
                let message = format!(
                    "copies {} bytes from {:#x}{place}, which no allocation holds",
                    row.length, row.address
                );
                return Err(Problem::at_lane(Fault::OutOfBounds, lane as u32, message));
            }
        }
        self.bulk_loads.push(BulkLoad { is_box, barrier, bytes, pieces, instruction: warp.pc, lane });
        Ok(())
    }

    /// All copies that an mbarrier counts land.
    pub fn land_bulk_loads(&mut self, barrier: u32) -> Result<()> {
        let agent = self.mbarriers[&barrier].agent;
        let mut at = 0;
        while at < self.bulk_loads.len() {
            if self.bulk_loads[at].barrier != barrier {
                at += 1;
                continue;
            }
            let load = self.bulk_loads.swap_remove(at);
            let clock = self.clocks.tick();
            for row in &load.pieces.rows {
                let mut bytes = vec![0; row.row_bytes];
                let undefined = if load.is_box && self.configuration.initialised {
                    self.memory.undefined(row.address, row.length)
                } else {
                    Vec::new()
                };
                self.read_source(
                    row.address,
                    &mut bytes[row.skip..row.skip + row.length],
                    load.instruction,
                    load.lane,
                    Source { warp: None, initialised: !load.is_box },
                )?;
                let start = u64::from(load.pieces.shared) + row.offset as u64;
                for (chunk, bytes) in bytes.chunks(16).enumerate() {
                    let place = load.pieces.swizzle.apply(start + 16 * chunk as u64) as usize;
                    self.shared.land(place, bytes, agent, clock, load.instruction);
                }
                for at in undefined {
                    self.shared.forget(load.pieces.swizzle.apply(start + (row.skip + at) as u64) as usize);
                }
            }
            self.landed(barrier, load.bytes);
        }
        Ok(())
    }

    pub fn tensor_store(&mut self, warp: &mut Warp, copy: &TensorCopy, mask: u32) -> Result<()> {
        for lane in lanes(mask) {
            let pieces = self.tensor_pieces(warp, copy, lane)?;
            self.start_store(warp, pieces, lane)?;
        }
        Ok(())
    }

    pub fn bulk_store(
        &mut self,
        warp: &mut Warp,
        shared: &Address,
        global: &Address,
        bytes: Slot,
        mask: u32,
    ) -> Result<()> {
        let (from, to) = (warp.addresses(shared), warp.addresses(global));
        for lane in lanes(mask) {
            let pieces = self.flat_pieces(from[lane], to[lane], warp.narrow[bytes as usize][lane], lane)?;
            self.start_store(warp, pieces, lane)?;
        }
        Ok(())
    }

    fn start_store(&mut self, warp: &mut Warp, pieces: Pieces, lane: usize) -> Result<()> {
        let bytes: usize = pieces.rows.iter().map(|row| row.row_bytes).sum();
        let start = u64::from(pieces.shared);
        // What others wrote has to be there when the copy is issued, not only when it is read.
        if let Err(problem) = self.shared.read(start, bytes, warp.index, &self.clocks, true) {
            let mut problem = self.describe_shared(problem, start as usize, bytes, false);
            problem.lane = Some(lane as u32);
            return Err(problem);
        }
        let ticket = self.new_ticket();
        self.shared.pending_reads.push(PendingRead {
            start: start as usize,
            end: start as usize + bytes,
            warp: warp.index,
            instruction: warp.pc,
            ticket,
        });
        let group = warp.bulk_stores.committed[lane];
        let instruction = warp.pc;
        warp.bulk_stores.in_flight.push(BulkStore {
            lane,
            group,
            pieces,
            bytes,
            instruction,
            ticket,
            data: None,
        });
        Ok(())
    }

    /// cp.async.bulk.wait_group: all but the last `pending` groups of each lane have been read, or are complete.
    pub fn bulk_wait(&mut self, warp: &mut Warp, pending: u32, read: bool, mask: u32) -> Result<()> {
        let limit = warp.bulk_stores.committed.map(|committed| committed.saturating_sub(pending));
        let mut stores = std::mem::take(&mut warp.bulk_stores.in_flight);
        for store in &mut stores {
            if mask >> store.lane & 1 == 0 || store.group >= limit[store.lane] {
                continue;
            }
            if store.data.is_none() {
                store.data = Some(self.read_stored(warp.index, store));
            }
            if !read {
                self.write_stored(store)?;
            }
        }
        stores.retain(|store| read || mask >> store.lane & 1 == 0 || store.group >= limit[store.lane]);
        warp.bulk_stores.in_flight = stores;
        Ok(())
    }

    /// What a warp has left when its block ends: a store whose source was not read by then reads memory that may
    /// belong to another block.
    pub fn finish_bulk_stores(&mut self, warp: &mut Warp) -> Result<()> {
        for store in std::mem::take(&mut warp.bulk_stores.in_flight) {
            if store.data.is_none() {
                let message = format!(
                    "the block ended while the bulk store issued at {} may still read its shared memory: \
                     cp.async.bulk.wait_group.read is missing",
                    self.line_of(store.instruction)
                );
                return Err(Problem::at_lane(Fault::MissingWait, store.lane as u32, message));
            }
            self.write_stored(&store)?;
        }
        Ok(())
    }

    fn read_stored(&mut self, warp: usize, store: &BulkStore) -> Vec<u8> {
        self.shared.pending_reads.retain(|read| read.ticket != store.ticket);
        let start = store.pieces.shared;
        let clock = self.clocks.seen(warp)[warp];
        self.shared.reread(start.into(), store.bytes, warp, clock);
        let mut data = Vec::with_capacity(store.bytes);
        for row in &store.pieces.rows {
            for chunk in (0..row.row_bytes).step_by(16) {
                let place = u64::from(start) + (row.offset + chunk) as u64;
                let place = store.pieces.swizzle.apply(place) as usize;
                data.extend_from_slice(&self.shared.bytes[place..place + 16]);
            }
        }
        data
    }

    fn write_stored(&mut self, store: &BulkStore) -> Result<()> {
        let Some(data) = &store.data else { return Ok(()) };
        for row in &store.pieces.rows {
            if row.length == 0 {
                continue;
            }
            let accessor = Accessor {
                launch: self.launch,
                block: self.linear,
                epoch: self.epoch,
                atomic: false,
                acquired: &self.acquired,
                warp: None,
            };
            let accessor = self.configuration.races.then_some(&accessor);
            match self.memory.kernel_write(row.address, row.length, accessor) {
                Ok(bytes) => {
                    let start = row.offset + row.skip;
                    bytes.copy_from_slice(&data[start..start + row.length]);
                }
                Err(problem) => {
                    let run = super::access::Run { lanes: 1, start: row.address, length: row.length };
                    let mut problem = self.global_problem(problem, &[row.address; 32], run, row.length, true);
                    problem.lane = Some(store.lane as u32);
                    problem.message +=
                        &format!(" (the bulk store issued at {})", self.line_of(store.instruction));
                    return Err(problem);
                }
            }
        }
        Ok(())
    }
}
