//! The command line, and what it becomes once validated.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use mesh_kv::DialerError;
use mesh_kv::{Dialer, EtcdEndpoint, Tls};
use mesh_model::address_policy::OwnRanges;
use mesh_model::export::Identity;
use mesh_model::name::ClusterName;
use mesh_runtime::args::duration;
use mesh_runtime::{AdminArgs, Check, LogArgs};
use mesh_secrets::{Access, Layout, Mirror, MirrorMetrics, Secrets};
use mesh_source::kubernetes::QUIET;
use mesh_source::{IdentityArgs, IdentityError, SourceArgs};
use mesh_trust::{Role, Wanted};

use crate::admin::AdminSocketArgs;
use crate::certificates::{ETCD_CLIENT, Folder, OwnEtcd, Placement, SecretStore, Store};
use crate::exporter::COMPACT;
use crate::membership::{OwnCertificates, PeerSecret, PeerStore};
use crate::peers::PeersArgs;
use crate::serve::{OwnFiles, ServeConfig};

const EXAMPLE: &str = "\
Example, without Kubernetes:
  clustermesh-apiserver --cluster-name hoth --cluster-id 2 \\
      --pod-cidr 10.2.0.0/16 --node-cidr 192.168.2.0/24 --service-cidr 10.102.0.0/16 \\
      --source manifests:/etc/clustermesh/manifests \\
      --etcd-endpoint https://127.0.0.1:2379 --etcd-tls-dir /etc/clustermesh/tls
Within Kubernetes; ranges are those of Nodes and ServiceCIDRs:
  clustermesh-apiserver --cluster-name hoth --cluster-id 2 --source kubernetes \\
      --etcd-endpoint https://etcd.clustermesh.svc:2379 --etcd-tls-dir /etc/clustermesh/tls
What it wrote:
  etcdctl get --prefix clustermesh/v1/
Whether peers see everything, and if not, why:
  curl http://ADDRESS:PORT/readyz
After a change of name or id, what the old one left:
  clustermesh-apiserver forget --cluster-name echo --etcd-endpoint https://127.0.0.1:2379 \\
      --etcd-tls-dir /etc/clustermesh/tls

Exits with 0 after SIGTERM or SIGINT, with 2 when the command line is wrong, with 1 when something else is.";

/// How to use what `completion` prints.
const COMPLETION: &str = "\
For this shell only:   source <(clustermesh-apiserver completion bash)
For every new one:     clustermesh-apiserver completion bash > /etc/bash_completion.d/clustermesh-apiserver";

/// What `forget` does, for the end of its help.
const FORGETTING: &str = "\
What stands there, in the order in which it would go:
  clustermesh-apiserver forget --cluster-name echo --etcd-endpoint http://127.0.0.1:2379
Then the same with --yes.

Exits with 0 when everything is listed or deleted, also when nothing stands there; with 2 when the
command line is wrong; with 1 when an exporter leads under that name, or etcd can't be reached.";

/// The task that the command line asks for.
pub type Invocation = mesh_runtime::Invocation<RunArgs, Command>;

impl Check for RunArgs {
    fn check(&self) -> Result<(), Box<dyn Error>> {
        self.identity()?;
        if self.peers.peers_secret.is_some() && !self.source.is_kubernetes() {
            return Err(Box::new(ConfigError::PeersSecret));
        }
        self.etcd.server.dialer()?;
        self.certificates.check()?;
        Ok(())
    }
}

impl Check for Command {
    fn check(&self) -> Result<(), Box<dyn Error>> {
        if let Self::Forget(args) = self {
            args.server.dialer()?;
        }
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Removes what a cluster left in its etcd under the name or id that it had before.
    ///
    /// Without --yes it only lists what stands there. Nothing is deleted while an exporter leads under that name. Peers
    /// keep what they know, because the `synced` records go first: they drain it once they have no peer file of that
    /// name any more.
    #[command(after_help = FORGETTING)]
    Forget(ForgetArgs),
    /// Prints the completion script of a shell.
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell that shall complete flags and subcommands.
        shell: Shell,
    },
}

