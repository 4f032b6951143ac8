#!/usr/bin/env bash
# Checks the configurations of the clusters without a container engine: kind itself parses and validates them, and gets so far
# as to start the nodes, with a docker that only writes down what it is asked. What can't be checked here is said by name.
set -euo pipefail

cd "$(dirname "$0")"
kind=$(../../setup/tool.sh kind --present) || {
    echo "lint: NOT CHECKED: the configurations of kind (no kind here; setup/tool.sh kind builds one)"
    exit 0
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/docker" <<'E2'
#!/bin/sh
echo "$*" >>"$(dirname "$0")/asked"
case $1 in
    info) echo '{"CgroupDriver":"systemd","CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true}' ;;
    # kind starts all nodes at once and gives up at the first that fails: none fails before all are asked for.
    run)
        for _ in $(seq 100); do
            [ "$(grep -c '^run ' "$(dirname "$0")/asked")" -lt "$WANTED" ] || break
            sleep 0.1
        done
        exit 1
        ;;
esac
E2
chmod +x "$scratch/docker"

# What kind says of a configuration of $2 nodes; it always ends with a node that could not be started.
create() {
    rm -f "$scratch/asked"
    PATH=$scratch:$PATH KIND_EXPERIMENTAL_PROVIDER=docker WANTED=$2 \
        "$kind" create cluster --config "$1" --kubeconfig "$scratch/kubeconfig" 2>&1 || true
}

failed=0
for config in hoth.yaml yavin.yaml; do
    wanted=$(grep -c '^- role:' "$config")
    said=$(create "$config" "$wanted")
    started=$(grep -c "^run --name ${config%.yaml}-" "$scratch/asked" || true)
    if [ "$started" != "$wanted" ]; then
        echo "e2e/kind: kind would start $started instead of $wanted nodes for $config: $said" >&2
        failed=1
    fi
done

# That kind would have complained.
{ cat hoth.yaml; echo "colour: white"; } >"$scratch/wrong.yaml"
said=$(create "$scratch/wrong.yaml" 1)
if [ -e "$scratch/asked" ] && grep -q '^run ' "$scratch/asked"; then
    echo "e2e/kind: kind takes an unknown field: $said" >&2
    failed=1
fi

[ "$failed" = 0 ] || exit 1
echo "e2e/kind: kind takes hoth.yaml and yavin.yaml"
