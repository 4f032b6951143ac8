//! A cluster's control plane: etcd, API server, controller manager and scheduler, in a namespace of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::access::kubeconfig;
use super::assets::Assets;
use super::audit;
use super::pki::Pki;
use super::spec::KubeSpec;
use crate::lab::address::Plan;
use crate::lab::cgroup::Cgroup;
use crate::lab::process::{Launch, Program, program};

/// The API server's port.
pub(super) const API_PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
const AUDIT_POLICY: &str = "audit-policy.yaml";

/// A process of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
}

impl Part {
    /// Those that need no other one to come up, and those that want an API server that is ready: before the bootstrap
    /// roles exist the controller manager ends at once.
    pub(super) const FIRST: [Self; 2] = [Self::Etcd, Self::ApiServer];
    pub(super) const SECOND: [Self; 2] = [Self::ControllerManager, Self::Scheduler];

    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// The command lines of the parts.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) cluster: String,
    pub(super) plan: Plan,
    pub(super) spec: KubeSpec,
    pub(super) assets: Assets,
    /// With keys and kubeconfigs in it.
    pub(super) folder: PathBuf,
    pub(super) netns: String,
    pub(super) cgroup: Cgroup,
}

impl Control {
    pub(super) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.plan.control()[0], API_PORT)
    }

    /// The names under which clients know the API server; the gate of the host among them.
    pub(super) fn server_names(&self) -> Vec<String> {
        let first = self.plan.cluster_ip(1);
        let addresses = self.plan.control().into_iter().chain(first).map(|address| address.to_string());
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"];
        let full = ["kubernetes.default.svc.cluster.local"];
        addresses.chain(names.into_iter().chain(full).map(str::to_owned)).collect()
    }

    pub(super) fn cgroup_of(&self, part: Part) -> Cgroup {
        self.cgroup.child(part.program())
    }

    pub(super) fn launch(&self, part: Part) -> Launch {
        let folder = if part == Part::Etcd { &self.assets.etcd } else { &self.assets.kubernetes };
        let args = match part {
            Part::Etcd => self.etcd(),
            Part::ApiServer => self.api_server(),
            Part::ControllerManager => self.controller_manager(),
            Part::Scheduler => self.component("scheduler"),
        };
        Launch {
            name: format!("{}.{}", self.cluster, part.program()),
            program: Program::At(folder.join(part.program())),
            args,
            netns: self.netns.clone(),
            cgroup: self.cgroup_of(part),
        }
    }

    fn etcd(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.folder.join("etcd").display()),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // A lab's data need not survive the machine.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ]
    }

    /// `etcdctl` in the control plane's namespace.
    pub(super) fn etcdctl(&self, args: &[&str]) -> Result<std::process::Command> {
        let mut command = std::process::Command::new(program("lab")?);
        command.args(["enter", "--netns", &self.netns, "--cgroup"]).arg(self.cgroup_of(Part::Etcd).path());
        command.arg("--").arg(self.assets.etcd.join("etcdctl")).arg(format!("--endpoints={ETCD}")).args(args);
        Ok(command)
    }

    fn api_server(&self) -> Vec<String> {
        let pki = Pki(self.folder.clone());
        vec![
            format!("--etcd-servers={ETCD}"),
            format!("--service-cluster-ip-range={}", self.spec.join(&self.plan.services())),
            "--bind-address=0.0.0.0".into(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={}", self.plan.control()[0]),
            pki.flag("tls-cert-file", "api.crt"),
            pki.flag("tls-private-key-file", "api.key"),
            pki.flag("cert-dir", "generated"),
            pki.flag("service-account-key-file", "sa.pub"),
            pki.flag("service-account-signing-key-file", "sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            pki.flag("token-auth-file", "tokens.csv"),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--allow-privileged=true".into(),
            "--event-ttl=10m".into(),
            format!("--audit-policy-file={}", self.folder.join(AUDIT_POLICY).display()),
            format!("--audit-log-path={}", self.audit_log().display()),
        ]
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// The files that the API server reads at its start beside keys.
    pub(super) fn write_audit_policy(&self) -> Result<()> {
        let path = self.folder.join(AUDIT_POLICY);
        fs::write(&path, audit::policy()).with_context(|| format!("writing {}", path.display()))
    }

    fn controller_manager(&self) -> Vec<String> {
        let pki = Pki(self.folder.clone());
        let mut args = self.component("controller-manager");
        args.extend([
            "--use-service-account-credentials".into(),
            pki.flag("service-account-private-key-file", "sa.key"),
            pki.flag("root-ca-file", "ca.crt"),
            // The lab gives nodes their ranges.
            "--allocate-node-cidrs=false".into(),
            "--node-monitor-period=2s".into(),
            "--node-monitor-grace-period=20s".into(),
        ]);
        args
    }

    /// Shared by controller manager and scheduler.
    fn component(&self, user: &str) -> Vec<String> {
        let config = kubeconfig(&self.folder, user);
        let mut args: Vec<_> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .map(|flag| format!("--{flag}={}", config.display()))
            .into();
        args.push(format!("--cert-dir={}", self.folder.join("generated").join(user).display()));
        args.extend(["--bind-address=127.0.0.1".into(), "--leader-elect=false".into()]);
        args
    }
}
