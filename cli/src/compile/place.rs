//! What code is written for, by the name that users give it: a CPU, a GPU architecture, or a machine with such a GPU. It
//! compiles nothing.

use crate::failure::{Failure, Result};
use diptych_codegen::cuda::Architecture;
use diptych_cost::{Kind, Machine, Target, TargetError};

/// A target.
pub enum Place {
    /// This machine's processor.
    Cpu,
    /// A GPU.
    Gpu(Box<GpuPlace>),
}

/// A GPU that need not be there.
pub struct GpuPlace {
    /// As the user calls it, or the machine's file does.
    pub name: String,
    /// What its code is compiled for.
    pub architecture: Architecture,
    /// The machine whose peaks are used for predictions.
    pub machine: Machine,
    /// What that is, for people.
    pub description: String,
}

impl Place {
    /// The target of a name: see [`super::Arguments`].
    ///
    /// # Errors
    /// When it is none, or one for which no code is written.
    pub fn open(name: &str) -> Result<Place> {
        if name == "cpu" {
            return Ok(Place::Cpu);
        }
        if name.starts_with("sm_") {
            // A name that is no architecture's is told as such.
            name.parse::<diptych_nvrtc::Target>()?;
            let architecture = architecture(name, name)?;
            let target = Target::of_architecture(name)
                .ok_or_else(|| Failure(format!("--target {name}: no machine that has it is described")))?;
            return gpu(name, architecture, target);
        }
        let target = Target::load(name).map_err(|error| match error {
            TargetError::Unknown { .. } => Failure(format!("--target {name}: there is none; {}", known())),
            other => other.into(),
        })?;
        if target.kind == Kind::Cpu {
            return Err(Failure(format!(
                "--target {name}: that is a CPU; code for this machine's processor is written with --target cpu"
            )));
        }
        let of_machine = target.architecture.clone().ok_or_else(|| {
            Failure(format!(
                "--target {name}: the file does not say what its code is compiled for; add a line such as \
                 architecture = \"sm_90a\""
            ))
        })?;
        let shown = target.name.clone();
        gpu(&shown, architecture(name, &of_machine)?, target)
    }

    /// As the user calls it, or the machine's file does: the name of its folder.
    pub fn name(&self) -> &str {
        match self {
            Place::Cpu => "cpu",
            Place::Gpu(gpu) => &gpu.name,
        }
    }
}

fn gpu(name: &str, architecture: Architecture, target: Target) -> Result<Place> {
    let (name, description) = (name.to_owned(), target.description.clone());
    let machine = target.into_machine(None)?;
    Ok(Place::Gpu(Box::new(GpuPlace { name, architecture, machine, description })))
}

/// The architecture of a name, as far as kernels are written for it.
fn architecture(asked: &str, name: &str) -> Result<Architecture> {
    let found = Architecture::ALL.into_iter().find(|architecture| architecture.name() == name);
    found.ok_or_else(|| {
        Failure(format!("--target {asked}: no kernels are written for {name} yet; {}", known()))
    })
}

/// What there is, for messages.
fn known() -> String {
    let architectures = Architecture::ALL.map(Architecture::name);
    let has_code = |name: &&str| {
        let architecture = Target::load(name).ok().and_then(|target| target.architecture);
        architecture.is_some_and(|name| architectures.contains(&name.as_str()))
    };
    let machines: Vec<&str> = Target::built_in_names().filter(has_code).collect();
    format!(
        "write cpu, {}, a machine with such a GPU ({}), or the path of a .toml file that describes one",
        architectures.join(", "),
        machines.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> String {
        Place::open(name).err().map_or_else(String::new, |failure| failure.0)
    }

    #[test]
    fn architectures_and_machines_are_targets() {
        let found = |name: &str| match Place::open(name).unwrap_or_else(|failure| panic!("{}", failure.0)) {
            Place::Cpu => (name.to_owned(), String::new(), String::new()),
            Place::Gpu(gpu) => (gpu.name, gpu.architecture.to_string(), gpu.machine.name),
        };
        let all = |name: &str, parts: [&str; 3]| assert_eq!(found(name), parts.map(str::to_owned).into());
        all("cpu", ["cpu", "", ""]);
        all("sm_80", ["sm_80", "sm_80", "a100-80gb-sxm"]);
        all("sm_90a", ["sm_90a", "sm_90a", "h100-sxm"]);
        all("h200", ["h200-sxm", "sm_90a", "h200-sxm"]);
        all("b200", ["b200", "sm_100a", "b200"]);
    }

    #[test]
    fn other_names_are_refused_with_what_would_be_right() {
        for (name, expected) in [
            (
                "sm_103a",
                "no kernels are written for sm_103a yet; write cpu, sm_80, sm_90a, sm_100a, a machine",
            ),
            ("sm_", "`sm_` is not a GPU target"),
            (
                "cuda:0",
                "there is none; write cpu, sm_80, sm_90a, sm_100a, a machine with such a GPU (a100-80gb-sxm, h100-sxm, h200-sxm, b200)",
            ),
            ("reference-cpu", "that is a CPU"),
            ("missing.toml", "missing.toml: cannot be read"),
        ] {
            let message = refused(name);
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn a_machine_of_ones_own_says_its_architecture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text = include_str!("../../../targets/h100-sxm.toml");
        std::fs::write(&path, text.replace("\"h100-sxm\"", "\"mine\"")).unwrap();
        assert_eq!(
            Place::open(path.to_str().unwrap()).map(|place| place.name().to_owned()).ok().as_deref(),
            Some("mine")
        );
        std::fs::write(&path, text.replace("architecture = \"sm_90a\"\n", "")).unwrap();
        assert!(refused(path.to_str().unwrap()).contains("add a line such as architecture"));
    }
}