/// Exports this cluster's global Services to its etcd, for the node-agents of its peers.
///
/// Services are global by the annotation `clustermesh.io/global: "true"`. Their ports and endpoints are written to
/// etcd below clustermesh/v1/, and kept equal to what the source says: one transaction per change, and only what
/// changed. A restarted or wiped etcd is repaired. Stopping removes nothing: peers keep what they know.
///
/// One process writes at a time; others stand by. Run one per cluster, next to the cluster's etcd.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "clustermesh-apiserver",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = EXAMPLE
)]
pub struct RunArgs {
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub election: ElectionArgs,
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    #[command(flatten)]
    pub(crate) peers: PeersArgs,
    #[command(flatten)]
    pub(crate) certificates: CertificateArgs,
    #[command(flatten)]
    pub(crate) admin_socket: AdminSocketArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to forget, and where.
#[derive(Args, Clone, Debug)]
pub struct ForgetArgs {
    /// The name whose records go.
    // Not from the environment, which holds the name that the cluster has now.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: ClusterName,

    /// Delete them, instead of listing them.
    #[arg(long)]
    pub yes: bool,

    #[command(flatten)]
    pub server: EtcdServerArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    #[command(flatten)]
    pub server: EtcdServerArgs,

    /// How often the history is compacted; for tests.
    #[arg(long, hide = true, default_value_t = COMPACT.as_secs(), value_parser = value_parser!(u64).range(1..))]
    pub compact_every_seconds: u64,
}

/// Which replica writes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Election")]
pub struct ElectionArgs {
    /// Leave the lead to a replica that stands by when the own source has confirmed nothing for so long. 0s: never.
    ///
    /// So does a replica whose writes etcd refuses. While nobody else stands by it goes on leading. A replica stands by
    /// once it has the source's first full list, while its source has confirmed that within half of this time, and as
    /// long as etcd lets it write. A watch over which nothing comes is asked anew after 3/8 of this time, at most 75 s,
    /// and has a fifth of that for its answer.
    #[arg(long, env = "CLUSTERMESH_RESIGN_AFTER", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub resign_after: Duration,
}

impl ElectionArgs {
    /// How long a watch may be silent, so that a replica notices it before it would be taken for one that could lead.
    pub(crate) fn quiet(&self) -> Option<Duration> {
        (!self.resign_after.is_zero()).then(|| (self.resign_after * 3 / 8).min(QUIET))
    }
}

/// The mesh API, which peers read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mesh API")]
pub(crate) struct MeshArgs {
    /// Where peers read this cluster's records: the read-only part of etcd's v3 API, from memory. Not served by default.
    ///
    /// Every replica serves, whoever leads. Clients need certificates (TLS 1.3) that a peer file's `trust:` vouches for, or
    /// this cluster's own authority; any etcd client works.
    #[arg(
        long,
        env = "CLUSTERMESH_MESH_ADDRESS",
        value_name = "ADDRESS:PORT",
        requires_all = ["mesh_identity", "peers"]
    )]
    mesh_address: Option<SocketAddr>,

    /// Folder with tls.crt and tls.key: a certificate with the URI clustermesh://NAME/apiserver of this cluster.
    ///
    /// A ca.crt beside them vouches for this cluster's own processes, and may hold lists of revoked certificates. Without
    /// this flag the folder below --certificates-dir. Files that change are read within a second; connections stay.
    #[arg(long, env = "CLUSTERMESH_MESH_TLS_DIR", value_name = "DIR", group = "mesh_identity")]
    mesh_tls_dir: Option<PathBuf>,

    /// Refuse clients whose certificates have no clustermesh:// URI.
    ///
    /// Without this flag one counts as an agent of the only cluster whose CA vouches for it, as peers show that were
    /// installed before there were identities. clustermesh_mesh_api_clients_without_identity says whether there are any.
    #[arg(long, env = "CLUSTERMESH_MESH_REQUIRE_IDENTITY")]
    mesh_require_identity: bool,
}

/// Certificates of this cluster's own processes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Certificates")]
pub(crate) struct CertificateArgs {
    /// Make this cluster's certificates below this folder where there are none, and renew them: in ca, apiserver and agent.
    ///
    /// The leader does. ca holds the key that vouches for the others: nobody else may read it. What somebody else puts
    /// there, cert-manager or a company's CA, stays as it is; with a ca without its key nothing is made.
    #[arg(long, env = "CLUSTERMESH_CERTIFICATES_DIR", value_name = "DIR", group = "mesh_identity")]
    certificates_dir: Option<PathBuf>,

