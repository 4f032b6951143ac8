//! Random clusters out of a small universe of names, so that things meet.
#![allow(dead_code, reason = "every test binary uses some of them")]

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::address::Address;
use mesh_model::annotation::{Affinity, Scope};
use mesh_model::audience::Audience;
use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Node, Protocol, Service, ServicePort, Slice, SlicePort,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{ip, nets, port, target};

pub(crate) fn affinities() -> impl Strategy<Value = Affinity> {
    select(vec![Affinity::None, Affinity::Local, Affinity::Remote])
}

pub(crate) fn protocols() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn port_names() -> impl Strategy<Value = &'static str> {
    select(vec!["", "http", "dns", "metrics"])
}

pub(crate) fn service_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let one = (port_names(), protocols(), select(vec![53_u16, 80, 443]));
    vec(one.prop_map(|(name, protocol, number)| port(name, protocol, number)), 0..4)
}

fn slice_ports() -> impl Strategy<Value = Vec<SlicePort>> {
    let one = (port_names(), protocols(), select(vec![5353_u16, 8080, 8443]));
    vec(one.prop_map(|(name, protocol, number)| target(name, protocol, number)), 0..4)
}

pub(crate) fn conditions() -> impl Strategy<Value = Condition> {
    any::<(bool, bool, bool)>().prop_map(|(ready, serving, terminating)| Condition {
        ready,
        serving,
        terminating,
    })
}

/// Addresses of `empire`, with some that its peers must refuse.
fn addresses() -> impl Strategy<Value = Address> {
    let number = 0_u8..12;
    prop_oneof![
        8 => number.clone().prop_map(|n| ip(&format!("10.2.0.{n}"))),
        4 => number.prop_map(|n| ip(&format!("fd02::{n:x}"))),
        1 => select(vec![ip("10.1.0.1"), ip("169.254.169.254"), ip("::1"), ip("10.9.9.9")]),
    ]
}

pub(crate) fn endpoints() -> impl Strategy<Value = Endpoint> {
    let node = option::of(select(vec!["node-1", "node-2.example"]));
    let text = option::of("[ -~é\"\\\\\n]{0,12}");
    (addresses(), conditions(), node, text.clone(), text).prop_map(
        |(address, condition, node, zone, hostname)| Endpoint {
            node: node.map(|node| NodeName::new(node).unwrap()),
            zone,
            hostname,
            ..Endpoint::new(address, condition)
        },
    )
}

pub(crate) fn slices() -> impl Strategy<Value = Slice> {
    // Usually a few; sometimes enough for several chunks.
    let sizes = prop_oneof![9 => 0_usize..6, 1 => 95_usize..320];
    let endpoints = sizes.prop_flat_map(|size| vec(endpoints(), size));
    (slice_ports(), endpoints).prop_map(|(ports, endpoints)| Slice { ports, endpoints })
}

pub(crate) fn slice_names() -> impl Strategy<Value = SliceName> {
    select(vec!["s", "s.1", "s.2", "t-9"]).prop_map(|name| SliceName::new(name).unwrap())
}

pub(crate) fn audiences() -> impl Strategy<Value = Audience> {
    let texts = select(vec!["rebels", "rebels,endor", "endor"]);
    let some = texts.prop_map(|text| Audience::parse(text).unwrap());
    prop_oneof![4 => Just(Audience::Everybody), 2 => some, 1 => Just(Audience::nobody())]
}

pub(crate) fn services() -> impl Strategy<Value = Service> {
    let scope = (any::<bool>(), affinities(), audiences()).prop_map(|(shared, affinity, audience)| Scope {
        shared,
        affinity,
        audience,
    });
    let ips = select(vec![vec![], vec![ip("10.102.0.1")], vec![ip("10.102.0.1"), ip("fd12::1")]]);
    let slices = btree_map(slice_names(), slices().prop_map(Arc::new), 0..4);
    let created_at = option::of(Just("2026-11-24T18:00:00Z".to_owned()));
    (scope, ips, service_ports(), option::of(any::<u32>()), created_at, slices).prop_map(
        |(scope, cluster_ips, ports, session_affinity_seconds, created_at, slices)| Service {
            scope,
            cluster_ips,
            ports,
            session_affinity_seconds,
            node_local: false,
            created_at,
            slices,
        },
    )
}

pub(crate) fn service_names() -> impl Strategy<Value = ServiceName> {
    select(vec!["default/base", "default/base-2", "hoth/base"]).prop_map(|name| name.parse().unwrap())
}

fn nodes() -> impl Strategy<Value = Node> {
    (vec(addresses(), 0..3), select(vec![vec![], nets(&["10.2.1.0/24", "fd02:1::/64"])])).prop_map(
        |(addresses, pod_cidrs)| Node {
            addresses: addresses.into_iter().map(Into::into).collect(),
            pod_cidrs,
        },
    )
}

pub(crate) fn snapshots() -> impl Strategy<Value = ClusterSnapshot> {
    let services: BoxedStrategy<BTreeMap<ServiceName, Service>> =
        btree_map(service_names(), services(), 0..4).boxed();
    let node_names = select(vec!["node-1", "node-2.example"]).prop_map(|name| NodeName::new(name).unwrap());
    (services, btree_map(node_names, nodes(), 0..3)).prop_map(|(services, nodes)| ClusterSnapshot {
        services: services.into_iter().map(|(name, service)| (name, Arc::new(service))).collect(),
        nodes: nodes.into_iter().map(|(name, node)| (name, Arc::new(node))).collect(),
        ..ClusterSnapshot::default()
    })
}
