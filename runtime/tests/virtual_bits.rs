//! The promise of same bits on the virtual GPU, with the instructions of `sm_80`.

#[path = "support/batches.rs"]
mod batches;
#[path = "support/runner.rs"]
mod runner;
#[allow(dead_code)]
#[path = "support/runs.rs"]
mod runs;
#[path = "support/virtual_gpu.rs"]
mod virtual_gpu;

use batches::batches_agree;
use diptych_nvrtc::Target;
use virtual_gpu::virtual_gpu;

#[test]
fn every_entry_gives_the_same_bits_at_every_batch() {
    let Some(device) = virtual_gpu(Target::SM_80) else { return };
    for family in ["gpt2", "llama", "mla"] {
        for dtype in ["f32", "bf16"] {
            batches_agree(&device, family, dtype, [3, 9]);
        }
    }
}
