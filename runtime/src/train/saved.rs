//! Checkpoints of a run: parameters and moments under the user's names and axis
//! order, whatever the storage layout, with all that a resume needs. It must
//! not know how steps are computed.

use super::TrainError;
use super::identity::{ModelIdentity, shape};
use super::options::TrainOptions;
use super::trainer::Trainer;
use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointWriter, Dtype, RunState, TensorSpec, keys};
use crate::executor::{ParameterStore, parts};
use diptych_ir::{DType, Program, Symbol};
use half::bf16;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What a checkpoint or an export says of its model and of the run that wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedModel {
    /// The family of the architecture.
    pub family: String,
    /// Its configuration.
    pub architecture: Value,
    /// The most positions of a sequence.
    pub context: usize,
    /// The options of the run; an export has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainOptions>,
}

impl SavedModel {
    /// What the file at `path` says, so that its architecture can be made and its run gone on with.
    ///
    /// # Errors
    /// When it is not a sound file, or not one written by training.
    pub fn read(path: &Path) -> Result<SavedModel, TrainError> {
        Ok(Self::of(&Checkpoint::open(path)?)?)
    }

    fn of(file: &Checkpoint) -> Result<SavedModel, CheckpointError> {
        let problem = |cause: String| CheckpointError::Metadata {
            path: file.path().to_path_buf(),
            key: keys::CONFIG.to_owned(),
            cause,
        };
        let text = file.metadata(keys::CONFIG).ok_or_else(|| {
            problem("is missing; expected a file written by `train`, not weights alone".to_owned())
        })?;
        serde_json::from_str(text).map_err(|error| problem(format!("cannot be read: {error}")))
    }
}

/// The names of the tensors of a checkpoint: parameters, then moments.
fn moments(program: &Program) -> impl Iterator<Item = Symbol> + '_ {
    let is_moment = |name: &str| name.starts_with("mean.") || name.starts_with("variance.");
    program.states.keys().copied().filter(move |name| is_moment(name.as_str()))
}

/// The parameter that a moment belongs to, or the parameter itself.
fn owner(program: &Program, name: Symbol) -> Symbol {
    if program.params.contains_key(&name) {
        return name;
    }
    name.as_str().split_once('.').map_or(name, |(_, owner)| Symbol::new(owner))
}

fn shape_of(program: &Program, name: Symbol) -> Vec<usize> {
    program.params.get(&owner(program, name)).map_or_else(Vec::new, shape)
}

