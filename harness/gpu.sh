#!/usr/bin/env bash
# Makes a bundle to carry to a machine with an NVIDIA GPU that has neither Rust nor a network: convbench with its GPU
# kernels in one file (layers of networks are inside), and the script that verifies and measures there.
#
#   harness/gpu.sh [DIR]        the bundle is DIR (target/gpu-bundle by default) and DIR.tar.gz
#
# There: the driver, NVRTC (libnvrtc of CUDA 12 or 13; a wheel of PyTorch brings it) and, to compare with, cuDNN 9.
#
#   ./run.sh --minutes 2        or 10; ./run.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=${1:-target/gpu-bundle}

cargo build --release -p harness --features cuda --bin convbench

rm -rf "$bundle" "$bundle.tar.gz"
mkdir -p "$bundle"
cp "${CARGO_TARGET_DIR:-target}/release/convbench" "$bundle/"
strip --strip-debug "$bundle/convbench" 2>/dev/null || true
cp harness/gpu_run.sh "$bundle/run.sh"
chmod +x "$bundle/run.sh"
cp METHODOLOGY.md LICENSE-MIT LICENSE-APACHE "$bundle/"
git rev-parse HEAD >"$bundle/REVISION" 2>/dev/null || true
tar -czf "$bundle.tar.gz" -C "$(dirname "$bundle")" "$(basename "$bundle")"

# What the file asks of the C library there.
if command -v objdump >/dev/null; then
    echo "needs $(objdump -T "$bundle/convbench" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1) or newer"
fi
du -sh "$bundle.tar.gz"
