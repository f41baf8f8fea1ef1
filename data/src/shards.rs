//! Tokens on disk, read through the memory map: as many as the disk holds, shared between processes,
//! ready at once. One file holds one side of a split. Knows nothing of text or vocabularies.
//!
//! All numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `DIPTYCHT` |
//! | 4 | version, 1 |
//! | 4 | bytes of a token: 2 where the vocabulary has at most 65536 tokens, otherwise 4 |
//! | 8 | documents |
//! | 8 | tokens |
//! | 32 | source: SHA-256 of what the tokens were made from |
//! | 32 | SHA-256 of all that follows |
//! | 8 · (documents + 1) | where each document's tokens start, and the end |
//! | 8 · documents | bytes of each document's text |
//! | tokens | end of text, then each document with its end of text |

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::file::write_atomically;

const MAGIC: &[u8; 8] = b"DIPTYCHT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 96;

/// A file of tokens: an end of text, then documents, each with the end of text that closes it.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    map: Mmap,
    token_bytes: usize,
    documents: usize,
    tokens: usize,
}

/// One document to write: its tokens without an end of text, and the bytes of its text.
pub(crate) struct EncodedDocument {
    pub(crate) tokens: Vec<u32>,
    pub(crate) bytes: usize,
}

impl TokenFile {
    /// Writes `documents` to `path`, beside and renamed into place. `source` says what they were made
    /// from; [`TokenFile::source`] gives it back.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`], [`DataError::Io`].
    pub(crate) fn write(
        path: &Path,
        documents: &[EncodedDocument],
        vocabulary_size: usize,
        end_of_text: u32,
        source: &[u8; 32],
    ) -> Result<(), DataError> {
        let ids = documents.iter().flat_map(|document| &document.tokens).chain([&end_of_text]);
        if let Some(&id) = ids.into_iter().find(|id| **id as usize >= vocabulary_size) {
            return Err(DataError::UnknownToken { id, size: vocabulary_size });
        }
        let token_bytes: usize = if vocabulary_size <= 1 << 16 { 2 } else { 4 };
        let mut index: Vec<u8> = Vec::new();
        let mut at = 1u64;
        for document in documents {
            index.extend(at.to_le_bytes());
            at += document.tokens.len() as u64 + 1;
        }
        index.extend(at.to_le_bytes());
        for document in documents {
            index.extend((document.bytes as u64).to_le_bytes());
        }
        // The tokens a document at a time, so that they are in memory in one form only.
        let put = |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
            out(&index)?;
            out(&end_of_text.to_le_bytes()[..token_bytes])?;
            let mut buffer = Vec::new();
            for document in documents {
                buffer.clear();
                for token in document.tokens.iter().chain([&end_of_text]) {
                    buffer.extend(&token.to_le_bytes()[..token_bytes]);
                }
                out(&buffer)?;
            }
            Ok(())
        };
        let mut hash = Sha256::new();
        put(&mut |bytes| {
            hash.update(bytes);
            Ok(())
        })
        .map_err(DataError::io("write", path))?;
        let hash = hash.finalize();
        write_atomically(path, |writer: &mut dyn Write| {
            writer.write_all(MAGIC)?;
            writer.write_all(&VERSION.to_le_bytes())?;
            writer.write_all(&(token_bytes as u32).to_le_bytes())?;
            writer.write_all(&(documents.len() as u64).to_le_bytes())?;
            writer.write_all(&at.to_le_bytes())?;
            writer.write_all(source)?;
            writer.write_all(&hash)?;
            put(&mut |bytes| writer.write_all(bytes))
        })
    }

    /// Opens and checks a file, checksum included (about a second for a gigabyte).
    ///
    /// # Errors
    /// [`DataError::TokenFile`] if it is not such a file, is truncated or damaged; [`DataError::Io`].
    pub fn open(path: &Path) -> Result<TokenFile, DataError> {
        let refused = |problem: String| Err(DataError::TokenFile { path: path.to_path_buf(), problem });
        let file = File::open(path).map_err(DataError::io("read", path))?;
        // SAFETY: the file is made under another name and renamed into place, never written again;
        // whoever changes it from outside while it is mapped gets other tokens, which are checked
        // for nothing but their size in bytes and used as numbers.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("read", path))?;
        if !map.starts_with(MAGIC) {
            return refused("not a file of tokens, which begins with DIPTYCHT".into());
        }
        if map.len() < HEADER_BYTES {
            return refused(format!("truncated: {} bytes, the header alone has {HEADER_BYTES}", map.len()));
        }
        let (version, token_bytes) = (number::<4>(&map, 8), number::<4>(&map, 12));
        if version != u64::from(VERSION) {
            return refused(format!("version {version} of the format, version {VERSION} is read here"));
        }
        if token_bytes != 2 && token_bytes != 4 {
            return refused(format!("damaged: tokens of {token_bytes} bytes, they have 2 or 4"));
        }
        let (documents, tokens) = (number::<8>(&map, 16), number::<8>(&map, 24));
        // In 128 bits, where no header can make this overflow.
        let expected = HEADER_BYTES as u128
            + 8 * (2 * u128::from(documents) + 1)
            + u128::from(token_bytes) * u128::from(tokens);
        if map.len() as u128 != expected {
            let wrong = if (map.len() as u128) < expected { "truncated" } else { "damaged" };
            return refused(format!("{wrong}: {} bytes, its header says {expected}", map.len()));
        }
        if Sha256::digest(&map[HEADER_BYTES..])[..] != map[64..HEADER_BYTES] {
            return refused("damaged: the checksum of its contents does not match".into());
        }
        let file = TokenFile {
            path: path.to_path_buf(),
            token_bytes: token_bytes as usize,
            documents: documents as usize,
            tokens: tokens as usize,
            map,
        };
        let ends = (0..=file.documents).map(|i| file.offset(i));
        if !ends.is_sorted_by(|a, b| a < b)
            || file.offset(0) != 1
            || file.offset(file.documents) != file.tokens
        {
            return refused("damaged: its documents do not follow one another".into());
        }
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens in all, the first end of text and that of each document included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Documents.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Where a document's tokens are, its closing end of text included. The token before is always
    /// an end of text.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document(&self, document: usize) -> Range<usize> {
        assert!(document < self.documents, "document {document} of {}", self.documents);
        self.offset(document)..self.offset(document + 1)
    }

    /// Bytes of a document's text.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document_bytes(&self, document: usize) -> u64 {
        assert!(document < self.documents, "document {document} of {}", self.documents);
        number::<8>(&self.map, HEADER_BYTES + 8 * (self.documents + 1 + document))
    }

    /// What the tokens were made from: a hash of text, split and vocabulary.
    pub fn source(&self) -> &[u8] {
        &self.map[32..64]
    }

    /// The token at `at`.
    ///
    /// # Panics
    /// If `at` is not below [`Self::tokens`].
    pub fn token(&self, at: usize) -> u32 {
        let mut one = [0];
        self.copy(at, &mut one);
        one[0] as u32
    }

    /// Copies the tokens from `start` on into `into`, all of it.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn copy(&self, start: usize, into: &mut [i32]) {
        let first = HEADER_BYTES + 8 * (2 * self.documents + 1) + start * self.token_bytes;
        let bytes = &self.map[first..first + into.len() * self.token_bytes];
        match self.token_bytes {
            2 => {
                for (token, bytes) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *token = i32::from(u16::from_le_bytes(*bytes));
                }
            }
            _ => {
                for (token, bytes) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *token = i32::from_le_bytes(*bytes);
                }
            }
        }
    }

    fn offset(&self, document: usize) -> usize {
        number::<8>(&self.map, HEADER_BYTES + 8 * document) as usize
    }
}

