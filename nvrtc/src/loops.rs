//! The main loop of a kernel: the innermost loop that holds tensor-core instructions, found in the graph of its blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::sass::{Instruction, opcodes};

/// The bytes of an instruction, on all architectures since Volta.
const BYTES: usize = 16;

/// What tensor cores execute: for one warp, for four (`GMMA`), and of sm_100 (`UTC`).
pub(crate) const TENSOR_CORE: [&str; 15] = [
    "HMMA",
    "IMMA",
    "DMMA",
    "BMMA",
    "QMMA",
    "OMMA",
    "HGMMA",
    "IGMMA",
    "QGMMA",
    "BGMMA",
    "UTCHMMA",
    "UTCIMMA",
    "UTCQMMA",
    "UTCOMMA",
    "UTCMXQMMA",
];

/// The innermost loop of a kernel that holds tensor-core instructions; if there are several, the one with the most.
///
/// All instructions that lie on a way around the loop count, whether or not they are executed each time: those of
/// inner loops without tensor-core instructions too, such as waits for a barrier, wherever the compiler put them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainLoop {
    /// The address of its first instruction, in bytes from the start of the kernel.
    pub start: u64,
    /// How many instructions it has.
    pub instructions: u64,
    /// How many of them are for the tensor cores.
    pub tensor_core: u64,
    /// How many there are of each opcode.
    pub opcodes: BTreeMap<String, u64>,
}

impl MainLoop {
    /// How many instructions of an opcode there are.
    pub fn count(&self, opcode: &str) -> u64 {
        self.opcodes.get(opcode).copied().unwrap_or(0)
    }

    /// Tensor-core instructions over all instructions.
    pub fn tensor_core_share(&self) -> f64 {
        self.tensor_core as f64 / self.instructions as f64
    }
}

/// Finds the main loop.
pub(crate) fn main_loop(instructions: &[Instruction]) -> Option<MainLoop> {
    let graph = Graph::of(instructions);
    let tensor_core = |block: usize| {
        let block = &instructions[graph.blocks[block].clone()];
        block.iter().filter(|instruction| TENSOR_CORE.contains(&instruction.base())).count() as u64
    };
    let with: Vec<usize> = (0..graph.blocks.len()).filter(|&block| tensor_core(block) > 0).collect();
    let mut loops: Vec<Vec<bool>> = with.iter().filter_map(|&block| graph.innermost_loop(block)).collect();
    loops.dedup();
    let contains = |outer: &[bool], inner: &[bool]| {
        outer != inner && outer.iter().zip(inner).all(|(outer, inner)| *outer || !inner)
    };
    let found = loops.iter().filter(|outer| !loops.iter().any(|inner| contains(outer, inner)));
    let counted =
        found.map(|body| (with.iter().filter(|&&block| body[block]).map(|&b| tensor_core(b)).sum(), body));
    // The first of those with the most.
    let (tensor_core, body): (u64, _) =
        counted.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let blocks =
        || (0..graph.blocks.len()).filter(|&block| body[block]).map(|block| graph.blocks[block].clone());
    let opcodes = opcodes(blocks().flat_map(|block| &instructions[block]));
    Some(MainLoop {
        start: blocks().next().map_or(0, |block| block.start * BYTES) as u64,
        instructions: opcodes.values().sum(),
        tensor_core,
        opcodes,
    })
}

/// The blocks of a kernel, in order, and which may follow which.
struct Graph {
    blocks: Vec<Range<usize>>,
    after: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
}

/// Where an instruction leads, beside to the next.
enum Leads {
    To(usize),
    /// To one of a table.
    Somewhere,
    /// Out of the kernel, or back to where a function was called.
    Away,
}

