//! Writing a checkpoint that transformers can read. Files are written beside
//! and renamed into place, so that a failure leaves what was there.

use crate::checkpoint::{Place, places};
use crate::{Architecture, ModelError, Result, build};
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `config.json` and `model.safetensors` (f32) into a folder, which is
/// made if need be. `values` gives all values of a parameter in the order of
/// its axes as declared.
///
/// # Errors
/// When the architecture has no form in transformers, when a parameter has not
/// as many values as it should, or when a file cannot be written.
pub fn export(
    folder: &Path,
    architecture: &dyn Architecture,
    mut values: impl FnMut(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    let names = architecture.hugging_face().ok_or_else(|| {
        let problem = format!(
            "transformers has no model with these options of `{}`: {}",
            architecture.name(),
            architecture.describe()
        );
        ModelError::config(architecture.name(), problem)
    })?;
    let program = build(architecture)?;
    let places = places(&names.tensors, &program)?;
    let mut params = Vec::new();
    for place in &places {
        let values = values(&place.row.param)?;
        if values.len() != place.tensors * place.elements {
            let (name, given) = (&place.row.param, values.len());
            let problem =
                format!("`{name}` has {} values, but {given} were given", place.tensors * place.elements);
            return Err(ModelError::config(architecture.name(), problem));
        }
        params.push(values);
    }
    let mut tensors: BTreeMap<String, Tensor<'_>> = BTreeMap::new();
    for (place, values) in places.iter().zip(&params) {
        for (number, values) in values.chunks_exact(place.elements).enumerate() {
            let shape = &place.shape;
            let tensor = tensors.entry(place.name(number)).or_insert(Tensor { shape, parts: Vec::new() });
            if tensor.shape != shape {
                let name = place.name(number);
                let problem = format!("rows give `{name}` the shapes {:?} and {shape:?}", tensor.shape);
                return Err(ModelError::config(architecture.name(), problem));
            }
            tensor.parts.push((place, values));
        }
    }
    if let Some((name, _)) = tensors.iter().find(|(_, tensor)| !tensor.is_whole()) {
        let problem = format!("its table of tensors does not fill `{name}`");
        return Err(ModelError::config(architecture.name(), problem));
    }
    std::fs::create_dir_all(folder).map_err(|error| ModelError::file(folder, error.to_string()))?;
    let format = [("format".to_owned(), "pt".to_owned())].into();
    write_beside(&folder.join("model.safetensors"), |path| {
        serialize_to_file(tensors, Some(format), path).map_err(|error| error.to_string())
    })?;
    write_beside(&folder.join("config.json"), |path| {
        let text = serde_json::to_string_pretty(&names.config).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| error.to_string())
    })
}

/// Has a file written under a name of its own, and moves it into place once it
/// is all on disk.
fn write_beside(path: &Path, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let on_disk = |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all());
    let written = write(&partial)
        .and_then(|()| on_disk(&partial).map_err(|error| error.to_string()))
        .and_then(|()| std::fs::rename(&partial, path).map_err(|error| error.to_string()));
    written.map_err(|problem| {
        // What was there is still there; the rest of a failed write is of no use.
        let _ = std::fs::remove_file(&partial);
        ModelError::file(path, format!("cannot be written: {problem}"))
    })
}

/// A tensor that is put together from its parts when it is written.
struct Tensor<'a> {
    shape: &'a [usize],
    parts: Vec<(&'a Place<'a>, &'a [f32])>,
}

impl Tensor<'_> {
    /// Whether its parts fill each element once.
    fn is_whole(&self) -> bool {
        let mut filled = vec![false; self.shape.iter().product()];
        let mut twice = false;
        for (place, _) in &self.parts {
            place.for_each(0..place.elements, |position| {
                twice |= std::mem::replace(&mut filled[position], true)
            });
        }
        !twice && filled.into_iter().all(|filled| filled)
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut data = vec![0; self.data_len()];
        for (place, values) in &self.parts {
            let mut values = values.iter();
            place.for_each(0..place.elements, |position| {
                if let Some(value) = values.next() {
                    data[4 * position..4 * position + 4].copy_from_slice(&value.to_le_bytes());
                }
            });
        }
        Cow::Owned(data)
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
