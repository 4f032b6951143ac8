#!/usr/bin/env bash
# Debian with the packages of a kind node, in a folder.
#
#   e2e/kind/image/debian.sh RELEASE FOLDER
set -euo pipefail

packages=(
    # What kind's own image has.
    systemd systemd-sysv containerd runc containernetworking-plugins conntrack iptables nftables iproute2 ethtool socat
    mount kmod procps ca-certificates jq
    # The shell of the pods that stand in for kind's CNI.
    busybox-static
)
include=$(IFS=,; echo "${packages[*]}")
debootstrap --variant=minbase --include="$include" "$1" "$2"
rm -rf "$2"/var/cache/apt/archives/*.deb "$2"/var/lib/apt/lists/* "$2"/usr/share/{doc,man,locale}
