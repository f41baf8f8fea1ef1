//! Text to tokens: corpora, byte-level BPE vocabularies, memory-mapped token files, data order,
//! and the statistics of held-out losses. Knows nothing of models, graphs, devices or terminals;
//! progress goes to a callback.
//!
//! The path, in reading order: a [`Corpus`] of documents, a [`Split`] that holds some of them out,
//! a [`Vocabulary`] trained on the rest, [`TokenFile`]s of both parts, then [`TrainingOrder`] for
//! training batches and [`HeldOut`] for evaluation. [`prepare`] does all up to the token files,
//! and keeps them in a work folder:
//!
//! ```
//! use diptych_data::{Corpus, HeldOut, Settings, TrainingOrder, prepare};
//! # fn main() -> Result<(), diptych_data::DataError> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let data = folder.path().join("text.txt");
//! # std::fs::write(&data, "To be, or not to be.\n\nThat is the question.\n\n".repeat(200)).unwrap();
//! # let work = folder.path().join("work");
//! let corpus = Corpus::from_path(&data)?;
//! let prepared = prepare(&corpus, &Settings { vocabulary_size: 300, ..Settings::default() }, &work, &mut |_| ())?;
//! let (batch, time) = (2, 16);
//! let order = TrainingOrder::new(prepared.training.clone(), 1234, time)?;
//! let (mut inputs, mut targets) = (vec![0; batch * time], vec![0; batch * time]);
//! let epoch = order.batch(0, batch, &mut inputs, &mut targets);
//! assert_eq!((epoch, inputs[1]), (0, targets[0]));
//! let held_out = HeldOut::new(prepared.held_out.clone());
//! assert!(held_out.windows(time).all(|window| window.targets() <= time));
//! # Ok(())
//! # }
//! ```

mod cargo;
mod corpus;
mod encode;
mod error;
mod file;
mod gguf;
mod order;
mod prepare;
mod shards;
mod split;
mod stats;
mod stream;
mod tokenizer;
mod words;

pub use corpus::{Corpus, Document};
pub use error::DataError;
pub use order::{HeldOut, HeldOutWindow, TrainingOrder};
pub use prepare::{Prepared, Progress, Settings, prepare, prepare_with};
pub use shards::TokenFile;
pub use split::Split;
pub use stats::{DocumentLoss, Estimate, loss_per_byte, loss_per_token, paired_difference};
pub use stream::StreamingDecoder;
pub use tokenizer::{END_OF_TEXT, Vocabulary};
