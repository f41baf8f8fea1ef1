//! Files that are either wholly there or not at all: written beside, synced, renamed into place.
//! Must not know what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a file was not written. The file that was there before, if any, is as it was.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}: {source}{}; {}", path.display(), self.space(), self.untouched())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// The file asked for (not the temporary one beside it).
    pub path: PathBuf,
    /// How large the file was to become, if that was known.
    pub bytes_needed: Option<u64>,
    /// What the file system had left when it refused, if it tells.
    pub bytes_free: Option<u64>,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    fn new(action: &'static str, path: &Path, bytes_needed: Option<u64>, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let bytes_free = if full { free_space(folder_of(path)) } else { None };
        FileError { action, path: path.to_path_buf(), bytes_needed, bytes_free, source }
    }

    fn space(&self) -> String {
        match (self.bytes_needed, self.bytes_free) {
            (Some(needed), Some(free)) => format!(" ({needed} bytes needed, {free} free)"),
            (Some(needed), None) => format!(" ({needed} bytes needed)"),
            (None, Some(free)) => format!(" ({free} bytes free)"),
            (None, None) => String::new(),
        }
    }

    fn untouched(&self) -> &'static str {
        if self.path.exists() { "the old file is untouched" } else { "no file was left behind" }
    }
}

/// Replaces the file at `path` by what `write` writes, once all of it is on disk. Returns what `write` returns.
/// `bytes_needed`, if known, is asked of the disk before anything is written.
///
/// # Errors
/// Whatever fails, of `write` or of the file system, leaves the old file as it was and no new file.
///
/// ```
/// use std::io::Write;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("notes.txt");
/// diptych_runtime::files::write_atomically(&path, None, |file| writeln!(file, "whole or not at all")).unwrap();
/// assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole or not at all\n");
/// ```
pub fn write_atomically<T>(
    path: &Path,
    bytes_needed: Option<u64>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<T>,
) -> Result<T, FileError> {
    let pending = PendingFile::create(path, bytes_needed)?;
    let mut writer = BufWriter::with_capacity(1 << 18, pending.file());
    let outcome = write(&mut writer).and_then(|value| writer.flush().map(|()| value));
    // What is still in the buffer of a failed writer must not be written by its drop.
    drop(writer.into_parts());
    let value = outcome.map_err(|source| pending.failure("write", source))?;
    pending.commit()?;
    Ok(value)
}

/// A file on its way: not at its path before [`PendingFile::commit`], gone if dropped before.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    bytes_needed: Option<u64>,
    committed: bool,
}

