#!/usr/bin/env bash
# Installs what the given targets need and the machine lacks, through apt; says what it installs.
# Where it can't, it says what is missing and how to get it, and exits with 1.
#
#   setup/deps.sh [build] [lab] [kube] [lint] [bench] [kernels] [images] [kind]      (default: build lab)
#
# build: compile the workspace.   lab: run tests and the demo.   kube: run the Kubernetes lab.
# lint: check style, licences and shell scripts.   bench: what the product is measured beside.
# kernels: boot other kernels.   images: build the images, for PLATFORMS=linux/amd64,linux/arm64 too.
# kind: run clusters by kind, without a container engine, too.
set -euo pipefail

# The newest Rust that the workspace asks for, and the oldest kernel that runs the programs.
readonly RUST_WANTED=1.95 KERNEL_WANTED=5.15 DENY_VERSION=0.20.2
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"

missing=()
packages=()
rust_targets=()
miss() { missing+=("$1"); }
have() { command -v "$1" >/dev/null 2>&1; }

# True if version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# need_program PROGRAM PACKAGE…: the first of the packages that apt knows is installed if the program is absent.
need_program() {
    have "$1" || packages+=("$1:${*:2}")
}

need_rust() {
    local version
    [ -z "${rust_checked:-}" ] || return 0
    rust_checked=yes
    if ! have cargo || ! version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || [ -z "$version" ]; then
        miss "Rust $RUST_WANTED or newer: install rustup from https://rustup.rs, then run this again"
    elif ! at_least "$version" "$RUST_WANTED"; then
        miss "Rust $RUST_WANTED or newer (this is $version): rustup update stable"
    fi
}

need_build() {
    need_rust
    need_program cc build-essential
    need_program protoc protobuf-compiler
    [ -e /usr/include/google/protobuf/empty.proto ] || [ -n "${PROTOC_INCLUDE:-}" ] ||
        packages+=("/usr/include/google/protobuf/empty.proto:libprotobuf-dev")
}

need_lab() {
    local kernel
    [ "$(uname -s)" = Linux ] || { miss "Linux: the product is made of eBPF; use a virtual machine"; return; }
    [ "$(id -u)" = 0 ] || miss "root: tests and demo make network namespaces and load eBPF; run make as root, or with sudo -E"
    kernel=$(uname -r | grep -oE '^[0-9]+\.[0-9]+' || echo 0)
    at_least "$kernel" "$KERNEL_WANTED" || miss "Linux $KERNEL_WANTED or newer (this is $(uname -r)): boot a newer kernel"
    grep -qE '^[^ ]+ [^ ]+ cgroup2 ' /proc/mounts ||
        miss "cgroup v2: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1"
    grep -q 'bpf$' /proc/filesystems || miss "the bpf file system: a kernel with CONFIG_BPF_SYSCALL"
    [ -e /proc/self/ns/net ] || miss "network namespaces: a kernel with CONFIG_NET_NS"
    need_program etcd etcd-server etcd
    need_program etcdctl etcd-client
    need_program ip iproute2
    need_program dig dnsutils bind9-dnsutils
    need_program ps procps
    need_program setpriv util-linux
}

need_kube() {
    need_lab
    need_program containerd containerd
    need_program runc runc
    # kube-proxy's two modes.
    need_program nft nftables
    need_program iptables iptables
    need_program conntrack conntrack
    need_program nsenter util-linux
    need_program strip binutils
    # Debian 12's is older than what the lab asks of it.
    at_least "$(kubectl version --client 2>/dev/null | grep -oE 'v1\.[0-9]+' | head -n 1)" v1.30 ||
        miss "kubectl 1.30 or newer: https://kubernetes.io/docs/tasks/tools/"
    [ -e /usr/lib/cni/ptp ] || packages+=("/usr/lib/cni/ptp:containernetworking-plugins")
    # What e2e/kube/build.sh needs where its results are not there yet.
    [ -n "${KUBEBUILDER_ASSETS:-}" ] || [ -d "${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/kubernetes" ] || have go ||
        miss "Go 1.26 or newer, to build Kubernetes once: install it from https://go.dev/dl"
}

need_lint() {
    need_rust
    need_program shellcheck shellcheck
}

need_bench() {
    need_program nft nftables
}

need_kernels() {
    need_program qemu-system-x86_64 qemu-system-x86
    need_program busybox busybox-static
    need_program cpio cpio
    need_program ip iproute2
    need_program strip binutils
    need_program setpriv util-linux
}

