#!/bin/sh
# Checks that the object in ebpf/object is the one that the sources make. The digest of the sources is always
# compared; the bytes only where exactly the versions of the lock file are installed, and it says so where not.
set -eu
EBPF=$(cd "$(dirname "$0")" && pwd)
. "$EBPF/toolchain.sh"

LOCK=$EBPF/object/mesh.bpf.lock
OBJECT=$EBPF/object/mesh.bpf.o
locked() { sed -n "s/^$1 //p" "$LOCK"; }

if [ "$(source_digest)" != "$(locked sources)" ]; then
    echo "ebpf: the sources have changed since the object was built: run 'make ebpf' and commit ebpf/object" >&2
    exit 1
fi
if [ "$(sha256sum "$OBJECT" | cut -d' ' -f1)" != "$(locked object)" ]; then
    echo "ebpf: ebpf/object/mesh.bpf.o is not the object of its lock file: run 'make ebpf'" >&2
    exit 1
fi
if ! find_toolchain 2>/dev/null; then
    echo "ebpf: sources and object match their lock file; bytes not compared: no toolchain to rebuild with"
    exit 0
fi
if [ "$VERSIONS" != "$(grep -v -e '^#' -e '^sources ' -e '^object ' "$LOCK")" ]; then
    echo "ebpf: sources and object match their lock file; bytes not compared: other versions are installed"
    exit 0
fi
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
build_object "$SCRATCH/mesh.bpf.o" "$SCRATCH/target"
if ! cmp -s "$SCRATCH/mesh.bpf.o" "$OBJECT"; then
    echo "ebpf: rebuilt with the same versions, the object differs: run 'make ebpf' and commit ebpf/object" >&2
    exit 1
fi
echo "ebpf: sources and object match their lock file, and a rebuild gave the same bytes"
