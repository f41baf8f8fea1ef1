//! Weights on disk, whoever wrote them: a run of `train`, a Hugging Face folder or a GGUF
//! file, with the architecture, the vocabulary and the chat template that belong to them.

use crate::arguments::{Cache, Hold, HoldArguments, WeightArguments};
use crate::blocks;
use crate::chat::ChatTemplate;
use crate::config::{TrainConfig, compiled_for, identity};
use crate::failure::{Failure, Result, file_failure};
use crate::machine::memory_text;
use crate::objective::{ObjectiveArguments, ObjectiveConfig};
use crate::output::tell;
use crate::text::read_vocabulary;
use crate::train::CONFIG_FILE;
use diptych_codegen::driver::compile_rewritten;
use diptych_data::Vocabulary;
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_models::{Architecture, Registry, build};
use diptych_passes::caches::CacheFormat;
use diptych_passes::narrow_weights::hold_narrow;
use diptych_passes::weight_blocks::hold_in_blocks;
use diptych_runtime::checkpoint::{Checkpoint, Dtype};
use diptych_runtime::decode::{ServeMemory, ServeOptions};
use diptych_runtime::executor::{PART_ELEMENTS, parts};
use diptych_runtime::session::{Device, Session};
use diptych_runtime::train::{SavedModel, load_parameters};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a run's vocabulary is called in its folder, as Hugging Face calls it.
pub const VOCABULARY_FILE: &str = "tokenizer.json";

/// An opened set of weights.
pub struct Weights {
    /// The architecture that they are of.
    pub architecture: Box<dyn Architecture>,
    /// Its program.
    pub program: Program,
    beside: Beside,
    source: Source,
    /// The parameters whose blocks are taken from the file as they are.
    stored: BTreeSet<Symbol>,
    /// In which numbers caches are held, if not as the model says.
    caches: Option<CacheFormat>,
    /// What the run was compiled for: the form depends on how it was trained, too.
    compiled_for: (ObjectiveConfig, TrainConfig),
}

enum Source {
    Run(Checkpoint),
    Others(diptych_models::Checkpoint),
}

/// Where what belongs to the weights is.
enum Beside {
    /// In files of the same folder; with the id that ends a text, if one of them tells.
    Folder { folder: PathBuf, end_of_text: Option<u32> },
    /// In the file of the weights.
    Gguf(diptych_gguf::File),
}

impl Weights {
    /// Opens what the user names, and checks that it fits its architecture.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another architecture.
    pub fn open(registry: &Registry, arguments: &WeightArguments) -> Result<Weights> {
        match (&arguments.checkpoint, &arguments.hugging_face, &arguments.gguf) {
            (Some(path), ..) => Weights::of_run(registry, path),
            (None, Some(folder), _) => Weights::of_hugging_face(registry, folder),
            (None, None, Some(path)) => Weights::of_gguf(registry, path),
            (None, None, None) => {
                Err(Failure::new("no weights: name them with --checkpoint, --hugging-face or --gguf"))
            }
        }
    }

    /// These weights, held in the numbers that the user asks for.
    ///
    /// # Errors
    /// When none can be held so.
    pub fn held(mut self, arguments: &HoldArguments) -> Result<Weights> {
        if arguments.hold != Hold::F32 {
            let file = match &self.source {
                Source::Others(checkpoint) => Some(checkpoint),
                Source::Run(_) => None,
            };
            let chosen = blocks::choose(&self.program, arguments.hold, file)?;
            tell(chosen.text());
            let in_blocks = hold_in_blocks(&self.program, &chosen.formats)?;
            self.program = hold_narrow(&in_blocks, &chosen.types)?;
            self.stored = chosen.stored;
        }
        self.caches = arguments.cache.and_then(Cache::format);
        Ok(self)
    }

    fn of_run(registry: &Registry, path: &Path) -> Result<Weights> {
        let file = newest_checkpoint(path)?;
        let saved = SavedModel::read(&file)?;
        let architecture = registry.architecture(&saved.family, &saved.architecture)?;
        let program = build(&*architecture)?;
        let tensors = Checkpoint::open(&file)?;
        for (name, info) in &program.params {
            let shape: Vec<usize> = info.order.iter().filter_map(|axis| axis.fixed_size()).collect();
            tensors.expect(name.as_str(), Dtype::F32, &shape)?;
        }
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        let compiled_for = compiled_for(&folder.join(CONFIG_FILE))?.unwrap_or_default();
        Ok(Weights {
            architecture,
            program,
            beside: Beside::Folder { folder, end_of_text: None },
            source: Source::Run(tensors),
            stored: BTreeSet::new(),
            caches: None,
            compiled_for,
        })
    }

