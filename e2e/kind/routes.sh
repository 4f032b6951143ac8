#!/usr/bin/env bash
# Routes the pods of every node on all other nodes, those of the other clusters among them: what the product asks of the
# network. Within a cluster the CNI makes the same routes, but after a node's start it may be later than the node's pods.
# Run it again after a node was added.
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

# What makes the routes on a node, a command each: the pods of every other node.
commands() {
    local here=$1 there node addresses ranges range
    for there in "${!nodes[@]}"; do
        while IFS='|' read -r node addresses ranges; do
            [ "$node" != "$here" ] || continue
            for range in $ranges; do
                # shellcheck disable=SC2086 # the addresses are separate words
                echo "ip $(family "$range") route replace $range via $(gateway "$range" $addresses)"
            done
        done <<<"${nodes[$there]}"
    done
}

declare -A nodes
for cluster in "$@"; do
    nodes[$cluster]=$(nodes_of "$cluster")
done
for cluster in "$@"; do
    count=0
    while IFS='|' read -r node _; do
        wanted=$(commands "$node")
        "${node_exec[@]}" "$node" sh -ec "$wanted" </dev/null
        count=$((count + $(wc -l <<<"$wanted")))
    done <<<"${nodes[$cluster]}"
    echo "routes: $count on nodes of $cluster"
done
