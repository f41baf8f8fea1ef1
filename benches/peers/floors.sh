#!/usr/bin/env bash
# The floors for speed, side by side in one run: training steps of Diptych and of
# PyTorch eager in turn, decoding against the memory's bandwidth, compile time
# against depth. Needs the environment of setup.sh.
#   benches/peers/floors.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
home=${PEERS_HOME:-$HOME/.cache/diptych-peers}
rounds=${1:-3}
cargo build --release --quiet -p diptych-runtime -p diptych-cost --examples
for _ in $(seq "$rounds"); do
  ./target/release/examples/train_speed --steps 6 --threads 2 2>/dev/null
  env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE "$home/venv/bin/python" benches/peers/train_torch.py --threads 2
done
for _ in $(seq "$rounds"); do
  ./target/release/examples/decode_speed --model llama-135m --threads 2
done
./target/release/examples/compile_speed
./target/release/examples/predicted | tail -n 12
