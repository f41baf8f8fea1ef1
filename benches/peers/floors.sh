#!/usr/bin/env bash
# Diptych's speed against floors that no peer gives: decoding against the memory's bandwidth in the same run,
# compile time against depth, kernels against their predictions. compare.py has the peers.
#   benches/peers/floors.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-3}
cargo build --release --quiet -p diptych-runtime -p diptych-cost --examples
for _ in $(seq "$rounds"); do
  ./target/release/examples/decode_speed --model llama-135m --threads 2
done
./target/release/examples/compile_speed
./target/release/examples/predicted | tail -n 12
