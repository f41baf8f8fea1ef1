//! tcgen05.mma: products of a thread, with sums in tensor memory. They are checked when they are issued, and executed
//! when somebody waits for the mbarrier of a tcgen05.commit behind them and nothing else is missing there. Until then
//! nobody may write their operands, nor touch their sums but by products that follow in order.

use super::accumulate::accumulate_rows;
use super::block::Block;
use super::descriptor::{Descriptor, chunks};
use super::matrix::element;
use super::mbarrier::barrier_address;
use super::warp::{Warp, lanes};
use crate::clocks::{AGENTS, Knowledge};
use crate::diagnostic::{Fault, Problem};
use crate::memory::tensor::{Accumulators, Actor, Region};
use crate::program::{Address, MatrixFamily, MatrixFormat, TensorMatrix, TensorSource};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, Problem>;

/// k of a product of 16-bit operands.
const DEPTH: usize = 16;
/// Columns of tensor memory that a left operand has there.
const LEFT_COLUMNS: usize = DEPTH / 2;

/// An instruction descriptor of `kind::f16`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    rows: usize,
    columns: usize,
    format: MatrixFormat,
    negate: [bool; 2],
    /// Whether rows, or columns, of an operand run along memory.
    transposed: [bool; 2],
}

impl Shape {
    fn of(bits: u32) -> Result<Shape> {
        let field = |shift: u32, size: u32| bits >> shift & ((1 << size) - 1);
        let invalid = |what: String| {
            Err(Problem::new(Fault::InvalidUse, format!("instruction descriptor {bits:#x}: {what}")))
        };
        if field(0, 4) != 0 {
            return invalid("sparse operands and saturation are not modelled".into());
        }
        if field(6, 1) != 0 || field(23, 1) != 0 || field(29, 1) != 0 || field(30, 2) != 0 {
            return invalid("bits that have to be zero are not".into());
        }
        if field(4, 2) != 1 {
            return invalid(format!("sums of type {}: only 1, which is f32, is modelled", field(4, 2)));
        }
        let format = match (field(7, 3), field(10, 3)) {
            (0, 0) => MatrixFormat::Float16,
            (1, 1) => MatrixFormat::BFloat16,
            (a, b) => {
                return invalid(format!(
                    "operands of types {a} and {b}: both are f16 (0) or both are bf16 (1)"
                ));
            }
        };
        let (rows, columns) = (field(24, 5) as usize * 16, field(17, 6) as usize * 8);
        let step = match rows {
            64 => 8,
            128 => 16,
            _ => return invalid(format!("{rows} rows: there are 64 or 128")),
        };
        if columns == 0 || columns > 256 || !columns.is_multiple_of(step) {
            return invalid(format!(
                "{columns} columns for {rows} rows: a multiple of {step} up to 256 is needed"
            ));
        }
        let flag = |shift: u32| field(shift, 1) != 0;
        Ok(Shape { rows, columns, format, negate: [flag(13), flag(14)], transposed: [flag(15), flag(16)] })
    }

    /// Where a row of sums, or of a left operand in tensor memory, lies: of 64 rows each warp's lanes have 16.
    fn lane(&self, first: usize, row: usize) -> usize {
        if self.rows == 128 { row } else { first + row / 16 * 32 + row % 16 }
    }

    fn region(&self, lane: usize, column: usize, columns: usize) -> Region {
        let groups = if self.rows == 128 { 0xff } else { 0x55 << (lane / 16) };
        Region { groups, column, columns }
    }
}

/// The left operand of a product that was issued.
#[derive(Clone, Copy)]
enum Left {
    Shared(Descriptor),
    /// A column of tensor memory.
    Tensor(usize),
}

/// A product that was issued.
struct Product {
    agent: usize,
    shape: Shape,
    lane: usize,
    column: usize,
    region: Region,
    left: Left,
    right: Descriptor,
    accumulate: bool,
    tickets: [u64; 2],
}

/// An arrival at an mbarrier when products are complete.
struct Commit {
    agent: usize,
    barrier: u32,
    /// Products that were issued before, counted over the block.
    products: u64,
    /// What the warp had seen then. Its own accesses to tensor memory are fenced.
    knowledge: Knowledge,
}

/// What a block's threads have issued, in order.
#[derive(Default)]
pub(crate) struct TensorProducts {
    agents: HashMap<(usize, usize), usize>,
    issued: u64,
    in_flight: Vec<(u64, Product)>,
    commits: Vec<Commit>,
}

impl TensorProducts {
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Arrivals at an mbarrier that are on their way.
    pub fn arriving(&self, barrier: u32) -> u32 {
        self.commits.iter().filter(|commit| commit.barrier == barrier).count() as u32
    }
}

