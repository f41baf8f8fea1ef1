//! Moves, conversions, loads, stores and atomics.

use super::operands::{Decoder, Modifiers};
use super::scalar::{half_format, rounding};
use crate::error::LoadError;
use crate::parse::{Class, Operand, Space, type_size};
use crate::program::{
    AtomicKind, AtomicOperation, Conversion, Elements, HalfFormat, NONE, NarrowUnary, Operation, Rounding,
    Scalar, WideUnary,
};

type Result<T> = std::result::Result<T, LoadError>;

fn scalar_type(text: &str) -> Option<Scalar> {
    Some(match text {
        "s8" => Scalar::S8,
        "s16" => Scalar::S16,
        "s32" => Scalar::S32,
        "s64" => Scalar::S64,
        "u8" | "b8" => Scalar::U8,
        "u16" | "b16" => Scalar::U16,
        "u32" | "b32" => Scalar::U32,
        "u64" | "b64" => Scalar::U64,
        "f16" => Scalar::F16,
        "bf16" => Scalar::BF16,
        "tf32" => Scalar::TF32,
        "f32" => Scalar::F32,
        "f64" => Scalar::F64,
        _ => return None,
    })
}

/// Takes the state space of a memory instruction; generic where none is named.
pub(super) fn space(m: &mut Modifiers) -> Space {
    m.find(|text| {
        Some(match text {
            "global" => Space::Global,
            "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
            "local" => Space::Local,
            "param" | "param::entry" => Space::Parameter,
            "const" => Space::Constant,
            _ => return None,
        })
    })
    .unwrap_or(Space::Generic)
}