impl PendingFile {
    /// Opens a new file in the folder of `path`. `bytes_needed`, if known, is asked of the disk now, so
    /// that a full one is told before any work is done; the file still begins empty.
    ///
    /// # Errors
    /// The folder is missing or cannot be written, or the disk has no room.
    pub fn create(path: &Path, bytes_needed: Option<u64>) -> Result<Self, FileError> {
        let failed = |action, source| FileError::new(action, path, bytes_needed, source);
        // A link keeps pointing at its target, which is what gets replaced.
        let target = if path.is_symlink() {
            path.canonicalize().map_err(|source| failed("follow the link", source))?
        } else {
            path.to_path_buf()
        };
        let name = target.file_name().ok_or_else(|| {
            failed(
                "write",
                io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name"),
            )
        })?;
        if target.is_dir() {
            return Err(failed("write", io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")));
        }
        static FILES: AtomicU64 = AtomicU64::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let temporary = folder_of(&target).join(format!(
            ".{}.{}-{number}.partial",
            name.to_string_lossy(),
            std::process::id()
        ));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|source| failed("create a file beside", source))?;
        let pending = PendingFile { file, path: target, temporary, bytes_needed, committed: false };
        if let Some(bytes) = bytes_needed {
            reserve(&pending.file, folder_of(&pending.path), bytes)
                .map_err(|source| pending.failure("reserve room for", source))?;
        }
        Ok(pending)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Puts the file, as written so far, in its place for good: synced, renamed, and the rename synced.
    ///
    /// # Errors
    /// The disk could not take it; then the old file is as it was and the new one gone.
    pub fn commit(mut self) -> Result<(), FileError> {
        self.file.sync_all().map_err(|source| self.failure("sync", source))?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|source| self.failure("rename into place", source))?;
        self.committed = true;
        // The new file is in its place; only a crash of the whole machine could still lose its name, and some
        // file systems cannot sync a folder.
        if let Ok(folder) = File::open(folder_of(&self.path)) {
            drop(folder.sync_all());
        }
        Ok(())
    }

    /// What to report when writing to [`PendingFile::file`] failed with `source`.
    pub fn failure(&self, action: &'static str, source: io::Error) -> FileError {
        FileError::new(action, &self.path, self.bytes_needed, source)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.committed {
            drop(std::fs::remove_file(&self.temporary));
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Takes blocks on disk without changing the length. File systems that cannot are left to fail later.
fn reserve(file: &File, folder: &Path, bytes: u64) -> io::Result<()> {
    // Asked first, since a reservation that fails may have filled the disk until it did.
    if free_space(folder).is_some_and(|free| free < bytes) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    take_blocks(file, bytes)
}

#[cfg(target_os = "linux")]
fn take_blocks(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = match libc::off64_t::try_from(bytes) {
        Ok(0) => return Ok(()),
        Ok(length) => length,
        Err(_) => return Err(io::ErrorKind::FileTooLarge.into()),
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::fallocate64(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, length) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn take_blocks(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn free_space(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let folder = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs fills the struct, of plain numbers, when it returns 0.
    unsafe {
        let mut told: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(folder.as_ptr(), &mut told) == 0)
            .then_some(told.f_bavail as u64 * told.f_frsize as u64)
    }
}

#[cfg(not(unix))]
fn free_space(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for text in ["first, and longer than the second", "second"] {
            let written = write_atomically(&path, Some(1000), |file| {
                file.write_all(text.as_bytes())?;
                Ok(text.len())
            });
            assert_eq!(written.unwrap(), text.len());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(entries(folder.path()), ["model"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for old in [None, Some("precious")] {
            if let Some(old) = old {
                std::fs::write(&path, old).unwrap();
            }
            for after in [0, 10, 1 << 20] {
                let error = write_atomically(&path, Some(1 << 21), |file| -> io::Result<()> {
                    file.write_all(&vec![1; after])?;
                    Err(io::Error::from_raw_os_error(libc::ENOSPC))
                })
                .unwrap_err();
                let message = error.to_string();
                assert!(message.contains(path.to_str().unwrap()), "{message}");
                assert!(message.contains("No space left on device"), "{message}");
                assert!(message.contains("2097152 bytes needed, "), "{message}");
                assert!(message.contains(" free)"), "{message}");
                assert_eq!(message.contains("the old file is untouched"), old.is_some(), "{message}");
                assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), old);
                assert_eq!(entries(folder.path()).len(), usize::from(old.is_some()));
            }
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_disk_without_room_is_told_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let needed = 1 << 60;
        let outcome = write_atomically(&path, Some(needed), |_| -> io::Result<()> { unreachable!() });
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("could not reserve room for"), "{message}");
        assert!(message.contains(&format!("{needed} bytes needed, ")), "{message}");
        assert_eq!(entries(folder.path()), [] as [String; 0]);
    }

    #[test]
    fn a_panicking_writer_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let outcome = std::panic::catch_unwind(|| {
            write_atomically(&path, None, |_| -> io::Result<()> { std::panic::resume_unwind(Box::new(())) })
        });
        assert!(outcome.is_err());
        assert_eq!(entries(folder.path()), [] as [String; 0]);
    }

    #[test]
    fn a_bad_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (path, cause) in [
            (folder.path().join("missing/model"), "No such file"),
            (folder.path().to_path_buf(), "it is a folder"),
            (PathBuf::from("/"), "file name"),
        ] {
            let message = write_atomically(&path, None, |_| Ok(())).unwrap_err().to_string();
            assert!(message.contains(cause) && message.contains(path.to_str().unwrap()), "{message}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_keeps_pointing_at_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomically(&link, None, |file| file.write_all(b"new")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    }

    /// The system itself refuses here: the limit on file sizes stands in for a full disk. It counts for
    /// a whole process, so the test runs itself again in a child.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_refusal_by_the_system_leaves_the_old_file() {
        use std::os::unix::process::CommandExt;
        const CHILD: &str = "DIPTYCH_TEST_FILE_LIMIT";
        if let Some(path) = std::env::var_os(CHILD) {
            let error =
                write_atomically(Path::new(&path), Some(1 << 20), |file| file.write_all(&[7; 1 << 20]));
            println!("message: {}", error.unwrap_err());
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, "precious").unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "files::tests::a_refusal_by_the_system_leaves_the_old_file", "--nocapture"]);
        child.env(CHILD, &path);
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            child.pre_exec(|| {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                let limit = libc::rlimit { rlim_cur: 1 << 19, rlim_max: 1 << 19 };
                if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
        }
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("could not write") && said.contains("File too large"), "{said}");
        assert!(
            said.contains("1048576 bytes needed") && said.contains("the old file is untouched"),
            "{said}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(entries(folder.path()), ["model"]);
    }
}
