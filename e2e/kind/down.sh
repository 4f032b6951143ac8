#!/usr/bin/env bash
# Removes the clusters of e2e/kind/up.sh, and what it wrote.
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly STATE=${KIND_STATE:-target/kind}
kind=$(setup/tool.sh kind --present) || {
    echo "kind: no kind here, so no clusters either" >&2
    exit 0
}
"$kind" delete clusters hoth yavin
rm -rf "$STATE"
