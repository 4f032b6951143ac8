#!/usr/bin/env bash
# The first process of our own Docker's namespaces: starts its daemon, and waits for orphans of containers.
#
#   e2e/kind/engine-init.sh DATA SOCKET CGROUP
set -euo pipefail

data=$1 socket=$2 cgroup=$3
run=${socket%/*}
mount -t proc proc /proc
# What a daemon writes beside the folders that it is given ends with these namespaces.
mkdir -p "$run" /etc/docker /run/docker
mount -t tmpfs tmpfs /etc/docker
mount -t tmpfs tmpfs /run/docker
ip link set lo up
dockerd --host "unix://$socket" --data-root "$data" --exec-root "$run/exec" --pidfile "$run/pid" \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" \
    --add-runtime "modest=$(dirname "$0")/runc.sh" --default-runtime modest &
daemon=$!
while [ -e "/proc/$daemon" ]; do wait -n || sleep 0.2; done
exit 1
