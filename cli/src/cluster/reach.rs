//! From the command line to clusters that can be asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_admin::api::{List, Node};
use mesh_model::name::ClusterName;

use super::context::Context;
use super::host::Host;
use super::{AgentAnswer, Answer, Cluster, Request, socket};
use crate::args::{AgentArgs, ClusterArgs};

/// A cluster, as it was named.
#[derive(Debug)]
pub(crate) enum Reach {
    Host(Host),
    Context(Box<Context>),
}

impl Cluster for Reach {
    fn place(&self) -> String {
        match self {
            Self::Host(host) => host.place(),
            Self::Context(context) => context.place(),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer> {
        match self {
            Self::Host(host) => host.ask(request).await,
            Self::Context(context) => context.ask(request).await,
        }
    }

    async fn ask_leader(&self, request: &Request) -> Result<Answer> {
        match self {
            Self::Host(host) => host.ask_leader(request).await,
            Self::Context(context) => context.ask_leader(request).await,
        }
    }

    async fn ask_agents(&self, request: &Request) -> Result<Vec<AgentAnswer>> {
        match self {
            Self::Host(host) => host.ask_agents(request).await,
            Self::Context(context) => context.ask_agents(request).await,
        }
    }

    async fn exposed(&self) -> Result<Vec<String>> {
        match self {
            Self::Host(host) => host.exposed().await,
            Self::Context(context) => context.exposed().await,
        }
    }
}

/// Every cluster that was named; without any the one of this host.
pub(crate) async fn reached(clusters: &ClusterArgs, agent: &AgentArgs) -> Result<Vec<Reach>> {
    let mut found = Vec::new();
    for name in &clusters.context {
        found.push(Reach::Context(Box::new(Context::new(name, clusters).await?)));
    }
    let sockets = match agent.socket.as_slice() {
        [] if found.is_empty() => vec![local_apiserver(agent)],
        named => named.to_vec(),
    };
    found.extend(hosts(&sockets).await?.into_iter().map(Reach::Host));
    Ok(found)
}

/// Where the apiserver of this host's instance is asked.
pub(crate) fn local_apiserver(agent: &AgentArgs) -> PathBuf {
    mesh_admin::instance::apiserver_socket(&agent.instance_dir())
}

/// Sockets are of apiservers, and of agents, which are put to the apiserver of their cluster.
async fn hosts(sockets: &[PathBuf]) -> Result<Vec<Host>> {
    let (mut hosts, mut agents) = (Vec::new(), Vec::new());
    for path in sockets {
        match node(path).await? {
            Some(node) => agents.push((node.cluster, path)),
            None => hosts.push(Host::new(path)),
        }
    }
    if agents.is_empty() {
        return Ok(hosts);
    }
    let mut of_cluster: BTreeMap<ClusterName, &mut Host> = BTreeMap::new();
    for host in &mut hosts {
        // Whoever asks it next says what is wrong with it.
        if let Ok(cluster) =
            super::call::<mesh_admin::cluster::Cluster>(host, &Request::get("/v1/cluster")).await
        {
            of_cluster.insert(cluster.name, host);
        }
    }
    for (cluster, path) in agents {
        let host = of_cluster.get_mut(&cluster).with_context(|| alone(&cluster, path))?;
        if !host.agents.contains(path) {
            host.agents.push(path.clone());
        }
    }
    Ok(hosts)
}

fn alone(cluster: &ClusterName, path: &Path) -> String {
    format!(
        "{} is the socket of an agent of {cluster}, and no socket of {cluster}'s apiserver was named; add --socket \
         …/apiserver.sock",
        path.display()
    )
}

/// The node behind a socket, if an agent listens there.
async fn node(path: &Path) -> Result<Option<Node>> {
    let Ok(answer) = socket::request(path, "process", &Request::get("/v1/node")).await else {
        return Ok(None);
    };
    if answer.status != 200 {
        return Ok(None);
    }
    let list: List<Node> =
        serde_json::from_value(answer.body).context("reading what an agent says of itself")?;
    Ok(list.items.into_iter().next())
}

/// The one cluster that a verb is about.
pub(crate) fn only(mut reached: Vec<Reach>) -> Result<Reach> {
    ensure!(reached.len() <= 1, "this is about one cluster; name one --context or --socket");
    match reached.pop() {
        Some(reach) => Ok(reach),
        None => bail!("name the cluster: --context NAME, or --socket PATH"),
    }
}
