//! Parsed statements to decoded kernels. Every form of an instruction that is not modelled is an error here, with its
//! line, so that nothing is found out while a kernel runs.

mod matrix;
mod moves;
mod operands;
mod scalar;
mod tensor_memory;
mod warp;

pub(crate) use operands::Assignment;
pub(crate) use warp::CLUSTER_BARRIER;

use crate::control_flow::{Flow, Graph};
use crate::error::LoadError;
use crate::liveness::{Effects, Liveness, analyse};
use crate::parse::{self, Class, Register};
use crate::program::{
    Instruction, InstructionSite, Kernel, NONE, NarrowUnary, Operation, Slot, Special, WideUnary,
};
use operands::{Decoder, Modifiers};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, LoadError>;

/// The outcome of one pass over the statements.
struct Pass {
    operations: Vec<(Operation, Slot, bool)>,
    effects: Vec<Effects>,
    flows: Vec<Flow>,
    constants: [HashMap<u64, Slot>; 3],
    specials: HashMap<Special, Slot>,
    shared_unit: u32,
}

/// Decodes a kernel of a module for `target` (of `.target`). `globals` has the addresses of the module's variables.
pub(crate) fn decode(kernel: &parse::Kernel, target: &str, globals: &HashMap<String, u64>) -> Result<Kernel> {
    if kernel.cluster_size > 1 {
        return Err(LoadError::Unsupported {
            line: kernel.statements.first().map_or(1, |statement| statement.line),
            kernel: kernel.name.clone(),
            opcode: ".reqnctapercluster".to_string(),
            problem: format!(
                "clusters of {} blocks: only clusters of one block run here",
                kernel.cluster_size
            ),
        });
    }
    let virtual_registers = Assignment::one_slot_each(kernel.registers);
    let first = pass(kernel, target, &virtual_registers, globals)?;
    let graph = Graph::of(&first.flows);
    let liveness = analyse(kernel.registers, &first.effects, &graph);
    let second = pass(kernel, target, &liveness.assignment, globals)?;
    let order = graph.instruction_order();
    let sites = sites(kernel, &second, &liveness);
    let instructions = second
        .operations
        .into_iter()
        .zip(order)
        .zip(&sites)
        .map(|(((operation, guard, guard_value), order), site)| {
            let lists = [&site.narrow_touched, &site.unwritten_reads, &site.unwritten_writes];
            let checked = lists.iter().any(|list| !list.is_empty());
            Instruction { operation, guard, guard_value, order, checked }
        })
        .collect();
    let [predicates, narrow, wide] = &second.constants;
    let count = liveness.assignment.count;
    Ok(Kernel {
        name: kernel.name.clone(),
        parameters: kernel.parameters.clone(),
        parameter_bytes: kernel.parameters.last().map_or(0, |last| last.offset + last.size),
        instructions,
        sites,
        source_lines: kernel.source_lines.clone(),
        predicate_slots: count[0] + predicates.len() as u32,
        narrow_slots: count[1] + (narrow.len() + second.specials.len()) as u32,
        wide_slots: count[2] + wide.len() as u32,
        predicate_constants: predicates.iter().map(|(value, slot)| (*slot, *value as u32)).collect(),
        narrow_constants: narrow.iter().map(|(value, slot)| (*slot, *value as u32)).collect(),
        wide_constants: wide.iter().map(|(value, slot)| (*slot, *value)).collect(),
        specials: second.specials.iter().map(|(special, slot)| (*slot, *special)).collect(),
        followed: liveness.followed.iter().map(|register| register_name(*register)).collect(),
        static_shared: kernel.static_shared,
        local_bytes: kernel.local_bytes,
        maximum_threads: kernel.maximum_threads,
        required_threads: kernel.required_threads,
        shared_unit: second.shared_unit,
        live_registers: liveness.pressure,
    })
}

fn register_name(register: Register) -> String {
    let class = match register.class {
        Class::Predicate => "predicate",
        Class::Narrow => "32-bit register",
        Class::Wide => "64-bit register",
    };
    format!("{class} number {}", register.index)
}

