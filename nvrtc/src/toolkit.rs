//! Where NVRTC and nvdisasm are. Must not load or run them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{NotFound, Tool};

/// Finds NVRTC's library.
///
/// If the environment variable `DIPTYCH_CUDA` names a folder, it is looked for there alone: a folder that
/// `setup/cuda.sh` filled, one of a CUDA toolkit, Python's `site-packages`, or the library's own. Otherwise, in this
/// order:
/// - the folder that `setup/cuda.sh` fills: `$DIPTYCH_CACHE/cuda`, `$XDG_CACHE_HOME/diptych/cuda`,
///   `~/.cache/diptych/cuda`;
/// - CUDA's: `$CUDA_HOME`, `$CUDA_PATH`, `$LD_LIBRARY_PATH`, `/usr/local/cuda`, `/usr/local/cuda-*` from the newest,
///   `/opt/cuda`, the system's libraries;
/// - where PyTorch's packages bring it: the active Python environment (`$VIRTUAL_ENV`, `$CONDA_PREFIX`), that of the
///   `python3` on the path, the user's packages.
///
/// # Errors
/// When it is in none of them: where was looked and how to install it.
pub fn find_nvrtc() -> Result<PathBuf, NotFound> {
    find(Tool::Nvrtc, &|name| env::var_os(name))
}

/// Finds nvdisasm, in the same places as [`find_nvrtc`], and on `$PATH` in place of `$LD_LIBRARY_PATH`.
///
/// # Errors
/// When it is in none of them: where was looked and how to install it.
pub fn find_nvdisasm() -> Result<PathBuf, NotFound> {
    find(Tool::Nvdisasm, &|name| env::var_os(name))
}

/// The value of an environment variable.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn find(tool: Tool, variable: Variable) -> Result<PathBuf, NotFound> {
    let named = set(variable, "DIPTYCH_CUDA");
    let roots = named.as_ref().map_or_else(|| roots(tool, variable), |folder| vec![folder.clone()]);
    let mut looked_in: Vec<PathBuf> = Vec::new();
    for root in roots.into_iter().filter(|root| root.is_dir()) {
        if looked_in.contains(&root) {
            continue;
        }
        if let Some(found) = folders_below(&root, tool).iter().find_map(|folder| within(folder, tool)) {
            return Ok(found);
        }
        looked_in.push(root);
    }
    Err(NotFound { tool, named, looked_in })
}

