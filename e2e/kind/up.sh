#!/usr/bin/env bash
# Two kind clusters that can reach each other's pods, with the chart installed: strangers, until `clustermesh join`. Needs a
# docker that answers (engine.sh run) and kubectl; kind and helm are built by Go where they are missing. What is there
# already is used.
#
#   e2e/kind/up.sh         the last line on standard output is the kubeconfig's path
#
# KIND_NODE_IMAGE   as for image/load.sh
# PROFILE           of cargo, for the images: dev (default) or release
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly STATE=${KIND_STATE:-target/kind} NAMESPACE=clustermesh NODE_PORT=32379
declare -A IDS=([hoth]=1 [yavin]=2)
readonly CLUSTERS=(hoth yavin)
export KUBECONFIG=$PWD/$STATE/kubeconfig NAMESPACE REGISTRY=lab.local TAG=dev PROFILE=${PROFILE:-dev}
# The nodes of both clusters use some 110; each container engine and its like has a few, too.
readonly INOTIFY=/proc/sys/fs/inotify/max_user_instances INOTIFY_WANTED=256

say() { echo "kind: $*" >&2; }

need() {
    local missing=()
    docker info >/dev/null 2>&1 || missing+=("a docker daemon that answers (docker info)")
    command -v kubectl >/dev/null || missing+=(kubectl)
    [ "$(cat "$INOTIFY")" -ge "$INOTIFY_WANTED" ] ||
        missing+=("inotify instances: $(cat "$INOTIFY") per user, and two clusters want $INOTIFY_WANTED: sysctl fs.inotify.max_user_instances=1024")
    [ ${#missing[@]} -eq 0 ] || {
        say "this machine lacks:"
        printf '  - %s\n' "${missing[@]}" >&2
        exit 1
    }
}

# Where a node has cgroup v2: its own cgroup is the root of what it sees, which on hybrid hosts is below the legacy ones.
cgroup_root() {
    local place
    # shellcheck disable=SC2016 # awk's variables
    place=$(docker exec "$1" awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    [ -n "$place" ] || {
        say "node $1 has no cgroup v2 mounted, and eBPF is attached to nothing else: boot this machine with systemd.unified_cgroup_hierarchy=1"
        return 1
    }
    echo "$place"
}

create() {
    local cluster=$1
    if ! "$kind" get clusters 2>/dev/null | grep -qx "$cluster"; then
        "$kind" create cluster --config "e2e/kind/$cluster.yaml" --image "$node_image" \
            --kubeconfig "$KUBECONFIG" --wait 3m >&2
    fi
}

load() {
    local cluster=$1 image
    for image in "$REGISTRY"/clustermesh/{clustermesh-apiserver,node-agent}:"$TAG" "$REGISTRY/lab:$TAG"; do
        "$kind" load docker-image --name "$cluster" "$image" >&2
    done
}

values() {
    local cluster=$1 root
    root=$(cgroup_root "$1-worker")
    cat <<E2
cluster: {name: $cluster, id: ${IDS[$cluster]}, podCidrs: [10.${IDS[$cluster]}.0.0/16]}
images: {registry: $REGISTRY, tag: $TAG}
exposure: {type: NodePort, nodePort: $NODE_PORT}
agent: {cgroupRoot: $root}
# Beside Kubernetes' own, so that the workers have nothing that there is only once.
etcd:
  nodeSelector: {node-role.kubernetes.io/control-plane: ""}
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
E2
}

install() {
    local cluster=$1
    local kubectl=(kubectl --context "kind-$cluster")
    "${kubectl[@]}" create namespace "$NAMESPACE" --dry-run=client --output yaml | "${kubectl[@]}" apply -f - >&2
    "${kubectl[@]}" label --overwrite namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=privileged >&2
    values "$cluster" >"$STATE/$cluster-values.yaml"
    "$helm" upgrade --install clustermesh deploy/chart/clustermesh --kube-context "kind-$cluster" \
        --namespace "$NAMESPACE" --values "$STATE/$cluster-values.yaml" --wait --timeout 5m >&2
}

need
mkdir -p "$STATE"
kind=$(setup/tool.sh kind)
helm=$(setup/tool.sh helm)
say "building images"
# kind cannot load an image that comes with attestations.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
deploy/images/build.sh clustermesh-apiserver node-agent lab >&2
# The story calls it by the name that it has in the Kubernetes lab.
docker tag "$REGISTRY/clustermesh/lab:$TAG" "$REGISTRY/lab:$TAG"
node_image=$(e2e/kind/image/load.sh)
for cluster in "${CLUSTERS[@]}"; do
    say "creating cluster $cluster"
    create "$cluster"
    load "$cluster"
done
e2e/kind/nodes.sh "${CLUSTERS[@]}" >&2
say "installing the chart"
for cluster in "${CLUSTERS[@]}"; do
    install "$cluster"
done
echo "$KUBECONFIG"
