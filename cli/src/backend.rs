//! `clustermesh backend`.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_admin::api::Backend;
use mesh_model::name::ServiceName;

use crate::args::{AgentArgs, BackendVerb, Output};
use crate::render::{self, or_dash};

pub(crate) fn run(agent: &AgentArgs, verb: &BackendVerb, output: Output) -> Result<()> {
    let BackendVerb::List { service, cluster } = verb;
    list(agent, service.as_ref(), cluster.as_deref(), output)
}

/// The backends of one service or of all, of one cluster or of all.
pub(crate) fn list(
    agent: &AgentArgs,
    service: Option<&ServiceName>,
    cluster: Option<&str>,
    output: Output,
) -> Result<()> {
    // A service's name needs no escapes in a URL.
    let path = service.map_or("/v1/backends".into(), |name| format!("/v1/backends?service={name}"));
    let mut backends: Vec<Backend> = crate::client::list(agent, &path)?;
    if let Some(cluster) = cluster {
        backends.retain(|backend| backend.cluster.as_ref().is_some_and(|name| name.as_str() == cluster));
    }
    let header = ["SERVICE", "FRONTEND", "CLUSTER", "BACKEND", "STATE"];
    render::items(backends, output, &header, |backends| backends.iter().map(row).collect())
}

fn row(backend: &Backend) -> Vec<String> {
    let frontend = SocketAddr::new(backend.frontend.address.into(), backend.frontend.port);
    let cluster = backend.cluster.as_ref().map(ToString::to_string);
    vec![
        or_dash(backend.service.as_ref()),
        format!("{frontend}/{}", backend.frontend.protocol),
        cluster.unwrap_or_else(|| format!("#{}", backend.cluster_id)),
        SocketAddr::new(backend.address.into(), backend.port).to_string(),
        backend.state.to_string(),
    ]
}
