//! What every generated C file begins with: vector types, transcendentals, transposes, the dot.
//! The text is C (folder `prelude/`); this file only joins it and knows the compiler's flags.
//! Must not know of tile programs, files or processes.

use diptych_ir::DType;
use diptych_ir::blocks::BlockFormat;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The types of a dot's right operand, in the order in which the step's tables have their functions.
pub const DOT_ELEMENTS: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::I8];

/// The functions that [`dot_source`] defines for kernels to call, in the order in which the step's tables have them:
/// the dot of each of [`DOT_ELEMENTS`], then the dot that turns it over, then that of floats whose panels lie across.
pub const DOT_FUNCTIONS: [&str; 9] = [
    "diptych_dot",
    "diptych_dot_bf16",
    "diptych_dot_f16",
    "diptych_dot_i8",
    "diptych_dot_turned",
    "diptych_dot_turned_bf16",
    "diptych_dot_turned_f16",
    "diptych_dot_turned_i8",
    "diptych_dot_across",
];

/// The name of an element type in C.
pub(crate) fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::I8 => "i8",
        DType::I32 => "int32_t",
        DType::Bool => "uint8_t",
    }
}

/// What the names of functions of the prelude that load, store or multiply elements of a type end with.
pub(crate) fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "",
        DType::BF16 => "_bf16",
        DType::F16 => "_f16",
        DType::I8 => "_i8",
        DType::I32 => "_int",
        DType::Bool => "_bool",
    }
}

/// What all files have: vectors, loads and stores of every type.
const VECTORS: &str =
    concat!(include_str!("prelude/vectors.c"), "\n", include_str!("prelude/narrow.c"), "\n");

/// The text of the prelude: C11 with vector extensions, for gcc 12 or clang 14 and later. It is to be
/// compiled with the flags of [`VectorWidth::cc_flags`] and linked with [`LINK_FLAGS`].
/// Its dots are those of floats: see [`narrow_dots`].
pub fn prelude() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| dot_prelude() + &dot_of(DType::F32));
    &TEXT
}

/// What follows the prelude in a file that also has the dots whose right operand is of a narrow type.
pub fn narrow_dots() -> String {
    DOT_ELEMENTS.into_iter().filter(|dtype| dtype.is_narrow()).map(dot_of).collect()
}

/// The prelude as far as the dots.
fn dot_prelude() -> String {
    let rest = concat!(
        include_str!("prelude/functions.c"),
        "\n",
        include_str!("prelude/transpose.c"),
        "\n",
        include_str!("prelude/dot_tiles.c"),
        "\n",
    );
    [VECTORS, rest].concat()
}

/// The dots whose right operand has elements of this type.
fn dot_of(dtype: DType) -> String {
    let is_float = u8::from(dtype == DType::F32);
    let across = if dtype == DType::F32 { include_str!("prelude/across.c") } else { "" };
    let name = match suffix(dtype) {
        "" => "name".to_owned(),
        suffix => format!("name##{suffix}"),
    };
    format!(
        "#define ELEMENT {}\n#define IS_FLOAT {is_float}\n#define OF(name) {name}\n{}\n{}{across}#undef ELEMENT\n#undef IS_FLOAT\n#undef OF\n",
        c_type(dtype),
        include_str!("prelude/dot.c"),
        include_str!("prelude/turned.c"),
    )
}

/// What a file of kernels begins with: the prelude without `dot`, which kernels reach through the step's
/// tables. It is three quarters of what a file would take to compile.
pub fn kernel_prelude() -> String {
    let rest = concat!(
        include_str!("prelude/functions.c"),
        "\n",
        include_str!("prelude/transpose.c"),
        "\n#define PANEL (2 * LANES)\n",
    );
    [VECTORS, rest].concat()
}

/// What kernels that read weights in blocks have beside the prelude.
pub fn blocks_prelude() -> &'static str {
    include_str!("prelude/blocks_layout.c")
}

/// The functions that [`blocks_source`] defines for kernels to call, in the order in which the step's tables have them:
/// after the first, the dot of each format.
pub const BLOCK_FUNCTIONS: [&str; 6] = [
    "diptych_round_blocks",
    "diptych_dot_q8_0",
    "diptych_dot_q4_0",
    "diptych_dot_q4_1",
    "diptych_dot_q4_k",
    "diptych_dot_q6_k",
];

