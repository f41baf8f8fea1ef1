//! Parameters in blocks of random integers and scales, as files have them.

use diptych_ir::blocks::BlockFormat;
use diptych_ir::{Program, Symbol};
use diptych_passes::weight_blocks::{candidates, hold_in_blocks};
use diptych_runtime::executor::ParameterStore;
use half::f16;
use std::collections::BTreeMap;

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next, of so many.
    pub fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }

    /// The next, between -1 and 1.
    pub fn signed(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }
}

/// Where a block has 16-bit numbers.
fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q8_0 | BlockFormat::Q4_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q4K => &[0, 2],
        BlockFormat::Q6K => &[208],
    }
}

/// A column of random blocks, of numbers of about this size.
pub fn random_blocks(format: BlockFormat, depth: usize, size: f32, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth / format.elements() {
        let mut block: Vec<u8> = (0..format.bytes()).map(|_| numbers.below(256) as u8).collect();
        for &at in halves(format) {
            let steps = match format {
                BlockFormat::Q8_0 => 128.0,
                BlockFormat::Q4_0 => 8.0,
                BlockFormat::Q4_1 => 15.0,
                BlockFormat::Q4K => 15.0 * 64.0,
                BlockFormat::Q6K => 32.0 * 128.0,
            };
            let least = format == BlockFormat::Q4_1 && at == 2;
            let scale = if least { -0.5 * size } else { size / steps } * (1.0 + 0.3 * numbers.signed());
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}

/// Sets all parameters that are held in blocks.
pub fn set_random_blocks(store: &mut ParameterStore, program: &Program, size: f32) {
    let mut numbers = Numbers(5);
    for (&name, info) in &program.params {
        let Some(blocks) = &info.blocks else { continue };
        let columns = store.columns(name).unwrap();
        for column in 0..columns.count() {
            let bytes = random_blocks(blocks.format, columns.depth(), size, &mut numbers);
            store.set_column(name, &columns, column, &bytes).unwrap();
        }
    }
}

/// The program with all that can be in this format held so.
pub fn held_in(program: &Program, format: BlockFormat) -> Program {
    let fits = |name: Symbol, along: &[diptych_ir::Axis]| {
        let depth: usize = along.iter().map(|axis| axis.fixed_size().unwrap()).product();
        depth.is_multiple_of(format.elements()).then_some((name, format))
    };
    let formats: BTreeMap<_, _> =
        candidates(program).into_iter().filter_map(|(name, along)| fits(name, &along.ok()?)).collect();
    assert!(!formats.is_empty(), "nothing is held in {format}");
    hold_in_blocks(program, &formats).unwrap()
}
