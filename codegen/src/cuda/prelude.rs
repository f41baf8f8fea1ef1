//! What a file of CUDA kernels begins with. The text is CUDA C++ (folder `prelude/`); this file only joins the parts
//! that kernels use, since each takes time to compile.

use super::PANEL;
use super::step::STEP_TEXT;
use crate::tile::CHUNK;

/// A part of the prelude, and the texts by one of which a kernel that uses it is known.
const PARTS: [(&[&str], &str); 8] = [
    (&["tensor_map *maps"], include_str!("prelude/tensor_map.cu")),
    (&["= f_"], include_str!("prelude/functions.cu")),
    (&["over_lanes<"], include_str!("prelude/lanes.cu")),
    (&["dot<", "dot_bf16<"], include_str!("prelude/operands.cu")),
    (&["dot<"], include_str!("prelude/dot.cu")),
    (&["dot_bf16<"], include_str!("prelude/dot_bf16.cu")),
    (&["ranked<", "running_sums("], include_str!("prelude/routing.cu")),
    (&["round_block("], include_str!("prelude/round.cu")),
];

/// The prelude of kernels with these texts.
pub(super) fn prelude<'a>(texts: impl IntoIterator<Item = &'a str> + Clone) -> String {
    // A kernel uses some of the functions.
    let mut text = format!("#pragma nv_diag_suppress 177\n#define PANEL {PANEL}\n#define CHUNK {CHUNK}\n");
    text.push_str("#define INFINITE of_bits(0x7f800000u)\n#define NO_NUMBER of_bits(0x7fc00000u)\n");
    text.push_str(include_str!("prelude/numbers.cu"));
    for (used, part) in PARTS {
        if texts.clone().into_iter().any(|text| used.iter().any(|used| text.contains(used))) {
            text.push('\n');
            text.push_str(part);
        }
    }
    text.push('\n');
    text.push_str(STEP_TEXT);
    text
}
