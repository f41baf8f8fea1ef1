//! Random small architectures and random objectives, for whole-layer checks of the algebra: in the reference
//! evaluator here, and in native code in the tests of the runtime. It compiles and computes nothing.

pub mod architecture;
pub mod attention;
// Tests of the runtime include this folder beside their own support.
#[allow(clippy::duplicate_mod)]
#[path = "../../../runtime/tests/support/numbers.rs"]
pub mod numbers;
pub mod objective;
