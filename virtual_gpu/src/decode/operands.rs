//! Operands of a statement to slots, and which registers the statement reads and writes.

use crate::error::LoadError;
use crate::parse::{self, Class, Operand, Register, Space, Statement};
use crate::program::{Address, Elements, NONE, Slot, Special};
use std::collections::HashMap;

/// Where virtual registers live: one slot each while a kernel is analysed, shared slots afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    /// Slot of each virtual register, by class.
    pub slots: [Vec<Slot>; 3],
    /// Number of slots in use, by class; constants and special registers follow.
    pub count: [u32; 3],
}

impl Assignment {
    pub fn one_slot_each(registers: [u32; 3]) -> Self {
        Assignment { slots: registers.map(|count| (0..count).collect()), count: registers }
    }

    pub fn slot(&self, register: Register) -> Slot {
        self.slots[register.class as usize][register.index as usize]
    }
}

/// Modifiers of an opcode, taken one by one; what is left over is not modelled.
pub(super) struct Modifiers<'a> {
    parts: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn of(opcode: &'a str) -> (&'a str, Self) {
        let mut parts = opcode.split('.');
        let base = parts.next().unwrap_or("");
        (base, Modifiers { parts: parts.collect() })
    }

    pub fn take(&mut self, name: &str) -> bool {
        match self.parts.iter().position(|part| *part == name) {
            Some(at) => {
                self.parts.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes the first modifier that `select` accepts.
    pub fn find<T>(&mut self, select: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.parts.iter().enumerate().find_map(|(at, part)| Some((at, select(part)?)))?;
        self.parts.remove(at);
        Some(value)
    }

    /// Takes the last modifier, where types stand.
    pub fn last(&mut self) -> &'a str {
        self.parts.pop().unwrap_or("")
    }

    pub fn drop_all(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.parts.retain(|part| !unwanted(part));
    }

    pub fn left(&self) -> Option<String> {
        (!self.parts.is_empty()).then(|| format!(".{}", self.parts.join(".")))
    }
}

pub(super) struct Decoder<'a> {
    pub kernel: &'a parse::Kernel,
    /// `.target` of the module.
    pub target: &'a str,
    pub assignment: &'a Assignment,
    /// Addresses of variables in global and constant space.
    pub globals: &'a HashMap<String, u64>,
    pub statement: &'a Statement,
    pub reads: Vec<Register>,
    pub writes: Vec<Register>,
    /// Constant values by class, with the slot that holds each.
    pub constants: [HashMap<u64, Slot>; 3],
    pub specials: HashMap<Special, Slot>,
    pub shared_unit: u32,
    /// Registers that an asynchronous instruction may own while it is in flight.
    pub in_flight: Vec<Register>,
}

type Result<T> = std::result::Result<T, LoadError>;