/// Caching and prefetching hints change no result.
pub(super) fn drop_cache_hints(m: &mut Modifiers) {
    m.drop_all(|text| {
        matches!(text, "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "weak")
            || text.starts_with("L1::")
            || text.starts_with("L2::")
    });
}

/// Takes ordering and scope; true for accesses that take part in synchronisation.
pub(super) fn ordering(m: &mut Modifiers) -> bool {
    let mut strong = false;
    m.drop_all(|text| matches!(text, "cta" | "cluster" | "gpu" | "sys"));
    for name in ["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"] {
        strong |= m.take(name);
    }
    strong
}

impl Decoder<'_> {
    /// `None` for an opcode that does not move data.
    pub(super) fn data(&mut self, base: &str, m: &mut Modifiers) -> Result<Option<Operation>> {
        let operation = match base {
            "mov" => self.move_value(m)?,
            "cvt" => self.convert(m)?,
            "cvta" => {
                let to_generic = !m.take("to");
                let wide = m.last() == "u64";
                let space = space(m);
                let class = if wide { Class::Wide } else { Class::Narrow };
                let d = self.destination(0, class)?;
                let a = if wide { self.wide(1)? } else { self.narrow(1)? };
                Operation::ConvertAddress { to_generic, space, wide, d, a }
            }
            "ld" | "st" => self.load_or_store(base == "ld", m)?,
            "atom" | "red" => self.atomic(base == "red", m)?,
            "prefetch" | "prefetchu" => {
                m.drop_all(|_| true);
                Operation::Nothing
            }
            _ => return Ok(None),
        };
        Ok(Some(operation))
    }

    fn move_value(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        if kind == "pred" {
            let d = self.destination(0, Class::Predicate)?;
            return Ok(Operation::PredicateMove(d, self.predicate(1)?));
        }
        let Some(bytes) = type_size(kind) else { return self.unsupported(format!("type `{kind}`")) };
        let wide = bytes == 8;
        let class = if wide { Class::Wide } else { Class::Narrow };
        match (self.operand(0)?.clone(), self.operand(1)?.clone()) {
            (Operand::Vector(parts), _) => {
                if parts.is_empty() || bytes % parts.len() != 0 {
                    return self.unsupported("a vector whose parts do not fill the register");
                }
                let a = if wide { self.wide(1)? } else { self.narrow(1)? };
                let parts = self.elements(0, bytes / parts.len(), false, parts.len(), true)?;
                if parts.wide {
                    return self.unsupported("parts of 64 bits");
                }
                Ok(Operation::Unpack { a, wide, parts })
            }
            (_, Operand::Vector(parts)) => {
                if parts.is_empty() || bytes % parts.len() != 0 {
                    return self.unsupported("a vector whose parts do not fill the register");
                }
                let parts = self.elements(1, bytes / parts.len(), false, parts.len(), false)?;
                if parts.wide {
                    return self.unsupported("parts of 64 bits");
                }
                let d = self.destination(0, class)?;
                Ok(Operation::Pack { d, wide, parts })
            }
            (_, Operand::Name(name))
                if matches!(name.as_str(), "%clock" | "%clock64" | "%globaltimer" | "%clock_hi") =>
            {
                let d = self.destination(0, class)?;
                Ok(Operation::Clock { wide, d })
            }
            _ if wide => {
                let d = self.destination(0, class)?;
                Ok(Operation::WideUnary(WideUnary::Move, d, self.wide(1)?))
            }
            _ => {
                let d = self.destination(0, class)?;
                let a = if bytes == 2 { self.narrow16(1)? } else { self.narrow(1)? };
                Ok(Operation::NarrowUnary(NarrowUnary::Move, d, a))
            }
        }
    }

    fn convert(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let (from, to) = (m.last(), m.last());
        let Some(from) = scalar_type(from) else { return self.unsupported(format!("type `{from}`")) };
        let integer = m.find(|text| {
            Some(match text {
                "rni" => Rounding::Nearest,
                "rzi" => Rounding::Zero,
                "rmi" => Rounding::Down,
                "rpi" => Rounding::Up,
                _ => return None,
            })
        });
        let float = m.find(|text| if text == "rna" { Some(Rounding::NearestAway) } else { rounding(text) });
        let (saturate, flush, relu) = (m.take("sat"), m.take("ftz"), m.take("relu"));
        let mut conversion = Conversion {
            from,
            to: from,
            rounding: integer.or(float).unwrap_or(Rounding::Nearest),
            integral: integer.is_some(),
            saturate,
            flush,
            relu,
        };
        if let Some((format, true)) = half_format(to) {
            if from != Scalar::F32 || self.operand_count() != 3 {
                return self.unsupported("packed conversions are of two f32");
            }
            conversion.to = if format == HalfFormat::Float16 { Scalar::F16 } else { Scalar::BF16 };
            let d = self.destination(0, Class::Narrow)?;
            return Ok(Operation::ConvertPair { conversion, d, high: self.narrow(1)?, low: self.narrow(2)? });
        }
        let Some(to) = scalar_type(to) else { return self.unsupported(format!("type `{to}`")) };
        conversion.to = to;
        let float_to_integer = from.is_float() && !to.is_float();
        if float_to_integer && integer.is_none() {
            return self
                .unsupported("a conversion to an integer has to say how it rounds (.rni, .rzi, .rmi, .rpi)");
        }
        if integer.is_some() && !from.is_float() {
            return self.unsupported("an integer conversion that rounds");
        }
        if float == Some(Rounding::NearestAway) && to != Scalar::TF32 {
            return self.unsupported(".rna is for tf32");
        }
        // Registers may be wider than the type that is read from them or written to them.
        let class_of = |operand: &Operand, decoder: &Self, kind: Scalar| {
            decoder.class_of(operand).unwrap_or(if kind.is_wide() { Class::Wide } else { Class::Narrow })
        };
        let destination = class_of(self.operand(0)?, self, to);
        let source = class_of(self.operand(1)?, self, from);
        // Of a wider register the lower part, as a field of it.
        if source == Class::Wide
            && destination == Class::Wide
            && !from.is_wide()
            && !from.is_float()
            && to.is_wide()
        {
            let d = self.destination(0, Class::Wide)?;
            let (position, length) =
                (self.constant(Class::Narrow, 0), self.constant(Class::Narrow, from.bits().into()));
            return Ok(Operation::ExtractWide {
                signed: from.is_signed(),
                d,
                a: self.wide(1)?,
                position,
                length,
            });
        }
        if destination != (if to.is_wide() { Class::Wide } else { Class::Narrow })
            || source != (if from.is_wide() { Class::Wide } else { Class::Narrow })
        {
            return self.unsupported("a register whose size is not that of its type");
        }
        let d = self.destination(0, destination)?;
        let operand = self.operand(1)?.clone();
        let a = self.source_operand(&operand, source)?;
        Ok(Operation::Convert(conversion, d, a))
    }

    fn load_or_store(&mut self, load: bool, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        let Some(bytes) = type_size(kind) else { return self.unsupported(format!("type `{kind}`")) };
        let count = m
            .find(|text| {
                Some(match text {
                    "v2" => 2,
                    "v4" => 4,
                    "v8" => 8,
                    _ => return None,
                })
            })
            .unwrap_or(1);
        let space = space(m);
        let atomic = ordering(m);
        drop_cache_hints(m);
        let (data, address) = if load { (0, 1) } else { (1, 0) };
        let address = self.address(address)?;
        let elements: Elements = self.elements(data, bytes, kind.starts_with('s'), count, load)?;
        self.note_shared_access(space, bytes * count);
        if space == Space::Parameter && !load {
            return self.unsupported("a store to parameters");
        }
        Ok(if load {
            Operation::Load { space, elements, address, atomic }
        } else {
            Operation::Store { space, elements, address, atomic }
        })
    }

    fn atomic(&mut self, reduction: bool, m: &mut Modifiers) -> Result<Operation> {
        let kind_text = m.last();
        let space = space(m);
        ordering(m);
        drop_cache_hints(m);
        m.take("noftz");
        if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return self.unsupported("an atomic outside global and shared memory");
        }
        let operation = m.find(|text| {
            Some(match text {
                "add" => AtomicOperation::Add,
                "min" => AtomicOperation::Min,
                "max" => AtomicOperation::Max,
                "and" => AtomicOperation::And,
                "or" => AtomicOperation::Or,
                "xor" => AtomicOperation::Xor,
                "exch" => AtomicOperation::Exchange,
                "cas" => AtomicOperation::CompareAndSwap,
                "inc" => AtomicOperation::Increment,
                "dec" => AtomicOperation::Decrement,
                _ => return None,
            })
        });
        let Some(operation) = operation else { return self.unsupported("the operation") };
        let kind = match kind_text {
            "u32" | "b32" => AtomicKind::U32,
            "s32" => AtomicKind::S32,
            "u64" | "b64" => AtomicKind::U64,
            "s64" => AtomicKind::S64,
            "f32" => AtomicKind::F32,
            "f64" => AtomicKind::F64,
            "f16x2" => AtomicKind::F16x2,
            "bf16x2" => AtomicKind::BF16x2,
            "f16" => AtomicKind::F16,
            "bf16" => AtomicKind::BF16,
            other => return self.unsupported(format!("type `{other}`")),
        };
        let float = !matches!(kind, AtomicKind::U32 | AtomicKind::S32 | AtomicKind::U64 | AtomicKind::S64);
        if float && operation != AtomicOperation::Add {
            return self.unsupported("floats can only be added");
        }
        let class = if kind.bytes() == 8 { Class::Wide } else { Class::Narrow };
        let first = usize::from(!reduction);
        let d = if reduction {
            NONE
        } else {
            let operand = self.operand(0)?.clone();
            self.destination_or_sink(&operand, class)?
        };
        let address = self.address(first)?;
        let operand = self.operand(first + 1)?.clone();
        let b = self.source_operand(&operand, class)?;
        let c = if operation == AtomicOperation::CompareAndSwap {
            let operand = self.operand(first + 2)?.clone();
            self.source_operand(&operand, class)?
        } else {
            NONE
        };
        self.note_shared_access(space, kind.bytes());
        Ok(Operation::Atomic { space, operation, kind, d, address, b, c })
    }
}
