//! Random programs in native code against the reference evaluator, on ragged
//! batches. Seeds are fixed; the example `fuzz` goes on for as long as it is told.

mod support;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use support::check::{Findings, Options, check};

fn agree(seeds: &[u64], options: Options) {
    let compiler = Compiler::find().unwrap();
    let Findings { agreed, kernels, refused, wrong } =
        check(seeds, options, &compiler, &KernelCache::standard());
    eprintln!("{agreed} agree ({kernels} kernels), {} refused, {} wrong", refused.len(), wrong.len());
    for (seed, problem) in &refused {
        eprintln!("seed {seed} was refused: {problem}");
    }
    for (seed, problem) in &wrong {
        eprintln!("seed {seed}: {problem}");
    }
    assert!(
        wrong.is_empty(),
        "seeds {:?} compute something else",
        wrong.iter().map(|row| row.0).collect::<Vec<_>>()
    );
    assert!(refused.len() * 20 <= seeds.len(), "{} of {} programs were refused", refused.len(), seeds.len());
}

#[test]
fn scores_and_gradients_are_those_of_the_evaluator() {
    agree(
        &[1, 2, 3, 5, 6, 10, 14, 16, 18, 23],
        Options { width: VectorWidth::detect(), budget: 1e6, gradients: true },
    );
}
