//! The source on an API server that refuses, forgets, falls silent and comes back.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::address::Address;
use mesh_model::address_policy::OwnRanges;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;
use mesh_source::kubernetes::{Access, EventWriter, Events, Kubernetes, Notice, Options, Subject};
use mesh_source::metrics::Outcome;
use mesh_source::objects::Kind;
use mesh_source::testing::api::{FakeApi, Streaming, yaml};
use mesh_source::{Known, Reason, SourceMetrics, Status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    known: watch::Receiver<Option<Known>>,
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
        Self::with(api, Options::default())
    }

    fn with(api: &FakeApi, options: Options) -> Self {
        Self::remembering(api, options, None)
    }

    /// Goes on with what a process before it knew.
    fn remembering(api: &FakeApi, options: Options, before: Option<&Known>) -> Self {
        let metrics = SourceMetrics::unregistered();
        let access = Access { kubeconfig: Some(api.kubeconfig()) };
        let options = Options { service_cidrs: true, ..options };
        let mut source = Kubernetes::new(access.clone(), options, metrics.clone());
        if let Some(before) = before {
            source = source.remembering(before, false);
        }
        let (snapshots, status, ranges) = (source.snapshots(), source.status(), source.ranges());
        let known = source.known();
        let (leading, led) = watch::channel(false);
        let write = |access, name| Events::new(access, name, source.reports(), led.clone(), metrics.clone());
        let (events, successor) = (write(access.clone(), "test-0"), write(access, "test-1"));
        let token = CancellationToken::new();
        let task = tokio::spawn(source.run(token.clone()));
        Self { known, snapshots, status, ranges, metrics, events, successor, leading, token, task }
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
        let last = |address: Address| match std::net::IpAddr::from(address) {
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

/// Of a source that needs the latest lists.
fn latest() -> Options {
    Options { latest: true, ..Options::default() }
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
async fn a_server_that_refuses_streamed_lists_is_asked_for_what_its_cache_holds() {
    for code in [400, 422, 500] {
        let api = small().await;
        api.behave(|it| (it.streaming, it.page) = (Streaming::Refused(code), 1));
        let mut running = Running::start(&api);
        running.until(&[("a", &[1])]).await;
        let asked = lists(&api, "services");
        assert!(asked.len() == 1 && asked[0].contains("&resourceVersion=0&"), "{asked:?}");
        assert_eq!(running.metrics.failures.get(), 0, "that is no failure");
        api.put(slice("a-1", "a", &[2]));
        running.until(&[("a", &[2])]).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn who_needs_the_latest_asks_for_pages_of_it() {
    let api = small().await;
    api.behave(|it| (it.streaming, it.page) = (Streaming::Refused(422), 1));
    let mut running = Running::with(&api, latest());
    running.until(&[("a", &[1])]).await;
    let asked = lists(&api, "services");
    assert_eq!(asked.len(), 2, "two pages of one Service each");
    assert!(asked.iter().all(|request| !request.contains("resourceVersion")), "{asked:?}");
    running.stop().await;
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
    let mut running = Running::with(&api, latest());
    running.until(&[("a", &[1])]).await;
    running.stop().await;
}

/// At least so long is waited before the request of this number, from 1, if each comes after a longer pause.
fn paced(request: u32) -> Duration {
    Duration::from_millis(100) * (2_u32.pow(request - 1) - 1)
}

#[tokio::test]
async fn lists_whose_resource_version_is_forgotten_at_once_come_ever_more_rarely() {
    for streaming in [Streaming::Served, Streaming::Refused(422)] {
        let api = small().await;
        api.behave(|it| (it.streaming, it.forgets) = (streaming, true));
        let mut running = Running::start(&api);
        let asked = || match streaming {
            Streaming::Served => api.times(&["/services?", "sendInitialEvents"]),
            _ => api.times(&["/services?limit"]),
        };
        wait_for("six lists", || asked().len() >= 6).await;
        let took = asked()[5].duration_since(asked()[0]);
        assert!(took >= paced(6), "{streaming:?}: six lists within {took:?}");
        // What was listed counts, and changes are seen with the next list.
        running.until(&[("a", &[1])]).await;
        api.put(slice("a-1", "a", &[2]));
        running.until(&[("a", &[2])]).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_list_whose_resource_version_was_forgotten_at_once_is_followed_by_the_latest() {
    let api = small().await;
    api.behave(|it| (it.streaming, it.forgets) = (Streaming::Refused(422), true));
    let running = Running::start(&api);
    wait_for("two lists", || lists(&api, "services").len() >= 2).await;
    let asked = lists(&api, "services");
    assert!(asked[0].contains("resourceVersion=0") && !asked[1].contains("resourceVersion"), "{asked:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_streamed_list_that_ends_too_early_is_replaced_by_an_ordinary_one_after_a_pause() {
    let api = small().await;
    api.behave(|it| it.ends_lists_early = true);
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    let streamed = api.times(&["/services?", "sendInitialEvents"]);
    let listed = api.times(&["/services?limit"]);
    assert_eq!((streamed.len(), listed.len()), (1, 1));
    assert!(listed[0].duration_since(streamed[0]) >= paced(2));
    api.put(slice("a-1", "a", &[2]));
    running.until(&[("a", &[2])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_streamed_list_that_ends_too_early_deletes_nothing() {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    api.behave(|it| (it.ends_lists_early, it.page) = (true, 1));
    api.refuse("services", 403);
    api.stop();
    running.until_reasons(&[Reason::ApiUnavailable]).await;
    api.compact();
    api.resume().await;
    wait_for("slices are listed anew", || !lists(&api, "endpointslices").is_empty()).await;
    running.until(&[("a", &[1])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_resource_version_leads_to_a_new_list_without_a_loss() {
    let mut api = small().await;
    api.put(service("c", true));
    let mut running = Running::start(&api);
    running.until(&[("a", &[1]), ("c", &[])]).await;
    api.stop();
    running.until_reasons(&[Reason::ApiUnavailable]).await;
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
    running.until_reasons(&[Reason::ApiUnavailable]).await;
    let message = running.status.borrow().problems[0].message.clone();
    assert!(message.contains("what is known stays"), "{message}");
    assert_eq!(running.status.borrow().knowledge, Knowledge::Complete);
    running.until(&[("a", &[1])]).await;
    running.snapshots.mark_unchanged();
    api.resume().await;
    running.until_reasons(&[]).await;
    assert!(!running.snapshots.has_changed().unwrap(), "nothing has changed, so nothing is published");
    assert_eq!(running.metrics.lists(Kind::Service).get(), 1, "a watch goes on where it was");
    running.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    let passes = running.metrics.passes.get();
    let resource_version = api.bookmark();
    wait_for("the bookmarks are seen", || running.metrics.passes.get() > passes).await;
    let goes_on = |resource: &str, api: &FakeApi| {
        let wanted = format!("resourceVersion={resource_version}");
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
    running.until_reasons(&[Reason::ApiUnavailable]).await;
    wait_for("Services are listed", || running.metrics.changes(Kind::Service).get() == 2).await;
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

/// The watches of slices that go on from a resource version.
fn slices_go_on(api: &FakeApi) -> Vec<Instant> {
    api.times(&["/endpointslices?watch=1&allow", "&resourceVersion="])
}

fn slices_listed(running: &Running) -> u64 {
    running.metrics.lists(Kind::Slice).get()
}

#[tokio::test]
async fn no_refusal_but_a_forgotten_resource_version_leads_to_a_new_list() {
    let mut all = tokio::task::JoinSet::new();
    for code in [400, 401, 403, 404, 429, 500, 502, 503, 504] {
        all.spawn(refusals_keep_the_resource_version(code));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

async fn refusals_keep_the_resource_version(code: u16) {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    let before = slices_go_on(&api).len();
    api.refuse("endpointslices", code);
    api.cut().await;
    wait_for("five refusals", || slices_go_on(&api).len() >= before + 5).await;
    let times = slices_go_on(&api).split_off(before);
    assert!(times[4].duration_since(times[0]) >= paced(5), "{code}: asked without a pause");
    api.put(slice("a-1", "a", &[2]));
    api.behave(|it| it.refused.clear());
    running.until(&[("a", &[2])]).await;
    assert_eq!(slices_listed(&running), 1, "{code}: the watch goes on where it was");
    assert!(lists(&api, "endpointslices").is_empty(), "{code}");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let mut api = small().await;
    let mut running = Running::start(&api);
    running.until(&[("a", &[1])]).await;
    let before = slices_go_on(&api).len();
    api.refuse("endpointslices", 429);
    api.behave(|it| it.retry_after = Some(2));
    api.cut().await;
    wait_for("two refusals", || slices_go_on(&api).len() >= before + 2).await;
    let times = slices_go_on(&api).split_off(before);
    assert!(times[1].duration_since(times[0]) >= Duration::from_secs(2), "{times:?}");
    api.behave(|it| it.refused.clear());
    running.until_reasons(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_storage_that_was_set_back_is_listed_anew() {
    for streaming in [Streaming::Served, Streaming::Refused(422)] {
        let mut api = small().await;
        api.behave(|it| it.streaming = streaming);
        let backup = api.revision();
        api.put(service("c", true));
        let quiet = Some(Duration::from_secs(1));
        let mut running = Running::with(&api, Options { quiet, ..Options::default() });
        running.until(&[("a", &[1]), ("c", &[])]).await;
        api.delete(&service("c", true));
        api.put(slice("a-1", "a", &[2]));
        running.until(&[("a", &[2])]).await;
        api.set_back(backup);
        api.put(slice("a-1", "a", &[9]));
        api.cut().await;
        running.until(&[("a", &[9])]).await;
        running.until_reasons(&[]).await;
        running.stop().await;
    }
}

type Breakage = (&'static str, fn() -> Value);

/// Ways in which Service `a` or its slice can be what nobody can read.
const BREAKAGES: [Breakage; 7] = [
    ("endpoints of a wrong type", || broken_slice("endpoints", json!("many"))),
    ("an endpoint of a wrong type", || broken_slice("endpoints", json!([{"addresses": {"ip": "10.1.0.1"}}]))),
    ("ports of a wrong type", || broken_slice("ports", json!([{"port": "http"}]))),
    ("an unknown address type", || broken_slice("addressType", json!("IPX"))),
    ("an address type of a wrong type", || broken_slice("addressType", json!(4))),
    ("a Service's ports of a wrong type", || {
        let mut service = service("a", true);
        service["spec"]["ports"] = json!("eighty");
        service
    }),
    ("a Service's address that is none", || {
        let mut service = service("a", true);
        service["spec"]["clusterIPs"] = json!(["10.96.0.300"]);
        service
    }),
];

fn broken_slice(field: &str, value: Value) -> Value {
    let mut slice = slice("a-1", "a", &[9]);
    slice[field] = value;
    slice
}

#[tokio::test]
async fn what_no_longer_decodes_stays_also_over_a_restart() {
    for (what, broken) in BREAKAGES {
        let api = small().await;
        let mut running = Running::start(&api);
        running.until(&[("a", &[1])]).await;
        api.put(broken());
        api.put(service("c", true));
        running.until(&[("a", &[1]), ("c", &[])]).await;
        assert_eq!(running.status.borrow().problems.len(), 1, "{what}");
        assert_eq!(running.metrics.kept.get(), 1, "{what}");
        for _ in 0..2 {
            let known = running.known.borrow().clone();
            running.stop().await;
            running = Running::remembering(&api, Options::default(), known.as_ref());
            running.until(&[("a", &[1]), ("c", &[])]).await;
            // The maps may hold a newer slice than what was written down.
            let stale = running.snapshots.borrow().as_ref().unwrap().unread.stale.len();
            assert_eq!(stale, usize::from(broken()["kind"] == "EndpointSlice"), "{what}");
        }
        // What can be read goes on changing, and what is gone goes.
        api.delete(&service("c", true));
        running.until(&[("a", &[1])]).await;
        for whole in [service("a", true), slice("a-1", "a", &[2])] {
            api.put(whole);
        }
        running.until(&[("a", &[2])]).await;
        running.until_reasons(&[]).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn what_never_decoded_is_said_to_be_unread() {
    for (what, broken) in BREAKAGES {
        let api = small().await;
        api.put(broken());
        let mut known = None;
        // What is written down holds nothing of it, and says that it is not all.
        for restart in 0..3 {
            let mut running = Running::remembering(&api, Options::default(), known.as_ref());
            let snapshot = tokio::time::timeout(DEADLINE, running.snapshots.wait_for(Option::is_some)).await;
            let snapshot = snapshot.unwrap().unwrap().clone().unwrap();
            let service: mesh_model::name::ServiceName = "default/a".parse().unwrap();
            match snapshot.unread.services.get(&service) {
                Some(slices) => assert_eq!(slices.len(), 1, "{what}, {restart}: its slice can be read"),
                None => assert_eq!(snapshot.unread.slices.len(), 1, "{what}, {restart}"),
            }
            running.status.wait_for(|status| status.problems.len() == 1).await.unwrap();
            known = running.known.borrow().clone();
            running.stop().await;
        }
    }
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
    let (told, known) = (running.ranges.borrow().clone(), running.known.borrow().clone());
    running.stop().await;
    // The process after this one can't ask, e.g. after a restart of the machine.
    api.refuse("nodes", 503);
    let running = Running::remembering(&api, Options::default(), known.as_ref());
    assert_eq!(*running.ranges.borrow(), told);
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
    running.until_reasons(&[Reason::Headless]).await;
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

fn notice(service: &str) -> Notice {
    Notice {
        subject: Subject::Service { name: service.parse().unwrap(), uid: Some("uid-a".into()) },
        reason: "PortMismatch".into(),
        key: "2/80/TCP".into(),
        action: "Balance",
        warning: true,
        message: "it exposes web 8080/TCP".into(),
    }
}

#[tokio::test]
async fn what_becomes_of_an_event_is_counted() {
    let mut api = FakeApi::start().await;
    let (metrics, access) = (SourceMetrics::unregistered(), Access { kubeconfig: Some(api.kubeconfig()) });
    let mut writer = EventWriter::new(access, "clustermesh.io/test", "test-0", metrics.clone());
    assert_eq!(writer.write(&notice("default/a")).await, Outcome::Written);
    assert_eq!(writer.write(&notice("default/a")).await, Outcome::Known, "whoever wrote it");
    api.refuse("events", 403);
    assert_eq!(writer.write(&notice("default/b")).await, Outcome::Refused);
    api.refuse("events", 429);
    api.behave(|behaviour| behaviour.retry_after = Some(1));
    let asked = Instant::now();
    assert_eq!(writer.write(&notice("default/b")).await, Outcome::Failed);
    assert!(asked.elapsed() >= Duration::from_secs(1), "the server asked to be left alone");
    api.behave(|behaviour| behaviour.refused.clear());
    api.stop();
    assert_eq!(writer.write(&notice("default/b")).await, Outcome::Failed);
    api.resume().await;
    assert_eq!(writer.write(&notice("default/b")).await, Outcome::Written);
    let count = |outcome: &Outcome| metrics.events(*outcome).get();
    assert_eq!(Outcome::ALL.iter().map(count).collect::<Vec<_>>(), [2, 1, 1, 2, 0]);
    assert_eq!(api.written().len(), 2);
}

#[tokio::test]
async fn which_object_a_service_is_follows_the_server() {
    let api = small().await;
    let source = Kubernetes::new(
        Access { kubeconfig: Some(api.kubeconfig()) },
        Options::default(),
        SourceMetrics::unregistered(),
    );
    let mut uids = source.uids();
    let token = CancellationToken::new();
    let task = tokio::spawn(source.run(token.clone()));
    let name: mesh_model::name::ServiceName = "default/a".parse().unwrap();
    let mut until = async |uid: Option<&str>| {
        let is = uids.wait_for(|uids| uids.get(&name).map(String::as_str) == uid);
        drop(tokio::time::timeout(DEADLINE, is).await.expect("within the deadline").unwrap());
    };
    until(Some("uid-a")).await;
    let mut again = service("a", true);
    again["metadata"]["uid"] = json!("uid-a2");
    api.put(again.clone());
    until(Some("uid-a2")).await;
    api.delete(&again);
    until(None).await;
    token.cancel();
    task.await.unwrap();
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A source that asks a watch anew when it was silent for so long, and when it last confirmed what it publishes.
async fn confirming(api: &FakeApi, quiet: Duration) -> (watch::Receiver<Option<Instant>>, JoinHandle<()>) {
    let access = Access { kubeconfig: Some(api.kubeconfig()) };
    let options = Options { service_cidrs: true, quiet: Some(quiet), ..Options::default() };
    let source = Kubernetes::new(access, options, SourceMetrics::unregistered());
    let mut confirmed = source.confirmed();
    let task = tokio::spawn(source.run(CancellationToken::new()));
    tokio::time::timeout(DEADLINE, confirmed.wait_for(Option::is_some)).await.unwrap().unwrap();
    (confirmed, task)
}

/// Waits until nothing has been confirmed for 3 s, which is three times the pace.
async fn until_blind(confirmed: &mut watch::Receiver<Option<Instant>>) {
    let blind =
        async { while tokio::time::timeout(Duration::from_secs(3), confirmed.changed()).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, blind).await.expect("goes on confirming");
}

#[tokio::test]
async fn an_idle_server_that_sends_no_bookmarks_is_confirmed_all_the_time() {
    let api = FakeApi::start().await;
    let (mut confirmed, task) = confirming(&api, Duration::from_millis(1500)).await;
    let asked_anew = async {
        let is_watch = |request: &&String| request.contains("/services?") && request.contains("watch=1");
        while api.requests().iter().filter(is_watch).count() < 6 {
            let pace = tokio::time::timeout(Duration::from_secs(10), confirmed.changed()).await;
            pace.expect("confirmed every second").unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, asked_anew).await.expect("silent watches are asked anew");
    assert_eq!(api.times(&["/services?", "sendInitialEvents"]).len(), 1, "nothing is listed anew");
    assert!(lists(&api, "services").iter().all(|request| request.ends_with("?limit=1")));
    task.abort();
}

#[tokio::test]
async fn a_frozen_server_confirms_nothing_until_it_runs_again() {
    let api = FakeApi::start().await;
    let (mut confirmed, task) = confirming(&api, Duration::from_millis(1500)).await;
    api.behave(|behaviour| behaviour.frozen = true);
    until_blind(&mut confirmed).await;
    api.behave(|behaviour| behaviour.frozen = false);
    tokio::time::timeout(DEADLINE, confirmed.changed()).await.expect("confirms again").unwrap();
    task.abort();
}

#[tokio::test]
async fn a_server_that_refuses_one_kind_confirms_nothing() {
    for code in [401, 403, 500] {
        let api = FakeApi::start().await;
        let (mut confirmed, task) = confirming(&api, Duration::from_millis(1500)).await;
        api.refuse("endpointslices", code);
        until_blind(&mut confirmed).await;
        task.abort();
    }
}

#[tokio::test]
async fn an_owner_is_told_of_what_other_clusters_do_not_get() {
    let api = small().await;
    let mut wide = service("wide", true);
    let ports = (1..=20_003).map(|number| json!({"name": format!("p{number:04x}"), "port": number}));
    wide["spec"]["ports"] = ports.collect();
    api.put(wide.clone());
    let mut running = Running::start(&api);
    running.until_reasons(&[Reason::OverLimit]).await;
    let token = running.token.clone();
    let events = tokio::spawn(running.events.run(token.clone()));
    running.leading.send_replace(true);
    wait_for("an Event", || api.written().len() == 1).await;
    let event = api.written()[0].clone();
    assert_eq!((&event["regarding"]["uid"], &event["reason"]), (&json!("uid-wide"), &json!("OverLimit")));
    assert!(event["note"].as_str().unwrap().contains("3 ports of the Service"), "{event}");
    // It passes with what it is about.
    wide["spec"]["ports"] = json!([{"name": "http", "port": 80}]);
    api.put(wide);
    let mut status = running.status.clone();
    status.wait_for(|status| status.problems.is_empty()).await.unwrap();
    token.cancel();
    events.await.unwrap();
    running.task.await.unwrap();
}
