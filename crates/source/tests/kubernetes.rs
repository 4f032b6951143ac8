//! The source on an API server that refuses, forgets, falls silent and comes back.
#![allow(clippy::unwrap_used, clippy::panic)]

mod fake;

use std::sync::Arc;
use std::time::Duration;

use fake::{FakeApi, Streaming, yaml};
use mesh_model::fence::OwnRanges;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;
use mesh_source::kubernetes::{Access, Events, Kubernetes, Options};
use mesh_source::{Reason, SourceMetrics, Status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    status: watch::Receiver<Arc<Status>>,
    ranges: watch::Receiver<Option<Arc<OwnRanges>>>,
    metrics: SourceMetrics,
    events: Events,
    /// Another process's, which is to lead next.
    successor: Events,
    leading: watch::Sender<bool>,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(api: &FakeApi) -> Self {
        let metrics = SourceMetrics::unregistered();
        let access = Access { kubeconfig: Some(api.kubeconfig()) };
        let options = Options { node: None, service_cidrs: true };
        let source = Kubernetes::new(access.clone(), options, metrics.clone());
        let (snapshots, status, ranges) = (source.snapshots(), source.status(), source.ranges());
        let (leading, led) = watch::channel(false);
        let write = |access, name| Events::new(access, name, source.reports(), led.clone(), metrics.clone());
        let (events, successor) = (write(access.clone(), "test-0"), write(access, "test-1"));
        let token = CancellationToken::new();
        let task = tokio::spawn(source.run(token.clone()));
        Self { snapshots, status, ranges, metrics, events, successor, leading, token, task }
    }

    /// Waits until the snapshot holds these Services with these first addresses.
    async fn until(&mut self, wanted: &[(&str, &[u8])]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(name, hosts)| ((*name).to_owned(), hosts.to_vec())).collect();
        let has = |snapshot: &Option<Arc<ClusterSnapshot>>| {
            snapshot.as_ref().is_some_and(|snapshot| said(snapshot) == wanted)
        };
        let waited = tokio::time::timeout(DEADLINE, self.snapshots.wait_for(has)).await.map(drop);
        if waited.is_err() {
            let now = self.snapshots.borrow().as_deref().map(said);
            panic!("never became {wanted:?}, but {now:?}; {:?}", self.status.borrow());
        }
    }

    async fn until_reasons(&mut self, wanted: &[Reason]) {
        let has =
            |status: &Arc<Status>| status.problems.iter().map(|it| it.reason).eq(wanted.iter().copied());
        let waited = tokio::time::timeout(DEADLINE, self.status.wait_for(has)).await.map(drop);
        waited.unwrap_or_else(|_| panic!("never became {wanted:?}, but {:?}", self.status.borrow()));
    }

    async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("stops in time").expect("no panic");
    }
}

/// Services and the last bytes of their endpoints.
fn said(snapshot: &ClusterSnapshot) -> Vec<(String, Vec<u8>)> {
    let hosts = |service: &mesh_model::snapshot::Service| {
        let endpoints = service.slices.values().flat_map(|slice| &slice.endpoints);
        let last = |address: std::net::IpAddr| match address {
            std::net::IpAddr::V4(v4) => v4.octets()[3],
            std::net::IpAddr::V6(v6) => v6.octets()[15],
        };
        let mut hosts: Vec<u8> = endpoints.map(|endpoint| last(endpoint.address)).collect();
        hosts.sort_unstable();
        hosts
    };
    snapshot.services.iter().map(|(name, service)| (name.name().to_owned(), hosts(service))).collect()
}

fn service(name: &str, global: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "annotations": {"clustermesh.io/global": global.to_string()}},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
    })
}

fn slice(name: &str, service: &str, hosts: &[u8]) -> Value {
    let endpoints: Vec<Value> =
        hosts.iter().map(|host| json!({"addresses": [format!("10.1.0.{host}")]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    })
}

fn node(name: &str, number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDRs": [format!("10.1.{number}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.0.{number}")}]},
    })
}

async fn small() -> FakeApi {
    let api = FakeApi::start().await;
    for object in [service("a", true), service("b", false), slice("a-1", "a", &[1]), slice("b-1", "b", &[2])]
    {
        api.put(object);
    }
    api
}

fn lists(api: &FakeApi, resource: &str) -> Vec<String> {
    let is_list =
        |request: &String| request.contains(&format!("/{resource}?")) && !request.contains("watch=1");
    api.requests().into_iter().filter(is_list).collect()
}

