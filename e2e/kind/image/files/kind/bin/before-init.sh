#!/bin/bash
# Runs in a node before its init, at every start.
set -euo pipefail

# No pod before the CNI has made this start's routes: it writes the file anew then.
rm -f /etc/cni/net.d/10-kindnet.conflist

# Settings that are the whole machine's: kubelet and systemd find files that hold what they want.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000 \
    fs/file-max=9223372036854775807 fs/nr_open=1048576; do
    file=/run/settings/${setting%%=*}
    mkdir -p "${file%/*}"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done
