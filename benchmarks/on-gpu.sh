#!/usr/bin/env bash
# The hardware check, on a machine with a GPU: run from the repository with what benchmarks/carry.py built in .carry/.
# Needs python3 with PyTorch and Triton, and CUDA's nvcc and NVRTC. Writes into $OUT; takes at most MINUTES.
#
#     OUT=results MINUTES=9 benchmarks/on-gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?folder for the results}"
mkdir -p "$OUT"
OUT=$(realpath "$OUT")

# Everything that is unpacked or compiled stays outside of the repository.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for part in ours oracle peers; do
  python3 -m tarfile --extract ".carry/$part.tar.xz" "$work/$part"
done
export PYTHONPATH="$work/peers${PYTHONPATH:+:$PYTHONPATH}"
export TRITON_CACHE_DIR="$work/triton" TILELANG_CACHE_DIR="$work/tilelang" XDG_CACHE_HOME="$work/cache"
if [ -z "${CUDA_HOME:-}" ]; then
  compiler=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$compiler")")")
  export CUDA_HOME
fi

status=0
"$work/ours/gdn2" hardware-check --device cuda:0 --minutes "${MINUTES:-9}" --out "$OUT" \
  --cases "$work/oracle" tests/cases --library "$work/ours/libgdn2_c.so" "$@" || status=$?

# PyTorch's tensors on the GPU through the package of python/.
cd python
GDN2_LIBRARY="$work/ours/libgdn2_c.so" python3 -m unittest --verbose tests.test_gdn2 tests.test_ops >"$OUT/python.txt" 2>&1 || status=$?
exit "$status"