/// A file that rounds rows to blocks and multiplies them with weights of these formats: the first of
/// [`BLOCK_FUNCTIONS`], and those of the formats.
pub fn blocks_source(formats: &BTreeSet<BlockFormat>) -> String {
    let rest = concat!(
        "#define PANEL (2 * LANES)\n",
        include_str!("prelude/blocks_layout.c"),
        "\n",
        include_str!("prelude/blocks.c"),
        "\n"
    );
    let mut text = [VECTORS, rest].concat();
    for format in formats {
        text.push_str(&format!("DEFINE_BLOCK_DOT({format}, {})\n", format.name().to_uppercase()));
    }
    text
}

/// A file that defines the functions of [`DOT_FUNCTIONS`] whose right operand has elements of this type. They work in
/// blocks of this depth.
pub fn dot_source(dtype: DType, blocking: Blocking) -> String {
    let (suffix, element) = (suffix(dtype), c_type(dtype));
    let across = match dtype {
        DType::F32 => {
            "void diptych_dot_across(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
    int64_t b_panel, float *c, int64_t c_m, int64_t c_panel, int c_padded, int accumulate, float *scratch) {
    dot_across(m, n, k, a, a_m, a_k, b, b_panel, c, c_m, c_panel, c_padded, accumulate, scratch);
}
"
        }
        _ => "",
    };
    format!(
        "#define DOT_BLOCK_K {}\n{}{}{across}void diptych_dot{suffix}(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const {element} *b,
    int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m, int64_t c_panel, int c_padded,
    int accumulate, float *scratch) {{
    dot{suffix}(m, n, k, a, a_m, a_k, b, b_panel, b_k, b_padded, c, c_m, c_panel, c_padded, accumulate, scratch);
}}
void diptych_dot_turned{suffix}(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const {element} *b,
    int64_t b_n, float *tile, int64_t tile_k, float *c, int64_t c_m, int accumulate, float *scratch,
    dot_of_floats *floats) {{
    dot_turned{suffix}(m, n, k, a, a_m, a_k, b, b_n, tile, tile_k, c, c_m, accumulate, scratch, floats);
}}
",
        blocking.depth,
        dot_prelude(),
        dot_of(dtype),
    )
}

/// What follows the source files on the compiler's command line: a processor that is neither x86 nor has
/// a fused multiply-add instruction gets it from `fmaf`.
pub const LINK_FLAGS: &[&str] = &["-lm"];

/// In what blocks contractions are computed. They say what stays in which cache: no bit depends on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocking {
    /// Rows that an instance of a kernel has at most. It reads its right operand once for all of them.
    pub rows: usize,
    /// Terms of a sum that `dot` adds before it goes on to other rows and columns: `DOT_BLOCK_K` in C.
    pub depth: usize,
}

/// `dot` copies at most so many rows of its left operand: `DOT_BLOCK_M` in C.
const DOT_BLOCK_M: usize = 288;
/// Depths of blocks, of which the size of `dot`'s scratch allows the last.
const DOT_DEPTHS: [usize; 4] = [128, 192, 256, 384];

/// The environment variable that names a vector width, in place of the widest: for tests, which shall pass with each.
pub const WIDTH_VARIABLE: &str = "DIPTYCH_VECTOR_WIDTH";

/// Why a vector width cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WidthError {
    /// No width has the name.
    #[error("there is no vector width `{0}`; there are: avx512, avx2, portable")]
    Unknown(String),
    /// The processor lacks the instructions.
    #[error(
        "this processor cannot run the vector width `{0}`; `portable` runs everywhere, and \
         without the variable the widest is taken"
    )]
    Unsupported(&'static str),
}

/// The width of the vectors that generated C is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VectorWidth {
    /// 64 bytes: AVX-512.
    Avx512,
    /// 32 bytes: AVX2 with FMA and F16C.
    Avx2,
    /// 16 bytes, with no instruction set assumed: correct everywhere, slow.
    Portable,
}

impl VectorWidth {
    /// All widths, widest first.
    pub const ALL: [VectorWidth; 3] = [VectorWidth::Avx512, VectorWidth::Avx2, VectorWidth::Portable];

    /// The widest that this machine can run.
    pub fn detect() -> VectorWidth {
        VectorWidth::ALL.into_iter().find(|width| width.is_supported()).unwrap_or(VectorWidth::Portable)
    }

