//! The promise of same bits on the virtual GPU, with the instructions of `sm_100a`.

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
    let Some(device) = virtual_gpu(Target::SM_100A) else { return };
    batches_agree(&device, "llama", "bf16", [1, 2, 9]);
}
