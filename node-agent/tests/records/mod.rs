//! Peers as they come of the records in their etcd.

use std::sync::Arc;

use mesh_model::address_policy::{AddressPolicy, OwnRanges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::view::{PeerPin, PeerView};
use mesh_peers::PeerFile;
use node_agent::peers::{Link, PeerStatus, Phase};

/// A peer in cluster `number`, with pods in `10.NUMBER/16`, whose etcd holds these records.
pub(crate) fn peer(number: u64, records: &[(&str, &str)]) -> (ClusterName, PeerStatus) {
    let name = ClusterName::new(&format!("peer-{number}")).unwrap();
    let text = format!(
        "id: {number}\nendpoints: [\"http://10.0.0.1:2379\"]\nranges: {{pods: [10.{number}.0.0/16]}}\n"
    );
    let file = PeerFile::parse(&name, "x.yaml", &text).unwrap();
    let policy = AddressPolicy::new(file.ranges.clone(), OwnRanges::default());
    let mut view = PeerView::new(PeerPin { name: name.clone(), id: ClusterId::new(number).unwrap(), policy });
    view.begin_list();
    let root = "clustermesh/v1";
    view.list_entry(
        &format!("{root}/clusters/{name}"),
        format!(r#"{{"id": {number}, "incarnation": "one"}}"#).as_bytes(),
    );
    for kind in ["services", "endpoints", "nodes"] {
        view.list_entry(&format!("{root}/synced/{name}/{kind}"), b"{}");
    }
    for (key, value) in records {
        let (kind, rest) = key.split_once('/').unwrap();
        view.list_entry(&format!("{root}/{kind}/{name}/{rest}"), value.as_bytes());
    }
    view.end_list();
    let status = PeerStatus {
        file: Some(Arc::new(file)),
        file_error: None,
        refused_id: None,
        kept_since: None,
        policy: None,
        link: Link { phase: Phase::Following, ..Link::default() },
        snapshot: view.snapshot(),
    };
    (name, status)
}

/// A peer's Service with one port and one slice.
pub(crate) fn serving(number: u64, port: &str, slice: &str) -> (ClusterName, PeerStatus) {
    peer(
        number,
        &[("services/ns/base", &format!(r#"{{"ports": [{port}]}}"#)), ("endpoints/ns/base/base-1", slice)],
    )
}
