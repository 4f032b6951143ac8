//! Every reason for which something is left out of a Service can be reached, from objects and records as they come.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod records;

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName, NodeName, ServiceName};
use mesh_model::reason::{Omission, Reason};
use mesh_model::snapshot::{ClusterSnapshot, Protocol};
use mesh_model::view::{Cut, Excess, PeerSnapshot};
use mesh_source::{Manifests, SourceMetrics, Status};
use node_agent::merge::reasons::{Evidence, RefusedFrontend};
use node_agent::peers::{PeerSet, PeerStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use records::{peer, serving};

fn id(id: u64) -> ClusterId {
    ClusterId::new(id).unwrap()
}

/// A global Service on port `http` and a slice of some endpoints, in YAML's JSON.
fn objects(spec: &str, slice: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "base", "namespace": "ns",
  "annotations": {{"clustermesh.io/global": "true"}}}}, "spec": {{{spec}}}}}
---
{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {{"name": "base-1",
  "namespace": "ns", "labels": {{"kubernetes.io/service-name": "base"}}}}, {slice}}}
"#
    )
}

const SPEC: &str = r#""clusterIPs": ["10.101.0.1"], "ports": [{"name": "http", "port": 80}]"#;
const SLICE: &str =
    r#""ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["10.1.0.1"]}]"#;

/// What the real source makes of a folder.
async fn source(text: &str) -> (Arc<ClusterSnapshot>, Arc<Status>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.yaml"), text).unwrap();
    let source = Manifests::new(folder.path(), SourceMetrics::unregistered());
    let source = source.seen_from(Some(NodeName::new("node-1").unwrap()));
    let (mut snapshots, status) = (source.snapshots(), source.status());
    let token = CancellationToken::new();
    let running = tokio::spawn(source.run(token.clone()));
    let snapshot = snapshots.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    let status: watch::Ref<'_, Arc<Status>> = status.borrow();
    let found = (snapshot, status.clone());
    token.cancel();
    drop(running);
    found
}

const HTTP: &str = r#"{"name": "http", "port": 80}"#;

/// A slice of one endpoint that is ready.
fn ready(number: u64) -> String {
    format!(
        r#"{{"ports": [{{"name": "http", "port": 8080}}], "endpoints": [{{"address": "10.{number}.0.1"}}]}}"#
    )
}

struct Case {
    text: String,
    peers: Vec<(ClusterName, PeerStatus)>,
    refused: Vec<RefusedFrontend>,
    heard: bool,
}

impl Case {
    fn of(text: String) -> Self {
        Self { text, peers: Vec::new(), refused: Vec::new(), heard: true }
    }

    fn with(peers: impl IntoIterator<Item = (ClusterName, PeerStatus)>) -> Self {
        Self { peers: peers.into_iter().collect(), ..Self::of(objects(SPEC, SLICE)) }
    }

    async fn omissions(self) -> Vec<Omission> {
        let (snapshot, status) = source(&self.text).await;
        let peers = PeerSet { peers: self.peers.into_iter().collect(), ..PeerSet::default() };
        let local = self.heard.then_some(&*snapshot);
        Evidence::new(id(1), (local, &status), &peers, &self.refused).omissions(&base())
    }

    /// The cluster, port and number of endpoints of the only omission of this reason.
    async fn only(self, reason: Reason, seen: &mut BTreeSet<Reason>) -> Omission {
        let all = self.omissions().await;
        seen.extend(all.iter().map(|omission| omission.reason));
        let mut those = all.iter().filter(|omission| omission.reason == reason);
        let (Some(only), None) = (those.next(), those.next()) else { panic!("{reason}: {all:?}") };
        assert!(!only.detail.is_empty());
        only.clone()
    }
}

fn base() -> ServiceName {
    "ns/base".parse().unwrap()
}

