#!/usr/bin/env bash
# Gives every node what kind's nodes lack and lose when they are switched off: a bpf file system, and routes to the pods of
# all other nodes. From then on a node makes both itself when it starts, before its kubelet: its pods may be ready, and be
# called, before anybody else could. What is there already stays.
#
#   e2e/kind/nodes.sh CLUSTER CLUSTER…
#
# KUBECTL, NODE_EXEC     as for routes.sh
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
read -ra kubectl <<<"${KUBECTL:-kubectl}"
read -ra node_exec <<<"${NODE_EXEC:-docker exec}"

# Runs on a node, which has its routes: writes down what its start is to make again, and does it once.
# shellcheck disable=SC2016 # the node's variables
readonly REMEMBER='file=/kind/before-kubelet.sh
{
    echo "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf"
    for family in -4 -6; do
        ip $family route show | sed -n "s#^\([0-9a-f.:]*/[0-9]*\) via \([^ ]*\).*#ip $family route replace \1 via \2#p"
    done
} >$file
printf "[Service]\nExecStartPre=-/bin/sh %s\n" $file >/etc/systemd/system/kubelet.service.d/20-clustermesh.conf
sh $file'

"$(dirname "$0")/routes.sh" "$@"
for cluster in "$@"; do
    nodes=$("${kubectl[@]}" --context "kind-$cluster" get nodes --output name)
    for node in $nodes; do
        "${node_exec[@]}" "${node#node/}" sh -ec "$REMEMBER" </dev/null
    done
done
