#!/usr/bin/env bash
# Sees to it that docker has an image for kind's nodes; prints its name.
#
# KIND_NODE_IMAGE   a name: that image; "built": the one that build.sh makes. By default kind's published image where
#                   it can be reached, and the built one elsewhere
set -euo pipefail

cd "$(dirname "$0")"
say() { echo "kind: $*" >&2; }

# What kind takes by itself stands in its program.
published() {
    local name
    # Out of our own engine no way leads.
    [ "${KIND_ENGINE:-}" != own ] || return 1
    name=$(grep -aoE 'kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}' "$(../../../setup/tool.sh kind)" | head -n 1)
    docker image inspect "$name" >/dev/null 2>&1 || docker pull --quiet "$name" >&2 || return 1
    echo "$name"
}

built() {
    local archive name
    archive=$(./build.sh)
    name=lab.local/kind-node:$(basename "$(dirname "$archive")")
    if ! docker image inspect "$name" >/dev/null 2>&1; then
        docker import "$archive" "$name-root" >/dev/null
        DOCKER_BUILDKIT=0 docker build --quiet --tag "$name" - >/dev/null <<E2
FROM $name-root
# How systemd knows that it is in a container, and what ends it.
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
E2
    fi
    echo "$name"
}

case ${KIND_NODE_IMAGE:-} in
    '') published || { say "kind's published node image can't be had here; making one"; built; } ;;
    built) built ;;
    *) echo "$KIND_NODE_IMAGE" ;;
esac
