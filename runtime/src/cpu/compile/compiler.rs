//! Which C compiler there is, and what makes its output differ from another's.
//! Must not know of caches or kernels.

use std::ffi::OsString;
use std::process::Command;
use std::sync::OnceLock;

use super::CompileError;

/// A C compiler that has answered to `--version`.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program and the arguments that always come first, as in `CC="ccache gcc"`.
    pub command: Vec<String>,
    /// The whole answer to `--version`.
    pub version: String,
    /// Whose flags it takes.
    pub kind: CompilerKind,
}

/// Whose flags a compiler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompilerKind {
    /// GNU.
    Gcc,
    /// LLVM, Apple's included.
    Clang,
    /// Neither name stands in its version.
    Other,
}

impl Compiler {
    /// The compiler named by the environment variable `CC` if that is set, else the first of `cc`, `gcc` and
    /// `clang` that runs.
    ///
    /// # Errors
    /// None runs. A `CC` that does not run is an error, too, and never replaced by another compiler.
    pub fn find() -> Result<Self, CompileError> {
        match std::env::var("CC") {
            Ok(command) if !command.trim().is_empty() => Self::first_of(&[&command], "CC="),
            _ => Self::first_of(&["cc", "gcc", "clang"], ""),
        }
    }

    pub(super) fn first_of(commands: &[&str], origin: &str) -> Result<Self, CompileError> {
        let mut tried = Vec::new();
        for command in commands {
            match Self::ask(command) {
                Ok(compiler) => return Ok(compiler),
                Err(cause) => tried.push(format!("{origin}{command} ({cause})")),
            }
        }
        Err(CompileError::NoCompiler { tried: tried.join(", ") })
    }

    fn ask(command: &str) -> Result<Self, String> {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let (program, arguments) = command.split_first().ok_or("an empty command")?;
        let output = Command::new(program)
            .args(arguments)
            .arg("--version")
            .env("LC_ALL", "C")
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("`--version` ended with {}", output.status));
        }
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let kind = if version.contains("clang") {
            CompilerKind::Clang
        } else if version.contains("Free Software Foundation") || version.starts_with("gcc") {
            CompilerKind::Gcc
        } else {
            CompilerKind::Other
        };
        Ok(Compiler { command, version, kind })
    }

    /// The first line of the version, for reports.
    pub fn short_version(&self) -> &str {
        self.version.lines().next().unwrap_or("unknown")
    }

    pub(super) fn command(&self) -> Command {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().map_or("cc", String::as_str));
        // Messages are searched for causes, so they must not be translated.
        command.args(words).env("LC_ALL", "C");
        command
    }

    pub(super) fn describe(&self, arguments: &[OsString]) -> String {
        let arguments = arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
        self.command.iter().cloned().chain(arguments).collect::<Vec<_>>().join(" ")
    }
}

/// The processor's model and features: what `native` stands for on this machine.
pub(super) fn processor() -> &'static str {
    static PROCESSOR: OnceLock<String> = OnceLock::new();
    PROCESSOR.get_or_init(|| {
        let described =
            std::fs::read_to_string("/proc/cpuinfo").map_or_else(|_| sysctl(), |text| first_of(&text));
        format!("{} {described}", std::env::consts::ARCH)
    })
}

/// The lines about the first processor that name it and its features, on x86 and on Arm.
fn first_of(cpuinfo: &str) -> String {
    const TELLING: [&str; 9] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "flags",
        "CPU implementer",
        "CPU part",
        "CPU variant",
        "Features",
    ];
    cpuinfo
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .filter(|line| line.split(':').next().is_some_and(|key| TELLING.contains(&key.trim())))
        .collect::<Vec<_>>()
        .join("\n")
}

fn sysctl() -> String {
    let output = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_is_described() {
        let text = "processor\t: 0\nmodel name\t: X\ncpu MHz\t: 1\nflags\t: fma avx2\n\nmodel name\t: Y\n";
        assert_eq!(first_of(text), "model name\t: X\nflags\t: fma avx2");
        assert!(processor().len() > std::env::consts::ARCH.len() + 1);
    }

    #[test]
    fn a_missing_compiler_says_how_to_get_one() {
        let error = Compiler::first_of(&["no-such-compiler", ""], "CC=").unwrap_err().to_string();
        assert!(error.contains("CC=no-such-compiler"), "{error}");
        assert!(error.contains("apt install gcc"), "{error}");
    }
}
