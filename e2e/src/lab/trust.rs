//! Whom a cluster lets in to its mesh API, where the lab has its peers read that.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use crate::wait;

impl Cluster {
    /// The certificate of its authority.
    pub(super) fn authority(&self) -> Result<String> {
        let mesh_api = self.identity.mesh_api.as_ref().context("the lab reads etcds")?;
        let path = mesh_api.certificates.join("ca/tls.crt");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn trust_file(&self, peer: &str) -> Result<PathBuf> {
        let mesh_api = self.identity.mesh_api.as_ref().context("the lab reads etcds")?;
        Ok(mesh_api.trust.join(format!("{peer}.crt")))
    }

    /// Lets the processes of a peer in.
    pub fn trust(&self, peer: &Self) -> Result<()> {
        let path = self.trust_file(peer.name())?;
        fs::write(&path, peer.authority()?).with_context(|| format!("writing {}", path.display()))
    }

    /// Shuts them out.
    pub fn distrust(&self, peer: &str) -> Result<()> {
        let path = self.trust_file(peer)?;
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Waits until the apiservers have read whom they let in since they began.
    pub(super) fn wait_trusting(&self, patience: Duration) -> Result<()> {
        for index in 0..self.apiservers.len() {
            wait::until("the peers to be let in", patience, || {
                let metrics = self.apiserver_metrics(index)?;
                let reloads = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix("clustermesh_mesh_api_certificate_reloads_total "));
                anyhow::ensure!(reloads.is_some_and(|reloads| reloads != "0"), "{reloads:?} reloads");
                Ok(())
            })?;
        }
        Ok(())
    }
}
