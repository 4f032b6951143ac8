//! A peer that sends far more than it may: real etcds, the real merge loop over the real maps, and what becomes of the
//! neighbours.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod merge_loop;
mod support;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_admin::api::Backend;
use mesh_kv::testing::Etcd;
use mesh_model::address::Address;
use mesh_model::snapshot::{ClusterSnapshot, Service};
use node_agent::admin::answers::Answers;
use node_agent::datapath::actual::Capacity;
use node_agent::merge::query::Reader;
use node_agent::quota::QuotaArgs;

use merge_loop::{MergeLoop, until};

const DEADLINE: Duration = Duration::from_secs(60);
const CAPACITY: Capacity = Capacity { services: 64, slots: 65_536, backends: 32_768, counters: 64 };
/// Of four clusters: (32,768 - 1) / 4 backends, and 65,536 / 2 / 4 slots.
const SHARE: usize = 8191;
const SERVICES: [&str; 3] = ["one", "three", "two"];
/// How many endpoints the hostile peer has of these Services, unless `HOSTILE_ENDPOINTS` says otherwise: `make test-hostile`
/// runs ten million.
const ENDPOINTS: u32 = 300_000;
/// By how much the process may grow while it holds all peers, whatever they send: the heap of 4 MiB of records, once more
/// while they are listed, of the maps' mirror (32,768 backends), of messages of 4 MiB that are being read, and of the C
/// library's arenas.
const MAX_GROWTH_MIB: u64 = 96;
/// Of these it changes so many again and again.
const CHURNED: u32 = 50;

/// What the own cluster has: three Services with hosts of its own.
fn local(first: u8) -> ClusterSnapshot {
    let (_, service) = merge_loop::snapshot(first..first + 5).services.into_iter().next().unwrap();
    let services = (1..).zip(SERVICES).map(|(n, name)| {
        let cluster_ips = vec![[10, 96, 0, n].into()];
        (format!("ns/{name}").parse().unwrap(), Arc::new(Service { cluster_ips, ..(*service).clone() }))
    });
    ClusterSnapshot { services: services.collect(), ..ClusterSnapshot::default() }
}

