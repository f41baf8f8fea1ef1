//! What each kernel uses of a multiprocessor, read from the assembler's report (`--ptxas-options=-v`).

/// What one kernel uses, by the assembler's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelResources {
    /// The kernel's name.
    pub name: String,
    /// Registers of 32 bits, of one thread.
    pub registers: u32,
    /// Bytes that a thread stores because registers did not suffice, in the kernel and in functions that it calls.
    pub spill_stores: u64,
    /// Bytes that it loads again.
    pub spill_loads: u64,
    /// Shared memory of a block, in bytes, without what a launch adds (`extern __shared__`).
    pub shared_bytes: u64,
    /// Local memory of a thread, in bytes: spilled registers, and arrays whose indices are not known.
    pub stack_bytes: u64,
    /// Named barriers of a block.
    pub barriers: u32,
}

/// Reads the report. Kernels are in its order.
///
/// # Errors
/// What was not as expected. No figure is ever taken for 0 because it could not be read.
pub(crate) fn resources(log: &str) -> Result<Vec<KernelResources>, String> {
    let mut kernels: Vec<KernelResources> = Vec::new();
    let mut complete = true;
    for line in log.lines().filter(|line| line.starts_with("ptxas")) {
        if let Some(rest) = after(line, "Compiling entry function '") {
            if let (false, Some(kernel)) = (complete, kernels.last()) {
                return Err(format!("there is no count of registers of `{}`", kernel.name));
            }
            let (name, _) = rest.split_once('\'').ok_or_else(|| format!("no name ends in: {line}"))?;
            kernels.push(KernelResources { name: name.to_owned(), ..KernelResources::default() });
            complete = false;
        } else if let Some(kernel) = kernels.last_mut() {
            if line.contains("bytes stack frame") {
                // The kernel's own, or that of a function that it calls: each kernel has copies of its own.
                kernel.spill_stores += required::<u64>(line, "bytes spill stores")?;
                kernel.spill_loads += required::<u64>(line, "bytes spill loads")?;
                kernel.stack_bytes = kernel.stack_bytes.max(required(line, "bytes stack frame")?);
            } else if let Some(used) = after(line, "Used ") {
                kernel.registers = required(used, "registers")?;
                // What a kernel does not use is not named.
                kernel.barriers = before(used, "barriers")?.unwrap_or(0);
                kernel.shared_bytes = before(used, "bytes smem")?.unwrap_or(0);
                let cumulative = before(used, "bytes cumulative stack size")?.unwrap_or(0);
                kernel.stack_bytes = kernel.stack_bytes.max(cumulative);
                complete = true;
            }
        }
    }
    match kernels.last() {
        Some(kernel) if !complete => Err(format!("there is no count of registers of `{}`", kernel.name)),
        _ => Ok(kernels),
    }
}

fn after<'a>(line: &'a str, what: &str) -> Option<&'a str> {
    line.find(what).map(|at| &line[at + what.len()..])
}

/// The number that stands before `unit`, if the line has it.
fn before<T: std::str::FromStr>(line: &str, unit: &str) -> Result<Option<T>, String> {
    let Some(at) = line.find(unit) else { return Ok(None) };
    let number = line[..at].split_whitespace().next_back().unwrap_or_default();
    number.parse().map(Some).map_err(|_| format!("`{number}` is no number of {unit} in: {line}"))
}

fn required<T: std::str::FromStr>(line: &str, unit: &str) -> Result<T, String> {
    before(line, unit)?.ok_or_else(|| format!("{unit} are missing in: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
k.cu(2): warning #177-D: variable \"unused\" was declared but never referenced

ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'outer' for 'sm_80'
ptxas info    : Function properties for outer
ptxas         .     1104 bytes stack frame, 416 bytes spill stores, 472 bytes spill loads
ptxas info    : Used 32 registers, used 2 barriers, 1200 bytes cumulative stack size, 132 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 41.069 ms
ptxas info    : Function properties for _Z5innerf
ptxas         .     0 bytes stack frame, 176 bytes spill stores, 216 bytes spill loads
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
";

    #[test]
    fn figures_are_those_of_the_report_and_called_functions_count() {
        let outer = KernelResources {
            name: "outer".into(),
            registers: 32,
            spill_stores: 416 + 176,
            spill_loads: 472 + 216,
            shared_bytes: 132,
            stack_bytes: 1200,
            barriers: 2,
        };
        let plain = KernelResources { name: "plain".into(), registers: 8, ..KernelResources::default() };
        assert_eq!(resources(LOG).unwrap(), [outer, plain]);
        assert_eq!(resources("").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_not_a_zero() {
        for (from, to, said) in [
            ("Used 8 registers", "Used eight registers", "`eight`"),
            ("Used 8 registers", "Uses 8 registers", "`plain`"),
            ("Used 32 registers", "Uses 32 registers", "`outer`"),
            ("416 bytes spill stores", "416 bytes of spill", "bytes spill stores"),
        ] {
            let error = resources(&LOG.replace(from, to)).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