#[tokio::test]
async fn a_streamed_list_and_then_changes_are_followed() {
    let api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    assert_eq!(running.status.borrow().knowledge, Knowledge::Complete);
    assert!(lists(&api, "services").is_empty(), "nothing is paged where lists are streamed");
    api.put(slice("a-2", "a", &[3, 4]));
    running.until(&[("a", &[1, 3, 4])]).await;
    api.delete(&slice("a-1", "a", &[]));
    running.until(&[("a", &[3, 4])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_service_becomes_global_with_the_slices_it_has_and_stops_being_it() {
    let api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    api.put(slice("b-1", "b", &[7]));
    api.put(service("b", true));
    running.until(&[("a", &[1]), ("b", &[7])]).await;
    api.put(service("a", false));
    running.until(&[("b", &[7])]).await;
    api.put(service("a", true));
    running.until(&[("a", &[1]), ("b", &[7])]).await;
    running.stop().await;
}

#[tokio::test]
async fn an_unrelated_change_makes_no_snapshot() {
    let api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    running.snapshots.mark_unchanged();
    api.put(slice("b-1", "b", &[8]));
    api.put(slice("b-2", "b", &[9]));
    api.put(node("n1", 1));
    running.until(&[("a", &[1])]).await;
    tokio::time::timeout(DEADLINE, running.snapshots.wait_for(|it| !it.as_ref().unwrap().nodes.is_empty()))
        .await
        .unwrap()
        .unwrap();
    api.put(slice("a-1", "a", &[5]));
    let mut seen = 0;
    while said(running.snapshots.borrow_and_update().as_ref().unwrap()) != [("a".to_owned(), vec![5])] {
        tokio::time::timeout(DEADLINE, running.snapshots.changed()).await.unwrap().unwrap();
        seen += 1;
    }
    assert!(seen <= 1, "{seen} snapshots for one change");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_refuses_streamed_lists_is_asked_for_pages() {
    for code in [400, 422, 500] {
        let api = small().await;
        api.behave(|it| (it.streaming, it.page) = (Streaming::Refused(code), 1));
        let mut running = Running::start(&api);
        running.until(&[("a", &[1])]).await;
        assert_eq!(lists(&api, "services").len(), 2, "two pages of one Service each");
        assert_eq!(running.metrics.failures.get(), 0, "that is no failure");
        api.put(slice("a-1", "a", &[2]));
        running.until(&[("a", &[2])]).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_knows_nothing_of_streamed_lists_is_asked_for_pages() {
    let api = small().await;
    api.behave(|it| it.streaming = Streaming::Unknown);
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    assert_eq!(lists(&api, "services").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_page_that_has_expired_begins_the_list_anew() {
    let api = small().await;
    api.behave(|it| (it.streaming, it.page, it.expired_pages) = (Streaming::Refused(422), 1, 1));
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_position_leads_to_a_new_list_without_a_loss() {
    let mut api = small().await;
    api.put(service("c", true));
    let mut running = Running::start(&api);
    running.until(&[("a", &[1]), ("c", &[])]).await;
    api.stop();
    running.until_reasons(&[Reason::api_unavailable]).await;
    api.delete(&service("c", true));
    api.put(slice("a-1", "a", &[9]));
    api.put(service("d", true));
    api.compact();
    api.resume().await;
    running.until(&[("a", &[9]), ("d", &[])]).await;
    running.until_reasons(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn an_outage_keeps_the_last_state() {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    api.stop();
    running.until_reasons(&[Reason::api_unavailable]).await;
    let message = running.status.borrow().problems[0].message.clone();
    assert!(message.contains("what is known stays"), "{message}");
    assert_eq!(running.status.borrow().knowledge, Knowledge::Complete);
    running.until(&[("a", &[1])]).await;
    running.snapshots.mark_unchanged();
    api.resume().await;
    running.until_reasons(&[]).await;
    assert!(!running.snapshots.has_changed().unwrap(), "nothing has changed, so nothing is published");
    assert_eq!(running.metrics.lists.get_or_create(&label()).get(), 1, "a watch goes on where it was");
    running.stop().await;
}

fn label() -> mesh_source::metrics::ResourceLabels {
    mesh_source::metrics::ResourceLabels { resource: mesh_source::metrics::Resource::services }
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    let passes = running.metrics.passes.get();
    let position = api.bookmark();
    wait_for("the bookmarks are seen", || running.metrics.passes.get() > passes).await;
    let goes_on = |resource: &str, api: &FakeApi| {
        let wanted = format!("resourceVersion={position}");
        let of = |request: &&String| request.contains(&format!("/{resource}?")) && request.contains(&wanted);
        api.requests().iter().filter(of).count()
    };
    api.cut().await;
    wait_for("Services go on", || goes_on("services", &api) == 1).await;
    wait_for("slices go on", || goes_on("endpointslices", &api) == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_known_before_every_kind_was_listed() {
    let api = small().await;
    api.refuse("endpointslices", 403);
    let mut running = Running::start(&api);
    running.until_reasons(&[Reason::api_unavailable]).await;
    wait_for("Services are listed", || running.metrics.changes.get_or_create(&label()).get() == 2).await;
    assert!(running.snapshots.borrow().is_none(), "ignorance is not emptiness");
    assert_eq!(running.status.borrow().knowledge, Knowledge::Partial);
    let message = running.status.borrow().problems[0].message.clone();
    assert!(message.contains("endpointslices can't be followed") && message.contains("403"), "{message}");
    api.behave(|it| it.refused.clear());
    running.until(&[("a", &[1])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_rotated_token_needs_no_restart() {
    let mut api = small().await;
    api.behave(|it| it.token = Some("first".into()));
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    api.write_token("second");
    api.behave(|it| it.token = Some("second".into()));
    api.put(slice("a-1", "a", &[2]));
    api.cut().await;
    running.until(&[("a", &[2])]).await;
    running.until_reasons(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn positions_from_the_future_end_in_a_new_list() {
    let api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    // As when the server's storage is restored from a backup: it refuses positions that it has not reached.
    api.refuse("endpointslices", 504);
    let mut api = api;
    api.cut().await;
    let slices = || {
        api.requests()
            .iter()
            .filter(|it| it.contains("/endpointslices?watch=1&allow") && it.contains("&resourceVersion="))
            .count()
    };
    wait_for("three refusals", || slices() >= 3).await;
    api.behave(|it| it.refused.clear());
    let listed =
        mesh_source::metrics::ResourceLabels { resource: mesh_source::metrics::Resource::endpointslices };
    wait_for("a new list", || running.metrics.lists.get_or_create(&listed).get() == 2).await;
    running.until(&[("a", &[1])]).await;
    running.stop().await;
}

#[tokio::test]
async fn nodes_and_service_cidrs_tell_the_ranges() {
    let api = small().await;
    api.put(node("n1", 0));
    api.put(node("n2", 1));
    api.put(
        yaml(
            "kind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16, \"fd00::/108\"]}",
        )[0]
        .clone(),
    );
    let mut running = Running::start(&api);
    let ranges = tokio::time::timeout(DEADLINE, running.ranges.wait_for(Option::is_some)).await.unwrap();
    let ranges = ranges.unwrap().clone().unwrap();
    assert_eq!(ranges.pods, ["10.1.0.0/23".parse().unwrap()]);
    assert_eq!(ranges.nodes, ["192.168.0.0/31".parse().unwrap()]);
    assert_eq!(ranges.services.len(), 2);
    api.put(node("n3", 7));
    let more = |ranges: &Option<Arc<OwnRanges>>| ranges.as_ref().unwrap().pods.len() == 2;
    tokio::time::timeout(DEADLINE, running.ranges.wait_for(more)).await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_server_without_service_cidrs_tells_none() {
    let api = small().await;
    api.refuse("servicecidrs", 404);
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    assert!(running.ranges.borrow().as_ref().unwrap().services.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn only_the_leader_tells_owners_and_each_finding_once() {
    let api = small().await;
    let mut headless = service("h", true);
    headless["spec"]["clusterIPs"] = json!(["None"]);
    api.put(headless.clone());
    let mut running = Running::start(&api);
    running.until_reasons(&[Reason::headless]).await;
    assert!(api.written().is_empty(), "nobody leads");
    let token = running.token.clone();
    let events = tokio::spawn(running.events.run(token.clone()));
    running.leading.send_replace(true);
    wait_for("an Event", || api.written().len() == 1).await;
    let event = api.written()[0].clone();
    assert_eq!(event["regarding"]["uid"], "uid-h");
    assert_eq!((&event["reason"], &event["type"]), (&json!("Headless"), &json!("Warning")));
    assert!(event["note"].as_str().unwrap().contains("headless Service"), "{event}");
    // A new leader finds it told.
    let successor = tokio::spawn(running.successor.run(token.clone()));
    let posts = || api.requests().iter().filter(|request| request.starts_with("POST")).count();
    wait_for("the new leader has tried", || posts() == 2).await;
    assert_eq!(api.written().len(), 1);
    // A Service recreated under the same name is another.
    api.delete(&headless);
    headless["metadata"]["uid"] = json!("uid-h2");
    api.put(headless);
    wait_for("another Event", || api.written().len() == 2).await;
    token.cancel();
    events.await.unwrap();
    successor.await.unwrap();
    running.task.await.unwrap();
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