    fn of_hugging_face(registry: &Registry, folder: &Path) -> Result<Weights> {
        let checkpoint = diptych_models::Checkpoint::open(folder, registry)?;
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(file_failure("read", &path))?;
        let config: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        let id = match &config["eos_token_id"] {
            serde_json::Value::Array(ids) => ids.first().and_then(serde_json::Value::as_u64),
            id => id.as_u64(),
        };
        let architecture = registry.from_hugging_face(&config)?;
        Ok(Weights {
            architecture,
            program: checkpoint.program().clone(),
            beside: Beside::Folder {
                folder: folder.to_owned(),
                end_of_text: id.and_then(|id| u32::try_from(id).ok()),
            },
            source: Source::Others(checkpoint),
            stored: BTreeSet::new(),
            caches: None,
            compiled_for: Default::default(),
        })
    }

    fn of_gguf(registry: &Registry, path: &Path) -> Result<Weights> {
        let file = diptych_gguf::File::open(path)?;
        let checkpoint = diptych_models::Checkpoint::of_gguf(&file, registry)?;
        let architecture = checkpoint.architecture();
        Ok(Weights {
            architecture: registry.architecture(architecture.name(), &architecture.describe())?,
            program: checkpoint.program().clone(),
            beside: Beside::Gguf(file),
            source: Source::Others(checkpoint),
            stored: BTreeSet::new(),
            caches: None,
            compiled_for: Default::default(),
        })
    }

