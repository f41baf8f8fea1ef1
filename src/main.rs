//! The `diptych` command, with the architectures of the zoo.

use std::process::ExitCode;

fn main() -> ExitCode {
    diptych::main(diptych::Registry::zoo())
}
