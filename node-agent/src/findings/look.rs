//! One look for findings: asks about each Service that this node speaks for what `clustermesh service show` asks.

use std::sync::Arc;

use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::Readiness;
use mesh_source::Status;
use mesh_source::kubernetes::{Notice, Uids};
use tokio::sync::watch;

use super::stretch::Stretch;
use super::{node, service};
use crate::merge::names::Names;
use crate::merge::reasons::Evidence;

/// So many findings are looked after at most; the others come when these have gone.
const MAX_FINDINGS: usize = 1000;

/// The inputs of a look.
#[derive(Clone, Debug)]
pub struct Sources {
    pub node: NodeName,
    pub names: Names,
    /// Faults of the own source's objects.
    pub status: watch::Receiver<Arc<Status>>,
    /// None where there is no Kubernetes: then this node speaks for itself.
    pub uids: Option<watch::Receiver<Uids>>,
    pub readiness: Readiness,
}

/// The findings of a look.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// How many Services this node speaks for.
    pub(super) services: usize,
    pub(super) notices: Vec<Notice>,
}

impl Sources {
    /// Takes a while; for a thread of its own.
    pub(super) fn look(&self) -> Looked {
        let notices = node::notices(&self.node, &self.readiness.missing());
        let local = self.names.local.borrow().clone();
        let mut looked = Looked { services: 0, notices };
        if let Some(local) = local {
            let own = self.own(&local);
            looked.services = own.len();
            // Without any there is nothing to prepare for.
            if !own.is_empty() {
                self.look_at(&own, &local, &mut looked.notices);
            }
        }
        looked
    }

    /// The Services that this node speaks for.
    fn own<'a>(&self, local: &'a ClusterSnapshot) -> Vec<&'a ServiceName> {
        let stretch = match self.uids {
            Some(_) => Stretch::of(&self.node, local.nodes.keys()),
            None => Stretch::All,
        };
        local.services.keys().filter(|name| stretch.holds(name)).collect()
    }

    fn look_at(&self, own: &[&ServiceName], local: &ClusterSnapshot, notices: &mut Vec<Notice>) {
        let uids = self.uids.as_ref().map(|uids| uids.borrow().clone());
        let (status, peers) = (self.status.borrow().clone(), self.names.peers.borrow().clone());
        let (clusters, refused) = (self.names.clusters(), self.names.contested());
        let cluster = self.names.own.0;
        let evidence = Evidence::new(cluster, (Some(local), &status), &peers, &refused);
        for name in own {
            let uid = uids.as_ref().map(|uids| uids.get(*name));
            // Only known from before this process: the API server has not said yet which object it is.
            if uid == Some(None) {
                continue;
            }
            let all = evidence.omissions(name);
            notices.extend(service::notices((name, uid.flatten()), &all, cluster, &clusters));
            if notices.len() >= MAX_FINDINGS {
                notices.truncate(MAX_FINDINGS);
                return;
            }
        }
    }
}
