//! A model's weights in one file or in several with an index, as Hugging Face lays them out.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Checkpoint, CheckpointError, TensorView, read::missing};

/// The tensors of one model, whichever files they are in.
#[derive(Debug)]
pub struct TensorFiles {
    /// The file opened: the only one, or the index.
    path: PathBuf,
    files: Vec<Checkpoint>,
    /// The file of each tensor.
    place: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// Opens a `.safetensors` file, a `.safetensors.index.json` with the files it names, or a folder with
    /// `model.safetensors.index.json`, `model.safetensors` or one other `.safetensors` file.
    ///
    /// # Errors
    /// Whatever [`Checkpoint::open`] refuses; a folder without weights; an index that is not one, names files outside
    /// its folder, or names tensors that its files lack.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let path = if path.is_dir() { find_in(path)? } else { path.to_path_buf() };
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_index(path);
        }
        let file = Checkpoint::open(&path)?;
        let place = file.names().map(|name| (name.to_owned(), 0)).collect();
        Ok(TensorFiles { path, files: vec![file], place })
    }

    fn open_index(path: PathBuf) -> Result<Self, CheckpointError> {
        let text = std::fs::read(&path).map_err(|source| CheckpointError::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let refused = |cause: String| CheckpointError::Index { path: path.clone(), cause };
        let index: Index = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files: Vec<Checkpoint> = Vec::new();
        let mut number_of: BTreeMap<String, usize> = BTreeMap::new();
        let mut place = BTreeMap::new();
        for (tensor, file) in index.weight_map {
            // A file from elsewhere must not make us read wherever it likes.
            let mut parts = Path::new(&file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(refused(format!(
                    "`{tensor}` is in {file:?}; expected the name of a file beside the index"
                )));
            }
            let number = match number_of.get(&file) {
                Some(&number) => number,
                None => {
                    files.push(Checkpoint::open(&folder.join(&file))?);
                    number_of.insert(file, files.len() - 1);
                    files.len() - 1
                }
            };
            files[number].tensor(&tensor)?;
            place.insert(tensor, number);
        }
        Ok(TensorFiles { path, files, place })
    }

    /// The file opened: the only one, or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in the order in which sorted tensor names lead to them.
    pub fn files(&self) -> &[Checkpoint] {
        &self.files
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// There is none; the error names the most similar one.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        match self.place.get(name) {
            Some(&number) => self.files[number].tensor(name),
            None => Err(missing(&self.path, name, self.names())),
        }
    }
}

fn find_in(folder: &Path) -> Result<PathBuf, CheckpointError> {
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let failed = |source| CheckpointError::File { action: "read", path: folder.to_path_buf(), source };
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            others.push(path);
        }
    }
    others.sort();
    match others.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(CheckpointError::NoWeights { path: folder.into(), found: "no .safetensors file".into() }),
        [first, ..] => Err(CheckpointError::NoWeights {
            path: folder.into(),
            found: format!("{} such files, {} the first, and no index", others.len(), first.display()),
        }),
    }
}
