//! What a source knew last, in a form that outlives the process: what cannot be read after a restart stays as it was
//! before it. Never decides what of it still counts: that is the source's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::{ClusterSnapshot, Node, Service};
use serde::{Deserialize, Serialize};

use crate::objects::ObjectKey;

/// Of the form below; another one is not read.
pub const VERSION: u32 = 3;

/// Which file said which objects.
pub type Origins = BTreeMap<String, BTreeSet<ObjectKey>>;

/// What a source knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Document", into = "Document")]
pub struct Known {
    pub snapshot: Arc<ClusterSnapshot>,
    /// Only where objects come from files, and only of files of which it is known what they hold.
    pub origins: Arc<Origins>,
    /// The address ranges that the cluster told; none where the source tells none.
    pub ranges: Option<Arc<OwnRanges>>,
}

impl Known {
    pub(crate) fn new(snapshot: Arc<ClusterSnapshot>, origins: Arc<Origins>) -> Self {
        Self { snapshot, origins, ranges: None }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    ranges: Option<Arc<OwnRanges>>,
    services: BTreeMap<ServiceName, Arc<Service>>,
    nodes: BTreeMap<NodeName, Arc<Node>>,
    origins: Vec<(String, BTreeSet<ObjectKey>)>,
}

impl From<Known> for Document {
    fn from(known: Known) -> Self {
        let Known { snapshot, origins, ranges } = known;
        Self {
            ranges,
            services: snapshot.services.iter().map(|(name, it)| (name.clone(), it.clone())).collect(),
            nodes: snapshot.nodes.iter().map(|(name, it)| (name.clone(), it.clone())).collect(),
            origins: origins.iter().map(|(file, keys)| (file.clone(), keys.clone())).collect(),
        }
    }
}

impl From<Document> for Known {
    fn from(document: Document) -> Self {
        let ranges = document.ranges;
        let snapshot = ClusterSnapshot {
            services: document.services.into_iter().collect(),
            nodes: document.nodes.into_iter().collect(),
            ..ClusterSnapshot::default()
        };
        let origins = document.origins.into_iter().collect();
        Self { snapshot: Arc::new(snapshot), origins: Arc::new(origins), ranges }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::annotation::{Affinity, Scope};
    use mesh_model::snapshot::{Condition, Endpoint, Slice};

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let node = Some(NodeName::new("n1").unwrap());
        let endpoint = Endpoint { node, ..Endpoint::new([10, 1, 0, 1], Condition::READY) };
        let slice = Slice { ports: Vec::new(), endpoints: vec![endpoint] };
        let service = Service {
            scope: Scope { affinity: Affinity::Local, ..Scope::GLOBAL },
            cluster_ips: vec![[10, 101, 0, 1].into()],
            ports: Vec::new(),
            session_affinity_seconds: Some(3),
            node_local: false,
            created_at: None,
            slices: BTreeMap::from([("a-1".parse().unwrap(), Arc::new(slice))]),
        };
        let name: ServiceName = "ns/a".parse().unwrap();
        let snapshot = ClusterSnapshot {
            services: [(name.clone(), Arc::new(service))].into_iter().collect(),
            nodes: [(NodeName::new("n1").unwrap(), Arc::default())].into_iter().collect(),
            ..ClusterSnapshot::default()
        };
        let origins = Origins::from([("a.yaml".into(), BTreeSet::from([name.into()]))]);
        let ranges = OwnRanges { pods: vec!["10.1.0.0/16".parse().unwrap()], ..OwnRanges::default() };
        let (snapshot, origins, ranges) = (Arc::new(snapshot), Arc::new(origins), Some(Arc::new(ranges)));
        let known = Known { snapshot, origins, ranges };
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known);
    }
}