impl Decoder<'_> {
    pub fn unsupported<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(LoadError::Unsupported {
            line: self.statement.line,
            kernel: self.kernel.name.clone(),
            opcode: self.statement.opcode.clone(),
            problem: problem.into(),
        })
    }

    pub fn operand(&self, index: usize) -> Result<&Operand> {
        match self.statement.operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.unsupported(format!("operand {} is missing", index + 1)),
        }
    }

    pub fn operand_count(&self) -> usize {
        self.statement.operands.len()
    }

    fn expect_class(&self, register: Register, class: Class) -> Result<Register> {
        if register.class == class {
            return Ok(register);
        }
        let name = |class| match class {
            Class::Predicate => "a predicate",
            Class::Narrow => "at most 32 bits wide",
            Class::Wide => "64 bits wide",
        };
        self.unsupported(format!("a register is {} where it has to be {}", name(register.class), name(class)))
    }

    fn next_slot(&self, class: Class) -> Slot {
        let specials = if class == Class::Narrow { self.specials.len() } else { 0 };
        self.assignment.count[class as usize] + (self.constants[class as usize].len() + specials) as u32
    }

    /// The slot that holds a constant.
    pub fn constant(&mut self, class: Class, value: u64) -> Slot {
        let next = self.next_slot(class);
        let value = if class == Class::Wide { value } else { value & 0xffff_ffff };
        *self.constants[class as usize].entry(value).or_insert(next)
    }

    pub fn special(&mut self, special: Special) -> Slot {
        let next = self.next_slot(Class::Narrow);
        *self.specials.entry(special).or_insert(next)
    }

    fn read(&mut self, register: Register, class: Class) -> Result<Slot> {
        let register = self.expect_class(register, class)?;
        self.reads.push(register);
        Ok(self.assignment.slot(register))
    }

    /// A source operand of the given class.
    pub fn source_operand(&mut self, operand: &Operand, class: Class) -> Result<Slot> {
        match operand {
            Operand::Register(register) => self.read(*register, class),
            Operand::Immediate(value) if class == Class::Predicate => {
                Ok(self.constant(class, if *value == 0 { 0 } else { 0xffff_ffff }))
            }
            Operand::Immediate(value) => Ok(self.constant(class, *value)),
            Operand::Name(name) => match (special_register(name), class) {
                (Some(special), Class::Narrow) => Ok(self.special(special)),
                (Some(_), _) => self.unsupported(format!("{name} as a 64-bit operand")),
                (None, _) => {
                    let value = self.variable_address(name)?;
                    Ok(self.constant(class, value))
                }
            },
            Operand::Address { base, offset, coordinates } if coordinates.is_empty() => match &**base {
                Operand::Name(name) => {
                    let value = self.variable_address(name)?.wrapping_add(*offset as u64);
                    Ok(self.constant(class, value))
                }
                _ => self.unsupported("an address where a value is expected"),
            },
            _ => self.unsupported("an operand of a form that is not expected here"),
        }
    }

    fn variable_address(&self, name: &str) -> Result<u64> {
        if let Some(variable) = self.kernel.variables.get(name) {
            return Ok(variable.offset);
        }
        match self.globals.get(name) {
            Some(address) => Ok(*address),
            None => self.unsupported(format!("`{name}` is not known")),
        }
    }

    pub fn narrow(&mut self, index: usize) -> Result<Slot> {
        let operand = self.operand(index)?.clone();
        self.source_operand(&operand, Class::Narrow)
    }

    /// As `narrow`, for 16-bit operations: immediates are cut to 16 bits, as registers hold them.
    pub fn narrow16(&mut self, index: usize) -> Result<Slot> {
        match self.operand(index)?.clone() {
            Operand::Immediate(value) => Ok(self.constant(Class::Narrow, value & 0xffff)),
            operand => self.source_operand(&operand, Class::Narrow),
        }
    }

    pub fn wide(&mut self, index: usize) -> Result<Slot> {
        let operand = self.operand(index)?.clone();
        self.source_operand(&operand, Class::Wide)
    }

    pub fn predicate(&mut self, index: usize) -> Result<Slot> {
        let operand = self.operand(index)?.clone();
        self.source_operand(&operand, Class::Predicate)
    }

    /// A predicate that may be negated.
    pub fn signed_predicate(&mut self, index: usize) -> Result<(Slot, bool)> {
        match self.operand(index)?.clone() {
            Operand::Not(register) => Ok((self.read(register, Class::Predicate)?, true)),
            operand => Ok((self.source_operand(&operand, Class::Predicate)?, false)),
        }
    }

    pub fn destination_operand(&mut self, operand: &Operand, class: Class) -> Result<Slot> {
        match operand {
            Operand::Register(register) => {
                let register = self.expect_class(*register, class)?;
                self.writes.push(register);
                Ok(self.assignment.slot(register))
            }
            _ => self.unsupported("a destination that is not a register"),
        }
    }

    pub fn destination(&mut self, index: usize, class: Class) -> Result<Slot> {
        let operand = self.operand(index)?.clone();
        self.destination_operand(&operand, class)
    }

    /// A destination that may be the sink `_`.
    pub fn destination_or_sink(&mut self, operand: &Operand, class: Class) -> Result<Slot> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(NONE),
            operand => self.destination_operand(operand, class),
        }
    }

    /// `d` or `d|p`, either of which may be a sink.
    pub fn destination_pair(&mut self, index: usize, first: Class, second: Class) -> Result<(Slot, Slot)> {
        match self.operand(index)?.clone() {
            Operand::Pair(a, b) => {
                Ok((self.destination_or_sink(&a, first)?, self.destination_or_sink(&b, second)?))
            }
            operand => Ok((self.destination_or_sink(&operand, first)?, NONE)),
        }
    }

    pub fn class_of(&self, operand: &Operand) -> Option<Class> {
        match operand {
            Operand::Register(register) | Operand::Not(register) => Some(register.class),
            _ => None,
        }
    }

    /// An immediate, or a variable's address, known when the kernel is loaded.
    pub fn immediate(&self, index: usize) -> Result<u64> {
        match self.operand(index)? {
            Operand::Immediate(value) => Ok(*value),
            _ => self.unsupported(format!("operand {} has to be a number", index + 1)),
        }
    }

    pub fn address(&mut self, index: usize) -> Result<Address> {
        let operand = self.operand(index)?.clone();
        let Operand::Address { base, offset, coordinates } = &operand else {
            return self.unsupported(format!("operand {} has to be an address", index + 1));
        };
        if !coordinates.is_empty() {
            return self.unsupported("coordinates in an address");
        }
        self.address_parts(base, *offset)
    }

    pub fn address_parts(&mut self, base: &Operand, offset: i64) -> Result<Address> {
        let wide = match base {
            Operand::Register(register) => register.class == Class::Wide,
            _ => true,
        };
        let class = if wide { Class::Wide } else { Class::Narrow };
        Ok(Address { base: self.source_operand(base, class)?, wide, offset })
    }

    /// Registers of a load (`write`) or a store, alone or in braces. `bytes` is the size of one element.
    pub fn elements(
        &mut self,
        index: usize,
        bytes: usize,
        signed: bool,
        count: usize,
        write: bool,
    ) -> Result<Elements> {
        let operands = match self.operand(index)?.clone() {
            Operand::Vector(elements) => elements,
            operand => vec![operand],
        };
        if operands.len() != count || count > 8 {
            return self.unsupported(format!("{} registers where the opcode names {count}", operands.len()));
        }
        let wide = match operands.iter().find_map(|operand| self.class_of(operand)) {
            Some(class) => class == Class::Wide,
            None => bytes == 8,
        };
        let class = if wide { Class::Wide } else { Class::Narrow };
        if bytes == 8 && !wide {
            return self.unsupported("64-bit elements in 32-bit registers");
        }
        let mut slots = [NONE; 8];
        for (slot, operand) in slots.iter_mut().zip(&operands) {
            *slot = if write {
                self.destination_or_sink(operand, class)?
            } else {
                self.source_operand(operand, class)?
            };
        }
        Ok(Elements { slots, count: count as u8, bytes: bytes as u8, wide, signed })
    }

    /// Narrow registers in braces, exactly `N` of them.
    pub fn narrow_vector<const N: usize>(&mut self, index: usize, write: bool) -> Result<[Slot; N]> {
        let operands = match self.operand(index)?.clone() {
            Operand::Vector(elements) => elements,
            operand => vec![operand],
        };
        if operands.len() != N {
            return self.unsupported(format!(
                "operand {} has {} registers, not {N}",
                index + 1,
                operands.len()
            ));
        }
        let mut slots = [NONE; N];
        for (slot, operand) in slots.iter_mut().zip(&operands) {
            *slot = if write {
                self.destination_operand(operand, Class::Narrow)?
            } else {
                self.source_operand(operand, Class::Narrow)?
            };
        }
        Ok(slots)
    }

    /// Remembers the narrowest access to shared memory.
    pub fn note_shared_access(&mut self, space: Space, bytes: usize) {
        if matches!(space, Space::Shared | Space::Generic) {
            self.shared_unit = self.shared_unit.min(bytes as u32);
        }
    }
}

