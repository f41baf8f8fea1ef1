#!/usr/bin/env bash
# Installs what compiles kernels for NVIDIA GPUs and takes them apart, in pinned versions: NVRTC and nvdisasm, from
# NVIDIA's Python packages (their licences are beside them). Neither a GPU nor a driver is needed for that.
#   setup/cuda.sh           into $DIPTYCH_CACHE/cuda, else $XDG_CACHE_HOME/diptych/cuda, else ~/.cache/diptych/cuda,
#                           where Diptych looks by itself
#   setup/cuda.sh FOLDER    into a folder of your own: set DIPTYCH_CUDA to it
#   --cuda 12|13            of which CUDA: a driver runs code of its own major version and of older ones. Without it, what
#                           the driver at hand runs, by nvidia-smi; 13 where there is none
# 65 MB are downloaded, 155 MB installed (95 and 225 of CUDA 12). Running it again does only what is missing. It changes nothing outside the
# folder, and the folder is never half filled: all is made beside it and then renamed.
set -euo pipefail

fail() { printf 'cuda.sh: %s\n' "$@" >&2; exit 2; }

cuda=
folders=()
while [ $# -gt 0 ]; do
  case $1 in
    --cuda) [ $# -gt 1 ] || fail "--cuda names 12 or 13"; cuda=$2; shift ;;
    --cuda=*) cuda=${1#--cuda=} ;;
    -*) fail "there is no option $1: setup/cuda.sh [--cuda 12|13] [FOLDER]" ;;
    *) folders+=("$1") ;;
  esac
  shift
done
if [ -z "$cuda" ]; then
  cuda=13
  if told=$(nvidia-smi 2>/dev/null) && [[ $told =~ CUDA\ Version:\ *([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -lt 13 ]; then
    cuda=12
    echo "the driver is of CUDA ${BASH_REMATCH[1]}: it runs no code of CUDA 13"
  fi
fi
# One nvdisasm takes apart what either makes.
case $cuda in
  12) packages=(nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvdisasm==13.5.37) ;;
  13) packages=(nvidia-cuda-nvrtc==13.5.37 nvidia-cuda-nvdisasm==13.5.37) ;;
  *) fail "there is CUDA 12 and 13 here, not $cuda" ;;
esac

[ ${#folders[@]} -le 1 ] || fail "one folder at most, not ${#folders[@]}: setup/cuda.sh [--cuda 12|13] [FOLDER]"
if [ ${#folders[@]} = 1 ]; then
  folder=${folders[0]}
elif [ -n "${DIPTYCH_CACHE:-}" ]; then
  folder=$DIPTYCH_CACHE/cuda
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
  folder=$XDG_CACHE_HOME/diptych/cuda
elif [ -n "${HOME:-}" ]; then
  folder=$HOME/.cache/diptych/cuda
else
  fail "none of DIPTYCH_CACHE, XDG_CACHE_HOME and HOME is set: name a folder"
fi
folder=${folder%/}
[ -n "$folder" ] || fail "'${folders[0]}' is no folder to install into"

# `versions` is written last, so a folder that has it is whole.
versions=$(printf '%s\n' "${packages[@]}")
is_installed() { [ "$(cat "$folder/versions" 2>/dev/null)" = "$versions" ]; }
if is_installed; then
  echo "already in $folder: ${packages[*]}"
  exit 0
fi
if [ -e "$folder" ] && [ ! -e "$folder/versions" ] && [ -n "$(ls -A "$folder" 2>/dev/null || echo a file)" ]; then
  fail "$folder holds what this script did not install there: name an empty folder, or one that is not there"
fi

case $(uname -s)-$(uname -m) in
  Linux-x86_64 | Linux-aarch64) ;;
  *) fail "there are packages for Linux on x86_64 and aarch64 only, this is $(uname -sm)" ;;
esac
command -v python3 >/dev/null ||
  fail "python3 is missing, whose pip fetches the packages (Debian: apt-get install python3 python3-pip)"

mkdir -p "$(dirname "$folder")"
staging=$(mktemp -d "$folder.partial.XXXXXX")
trap 'rm -rf "$staging"' EXIT
trap 'exit 130' INT TERM HUP

python=python3
if ! python3 -m pip --version >/dev/null 2>&1; then
  # An interpreter without pip may still be able to make an environment that has one.
  python3 -m venv "$staging/environment" >/dev/null 2>&1 ||
    fail "python3 has no pip, which fetches the packages, and cannot make an environment that has it" \
      "(Debian: apt-get install python3-pip; elsewhere: python3 -m ensurepip --user)"
  python=$staging/environment/bin/python
fi

echo "installing ${packages[*]} into $folder"
# A user's settings of pip may ask for what cannot go together with a folder.
PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
  "$python" -m pip install --quiet --no-deps --no-compile --no-cache-dir --only-binary :all: \
  --target "$staging/packages" "${packages[@]}" ||
  fail "pip could not install ${packages[*]} (above is why); nothing was changed"

# The packages lay their files out as CUDA does, below nvidia/cu13, or nvidia/cuda_nvrtc.
mkdir "$staging/cuda"
for package in "$staging"/packages/nvidia/cu*/; do
  cp -R "$package." "$staging/cuda/"
done
mv "$staging"/packages/*.dist-info "$staging/cuda/"
for file in "lib/libnvrtc.so.$cuda" bin/nvdisasm; do
  [ -s "$staging/cuda/$file" ] || fail "$file is in none of ${packages[*]}; nothing was changed"
done
"$staging/cuda/bin/nvdisasm" --version >/dev/null || fail "nvdisasm does not run on this machine; nothing was changed"
printf '%s\n' "$versions" >"$staging/cuda/versions"

if [ -e "$folder" ]; then mv -T "$folder" "$staging/before"; fi
if ! mv -T "$staging/cuda" "$folder" 2>/dev/null; then
  # Another run may have been faster.
  is_installed || fail "$folder could not be written"
fi
echo "installed in $folder"
