//! What a file of CUDA kernels begins with. The text is CUDA C++ (folder `prelude/`); this file only joins the parts
//! that kernels use, since each takes time to compile.

use super::PANEL;
use super::step::STEP_TEXT;
use crate::tile::CHUNK;

/// Columns of a product of a warpgroup: `N` of wgmma m64nNk16.
pub(super) const WARPGROUP_COLUMNS: [usize; 5] = [8, 16, 32, 64, 128];

/// A part of the prelude, and the texts by one of which a kernel that uses it is known.
const PARTS: [(&[&str], &str); 14] = [
    (&["tensor_map *maps", "dot_wgmma<", "dot_tcgen05<"], include_str!("prelude/tensor_map.cu")),
    (&["= f_"], include_str!("prelude/functions.cu")),
    (&["over_lanes<", "over_quad<"], include_str!("prelude/lanes.cu")),
    (&["dot<", "dot_bf16<", "dot_wgmma<", "dot_tcgen05<"], include_str!("prelude/operands.cu")),
    (&["staggered(", "in_staggered_rows<"], include_str!("prelude/staggered.cu")),
    (&["far_strided<"], include_str!("prelude/far.cu")),
    (&["dot<"], include_str!("prelude/dot.cu")),
    (&["dot_bf16<", "dot_wgmma<", "dot_tcgen05<"], include_str!("prelude/stages.cu")),
    (&["dot_bf16<"], include_str!("prelude/dot_bf16.cu")),
    (&["dot_wgmma<"], include_str!("prelude/fragments.cu")),
    (&["dot_wgmma<", "dot_tcgen05<"], include_str!("prelude/ring.cu")),
    (&["dot_wgmma<", "dot_tcgen05<"], include_str!("prelude/slots.cu")),
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
    let calls = |name: &str| texts.clone().into_iter().any(|text| text.contains(name));
    if calls("dot_wgmma<") {
        text.push_str(
            "\n// wgmma m64nNk16: sum += a b, of which TA and TB say whether rows run along memory; or sum = a b.\n",
        );
        WARPGROUP_COLUMNS.iter().for_each(|&columns| text.push_str(&warpgroup_products(columns)));
        text.push('\n');
        text.push_str(include_str!("prelude/dot_wgmma.cu"));
    }
    if calls("dot_tcgen05<") {
        text.push_str(
            "\n// Sums of a warp in tensor memory: fragments of 16 lanes and 8 columns for four registers.\n",
        );
        WARPGROUP_COLUMNS.iter().for_each(|&columns| text.push_str(&sums_in_tensor_memory(columns)));
        text.push('\n');
        text.push_str(include_str!("prelude/dot_tcgen05.cu"));
    }
    text.push('\n');
    text.push_str(STEP_TEXT);
    text
}

/// Loads and stores of a warp's sums of 16 rows and so many columns: each of a thread's is an operand of the
/// instruction.
fn sums_in_tensor_memory(columns: usize) -> String {
    let (count, times) = (columns / 2, columns / 8);
    let list = |of: &dyn Fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>().join(", ");
    let (loaded, stored) = (list(&|at| format!("%{at}")), list(&|at| format!("%{}", at + 1)));
    let (results, operands) =
        (list(&|at| format!("\"=f\"(sum[{at}])")), list(&|at| format!("\"f\"(sum[{at}])")));
    let head = "static __device__ __forceinline__ void";
    format!(
        "{head} load_sums(float (&sum)[{count}], unsigned from) {{
    asm volatile(\"tcgen05.ld.sync.aligned.16x256b.x{times}.b32 {{{loaded}}}, [%{count}];\"
                 : {results} : \"r\"(from) : \"memory\");
}}
{head} store_sums(unsigned to, const float (&sum)[{count}]) {{
    asm volatile(\"tcgen05.st.sync.aligned.16x256b.x{times}.b32 [%0], {{{stored}}};\"
                 ::\"r\"(to), {operands} : \"memory\");
}}
"
    )
}

/// The product of a warpgroup with so many columns, its left operand in shared memory or in registers: each of a
/// thread's sums is an operand of the instruction.
fn warpgroup_products(columns: usize) -> String {
    let count = columns / 2;
    let list = |of: &dyn Fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>().join(", ");
    let (names, sums) = (list(&|at| format!("%{at}")), list(&|at| format!("\"+f\"(sum[{at}])")));
    let next = |at: usize| format!("%{}", count + at);
    let registers = format!("{{{}}}", [0, 1, 2, 3].map(next).join(", "));
    let product = |parameters: &str, a: &str, operands: &[String; 3], given: &str, adds: bool| {
        let [of_a, of_b, turned] = operands;
        let (name, add) = if adds { ("wgmma", 1) } else { ("wgmma_anew", 0) };
        let sums = if adds { sums.clone() } else { sums.replace("+f", "=f") };
        format!(
            "template <{parameters}> static __device__ __forceinline__ void
{name}(float (&sum)[{count}], {a}, unsigned long long b) {{
    asm volatile(\"{{\\n\\t.reg .pred add;\\n\\tsetp.ne.b32 add, {add}, 0;\\n\\twgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 \"
                 \"{{{names}}}, {of_a}, {of_b}, add, 1, 1, {turned};\\n\\t}}\"
                 : {sums} : {given});
}}
"
        )
    };
    let in_memory = [next(0), next(1), format!("{}, {}", next(2), next(3))];
    let given = "\"l\"(a), \"l\"(b), \"n\"(TA), \"n\"(TB)";
    let both = [true, false]
        .map(|adds| product("bool TA, bool TB", "unsigned long long a", &in_memory, given, adds));
    let in_registers = [registers, next(4), next(5)];
    let given = "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b), \"n\"(TB)";
    let one =
        [true, false].map(|adds| product("bool TB", "const unsigned (&a)[4]", &in_registers, given, adds));
    both.concat() + &one.concat()
}