    /// The width that [`WIDTH_VARIABLE`] names or, where it is not set, the widest that this machine can run.
    ///
    /// # Errors
    /// When it names no width, or one that this machine cannot run.
    pub fn chosen() -> Result<VectorWidth, WidthError> {
        match std::env::var_os(WIDTH_VARIABLE) {
            Some(name) if !name.is_empty() => VectorWidth::named(&name.to_string_lossy()),
            _ => Ok(VectorWidth::detect()),
        }
    }

    /// The width of this name: `avx512`, `avx2` or `portable`.
    ///
    /// # Errors
    /// When there is none, or this machine cannot run it.
    pub fn named(name: &str) -> Result<VectorWidth, WidthError> {
        let found = VectorWidth::ALL.into_iter().find(|width| width.name() == name);
        let width = found.ok_or_else(|| WidthError::Unknown(name.to_owned()))?;
        if width.is_supported() { Ok(width) } else { Err(WidthError::Unsupported(width.name())) }
    }

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            VectorWidth::Avx512 => "avx512",
            VectorWidth::Avx2 => "avx2",
            VectorWidth::Portable => "portable",
        }
    }

    /// Whether this machine can run code of this width.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            VectorWidth::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
            VectorWidth::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            VectorWidth::Portable => true,
        }
        #[cfg(not(target_arch = "x86_64"))]
        return self == VectorWidth::Portable;
    }

    /// Bytes of a vector: `VECTOR_BYTES` in C.
    pub fn bytes(self) -> usize {
        match self {
            VectorWidth::Avx512 => 64,
            VectorWidth::Avx2 => 32,
            VectorWidth::Portable => 16,
        }
    }

    /// 32-bit lanes of a vector: `LANES` in C.
    pub fn lanes(self) -> usize {
        self.bytes() / 4
    }

    /// Columns of a panel of the right operand of `dot`: `PANEL` in C.
    pub fn panel(self) -> usize {
        2 * self.lanes()
    }

    /// Rows of `dot`'s register tile: `TILE_ROWS` in C. Blocks of rows that are a multiple of it leave
    /// no slow remainder.
    pub fn tile_rows(self) -> usize {
        match self {
            VectorWidth::Avx512 => 12,
            VectorWidth::Avx2 => 6,
            VectorWidth::Portable => 4,
        }
    }

    /// Blocks that suit most machines: 192 rows of a panel and of a tile stay in a first-level cache of 48 KiB, a
    /// block's rows of both operands in a second-level cache of 1 MiB.
    pub fn blocking(self) -> Blocking {
        Blocking { rows: 12 * self.tile_rows(), depth: 192 }
    }

    /// All blocks worth trying on a machine, the default among them. Where a product is no matter of caches, that one.
    pub fn blockings(self) -> Vec<Blocking> {
        if self == VectorWidth::Portable {
            return vec![self.blocking()];
        }
        let rows = [12, 24].map(|tiles| tiles * self.tile_rows());
        rows.iter().flat_map(|&rows| DOT_DEPTHS.map(|depth| Blocking { rows, depth })).collect()
    }

    /// Floats of the scratch that `dot` wants per thread, whatever its blocks: `DOT_SCRATCH_FLOATS` in C.
    pub fn dot_scratch_floats(self) -> usize {
        let depth = DOT_DEPTHS[DOT_DEPTHS.len() - 1];
        DOT_BLOCK_M * depth + self.lanes() + self.panel() * depth
    }

    /// Flags for the C compiler, the same for gcc and clang apart from what [`clang_flags`] adds. Without
    /// `-ffast-math`: every rounding is where the text says.
    pub fn cc_flags(self) -> Vec<&'static str> {
        let mut flags =
            vec!["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"];
        match self {
            VectorWidth::Avx512 => flags.extend(["-DVECTOR_BYTES=64", "-march=native"]),
            VectorWidth::Avx2 => flags.extend(["-DVECTOR_BYTES=32", "-mavx2", "-mfma", "-mf16c"]),
            VectorWidth::Portable => flags.push("-DVECTOR_BYTES=16"),
        }
        flags
    }
}

/// What clang needs besides: it otherwise splits 64-byte vectors in two, at half the speed.
pub fn clang_flags() -> &'static [&'static str] {
    &["-mprefer-vector-width=512"]
}