/// A variable that is set to something.
fn set(variable: Variable, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Folders below which the tool may be, in the order in which they are asked.
fn roots(tool: Tool, variable: Variable) -> Vec<PathBuf> {
    let home = set(variable, "HOME");
    let list = |name: &str| {
        variable(name).map(|value| env::split_paths(&value).collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut roots: Vec<PathBuf> = Vec::new();
    roots.extend(set(variable, "DIPTYCH_CACHE").map(|folder| folder.join("cuda")));
    roots.extend(set(variable, "XDG_CACHE_HOME").map(|folder| folder.join("diptych/cuda")));
    roots.extend(home.as_ref().map(|folder| folder.join(".cache/diptych/cuda")));

    roots.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| set(variable, name)));
    let listed = list(if tool == Tool::Nvrtc { "LD_LIBRARY_PATH" } else { "PATH" });
    roots.extend(listed.into_iter().filter(|folder| folder.is_absolute()));
    roots.push("/usr/local/cuda".into());
    roots.extend(children(Path::new("/usr/local"), "cuda-"));
    roots.push("/opt/cuda".into());
    if tool == Tool::Nvrtc {
        let system = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        roots.extend(system.map(PathBuf::from));
    }

    let mut prefixes: Vec<PathBuf> = Vec::new();
    prefixes.extend(["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| set(variable, name)));
    let python = list("PATH").into_iter().find(|folder| folder.join("python3").is_file());
    prefixes.extend(python.as_deref().and_then(Path::parent).map(Path::to_path_buf));
    prefixes.extend(home.map(|folder| folder.join(".local")));
    for prefix in prefixes {
        for python in children(&prefix.join("lib"), "python3") {
            roots.extend(["site-packages", "dist-packages"].map(|packages| python.join(packages)));
        }
    }
    roots
}

/// The folders of a root that hold libraries, or programs: as CUDA, its Python packages and PyTorch lay them out.
fn folders_below(root: &Path, tool: Tool) -> Vec<PathBuf> {
    let (own, package): (&[&str], &str) = match tool {
        Tool::Nvrtc => {
            (&["", "lib", "lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "torch/lib"], "lib")
        }
        Tool::Nvdisasm => (&["", "bin"], "bin"),
    };
    let mut folders: Vec<PathBuf> = own.iter().map(|folder| root.join(folder)).collect();
    // Newer packages share a folder, nvidia/cu13; older ones have one each, nvidia/cuda_nvrtc.
    folders.extend(children(&root.join("nvidia"), "cu").into_iter().map(|folder| folder.join(package)));
    folders
}

fn within(folder: &Path, tool: Tool) -> Option<PathBuf> {
    match tool {
        Tool::Nvrtc => children(folder, "libnvrtc.so").into_iter().find(|path| path.is_file()),
        Tool::Nvdisasm => Some(folder.join("nvdisasm")).filter(|path| path.is_file()),
    }
}

/// What is in a folder under a name that begins so, the newest version first.
fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u64>, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?;
            let numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
            Some((numbers.collect(), entry.path()))
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with empty files, in which no tool of the machine is seen: its own folders come last.
    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn find_with(tool: Tool, folder: &Path, variables: &[(&str, &str)]) -> Result<PathBuf, NotFound> {
        let value = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(value.replace("@", folder.to_str().unwrap()).into())
        };
        let found = find(tool, &value)?;
        Ok(found.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(found))
    }

    #[test]
    fn each_place_is_known_and_they_come_in_order() {
        let places = [
            ("DIPTYCH_CUDA", "@/named", "named/lib64/libnvrtc.so.13"),
            ("DIPTYCH_CACHE", "@/cache", "cache/cuda/lib/libnvrtc.so.13"),
            ("XDG_CACHE_HOME", "@/xdg", "xdg/diptych/cuda/lib/libnvrtc.so.13"),
            ("CUDA_HOME", "@/home", "home/targets/x86_64-linux/lib/libnvrtc.so.12"),
            ("CUDA_PATH", "@/path", "path/lib64/libnvrtc.so"),
            ("LD_LIBRARY_PATH", "@/nothing:@/listed", "listed/libnvrtc.so.12"),
            ("VIRTUAL_ENV", "@/venv", "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13"),
            (
                "CONDA_PREFIX",
                "@/conda",
                "conda/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            ),
            ("PATH", "@/nothing:@/some/bin", "some/lib/python3.11/dist-packages/torch/lib/libnvrtc.so.12"),
            ("HOME", "@/user", "user/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"),
        ];
        let mut files: Vec<&str> = places.iter().map(|(_, _, file)| *file).collect();
        files.push("some/bin/python3");
        let folder = folder_with(&files);
        let variables: Vec<(&str, &str)> = places.iter().map(|(name, value, _)| (*name, *value)).collect();
        for (first, (_, _, file)) in places.iter().enumerate() {
            match find_with(Tool::Nvrtc, folder.path(), &variables[first..]) {
                Ok(found) if found.is_relative() => assert_eq!(found, Path::new(file)),
                // A toolkit of the machine comes before what Python brings.
                Ok(found) => assert!(first > 5, "{found:?} before {file}"),
                Err(error) => panic!("{file}: {error}"),
            }
        }
    }

    #[test]
    fn the_newest_of_several_is_taken_and_companions_are_not_mistaken_for_it() {
        let files =
            ["lib/libnvrtc.so.9", "lib/libnvrtc.so.13", "lib/libnvrtc.so", "lib/libnvrtc-builtins.so.13.5"];
        let folder = folder_with(&files);
        let found = find_with(Tool::Nvrtc, folder.path(), &[("DIPTYCH_CUDA", "@")]);
        assert_eq!(found.unwrap(), Path::new("lib/libnvrtc.so.13"));
        let folder = folder_with(&["lib/libnvrtc-builtins.so.13.5", "lib/libnvrtc_static.a"]);
        find_with(Tool::Nvrtc, folder.path(), &[("DIPTYCH_CUDA", "@")]).unwrap_err();
    }

    #[test]
    fn a_named_folder_is_the_only_one() {
        let folder =
            folder_with(&["cache/cuda/lib/libnvrtc.so.13", "cache/cuda/bin/nvdisasm", "named/empty"]);
        for tool in [Tool::Nvrtc, Tool::Nvdisasm] {
            let variables = [("DIPTYCH_CACHE", "@/cache"), ("DIPTYCH_CUDA", "@/named")];
            let error = find_with(tool, folder.path(), &variables).unwrap_err();
            assert_eq!(error.looked_in, [folder.path().join("named")]);
            let message = error.to_string();
            assert!(
                message.contains("which DIPTYCH_CUDA names") && message.contains("setup/cuda.sh"),
                "{message}"
            );
            find_with(tool, folder.path(), &variables[..1]).unwrap();
        }
    }

    #[test]
    fn a_long_path_is_not_told_in_full() {
        let folders: Vec<PathBuf> = (0..11).map(|number| format!("/folder-{number}").into()).collect();
        let not_found = |looked_in: &[PathBuf]| NotFound {
            tool: Tool::Nvdisasm,
            named: None,
            looked_in: looked_in.to_vec(),
        };
        assert!(not_found(&folders).to_string().ends_with("/folder-6, /folder-7 and 3 other folders."));
        assert!(not_found(&folders[..2]).to_string().ends_with(" Looked in /folder-0, /folder-1."));
        assert!(not_found(&[]).to_string().ends_with("is there."));
    }

    #[test]
    fn nvdisasm_is_found_in_bin_on_the_path_and_among_python_packages() {
        let python = "venv/lib/python3.12/site-packages/nvidia/cu13/bin/nvdisasm";
        for (name, value, file) in [
            ("DIPTYCH_CUDA", "@/cuda", "cuda/bin/nvdisasm"),
            ("PATH", "@/nothing:@/programs", "programs/nvdisasm"),
            ("DIPTYCH_CUDA", "@/venv/lib/python3.12/site-packages", python),
        ] {
            let folder = folder_with(&[file]);
            assert_eq!(find_with(Tool::Nvdisasm, folder.path(), &[(name, value)]).unwrap(), Path::new(file));
        }
    }
}