# The image's programs are static, and compiled for another architecture by its own compiler.
need_images() {
    local own cpu
    need_build
    own=$(uname -m)
    for cpu in x86_64 aarch64; do
        case $cpu,${PLATFORMS:-} in
            "$own",*) ;;
            x86_64,*linux/amd64* | aarch64,*linux/arm64*)
                rust_targets+=("$cpu-unknown-linux-gnu")
                need_program "$cpu-linux-gnu-gcc" "gcc-${cpu//_/-}-linux-gnu"
                [ -e "/usr/$cpu-linux-gnu/include/stdio.h" ] || case $cpu in
                    x86_64) packages+=("/usr/$cpu-linux-gnu/include/stdio.h:libc6-dev-amd64-cross") ;;
                    aarch64) packages+=("/usr/$cpu-linux-gnu/include/stdio.h:libc6-dev-arm64-cross") ;;
                esac
                ;;
        esac
    done
}

need_kind() {
    need_build
    have go || miss "Go 1.26 or newer, to build kind, helm and, without a registry, Kubernetes: install it from https://go.dev/dl"
    have kubectl || miss "kubectl 1.30 or newer: https://kubernetes.io/docs/tasks/tools/"
    ! docker info >/dev/null 2>&1 || return 0
    # What e2e/kind/engine.sh and e2e/kind/image need.
    [ "$(id -u)" = 0 ] || miss "a docker daemon that answers, or root: one is started in namespaces of its own then"
    need_program dockerd docker.io
    need_program docker docker.io
    need_program iptables iptables
    need_program ip iproute2
    need_program jq jq
    need_program unshare util-linux
    need_program pgrep procps
    need_program debootstrap debootstrap
}

# The first of the packages that apt can install.
choose_package() {
    local package
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            echo "$package"
            return
        fi
    done
    return 1
}

# Keeps packages from starting their services: nobody asked for an etcd on this machine's port 2379.
without_services() {
    local policy=/usr/sbin/policy-rc.d own='' status=0
    if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"; then
        own=yes
    fi
    "$@" || status=$?
    if [ -n "$own" ]; then
        rm -f "$policy"
    fi
    return "$status"
}

install_packages() {
    local entry package chosen=()
    if ! have apt-get; then
        for entry in "${packages[@]}"; do
            miss "${entry%%:*}: there is no apt here; install it your system's way (Debian's package: ${entry#*:})"
        done
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        for entry in "${packages[@]}"; do
            package=${entry#*:}
            miss "${entry%%:*}: apt-get install ${package%% *} (needs root)"
        done
        return
    fi
    echo "setup: reading apt's package lists"
    apt-get update -qq </dev/null || echo "setup: apt-get update failed; trying with the lists that are there" >&2
    for entry in "${packages[@]}"; do
        # shellcheck disable=SC2086 # the packages are separate words
        if package=$(choose_package ${entry#*:}); then
            chosen+=("$package")
        else
            miss "${entry%%:*}: apt knows none of its packages (${entry#*:}); enable Debian's main repository"
        fi
    done
    [ ${#chosen[@]} -gt 0 ] || return 0
    echo "setup: installing through apt: ${chosen[*]}"
    DEBIAN_FRONTEND=noninteractive without_services \
        apt-get install -y -qq --no-install-recommends "${chosen[@]}" </dev/null ||
        miss "apt-get install ${chosen[*]} failed, see above"
}

# cargo's own tools, where rustup installed without them.
install_rust_tools() {
    local tool
    for tool in rustfmt clippy; do
        if ! cargo "${tool/rust/}" --version >/dev/null 2>&1; then
            echo "setup: installing through rustup: $tool"
            rustup component add "$tool" </dev/null || miss "$tool: rustup component add $tool"
        fi
    done
    if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $DENY_VERSION" ]; then
        echo "setup: installing through cargo: cargo-deny $DENY_VERSION (some minutes, once)"
        (cd / && cargo install --locked cargo-deny --version "$DENY_VERSION" </dev/null) ||
            miss "cargo-deny: cargo install --locked cargo-deny --version $DENY_VERSION"
    fi
}

main() {
    local goals=("$@") goal
    [ ${#goals[@]} -gt 0 ] || goals=(build lab)
    cd "$root"
    for goal in "${goals[@]}"; do
        case $goal in
            build | lab | kube | lint | bench | kernels | images | kind) "need_$goal" ;;
            *) echo "setup/deps.sh: $goal is none of build, lab, kube, lint, bench, kernels, images and kind" >&2; exit 2 ;;
        esac
    done
    [ ${#packages[@]} -eq 0 ] || install_packages
    if [[ " ${goals[*]} " == *" lint "* ]] && [ ${#missing[@]} -eq 0 ]; then
        install_rust_tools
    fi
    [ ${#rust_targets[@]} -eq 0 ] || [ ${#missing[@]} -gt 0 ] || rustup target add "${rust_targets[@]}" </dev/null ||
        miss "Rust for ${rust_targets[*]}: rustup target add ${rust_targets[*]}"
    if [ ${#missing[@]} -gt 0 ]; then
        echo "setup: this machine lacks:" >&2
        printf '  - %s\n' "${missing[@]}" >&2
        exit 1
    fi
}

main "$@"
