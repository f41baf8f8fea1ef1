//! Where commands write: folders that are claimed before any work is done and
//! never overwritten unasked, files written beside and renamed, and the
//! terminal. It knows nothing of what is written.

use crate::failure::{Failure, Result, file_failure};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Makes sure of an empty folder, or of one that may be written over.
///
/// # Errors
/// When there is something at `path` and `force` is not set, or it cannot be made.
pub fn claim_folder(path: &Path, force: bool) -> Result<()> {
    let taken = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            std::fs::read_dir(path).map_err(file_failure("list", path))?.next().is_some()
        }
        Ok(_) => {
            return Err(Failure(format!("{} is a file, and a folder is needed", path.display())));
        }
        Err(_) => false,
    };
    if taken && !force {
        return Err(Failure(format!(
            "{} exists and is not empty; name another folder, or overwrite it with --force",
            path.display()
        )));
    }
    std::fs::create_dir_all(path).map_err(file_failure("make the folder", path))
}

/// Makes sure that a file may be written: that it is not there, or may be written over.
///
/// # Errors
/// When there is something at `path` and `force` is not set, or it is a folder, or in none.
pub fn claim_file(path: &Path, force: bool) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Failure(format!("{} is a folder, and a file is needed", path.display())));
        }
        Ok(_) if !force => {
            return Err(Failure(format!(
                "{} exists; name another file, or overwrite it with --force",
                path.display()
            )));
        }
        _ => {}
    }
    match path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => Err(Failure(format!(
            "there is no folder {}, so {} cannot be written; make it first",
            folder.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// `base`, or the first of `base-2`, `base-3`, … that is not there; made.
///
/// # Errors
/// When it cannot be made.
pub fn numbered_folder(base: &str) -> Result<PathBuf> {
    for number in 1.. {
        let path = PathBuf::from(if number == 1 { base.to_owned() } else { format!("{base}-{number}") });
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(file_failure("make the folder", &path)(error)),
        }
    }
    unreachable!("a folder name was free or an error was met")
}

/// Writes a file whole or not at all: beside, then renamed into place.
///
/// # Errors
/// When the system refuses, such as for a full disk; what was there is still there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // The rest of a failed write is of no use; the failure itself is what is told.
        let _ = std::fs::remove_file(&partial);
        file_failure("write", path)(error)
    })
}

/// Prints to standard output. A reader that has gone away (`| head`) is no failure.
///
/// # Errors
/// When the system refuses otherwise.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells the user, on standard error, how far things are.
pub fn tell(line: impl AsRef<str>) {
    // Nobody may be listening, which stops no work.
    let _ = writeln!(std::io::stderr().lock(), "{}", line.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_there_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("trace.json");
        claim_file(&file, false).unwrap();
        assert!(!file.exists());
        std::fs::write(&file, b"1").unwrap();
        assert!(claim_file(&file, false).unwrap_err().0.contains("--force"));
        claim_file(&file, true).unwrap();
        assert!(claim_file(place.path(), true).unwrap_err().0.contains("is a folder"));
        let nowhere = place.path().join("nowhere/trace.json");
        assert!(claim_file(&nowhere, false).unwrap_err().0.contains("no folder"));
    }

    #[test]
    fn folders_with_content_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("out");
        claim_folder(&folder, false).unwrap();
        claim_folder(&folder, false).unwrap();
        write_file(&folder.join("a"), b"1").unwrap();
        assert!(claim_folder(&folder, false).unwrap_err().0.contains("--force"));
        claim_folder(&folder, true).unwrap();
        assert_eq!(std::fs::read(folder.join("a")).unwrap(), b"1");
        assert!(claim_folder(&folder.join("a"), true).unwrap_err().0.contains("is a file"));
        let base = place.path().join("bench").display().to_string();
        assert!(numbered_folder(&base).unwrap().ends_with("bench"));
        assert!(numbered_folder(&base).unwrap().ends_with("bench-2"));
    }
}
