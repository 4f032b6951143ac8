#!/usr/bin/env bash
# Boots the oldest kernel of the matrix that has to load the programs and can be had here, and loads them there, if the eBPF
# object is another than the last one that passed here; half a minute. Where qemu or the kernels can't be had it says so by name.
set -euo pipefail

cd "$(dirname "$0")/../.."
kernels=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/kernels
digest=$(cat ebpf/object/mesh.bpf.o node-agent/tests/verifier.rs | sha256sum | cut -d' ' -f1)
mapfile -t loading < <(awk '$2 == "loads" { print $1 }' e2e/kernels/matrix)

for kernel in "${loading[@]}"; do
    if [ "$(cat "$kernels/$kernel/passed" 2>/dev/null)" = "$digest" ]; then
        echo "kernels: the object is the one that has passed on Linux $kernel"
        exit 0
    fi
done
setup/deps.sh build kernels || loading=()
for kernel in "${loading[@]}"; do
    e2e/kernels/kernel.sh "$kernel" >/dev/null || continue
    cargo build --locked -p node-agent --bins
    GUEST_SECONDS=180 e2e/kernels/test.sh --load "$kernel"
    echo "$digest" >"$kernels/$kernel/passed"
    exit 0
done
echo "kernels: NOT RUN: the programs on an old kernel (qemu or the kernels can't be had, see above)"