    /// Keep them in Secrets of the own namespace instead: ca, apiserver, agent and etcd, each with its Secret's name.
    ///
    /// What is missing is made before anybody leads, by whichever replica comes first; the leader renews. A Secret without
    /// the annotation clustermesh.io/made-by=clustermesh-apiserver is somebody else's and stays as it is. Below
    /// --certificates-dir the apiserver's own is mirrored, in the folder apiserver, also for --etcd-tls-dir.
    #[arg(
        long,
        env = "CLUSTERMESH_CERTIFICATES_SECRETS",
        value_name = "HOLDER=SECRET",
        value_delimiter = ',',
        requires = "certificates_dir"
    )]
    certificates_secrets: Vec<Placement>,

    /// How long a certificate counts; it is renewed after a third of that.
    #[arg(
        long,
        env = "CLUSTERMESH_CERTIFICATE_LIFETIME",
        value_name = "DURATION",
        default_value = "168h",
        value_parser = lifetime
    )]
    certificate_lifetime: Duration,

    /// Name or address that stands in the apiserver's certificate, for etcd clients that verify it. Repeatable.
    #[arg(long, env = "CLUSTERMESH_CERTIFICATE_NAME", value_name = "NAME", value_delimiter = ',')]
    certificate_name: Vec<String>,
}

impl CertificateArgs {
    /// Where they are kept, if anything here makes them.
    pub(crate) fn store(&self, access: Access) -> Option<Store> {
        let dir = self.certificates_dir.clone()?;
        if self.certificates_secrets.is_empty() {
            return Some(Store::Folder(Folder::new(dir)));
        }
        let secrets = SecretStore::new(Secrets::new(access), self.certificates_secrets.iter().cloned());
        Some(Store::Secrets(secrets))
    }

    /// The certificates that the cluster needs; `etcd`: by which names its own etcd is reached.
    pub(crate) fn wanted(&self, etcd: &[EtcdEndpoint]) -> [Wanted; 3] {
        const LOOPBACK: [&str; 2] = ["localhost", "127.0.0.1"];
        let wanted = |role, names| Wanted { role, names, length: self.certificate_lifetime };
        let mut names: BTreeSet<String> = self.certificate_name.iter().cloned().collect();
        if self.certificates_secrets.iter().any(|placement| placement.is_of(Role::Etcd)) {
            names.insert(ETCD_CLIENT.into());
        }
        let hosts = etcd.iter().map(EtcdEndpoint::host).chain(LOOPBACK).map(ToOwned::to_owned);
        [wanted(Role::Apiserver, names), wanted(Role::Agent, [].into()), wanted(Role::Etcd, hosts.collect())]
    }

    /// What brings the apiserver's own certificate from its Secret to where it is read.
    pub(crate) fn mirror(&self, access: Access, metrics: &MirrorMetrics) -> Option<Mirror> {
        const KEYS: &[&str] = &["ca.crt", "tls.crt", "tls.key"];
        let own = self.certificates_secrets.iter().find(|placement| placement.is_of(Role::Apiserver))?;
        let folder = self.certificates_dir.as_ref()?.join(Role::Apiserver.as_str());
        let name = ("certificates", own.name().clone());
        Some(Mirror::new(access, name, folder, Layout::Together(KEYS), metrics))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let is_of_authority = |placement: &Placement| placement.is_of_authority();
        let placed = &self.certificates_secrets;
        if placed.is_empty() || placed.iter().any(is_of_authority) {
            Ok(())
        } else {
            Err(ConfigError::NoAuthority)
        }
    }
}

/// Clocks differ by minutes, and whoever looks at a certificate has to get round to it.
fn lifetime(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(3600);
    duration(text).and_then(
        |lifetime| {
            if lifetime < SHORTEST { Err("at least 1h".into()) } else { Ok(lifetime) }
        },
    )
}

