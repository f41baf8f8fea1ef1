//! Random small architectures and random objectives, for whole-layer checks of the algebra: in the reference
//! evaluator here, and in native code in the tests of the runtime. It compiles and computes nothing.

pub mod architecture;
pub mod attention;
#[path = "../../../runtime/tests/support/numbers.rs"]
pub mod numbers;
pub mod objective;
