#!/usr/bin/env bash
# Makes the images that a node has from the beginning, as one archive with shared layers: the control plane's, by the names
# that kubeadm expects, the chart's, and that of what stands in for kind's CNI.
#
#   e2e/kind/image/control-plane.sh ROOT ARCHIVE      (a node's root; with the variables of build.sh)
set -euo pipefail

cd "$(dirname "$0")"
root=$1 archive=$2
: "${kubernetes:?}" "${kubeadm:?}" "${etcd:?}" "${coredns:?}" "${lab:?}" "${version:?}"
work=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
declare -A digests=()
manifest='[]'

layer() { # name: of what is in $work/name
    local digest
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory "$work/$1" --file "$work/layer" .
    digest=$(sha256sum <"$work/layer" | cut -d' ' -f1)
    mv "$work/layer" "$work/$digest.tar"
    rm -rf "${work:?}/$1"
    digests[$1]=$digest
}

image() { # reference entrypoint layer…
    local reference=$1 entrypoint=$2 name own=() config
    shift 2
    for name; do
        own+=("${digests[$name]}")
    done
    config=$(printf '%s\n' "${own[@]}" | jq -cRn --arg entrypoint "$entrypoint" --arg reference "$reference" \
        --arg architecture "$(dpkg --print-architecture)" '{
            architecture: $architecture, os: "linux", author: $reference, created: "1970-01-01T00:00:00Z",
            config: {Entrypoint: ($entrypoint / " "), Env: ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            rootfs: {type: "layers", diff_ids: [inputs | "sha256:" + .]}
        }')
    name=$(sha256sum <<<"$config" | cut -d' ' -f1).json
    echo "$config" >"$work/$name"
    manifest=$(printf '%s\n' "${own[@]}" | jq -cR --arg config "$name" --arg reference "$reference" --argjson all "$manifest" \
        --null-input '$all + [{Config: $config, RepoTags: [$reference], Layers: [inputs | . + ".tar"]}]')
}

# A program of the node's Debian and the libraries that it loads, at their places.
with_libraries() { # name path…
    local layer=$1 path library
    shift
    for path; do
        chroot "$root" ldd "$path" | grep -oE '/[^ ]+' | grep -v ':$' | while read -r library; do
            install -D -m 755 "$root$(chroot "$root" readlink -f "$library")" "$work/$layer$library"
        done
        install -D -m 755 "$root$path" "$work/$layer$path"
    done
}

# What kube-proxy calls, and a shell.
tools() {
    local at=$work/tools name
    mkdir -p "$at"/{bin,etc,tmp,usr/sbin}
    with_libraries tools /usr/sbin/nft /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi /usr/sbin/conntrack
    (cd "$root" && find usr/lib/*/xtables -name '*.so') | while read -r name; do
        with_libraries tools "/$name"
    done
    for name in ip{,6}tables{,-save,-restore}; do
        ln -s xtables-nft-multi "$at/usr/sbin/$name"
    done
    install -m 755 "$root/bin/busybox" "$at/bin/busybox"
    for name in $("$root/bin/busybox" --list); do
        [ "$name" = busybox ] || ln -s busybox "$at/bin/$name"
    done
    echo "root:x:0:0:root:/:/bin/sh" >"$at/etc/passwd"
}

programs() { # layer folder name…
    local layer=$1 folder=$2
    shift 2
    mkdir -p "$work/$layer/usr/local/bin"
    (cd "$folder" && cp --no-dereference "$@" "$work/$layer/usr/local/bin/")
}

programs kubernetes "$kubernetes" kubernetes kube-apiserver kube-controller-manager kube-scheduler kube-proxy
programs kubectl "$kubeadm" kubeadm kubectl
programs etcd "$etcd" etcd etcdctl
programs coredns "$coredns" coredns
programs pause "$lab/$(dpkg --print-architecture)/lab" lab
tools
for name in kubernetes kubectl etcd coredns pause tools; do
    layer "$name"
done

wanted=$("$kubeadm/kubeadm" config images list --kubernetes-version "$version" 2>/dev/null)
sandbox=$(sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p' "$root/etc/containerd/config.toml")
for reference in $( (printf '%s\n' "$wanted" "$sandbox"; ./chart-images.sh) | sort -u); do
    name=${reference##*/}
    case ${name%:*} in
        kube-proxy) image "$reference" kube-proxy kubernetes tools ;;
        kube-*) image "$reference" "${name%:*}" kubernetes ;;
        etcd | coredns | kubectl) image "$reference" "${name%:*}" "${name%:*}" ;;
        pause) image "$reference" "lab pause" pause ;;
        *) echo "control-plane: $reference is wanted, and nothing here can stand for it" >&2; exit 1 ;;
    esac
done
image lab.local/cni:dev /bin/sh kubectl tools

echo "$manifest" >"$work/manifest.json"
(cd "$work" && tar --create --file archive manifest.json ./*.json ./*.tar)
mv "$work/archive" "$archive"
