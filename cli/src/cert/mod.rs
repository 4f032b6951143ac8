//! `clustermesh cert`: the certificates of clusters, shown, made anew, replaced and revoked.

mod authority;
mod revoke;
mod rotate;
mod show;

use anyhow::{Context, Result};
use mesh_admin::cluster::{Certificates, Changed, PeerDocument};
use mesh_membership::rotation::Named;
use mesh_model::name::ClusterName;

use crate::args::{AgentArgs, CertVerb, Output};
use crate::cluster::{self, CallError, Cluster, Request, call, list};

pub(crate) fn run(agent: &AgentArgs, verb: &CertVerb, output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        match verb {
            CertVerb::Show { of } => show::run(&cluster::reached(of, agent).await?, output).await,
            CertVerb::Rotate(args) => {
                let clusters = cluster::reached(&args.clusters, agent).await?;
                match args.ca {
                    true => authority::rotate(&clusters, args, output).await,
                    false => rotate::rotate(&clusters, args, output).await,
                }
            }
            CertVerb::Revoke(args) => {
                let clusters = cluster::reached(&args.clusters, agent).await?;
                match &args.peer {
                    Some(peer) => revoke::peer(&clusters, peer, args, output).await,
                    None => revoke::certificates(&clusters, args, output).await,
                }
            }
        }
    })?
}

/// A cluster with its name.
pub(super) struct Site<'a, C> {
    pub cluster: &'a C,
    pub certificates: Certificates,
}

impl<C> Site<'_, C> {
    pub(super) fn name(&self) -> &ClusterName {
        &self.certificates.cluster
    }
}

/// Asks all of them for their certificates.
pub(super) async fn sites<C: Cluster>(clusters: &[C]) -> Result<Vec<Site<'_, C>>> {
    let asked = clusters.iter().map(async |cluster| {
        let certificates = call(cluster, &Request::get("/v1/certificates")).await?;
        Ok::<_, CallError>(Site { cluster, certificates })
    });
    Ok(futures::future::try_join_all(asked).await?)
}

/// Asks all of them for their peer files.
pub(super) async fn named<C: Cluster>(sites: &[Site<'_, C>]) -> Result<Vec<Named>> {
    let asked = sites.iter().map(async |site| {
        let peers = list(site.cluster, &Request::get("/v1/peers")).await;
        // A cluster without a place for peer files has no peers.
        let peers = match peers {
            Err(CallError::Refused { status: 503, .. }) => Vec::new(),
            peers => peers?,
        };
        Ok::<_, CallError>(Named { name: site.name().clone(), peers })
    });
    Ok(futures::future::try_join_all(asked).await?)
}

/// Writes the peer file of one cluster at another.
pub(super) async fn tell<C: Cluster>(
    sites: &[Site<'_, C>],
    at: &ClusterName,
    (of, file): (&ClusterName, &PeerDocument),
) -> Result<()> {
    let site = sites.iter().find(|site| site.name() == at).context("it is one of those that were named")?;
    let told: Result<Changed, CallError> =
        call(site.cluster, &Request::put(format!("/v1/peers/{of}"), file)).await;
    told.with_context(|| {
        format!(
            "writing the peer file of {of} at {at}; the same command again goes on where this was interrupted"
        )
    })?;
    Ok(())
}

/// What is left to do at peers of a cluster that were not named, one line each.
pub(super) fn left_at_peers(of: &ClusterName, named: &[Named], why: &str) -> Vec<String> {
    let own = named.iter().find(|at| at.name == *of);
    let peers = own.iter().flat_map(|at| &at.peers);
    let strangers = peers.filter(|entry| named.iter().all(|at| at.name.as_str() != entry.name));
    strangers
        .map(|entry| {
            format!(
                "at {0}: import the peer file of {of} anew, {why}. Here: clustermesh peer export > {of}.yaml; there: clustermesh \
                 peer import {of}.yaml",
                entry.name
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
