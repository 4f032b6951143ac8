//! A lab's requirements of the machine, checked before anything is made, each with its remedy.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};

use crate::lab::cgroup;
use crate::lab::process::program;

/// The system's programs that the Kubernetes lab runs: their names, a flag that makes each of them do nothing, and their packages.
const KUBE_TOOLS: &[(&str, &str, &str)] = &[
    ("containerd", "--version", "containerd"),
    ("ctr", "--version", "containerd"),
    ("runc", "--version", "runc"),
    ("iptables", "--version", "iptables"),
    ("conntrack", "--version", "conntrack"),
    ("kubectl", "--help", "kubernetes-client"),
    ("strip", "--version", "binutils"),
    ("nsenter", "--version", "util-linux"),
];

/// [`check`], for the Kubernetes lab.
pub fn check_kube() -> Result<()> {
    let mut missing = Vec::new();
    for (tool, flag, package) in KUBE_TOOLS {
        if !runs(tool, flag) {
            missing.push(format!("  - no {tool}: `apt-get install {package}`, or `setup/deps.sh kube`"));
        }
    }
    if !Path::new("/usr/lib/cni/ptp").exists() {
        missing.push("  - no CNI plugins: `apt-get install containernetworking-plugins`".into());
    }
    ensure!(missing.is_empty(), "this machine cannot run the Kubernetes lab:\n{}", missing.join("\n"));
    check(&["kube", "lab", "node-agent", "clustermesh-apiserver"])
}

/// The system's programs that labs run, how to ask each whether it is there, and Debian's package.
const TOOLS: [(&str, &str, &str); 3] =
    [("ip", "-V", "iproute2"), ("etcd", "--version", "etcd-server"), ("dig", "-v", "dnsutils")];

/// Fails with everything that is missing, and how to get it.
pub fn check(programs: &[&'static str]) -> Result<()> {
    let mut missing = Vec::new();
    let mut need = |met: bool, text: String| {
        if !met {
            missing.push(format!("  - {text}"));
        }
    };
    need(
        nix::unistd::geteuid().is_root(),
        "not root: run it with sudo, or in a virtual machine of your own".into(),
    );
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    need(
        at_least(kernel, (5, 15)),
        format!(
            "kernel {kernel} is too old: 5.15 runs the programs and has all that the lab needs; boot a newer one"
        ),
    );
    let mount = cgroup::mount_point();
    need(
        mount.as_ref().is_some_and(|mount| mount.join("cgroup.procs").exists()),
        "no cgroup v2 in /proc/mounts: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with \
         systemd.unified_cgroup_hierarchy=1"
            .into(),
    );
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    need(
        filesystems.contains("\tbpf"),
        "the kernel has no bpf file system: it needs CONFIG_BPF_SYSCALL".into(),
    );
    need(fs::exists("/proc/self/ns/net").unwrap_or(false), "no network namespaces: CONFIG_NET_NS".into());
    for (tool, flag, package) in TOOLS {
        need(runs(tool, flag), format!("no {tool}: `apt-get install {package}`, or `make setup`"));
    }
    for name in programs {
        if let Err(error) = program(name) {
            need(false, error.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run the lab:\n{}", missing.join("\n"))
}

fn runs(tool: &str, flag: &str) -> bool {
    let run = Command::new(tool)
        .arg(flag)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_as_numbers() {
        assert!(at_least("6.18.44-fc-v657", (5, 14)));
        assert!(at_least("5.14.0", (5, 14)));
        assert!(!at_least("5.4.0-150-generic", (5, 14)));
        assert!(!at_least("", (5, 14)));
    }
}
