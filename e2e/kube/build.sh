#!/usr/bin/env bash
# Builds what the Kubernetes lab runs and the machine lacks, from the projects' Go modules, into a cache keyed by
# version; prints the folder of each on standard output, and what it does on standard error. A second run takes no time.
#
#   e2e/kube/build.sh [kubernetes] [etcd] [coredns] [kubeadm]      (default: all but kubeadm)
#
# kubeadm, and kubectl with it, is what nodes of kind have beside these (e2e/kind/image); of the default version only.
#
# VERSION             of Kubernetes: 1.33, 1.34 (default), 1.37, or a full one like 1.34.4
# KUBEBUILDER_ASSETS  a folder that holds kube-apiserver, kubelet … already: used as it is, nothing is built
# CLUSTERMESH_CACHE   where the cache is (default: ~/.cache/clustermesh)
set -euo pipefail

readonly DEFAULT_VERSION=1.34 ETCD_VERSION=v3.7.3 COREDNS_VERSION=v1.12.4
# One binary that behaves as it is called.
readonly KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
modules=$(cd "$(dirname "$0")/build" && pwd)
cache=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}
export CGO_ENABLED=0

say() { echo "kube: $*" >&2; }

full_version() {
    case ${VERSION:-$DEFAULT_VERSION} in
        1.33) echo v1.33.13 ;;
        1.34) echo v1.34.4 ;;
        1.37) echo v1.37.2 ;;
        *.*.*) echo "v${VERSION#v}" ;;
        *) say "VERSION=$VERSION: 1.33, 1.34 and 1.37 are known here; write out any other (1.35.4)"; exit 2 ;;
    esac
}

# The module of another Kubernetes version: the one that is checked in, with Kubernetes' own list of replacements. Its
# checksums come from Go's checksum database instead of a checked-in file.
other_kubernetes_module() { # folder version
    local staging=v0.${2#v*.} list
    cp "$modules/kubernetes/main.go" "$1/"
    # Before 1.34 the kubelet made its context itself.
    if [[ $2 == v1.33.* ]]; then
        sed -i -e '/"context"/d' -e 's/context\.Background()//' "$1/main.go"
    fi
    list=$(go mod download -json "k8s.io/kubernetes@$2" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    {
        echo "module example.org/kubernetes"
        grep -E '^(go|godebug) ' "$list"
        printf 'require (\n\tk8s.io/kubernetes %s\n\tk8s.io/component-base %s\n)\nreplace (\n' "$2" "$staging"
        sed -nE "s#^\s*(k8s.io/[a-z0-9-]+) => \./staging/.*#\t\1 => \1 $staging#p" "$list"
        echo ")"
    } >"$1/go.mod"
}

build_kubernetes() { # folder version
    local minor=${2#*.} source=$modules/kubernetes flags=() program
    minor=${minor%%.*}
    if ! grep -q "k8s.io/kubernetes $2\$" "$source/go.mod"; then
        source=$1/source
        mkdir "$source"
        other_kubernetes_module "$source" "$2"
        flags=(-mod=mod)
    fi
    local stamp=k8s.io/component-base/version
    (cd "$source" && go build "${flags[@]}" -trimpath -o "$1/kubernetes" -ldflags "-s -w \
        -X $stamp.gitVersion=$2 -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor" .)
    rm -rf "$1/source"
    for program in "${KUBERNETES_PROGRAMS[@]}"; do
        ln -s kubernetes "$1/$program"
    done
}

build_etcd() { # folder
    (cd "$modules/etcd" && go build -trimpath -ldflags "-s -w" -o "$1/etcd" go.etcd.io/etcd/server/v3 &&
        go build -trimpath -ldflags "-s -w" -o "$1/etcdctl" go.etcd.io/etcd/etcdctl/v3)
}

build_coredns() { # folder
    (cd "$modules/coredns" && go build -trimpath -ldflags "-s -w" -o "$1/coredns" .)
}

# Its plugins are chosen here: a build with others is another one.
coredns_version() { echo "$COREDNS_VERSION-$(sha256sum <"$modules/coredns/main.go" | cut -c1-8)"; }

build_kubeadm() { # folder version
    local minor=${2#*.} stamp=k8s.io/component-base/version
    grep -q "k8s.io/kubernetes $2\$" "$modules/kubeadm/go.mod" || {
        say "kubeadm is built for the default version only, not for $2"
        return 1
    }
    (cd "$modules/kubeadm" && go build -trimpath -o "$1/kubeadm" -ldflags "-s -w \
        -X $stamp.gitVersion=$2 -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" .)
    ln -s kubeadm "$1/kubectl"
}

# Builds into a draft and renames it into place: a folder that is there is complete. The lock lets the second of two
# builders wait for the first.
ensure() { # name version how-long
    local folder=$cache/$1/$2 draft begin=$SECONDS
    if [ ! -d "$folder" ]; then
        mkdir -p "$cache/$1"
        exec 9>"$cache/$1/.lock"
        flock 9
    fi
    if [ ! -d "$folder" ]; then
        command -v go >/dev/null || { say "no go, and no $1 $2 in $cache: install Go 1.26 from https://go.dev/dl"; exit 1; }
        say "building $1 $2 with Go: $3 on two idle cores, once; it is kept in $folder"
        draft=$(mktemp -d "$cache/$1/.draft-XXXXXX")
        # shellcheck disable=SC2064 # the draft of now
        trap "rm -rf '$draft'" EXIT
        "build_$1" "$draft" "$2"
        chmod 755 "$draft"
        mv -T "$draft" "$folder"
        say "built $1 $2 in $((SECONDS - begin)) s"
    fi
    exec 9>&-
    echo "$folder"
}

main() {
    local goals=("$@") goal
    [ ${#goals[@]} -gt 0 ] || goals=(kubernetes etcd coredns)
    for goal in "${goals[@]}"; do
        case $goal in
            kubernetes)
                if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/kubelet" ]; then
                    echo "$KUBEBUILDER_ASSETS"
                else
                    ensure kubernetes "$(full_version)" "5 to 7 minutes and 2 GB"
                fi
                ;;
            etcd) ensure etcd "$ETCD_VERSION" "about a minute" ;;
            coredns) ensure coredns "$(coredns_version)" "about 100 s" ;;
            kubeadm) ensure kubeadm "$(full_version)" "about a minute" ;;
            *) say "$goal is none of kubernetes, etcd, coredns and kubeadm"; exit 2 ;;
        esac
    done
}

main "$@"
