//! Objects of the exporter's tests: of those beside its code, and, by its path, of those in `tests`.
#![allow(clippy::unwrap_used, dead_code, reason = "of tests only, and not all of them need all of it")]

use std::sync::Arc;

use mesh_model::address::Address;
use mesh_model::address_policy::OwnRanges;
use mesh_model::annotation::Scope;
use mesh_model::export::Identity;
use mesh_model::name::{ClusterId, ClusterName, SliceName};
use mesh_model::snapshot::{Condition, Endpoint, Service, Slice};

pub(crate) fn identity(name: &str, id: u64) -> Identity {
    Identity {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id).unwrap(),
        ranges: OwnRanges { pods: vec!["10.2.0.0/16".parse().unwrap()], ..OwnRanges::default() },
    }
}

/// A ready endpoint of which nothing else is known.
pub(crate) fn endpoint(address: impl Into<Address>) -> Endpoint {
    Endpoint::new(address, Condition::READY)
}

/// A shared service with these slices.
pub(crate) fn service<'a>(slices: impl IntoIterator<Item = (&'a str, Vec<Endpoint>)>) -> Arc<Service> {
    let slice =
        |(name, endpoints)| (SliceName::new(name).unwrap(), Arc::new(Slice { ports: Vec::new(), endpoints }));
    Arc::new(Service {
        scope: Scope::GLOBAL,
        cluster_ips: vec![[10, 102, 0, 1].into()],
        ports: Vec::new(),
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: slices.into_iter().map(slice).collect(),
    })
}