fn pass(
    kernel: &parse::Kernel,
    target: &str,
    assignment: &Assignment,
    globals: &HashMap<String, u64>,
) -> Result<Pass> {
    let nothing =
        parse::Statement { guard: None, opcode: "ret".into(), operands: Vec::new(), line: 0, source: None };
    let mut decoder = Decoder {
        kernel,
        target,
        assignment,
        globals,
        statement: kernel.statements.first().unwrap_or(&nothing),
        reads: Vec::new(),
        writes: Vec::new(),
        constants: Default::default(),
        specials: HashMap::new(),
        shared_unit: 4,
        in_flight: Vec::new(),
    };
    let (mut operations, mut effects, mut flows) = (Vec::new(), Vec::new(), Vec::new());
    // Code may run off its end: the last instruction is an exit.
    for statement in kernel.statements.iter().chain([&nothing]) {
        decoder.statement = statement;
        let operation = statement_operation(&mut decoder)?;
        let (mut guard, mut guard_value) = (NONE, true);
        if let Some((register, value)) = statement.guard {
            decoder.reads.push(register);
            (guard, guard_value) = (assignment.slot(register), value);
        }
        let guarded = statement.guard.is_some();
        flows.push(match &operation {
            Operation::Branch { target } if guarded => Flow::ConditionalJump(*target),
            Operation::Branch { target } => Flow::Jump(*target),
            Operation::Exit | Operation::Trap if !guarded => Flow::Exit,
            _ => Flow::Next,
        });
        effects.push(Effects {
            reads: std::mem::take(&mut decoder.reads),
            writes: std::mem::take(&mut decoder.writes),
            guarded,
            in_flight: std::mem::take(&mut decoder.in_flight),
        });
        operations.push((operation, guard, guard_value));
    }
    Ok(Pass {
        operations,
        effects,
        flows,
        constants: decoder.constants,
        specials: decoder.specials,
        shared_unit: decoder.shared_unit,
    })
}

fn statement_operation(decoder: &mut Decoder) -> Result<Operation> {
    let opcode = decoder.statement.opcode.clone();
    let (base, mut modifiers) = Modifiers::of(&opcode);
    if base == "bra" {
        modifiers.take("uni");
        let label = decoder.label(0)?;
        let Some(target) = decoder.kernel.labels.get(label) else {
            return decoder.unsupported(format!("the label {label} does not exist"));
        };
        return Ok(Operation::Branch { target: *target as u32 });
    }
    if base == "call" {
        return decoder.unsupported(
            "calls: device functions have to be inlined (__forceinline__), and printf and assert are not there",
        );
    }
    let m = &mut modifiers;
    let mut operation = decoder.scalar(base, m)?;
    for family in [Decoder::data, Decoder::warp, Decoder::matrix] {
        if operation.is_none() {
            operation = family(decoder, base, m)?;
        }
    }
    match (operation, modifiers.left()) {
        (Some(operation), None) => Ok(operation),
        (Some(_), Some(left)) => decoder.unsupported(format!("modifier `{left}`")),
        (None, _) => decoder.unsupported("the instruction is not known"),
    }
}

fn sites(kernel: &parse::Kernel, pass: &Pass, liveness: &Liveness) -> Vec<InstructionSite> {
    let followed: HashMap<Register, u32> =
        liveness.followed.iter().zip(0..).map(|(register, index)| (*register, index)).collect();
    let owned: std::collections::HashSet<Register> =
        pass.effects.iter().flat_map(|effect| effect.in_flight.iter().copied()).collect();
    let last_line = kernel.statements.last().map_or(0, |statement| statement.line);
    (0..pass.operations.len())
        .map(|at| {
            let statement = kernel.statements.get(at);
            let effect = &pass.effects[at];
            let operation = &pass.operations[at].0;
            // A copy of an undefined value is no use of it yet: compilers make such copies where paths meet.
            let copies = matches!(
                operation,
                Operation::NarrowUnary(NarrowUnary::Move, ..)
                    | Operation::WideUnary(WideUnary::Move, ..)
                    | Operation::PredicateMove(..)
            );
            let follow = |registers: &[Register]| -> Box<[u32]> {
                registers.iter().filter_map(|register| followed.get(register).copied()).collect()
            };
            let multiplies = matches!(operation, Operation::WarpgroupMultiply(_));
            let (accumulators, reads): (Vec<Register>, Vec<Register>) =
                effect.reads.iter().partition(|register| multiplies && effect.writes.contains(register));
            let touched: Box<[Slot]> = if multiplies {
                Box::default()
            } else {
                let all = effect.reads.iter().chain(&effect.writes);
                all.filter(|register| owned.contains(register))
                    .map(|register| liveness.assignment.slot(*register))
                    .collect()
            };
            InstructionSite {
                ptx_line: statement.map_or(last_line, |statement| statement.line),
                source: statement.and_then(|statement| statement.source),
                opcode: statement.map_or("ret".to_string(), |statement| statement.opcode.clone()),
                narrow_touched: touched,
                touch_writes: effect.writes.iter().any(|register| owned.contains(register)),
                unwritten_reads: if copies { Box::default() } else { follow(&reads) },
                unwritten_writes: follow(&effect.writes),
                unwritten_accumulators: follow(&accumulators),
            }
        })
        .collect()
}