impl MeshArgs {
    /// How the mesh API is served, if it is.
    pub(crate) fn config(&self, cluster: &ClusterName, made: &CertificateArgs) -> Option<ServeConfig> {
        let made = made.certificates_dir.as_ref().map(|dir| dir.join(Role::Apiserver.as_str()));
        let (address, own) = (self.mesh_address?, OwnFiles(self.mesh_tls_dir.clone().or(made)?));
        let requires_identity = self.mesh_require_identity;
        Some(ServeConfig { address, cluster: cluster.clone(), own, requires_identity })
    }
}

/// How this cluster's etcd is reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub struct EtcdServerArgs {
    /// Where this cluster's etcd is: https://HOST:PORT, or http:// where nobody else can listen. Repeatable.
    ///
    /// Several are members of one etcd: the first that works is used until it fails. An etcd that holds another
    /// cluster's records is refused.
    #[arg(
        long = "etcd-endpoint",
        env = "CLUSTERMESH_ETCD_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub endpoints: Vec<EtcdEndpoint>,

    /// Folder with ca.crt (trust in etcd), tls.crt and tls.key (our identity). Needed for https.
    ///
    /// Read anew at every connection, so rotated certificates need no restart.
    #[arg(long = "etcd-tls-dir", env = "CLUSTERMESH_ETCD_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
}

impl EtcdServerArgs {
    /// What dials it.
    pub(crate) fn dialer(&self) -> Result<Arc<Dialer>, ConfigError> {
        let tls = self.tls_dir.as_deref().map(Tls::from_dir);
        match Dialer::new(self.endpoints.clone(), tls) {
            Ok(dialer) => Ok(Arc::new(dialer)),
            Err(DialerError::NoTrust { endpoint }) => Err(ConfigError::NoTlsDir { endpoint }),
            Err(error) => Err(ConfigError::Endpoint(error)),
        }
    }
}

/// Why the flags don't go together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "--etcd-endpoint {endpoint} is https, so --etcd-tls-dir is needed: name a folder with ca.crt, tls.crt and tls.key"
    )]
    NoTlsDir { endpoint: EtcdEndpoint },
    #[error("--peers-secret needs --source kubernetes: name a folder with --peers-dir instead")]
    PeersSecret,
    #[error("--etcd-endpoint")]
    Endpoint(#[source] DialerError),
    #[error(
        "--certificates-secrets names no Secret for the authority that vouches for the others: add ca=SECRET to it"
    )]
    NoAuthority,
}

impl RunArgs {
    /// Where the own certificates are.
    pub(crate) fn own_certificates(&self) -> OwnCertificates {
        OwnCertificates {
            server: self.mesh.mesh_tls_dir.clone(),
            made: self.certificates.certificates_dir.clone(),
        }
    }

    /// The own etcd, where what is made here is what it is shown.
    pub(crate) fn own_etcd(&self) -> OwnEtcd {
        let made = self.certificates.certificates_dir.as_ref().map(|dir| dir.join(Role::Apiserver.as_str()));
        let is_shown = made.is_some() && made == self.etcd.server.tls_dir;
        OwnEtcd { endpoints: if is_shown { self.etcd.server.endpoints.clone() } else { Vec::new() } }
    }

    /// Where peer files are written.
    pub(crate) fn peer_store(&self) -> Option<PeerStore> {
        let secret = |name| {
            let secrets = Secrets::new(self.source.access());
            PeerStore::Secret(PeerSecret { secrets, name })
        };
        let in_secret = self.peers.peers_secret.clone().map(secret);
        in_secret.or_else(|| self.peers.peers_dir.clone().map(PeerStore::Folder))
    }

