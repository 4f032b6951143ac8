#!/usr/bin/env bash
# The first process of a node of the Kubernetes lab, in namespaces of the node's own: mounts what a node has, and starts
# containerd, kubelet and kube-proxy. Its end is the node's: the kernel kills whatever else runs here.
#
#   e2e/kube/node-init.sh FOLDER      (the node's folder, which the lab has furnished)
set -euo pipefail

folder=$1
# shellcheck source=/dev/null
. "$folder/settings"
hostname "$NAME"

# A fresh sysfs shows the node's links. It covers the machine's cgroups and BPF file system: they are mounted again, and
# the cgroup namespace makes the node's folder the root of each.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Several hierarchies live in folders of a small file system.
if ! grep -q '^/sys/fs/cgroup ' "$folder/mounts"; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
fi
while read -r place type options; do
    [ "$place" = /sys/fs/cgroup ] || mkdir -p "$place"
    mount -t "$type" -o "$options" cgroup "$place"
done <"$folder/mounts"
mount -t bpf bpf /sys/fs/bpf

# State that a power cut ends, and folders that survive it. Nothing of this appears on the machine's own disk.
for place in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
mkdir -p /run/lock /run/netns /run/containerd
while read -r name place; do
    mkdir -p "$place"
    mount --bind "$folder/$name" "$place"
done <"$folder/kept"

# The kubelet writes settings that are the whole machine's. It finds files that hold what it wants.
mkdir /run/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/${setting%%=*}
    mkdir -p "${file%/*}"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done
mount --make-rshared /

containerd=/run/containerd/containerd.sock
until_true() { until "$@" >/dev/null 2>&1; do sleep 0.05; done; }

containerd -c "$folder/containerd.toml" >>"$folder/containerd.log" 2>&1 &
until_true ctr -a "$containerd" version
for image in "$IMAGES"/*.tar; do
    ctr -a "$containerd" -n k8s.io images import "$image"
done
# The API server may still be on its way up, and must know the node first.
until_true test -e "$folder/go"
"$PROGRAMS/kubelet" --config "$folder/kubelet.json" --kubeconfig "$KUBECONFIG" --hostname-override "$NAME" \
    --node-ip "$IP" --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki -v 2 >>"$folder/kubelet.log" 2>&1 &
"$PROGRAMS/kube-proxy" --config "$folder/proxy.json" -v 2 >>"$folder/proxy.log" 2>&1 &
echo "node $NAME is up"
# Orphans of containers become this process' children, and are waited for here.
while :; do wait -n || sleep 1; done
