//! The devices that are modelled.

use std::str::FromStr;

/// A GPU architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Ampere (A100): mma.sync, ldmatrix, cp.async.
    Sm80,
    /// Hopper (H100), with the features that only it has: TMA, mbarriers, wgmma.
    Sm90a,
    /// Blackwell for servers (B200), with what only it has: tensor memory and tcgen05.
    Sm100a,
}

impl Target {
    /// Its name, as in `.target`.
    pub fn name(self) -> &'static str {
        match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
            Target::Sm100a => "sm_100a",
        }
    }

    /// Compute capability, major and minor.
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Target::Sm80 => (8, 0),
            Target::Sm90a => (9, 0),
            Target::Sm100a => (10, 0),
        }
    }

    /// Streaming multiprocessors of the largest device.
    pub fn processors(self) -> u32 {
        match self {
            Target::Sm80 => 108,
            Target::Sm90a => 132,
            Target::Sm100a => 148,
        }
    }

    /// Bytes of shared memory that a block can have, where the kernel asks for more than 48 KiB.
    pub fn shared_bytes_per_block(self) -> u32 {
        match self {
            Target::Sm80 => 163 << 10,
            Target::Sm90a | Target::Sm100a => 227 << 10,
        }
    }

    /// Bytes of shared memory of a multiprocessor.
    pub fn shared_bytes_per_processor(self) -> u32 {
        match self {
            Target::Sm80 => 164 << 10,
            Target::Sm90a | Target::Sm100a => 228 << 10,
        }
    }

    /// Whether a module for `target` (of `.target`) runs on this device.
    pub(crate) fn runs(self, target: &str) -> bool {
        let Some(number) = target.strip_prefix("sm_") else { return false };
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let (major, minor) = self.compute_capability();
        let Ok(version) = digits.parse::<u32>() else { return false };
        match &number[digits.len()..] {
            "" => (10..=major * 10 + minor).contains(&version),
            // Architecture-specific code runs on its own architecture alone.
            "a" => number == &self.name()[3..],
            _ => false,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sm_80" => Ok(Target::Sm80),
            "sm_90a" => Ok(Target::Sm90a),
            "sm_100a" => Ok(Target::Sm100a),
            other => Err(format!("`{other}` is not modelled: sm_80, sm_90a and sm_100a are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_run_on_their_own_and_later_devices() {
        assert!(Target::Sm80.runs("sm_80") && Target::Sm80.runs("sm_75") && Target::Sm90a.runs("sm_80"));
        assert!(Target::Sm90a.runs("sm_90a") && Target::Sm90a.runs("sm_90"));
        assert!(
            !Target::Sm80.runs("sm_90a") && !Target::Sm80.runs("sm_86") && !Target::Sm90a.runs("sm_100a")
        );
        assert!(Target::Sm100a.runs("sm_100a") && Target::Sm100a.runs("sm_90"));
        assert!(!Target::Sm100a.runs("sm_90a"));
    }
}
