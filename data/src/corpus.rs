//! Text as documents: a folder, a file, or the sources of the project's dependencies. What is read
//! and in which order depends on names and contents alone, so the hash is the same on every machine.
//! Knows nothing of tokens.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cargo;
use crate::error::DataError;

/// Pieces that a large file is cut into, in bytes, at a blank line near this.
const PIECE_BYTES: usize = 16 << 10;
/// The smallest piece that a short file given by name is cut into, in bytes.
const LEAST_PIECE_BYTES: usize = 1 << 10;
/// A file of a folder that is larger than this, in bytes, is a collection and not a document: it is cut too.
const COLLECTION_BYTES: usize = 1 << 20;
/// Files of dependencies that are larger than this, in bytes, are left out: they are mostly generated.
const LARGE_BYTES: u64 = 200 << 10;
/// The most text taken from dependencies, in bytes.
const MOST_BYTES: usize = 20 << 20;

/// One text that is trained on or held out as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it comes from, relative to what was given: the same on every machine.
    pub name: String,
    /// The text, never empty.
    pub text: String,
}

impl Document {
    /// SHA-256 of name and text: an order and a choice that depend on nothing else.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        add_to_hash(&mut hash, self);
        hash.finalize().into()
    }
}

/// Documents in a fixed order, and what was left out of them. All of the text is in memory.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// At least one document, sorted by where they come from.
    pub documents: Vec<Document>,
    /// Files left out because they are not UTF-8.
    pub skipped_not_utf8: usize,
    /// Files left out because they are large (dependencies only).
    pub skipped_large: usize,
    /// Files left out because another has the same content.
    pub duplicates: usize,
    /// Files left out because there was enough text without them (dependencies only).
    pub skipped_over_limit: usize,
    /// SHA-256, in hex, of all names and texts in order.
    pub content_hash: String,
}

