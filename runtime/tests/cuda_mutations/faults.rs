//! Faults: changes of the text of a kernel, or of the prelude that it is compiled with. They are data, a file for each run in
//! which they are tried.

use diptych_codegen::cuda::{Architecture, KernelText};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub name: String,
    /// The architectures.
    on: Vec<String>,
    /// What the text of a kernel that it is for has in it.
    kernel: Vec<String>,
    /// The change is made behind this text, of which the last line is behind the others.
    #[serde(default)]
    after: Vec<String>,
    from: String,
    to: String,
}

#[derive(Deserialize)]
struct File {
    fault: Vec<Fault>,
}

/// The faults of a file.
pub fn read(name: &str) -> Vec<Fault> {
    let path = format!("{}/tests/cuda_mutations/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    for fault in &file.fault {
        let known = Architecture::ALL.map(|architecture| architecture.name().to_owned());
        assert!(!fault.on.is_empty() && fault.on.iter().all(|name| known.contains(name)), "{}", fault.name);
        assert!(!fault.kernel.is_empty() && fault.from != fault.to, "{}", fault.name);
    }
    file.fault
}

impl Fault {
    /// Whether a kernel of an architecture is one for this fault.
    pub fn is_for(&self, kernel: &KernelText) -> bool {
        self.kernel.iter().all(|part| kernel.text.contains(part))
    }

    pub fn is_on(&self, architecture: Architecture) -> bool {
        self.on.iter().any(|name| name == architecture.name())
    }

    /// A file of the kernel with the fault.
    ///
    /// # Errors
    /// When the text that the fault changes is not there.
    pub fn seeded(&self, text: &str) -> Result<String, String> {
        let missing = |what: &str| format!("{}: the text has moved, there is no `{what}`", self.name);
        let mut behind = 0;
        for part in &self.after {
            behind += text[behind..].find(part).ok_or_else(|| missing(part))? + part.len();
        }
        let at = behind + text[behind..].find(&self.from).ok_or_else(|| missing(&self.from))?;
        Ok(format!("{}{}{}", &text[..at], self.to, &text[at + self.from.len()..]))
    }
}
