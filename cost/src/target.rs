//! Machines described in files: `targets/*.toml`, built in, or a file of the user's.
//! A wrong file is refused with its name, the key and what would be right.
//! It must not measure: a target without speeds gets them from elsewhere.

use crate::machine::{Kind, Machine, Network, Precision, Price, Rates};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A machine as its file describes it. Without `rates` it is the machine at hand, to be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name by which a user picks it: the file's name without its ending.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// What computes.
    pub kind: Kind,
    /// Of a GPU, what its code is compiled for, as NVIDIA's compilers call it: `sm_90a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Main memory; absent where it is to be asked of the system.
    pub memory_bytes: Option<f64>,
    /// What an hour costs, where that was seen.
    pub price: Option<Price>,
    /// Links, where it has them.
    pub network: Option<Network>,
    /// Speeds; absent where they are to be measured.
    pub rates: Option<Rates>,
    /// Keys of this file whose figures neither a measurement nor a published source backs, as
    /// `rates.levels[0]`, each with what the figure is: what is predicted with them is to be shown so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmeasured: BTreeMap<String, String>,
}

/// What is wrong with a target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No such name and no such file.
    #[error("no target `{name}`: neither a file nor one of {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names built in.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Io {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or a missing key, or a value of the wrong type.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Place and reason.
        message: String,
    },
    /// A value that no machine has.
    #[error("{file}: `{key}` is {found}; it must be {expected}")]
    Value {
        /// The file.
        file: String,
        /// Path of the key, as `rates.levels[0].capacity_bytes`.
        key: String,
        /// The value.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Used for a prediction without having been measured.
    #[error("target `{name}` says nothing of `{key}`: it can be used only on the machine that it stands for")]
    Unmeasured {
        /// The target.
        name: String,
        /// The key that is absent.
        key: &'static str,
    },
}

const BUILT_IN: [(&str, &str); 7] = [
    ("this-machine", include_str!("../../targets/this-machine.toml")),
    ("reference-cpu", include_str!("../../targets/reference-cpu.toml")),
    ("cpu-server", include_str!("../../targets/cpu-server.toml")),
    ("a100-80gb-sxm", include_str!("../../targets/a100-80gb-sxm.toml")),
    ("h100-sxm", include_str!("../../targets/h100-sxm.toml")),
    ("h200-sxm", include_str!("../../targets/h200-sxm.toml")),
    ("b200", include_str!("../../targets/b200.toml")),
];

impl Target {
    /// Names of the targets that are built in.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The target of that name, or in the file of that path; a path ends in `.toml`. The beginning of a name up to
    /// a hyphen is enough where no other begins so: `h100`.
    pub fn load(name_or_path: &str) -> Result<Target, TargetError> {
        if name_or_path.ends_with(".toml") {
            return Target::from_file(Path::new(name_or_path));
        }
        let begins = |name: &str| name.strip_prefix(name_or_path).is_some_and(|rest| rest.starts_with('-'));
        let mut beginning = BUILT_IN.iter().filter(|(name, _)| begins(name));
        let only = beginning.next().filter(|_| beginning.next().is_none());
        match BUILT_IN.iter().find(|(name, _)| *name == name_or_path).or(only) {
            Some((name, text)) => Target::parse(text, &format!("targets/{name}.toml")),
            None => Err(TargetError::Unknown {
                name: name_or_path.to_string(),
                known: Target::built_in_names().map(String::from).collect(),
            }),
        }
    }

    /// The first of the targets that are built in whose code is compiled for this architecture, such as `sm_90a`.
    pub fn of_architecture(architecture: &str) -> Option<Target> {
        let targets = BUILT_IN.iter().filter_map(|(name, _)| Target::load(name).ok());
        targets.into_iter().find(|target| target.architecture.as_deref() == Some(architecture))
    }

