//! A cluster whose apiserver runs on this host, with those of its agents that run here, too.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::socket;
use super::{AgentAnswer, Answer, Cluster, Request};

/// A cluster by its sockets on this host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(super) apiserver: PathBuf,
    /// Of its agents.
    pub(super) agents: Vec<PathBuf>,
}

impl Host {
    /// With the agent of the same instance, if there is one.
    pub(super) fn new(apiserver: &Path) -> Self {
        let beside = mesh_admin::instance::socket(apiserver.parent().unwrap_or(Path::new(".")));
        Self { apiserver: apiserver.into(), agents: beside.exists().then_some(beside).into_iter().collect() }
    }
}

impl Cluster for Host {
    fn place(&self) -> String {
        format!("socket {}", self.apiserver.display())
    }

    async fn ask(&self, request: &Request) -> Result<Answer> {
        socket::request(&self.apiserver, "clustermesh-apiserver", request).await
    }

    async fn ask_agents(&self, request: &Request) -> Result<Vec<AgentAnswer>> {
        let asked = self.agents.iter().map(async |path| AgentAnswer {
            agent: path.display().to_string(),
            answer: socket::request(path, "agent", request).await,
        });
        Ok(futures::future::join_all(asked).await)
    }

    /// What its apiserver does not say is not seen from a socket.
    async fn exposed(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
