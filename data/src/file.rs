//! Files written beside and renamed into place, so that a reader or an interrupted run never sees
//! half of one. Knows nothing of what is in them.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::DataError;

/// Writes `path` through `fill`; makes its folder. Until all is on the disk the old file, if any, stays.
///
/// # Errors
/// [`DataError::Io`] naming `path`, for example when the disk is full.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), DataError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(DataError::io("make the folder", folder))?;
    let written = || -> std::io::Result<()> {
        let mut beside = tempfile::Builder::new().prefix(".partial-").tempfile_in(folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, beside.as_file_mut());
        fill(&mut writer)?;
        writer.flush()?;
        drop(writer);
        beside.as_file().sync_all()?;
        beside.persist(path)?;
        Ok(())
    };
    written().map_err(DataError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/file");
        write_atomically(&path, |writer| writer.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |writer| {
            writer.write_all(b"half of the new")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        });
        assert!(failed.unwrap_err().to_string().contains("deeper/file"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
