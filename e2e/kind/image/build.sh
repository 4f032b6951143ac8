#!/usr/bin/env bash
# Makes a node's root file system for kind where no registry of images can be reached: Debian's packages, Kubernetes' Go
# modules, kind's own files. Prints its archive, which is kept in a cache; load.sh gives it to docker. Root, on Debian.
#
# KUBECTL_IMAGE, ETCD_IMAGE and whatever else the chart takes from a registry are in it, too.
#
# CLUSTERMESH_CACHE   where the cache is (default: ~/.cache/clustermesh)
set -euo pipefail

cd "$(dirname "$0")"
readonly DEBIAN=bookworm
cache=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/kind-node

say() { echo "kind: $*" >&2; }

# Everything that goes in by hand; the programs have their versions.
key() {
    {
        find . -type f | sort | xargs cat
        cat ../../kube/build.sh ../../kube/build/{kubeadm,coredns}/main.go ../../../setup/tool.sh ./chart-images.sh
        ./chart-images.sh
    } | sha256sum | cut -c1-12
}

programs() {
    kubernetes=$(../../kube/build.sh kubernetes)
    kubeadm=$(../../kube/build.sh kubeadm)
    etcd=$(../../kube/build.sh etcd)
    coredns=$(../../kube/build.sh coredns)
    crictl=$(../../../setup/tool.sh crictl)
    lab=$(PROFILE=${PROFILE:-dev} ../../../deploy/images/roots.sh lab)
    kind_version=v$("$(../../../setup/tool.sh kind)" version -q)
    kind_files=$(cd / && go mod download -json "sigs.k8s.io/kind@$kind_version" | jq -r .Dir)/images/base/files
    version=${kubernetes##*/}
    export kubernetes kubeadm etcd coredns crictl lab kind_files version
}

build() { # folder
    local root=$1/root
    say "node image: Debian $DEBIAN"
    ./debian.sh "$DEBIAN" "$root" >&2
    say "node image: kind's files and Kubernetes $version"
    ./furnish.sh "$root" >&2
    say "node image: the control plane's images"
    ./control-plane.sh "$root" "$1/images.tar" >&2
    unshare --mount --net --pid --fork --kill-child=KILL --propagation private ./preload.sh "$root" "$1/images.tar" >&2
    rm "$1/images.tar"
    tar --create --numeric-owner --directory "$root" --file "$1/node.tar" .
    rm -rf "$root"
}

main() {
    local folder draft
    folder=$cache/$(key)
    if [ ! -e "$folder/node.tar" ]; then
        mkdir -p "$cache"
        programs
        draft=$(mktemp -d "$cache/.draft-XXXXXX")
        # shellcheck disable=SC2064 # the draft of now
        trap "rm -rf --one-file-system '$draft'" EXIT
        build "$draft"
        # Those of other recipes are a gigabyte each.
        find "$cache" -mindepth 1 -maxdepth 1 ! -path "$draft" -exec rm -rf --one-file-system {} +
        mv -T "$draft" "$folder"
    fi
    echo "$folder/node.tar"
}

main