fn refused(reason: Reason) -> Case {
    let frontend = Frontend { address: "10.101.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
    let refused =
        RefusedFrontend { frontend, service: Some(base()), cluster: None, reason, text: "so it is".into() };
    Case { refused: vec![refused], ..Case::with([]) }
}

#[tokio::test]
async fn a_service_that_takes_part_whole_has_nothing_left_out() {
    assert_eq!(Case::with([serving(2, HTTP, &ready(2))]).omissions().await, []);
}

#[tokio::test]
async fn every_reason_is_reached() {
    let mut seen = BTreeSet::new();
    of_the_service(&mut seen).await;
    of_frontends(&mut seen).await;
    of_clusters(&mut seen).await;
    of_ports(&mut seen).await;
    of_own_endpoints(&mut seen).await;
    of_peers_endpoints(&mut seen).await;
    let all: BTreeSet<Reason> = Reason::ALL.iter().copied().collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "no case leads to these: {missing:?}");
}

async fn of_the_service(seen: &mut BTreeSet<Reason>) {
    let own = |spec: &str| Case::of(objects(spec, SLICE));
    let other = objects(SPEC, SLICE).replace("clustermesh.io/global", "example.org/global");
    Case::of(other).only(Reason::NotGlobal, seen).await;
    own(r#""clusterIPs": ["None"]"#).only(Reason::NotBalanced, seen).await;
    own(&SPEC.replace("10.101.0.1", "no address")).only(Reason::Invalid, seen).await;
    let other = objects(SPEC, SLICE);
    let global = r#""clustermesh.io/global": "true""#;
    assert!(other.contains(global), "{other}");
    let for_some = other.replace(global, &format!(r#"{global}, "clustermesh.io/export-to": "Yavin""#));
    Case::of(for_some).only(Reason::ExportToInvalid, seen).await;
    let sctp = SPEC.replace("80}", r#"80}, {"name": "sig", "port": 81, "protocol": "SCTP"}"#);
    own(&sctp).only(Reason::Unsupported, seen).await;
    let ports = (0..20_001).map(|number| format!(r#"{{"name": "p{number}", "port": {}}}"#, number + 1));
    let ports = ports.collect::<Vec<_>>().join(",");
    own(&format!(r#""clusterIPs": ["10.101.0.1"], "ports": [{ports}]"#)).only(Reason::OverLimit, seen).await;
    Case { heard: false, ..Case::with([]) }.only(Reason::Unread, seen).await;
    own(&format!(r#"{SPEC}, "internalTrafficPolicy": "Local""#)).only(Reason::NodeLocal, seen).await;
}

async fn of_frontends(seen: &mut BTreeSet<Reason>) {
    for reason in [Reason::AddressTaken, Reason::NoRoom, Reason::OverQuota, Reason::WriteFailed] {
        let omission = refused(reason).only(reason, seen).await;
        assert_eq!(omission.port.unwrap().to_string(), "http 80/TCP");
        assert!(omission.detail.contains("10.101.0.1:80/TCP: so it is"), "{}", omission.detail);
    }
}

async fn of_clusters(seen: &mut BTreeSet<Reason>) {
    let (name, status) = peer(2, &[]);
    let broken = PeerStatus {
        file: None,
        file_error: Some("it is empty".into()),
        refused_id: Some(id(2)),
        ..status.clone()
    };
    let omission = Case::with([(name.clone(), broken)]).only(Reason::PeerRefused, seen).await;
    assert_eq!((omission.cluster, omission.detail.as_str()), (Some(id(2)), "it is empty"));
    let silent = PeerStatus { snapshot: Arc::default(), ..status };
    Case::with([(name, silent)]).only(Reason::PeerSilent, seen).await;
    let omission = Case::with([peer(2, &[])]).only(Reason::NotOffered, seen).await;
    assert_eq!(omission.cluster, Some(id(2)));
    let (name, status) = serving(2, HTTP, &ready(2));
    let cuts = vec![Cut { excess: Excess::Backends, allowed: 1, from: Some(base()) }];
    let whole = Arc::unwrap_or_clone(status.snapshot);
    for services in [whole.services.clone(), Default::default()] {
        let snapshot = Arc::new(PeerSnapshot { cuts: cuts.clone(), services, ..whole.clone() });
        let status = PeerStatus { snapshot, ..peer(2, &[]).1 };
        let omission = Case::with([(name.clone(), status)]).only(Reason::OverQuota, seen).await;
        assert!(omission.detail.contains("--max-peer-backends"), "{}", omission.detail);
    }
    let many = (2..=17).map(|number| serving(number, HTTP, &ready(number)));
    Case::with(many).only(Reason::TooManyClusters, seen).await;
}

async fn of_ports(seen: &mut BTreeSet<Reason>) {
    let web = r#"{"name": "web", "port": 8000}"#;
    let omission = Case::with([serving(2, web, &ready(2))]).only(Reason::PortMismatch, seen).await;
    assert_eq!(omission.port.unwrap().to_string(), "http 80/TCP");
    assert!(omission.detail.contains("it exposes web 8000/TCP"), "{}", omission.detail);
    let more = vec![r#"{"port": 1}"#; 20_000].join(",");
    let many = serving(2, &format!("{HTTP}, {more}"), &ready(2));
    assert_eq!(Case::with([many]).only(Reason::TooManyPorts, seen).await.cluster, Some(id(2)));
    let elsewhere = ready(2).replace("http", "web");
    let omission = Case::with([serving(2, HTTP, &elsewhere)]).only(Reason::PortNotServed, seen).await;
    assert_eq!((omission.cluster, omission.endpoints), (Some(id(2)), 1));
}

async fn of_own_endpoints(seen: &mut BTreeSet<Reason>) {
    let own = |slice: &str| Case::of(objects(SPEC, slice));
    let two = |rest: &str| SLICE.replace("]}]", &format!(r#"]}}, {{"addresses": ["10.1.0.2"]{rest}}}]"#));
    own(&SLICE.replace(r#"{"addresses": ["10.1.0.1"]}"#, "")).only(Reason::NoEndpoints, seen).await;
    let unready = two(r#", "conditions": {"ready": false}"#);
    assert_eq!(own(&unready).only(Reason::NotReady, seen).await.endpoints, 1);
    let fading = two(r#", "conditions": {"ready": false, "serving": true, "terminating": true}"#);
    assert_eq!(own(&fading).only(Reason::Terminating, seen).await.endpoints, 1);
    let v6 = Case::of(objects(&SPEC.replace("10.101.0.1", "fd11::1"), SLICE));
    assert_eq!(v6.only(Reason::OtherFamily, seen).await.endpoints, 1);

    let hinted = |zone: &str| format!(r#", "hints": {{"forZones": [{{"name": "{zone}"}}]}}"#);
    let near = SLICE
        .replace("]}]", &format!(r#"]{}}}, {{"addresses": ["10.1.0.2"]{}}}]"#, hinted("a"), hinted("b")));
    let spec = format!(r#"{SPEC}, "trafficDistribution": "PreferSameZone""#);
    let node = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1",
        "labels": {"topology.kubernetes.io/zone": "a"}}}"#;
    let case = Case::of(format!("{}---\n{node}", objects(&spec, &near)));
    assert_eq!(case.only(Reason::HintedAway, seen).await.endpoints, 1);
}

async fn of_peers_endpoints(seen: &mut BTreeSet<Reason>) {
    let of = |slice: String| Case::with([serving(2, HTTP, &slice)]);
    let only = of(ready(3)).only(Reason::OutsideRanges, seen).await;
    assert_eq!((only.cluster, only.endpoints), (Some(id(2)), 1));
    assert_eq!(of("rebel".into()).only(Reason::RecordRefused, seen).await.cluster, Some(id(2)));
    let bad = ready(2).replace("10.2.0.1", "no address");
    assert_eq!(of(bad).only(Reason::EndpointRefused, seen).await.endpoints, 1);

    // More than 100,000 endpoints.
    let slice = |part: u32| {
        let address = |number: u32| {
            let [_, _, c, d] = number.to_be_bytes();
            format!(r#"{{"address":"10.2.{c}.{d}"}}"#)
        };
        let endpoints: Vec<_> =
            (part * 20_000..(part + 1) * 20_000).map(|number| address(number % 65_536)).collect();
        format!(r#"{{"ports": [{{"name": "http", "port": 8080}}], "endpoints": [{}]}}"#, endpoints.join(","))
    };
    let slices: Vec<_> = (0..6).map(|part| (format!("endpoints/ns/base/base-{part}"), slice(part))).collect();
    let service = format!(r#"{{"ports": [{HTTP}]}}"#);
    let slices = slices.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let records: Vec<_> = slices.chain([("services/ns/base", service.as_str())]).collect();
    Case::with([peer(2, &records)]).only(Reason::TooManyEndpoints, seen).await;
}