impl Graph {
    fn of(instructions: &[Instruction]) -> Graph {
        let leads: Vec<Option<Leads>> =
            instructions.iter().map(|instruction| leads(instruction, instructions.len())).collect();
        let mut starts: Vec<bool> = vec![false; instructions.len() + 1];
        starts[0] = true;
        for (index, leads) in leads.iter().enumerate() {
            if let Some(Leads::To(target)) = leads {
                starts[*target] = true;
            }
            if leads.is_some() {
                starts[index + 1] = true;
            }
        }
        let starts: Vec<usize> = (0..instructions.len()).filter(|&index| starts[index]).collect();
        let ends = starts.iter().copied().skip(1).chain([instructions.len()]);
        let blocks: Vec<Range<usize>> = starts.iter().zip(ends).map(|(&start, end)| start..end).collect();
        let block_at = |index: usize| starts.partition_point(|&start| start <= index) - 1;

        let mut after: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
        for (block, range) in blocks.iter().enumerate() {
            let last = range.end - 1;
            if let Some(Leads::To(target)) = leads[last] {
                after[block].push(block_at(target));
            }
            if goes_on(&instructions[last], &leads[last]) && block + 1 < blocks.len() {
                after[block].push(block + 1);
            }
        }
        // The tables of indirect branches are not at hand: they lead to what nothing else leads to.
        let mut reached = vec![false; blocks.len()];
        after.iter().flatten().for_each(|&block| reached[block] = true);
        let unreached: Vec<usize> = (1..blocks.len()).filter(|&block| !reached[block]).collect();
        for (block, range) in blocks.iter().enumerate() {
            if let Some(Leads::Somewhere) = leads[range.end - 1] {
                after[block].extend(&unreached);
            }
        }
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
        for (block, after) in after.iter().enumerate() {
            after.iter().for_each(|&next| before[next].push(block));
        }
        Graph { blocks, after, before }
    }

    /// The blocks of the innermost loop around a block. Loops are what is left of a cycle when the head of the loop
    /// around it is taken away.
    fn innermost_loop(&self, block: usize) -> Option<Vec<bool>> {
        let mut within = vec![true; self.blocks.len()];
        let mut innermost = None;
        while within[block]
            && let Some(cycle) = self.cycle_through(block, &within)
        {
            let entered = |&head: &usize| head == 0 || self.before[head].iter().any(|&from| !cycle[from]);
            let heads = || (0..cycle.len()).filter(|&block| cycle[block]);
            let head = heads().find(entered).or_else(|| heads().next())?;
            within.clone_from(&cycle);
            within[head] = false;
            innermost = Some(cycle);
        }
        innermost
    }

    /// The blocks from which and to which a way leads from a block, none if it does not come back.
    fn cycle_through(&self, block: usize, within: &[bool]) -> Option<Vec<bool>> {
        let forward = reach(&self.after, block, within);
        let backward = reach(&self.before, block, within);
        let cycle: Vec<bool> = forward.iter().zip(&backward).map(|(to, from)| *to && *from).collect();
        cycle[block].then_some(cycle)
    }
}

/// What one or more steps lead to.
fn reach(steps: &[Vec<usize>], from: usize, within: &[bool]) -> Vec<bool> {
    let mut reached = vec![false; steps.len()];
    let mut left = vec![from];
    while let Some(block) = left.pop() {
        for &next in &steps[block] {
            if within[next] && !reached[next] {
                reached[next] = true;
                left.push(next);
            }
        }
    }
    reached
}

/// Threads that `BSYNC` brings together go on after it, so it and `BSSY` lead nowhere else.
fn leads(instruction: &Instruction, count: usize) -> Option<Leads> {
    match instruction.base() {
        // Threads of a warp taking turns at one instruction, each once: no loop of the program.
        "BRA" if instruction.opcode.ends_with(".U.ANY") => None,
        "BRX" | "BRXU" | "JMX" | "JMXU" => Some(Leads::Somewhere),
        "EXIT" | "RET" | "KILL" => Some(Leads::Away),
        // A call of a function comes back; one of an address is a jump.
        "BRA" | "JMP" | "CALL" | "WARPSYNC" => {
            let target = instruction.operands.rsplit(',').next()?.trim().strip_prefix("0x")?;
            let index = usize::from_str_radix(target, 16).ok()? / BYTES;
            (index < count).then_some(Leads::To(index))
        }
        _ => None,
    }
}

