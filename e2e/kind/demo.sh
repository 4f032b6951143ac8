#!/usr/bin/env bash
# From nothing to the story's table on two kind clusters, and back to nothing: clusters, engine, files and settings.
#
#   e2e/kind/demo.sh [FLAGS OF demo-kube]
#
# KEEP=1   leaves the clusters up (make kind-clean removes them)
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly INOTIFY=/proc/sys/fs/inotify/max_user_instances WANTED=1024
had=$(cat "$INOTIFY")

finish() {
    local status=$?
    trap - EXIT
    if [ -z "${KEEP:-}" ]; then
        e2e/kind/down.sh >&2 || status=1
        # Only what this has changed, if nobody else has changed it since.
        [ "$had" -ge "$WANTED" ] || [ "$(cat "$INOTIFY")" != "$WANTED" ] || echo "$had" >"$INOTIFY"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$had" -lt "$WANTED" ]; then
    echo "kind: fs.inotify.max_user_instances is $had; it is $WANTED while the clusters are up" >&2
    echo "$WANTED" >"$INOTIFY"
fi
e2e/kind/prepare.sh
e2e/kind/engine.sh run target/debug/demo-kube --kind "$@"