impl Block<'_> {
    /// The agent of the clocks for a thread's products.
    fn products_agent(&mut self, warp: &Warp, lane: usize) -> Result<usize> {
        if let Some(agent) = self.products.agents.get(&(warp.index, lane)) {
            return Ok(*agent);
        }
        if self.next_agent >= AGENTS {
            let message = "too many mbarriers and threads that issue tcgen05.mma in a block";
            return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
        }
        self.products.agents.insert((warp.index, lane), self.next_agent);
        self.next_agent += 1;
        Ok(self.next_agent - 1)
    }

    pub(super) fn tensor_multiply(
        &mut self,
        warp: &mut Warp,
        matrix: &TensorMatrix,
        mask: u32,
    ) -> Result<()> {
        if mask.count_ones() != 1 {
            let message = format!("lanes {mask:#x} issue a product each: one thread has to");
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        let thread = mask.trailing_zeros() as usize;
        self.issue_product(warp, matrix, thread).map_err(|mut problem| {
            problem.lane = problem.lane.or(Some(thread as u32));
            problem
        })
    }

    fn issue_product(&mut self, warp: &mut Warp, matrix: &TensorMatrix, thread: usize) -> Result<()> {
        let shape = Shape::of(warp.narrow[matrix.description as usize][thread])?;
        let address = warp.addresses(&matrix.d)[thread] as u32;
        let (lane, column) = (address as usize >> 16, address as usize & 0xffff);
        if lane != 0 && !(shape.rows == 64 && lane == 16) {
            let message = format!("sums of {} rows at lane {lane} of tensor memory", shape.rows);
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        let agent = self.products_agent(warp, thread)?;
        let accumulators = Accumulators { address, rows: shape.rows, columns: shape.columns };
        let actor = Actor::Products { warp: warp.index, agent, accumulators };
        let region = shape.region(lane, column, shape.columns);
        let accumulate = (warp.predicates[matrix.accumulate as usize] >> thread & 1 != 0) != matrix.negate;
        if accumulate {
            let checked = self.tensor.check_read(region, actor, &self.clocks);
            checked.map_err(|problem| self.tensor_problem(problem, "adds to"))?;
        }
        let checked = self.tensor.check_write(region, actor, &self.clocks);
        checked.map_err(|problem| self.tensor_problem(problem, "writes"))?;
        let mut tickets = [u64::MAX; 2];
        let left = match matrix.a {
            TensorSource::Shared(slot) => {
                let descriptor = Descriptor::of_tcgen05(warp.wide[slot as usize][thread])?;
                let rows = 0..shape.rows as u64;
                tickets[0] = self.issue_matrix(warp, descriptor, shape.transposed[0], rows, DEPTH, "a")?;
                Left::Shared(descriptor)
            }
            TensorSource::Tensor(address) => {
                let address = warp.addresses(&address)[thread] as usize;
                tickets[0] = self.issue_left_in_tensor_memory(warp, &shape, address, actor)?;
                Left::Tensor(address & 0xffff)
            }
        };
        let right = Descriptor::of_tcgen05(warp.wide[matrix.b as usize][thread])?;
        let rows = 0..shape.columns as u64;
        tickets[1] = self.issue_matrix(warp, right, shape.transposed[1], rows, DEPTH, "b")?;
        self.tensor.start_product(region, agent, accumulators, warp.pc);
        self.products.issued += 1;
        let product = Product { agent, shape, lane, column, region, left, right, accumulate, tickets };
        self.products.in_flight.push((self.products.issued, product));
        Ok(())
    }

    fn issue_left_in_tensor_memory(
        &mut self,
        warp: &Warp,
        shape: &Shape,
        address: usize,
        actor: Actor,
    ) -> Result<u64> {
        let invalid = |message: &str| Err(Problem::new(Fault::InvalidUse, message));
        if shape.rows != 128 || address >> 16 != 0 {
            return invalid(
                "of left operands in tensor memory only those of 128 rows, at lane 0, are modelled",
            );
        }
        if shape.transposed[0] {
            return invalid("a left operand in tensor memory whose rows run along memory: there is none");
        }
        let region = shape.region(0, address & 0xffff, LEFT_COLUMNS);
        let checked = self.tensor.check_read(region, actor, &self.clocks);
        checked.map_err(|problem| self.tensor_problem(problem, "multiplies"))?;
        let ticket = self.new_ticket();
        self.tensor.start_read(region, actor, warp.pc, ticket);
        Ok(ticket)
    }

    /// tcgen05.commit: an arrival when all that the thread has issued is complete.
    pub(super) fn tensor_commit(&mut self, warp: &mut Warp, barrier: &Address, mask: u32) -> Result<()> {
        let addresses = warp.addresses(barrier).map(barrier_address);
        for lane in lanes(mask) {
            self.find_mbarrier(addresses[lane], warp, lane)?;
            let agent = self.products_agent(warp, lane)?;
            let mut knowledge = self.clocks.knowledge(warp.index).clone();
            knowledge.fenced[warp.index] = knowledge.seen[warp.index];
            let (barrier, products) = (addresses[lane], self.products.issued);
            self.products.commits.push(Commit { agent, barrier, products, knowledge });
        }
        self.clocks.advance(warp.index);
        Ok(())
    }

    /// The first commit that is to arrive at an mbarrier does: what it waits for is executed. Gives what those learn who
    /// wait there.
    pub(super) fn land_commit(&mut self, barrier: u32) -> Option<Knowledge> {
        let at = self.products.commits.iter().position(|commit| commit.barrier == barrier)?;
        let mut commit = self.products.commits.remove(at);
        let clock = self.clocks.tick();
        let ready = |(number, product): &mut (u64, Product)| {
            product.agent == commit.agent && *number <= commit.products
        };
        let done: Vec<(u64, Product)> = self.products.in_flight.extract_if(.., ready).collect();
        done.iter().for_each(|(_, product)| self.execute_tensor_product(product, clock));
        commit.knowledge.seen[commit.agent] = clock;
        Some(commit.knowledge)
    }

    fn execute_tensor_product(&mut self, product: &Product, clock: u32) {
        let Product { shape, agent, .. } = *product;
        let sign = |negate: bool| if negate { -1.0 } else { 1.0 };
        let signs = shape.negate.map(sign);
        let mut left = vec![0f32; shape.rows * DEPTH];
        match product.left {
            Left::Shared(descriptor) => {
                let at = (shape.transposed[0], shape.rows, agent, clock);
                self.read_tensor_operand(descriptor, shape.format, at, |row, k, value| {
                    left[row * DEPTH + k] = signs[0] * value;
                });
            }
            Left::Tensor(column) => {
                for (row, left) in left.chunks_exact_mut(DEPTH).enumerate() {
                    let words = self.tensor.row(shape.lane(0, row), column, LEFT_COLUMNS);
                    for (pair, word) in left.chunks_exact_mut(2).zip(words) {
                        pair[0] = signs[0] * element(shape.format, word & 0xffff);
                        pair[1] = signs[0] * element(shape.format, word >> 16);
                    }
                }
            }
        }
        let mut right = vec![0f32; DEPTH * shape.columns];
        let at = (shape.transposed[1], shape.columns, agent, clock);
        self.read_tensor_operand(product.right, shape.format, at, |row, k, value| {
            right[k * shape.columns + row] = signs[1] * value;
        });
        let mut sums = vec![0f32; shape.rows * shape.columns];
        let lane = |row: usize| shape.lane(product.lane, row);
        if product.accumulate {
            for (row, sums) in sums.chunks_exact_mut(shape.columns).enumerate() {
                let words = self.tensor.row(lane(row), product.column, shape.columns);
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = f32::from_bits(*word));
            }
        }
        accumulate_rows(MatrixFamily::Tcgen16, &left, &right, shape.columns, &mut sums);
        for (row, sums) in sums.chunks_exact(shape.columns).enumerate() {
            let words = self.tensor.row_mut(lane(row), product.column, shape.columns);
            words.iter_mut().zip(sums).for_each(|(word, sum)| *word = sum.to_bits());
        }
        self.shared.pending_reads.retain(|read| !product.tickets.contains(&read.ticket));
        self.tensor.end_reads(product.tickets[0], agent, clock);
        self.tensor.end_product(product.region, clock);
    }

    fn read_tensor_operand(
        &mut self,
        descriptor: Descriptor,
        format: MatrixFormat,
        (transposed, rows, agent, clock): (bool, usize, usize, u32),
        mut set: impl FnMut(usize, usize, f32),
    ) {
        let shared = &mut self.shared;
        chunks(descriptor, DEPTH, transposed, 0..rows as u64, |address, row, k| {
            let bytes = shared.reread(address, 16, agent, clock);
            for (at, bytes) in bytes.chunks_exact(2).enumerate() {
                let value = element(format, u16::from_le_bytes([bytes[0], bytes[1]]).into());
                if transposed { set(row + at, k, value) } else { set(row, k + at, value) }
            }
        });
    }
}
