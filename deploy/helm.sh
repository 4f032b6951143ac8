#!/usr/bin/env bash
# Prints the path of a helm: the one on the PATH, or of the cache, where Go builds it once.
#
#   deploy/helm.sh              builds one if none is there (some minutes; needs Go)
#   deploy/helm.sh --present    exits with 1 if none is there
set -euo pipefail

readonly VERSION=v3.22.0
folder=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/helm/$VERSION

# The cache first: renderings of other versions may differ in blanks.
if [ -x "$folder/helm" ]; then
    echo "$folder/helm"
    exit 0
fi
if command -v helm >/dev/null && [[ "$(helm version --short 2>/dev/null)" == v3.* ]]; then
    command -v helm
    exit 0
fi
[ "${1:-}" != --present ] || exit 1
command -v go >/dev/null || {
    echo "deploy/helm.sh: neither helm nor Go is here; install Helm $VERSION or Go, then run this again" >&2
    exit 1
}
echo "deploy/helm.sh: building helm $VERSION into $folder (some minutes, once)" >&2
mkdir -p "$folder"
building=$(mktemp -d "$folder/building.XXXXXX")
trap 'rm -rf "$building"' EXIT
(cd / && CGO_ENABLED=0 GOBIN=$building go install -trimpath \
    -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$VERSION" "helm.sh/helm/v3/cmd/helm@$VERSION") >&2
mv "$building/helm" "$folder/helm"
echo "$folder/helm"