/// Whether the next instruction may follow.
fn goes_on(instruction: &Instruction, leads: &Option<Leads>) -> bool {
    let conditional = instruction.predicate.is_some() || instruction.operands.contains(',');
    match leads {
        None => true,
        Some(Leads::To(_)) => conditional || !matches!(instruction.base(), "BRA" | "JMP"),
        Some(Leads::Somewhere | Leads::Away) => instruction.predicate.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing, one instruction a line, with the number of a line for a target.
    fn code(listing: &str) -> Vec<Instruction> {
        let instruction = |line: &str| {
            let mut words = line.split_whitespace().peekable();
            let predicate = words.next_if(|word| word.starts_with('@')).map(str::to_owned);
            let opcode = words.next().unwrap().to_owned();
            let operand = |word: &str| match word.strip_prefix("->") {
                Some(number) => format!("{:#x}", number.parse::<usize>().unwrap() * BYTES),
                None => word.to_owned(),
            };
            Instruction { predicate, opcode, operands: words.map(operand).collect::<Vec<_>>().join(",") }
        };
        listing.trim().lines().map(instruction).collect()
    }

    /// Start, instructions and tensor-core instructions of the main loop, counted in instructions.
    fn found(listing: &str) -> Option<(u64, u64, u64)> {
        main_loop(&code(listing)).map(|main| (main.start / BYTES as u64, main.instructions, main.tensor_core))
    }

    #[test]
    fn the_innermost_loop_is_taken_and_not_what_stands_before_it() {
        let nested = "
            MOV
            HMMA.16816.F32
            LDS
            HMMA.16816.F32
            FADD
            @P0 BRA ->2
            HMMA.16816.F32
            @!P1 BRA ->1
            EXIT
            BRA ->9";
        assert_eq!(found(nested), Some((2, 4, 1)));
        assert_eq!(found(&nested.replace("HMMA", "FFMA")), None);
        assert_eq!(
            found(&nested.replace("BRA ->2", "BRA ->7")),
            Some((1, 7, 3)),
            "the outer, if it is the only one"
        );
        assert_eq!(found("HMMA\nEXIT\nBRA ->2"), None, "no loop");
        assert_eq!(found(""), None);
    }

    #[test]
    fn waits_moved_out_of_line_belong_to_the_loop_and_what_returns_does_not_make_one() {
        let waits = "
            MOV
            SYNCS.TRYWAIT
            @!P0 BRA ->7
            HGMMA.64x64x16
            @P1 BRA ->1
            STG
            EXIT
            SYNCS.TRYWAIT
            @!P0 BRA ->7
            BRA ->3
            BRA ->10";
        assert_eq!(found(waits), Some((1, 7, 1)));
    }

    #[test]
    fn of_several_loops_the_one_with_the_most_is_taken() {
        let several = "
            HMMA
            @P0 BRA ->0
            HMMA
            HMMA
            @P0 BRA ->2
            IMMA
            DMMA
            @P0 BRA ->5
            EXIT";
        assert_eq!(found(several), Some((2, 3, 2)));
    }

    #[test]
    fn threads_taking_turns_are_no_loop() {
        let turns = "
            MOV
            ELECT
            UTCHMMA
            @P0 BRA.U.ANY ->1
            @P1 BRA ->0
            EXIT";
        assert_eq!(found(turns), Some((0, 5, 1)));
    }

    #[test]
    fn branches_with_a_condition_among_their_operands_go_on() {
        for branch in ["BRA.U UP0 ->3", "BRA.U !UP0 ->3", "@P0 BRA P1 ->3", "@P0 CALL.REL.NOINC ->3"] {
            assert_eq!(found(&format!("HMMA\n{branch}\nBRA ->0\nEXIT")), Some((0, 3, 1)), "{branch}");
        }
        assert_eq!(found("HMMA\nBRA ->3\nBRA ->0\nEXIT"), None);
        assert_eq!(found("HMMA\nEXIT\nBRA ->0"), None);
        assert_eq!(found("HMMA\n@P0 EXIT\nBRA ->0"), Some((0, 3, 1)));
        assert_eq!(found("HMMA\nBSSY B0 ->0\nEXIT"), None, "names where threads meet, and does not go there");
    }

    #[test]
    fn a_table_of_branches_leads_to_what_nothing_else_leads_to() {
        let table = "
            HMMA
            BRX R2 -0x10
            FADD
            BRA ->6
            FMUL
            BRA ->6
            @P0 BRA ->0
            EXIT";
        assert_eq!(found(table), Some((0, 7, 1)));
    }

    #[test]
    fn nonsense_is_no_loop_and_no_panic() {
        for listing in ["HMMA\nBRA ->900", "HMMA\nBRA 0xzz", "HMMA\nBRA", "BRX R2", "@P0 BRA ->1\nHMMA"] {
            assert_eq!(found(listing), None, "{listing}");
        }
        assert_eq!(found("HMMA\nBRA ->0"), Some((0, 2, 1)));
    }
}
