//! Random small architectures, optimised under random objectives, in native code: entries of one form have the same
//! bits, those of forms of their own are near, and gradients are those of the model as it was written.

use super::check::{Candidate, Findings, Options, check_candidates};
use super::programs::{CONTEXT, Traits};
use super::random::architecture::architecture;
use super::random::numbers::Numbers;
use super::random::objective::{numerics, objective};
use super::serving::add_probes;
use diptych_codegen::driver::{Rewritten, compile_rewritten};
use diptych_passes::algebra::forms;
use diptych_passes::{AdamWOptions, differentiate};
use diptych_runtime::cpu::compile::{Compiler, KernelCache};

/// Checks the architectures of these seeds: all forms of each, or one at random.
pub fn check_architectures(
    seeds: &[u64],
    all: bool,
    options: Options,
    compiler: &Compiler,
    cache: &KernelCache,
) -> Findings {
    let candidates = seeds.iter().flat_map(|&seed| candidates(seed, all));
    check_candidates(candidates, options, compiler, cache)
}

fn candidates<'a>(seed: u64, all: bool) -> Vec<Candidate<'a>> {
    let mut drawn = architecture(seed, CONTEXT);
    add_probes(&mut drawn.program);
    let mut numbers = Numbers::new(seed, 12);
    let objective = objective(&mut numbers);
    let mut found = forms(&drawn.program, &objective, numerics(&mut numbers)).expect("forms").forms;
    if !all {
        found = vec![numbers.pick(&found)];
    }
    let training = differentiate(&drawn.program).expect("gradients");
    let traits = Traits { low_precision: drawn.low_precision, causal: true };
    let candidate = |form| {
        let rewritten = Rewritten::of_form(form, Some(objective.clone()));
        Candidate {
            seed,
            program: drawn.program.clone(),
            traits,
            tolerance: if drawn.low_precision { 0.06 } else { 1e-4 },
            training: Some(training.clone()),
            compile: Box::new(move |kinds, options| {
                compile_rewritten(&rewritten, kinds, &AdamWOptions::default(), options)
            }),
        }
    };
    found.into_iter().map(candidate).collect()
}