fn slice(peer: &str, service: &str, slice: u32, addresses: &[String]) -> (String, String) {
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!(r#"{{"address":"{address}"}}"#)).collect();
    let value =
        format!(r#"{{"ports":[{{"port":8080,"protocol":"TCP"}}],"endpoints":[{}]}}"#, endpoints.join(","));
    (format!("clustermesh/v1/endpoints/{peer}/ns/{service}/{service}-{slice:05}"), value)
}

/// A hundred addresses below 10.<peer>.
fn hundred(peer: u32, number: u32) -> Vec<String> {
    (0..100)
        .map(|host| number * 100 + host)
        .map(|n| format!("10.{}.{}.{}", peer + (n >> 16), n >> 8 & 255, n & 255))
        .collect()
}

fn head(peer: &str, id: u32) -> Vec<(String, String)> {
    let mut entries =
        vec![(format!("clustermesh/v1/clusters/{peer}"), format!(r#"{{"id":{id},"incarnation":"one"}}"#))];
    for kind in ["services", "endpoints", "nodes"] {
        entries.push((format!("clustermesh/v1/synced/{peer}/{kind}"), r#"{"revision":1}"#.into()));
    }
    entries.extend(SERVICES.map(|name| offer(peer, name)));
    entries
}

fn offer(peer: &str, name: &str) -> (String, String) {
    let value = r#"{"ports":[{"port":80,"protocol":"TCP"}]}"#;
    (format!("clustermesh/v1/services/{peer}/ns/{name}"), value.into())
}

/// A peer with these hosts behind each service.
fn healthy(peer: &str, id: u32, hosts: std::ops::Range<u32>) -> Vec<(String, String)> {
    let addresses: Vec<String> = hosts.map(|host| format!("10.{id}.0.{host}")).collect();
    SERVICES.map(|name| slice(peer, name, 0, &addresses)).into()
}

fn endpoints() -> u32 {
    std::env::var("HOSTILE_ENDPOINTS").map_or(ENDPOINTS, |text| text.parse().unwrap())
}

/// The same number of endpoints of each service in slices of 100, and 2,000 services that nobody here has.
fn hostile() -> impl Iterator<Item = (String, String)> {
    let slices = endpoints().div_ceil(300);
    let all = (0..3).flat_map(move |n| (0..slices).map(move |at| (n, at)));
    let asked = all.map(|(n, at)| slice("kuat", SERVICES[n], at, &hundred(100 + 10 * n as u32, at)));
    let others = (0..2000).flat_map(|n| {
        let name = format!("other-{n}");
        [offer("kuat", &name), slice("kuat", &name, 0, &hundred(200, n))]
    });
    asked.chain(others)
}

/// Backends in the maps by cluster id and service.
fn held(reader: &Reader) -> BTreeMap<(u16, String), BTreeSet<Address>> {
    let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for Backend { service, cluster_id, address, .. } in reader.backends(None).unwrap() {
        let name = service.unwrap().name().to_owned();
        all.entry((cluster_id.value(), name)).or_default().insert(address);
    }
    all
}

/// The whole of the neighbours, as the maps shall hold it.
fn neighbours(own: u8, yavin: u32, endor: u32) -> BTreeMap<(u16, String), BTreeSet<Address>> {
    let hosts =
        |id: u8, first: u32| (first..first + 5).map(move |host| Address::from([10, id, 0, host as u8]));
    let clusters = [(1, own.into()), (2, yavin), (3, endor)];
    let all = clusters.into_iter().flat_map(|(id, first)| {
        SERVICES.map(|name| ((u16::from(id), name.to_owned()), hosts(id, first).collect()))
    });
    all.collect()
}

fn are_as_desired(reader: &Reader, wanted: &BTreeMap<(u16, String), BTreeSet<Address>>) -> bool {
    let mut held = held(reader);
    held.retain(|(cluster, _), _| *cluster != 4);
    held == *wanted
}

/// What the hostile peer has in the maps.
fn share(reader: &Reader) -> BTreeSet<Address> {
    let held = held(reader);
    held.into_iter().filter(|((cluster, _), _)| *cluster == 4).flat_map(|(_, addresses)| addresses).collect()
}

/// An agent but for its process: peers, merge loop, maps.
struct Agent {
    merging: MergeLoop,
    reader: Reader,
    peers: world::World,
}

impl Agent {
    fn start(maps: &support::World, dir: &std::path::Path, first: u8) -> Self {
        let mut merging = MergeLoop::start_with(maps, CAPACITY);
        let reader = merging.reader();
        let _runtime = merging.runtime.enter();
        let quotas = QuotaArgs { max_peer_memory: 4, ..QuotaArgs::default() };
        let peers = world::World::asking(dir, merging.local.subscribe(), quotas, CAPACITY);
        let (mut set, told) = (peers.subscribe(), merging.peers.clone());
        merging.runtime.spawn(async move {
            while set.changed().await.is_ok() {
                told.send_replace(set.borrow_and_update().clone());
            }
        });
        merging.hear(local(first));
        drop(_runtime);
        Self { merging, reader, peers }
    }

    fn stop(self) {
        let Self { merging, peers, .. } = self;
        merging.runtime.block_on(peers.stop());
        merging.stop();
    }
}

#[test]
fn a_peer_with_far_too_many_endpoints_is_cut_and_its_neighbours_notice_nothing() {
    let maps = support::World::new();
    let dir = tempfile::tempdir().unwrap();
    let etcds = ["yavin", "endor", "kuat"].map(|name| Etcd::start(&dir.path().join(name)));
    let [yavin, endor, kuat] = &etcds;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        yavin.fill(head("yavin", 2).into_iter().chain(healthy("yavin", 2, 0..5))).await;
        endor.fill(head("endor", 3).into_iter().chain(healthy("endor", 3, 0..5))).await;
        kuat.fill(head("kuat", 4).into_iter().chain(hostile())).await;
    });
    let peers = dir.path().join("agent");
    world::prepare(
        &peers,
        &[
            ("yavin", 2, yavin, "10.2.0.0/16"),
            ("endor", 3, endor, "10.3.0.0/16"),
            ("kuat", 4, kuat, "10.64.0.0/10, 10.128.0.0/9"),
        ],
    );

    let memory = peak_mib();
    let agent = Agent::start(&maps, &peers, 0);
    until("neighbours and hostile peer", || {
        are_as_desired(&agent.reader, &neighbours(0, 0, 0)) && share(&agent.reader).len() == SHARE
    });
    let row = agent.peers.row("kuat").unwrap();
    assert_eq!((row.state.to_string(), row.backends, row.services), ("synced".into(), SHARE, 1));
    assert!(row.memory_bytes <= 4 << 20, "{}", row.memory_bytes);
    let cuts: Vec<_> =
        row.cuts.iter().map(|cut| (cut.quota.as_str(), cut.from.as_ref().unwrap().as_str())).collect();
    // Of ten million not even one service's records find room in 4 MiB.
    let beyond = (endpoints() > ENDPOINTS).then_some(("memory", "ns/one"));
    assert_eq!(cuts, beyond.into_iter().chain([("backends", "ns/one")]).collect::<Vec<_>>());
    let logged = world::bad_lines("kuat");
    // One line for each cut, and one for endpoints beyond what a service may have.
    assert_eq!(logged.len(), cuts.len() + usize::from(beyond.is_some()), "{logged:?}");
    let text = agent.merging.registry.encode() + &agent.peers.registry.encode();
    assert!(text.contains(r#"clustermesh_peer_cut{peer="kuat",quota="backends"} 1"#), "{text}");
    assert!(text.contains("clustermesh_merge_refused_frontends 0"), "{text}");
    let growth = peak_mib() - memory;
    println!("{} endpoints: the process grew by {growth} MiB at most", endpoints());
    assert!(growth <= MAX_GROWTH_MIB, "{growth} MiB");
    let before = share(&agent.reader);

    // While the hostile peer changes everything that it has, again and again, the neighbours replace all of their pods.
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let endless = kuat.endpoint().to_string();
    let churning = runtime.spawn(async move { churn(&endless, stopped).await });
    let started = Instant::now();
    runtime.block_on(async {
        yavin.fill(healthy("yavin", 2, 100..105)).await;
        endor.fill(healthy("endor", 3, 100..105)).await;
    });
    agent.merging.hear(local(100));
    until("all of the neighbours' changes", || are_as_desired(&agent.reader, &neighbours(100, 100, 100)));
    println!("changes of the neighbours were in the maps after {:?}", started.elapsed());
    stop.cancel();
    assert!(runtime.block_on(churning).unwrap() > 0, "it did change something");

    // The same subset after a restart, although it is not known what came first.
    runtime.block_on(kuat.fill(hostile().take(CHURNED as usize)));
    let revision = revision(kuat);
    until("all that it said", || agent.peers.row("kuat").is_some_and(|row| row.revision == Some(revision)));
    until("what it had", || share(&agent.reader) == before);
    agent.stop();
    let agent = Agent::start(&maps, &peers, 100);
    until("the same", || {
        agent.peers.row("kuat").is_some_and(|row| row.backends == SHARE) && share(&agent.reader) == before
    });
    assert!(are_as_desired(&agent.reader, &neighbours(100, 100, 100)));
    agent.stop();
    maps.leave();
}

/// The most memory that this process has ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn revision(etcd: &Etcd) -> i64 {
    let answer = etcd.ctl(&["get", "nothing", "-w", "fields"]);
    let line = answer.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
    line.trim().parse().unwrap()
}

/// Replaces slices of the first service until it is told to stop. Gives how many.
async fn churn(endpoint: &str, stop: tokio_util::sync::CancellationToken) -> u32 {
    let mut count = 0;
    while !stop.is_cancelled() {
        let number = |at| count % 100 * CHURNED + at;
        let slices = (0..CHURNED).map(|at| slice("kuat", "one", at, &hundred(150, number(at))));
        Etcd::fill_at(endpoint, slices.collect::<Vec<_>>()).await;
        count += 1;
    }
    count
}
