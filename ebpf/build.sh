#!/bin/sh
# Rebuilds ebpf/object/mesh.bpf.o and its lock file from ebpf/programs and ebpf/abi.
set -eu
EBPF=$(cd "$(dirname "$0")" && pwd)
. "$EBPF/toolchain.sh"

find_toolchain || { say_missing; exit 1; }
mkdir -p "$EBPF/object"
OBJECT=$EBPF/object/mesh.bpf.o
build_object "$OBJECT.new"
mv "$OBJECT.new" "$OBJECT"
{
    echo "# Written by ebpf/build.sh; compared by ebpf/check.sh."
    echo "sources $(source_digest)"
    echo "object $(sha256sum "$OBJECT" | cut -d' ' -f1)"
    echo "$VERSIONS"
} > "$EBPF/object/mesh.bpf.lock"
echo "ebpf: built $(stat -c %s "$OBJECT") bytes"
