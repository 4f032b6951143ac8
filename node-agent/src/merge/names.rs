//! Names of clusters and frontends: by the sources alone, and by an earlier agent where these are not synced, so that
//! whoever asks costs the merge loop nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_admin::api;
use mesh_model::desired::Frontend;
use mesh_model::merge::frontends;
use mesh_model::name::{ClusterId, ClusterName, PortName, ServiceName};
use mesh_model::reason::Reason;
use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch;

use super::reasons::RefusedFrontend;
use crate::peers::PeerSet;

/// Names by cluster id, the own cluster's among them.
pub(crate) type ClusterNames = BTreeMap<ClusterId, ClusterName>;
/// The service and port name of each frontend.
pub(crate) type FrontendNames = BTreeMap<Frontend, (ServiceName, Option<PortName>)>;

/// The owner of each frontend, and the services that want it all the same.
fn owners(local: &ClusterSnapshot) -> (FrontendNames, Vec<RefusedFrontend>) {
    let (mut names, mut contested) = (FrontendNames::new(), Vec::new());
    for (name, service) in &local.services {
        for (frontend, port) in frontends(service) {
            let port_name = service.ports.get(port).and_then(|port| port.name.clone());
            let (owner, _) = names.entry(frontend).or_insert_with(|| (name.clone(), port_name));
            if owner != name {
                let text = format!(
                    "the frontend belongs to service {owner}, which comes first by name: give one of the two \
                     another ClusterIP"
                );
                let (service, reason) = (Some(name.clone()), Reason::AddressTaken);
                contested.push(RefusedFrontend { frontend, service, cluster: None, reason, text });
            }
        }
    }
    (names, contested)
}

/// Names by an earlier agent, from its names file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    clusters: ClusterNames,
    frontends: FrontendNames,
}

impl Earlier {
    /// None where the names are not of this cluster: then they say nothing of what stands in the maps.
    pub(super) fn of(own: &(ClusterId, ClusterName), names: api::Names) -> Option<Self> {
        let clusters: ClusterNames = names.clusters.into_iter().map(|named| (named.id, named.name)).collect();
        let frontends = names.frontends.into_iter();
        let frontends = frontends.map(|named| (named.frontend, (named.service, named.port_name))).collect();
        (clusters.get(&own.0) == Some(&own.1)).then_some(Self { clusters, frontends })
    }
}

/// What names are made of: as long as it is the same, so are they.
#[derive(Debug)]
pub(super) struct Seen {
    local: Arc<ClusterSnapshot>,
    clusters: ClusterNames,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.local, &other.local) && self.clusters == other.clusters
    }
}

/// Reads names where they come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names {
    pub own: (ClusterId, ClusterName),
    pub local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    pub peers: watch::Receiver<Arc<PeerSet>>,
    /// Counts for what nobody knows yet.
    pub earlier: Arc<Earlier>,
}

impl Names {
    pub(crate) fn clusters(&self) -> ClusterNames {
        let peers = self.peers.borrow();
        // Until the folder has been read completely, any cluster may be a peer.
        let mut clusters =
            if peers.claimed.is_none() { self.earlier.clusters.clone() } else { ClusterNames::new() };
        clusters.extend(peers.names().chain([self.own.clone()]));
        clusters
    }

    /// A frontend that several services want is the first one's by name. Until the own source is synced, names are as before.
    pub fn frontends(&self) -> FrontendNames {
        let Some(local) = self.local.borrow().clone() else { return self.earlier.frontends.clone() };
        let mut names = owners(&local).0;
        if !local.unread.is_empty() {
            let unread = |(service, _): &(ServiceName, _)| {
                !local.services.contains_key(service) && local.unread.may_be_service(service)
            };
            for (frontend, named) in self.earlier.frontends.iter().filter(|(_, named)| unread(named)) {
                names.entry(*frontend).or_insert_with(|| named.clone());
            }
        }
        names
    }

    /// Frontends that services want and that are another's.
    pub(crate) fn contested(&self) -> Vec<RefusedFrontend> {
        self.local.borrow().clone().map(|local| owners(&local).1).unwrap_or_default()
    }

    /// What [`Self::current`] is made of; none before the own source is synced.
    pub(super) fn seen(&self) -> Option<Seen> {
        let local = self.local.borrow().clone()?;
        Some(Seen { local, clusters: self.clusters() })
    }

    /// All of them; none before the own source is synced.
    pub(super) fn current(&self) -> Option<api::Names> {
        // Without any knowledge there is nothing to write.
        self.local.borrow().as_ref()?;
        let clusters = self.clusters().into_iter().map(|(id, name)| api::NamedCluster { id, name });
        let named = self.frontends().into_iter();
        let named =
            named.map(|(frontend, (service, port_name))| api::NamedFrontend { frontend, service, port_name });
        let mut frontends: Vec<_> = named.collect();
        frontends.sort_by(|a, b| (&a.service, a.frontend).cmp(&(&b.service, b.frontend)));
        Some(api::Names { clusters: clusters.collect(), frontends })
    }

    /// Returns when names may be others. Never returns where nobody will say anything any more.
    pub(super) async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.local.changed() => changed,
            changed = self.peers.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }
}
