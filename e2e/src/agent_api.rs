//! The HTTP API of a node's agent, whichever lab it runs in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::http::{self, Door};

/// The agent of a node; whichever process that is at the moment.
#[derive(Clone, Debug)]
pub struct AgentApi {
    pub node: String,
    pub(crate) socket: PathBuf,
}

impl AgentApi {
    /// The chart's agent on a node with this root folder.
    pub(crate) fn below(node: String, root: &Path) -> Self {
        Self { node, socket: root.join("run/clustermesh/default/agent.sock") }
    }

    pub(crate) fn door(&self) -> Door {
        Door::Unix(self.socket.clone())
    }

    /// The items of a list of its admin API.
    pub fn items(&self, path: &str) -> Result<Vec<Value>> {
        let mut answer: Value = serde_json::from_str(&http::fetch(&self.door(), path)?)
            .with_context(|| format!("{path} of {} is not JSON", self.node))?;
        let items = answer["items"].as_array_mut().map(std::mem::take);
        items.with_context(|| format!("{path} of {} is no list", self.node))
    }

    /// The sum of a metric's series; `name` may have labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = http::fetch(&self.door(), "/metrics")?;
        let of = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let values: Vec<u64> =
            of.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)).collect::<Result<_>>()?;
        ensure!(!values.is_empty(), "{} has no metric {name}", self.node);
        Ok(values.iter().sum())
    }

    /// The backends of a service in the maps: "cluster address:port state".
    pub fn backends(&self, service: &str) -> Result<Vec<String>> {
        let items = self.items(&format!("/v1/backends?service={service}"))?;
        let line = |item: &Value| {
            let (cluster, address, state) =
                (text(item, "cluster"), text(item, "address"), text(item, "state"));
            format!("{cluster} {address}:{} {state}", item["port"])
        };
        Ok(items.iter().map(line).collect())
    }

    /// Fails unless a service has so many active backends of each of these clusters.
    pub(crate) fn ensure_active(&self, service: &str, wanted: &[(&str, usize)]) -> Result<()> {
        let backends = self.items(&format!("/v1/backends?service={service}"))?;
        for (cluster, count) in wanted {
            let of = backends.iter().filter(|item| item["cluster"] == *cluster);
            let active = of.filter(|item| item["state"] == "active").count();
            ensure!(active == *count, "{} has {active} active ones of {cluster}: {backends:?}", self.node);
        }
        Ok(())
    }

    /// Fails unless it knows so many backends of all services.
    pub(crate) fn ensure_backends(&self, wanted: usize) -> Result<()> {
        let known = self.items("/v1/backends")?.len();
        ensure!(known == wanted, "{} knows {known} of {wanted}", self.node);
        Ok(())
    }

    /// Its peers: state and the incarnation of their etcd, by name.
    pub fn peers(&self) -> Result<BTreeMap<String, (String, String)>> {
        let peers = self.items("/v1/peers")?;
        let named =
            peers.iter().map(|peer| (text(peer, "name"), (text(peer, "state"), text(peer, "incarnation"))));
        Ok(named.collect())
    }
}

fn text(item: &Value, field: &str) -> String {
    item[field].as_str().unwrap_or_default().to_owned()
}
