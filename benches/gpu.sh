#!/usr/bin/env bash
# For a day when a GPU can be had: are Diptych's kernels right there, and how fast are they?
#   benches/gpu.sh [--device cuda:0] [--small] [--binary FILE] [--python FILE] [--out FOLDER] [ARGUMENT...]
# 1. Entries of gpt2, llama and mla run against the reference evaluator (f64), and bits of score, prefill and decode are
#    compared in batches of 1 to 9.
# 2. Kernels of a large Llama are timed against their roofline, and whole steps.
# 3. PyTorch is timed at the same products and attention, where it is there with CUDA.
# 4. One table of it all is printed, and written into FOLDER (gpu-bench, or the first free of gpu-bench-2, …).
# --binary takes a program that is built already ($DIPTYCH does so, too); --python one whose PyTorch has CUDA ($PYTHON,
# python3); benches/peers/requirements-gpu.txt pins its version. ARGUMENTs go to `diptych bench --kernels`, such as
# --target FILE or --model PRESET. On virtual:sm_80, sm_90a and sm_100a, with --small, all but PyTorch runs without a GPU;
# times then say nothing. The exit code is 0 only if something was compared and all of it is right.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
device=cuda:0 small=() binary=${DIPTYCH:-} python=${PYTHON:-python3} out= rest=()

usage() { sed -n '2,3p' "$0" | cut -c3- >&2; exit 2; }
value() { [ $# -ge 2 ] || { echo "gpu.sh: $1 needs a value" >&2; usage; }; }
while [ $# -gt 0 ]; do
  case $1 in
    --device) value "$@"; device=$2; shift 2 ;;
    --binary) value "$@"; binary=$2; shift 2 ;;
    --python) value "$@"; python=$2; shift 2 ;;
    --out) value "$@"; out=$2; shift 2 ;;
    --small) small=(--small); shift ;;
    -h | --help) usage ;;
    *) rest+=("$1"); shift ;;
  esac
done

if [ -z "$binary" ]; then
  command -v cargo >/dev/null || { echo "gpu.sh: no cargo to build with; name a built program with --binary" >&2; exit 2; }
  packages=(-p diptych)
  case $device in virtual:*) packages+=(-p diptych-virtual-driver) ;; esac
  (cd "$here/.." && cargo build --release --quiet "${packages[@]}")
  binary=${CARGO_TARGET_DIR:-$here/../target}/release/diptych
fi
[ -x "$binary" ] || { echo "gpu.sh: $binary is no program that can be run" >&2; exit 2; }

if [ -z "$out" ]; then
  out=gpu-bench
  for ((number = 2; ; number++)); do
    [ -e "$out" ] || break
    out=gpu-bench-$number
  done
elif [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
  echo "gpu.sh: $out exists and is not empty; name another folder" >&2
  exit 2
fi

bench=("$binary" bench --kernels --device "$device" "${small[@]}" "${rest[@]}")
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

# What PyTorch is to time. It fails first where there is no GPU, no driver or no NVRTC, and says what is missing.
"${bench[@]}" --shapes "$scratch/shapes.json"
skip() { # REASON
  echo "gpu.sh: PyTorch is not timed: $1" >&2
  printf '{"about": "Not timed: %s."}\n' "$1" >"$scratch/peer.json"
}
case $device in
  virtual:*) skip "it does not run on a virtual GPU" ;;
  *)
    if ! command -v "$python" >/dev/null; then
      skip "there is no $python"
    elif ! "$python" "$here/peers/gpu_torch.py" "$device" "$scratch/shapes.json" "$scratch/peer.json"; then
      [ -s "$scratch/peer.json" ] || skip "benches/peers/gpu_torch.py failed"
    fi
    ;;
esac
"${bench[@]}" --peer-times "$scratch/peer.json" --out "$out"