/// The type that a tensor has in files: parameters and moments as they are kept.
fn dtype_of(program: &Program, name: Symbol) -> Dtype {
    match program.states.get(&name).map(|ty| ty.dtype) {
        Some(DType::BF16) => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// Sets all parameters of a program from a checkpoint or an export of the same model.
///
/// # Errors
/// When the file is not sound, or of another model: then no parameter is changed.
pub fn load_parameters(
    store: &mut ParameterStore,
    program: &Program,
    identity: &ModelIdentity,
    path: &Path,
) -> Result<(), TrainError> {
    let file = Checkpoint::open(path)?;
    check_model(&file, program, identity)?;
    let names: Vec<Symbol> = program.params.keys().copied().collect();
    check_tensors(&file, program, &names)?;
    load(store, &file, program, &names)
}

/// Refuses a file of another model, and names the first difference.
fn check_model(file: &Checkpoint, program: &Program, identity: &ModelIdentity) -> Result<(), TrainError> {
    let saved = SavedModel::of(file)?;
    if let Some(difference) = identity.difference(&saved.family, &saved.architecture) {
        return Err(TrainError::OtherModel { path: file.path().to_path_buf(), difference });
    }
    let expected = identity.fingerprint(program);
    match file.metadata(keys::ARCHITECTURE) {
        Some(found) if found == expected => Ok(()),
        found => {
            // The same configuration made other parameters: a tensor tells which.
            let names: Vec<Symbol> = program.params.keys().copied().collect();
            check_tensors(file, program, &names)?;
            Err(CheckpointError::OtherArchitecture {
                path: file.path().to_path_buf(),
                found: found.unwrap_or("none").to_owned(),
                expected,
            }
            .into())
        }
    }
}

/// Checks that all tensors are there with their shapes, before any is used.
fn check_tensors(file: &Checkpoint, program: &Program, names: &[Symbol]) -> Result<(), CheckpointError> {
    for &name in names {
        file.expect(name.as_str(), dtype_of(program, name), &shape_of(program, name))?;
    }
    Ok(())
}

fn load(
    store: &mut ParameterStore,
    file: &Checkpoint,
    program: &Program,
    names: &[Symbol],
) -> Result<(), TrainError> {
    for &name in names {
        let tensor = file.expect(name.as_str(), dtype_of(program, name), &shape_of(program, name))?;
        let mut numbers = Vec::new();
        if store.columns(name).is_some() {
            numbers.resize(tensor.elements(), 0.0);
            tensor.read_f32(&mut numbers)?;
            store.set(name, &numbers)?;
            file.release(name.as_str());
            continue;
        }
        for part in parts(tensor.elements()) {
            numbers.resize(part.len(), 0.0);
            tensor.read_f32_part(part.start, &mut numbers)?;
            store.set_part(name, part.start, &numbers)?;
            // What has been read is in memory twice.
            file.release(name.as_str());
        }
    }
    Ok(())
}

impl Trainer<'_> {
    fn config(&self, training: Option<TrainOptions>) -> String {
        let ModelIdentity { family, config, context } = self.identity.clone();
        let saved = SavedModel { family, architecture: config, context, training };
        serde_json::json!(saved).to_string()
    }

    fn fingerprint(&self) -> String {
        self.identity.fingerprint(&self.session.compiled.program)
    }

    /// Writes a checkpoint: parameters, moments and where the run stands. The
    /// file at `path` is replaced once all of it is on disk.
    ///
    /// # Errors
    /// When the disk refuses; the old file is then as it was.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let program = &self.session.compiled.program;
        let state = RunState {
            architecture: self.fingerprint(),
            step: self.step,
            tokens_seen: self.tokens_seen,
            data_seed: self.options.seed,
            config: self.config(Some(self.options.clone())),
        };
        let names: Vec<Symbol> = program.params.keys().copied().chain(moments(program)).collect();
        self.write(path, &names, &state.to_metadata())
    }

    /// Writes the parameters alone, for serving.
    ///
    /// # Errors
    /// When the disk refuses; the old file is then as it was.
    pub fn export(&self, path: &Path) -> Result<(), TrainError> {
        let names: Vec<Symbol> = self.session.compiled.program.params.keys().copied().collect();
        let metadata = [(keys::ARCHITECTURE, self.fingerprint()), (keys::CONFIG, self.config(None))];
        self.write(path, &names, &metadata.map(|(key, text)| (key.to_owned(), text)).into())
    }

    fn write(
        &self,
        path: &Path,
        names: &[Symbol],
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), TrainError> {
        let program = &self.session.compiled.program;
        let spec = |&name: &Symbol| TensorSpec {
            name: name.to_string(),
            dtype: dtype_of(program, name),
            shape: shape_of(program, name),
        };
        let specs: Vec<TensorSpec> = names.iter().map(spec).collect();
        let mut writer = CheckpointWriter::create(path, &specs, metadata)?;
        let mut numbers = Vec::new();
        for &name in names {
            let store = &self.session.store;
            for part in parts(store.elements(name)?) {
                numbers.resize(part.len(), 0.0);
                store.get_part(name, part.start, &mut numbers)?;
                if dtype_of(program, name) == Dtype::BF16 {
                    let halves = numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes());
                    writer.append(name.as_str(), &halves.collect::<Vec<u8>>())?;
                    continue;
                }
                // Files are little-endian; this changes nothing where the machine is.
                numbers.iter_mut().for_each(|number| *number = f32::from_bits(number.to_bits().to_le()));
                writer.append(name.as_str(), bytemuck::cast_slice(&numbers))?;
            }
        }
        Ok(writer.finish()?)
    }

    /// Takes up a run where a checkpoint left it: from here on every bit is
    /// what it would have been without the interruption.
    ///
    /// # Errors
    /// When the file is not sound, is of another model, lacks a tensor, or was
    /// trained with other options on which the next bits depend. Nothing is changed then.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let file = Checkpoint::open(path)?;
        let program = &self.session.compiled.program;
        check_model(&file, program, &self.identity)?;
        let state = RunState::of(&file)?;
        self.check_options(path, &SavedModel::of(&file)?)?;
        let names: Vec<Symbol> = program.params.keys().copied().chain(moments(program)).collect();
        check_tensors(&file, program, &names)?;
        load(&mut self.session.store, &file, program, &names)?;
        self.session.store.upload()?;
        (self.step, self.tokens_seen) = (state.step, state.tokens_seen);
        Ok(())
    }

    /// What the meaning of a step depends on must be as it was; how long the run is and how its learning rate goes on may
    /// change.
    fn check_options(&self, path: &Path, saved: &SavedModel) -> Result<(), TrainError> {
        let Some(saved) = &saved.training else { return Ok(()) };
        let fields = |options: &TrainOptions| {
            [
                ("seed", serde_json::json!(options.seed)),
                ("batch", serde_json::json!(options.batch)),
                ("time", serde_json::json!(options.time)),
                ("accumulation", serde_json::json!(options.accumulation)),
                ("optimizer", serde_json::json!(options.optimizer)),
            ]
        };
        for ((option, found), (_, expected)) in fields(saved).into_iter().zip(fields(&self.options)) {
            if found != expected {
                let (found, expected) = (found.to_string(), expected.to_string());
                let path = path.to_path_buf();
                return Err(TrainError::OtherOptions { path, option, found, expected });
            }
        }
        Ok(())
    }
}