    /// All values of a parameter, in the order of its axes as declared.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        match &self.source {
            Source::Run(tensors) => {
                let tensor = tensors.tensor(name)?;
                let mut values = vec![0.0; tensor.elements()];
                tensor.read_f32(&mut values)?;
                Ok(values)
            }
            Source::Others(checkpoint) => Ok(checkpoint.load_param(name)?),
        }
    }

    /// A session of some entries with these weights. Before it takes memory, it tells
    /// how much that will be with a server that has such room.
    ///
    /// # Errors
    /// When the program cannot be compiled, memory is short, or a parameter does not fit.
    pub fn session(
        &self,
        device: &Device,
        context: usize,
        room: ServeOptions,
        kinds: &[EntryKind],
        objective: &ObjectiveArguments,
    ) -> Result<Session> {
        let (config, train) = &self.compiled_for;
        let config = objective.over(config)?;
        let most = self.architecture.context();
        let objective = config.objective(most, train.batch, train.time(most))?;
        let rewritten = config.rewrite(&self.program, objective, device.options())?.with_caches(self.caches);
        let compiled = compile_rewritten(&rewritten, kinds, &Default::default(), device.options())?;
        let memory = ServeMemory::of(device, &compiled, context, room, kinds);
        // What is rounded is read whole.
        let rounded = self
            .program
            .params
            .iter()
            .filter(|(name, info)| info.blocks.is_some() && !self.stored.contains(*name));
        let rounded =
            rounded.map(|(_, info)| info.order.iter().filter_map(|axis| axis.fixed_size()).product());
        let most = rounded.max().unwrap_or(0).max(PART_ELEMENTS);
        let part = most * size_of::<f32>();
        let in_file = match &self.source {
            Source::Run(_) => part,
            Source::Others(checkpoint) => checkpoint.largest_tensor(),
        };
        // Weights are read before the server takes its share.
        let run = memory.parameters + memory.beside_parameters().max(part + in_file);
        tell(memory_text(device, run, memory.parameters + part + in_file));
        let mut session = Session::load(device, compiled, context)?;
        match &self.source {
            Source::Run(tensors) => {
                let (identity, program) = (identity(&*self.architecture), &session.compiled.program);
                load_parameters(&mut session.store, program, &identity, tensors.path())?;
            }
            Source::Others(checkpoint) => {
                let mut values = Vec::new();
                for &name in self.program.params.keys() {
                    if let Some(columns) = session.store.columns(name) {
                        if !self.stored.contains(&name) {
                            session.store.set(name, &checkpoint.load_param(name.as_str())?)?;
                            continue;
                        }
                        for column in 0..columns.count() {
                            let blocks =
                                checkpoint.blocks(name.as_str(), columns.first(column), columns.depth())?;
                            session.store.set_column(name, &columns, column, blocks)?;
                        }
                        checkpoint.release(name.as_str())?;
                        continue;
                    }
                    for part in parts(session.store.elements(name)?) {
                        values.resize(part.len(), 0.0);
                        checkpoint.load_part(name.as_str(), part.start, &mut values)?;
                        session.store.set_part(name, part.start, &values)?;
                    }
                }
            }
        }
        Ok(session)
    }

    /// The vocabulary beside the weights, or the one named.
    ///
    /// # Errors
    /// When there is none, or it has more tokens than the model.
    pub fn vocabulary(&self, named: Option<&Path>) -> Result<Vocabulary> {
        let (path, vocabulary) = match (&self.beside, named) {
            (Beside::Gguf(file), None) => (file.path().to_owned(), Vocabulary::from_gguf(file)?),
            (Beside::Gguf(_), Some(path)) => (path.to_owned(), read_vocabulary(path, None)?),
            (Beside::Folder { folder, end_of_text }, named) => {
                let path = named.map_or_else(|| folder.join(VOCABULARY_FILE), Path::to_owned);
                if !path.exists() {
                    return Err(Failure(format!(
                        "no vocabulary at {}: name a tokenizer.json with --tokenizer",
                        path.display()
                    )));
                }
                let vocabulary = read_vocabulary(&path, *end_of_text)?;
                (path, vocabulary)
            }
        };
        if vocabulary.vocab_size() > self.architecture.vocab() {
            return Err(Failure(format!(
                "{} has {} tokens, but the model has {}; name the vocabulary that it was trained with",
                path.display(),
                vocabulary.vocab_size(),
                self.architecture.vocab()
            )));
        }
        Ok(vocabulary)
    }

    /// The chat template beside the weights.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn chat_template(&self, vocabulary: &Vocabulary) -> Result<ChatTemplate> {
        match &self.beside {
            Beside::Gguf(file) => {
                let text = file.string("tokenizer.chat_template")?;
                let text = text.ok_or_else(|| {
                    file.wrong(
                        "no `tokenizer.chat_template`: the model was not made for --chat; use --prompt",
                    )
                })?;
                let token = |key: &str| -> Result<String> {
                    let id = file.count(key)?.and_then(|id| u32::try_from(id).ok());
                    Ok(id.and_then(|id| vocabulary.token(id)).unwrap_or_default())
                };
                let begin = token("tokenizer.ggml.bos_token_id")?;
                Ok(ChatTemplate { text, begin, end: token("tokenizer.ggml.eos_token_id")? })
            }
            Beside::Folder { folder, .. } => ChatTemplate::in_folder(folder),
        }
    }

    /// The tokens after which a text ends: the vocabulary's own, and what a file says ends a turn.
    ///
    /// # Errors
    /// When the file is malformed.
    pub fn ends(&self, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
        let mut ends: Vec<u32> = vocabulary.end_of_text().into_iter().collect();
        if let Beside::Gguf(file) = &self.beside {
            for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
                ends.extend(file.count(key)?.and_then(|id| u32::try_from(id).ok()));
            }
        }
        Ok(ends)
    }
}

/// A checkpoint file as named, or the one with the most steps in a run's folder.
///
/// # Errors
/// When there is none.
pub fn newest_checkpoint(path: &Path) -> Result<PathBuf> {
    let found = std::fs::metadata(path).map_err(file_failure("open the checkpoint", path))?;
    if !found.is_dir() {
        return Ok(path.to_owned());
    }
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(path).map_err(file_failure("list", path))? {
        let file = entry.map_err(file_failure("list", path))?.path();
        let step = file
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse::<u64>().ok());
        if let Some(step) = step
            && newest.as_ref().is_none_or(|newest| newest.0 < step)
        {
            newest = Some((step, file));
        }
    }
    newest.map(|newest| newest.1).ok_or_else(|| {
        Failure(format!(
            "no checkpoint in {}: it has no step-NUMBER.safetensors, as `train` writes them",
            path.display()
        ))
    })
}

/// What a checkpoint after so many steps is called.
pub fn checkpoint_name(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}