/// A file to read: the name it gets, and where it lies.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Corpus {
    /// A folder or a file.
    ///
    /// A folder is read with all that is below it, sorted by relative path; hidden files and folders
    /// and `target` are left out, links to folders are not followed. Files that are not UTF-8 are
    /// skipped and counted, empty ones skipped, equal ones taken once. A file over 1 MB is a
    /// collection, and is cut as below.
    ///
    /// A file is cut at blank lines into documents of about 16 KB (less where it is short, so that a
    /// part can be held out). No piece is dropped, even if it equals another.
    ///
    /// # Errors
    /// [`DataError::Missing`], [`DataError::NotUtf8`] for a file given by name, [`DataError::NoText`],
    /// [`DataError::Io`].
    pub fn from_path(path: &Path) -> Result<Corpus, DataError> {
        let kind = match std::fs::metadata(path) {
            Ok(kind) => kind,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataError::Missing { path: path.to_path_buf() });
            }
            Err(error) => return Err(DataError::io("read", path)(error)),
        };
        if kind.is_dir() { Corpus::from_folder(path) } else { Corpus::from_file(path) }
    }

    fn from_folder(folder: &Path) -> Result<Corpus, DataError> {
        let mut sources = Vec::new();
        list_files(folder, "", &mut |_| true, &mut sources)?;
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let mut corpus = Corpus::from_sources(&sources, u64::MAX)?;
        if corpus.documents.iter().any(|document| document.text.len() > COLLECTION_BYTES) {
            corpus.documents = corpus
                .documents
                .into_iter()
                .flat_map(|document| match document.text.len() {
                    0..=COLLECTION_BYTES => vec![document],
                    _ => cut(&document.name, &document.text, PIECE_BYTES),
                })
                .collect();
        }
        corpus.finish(&folder.display().to_string(), sources.len())
    }

    fn from_file(path: &Path) -> Result<Corpus, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
        let text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
            path: path.to_path_buf(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        // 32 pieces, so that 5% to hold out is more than one, as far as the pieces stay useful.
        let piece = (text.len() / 32).clamp(LEAST_PIECE_BYTES, PIECE_BYTES);
        let corpus = Corpus { documents: cut(&name, &text, piece), ..Corpus::empty() };
        corpus.finish(&path.display().to_string(), 1)
    }

    /// The sources of all packages that the one at `manifest_dir` depends on, workspace members left
    /// out: their `.rs` and `.md` files, sorted by package, version and relative path, equal files
    /// taken once, files over 200 KB left out. Where there is more than 20 MB, each package gives the
    /// same at most, the files with the smallest content hashes: a sample that is the same on every
    /// machine, and that no package of generated tables fills.
    ///
    /// # Errors
    /// [`DataError::Dependencies`] if cargo is missing or fails, [`DataError::NoText`],
    /// [`DataError::Io`].
    pub fn from_cargo_dependencies(manifest_dir: &Path) -> Result<Corpus, DataError> {
        let packages = cargo::dependency_packages(manifest_dir)?;
        let mut sources = Vec::new();
        for package in &packages {
            let mut of_package = Vec::new();
            let name = format!("{}-{}", package.name, package.version);
            list_files(&package.folder, &name, &mut is_source, &mut of_package)?;
            of_package.sort_by(|a, b| a.name.cmp(&b.name));
            sources.append(&mut of_package);
        }
        let mut corpus = Corpus::from_sources(&sources, LARGE_BYTES)?;
        corpus.skipped_over_limit = keep_at_most(&mut corpus.documents, MOST_BYTES);
        corpus.finish("the sources of the project's dependencies", sources.len())
    }

    fn empty() -> Corpus {
        Corpus {
            documents: Vec::new(),
            skipped_not_utf8: 0,
            skipped_large: 0,
            duplicates: 0,
            skipped_over_limit: 0,
            content_hash: String::new(),
        }
    }

    fn from_sources(sources: &[Source], large: u64) -> Result<Corpus, DataError> {
        let mut corpus = Corpus::empty();
        let mut seen: HashSet<[u8; 32]> = HashSet::new();
        for Source { name, path } in sources {
            let size = std::fs::metadata(path).map_err(DataError::io("read", path))?.len();
            if size > large {
                corpus.skipped_large += 1;
                continue;
            }
            let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
            let Ok(text) = String::from_utf8(bytes) else {
                corpus.skipped_not_utf8 += 1;
                continue;
            };
            if text.is_empty() {
                continue;
            }
            if seen.insert(Sha256::digest(&text).into()) {
                corpus.documents.push(Document { name: name.clone(), text });
            } else {
                corpus.duplicates += 1;
            }
        }
        Ok(corpus)
    }

    fn finish(mut self, place: &str, files: usize) -> Result<Corpus, DataError> {
        if self.documents.is_empty() {
            let found = match (files, self.skipped_not_utf8) {
                (0, _) => "no files".to_string(),
                (files, 0) => format!("{files} files, all empty or left out for their size"),
                (files, not_utf8) => format!("{files} files, {not_utf8} of them not UTF-8, none with text"),
            };
            return Err(DataError::NoText { place: place.to_string(), found });
        }
        let mut hash = Sha256::new();
        for document in &self.documents {
            add_to_hash(&mut hash, document);
        }
        self.content_hash = hex(&hash.finalize());
        Ok(self)
    }

    /// Bytes of text in all documents.
    pub fn bytes(&self) -> usize {
        self.documents.iter().map(|document| document.text.len()).sum()
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// Lengths go in too, so that no two lists of documents give the same bytes.
fn add_to_hash(hash: &mut Sha256, document: &Document) {
    for part in [&document.name, &document.text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs" || extension == "md")
}

/// All files below `folder`, named `prefix/relative/path` with `/` on every system. A link to a file
/// is a file; a link to a folder is left out, since it may lead round in a circle.
fn list_files(
    folder: &Path,
    prefix: &str,
    wanted: &mut dyn FnMut(&Path) -> bool,
    found: &mut Vec<Source>,
) -> Result<(), DataError> {
    for entry in std::fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let entry = entry.map_err(DataError::io("list", folder))?;
        let path = entry.path();
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(DataError::io("read", &path))?;
        if file_name.starts_with('.') || (kind.is_dir() && file_name == "target") {
            continue;
        }
        let name = if prefix.is_empty() { file_name } else { format!("{prefix}/{file_name}") };
        if kind.is_dir() {
            list_files(&path, &name, wanted, found)?;
        } else if wanted(&path) && path.is_file() {
            found.push(Source { name, path });
        }
    }
    Ok(())
}

/// Keeps at most `most` bytes, divided fairly over packages (a name up to its first `/`): each keeps
/// all it has up to a limit that is the same for all, so that a few packages of generated tables do
/// not drown the rest. Of a package over the limit, the files with the smallest content hashes are
/// kept. All stay in order. Returns how many were dropped.
fn keep_at_most(documents: &mut Vec<Document>, most: usize) -> usize {
    fn package(document: &Document) -> &str {
        document.name.split('/').next().unwrap_or_default()
    }
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for document in &*documents {
        *sizes.entry(package(document)).or_default() += document.text.len();
    }
    let limit = fair_limit(sizes.into_values().collect(), most);
    let mut by_hash: Vec<([u8; 32], usize)> = documents
        .iter()
        .enumerate()
        .map(|(i, document)| (Sha256::digest(&document.text).into(), i))
        .collect();
    by_hash.sort_unstable();
    let mut keep = vec![false; documents.len()];
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, i) in by_hash {
        let used = used.entry(package(&documents[i])).or_default();
        if *used + documents[i].text.len() <= limit {
            *used += documents[i].text.len();
            keep[i] = true;
        }
    }
    let before = documents.len();
    let mut kept = keep.iter();
    documents.retain(|_| kept.next().is_some_and(|keep| *keep));
    before - documents.len()
}