    /// The target described in a file.
    pub fn from_file(path: &Path) -> Result<Target, TargetError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Target::parse(&text, &file),
            Err(source) => Err(TargetError::Io { file, source }),
        }
    }

    /// The target described by `text`; `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Target, TargetError> {
        let target: Target = toml::from_str(text)
            .map_err(|error| TargetError::Syntax { file: file.to_string(), message: error.to_string() })?;
        check(&target).and_then(|()| check_unmeasured(&target, text)).map_err(
            |Wrong { key, found, expected }| TargetError::Value {
                file: file.to_string(),
                key,
                found,
                expected,
            },
        )?;
        Ok(target)
    }

    /// The machine, its speeds and memory taken from the file where it has them, else from `measured`.
    pub fn into_machine(self, measured: Option<(Rates, f64)>) -> Result<Machine, TargetError> {
        let (measured_rates, measured_memory) = measured.unzip();
        let absent = |key| TargetError::Unmeasured { name: self.name.clone(), key };
        let rates = self.rates.clone().or(measured_rates).ok_or_else(|| absent("rates"))?;
        let memory_bytes = self.memory_bytes.or(measured_memory).ok_or_else(|| absent("memory_bytes"))?;
        Ok(Machine {
            name: self.name,
            kind: self.kind,
            memory_bytes,
            price: self.price,
            network: self.network,
            rates,
            unmeasured: self.unmeasured,
        })
    }
}

