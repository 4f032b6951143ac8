#!/usr/bin/env bash
# Routes the pods of each cluster on the nodes of the others: what the product asks of the network. Run it again after a
# node was added.
#
#   e2e/kind/routes.sh CLUSTER CLUSTER…
#
# KUBECTL     the kubectl to ask, with the contexts kind-CLUSTER (default: kubectl)
# NODE_EXEC   runs a command on a node, whose name follows it (default: docker exec)
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
read -ra kubectl <<<"${KUBECTL:-kubectl}"
read -ra node_exec <<<"${NODE_EXEC:-docker exec}"

# A line per node: name|addresses|pod ranges.
readonly COLUMNS_OF_NODES='{range .items[*]}{.metadata.name}{"|"}{range .status.addresses[?(@.type=="InternalIP")]}{.address}{" "}{end}{"|"}{range .spec.podCIDRs[*]}{@}{" "}{end}{"\n"}{end}'

nodes_of() {
    local lines
    lines=$("${kubectl[@]}" --context "kind-$1" get nodes --output "jsonpath=$COLUMNS_OF_NODES")
    # A range that the controller manager hasn't given yet would be missing for ever.
    if [ -z "$lines" ] || grep -qE '\|( *)$|\|\|' <<<"$lines"; then
        echo "routes: not every node of $1 has an address and a pod range yet; wait for the nodes to be Ready:" >&2
        printf '%s\n' "$lines" >&2
        return 1
    fi
    echo "$lines"
}

family() { if [[ $1 == *:* ]]; then echo -6; else echo -4; fi; }

# The node's address of the same family as the range.
gateway() {
    local range=$1 address
    for address in "${@:2}"; do
        if [ "$(family "$address")" = "$(family "$range")" ]; then
            echo "$address"
            return
        fi
    done
    echo "routes: no address of the family of $range among: ${*:2}" >&2
    return 1
}

# On every node of $1: the pods of every node of $2.
route() {
    local here=$1 there=$2 node addresses ranges range via count=0
    while IFS='|' read -r _ addresses ranges; do
        for range in $ranges; do
            # shellcheck disable=SC2086 # the addresses are separate words
            via=$(gateway "$range" $addresses)
            while IFS='|' read -r node _; do
                "${node_exec[@]}" "$node" ip "$(family "$range")" route replace "$range" via "$via" </dev/null
                count=$((count + 1))
            done <<<"${nodes[$here]}"
        done
    done <<<"${nodes[$there]}"
    echo "routes: $count from nodes of $here to pods of $there"
}

declare -A nodes
for cluster in "$@"; do
    nodes[$cluster]=$(nodes_of "$cluster")
done
for here in "$@"; do
    for there in "$@"; do
        [ "$here" = "$there" ] || route "$here" "$there"
    done
done