/// The largest limit with which `sizes`, each cut to it, add up to at most `most`.
fn fair_limit(mut sizes: Vec<usize>, most: usize) -> usize {
    sizes.sort_unstable();
    let mut left = most;
    for (i, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - i);
        if *size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

/// Cuts a text into documents of at least `piece` bytes each (but the last), at the first blank line
/// from there on, or at a line's end, or between characters, each within another `piece` bytes.
/// Together they are the text, byte for byte. A text of one piece keeps its name.
fn cut(name: &str, text: &str, piece: usize) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) =
            rest.split_at(if rest.len() < 2 * piece { rest.len() } else { boundary(rest, piece) });
        documents.push(Document { name: format!("{name}#{:06}", documents.len()), text: head.to_string() });
        rest = tail;
    }
    if let [only] = &mut documents[..] {
        only.name = name.to_string();
    }
    documents
}

fn boundary(text: &str, piece: usize) -> usize {
    let character_at =
        |byte: usize| (byte..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let from = character_at(piece);
    let near = &text[from..character_at(2 * piece)];
    let after = |pattern: &str| near.find(pattern).map(|at| from + at + pattern.len());
    after("\n\n").or_else(|| after("\n\r\n")).or_else(|| after("\n")).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        #[test]
        fn pieces_make_up_the_text(text in "([a-zé😀 ]{0,30}\r?\n){0,60}[a-z]{0,400}", piece in 1usize..80) {
            let pieces = cut("t", &text, piece);
            prop_assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), text);
            prop_assert!(pieces.iter().all(|piece| !piece.text.is_empty()));
            prop_assert!(pieces.iter().rev().skip(1).all(|one| one.text.len() >= piece));
            // A character has up to 4 bytes, so a piece may end up to 3 later.
            prop_assert!(pieces.iter().all(|one| one.text.len() <= 2 * piece + 3));
        }
    }

    #[test]
    fn pieces_end_at_blank_lines() {
        let text = "a line\nanother line\n\n".repeat(100);
        let pieces = cut("poem.txt", &text, 100);
        assert!(pieces.len() > 10);
        assert!(pieces.iter().all(|piece| piece.text.ends_with("\n\n")));
        assert_eq!(pieces[3].name, "poem.txt#000003");
    }

    #[test]
    fn the_limit_is_fair_and_the_order_stays() {
        let document = |package: &str, i: usize| Document {
            name: format!("{package}/{i:02}"),
            text: format!("text of {package} {i:02}"), // 12 bytes
        };
        let documents: Vec<Document> = (0..50)
            .map(|i| document("a", i))
            .chain((0..3).map(|i| document("b", i)))
            .chain((0..40).map(|i| document("c", i)))
            .collect();
        let mut kept = documents.clone();
        assert_eq!(keep_at_most(&mut kept, 23 * 12), 70);
        let of = |package: &str| kept.iter().filter(|document| document.name.starts_with(package)).count();
        assert_eq!((of("a"), of("b"), of("c")), (10, 3, 10));
        assert!(kept.is_sorted_by(|a, b| a.name < b.name));
        let mut all = documents.clone();
        assert_eq!(keep_at_most(&mut all, 93 * 12), 0);
        assert_eq!(all, documents);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        #[test]
        fn a_fair_limit_fills_what_there_is(sizes in prop::collection::vec(0usize..100, 0..20), most in 0usize..1500) {
            let cut = |limit: usize| sizes.iter().map(|size| limit.min(*size)).sum::<usize>();
            let limit = fair_limit(sizes.clone(), most);
            prop_assert!(cut(limit) <= most);
            prop_assert!(limit == usize::MAX || cut(limit + 1) > most);
        }
    }

    #[test]
    fn names_and_texts_do_not_run_together_in_the_hash() {
        let hash = |name: &str, text: &str| Document { name: name.into(), text: text.into() }.hash();
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
    }
}
