#!/usr/bin/env bash
# Builds and fetches everything that the clusters need and that cannot be fetched where our own Docker is, out of whose
# network no way leads. What is there already stays.
set -euo pipefail

cd "$(dirname "$0")/../.."
setup/tool.sh kind >/dev/null
setup/tool.sh helm >/dev/null
PROFILE=${PROFILE:-dev} deploy/images/roots.sh clustermesh-apiserver node-agent lab >/dev/null
# A daemon of the machine's own may have kind's published image, or fetch it: load.sh sees.
if [ "${KIND_NODE_IMAGE:-built}" = built ] && ! docker info >/dev/null 2>&1; then
    e2e/kind/image/build.sh >/dev/null
fi
