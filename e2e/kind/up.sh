#!/usr/bin/env bash
# Two kind clusters that can reach each other's pods, with the chart installed and meshed. Needs docker with buildx and
# kubectl; kind and helm are built by Go where they are missing. What is there already is used.
#
#   e2e/kind/up.sh         the last line on standard output is the kubeconfig's path
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly STATE=${KIND_STATE:-target/kind} NAMESPACE=clustermesh NODE_PORT=32379
declare -A IDS=([hoth]=1 [yavin]=2)
readonly CLUSTERS=(hoth yavin)
export KUBECONFIG=$PWD/$STATE/kubeconfig NAMESPACE REGISTRY=lab.local TAG=dev

say() { echo "kind: $*" >&2; }

need() {
    local missing=()
    docker info >/dev/null 2>&1 || missing+=("a docker daemon that answers (docker info)")
    command -v kubectl >/dev/null || missing+=(kubectl)
    [ ${#missing[@]} -eq 0 ] || {
        say "this machine lacks:"
        printf '  - %s\n' "${missing[@]}" >&2
        exit 1
    }
}

# The control planes' addresses are what peers dial: a node port of every node leads to the mesh API.
control_address() {
    kubectl --context "kind-$1" get node "$1-control-plane" \
        --output 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}' | cut -d' ' -f1
}

create() {
    local cluster=$1
    if ! "$kind" get clusters 2>/dev/null | grep -qx "$cluster"; then
        "$kind" create cluster --config "e2e/kind/$cluster.yaml" ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"} \
            --kubeconfig "$KUBECONFIG" --wait 3m >&2
    fi
}

load() {
    local cluster=$1 image
    for image in "$REGISTRY"/clustermesh/{clustermesh-apiserver,node-agent}:"$TAG" "$REGISTRY/lab:$TAG"; do
        "$kind" load docker-image --name "$cluster" "$image" >&2
    done
}

# The certificate of the authority that the cluster has made itself.
authority() {
    kubectl --context "kind-$1" --namespace "$NAMESPACE" get secret clustermesh-ca \
        --output 'go-template={{index .data "tls.crt" | base64decode}}'
}

# values CLUSTER [PEER]
values() {
    local cluster=$1 peer=${2:-}
    cat <<E2
cluster: {name: $cluster, id: ${IDS[$cluster]}, podCidrs: [10.${IDS[$cluster]}.0.0/16]}
images: {registry: $REGISTRY, tag: $TAG}
exposure: {type: NodePort, nodePort: $NODE_PORT}
# A node is a container, which sees its own cgroup as the root.
agent: {cgroupRoot: /sys/fs/cgroup}
# Beside Kubernetes' own, so that the workers have nothing that there is only once.
etcd:
  nodeSelector: {node-role.kubernetes.io/control-plane: ""}
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
E2
    [ -n "$peer" ] || return 0
    cat <<E2
peers:
  $peer:
    id: ${IDS[$peer]}
    endpoints: ["https://$(control_address "$peer"):$NODE_PORT"]
    ranges: {pods: [10.${IDS[$peer]}.0.0/16]}
    trust: |
$(authority "$peer" | sed 's/^/      /')
E2
}

# install CLUSTER [PEER]
install() {
    local cluster=$1
    local kubectl=(kubectl --context "kind-$cluster")
    "${kubectl[@]}" create namespace "$NAMESPACE" --dry-run=client --output yaml | "${kubectl[@]}" apply -f - >&2
    "${kubectl[@]}" label --overwrite namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=privileged >&2
    values "$@" >"$STATE/$cluster-values.yaml"
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
for cluster in "${CLUSTERS[@]}"; do
    say "creating cluster $cluster"
    create "$cluster"
    load "$cluster"
done
e2e/kind/nodes.sh "${CLUSTERS[@]}" >&2
say "installing the chart"
# Each by itself where it has never been, so that its authority makes itself; then with its peer.
for cluster in "${CLUSTERS[@]}"; do
    authority "$cluster" >/dev/null 2>&1 || install "$cluster"
done
install hoth yavin
install yavin hoth
echo "$KUBECONFIG"
