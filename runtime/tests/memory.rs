//! What training may not keep: logits, and anything over two long axes.

use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{EntryOptions, Role};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_passes::layout::{Layout, Leading};

#[test]
fn no_logits_are_stored_in_training() {
    for preset in ["llama-15m", "bench-multi-head", "bench-grouped-query", "bench-latent"] {
        let architecture = Registry::zoo().preset(preset).unwrap();
        let program = build(architecture.as_ref()).unwrap();
        let options = EntryOptions { panel: 32, tile_rows: 12 };
        let kinds = [EntryKind::Train, EntryKind::Score];
        let compiled = compile_program(&program, &kinds, &AdamWOptions::default(), options).unwrap();
        for (kind, entry) in &compiled.entries {
            for buffer in entry.buffers.iter().filter(|buffer| buffer.role == Role::Temporary) {
                let Layout::Dense { leading, order } = &buffer.layout else { continue };
                let wide = order.iter().any(|axis| axis.fixed_size() == Some(architecture.vocab()));
                let stored = format!("{preset}, {}: {:?}", kind.name(), buffer.layout);
                assert!(*leading == Leading::None || !wide, "logits are stored: {stored}");
                assert!(*leading != Leading::Quadratic, "scores are stored: {stored}");
            }
        }
    }
}
