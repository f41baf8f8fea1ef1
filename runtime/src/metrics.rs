//! What a run reports of itself, as JSON lines: one object a line, each with its `step`.
//! Must not know which quantities there are.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// An open metrics file. Every line is handed to the system as soon as it is recorded.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
}

/// Why metrics could not be written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file system refused.
    #[error("could not {action} the metrics in {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a file to resume is not one of ours.
    #[error("{}, line {line}: not a JSON object with a whole number `step`: {cause}; the file is unchanged", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser said.
        cause: String,
    },
    /// What was recorded is not a struct or map of plain values.
    #[error("metrics of step {step} do not make a JSON object: {cause}")]
    Record {
        /// The step.
        step: u64,
        /// What the serializer said.
        cause: String,
    },
}

#[derive(Serialize)]
struct Line<'a, T> {
    step: u64,
    #[serde(flatten)]
    fields: &'a T,
}

#[derive(Deserialize)]
struct Step {
    step: u64,
}

impl MetricsWriter {
    /// Begins a new file, in place of one that is there.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        // Appending, as a resumed run does: after a partial line was cut the next one must begin at the end.
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.map_err(|source| failed("begin", path, source))?;
        file.set_len(0).map_err(|source| failed("begin", path, source))?;
        Ok(Self::of(file, path))
    }

    /// Goes on with a file after the run was taken up at a checkpoint made after `steps_done` steps (so that the next
    /// step has that number): cuts it before the first line of a step not done by then, and before
    /// a last line that was not finished. A file that is not there is begun.
    ///
    /// # Errors
    /// The file cannot be read or written, or a finished line in it is not one of ours; then it is left as it is.
    pub fn resume(path: &Path, steps_done: u64) -> Result<Self, MetricsError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|source| failed("open", path, source))?;
        let keep = length_to_keep(&file, path, steps_done)?;
        file.set_len(keep).map_err(|source| failed("cut", path, source))?;
        Ok(Self::of(file, path))
    }

    fn of(file: File, path: &Path) -> Self {
        MetricsWriter { file, path: path.to_path_buf(), line: Vec::with_capacity(1024) }
    }

    /// Adds a line for `step`: the fields of `fields`, a struct or map of plain values, after `step`.
    /// Numbers that JSON lacks (NaN, infinities) become null.
    ///
    /// # Errors
    /// `fields` is not a struct or map, or the disk is full; a partial line is then removed.
    pub fn record<T: Serialize>(&mut self, step: u64, fields: &T) -> Result<(), MetricsError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Line { step, fields })
            .map_err(|error| MetricsError::Record { step, cause: error.to_string() })?;
        self.line.push(b'\n');
        let failed = |source| failed("add to", &self.path, source);
        let before = self.file.metadata().map_err(failed)?.len();
        self.file.write_all(&self.line).map_err(|source| {
            // If this fails, too, the next resume cuts the partial line.
            drop(self.file.set_len(before));
            failed(source)
        })
    }

    /// The file written to.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> MetricsError {
    MetricsError::File { action, path: path.to_path_buf(), source }
}

fn length_to_keep(file: &File, path: &Path, steps_done: u64) -> Result<u64, MetricsError> {
    let mut reader = BufReader::new(file);
    let (mut keep, mut line) = (0, Vec::new());
    for number in 1.. {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(|source| failed("read", path, source))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let parsed: Step = serde_json::from_slice(&line).map_err(|error| MetricsError::Line {
            path: path.to_path_buf(),
            line: number,
            cause: error.to_string(),
        })?;
        if parsed.step >= steps_done {
            break;
        }
        keep += length as u64;
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    struct Training {
        loss: f32,
        note: &'static str,
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_there_as_soon_as_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "an older run").unwrap();
        let mut metrics = MetricsWriter::create(&path).unwrap();
        metrics.record(0, &Training { loss: 2.5, note: "first\nline" }).unwrap();
        assert_eq!(text(&path), "{\"step\":0,\"loss\":2.5,\"note\":\"first\\nline\"}\n");
        metrics.record(1, &Training { loss: f32::NAN, note: "" }).unwrap();
        metrics.record(1, &BTreeMap::from([("held_out", 3)])).unwrap();
        let all = text(&path);
        let lines: Vec<&str> = all.lines().skip(1).collect();
        assert_eq!(lines, [r#"{"step":1,"loss":null,"note":""}"#, r#"{"step":1,"held_out":3}"#]);
        let error = metrics.record(2, &5).unwrap_err().to_string();
        assert!(error.contains("metrics of step 2"), "{error}");
        assert_eq!(text(&path), all);
    }

    #[test]
    fn a_resumed_run_leaves_the_file_of_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let fields = BTreeMap::from([("loss", 1.5)]);
        let whole = folder.path().join("whole");
        let mut metrics = MetricsWriter::create(&whole).unwrap();
        (0..10).for_each(|step| metrics.record(step, &fields).unwrap());
        for steps_done in 0..=10 {
            let path = folder.path().join("interrupted");
            // Written up to step 6, the line of step 7 unfinished.
            let lines: String = text(&whole).split_inclusive('\n').take(7).collect();
            std::fs::write(&path, lines + "{\"step\":7,\"lo").unwrap();
            let mut metrics = MetricsWriter::resume(&path, steps_done).unwrap();
            (steps_done.min(7)..10).for_each(|step| metrics.record(step, &fields).unwrap());
            assert_eq!(text(&path), text(&whole), "resumed after {steps_done}");
        }
        let fresh = folder.path().join("fresh");
        MetricsWriter::resume(&fresh, 3).unwrap().record(3, &fields).unwrap();
        assert_eq!(text(&fresh).lines().count(), 1);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        for other in
            ["{\"step\":1}\nDear diary,\n", "{\"step\":1}\n{\"loss\":1}\n", "{\"step\":1}\n{\"step\":1.5}\n"]
        {
            std::fs::write(&path, other).unwrap();
            let message = MetricsWriter::resume(&path, 5).unwrap_err().to_string();
            assert!(message.contains("notes.txt, line 2") && message.contains("unchanged"), "{message}");
            assert_eq!(text(&path), other);
        }
        let message = MetricsWriter::create(folder.path()).unwrap_err().to_string();
        assert!(message.contains("could not begin the metrics"), "{message}");
    }
}
