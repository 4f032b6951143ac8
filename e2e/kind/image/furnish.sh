#!/usr/bin/env bash
# Makes a kind node of a Debian: what images/base/Dockerfile of kind does with its files, and Kubernetes' programs.
#
#   e2e/kind/image/furnish.sh ROOT      (with the variables of build.sh)
set -euo pipefail

cd "$(dirname "$0")"
root=$1
: "${kubernetes:?}" "${kubeadm:?}" "${crictl:?}" "${kind_files:?}" "${version:?}"

kind_own() {
    local file
    mkdir -p "$root"/{kind/bin,kind/manifests,opt/cni,etc/kubernetes/manifests}
    chmod 755 "$root"/kind{,/bin}
    install -m 755 "$kind_files"/usr/local/bin/* "$root/usr/local/bin/"
    install -m 755 "$kind_files"/kind/bin/* "$root/kind/bin/"
    (cd "$kind_files" && find etc -type f) | while read -r file; do
        install -D -m 644 "$kind_files/$file" "$root/$file"
    done
}

# Where kind expects what Debian has elsewhere.
programs() {
    ln -sf /usr/bin/{containerd,ctr,containerd-shim-runc-v2} "$root/usr/local/bin/"
    ln -sfn /usr/lib/cni "$root/opt/cni/bin"
    install -m 755 "$crictl" "$root/usr/local/bin/crictl"
    install -m 755 "$kubernetes/kubernetes" "$root/usr/bin/kubelet"
    install -m 755 "$kubeadm/kubeadm" "$root/usr/bin/kubeadm"
    ln -sf kubeadm "$root/usr/bin/kubectl"
    printf '%s' "$version" >"$root/kind/version"
}

units() {
    local wants=$root/lib/systemd/system
    find "$wants/sysinit.target.wants/" -name systemd-tmpfiles-setup.service -delete
    rm -f "$wants"/{multi-user,local-fs,basic}.target.wants/* "$root"/etc/systemd/system/*.wants/* \
        "$wants"/sockets.target.wants/*{udev,initctl}*
    echo "ReadKMsg=no" >>"$root/etc/systemd/journald.conf"
    chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
    chroot "$root" systemctl mask systemd-binfmt.service
    # shellcheck disable=SC2016 # jq's variables
    chroot "$root" ctr oci spec |
        jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
            >"$root/etc/containerd/cri-base.json"
}

# A node must not change settings that are the whole machine's, nor ask for a priority that the machine does not give.
modesty() {
    rm -f "$root"/usr/lib/sysctl.d/*.conf
    sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
    sed -i 's#^log_info .starting init.#/kind/bin/before-init.sh\n&#' "$root/usr/local/bin/entrypoint"
    grep -q '^/kind/bin/before-init.sh$' "$root/usr/local/bin/entrypoint"
    grep -q 'restrict_oom_score_adj = true' "$root/etc/containerd/config.toml"
}

kind_own
programs
units
modesty
install -m 755 files/kind/bin/* "$root/kind/bin/"
install -m 644 files/kind/manifests/* "$root/kind/manifests/"