/// The little-endian number in the `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(vocabulary_size: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.tokens");
        let last = vocabulary_size as u32 - 1;
        let documents = [
            EncodedDocument { tokens: vec![5, 6, last], bytes: 11 },
            EncodedDocument { tokens: vec![], bytes: 1 },
            EncodedDocument { tokens: vec![7], bytes: 3 },
        ];
        TokenFile::write(&path, &documents, vocabulary_size, 0, &[9; 32]).unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read_at_both_widths() {
        for (size, width) in [(300, 2), (1 << 16, 2), ((1 << 16) + 1, 4), (200_000, 4)] {
            let (_folder, path) = written(size);
            let file = TokenFile::open(&path).unwrap();
            assert_eq!(file.token_bytes, width);
            let mut tokens = vec![0; file.tokens()];
            file.copy(0, &mut tokens);
            assert_eq!(tokens, [0, 5, 6, size as i32 - 1, 0, 0, 7, 0]);
            assert_eq!((file.document(0), file.document(1), file.document(2)), (1..5, 5..6, 6..8));
            assert_eq!((file.document_bytes(0), file.document_bytes(2)), (11, 3));
            assert_eq!(file.source(), [9; 32]);
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_refused() {
        let (_folder, path) = written(300);
        let good = std::fs::read(&path).unwrap();
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(TokenFile::open(&path).is_err(), "cut to {length} bytes");
        }
        for at in (0..good.len()).filter(|at| !(32..64).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            std::fs::write(&path, &bad).unwrap();
            assert!(TokenFile::open(&path).is_err(), "byte {at} changed");
        }
        std::fs::write(&path, &good[..good.len() - 3]).unwrap();
        let error = TokenFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("some.tokens") && error.contains("truncated"), "{error}");
    }

    #[test]
    fn unknown_tokens_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.tokens");
        let documents = [EncodedDocument { tokens: vec![300], bytes: 1 }];
        let error = TokenFile::write(&path, &documents, 300, 0, &[0; 32]).unwrap_err();
        assert!(matches!(error, DataError::UnknownToken { id: 300, size: 300 }));
        assert!(!path.exists());
    }
}