    /// Who this cluster is.
    pub(crate) fn identity(&self) -> Result<Identity, ConfigError> {
        let identity = self.identity.identity()?;
        let ranges = OwnRanges::from(&identity);
        Ok(Identity { name: identity.name, id: identity.id, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [&str; 7] = [
        "clustermesh-apiserver",
        "--cluster-name=hoth",
        "--cluster-id=2",
        "--pod-cidr=10.2.0.0/16",
        "--node-cidr=192.168.2.0/24",
        "--service-cidr=10.102.0.0/16",
        "--source=manifests:/nowhere",
    ];

    fn parse(more: &[&str]) -> Result<RunArgs, String> {
        let arguments = REQUIRED.iter().chain(more);
        match Invocation::parse_from(arguments).map_err(|error| error.to_string())? {
            Invocation::Run(args) => Ok(*args),
            Invocation::Command(command) => panic!("{command:?}"),
        }
    }

    #[test]
    fn the_command_line_becomes_an_identity_and_a_dialer() {
        let args = parse(&["--etcd-endpoint=http://127.0.0.1:2379", "--etcd-endpoint=http://127.0.0.2:2379"])
            .unwrap();
        let identity = args.identity().unwrap();
        assert_eq!((identity.name.as_str(), identity.id.value()), ("hoth", 2));
        assert_eq!(identity.ranges.services.len(), 1);
        assert_eq!(args.etcd.server.dialer().unwrap().endpoints().len(), 2);
    }

    #[test]
    fn a_silent_source_is_noticed_before_half_of_the_time_after_which_one_resigns() {
        let quiet = |more: &[&str]| {
            let all = [&["--etcd-endpoint=http://127.0.0.1:2379"], more].concat();
            let args = parse(&all).unwrap().election;
            args.quiet().map(|quiet| (quiet + quiet / 5, args.resign_after / 2))
        };
        for more in [&[][..], &["--resign-after=10s"], &["--resign-after=1h"]] {
            let (noticed, half) = quiet(more).unwrap();
            assert!(noticed < half, "{more:?}: {noticed:?}, {half:?}");
        }
        assert_eq!(quiet(&["--resign-after=0s"]), None);
    }

    #[test]
    fn bad_endpoints_are_refused_with_the_remedy() {
        assert!(parse(&[]).unwrap_err().contains("--etcd-endpoint"));
        assert!(parse(&["--etcd-endpoint=127.0.0.1"]).unwrap_err().contains("write https://HOST:PORT"));
        assert!(parse(&["--etcd-endpoint=https://a"]).unwrap_err().contains("--etcd-tls-dir"));
        assert!(parse(&["--etcd-endpoint=http://a,http://a"]).unwrap_err().contains("named twice"));
    }

    #[test]
    fn certificates_in_secrets_need_an_authority_and_a_folder() {
        let etcd = "--etcd-endpoint=http://clustermesh-etcd-0.etcd.mesh.svc:2379";
        let parse = |more: &[&str]| parse(&[&[etcd], more].concat());
        assert!(parse(&["--certificates-secrets=ca=a"]).unwrap_err().contains("--certificates-dir"));
        let dir = "--certificates-dir=/nowhere";
        let said = parse(&[dir, "--certificates-secrets=agent=a"]).unwrap_err();
        assert!(said.contains("add ca=SECRET"), "{said}");
        let args = parse(&[dir, "--certificates-secrets=ca=a,apiserver=b,etcd=c"]).unwrap();
        let [apiserver, agent, of_etcd] = args.certificates.wanted(&args.etcd.server.endpoints);
        assert!(apiserver.names.contains(ETCD_CLIENT) && agent.names.is_empty());
        assert!(
            of_etcd.names.contains("clustermesh-etcd-0.etcd.mesh.svc")
                && !of_etcd.names.contains(ETCD_CLIENT)
        );
    }

    #[test]
    fn what_the_chart_says_is_accepted() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/golden");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let (_, container) = text.split_once("      - name: apiserver\n").unwrap();
            let (container, _) = container.split_once("        livenessProbe:").unwrap();
            let flags = container.lines().filter_map(|line| line.trim().strip_prefix("- "));
            let flags = flags.map(|flag| flag.trim_matches('"')).filter(|flag| flag.starts_with("--"));
            let all = ["clustermesh-apiserver"].into_iter().chain(flags);
            let parsed = Invocation::parse_from(all).map_err(|error| error.to_string());
            assert!(matches!(parsed, Ok(Invocation::Run(_))), "{}: {parsed:?}", path.display());
        }
    }

    #[test]
    fn a_subcommand_needs_no_flags() {
        let parsed = Invocation::parse_from(["clustermesh-apiserver", "completion", "bash"]).unwrap();
        assert!(matches!(parsed, Invocation::Command(Command::Completion { shell: Shell::Bash })));
    }
}