fn special_register(name: &str) -> Option<Special> {
    let axis = |text: &str| "xyz".find(text).filter(|_| text.len() == 1).map(|axis| axis as u8);
    let (base, suffix) = name.strip_prefix('%')?.split_once('.').unwrap_or((name.strip_prefix('%')?, ""));
    Some(match (base, suffix) {
        ("tid", suffix) => Special::ThreadIndex(axis(suffix)?),
        ("ntid", suffix) => Special::BlockSize(axis(suffix)?),
        ("ctaid" | "clusterid", suffix) => Special::BlockIndex(axis(suffix)?),
        ("nctaid" | "nclusterid", suffix) => Special::GridSize(axis(suffix)?),
        ("cluster_ctaid", suffix) => axis(suffix).map(|_| Special::ClusterRank)?,
        ("cluster_nctaid", suffix) => axis(suffix).map(|_| Special::ClusterBlocks)?,
        ("laneid", "") => Special::Lane,
        ("warpid", "") => Special::Warp,
        ("nwarpid", "") => Special::WarpCount,
        ("lanemask_lt", "") => Special::LanesBelow,
        ("lanemask_le", "") => Special::LanesBelowOrEqual,
        ("lanemask_gt", "") => Special::LanesAbove,
        ("lanemask_ge", "") => Special::LanesAboveOrEqual,
        ("lanemask_eq", "") => Special::LaneBit,
        ("cluster_ctarank", "") => Special::ClusterRank,
        ("cluster_nctarank", "") => Special::ClusterBlocks,
        ("dynamic_smem_size", "") => Special::DynamicShared,
        ("total_smem_size", "") => Special::TotalShared,
        ("smid", "") => Special::ProcessorId,
        ("nsmid", "") => Special::ProcessorCount,
        _ => return None,
    })
}
