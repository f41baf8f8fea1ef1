//! Reading text, and every kind of text that must be refused or skipped.

use std::fs;
use std::path::Path;

use diptych_data::{Corpus, DataError, Split};

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_folder_is_read_sorted_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "b.txt", "second");
    write(at, "a/deep/c.rs", "first");
    write(at, "z.md", "second");
    write(at, "empty.txt", "");
    write(at, "latin1.txt", b"caf\xe9");
    write(at, "image.png", [0x89, b'P', 0xff]);
    write(at, ".hidden/x.txt", "hidden");
    write(at, ".git/config", "hidden");
    write(at, "target/debug/y.txt", "built");
    let corpus = Corpus::from_path(at).unwrap();
    let names: Vec<&str> = corpus.documents.iter().map(|document| document.name.as_str()).collect();
    assert_eq!(names, ["a/deep/c.rs", "b.txt"]);
    assert_eq!((corpus.skipped_not_utf8, corpus.duplicates, corpus.skipped_large), (2, 1, 0));
    assert_eq!(corpus.bytes(), "firstsecond".len());
    assert_eq!(corpus.content_hash.len(), 64);
}

#[test]
fn the_hash_depends_on_contents_and_not_on_the_place() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for at in [one.path(), other.path()] {
        write(at, "x/1.txt", "one");
        write(at, "2.txt", "two");
    }
    let hash = |at: &Path| Corpus::from_path(at).unwrap().content_hash;
    assert_eq!(hash(one.path()), hash(other.path()));
    write(other.path(), "2.txt", "TWO");
    assert_ne!(hash(one.path()), hash(other.path()));
}

#[test]
fn a_missing_path_is_named() {
    let error = Corpus::from_path(Path::new("no/such/text.txt")).unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }));
    assert!(error.to_string().contains("no/such/text.txt"), "{error}");
}

#[test]
fn a_file_that_is_not_utf8_is_refused_with_the_offset() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "latin1.txt", b"caf\xe9 au lait");
    let error = Corpus::from_path(&folder.path().join("latin1.txt")).unwrap_err().to_string();
    assert!(error.contains("latin1.txt") && error.contains("byte 3"), "{error}");
}

#[test]
fn no_text_is_refused_whatever_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || Corpus::from_path(folder.path()).unwrap_err().to_string();
    assert!(refused().contains("no files"), "{}", refused());
    write(folder.path(), "empty.txt", "");
    assert!(refused().contains("1 files, all empty"), "{}", refused());
    write(folder.path(), "binary", [0xff]);
    assert!(refused().contains("1 of them not UTF-8"), "{}", refused());
    let error = Corpus::from_path(&folder.path().join("empty.txt")).unwrap_err();
    assert!(matches!(error, DataError::NoText { .. }), "{error}");
}

#[test]
fn large_files_become_documents() {
    let folder = tempfile::tempdir().unwrap();
    let paragraph = "A paragraph with a few words in it,\nand a second line.\n\n";
    let text: String = (0..30_000).map(|i| format!("{i} {paragraph}")).collect();
    write(folder.path(), "book.txt", &text);
    write(folder.path(), "small.txt", "small");
    for (path, first) in [("book.txt", 0), ("", 0)] {
        let corpus = Corpus::from_path(&folder.path().join(path)).unwrap();
        let pieces: Vec<_> =
            corpus.documents.iter().filter(|document| document.name.starts_with("book.txt#")).collect();
        assert!(pieces.len() > 50);
        assert!(pieces.iter().rev().skip(1).all(|piece| (16 << 10..18 << 10).contains(&piece.text.len())));
        let joined: String = pieces[first..].iter().map(|piece| piece.text.as_str()).collect();
        assert!(joined == text);
    }
}

#[test]
fn a_short_file_still_leaves_something_to_hold_out() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "short.txt", "some words\n\n".repeat(300));
    let corpus = Corpus::from_path(&folder.path().join("short.txt")).unwrap();
    let split = Split::by_document(&corpus, 0.05).unwrap();
    assert_eq!(split.held_out.len(), 1);
    assert!(!split.training.is_empty());
}

#[test]
fn the_split_is_by_document_and_repeats() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..200 {
        write(folder.path(), &format!("{i}.txt"), format!("document {i}"));
    }
    let corpus = Corpus::from_path(folder.path()).unwrap();
    let names = |share: f64| {
        let split = Split::by_document(&corpus, share).unwrap();
        let of = |side: &[&diptych_data::Document]| side.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        (of(&split.training), of(&split.held_out))
    };
    let (training, held_out) = names(0.05);
    assert_eq!((training.len(), held_out.len()), (190, 10));
    assert!(held_out.iter().all(|name| !training.contains(name)));
    assert_eq!(names(0.05), (training.clone(), held_out.clone()));
    assert!(!training.is_sorted(), "the training stream is shuffled");
    // More held out: those held out before still are, so that nothing once trained on is.
    assert!(held_out.iter().all(|name| names(0.2).1.contains(name)));
    assert_eq!(names(0.0001).1.len(), 1);
    assert_eq!(names(0.9999).0.len(), 1);
    for share in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(matches!(Split::by_document(&corpus, share), Err(DataError::Share { .. })));
    }
}

#[test]
fn one_document_cannot_be_split() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "only.txt", "only");
    let corpus = Corpus::from_path(folder.path()).unwrap();
    let error = Split::by_document(&corpus, 0.05).unwrap_err().to_string();
    assert!(error.contains("only 1 document") && error.contains("longer text"), "{error}");
}

#[test]
fn dependencies_are_read_from_where_cargo_put_them() {
    let corpus = Corpus::from_cargo_dependencies(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(corpus.bytes() > 5 << 20 && corpus.bytes() <= 20 << 20, "{}", corpus.bytes());
    assert!(corpus.skipped_large > 0 && corpus.duplicates > 0);
    let names = || corpus.documents.iter().map(|document| document.name.as_str());
    assert!(names().all(|name| !name.starts_with("diptych") && !name.starts_with('/')));
    assert!(names().all(|name| name.ends_with(".rs") || name.ends_with(".md")));
    assert!(names().any(|name| name.starts_with("sha2-0.10")));
    let again = Corpus::from_cargo_dependencies(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(again.content_hash, corpus.content_hash);
}
