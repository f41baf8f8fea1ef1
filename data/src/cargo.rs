//! Which packages the project depends on, and where cargo has unpacked them. Knows cargo's metadata
//! format and nothing of what the text is for.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::error::DataError;

/// A package whose source is on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) folder: PathBuf,
}

/// All packages that the one at `manifest_dir` depends on, workspace members left out, sorted by
/// name and version. Cargo is asked without the network first: what a build has unpacked is enough
/// on most machines, but packages for other systems and for tests may be missing.
pub(crate) fn dependency_packages(manifest_dir: &Path) -> Result<Vec<Package>, DataError> {
    let manifest = manifest_dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(problem(format!("there is no {}", manifest.display())));
    }
    let metadata = run_cargo(&manifest, true).or_else(|_| run_cargo(&manifest, false))?;
    packages_in(&metadata)
}

fn run_cargo(manifest: &Path, offline: bool) -> Result<Vec<u8>, DataError> {
    // Cargo names itself to what it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(manifest);
    if offline {
        command.arg("--offline");
    }
    let output = command
        .output()
        .map_err(|error| problem(format!("cannot run {}: {error}", Path::new(&cargo).display())))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| line.starts_with("error")).unwrap_or(said.trim());
    Err(problem(format!("cargo metadata failed: {said}")))
}

fn packages_in(metadata: &[u8]) -> Result<Vec<Package>, DataError> {
    let metadata: Value = serde_json::from_slice(metadata)
        .map_err(|error| problem(format!("cargo metadata is not JSON: {error}")))?;
    let list = |key: &str| {
        metadata[key].as_array().ok_or_else(|| problem(format!("cargo metadata has no list \"{key}\"")))
    };
    let members = list("workspace_members")?;
    let mut packages = Vec::new();
    for package in list("packages")? {
        if members.contains(&package["id"]) {
            continue;
        }
        let text = |key: &str| {
            package[key]
                .as_str()
                .ok_or_else(|| problem(format!("cargo metadata has a package without \"{key}\"")))
        };
        let manifest = Path::new(text("manifest_path")?);
        let folder = manifest.parent().unwrap_or(manifest).to_path_buf();
        packages.push(Package {
            name: text("name")?.to_string(),
            version: text("version")?.to_string(),
            folder,
        });
    }
    packages.sort_by(|a, b| (&a.name, &a.version, &a.folder).cmp(&(&b.name, &b.version, &b.folder)));
    Ok(packages)
}

fn problem(problem: String) -> DataError {
    DataError::Dependencies { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_left_out_and_the_rest_sorted() {
        let metadata = br#"{"workspace_members": ["m 1"], "packages": [
            {"id": "m 1", "name": "m", "version": "1.0.0", "manifest_path": "/w/Cargo.toml"},
            {"id": "z 1", "name": "z", "version": "1.0.0", "manifest_path": "/r/z-1.0.0/Cargo.toml"},
            {"id": "a 2", "name": "a", "version": "2.0.0", "manifest_path": "/r/a-2.0.0/Cargo.toml"}]}"#;
        let packages = packages_in(metadata).unwrap();
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["a", "z"]);
        assert_eq!(packages[0].folder, Path::new("/r/a-2.0.0"));
    }

    #[test]
    fn metadata_without_packages_is_refused() {
        let error = packages_in(b"{\"workspace_members\": []}").unwrap_err().to_string();
        assert!(error.contains("packages") && error.contains("--data PATH"), "{error}");
        assert!(packages_in(b"nonsense").is_err());
    }

    #[test]
    fn a_folder_without_a_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = dependency_packages(folder.path()).unwrap_err().to_string();
        assert!(error.contains("Cargo.toml") && error.contains("--data PATH"), "{error}");
    }
}
