//! The main loops of kernels in machine code, as tab-separated lines: whose tensor-core instructions are how many of all.
//!
//! ```text
//! cargo run --release -p diptych-nvrtc --example main_loops -- FILE.cubin …
//! ```

use diptych_nvrtc::disassemble;
use std::process::ExitCode;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("main_loops: name files of machine code (.cubin)");
        return ExitCode::FAILURE;
    }
    println!("file\tkernel\tinstructions\ttensor_core\tshare\topcodes");
    for file in files {
        let code = std::fs::read(&file).map_err(|error| error.to_string());
        match code.and_then(|code| disassemble(&code).map_err(|error| error.to_string())) {
            Ok(kernels) => {
                for kernel in kernels {
                    let Some(found) = kernel.main_loop else { continue };
                    let mut opcodes: Vec<(&String, &u64)> = found.opcodes.iter().collect();
                    opcodes.sort_by_key(|entry| std::cmp::Reverse(entry.1));
                    let opcodes: Vec<String> =
                        opcodes.iter().map(|(name, count)| format!("{name} {count}")).collect();
                    let (all, share) = (found.instructions, found.tensor_core_share());
                    println!(
                        "{file}\t{}\t{all}\t{}\t{share:.3}\t{}",
                        kernel.name,
                        found.tensor_core,
                        opcodes.join(", ")
                    );
                }
            }
            Err(error) => {
                eprintln!("main_loops: {file}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
