//! `tcgen05`: tensor memory, and products whose sums are there.

use super::operands::{Decoder, Modifiers};
use crate::error::LoadError;
use crate::parse::{Class, Operand, Space};
use crate::program::{Operation, Slot, TensorMatrix, TensorOperation, TensorShape, TensorSource};

type Result<T> = std::result::Result<T, LoadError>;

impl Decoder<'_> {
    pub(super) fn tensor_memory(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if m.take("fence::before_thread_sync") {
            return Ok(operation(TensorOperation::FenceBefore));
        }
        if m.take("fence::after_thread_sync") {
            return Ok(operation(TensorOperation::FenceAfter));
        }
        if m.take("cta_group::2") {
            return self.unsupported("pairs of blocks: clusters have one block");
        }
        if m.take("mma") {
            return self.tensor_multiply(m);
        }
        if m.take("commit") {
            return self.tensor_commit(m);
        }
        if !(m.take("sync") && m.take("aligned")) {
            return self.unsupported("this operation, or one without .sync.aligned");
        }
        if m.take("wait::ld") {
            return Ok(operation(TensorOperation::WaitLoad));
        }
        if m.take("wait::st") {
            return Ok(operation(TensorOperation::WaitStore));
        }
        for (name, load) in [("ld", true), ("st", false)] {
            if m.take(name) {
                return self.tensor_move(load, m);
            }
        }
        if !m.take("cta_group::1") {
            return self.unsupported("this operation, or one without .cta_group::1");
        }
        if m.take("relinquish_alloc_permit") {
            return Ok(operation(TensorOperation::Relinquish));
        }
        if m.take("dealloc") {
            m.take("b32");
            let (address, columns) = (self.narrow(0)?, self.narrow(1)?);
            return Ok(operation(TensorOperation::Deallocate { address, columns }));
        }
        if !m.take("alloc") {
            return self.unsupported("this operation");
        }
        m.drop_all(|text| matches!(text, "shared::cta" | "b32"));
        let (destination, columns) = (self.address(0)?, self.narrow(1)?);
        self.note_shared_access(Space::Shared, 4);
        Ok(operation(TensorOperation::Allocate { destination, columns }))
    }

    fn tensor_move(&mut self, load: bool, m: &mut Modifiers) -> Result<Operation> {
        let shape = m.find(|text| {
            Some(match text {
                "32x32b" => TensorShape::Lanes32,
                "16x128b" => TensorShape::Lanes16Bits128,
                "16x256b" => TensorShape::Lanes16Bits256,
                _ => return None,
            })
        });
        let Some(shape) = shape else { return self.unsupported("only shapes 32x32b, 16x128b and 16x256b") };
        let times = m.find(|text| {
            let times: usize = text.strip_prefix('x')?.parse().ok()?;
            (times.is_power_of_two() && times <= 128).then_some(times)
        });
        let Some(times) = times else { return self.unsupported("how many times: .x1 to .x128") };
        let count = shape.registers_and_columns().0 * times;
        if count > 128 || !m.take("b32") {
            return self.unsupported("more than 128 registers, or registers other than .b32");
        }
        let (data, address) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(address)?;
        let operands = match self.operand(data)?.clone() {
            Operand::Vector(elements) => elements,
            operand => vec![operand],
        };
        if operands.len() != count {
            return self.unsupported(format!("{} registers where {count} are needed", operands.len()));
        }
        let mut registers: Vec<Slot> = Vec::with_capacity(count);
        for operand in &operands {
            registers.push(if load {
                self.destination_operand(operand, Class::Narrow)?
            } else {
                self.source_operand(operand, Class::Narrow)?
            });
            if let (true, Operand::Register(register)) = (load, operand) {
                self.in_flight.push(*register);
            }
        }
        let registers = registers.into();
        Ok(operation(if load {
            TensorOperation::Load { shape, registers, address }
        } else {
            TensorOperation::Store { shape, registers, address }
        }))
    }

    fn tensor_multiply(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if !(m.take("cta_group::1") && m.take("kind::f16")) {
            return self.unsupported("only .cta_group::1.kind::f16");
        }
        if self.operand_count() != 5 {
            return self.unsupported("masks of lanes and scales of sums");
        }
        let d = self.address(0)?;
        let a = match self.operand(1)? {
            Operand::Address { .. } => TensorSource::Tensor(self.address(1)?),
            _ => TensorSource::Shared(self.wide(1)?),
        };
        let (b, description) = (self.wide(2)?, self.narrow(3)?);
        let (accumulate, negate) = self.signed_predicate(4)?;
        let matrix = TensorMatrix { d, a, b, description, accumulate, negate };
        Ok(operation(TensorOperation::Multiply(matrix)))
    }

    fn tensor_commit(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if !(m.take("cta_group::1") && m.take("mbarrier::arrive::one") && m.take("b64")) {
            return self.unsupported("only .cta_group::1.mbarrier::arrive::one.b64");
        }
        m.drop_all(|text| matches!(text, "shared::cluster"));
        let barrier = self.address(0)?;
        Ok(operation(TensorOperation::Commit { barrier }))
    }
}

fn operation(operation: TensorOperation) -> Operation {
    Operation::TensorMemory(Box::new(operation))
}
