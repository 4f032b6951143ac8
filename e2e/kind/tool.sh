#!/usr/bin/env bash
# Prints the path of a kind: the one on the PATH, or of the cache, where Go builds it once.
#
#   e2e/kind/tool.sh              builds one if none is there (half a minute; needs Go)
#   e2e/kind/tool.sh --present    exits with 1 if none is there
set -euo pipefail

readonly VERSION=v0.33.0
folder=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/kind/$VERSION

if [ -x "$folder/kind" ]; then
    echo "$folder/kind"
    exit 0
fi
if command -v kind; then
    exit 0
fi
[ "${1:-}" != --present ] || exit 1
command -v go >/dev/null || {
    echo "e2e/kind/tool.sh: neither kind nor Go is here; install kind $VERSION or Go, then run this again" >&2
    exit 1
}
echo "e2e/kind/tool.sh: building kind $VERSION into $folder (half a minute, once)" >&2
mkdir -p "$folder"
building=$(mktemp -d "$folder/building.XXXXXX")
trap 'rm -rf "$building"' EXIT
(cd / && CGO_ENABLED=0 GOBIN=$building go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kind@$VERSION") >&2
mv "$building/kind" "$folder/kind"
echo "$folder/kind"
