#!/usr/bin/env bash
# Packages the chart of a release, whose images come from a registry.
#
#   deploy/chart/package.sh VERSION REGISTRY FOLDER
set -euo pipefail

[ $# = 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
readonly version=$1 registry=$2 folder=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
helm=$("$root/setup/tool.sh" helm)
mkdir -p "$folder"
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT

cp -r "$root/deploy/chart/clustermesh" "$draft/"
sed -i "s#^  registry: \"\"\$#  registry: $registry#" "$draft/clustermesh/values.yaml"
"$helm" package "$draft/clustermesh" --version "$version" --app-version "$version" --destination "$folder"

# That the package names the images of this release.
rendered=$("$helm" template clustermesh "$folder/clustermesh-$version.tgz" --kube-version 1.34.0 \
    --values "$root/deploy/chart/cases/minimal.yaml")
for image in clustermesh-apiserver node-agent; do
    grep -qF "image: $registry/clustermesh/$image:$version" <<<"$rendered" || {
        echo "package: the chart does not name $registry/clustermesh/$image:$version" >&2
        exit 1
    }
done
