#!/usr/bin/env bash
# Removes the clusters of e2e/kind/up.sh, what it wrote, and our own Docker, if that is where they were.
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly STATE=${KIND_STATE:-target/kind}
# Our own Docker takes all that it has with it.
if [ ! -d "$STATE/engine" ] && docker info >/dev/null 2>&1 && kind=$(setup/tool.sh kind --present); then
    "$kind" delete clusters hoth yavin
fi
e2e/kind/engine.sh stop
rm -rf --one-file-system "$STATE"
