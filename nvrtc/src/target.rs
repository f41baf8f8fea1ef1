//! The GPU architectures that kernels are compiled for.

use std::fmt;
use std::str::FromStr;

use crate::error::NvrtcError;

/// A GPU architecture, such as `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The compute capability times ten: 90 for 9.0.
    pub capability: u32,
    /// On which other architectures the code may run.
    pub features: Features,
}

/// Which instructions code may use beside those that all later architectures have too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Features {
    /// None.
    Portable,
    /// Those of this architecture alone (`a`): wgmma on sm_90a, tcgen05 on sm_100a.
    Architecture,
    /// Those of the architecture's family (`f`).
    Family,
}

impl Target {
    /// A100: `mma.sync`, `ldmatrix`, `cp.async`.
    pub const SM_80: Target = Target { capability: 80, features: Features::Portable };
    /// H100 and H200: TMA and `wgmma`.
    pub const SM_90A: Target = Target { capability: 90, features: Features::Architecture };
    /// B200: TMA and `tcgen05`.
    pub const SM_100A: Target = Target { capability: 100, features: Features::Architecture };

    /// The name of the instruction set that PTX for it uses, such as `compute_90a`.
    pub(crate) fn virtual_name(self) -> String {
        format!("compute_{}{}", self.capability, self.features.suffix())
    }
}

impl Features {
    fn suffix(self) -> &'static str {
        match self {
            Features::Portable => "",
            Features::Architecture => "a",
            Features::Family => "f",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.capability, self.features.suffix())
    }
}

impl FromStr for Target {
    type Err = NvrtcError;

    fn from_str(name: &str) -> Result<Self, NvrtcError> {
        let refused = || NvrtcError::TargetName { name: name.to_owned() };
        let number = name.strip_prefix("sm_").ok_or_else(refused)?;
        let (digits, features) = match number.strip_suffix(['a', 'f']) {
            Some(digits) if number.ends_with('a') => (digits, Features::Architecture),
            Some(digits) => (digits, Features::Family),
            None => (number, Features::Portable),
        };
        if !(2..=3).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        Ok(Target { capability: digits.parse().map_err(|_| refused())?, features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, target) in
            [("sm_80", Target::SM_80), ("sm_90a", Target::SM_90A), ("sm_100a", Target::SM_100A)]
        {
            assert_eq!(name.parse::<Target>().unwrap(), target);
            assert_eq!(target.to_string(), name);
        }
        let family: Target = "sm_120f".parse().unwrap();
        assert_eq!((family.to_string(), family.virtual_name()), ("sm_120f".into(), "compute_120f".into()));
    }

    #[test]
    fn what_is_no_target_is_refused_with_what_would_be_right() {
        for name in [
            "",
            "sm_",
            "sm_8",
            "sm_a",
            "sm_90b",
            "sm_90aa",
            "sm_1000",
            "sm_+9",
            "compute_90",
            "90a",
            "sm_９０",
        ] {
            let message = name.parse::<Target>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")) && message.contains("sm_90a"), "{message}");
        }
    }
}
