//! Where the admin API is, and what this cluster tells others of how it is reached.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mesh_kv::EtcdEndpoint;
use mesh_runtime::args::instance;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Joining")]
pub(crate) struct AdminSocketArgs {
    /// Name of this instance: a second process on the same host needs another one.
    #[arg(long, env = "CLUSTERMESH_INSTANCE", value_name = "NAME", default_value = "default", value_parser = instance)]
    instance: String,

    /// The admin socket, through which `clustermesh` joins clusters, is <DIR>/<instance>/apiserver.sock.
    ///
    /// Only its owner can use it. Where it can't be made everything else works all the same, and that is said.
    #[arg(long, env = "CLUSTERMESH_RUN_DIR", value_name = "DIR", default_value = "/run/clustermesh")]
    run_dir: PathBuf,

    /// Where peers reach this cluster's mesh API: https://HOST:PORT, e.g. of a load balancer. Repeatable.
    ///
    /// Told to clusters that join; nothing listens there because of it.
    #[arg(
        long = "mesh-endpoint",
        env = "CLUSTERMESH_MESH_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = secure
    )]
    pub(crate) mesh_endpoints: Vec<EtcdEndpoint>,

    /// Where clusters that have an invite of this one join. Not served by default.
    ///
    /// TLS with the certificate of the mesh API and without one of the client; whoever has no invite is refused. With several
    /// replicas each may serve it.
    #[arg(
        long,
        env = "CLUSTERMESH_JOIN_ADDRESS",
        value_name = "ADDRESS:PORT",
        requires_all = ["join_endpoints", "mesh_identity"]
    )]
    pub(crate) join_address: Option<SocketAddr>,

    /// Where --join-address is reached from outside: https://HOST:PORT; stands in invites. Repeatable.
    #[arg(
        long = "join-endpoint",
        env = "CLUSTERMESH_JOIN_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = secure
    )]
    pub(crate) join_endpoints: Vec<EtcdEndpoint>,
}

impl AdminSocketArgs {
    pub(crate) fn socket(&self) -> PathBuf {
        mesh_admin::instance::apiserver_socket(&self.run_dir.join(&self.instance))
    }
}

/// An endpoint that is reached over TLS.
fn secure(text: &str) -> Result<EtcdEndpoint, String> {
    let endpoint: EtcdEndpoint = text.parse().map_err(|error| format!("{error}"))?;
    if endpoint.is_secure() { Ok(endpoint) } else { Err("write https://HOST:PORT".into()) }
}
