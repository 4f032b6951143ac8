#!/usr/bin/env bash
# Gives every node what kind's nodes lack and lose when they are switched off: a bpf file system, and routes to the pods of
# the other clusters. What is there already stays.
#
#   e2e/kind/nodes.sh CLUSTER CLUSTER…
#
# KUBECTL, NODE_EXEC     as for routes.sh
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
read -ra kubectl <<<"${KUBECTL:-kubectl}"
read -ra node_exec <<<"${NODE_EXEC:-docker exec}"

for cluster in "$@"; do
    nodes=$("${kubectl[@]}" --context "kind-$cluster" get nodes --output name)
    for node in $nodes; do
        "${node_exec[@]}" "${node#node/}" sh -c 'mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf' </dev/null
    done
done
"$(dirname "$0")/routes.sh" "$@"
