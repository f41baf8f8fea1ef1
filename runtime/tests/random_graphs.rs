//! Random programs, and recurrences, in native code against the reference evaluator, on ragged
//! batches. Seeds are fixed; the example `fuzz` goes on for as long as it is told.

mod compositions;
#[path = "support/recurrences.rs"]
mod recurrences;
mod support;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use support::architectures::check_architectures;
use support::check::{Findings, Options, check, check_programs};
use support::programs::{ROUTED, Traits};

fn agree(seeds: impl IntoIterator<Item = u64>, options: Options) {
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let compiler = Compiler::find().unwrap();
    let Findings { agreed, kernels, refused, unserved, wrong } =
        check(&seeds, options, &compiler, &KernelCache::standard());
    eprintln!("{agreed} agree ({kernels} kernels), {} refused, {} wrong", refused.len(), wrong.len());
    for (seed, problem) in &refused {
        eprintln!("seed {seed} was refused: {problem}");
    }
    for (seed, problem) in &unserved {
        eprintln!("seed {seed} is not served: {problem}");
    }
    for (seed, problem) in &wrong {
        eprintln!("seed {seed}: {problem}");
    }
    let seeds_wrong: Vec<u64> = wrong.iter().map(|row| row.0).collect();
    assert!(wrong.is_empty(), "seeds {seeds_wrong:?} compute something else");
    assert!(refused.len() * 10 <= seeds.len(), "{} of {} programs were refused", refused.len(), seeds.len());
    assert!(unserved.len() * 3 <= seeds.len(), "{} of {} are not served", unserved.len(), seeds.len());
}

#[test]
fn gradients_and_serving_are_as_the_evaluator_has_them() {
    agree(
        0..10,
        Options { width: VectorWidth::chosen().unwrap(), budget: 3e5, gradients: true, serving: true },
    );
}

/// Of seeds whose attention can be served: what is seen over the past is not computed anew at each token.
#[test]
fn experts_are_as_the_evaluator_has_them() {
    let options =
        Options { width: VectorWidth::chosen().unwrap(), budget: 2e5, gradients: true, serving: true };
    agree([6, 8, 9].map(|seed| ROUTED + seed), options);
    for width in VectorWidth::ALL.into_iter().filter(|width| width.is_supported()) {
        agree([0, 3, 101].map(|seed| ROUTED + seed), Options { width, budget: 1e5, ..options });
    }
}

/// Backward bodies in which streams and what lies between them could be joined in a circle.
#[test]
fn groups_never_need_one_another_in_a_circle() {
    agree(
        [22, 344, 352, 361],
        Options { width: VectorWidth::chosen().unwrap(), budget: 1e5, gradients: true, serving: false },
    );
}

/// Softmaxes of parameters that lie in no one way: walked axis by axis, they need not lie alike.
#[test]
fn parameters_that_lie_differently_are_combined() {
    agree(
        [204, 326],
        Options { width: VectorWidth::chosen().unwrap(), budget: 1e5, gradients: true, serving: false },
    );
}

#[test]
fn every_vector_width_computes_what_the_evaluator_does() {
    for width in VectorWidth::ALL.into_iter().filter(|width| width.is_supported()) {
        agree(100..104, Options { width, budget: 2e5, gradients: true, serving: true });
    }
}

/// Of any form that the algebra offers, none is refused.
#[test]
fn random_architectures_are_as_they_were_written() {
    let seeds: Vec<u64> = (0..50).collect();
    let options =
        Options { width: VectorWidth::chosen().unwrap(), budget: 1e5, gradients: true, serving: true };
    let (compiler, cache) = (Compiler::find().unwrap(), KernelCache::standard());
    let Findings { agreed, kernels, refused, unserved, wrong } =
        check_architectures(&seeds, false, options, &compiler, &cache);
    eprintln!("{agreed} agree ({kernels} kernels)");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(agreed, seeds.len());
    assert!(refused.is_empty() && unserved.is_empty(), "{refused:#?} {unserved:#?}");
}

fn recurrences_agree(options: Options) {
    let (written, random) = (recurrences::all(), 16);
    let count = written.len() as u64;
    let programs = written.into_iter().chain((0..random).map(recurrences::random));
    let cases = programs
        .enumerate()
        .map(|(at, program)| (at as u64, program, Traits { low_precision: false, causal: true }));
    let (compiler, cache) = (Compiler::find().unwrap(), KernelCache::standard());
    let Findings { refused, wrong, .. } = check_programs(cases, options, &compiler, &cache);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(refused.iter().all(|row| row.0 >= count), "{refused:?}");
    assert!(refused.len() * 8 <= random as usize, "{refused:?}");
}

#[test]
fn recurrences_score_as_the_evaluator_does() {
    for width in VectorWidth::ALL.into_iter().filter(|width| width.is_supported()) {
        recurrences_agree(Options { width, budget: 3e5, gradients: false, serving: true });
    }
}

#[test]
fn recurrences_have_the_gradients_of_the_evaluator() {
    recurrences_agree(Options {
        width: VectorWidth::chosen().unwrap(),
        budget: 3e5,
        gradients: true,
        serving: false,
    });
}
