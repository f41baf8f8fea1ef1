//! The model definition language, the zoo of architectures, and import and
//! export of Hugging Face checkpoints. It ends at a verified program: it knows
//! no pass, no kernel and no device.
//!
//! An architecture is a function that builds its logits. Values have named
//! axes and no order; what is the same for all layers is captured from around
//! the `repeat`:
//!
//! ```
//! use diptych_ir::EntryKind;
//! use diptych_models::{ModelBuilder, Rope};
//!
//! let program = ModelBuilder::new("parallel", 1024).finish(|m| {
//!     let (vocab, embed, hidden) = (m.axis("vocab", 512), m.axis("embed", 48), m.axis("hidden", 128));
//!     let (kv_head, group, head_dim) = (m.axis("kv_head", 2), m.axis("group", 2), m.axis("head_dim", 12));
//!     let rope = m.rotary_table(head_dim, &Rope { theta: 10000.0, scaling: Default::default() });
//!     let table = m.embedding("embedding", vocab, embed);
//!     let x = m.repeat("layers", 4, table.take(m.tokens(), vocab), |m, x| {
//!         let h = m.rms_norm("norm", x, embed, 1e-5);
//!         let q = m.linear("q", h, embed, [kv_head, group, head_dim]).rotary(head_dim, &rope);
//!         let k = m.linear("k", h, embed, [kv_head, head_dim]).rotary(head_dim, &rope).history();
//!         let v = m.linear("v", h, embed, [kv_head, head_dim]).history();
//!         let p = (q.dot(k, head_dim) * 12f64.powf(-0.5)).causal().softmax(m.past());
//!         let attention = m.linear("o", p.dot(v, m.past()), [kv_head, group, head_dim], embed);
//!         let gate = m.linear("gate", h, embed, hidden).silu() * m.linear("up", h, embed, hidden);
//!         x + attention + m.linear("down", gate, hidden, embed)
//!     });
//!     m.tied_head(m.rms_norm("final_norm", x, embed, 1e-5), table, embed)
//! })?;
//! assert!(program.entry(EntryKind::Decode).is_some());
//! # Ok::<(), diptych_models::ModelError>(())
//! ```
//!
//! Implement [`Architecture`] and register a [`Family`] to have it built from
//! configurations. `docs/models.md` (the module `guide` of the crate `diptych`) tells how attention, experts and
//! recurrences are written.

mod architecture;
mod checkpoint;
mod dsl;
mod entries;
mod error;
mod gguf;
pub mod hugging_face;
mod initialize;
pub mod zoo;

pub use architecture::{Architecture, Constructor, Family, Precision, Registry, build, parse_config};
pub use checkpoint::{Checkpoint, Held};
pub use dsl::{AxisList, Linear, ModelBuilder, Operand, Rope, RopeScaling, RotaryTable, Tensor};
pub use error::{ModelError, Result};
pub use initialize::{count_parameters, initialize};
