//! NVRTC, for tests that cannot do without.

use diptych_nvrtc::{Nvrtc, find_nvrtc};

/// NVRTC, or `None`, with a reason printed, where it is not installed. With `DIPTYCH_CUDA` set it must be there.
pub fn nvrtc() -> Option<Nvrtc> {
    match find_nvrtc() {
        Ok(path) => Some(Nvrtc::open(&path).unwrap()),
        Err(error) => {
            assert!(error.named.is_none(), "{error}");
            println!("skipped: {error}");
            None
        }
    }
}
