#!/usr/bin/env bash
# Imports images into a node's containerd before there is a node. Runs in mount, process and network namespaces of its own,
# and mounts there what containerd needs.
#
#   e2e/kind/image/preload.sh ROOT ARCHIVE
set -euo pipefail

root=$1 archive=$2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for place in run tmp dev; do
    mount -t tmpfs "$place" "$root/$place"
done
for device in null:3 zero:5 random:8 urandom:9; do
    mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"
done
touch "$root/tmp/images.tar"
mount --bind "$archive" "$root/tmp/images.tar"

chroot "$root" containerd --log-level warn 2>"$archive.log" &
containerd=$!
for _ in $(seq 100); do
    ! chroot "$root" ctr version >/dev/null 2>&1 || break
    sleep 0.1
done
chroot "$root" ctr --namespace k8s.io images import /tmp/images.tar >/dev/null || {
    cat "$archive.log" >&2
    exit 1
}
chroot "$root" ctr --namespace k8s.io images list --quiet
rm "$archive.log"
kill "$containerd"
wait "$containerd" || true
