//! Tensor cores, matrix loads, asynchronous copies and mbarriers.

use super::moves::{drop_cache_hints, ordering, space};
use super::operands::{Decoder, Modifiers};
use crate::error::LoadError;
use crate::parse::{Class, Operand, Space};
use crate::program::{
    MatrixFamily, MatrixFormat, MbarrierOperation, NONE, Operation, TensorCopy, WarpgroupMatrix,
    WarpgroupSource,
};

type Result<T> = std::result::Result<T, LoadError>;

impl Decoder<'_> {
    /// `None` for an opcode of another kind.
    pub(super) fn matrix(&mut self, base: &str, m: &mut Modifiers) -> Result<Option<Operation>> {
        let operation = match base {
            "mma" => self.multiply_matrices(m)?,
            "ldmatrix" | "stmatrix" => self.move_matrix(base == "ldmatrix", m)?,
            "cp" => self.copy(m)?,
            "mbarrier" => self.mbarrier(m)?,
            "wgmma" if self.target != "sm_90a" => return self.unsupported("it is for .target sm_90a alone"),
            "wgmma" => self.warpgroup(m)?,
            "tcgen05" if self.target != "sm_100a" => {
                return self.unsupported("of .target sm_100a alone here");
            }
            "tcgen05" => self.tensor_memory(m)?,
            _ => return Ok(None),
        };
        Ok(Some(operation))
    }

    fn multiply_matrices(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if !(m.take("sync") && m.take("aligned") && m.take("row") && m.take("col")) {
            return self.unsupported("only mma.sync.aligned with .row.col");
        }
        let (c, b, a, d) = (m.last(), m.last(), m.last(), m.last());
        if c != "f32" || d != "f32" || a != b {
            return self.unsupported("only f32 accumulators and operands of one type");
        }
        let shape = m.last();
        let (family, format) = match (shape, a) {
            ("m16n8k16", "bf16") => (MatrixFamily::Mma16k16, MatrixFormat::BFloat16),
            ("m16n8k16", "f16") => (MatrixFamily::Mma16k16, MatrixFormat::Float16),
            ("m16n8k8", "bf16") => (MatrixFamily::Mma16k8, MatrixFormat::BFloat16),
            ("m16n8k8", "f16") => (MatrixFamily::Mma16k8, MatrixFormat::Float16),
            ("m16n8k8", "tf32") => (MatrixFamily::MmaTf32k8, MatrixFormat::TensorFloat32),
            ("m16n8k4", "tf32") => (MatrixFamily::MmaTf32k4, MatrixFormat::TensorFloat32),
            _ => return self.unsupported("this shape with this type"),
        };
        let (mut a, mut b) = ([NONE; 4], [NONE; 2]);
        match family {
            MatrixFamily::Mma16k16 | MatrixFamily::MmaTf32k8 => {
                a = self.narrow_vector::<4>(1, false)?;
                b = self.narrow_vector::<2>(2, false)?;
            }
            _ => {
                a[..2].copy_from_slice(&self.narrow_vector::<2>(1, false)?);
                b[..1].copy_from_slice(&self.narrow_vector::<1>(2, false)?);
            }
        }
        let c = self.narrow_vector::<4>(3, false)?;
        let d = self.narrow_vector::<4>(0, true)?;
        Ok(Operation::MatrixMultiply { family, format, d, a, b, c })
    }

    fn move_matrix(&mut self, load: bool, m: &mut Modifiers) -> Result<Operation> {
        if !(m.take("sync") && m.take("aligned") && m.take("m8n8") && m.take("b16")) {
            return self.unsupported("only .sync.aligned.m8n8 of b16");
        }
        let Some(count) = m.find(|text| ["x1", "x2", "x4"].iter().position(|name| *name == text)) else {
            return self.unsupported("how many matrices");
        };
        let count = 1 << count;
        let transpose = m.take("trans");
        let space = space(m);
        if !matches!(space, Space::Shared) {
            return self.unsupported("a matrix outside shared memory");
        }
        let (data, address) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(address)?;
        let mut registers = [NONE; 4];
        match count {
            1 => registers[..1].copy_from_slice(&self.narrow_vector::<1>(data, load)?),
            2 => registers[..2].copy_from_slice(&self.narrow_vector::<2>(data, load)?),
            _ => registers = self.narrow_vector::<4>(data, load)?,
        }
        let count = count as u8;
        Ok(if load {
            Operation::LoadMatrix { count, transpose, registers, address }
        } else {
            Operation::StoreMatrix { count, transpose, registers, address }
        })
    }

    fn copy(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if !m.take("async") {
            return self.unsupported("only cp.async");
        }
        let hint = m.take("L2::cache_hint");
        if m.take("bulk") {
            return self.bulk_copy(m);
        }
        if m.take("commit_group") {
            return Ok(Operation::CopyCommit);
        }
        if m.take("wait_group") {
            return Ok(Operation::CopyWait { pending: self.immediate(0)? as u32 });
        }
        if m.take("wait_all") {
            return Ok(Operation::CopyWaitAll);
        }
        let (all, global_only) = (m.take("ca"), m.take("cg"));
        if !(all || global_only) || !m.take("global") || space(m) != Space::Shared {
            return self.unsupported("only .ca and .cg from global to shared memory");
        }
        drop_cache_hints(m);
        let bytes = self.immediate(2)?;
        if !(matches!(bytes, 4 | 8 | 16) && (all || bytes == 16)) {
            return self.unsupported(format!("{bytes} bytes: .ca copies 4, 8 or 16, .cg copies 16"));
        }
        let (shared, global) = (self.address(0)?, self.address(1)?);
        let (mut source_bytes, mut ignore) = (NONE, NONE);
        if self.operand_count() > 3 + usize::from(hint) {
            match self.class_of(self.operand(3)?) {
                Some(Class::Predicate) => ignore = self.predicate(3)?,
                _ => source_bytes = self.narrow(3)?,
            }
        }
        self.note_shared_access(Space::Shared, bytes as usize);
        Ok(Operation::CopyAsync { bytes: bytes as u8, shared, global, source_bytes, ignore })
    }

    fn bulk_copy(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if m.take("commit_group") {
            return Ok(Operation::BulkCommit);
        }
        if m.take("wait_group") {
            let read = m.take("read");
            return Ok(Operation::BulkWait { pending: self.immediate(0)? as u32, read });
        }
        if m.take("prefetch") {
            m.drop_all(|_| true);
            return Ok(Operation::Nothing);
        }
        if m.take("multicast::cluster") {
            return self.unsupported("multicast: clusters have one block");
        }
        let tensor = m.take("tensor");
        let dimensions = m.find(|text| match text.as_bytes() {
            [digit @ b'1'..=b'5', b'd'] => Some(digit - b'0'),
            _ => None,
        });
        m.take("tile");
        let completes = m.take("mbarrier::complete_tx::bytes");
        let grouped = m.take("bulk_group");
        // The destination's space stands first.
        let loads = completes && !grouped;
        if completes == grouped || !m.take("global") || space(m) != Space::Shared {
            return self.unsupported(
                "only global to shared with an mbarrier, and shared to global with a bulk group",
            );
        }
        match (tensor, dimensions) {
            (true, Some(dimensions)) => {
                let (map_operand, shared_operand) = if loads { (1, 0) } else { (0, 1) };
                let (map, coordinates) = self.tensor_address(map_operand, dimensions)?;
                let shared = self.address(shared_operand)?;
                let barrier = if loads { Some(self.address(2)?) } else { None };
                if map.offset != 0 || shared.offset != 0 || barrier.is_some_and(|barrier| barrier.offset != 0)
                {
                    return self.unsupported("an offset in an address of a tensor copy");
                }
                if !map.wide {
                    return self.unsupported("a tensor map at a 32-bit address");
                }
                let copy = TensorCopy {
                    dimensions,
                    map: map.base,
                    coordinates,
                    shared: shared.base,
                    shared_wide: shared.wide,
                    barrier: barrier.map_or(NONE, |barrier| barrier.base),
                    barrier_wide: barrier.is_some_and(|barrier| barrier.wide),
                };
                Ok(if loads { Operation::TensorLoad(copy) } else { Operation::TensorStore(copy) })
            }
            (false, None) if loads => {
                let (shared, global, bytes) = (self.address(0)?, self.address(1)?, self.narrow(2)?);
                Ok(Operation::BulkLoad { shared, global, bytes, barrier: self.address(3)? })
            }
            (false, None) => {
                let (global, shared, bytes) = (self.address(0)?, self.address(1)?, self.narrow(2)?);
                Ok(Operation::BulkStore { shared, global, bytes })
            }
            _ => self.unsupported("a tensor copy names its number of dimensions, another copy does not"),
        }
    }

    fn tensor_address(
        &mut self,
        index: usize,
        dimensions: u8,
    ) -> Result<(crate::program::Address, [u32; 5])> {
        let Operand::Address { base, offset, coordinates } = self.operand(index)?.clone() else {
            return self.unsupported("a tensor map and coordinates are expected");
        };
        let [Operand::Vector(values)] = coordinates.as_slice() else {
            return self.unsupported("coordinates in braces are expected after the tensor map");
        };
        if values.len() != usize::from(dimensions) {
            return self.unsupported(format!("{} coordinates for {dimensions} dimensions", values.len()));
        }
        let mut slots = [NONE; 5];
        for (slot, value) in slots.iter_mut().zip(values) {
            *slot = self.source_operand(value, Class::Narrow)?;
        }
        Ok((self.address_parts(&base, offset)?, slots))
    }

    fn mbarrier(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let space = space(m);
        if space == Space::Global {
            return self.unsupported("an mbarrier outside shared memory");
        }
        m.take("b64");
        ordering(m);
        if m.take("init") {
            let address = self.address(0)?;
            let count = self.narrow(1)?;
            return Ok(Operation::Mbarrier(MbarrierOperation::Initialise { count }, address));
        }
        if m.take("inval") {
            return Ok(Operation::Mbarrier(MbarrierOperation::Invalidate, self.address(0)?));
        }
        if m.take("arrive") {
            let expects = m.take("expect_tx");
            let operand = self.operand(0)?.clone();
            let state = self.destination_or_sink(&operand, Class::Wide)?;
            let address = self.address(1)?;
            let third = if self.operand_count() > 2 { self.narrow(2)? } else { NONE };
            let (count, bytes) = if expects { (NONE, third) } else { (third, NONE) };
            return Ok(Operation::Mbarrier(MbarrierOperation::Arrive { state, count, bytes }, address));
        }
        if m.take("expect_tx") {
            let address = self.address(0)?;
            let bytes = self.narrow(1)?;
            return Ok(Operation::Mbarrier(MbarrierOperation::ExpectBytes { bytes }, address));
        }
        let blocking = m.take("try_wait");
        if blocking || m.take("test_wait") {
            let parity = m.take("parity");
            let complete = self.destination(0, Class::Predicate)?;
            let address = self.address(1)?;
            let by = if parity { self.narrow(2)? } else { self.wide(2)? };
            return Ok(Operation::Mbarrier(
                MbarrierOperation::Wait { complete, by, parity, blocking },
                address,
            ));
        }
        self.unsupported("this operation on an mbarrier")
    }

    fn warpgroup(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if !(m.take("sync") && m.take("aligned")) {
            return self.unsupported("wgmma without .sync.aligned");
        }
        if m.take("fence") {
            return Ok(Operation::WarpgroupFence);
        }
        if m.take("commit_group") {
            return Ok(Operation::WarpgroupCommit);
        }
        if m.take("wait_group") {
            return Ok(Operation::WarpgroupWait { pending: self.immediate(0)? as u32 });
        }
        if !m.take("mma_async") {
            return self.unsupported("this operation");
        }
        let (b_kind, a_kind, d_kind) = (m.last(), m.last(), m.last());
        let shape = m.last();
        if d_kind != "f32" || a_kind != b_kind {
            return self.unsupported("only f32 accumulators and operands of one type");
        }
        let (format, family, depth) = match a_kind {
            "bf16" => (MatrixFormat::BFloat16, MatrixFamily::Wgmma16, "16"),
            "f16" => (MatrixFormat::Float16, MatrixFamily::Wgmma16, "16"),
            "tf32" => (MatrixFormat::TensorFloat32, MatrixFamily::WgmmaTf32, "8"),
            kind => return self.unsupported(format!("type `{kind}`")),
        };
        let columns = shape.strip_prefix("m64n").and_then(|rest| rest.strip_suffix(&format!("k{depth}")));
        let columns = columns.and_then(|text| text.parse::<u32>().ok());
        let Some(columns) = columns.filter(|columns| (8..=256).contains(columns) && columns % 8 == 0) else {
            return self.unsupported(format!("shape `{shape}`"));
        };
        let Operand::Vector(accumulators) = self.operand(0)?.clone() else {
            return self.unsupported("the accumulators have to stand in braces");
        };
        if accumulators.len() != columns as usize / 2 {
            return self.unsupported(format!(
                "{} accumulators where {} are needed",
                accumulators.len(),
                columns / 2
            ));
        }
        let mut slots = Vec::new();
        for accumulator in &accumulators {
            self.source_operand(accumulator, Class::Narrow)?;
            slots.push(self.destination_operand(accumulator, Class::Narrow)?);
        }
        let mut owned = accumulators;
        let a = match self.operand(1)?.clone() {
            Operand::Vector(registers) => {
                let slots = self.narrow_vector::<4>(1, false)?;
                owned.extend(registers);
                WarpgroupSource::Registers(slots)
            }
            _ => WarpgroupSource::Shared(self.wide(1)?),
        };
        for operand in &owned {
            if let Operand::Register(register) = operand {
                self.in_flight.push(*register);
            }
        }
        let b = self.wide(2)?;
        let scale_d = self.predicate(3)?;
        let sign = |index: usize, decoder: &Self| match decoder.immediate(index)? as i64 as i32 {
            1 => Ok(false),
            -1 => Ok(true),
            other => decoder.unsupported(format!("operand {} is {other}, it can be 1 or -1", index + 1)),
        };
        let (negate_a, negate_b) = (sign(4, self)?, sign(5, self)?);
        let mut transposes = (6..self.operand_count()).map(|index| self.immediate(index));
        let (mut transpose_a, mut transpose_b) = (false, false);
        if matches!(a, WarpgroupSource::Shared(_)) && family == MatrixFamily::Wgmma16 {
            transpose_a = transposes.next().unwrap_or(Ok(0))? != 0;
        }
        if family == MatrixFamily::Wgmma16 {
            transpose_b = transposes.next().unwrap_or(Ok(0))? != 0;
        }
        if transposes.next().is_some() {
            return self.unsupported("too many operands");
        }
        let accumulators = slots.into();
        Ok(Operation::WarpgroupMultiply(Box::new(WarpgroupMatrix {
            family,
            format,
            columns,
            accumulators,
            a,
            b,
            scale_d,
            negate_a,
            negate_b,
            transpose_a,
            transpose_b,
        })))
    }
}
