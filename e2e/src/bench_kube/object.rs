//! Services without selectors and EndpointSlices without pods: no controller stands between them and the watches.

use std::net::Ipv4Addr;

use http::Method;
use serde_json::{Value, json};

use super::api::Change;

/// Where all of them are.
pub(crate) const NAMESPACE: &str = "bench";
pub(crate) const ENDPOINTS: usize = 10;
/// Addresses that the changing endpoint takes in turn.
const ALTERNATES: usize = 2;

/// So many Services are within the ranges that other clusters accept: the lab's nodes. Their addresses come again.
pub(crate) const GLOBAL: usize = 50;
const REAL_NODES: usize = 2;
/// Of a real node's range, which it gives out from below.
const FIRST_SLOT: u8 = 128;
const PER_REAL_NODE: usize = 120;
/// All others are on nodes that don't exist, each at an address of its own.
const FIRST_NODE: u8 = 10;
const PER_NODE: usize = 250;

/// "namespace/name" of the `number`th Service.
pub(crate) fn full_name(number: usize) -> String {
    format!("{NAMESPACE}/{}", name(number))
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

pub(crate) fn namespace() -> Change {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    Change { method: Method::POST, path: "/api/v1/namespaces".into(), object }
}

pub(crate) fn service(number: usize, global: bool) -> Change {
    let annotations = if global { json!({"clustermesh.io/global": "true"}) } else { json!({}) };
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(number), "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    Change { method: Method::POST, path: format!("/api/v1/namespaces/{NAMESPACE}/services"), object }
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

/// A watch of the changes of all slices from now on.
pub(crate) fn watch_of_slices() -> String {
    format!("{}?watch=1", slices())
}

/// The only slice of a Service in the cluster with this id.
pub(crate) fn new_slice(cluster: u8, number: usize) -> Change {
    Change { method: Method::POST, path: slices(), object: slice(cluster, number, 0) }
}

/// The same with another address of one endpoint, by the generation.
pub(crate) fn changed_slice(cluster: u8, number: usize, generation: usize) -> Change {
    let object = slice(cluster, number, generation);
    Change { method: Method::PUT, path: format!("{}/{}-x", slices(), name(number)), object }
}

fn slice(cluster: u8, number: usize, generation: usize) -> Value {
    let endpoint = |place: usize| {
        json!({
            "addresses": [address(cluster, number, place)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", place % 7),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{number}-{place}")},
        })
    };
    let changing = 1 + generation % ALTERNATES;
    let places = (0..ENDPOINTS - 1).map(|place| place + 1 + ALTERNATES).chain([changing]);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-x", name(number)),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": name(number),
                "endpointslice.kubernetes.io/managed-by": "bench.clustermesh.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": places.map(endpoint).collect::<Vec<_>>(),
    })
}

/// The address of one of a Service's endpoints.
fn address(cluster: u8, number: usize, place: usize) -> Ipv4Addr {
    let at = number * (ENDPOINTS + ALTERNATES) + place;
    let (node, slot) = if number < GLOBAL {
        (at / PER_REAL_NODE % REAL_NODES + 1, at % PER_REAL_NODE + usize::from(FIRST_SLOT))
    } else {
        (at / PER_NODE % usize::from(u8::MAX - FIRST_NODE) + usize::from(FIRST_NODE), at % PER_NODE + 2)
    };
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, cluster, byte(node), byte(slot))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn addresses(generation: usize) -> BTreeSet<String> {
        let slice = slice(1, 3, generation);
        let endpoints = slice["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_generation_moves_one_endpoint() {
        let (before, after) = (addresses(1), addresses(2));
        assert_eq!((before.len(), after.len()), (ENDPOINTS, ENDPOINTS));
        assert_eq!(before.intersection(&after).count(), ENDPOINTS - 1);
    }

    #[test]
    fn global_services_are_on_real_nodes_and_all_others_have_addresses_of_their_own() {
        for number in 0..GLOBAL {
            let [_, cluster, node, slot] = address(1, number, ENDPOINTS).octets();
            assert!(cluster == 1 && (1..=2).contains(&node) && (FIRST_SLOT..=247).contains(&slot));
        }
        let places = |number| (1..=ENDPOINTS + ALTERNATES).map(move |place| address(1, number, place));
        let others: BTreeSet<_> = (GLOBAL..5_000).flat_map(places).collect();
        assert_eq!(others.len(), (5_000 - GLOBAL) * (ENDPOINTS + ALTERNATES));
        assert!(others.iter().all(|address| address.octets()[2] >= FIRST_NODE));
    }
}
