#!/usr/bin/env bash
# Prints the path of a tool written in Go: the cache's, where Go builds it once, or the one on the PATH.
#
#   setup/tool.sh helm|kind|crictl|actionlint              builds it if none is there (needs Go)
#   setup/tool.sh helm|kind|crictl|actionlint --present    exits with 1 if none is there
#
# CLUSTERMESH_CACHE   where the cache is (default: ~/.cache/clustermesh)
set -euo pipefail

flags="-s -w"
case ${1:-} in
    helm)
        version=v3.22.0 package=helm.sh/helm/v3/cmd/helm time="5 to 20 minutes"
        flags+=" -X helm.sh/helm/v3/internal/version.version=$version"
        ;;
    kind) version=v0.33.0 package=sigs.k8s.io/kind time="half a minute" ;;
    crictl) version=v1.34.0 package=sigs.k8s.io/cri-tools/cmd/crictl time="a minute" ;;
    actionlint) version=v1.7.12 package=github.com/rhysd/actionlint/cmd/actionlint time="half a minute" ;;
    *)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
readonly name=$1
folder=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/$name/$version

# The cache first: what other versions render and complain about may differ.
if [ -x "$folder/$name" ]; then
    echo "$folder/$name"
    exit 0
fi
if command -v "$name"; then
    exit 0
fi
[ "${2:-}" != --present ] || exit 1
command -v go >/dev/null || {
    echo "setup: neither $name nor Go is here; install $name $version or Go (https://go.dev/dl), then run this again" >&2
    exit 1
}
echo "setup: building $name $version with Go ($time, once); it is kept in $folder" >&2
mkdir -p "$folder"
draft=$(mktemp -d "$folder/draft.XXXXXX")
trap 'rm -rf "$draft"' EXIT
# Elsewhere than in a module of ours, or its go.mod would have a say.
(cd / && CGO_ENABLED=0 GOBIN=$draft GOFLAGS=-mod=mod go install -trimpath -ldflags "$flags" "$package@$version") >&2
mv "$draft/$name" "$folder/$name"
echo "$folder/$name"
