//! Builders shared by the tests of this crate.
#![allow(dead_code, reason = "every test binary uses some of them")]

pub(crate) mod strategies;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::address::Address;
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::annotation::Scope;
use mesh_model::export::{Entries, Identity, export};
use mesh_model::name::{ClusterId, ClusterName, NodeName, PortName, ServiceName, SliceName};
use mesh_model::record::{ClusterRecord, Incarnation, SyncedKind, SyncedRecord};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort,
};
use mesh_model::view::{PeerPin, PeerView};

pub(crate) const SHARED: Scope = Scope::GLOBAL;

pub(crate) fn ip(text: &str) -> Address {
    text.parse().unwrap()
}

pub(crate) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub(crate) fn id(value: u64) -> ClusterId {
    ClusterId::new(value).unwrap()
}

pub(crate) fn service_name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

pub(crate) fn slice_name(text: &str) -> SliceName {
    SliceName::new(text).unwrap()
}

fn port_name(name: &str) -> Option<PortName> {
    (!name.is_empty()).then(|| PortName::new(name).unwrap())
}

/// `""` is no name.
pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: port_name(name), protocol, port }
}

pub(crate) fn target(name: &str, protocol: Protocol, port: u16) -> SlicePort {
    SlicePort { name: port_name(name), protocol, port }
}

pub(crate) fn endpoint(address: &str, condition: Condition) -> Endpoint {
    Endpoint {
        node: Some(NodeName::new("node-1").unwrap()),
        zone: Some("zone-a".into()),
        ..Endpoint::new(ip(address), condition)
    }
}

pub(crate) fn ready(addresses: &[&str]) -> Vec<Endpoint> {
    addresses.iter().map(|address| endpoint(address, Condition::READY)).collect()
}

/// A service with port `http` (80 → 8080) and one slice of the given endpoints.
pub(crate) fn http_service(cluster_ip: &str, endpoints: Vec<Endpoint>) -> Service {
    let slice = Slice { ports: vec![target("http", Protocol::Tcp, 8080)], endpoints };
    Service {
        scope: SHARED,
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![port("http", Protocol::Tcp, 80)],
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: BTreeMap::from([(slice_name("s-1"), Arc::new(slice))]),
    }
}

pub(crate) fn snapshot(services: impl IntoIterator<Item = (ServiceName, Service)>) -> ClusterSnapshot {
    let services = services.into_iter().map(|(name, service)| (name, Arc::new(service))).collect();
    ClusterSnapshot { services, ..ClusterSnapshot::default() }
}

/// Cluster `empire`, id 2: pods in 10.2/16 and fd02::/64, nodes in 192.168.2/24.
pub(crate) fn empire() -> Identity {
    Identity {
        name: cluster("empire"),
        id: id(2),
        ranges: OwnRanges {
            pods: nets(&["10.2.0.0/16", "fd02::/64"]),
            services: nets(&["10.102.0.0/16"]),
            nodes: nets(&["192.168.2.0/24"]),
        },
    }
}

/// How cluster `rebels` (pods 10.1/16, services 10.101/16, nodes 192.168.1/24) sees `empire`.
pub(crate) fn empire_pin() -> PeerPin {
    let own = OwnRanges {
        pods: nets(&["10.1.0.0/16", "fd01::/64"]),
        services: nets(&["10.101.0.0/16"]),
        nodes: nets(&["192.168.1.0/24"]),
    };
    let agreed = Ranges { pods: nets(&["10.2.0.0/16", "fd02::/64"]), nodes: nets(&["192.168.2.0/24"]) };
    PeerPin {
        name: cluster("empire"),
        id: id(2),
        policy: AddressPolicy::new(PeerRanges::Agreed(agreed), own),
    }
}

pub(crate) fn cluster_record(identity: &Identity) -> ClusterRecord {
    ClusterRecord {
        id: identity.id,
        incarnation: Incarnation::new("0f3a").unwrap(),
        ranges: identity.ranges.exported(),
        capabilities: Default::default(),
    }
}

pub(crate) fn markers(name: &ClusterName) -> Vec<(String, Vec<u8>)> {
    SyncedKind::ALL.into_iter().map(|kind| SyncedRecord { revision: 7 }.entry(name, kind)).collect()
}

/// Everything that stands in the etcd of a cluster with this snapshot.
pub(crate) fn store(identity: &Identity, snapshot: &ClusterSnapshot) -> Entries {
    let mut entries = export(identity, snapshot, 1_700_000_000_000_000);
    entries.extend([cluster_record(identity).entry(&identity.name)]);
    entries.extend(markers(&identity.name));
    entries
}

pub(crate) fn list<'a>(view: &mut PeerView, entries: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>) {
    view.begin_list();
    for (key, value) in entries {
        view.list_entry(key, value);
    }
    view.end_list();
}

/// A view of `empire` that has listed this snapshot.
pub(crate) fn listed(snapshot: &ClusterSnapshot) -> PeerView {
    let mut view = PeerView::new(empire_pin());
    list(&mut view, &store(&empire(), snapshot));
    view
}
