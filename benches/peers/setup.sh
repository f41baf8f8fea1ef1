#!/bin/bash
# Installs the peers that Diptych is measured against, in pinned versions, as a Python environment
# $PEERS_HOME/venv (default ~/.cache/diptych-peers/venv). Running it again does only what is missing.
# It needs Linux, Python 3.11 or later, gcc and binutils; it changes nothing outside $PEERS_HOME.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${PEERS_HOME:-$HOME/.cache/diptych-peers}
torch=2.15.0

for tool in python3 gcc readelf nm; do
  command -v "$tool" >/dev/null || { echo "setup.sh: $tool is missing (Debian: python3-venv, gcc, binutils)" >&2; exit 2; }
done
mkdir -p "$home"
[ -x "$home/venv/bin/python" ] || python3 -m venv "$home/venv"
python=$home/venv/bin/python

"$python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt"
# torch's package depends on 2.5 GB of CUDA libraries that a CPU never calls, but that must be there to load it.
installed=$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
[ "$installed" = "$torch" ] || "$python" -m pip install -q --disable-pip-version-check --no-deps "torch==$torch"
"$python" -c 'import torch' 2>/dev/null || "$python" "$here/torch_without_cuda.py"
"$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__, "in", __import__("sys").prefix)'
