//! Random programs against the reference evaluator: what the test of every
//! commit and the longer search (example `fuzz`) share. It must not know how a
//! program is compiled, beyond what a session's user knows.

// Few of the tests that share this folder draw architectures.
#[allow(dead_code)]
pub mod architectures;
pub mod blocks;
pub mod check;
pub mod experts;
#[allow(clippy::duplicate_mod)]
pub mod numbers;
pub mod programs;
#[allow(dead_code)]
#[path = "../../../passes/tests/random/mod.rs"]
pub mod random;
pub mod reference;
pub mod run;
pub mod serving;
pub mod update;