/// Whether a document has something at a key such as `rates.levels[0].read`.
fn has(document: &toml::Table, key: &str) -> bool {
    let mut parts = key.split(['.', '[']).map(|part| part.trim_end_matches(']'));
    let first = parts.next().and_then(|name| document.get(name));
    parts
        .fold(first, |value, part| match value? {
            toml::Value::Table(table) => table.get(part),
            toml::Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
        .is_some()
}

fn check_unmeasured(target: &Target, text: &str) -> Result<(), Wrong> {
    let document: toml::Table = toml::from_str(text).unwrap_or_default();
    target.unmeasured.keys().try_for_each(|key| {
        require(has(&document, key), "unmeasured".into(), format!("\"{key}\""), "a key of this file")
    })
}

struct Wrong {
    key: String,
    found: String,
    expected: &'static str,
}

fn require(holds: bool, key: String, found: impl ToString, expected: &'static str) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(Wrong { key, found: found.to_string(), expected }) }
}

fn positive(value: f64, key: impl Into<String>) -> Result<(), Wrong> {
    require(value.is_finite() && value > 0.0, key.into(), value, "a positive number")
}

fn check(target: &Target) -> Result<(), Wrong> {
    // Folders are called by it.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_plain =
        target.name.chars().all(plain) && target.name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let found = || format!("\"{}\"", target.name);
    require(is_plain, "name".into(), found(), "letters, digits, `-`, `_` and `.`, a letter or digit first")?;
    if let Some(memory) = target.memory_bytes {
        positive(memory, "memory_bytes")?;
    }
    if let Some(name) = &target.architecture {
        let number = name.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']));
        let is_one = number.is_some_and(|digits| {
            (2..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        let found = || format!("\"{name}\"");
        require(is_one, "architecture".into(), found(), "that of a GPU, such as \"sm_90a\"")?;
        require(target.kind == Kind::Gpu, "architecture".into(), found(), "absent, since this is no GPU")?;
    }
    if let Some(price) = &target.price {
        positive(price.per_hour, "price.per_hour")?;
        let code = &price.currency;
        let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        require(is_code, "price.currency".into(), format!("\"{code}\""), "a code of three capitals, as USD")?;
    }
    if let Some(network) = &target.network {
        positive(network.scale_out_bytes_per_second, "network.scale_out_bytes_per_second")?;
        if let Some(rate) = network.scale_up_bytes_per_second {
            positive(rate, "network.scale_up_bytes_per_second")?;
        }
    }
    target.rates.as_ref().map_or(Ok(()), check_rates)
}

fn check_rates(rates: &Rates) -> Result<(), Wrong> {
    require(rates.threads > 0, "rates.threads".into(), rates.threads, "at least 1")?;
    for (key, seconds) in
        [("launch_seconds", rates.launch_seconds), ("barrier_seconds", rates.barrier_seconds)]
    {
        let sane = seconds.is_finite() && seconds >= 0.0;
        require(sane, format!("rates.{key}"), seconds, "a number of seconds, at least 0")?;
    }
    let gpu = rates.gpu_rates();
    let share = gpu.share_of_memory_rate;
    require(
        share > 0.0 && share <= 1.0,
        "rates.gpu.share_of_memory_rate".into(),
        share,
        "above 0 and at most 1",
    )?;
    for (key, seconds) in
        [("gpu.tile_seconds", gpu.tile_seconds), ("gpu.stream_block_seconds", gpu.stream_block_seconds)]
    {
        let sane = seconds.is_finite() && seconds >= 0.0;
        require(sane, format!("rates.{key}"), seconds, "a number of seconds, at least 0")?;
    }
    let peaks = &rates.peak_flops_per_second_per_thread;
    let peaks_key = "rates.peak_flops_per_second_per_thread";
    require(peaks.contains_key(&Precision::F32), format!("{peaks_key}.f32"), "missing", "a positive number")?;
    for (precision, peak) in peaks {
        positive(*peak, format!("{peaks_key}.{precision:?}").to_lowercase())?;
    }
    let scalar = &rates.scalar_per_second_per_thread;
    for (key, rate) in [
        ("arithmetic", scalar.arithmetic),
        ("divide", scalar.divide),
        ("exponential", scalar.exponential),
        ("logarithm", scalar.logarithm),
        ("trigonometric", scalar.trigonometric),
    ] {
        positive(rate, format!("rates.scalar_per_second_per_thread.{key}"))?;
    }
    require(!rates.dot_shares.is_empty(), "rates.dot_shares".into(), "empty", "at least one shape")?;
    for (index, dot) in rates.dot_shares.iter().enumerate() {
        let key = format!("rates.dot_shares[{index}]");
        positive(dot.rows, format!("{key}.rows"))?;
        positive(dot.depth, format!("{key}.depth"))?;
        let share = dot.share_of_peak;
        require(share > 0.0 && share <= 1.0, format!("{key}.share_of_peak"), share, "above 0 and at most 1")?;
    }
    check_levels(rates)
}

fn check_levels(rates: &Rates) -> Result<(), Wrong> {
    require(!rates.levels.is_empty(), "rates.levels".into(), "empty", "at least main memory")?;
    for (index, level) in rates.levels.iter().enumerate() {
        let key = format!("rates.levels[{index}]");
        positive(level.capacity_bytes, format!("{key}.capacity_bytes"))?;
        for (way, bandwidth) in [("read", level.read), ("write", level.write)] {
            let (one, all) = (bandwidth.one_thread_bytes_per_second, bandwidth.all_threads_bytes_per_second);
            positive(one, format!("{key}.{way}.one_thread_bytes_per_second"))?;
            let key = format!("{key}.{way}.all_threads_bytes_per_second");
            positive(all, key.as_str())?;
            require(all >= one, key, all, "at least what one thread gets")?;
        }
        let nearer = index.checked_sub(1).map(|index| &rates.levels[index]);
        if let Some(nearer) = nearer.filter(|nearer| nearer.shared == level.shared) {
            let grows = level.capacity_bytes >= nearer.capacity_bytes;
            let capacity_key = format!("{key}.capacity_bytes");
            require(grows, capacity_key, level.capacity_bytes, "at least that of the nearer level")?;
        }
    }
    let last = rates.levels.len() - 1;
    let key = format!("rates.levels[{last}].shared");
    require(rates.levels[last].shared, key, false, "true: the last level is main memory")
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
