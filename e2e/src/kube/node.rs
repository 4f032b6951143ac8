//! A node: namespaces of its own for network, mounts, processes, names, messages and cgroups, and in them containerd,
//! kubelet and kube-proxy.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::hierarchy::Hierarchies;
use super::node_files;
use super::spec::{KubeSpec, workspace};
use crate::lab::address::Plan;
use crate::lab::cgroup::{self, Cgroup};
use crate::lab::process::{Launch, Program};
use crate::wait;

/// The identity of a node, and where its things are.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Unique in the lab: "hoth-n1".
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) plan: Plan,
    pub(super) spec: KubeSpec,
    pub(super) folder: PathBuf,
    /// The cluster's folder of keys and kubeconfigs.
    pub(super) access: PathBuf,
    pub(super) programs: PathBuf,
    pub(super) images: PathBuf,
    pub(super) netns: String,
    pub(super) cgroup: Cgroup,
    pub(super) hierarchies: Hierarchies,
}

/// The folders below the node's own that it keeps over a power cut, and where the node sees them.
const KEPT: &[(&str, &str)] = &[
    ("containerd", "/var/lib/containerd"),
    ("cni-state", "/var/lib/cni"),
    ("kubelet", "/var/lib/kubelet"),
    ("clustermesh", "/var/lib/clustermesh"),
    ("pods-log", "/var/log/pods"),
    ("containers-log", "/var/log/containers"),
];

impl Identity {
    /// The node's end of its link to the router, at the router.
    pub(super) fn link(&self) -> String {
        format!("n{}", self.number)
    }

    /// Makes the folders and writes the configuration.
    pub(super) fn furnish(&self, plans: &[Plan]) -> Result<()> {
        for (name, _) in KEPT {
            let path = self.folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        fs::write(self.folder.join("mounts"), self.hierarchies.mounts()).context("writing the mounts")?;
        let kept: String = KEPT.iter().map(|(name, seen)| format!("{name} {seen}\n")).collect();
        fs::write(self.folder.join("kept"), kept).context("writing the list of folders")?;
        fs::write(self.folder.join("settings"), self.settings()).context("writing the settings")?;
        node_files::write(self, plans)
    }

    /// Shell variables for the node's first process.
    fn settings(&self) -> String {
        let ip = self.spec.join(&self.plan.node(self.number));
        let config = super::access::kubeconfig(&self.access, &self.name);
        format!(
            "NAME={}\nIP={ip}\nPROGRAMS={}\nIMAGES={}\nKUBECONFIG={}\n",
            self.name,
            self.programs.display(),
            self.images.display(),
            config.display()
        )
    }

    /// How it is switched on. Between the lab and the node's first process stands `kube join`.
    pub(super) fn launch(&self) -> Result<Launch> {
        let legacy = self.hierarchies.make_node(&self.name)?;
        fs::create_dir_all(self.init().path()).context("creating the cgroup of a node's first process")?;
        self.hierarchies.delegate(self.cgroup.path());
        let mut args = vec!["join".to_owned(), format!("--unified={}", self.cgroup.path().display())];
        args.extend(legacy.iter().map(|path| format!("--legacy={}", path.display())));
        args.push("--".into());
        args.push(workspace().join("e2e/kube/node-init.sh").display().to_string());
        args.push(self.folder.display().to_string());
        Ok(Launch {
            name: self.launch_name(),
            program: Program::Ours("kube"),
            args,
            netns: self.netns.clone(),
            cgroup: self.init(),
        })
    }

    pub(super) fn launch_name(&self) -> String {
        format!("{}.node", self.name)
    }

    /// Where the node's own processes are; its pods are beside it.
    fn init(&self) -> Cgroup {
        self.cgroup.child("init")
    }

    /// Lets the kubelet start: its API server is there, and knows the node.
    pub(super) fn release(&self) -> Result<()> {
        fs::write(self.folder.join("go"), "").context("letting a kubelet start")
    }

    /// Kills everything that runs on it, and removes what a next start must not find.
    pub(super) fn kill(&self) -> Result<()> {
        self.cgroup.kill()?;
        self.cgroup.remove()?;
        for folder in self.hierarchies.node_folders(&self.name) {
            // A process that has ended leaves v1 a moment after v2.
            let what = format!("cgroup {} to be free", folder.display());
            wait::until(&what, Duration::from_secs(10), || Ok(cgroup::remove_tree(&folder)?))?;
        }
        Ok(())
    }

    /// Its first process, as the machine sees it.
    pub(super) fn first_process(&self) -> Result<i32> {
        let path = self.init().path().join("cgroup.procs");
        let list = fs::read_to_string(&path).with_context(|| format!("{} is switched off", self.name))?;
        let pids = list.lines().filter_map(|line| line.parse::<i32>().ok());
        let is_first = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            own.is_some_and(|pids| pids.split_whitespace().skip(1).collect::<Vec<_>>() == ["1"])
        };
        let first = { pids }.find(is_first);
        let first = first.with_context(|| format!("{} has no first process", self.name))?;
        ensure!(first > 1, "{} runs outside of a namespace", self.name);
        Ok(first)
    }

    /// The command that runs `args` on the node: its namespaces and its cgroup.
    pub(super) fn inside(&self, args: &[&str]) -> Result<std::process::Command> {
        let first = self.first_process()?;
        let mut command = std::process::Command::new(crate::lab::process::program("lab")?);
        command.args(["enter", "--netns", &self.netns, "--cgroup"]).arg(self.init().path());
        command.args(["--", "nsenter", "-t", &first.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"]);
        command.args(args);
        Ok(command)
    }
}
