//! What a checkpoint says of the run that wrote it, besides its tensors: all that a resume needs to go on.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Checkpoint, CheckpointError};

/// The metadata keys that are ours.
pub mod keys {
    /// The fingerprint of the architecture: equal for equal parameters and equal meaning.
    pub const ARCHITECTURE: &str = "diptych.architecture";
    /// How many optimizer steps were done.
    pub const STEP: &str = "diptych.step";
    /// How many tokens were trained on.
    pub const TOKENS_SEEN: &str = "diptych.tokens_seen";
    /// The seed of the data order.
    pub const DATA_SEED: &str = "diptych.data_seed";
    /// The run's configuration as JSON.
    pub const CONFIG: &str = "diptych.config";
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunState {
    /// The fingerprint of the architecture.
    pub architecture: String,
    /// How many optimizer steps are done.
    pub step: u64,
    /// How many tokens were trained on.
    pub tokens_seen: u64,
    /// The seed of the data order.
    pub data_seed: u64,
    /// The run's configuration as JSON.
    pub config: String,
}

impl RunState {
    /// The metadata to write.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (keys::ARCHITECTURE.into(), self.architecture.clone()),
            (keys::STEP.into(), self.step.to_string()),
            (keys::TOKENS_SEEN.into(), self.tokens_seen.to_string()),
            (keys::DATA_SEED.into(), self.data_seed.to_string()),
            (keys::CONFIG.into(), self.config.clone()),
        ])
    }

    /// What `checkpoint` says.
    ///
    /// # Errors
    /// A key is missing (the file is not a checkpoint of ours) or holds what cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        Ok(RunState {
            architecture: text(checkpoint, keys::ARCHITECTURE)?.into(),
            step: number(checkpoint, keys::STEP)?,
            tokens_seen: number(checkpoint, keys::TOKENS_SEEN)?,
            data_seed: number(checkpoint, keys::DATA_SEED)?,
            config: text(checkpoint, keys::CONFIG)?.into(),
        })
    }

    /// What `checkpoint` says, if its architecture has the fingerprint `architecture`.
    ///
    /// # Errors
    /// As [`RunState::of`], or the architecture is another.
    pub fn of_architecture(checkpoint: &Checkpoint, architecture: &str) -> Result<Self, CheckpointError> {
        let found = text(checkpoint, keys::ARCHITECTURE)?;
        if found != architecture {
            return Err(CheckpointError::OtherArchitecture {
                path: checkpoint.path().to_path_buf(),
                found: found.into(),
                expected: architecture.into(),
            });
        }
        Self::of(checkpoint)
    }
}

fn text<'a>(checkpoint: &'a Checkpoint, key: &str) -> Result<&'a str, CheckpointError> {
    checkpoint.metadata(key).ok_or_else(|| CheckpointError::Metadata {
        path: checkpoint.path().to_path_buf(),
        key: key.into(),
        cause: "is missing; expected a checkpoint written by `train`, not weights alone".into(),
    })
}

fn number<T: FromStr>(checkpoint: &Checkpoint, key: &str) -> Result<T, CheckpointError> {
    let found = text(checkpoint, key)?;
    found.parse().map_err(|_| CheckpointError::Metadata {
        path: checkpoint.path().to_path_buf(),
        key: key.into(),
        cause: format!("is {found:?}; expected a whole number"),
    })
}
