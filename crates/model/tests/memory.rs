//! What it costs to know a peer: bytes of heap per endpoint, counted at the allocator.
//!
//! Alone in its file, for the count is of the whole process.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::view::{Interest, PeerPin, PeerView, Quota};

/// Counts what is in use, as glibc rounds it: 8 bytes of its own, and multiples of 16.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// One test at a time, for the count is of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn rounded(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: all of it is the system allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let before = IN_USE.fetch_add(rounded(layout), Ordering::Relaxed);
        PEAK.fetch_max(before + rounded(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(rounded(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn view() -> PeerView {
    let pods = vec!["10.128.0.0/9".parse().unwrap()];
    let policy =
        AddressPolicy::new(PeerRanges::Agreed(Ranges { pods, nodes: Vec::new() }), OwnRanges::default());
    PeerView::new(PeerPin { name: ClusterName::new("peer").unwrap(), id: ClusterId::new(2).unwrap(), policy })
}

/// Lists so many services with so many endpoints each, in slices of at most 100, in the order of their keys.
fn learn(view: &mut PeerView, services: usize, endpoints: usize) {
    const PORTS: &str = r#""ports":[{"name":"http","protocol":"TCP","port":8080}]"#;
    view.begin_list();
    view.list_entry("clustermesh/v1/clusters/peer", br#"{"id":2,"incarnation":"one"}"#);
    for service in 0..services {
        for slice in 0..endpoints.div_ceil(100) {
            let range = slice * 100..endpoints.min(slice * 100 + 100);
            let address = |at: usize| {
                let [_, b, c, d] = u32::try_from(service * endpoints + at).unwrap().to_be_bytes();
                let (b, node) = (b + 128, at % 100);
                format!(r#"{{"address":"10.{b}.{c}.{d}","node":"node-{node}","zone":"a"}}"#)
            };
            let all: Vec<String> = range.map(address).collect();
            let value = format!(r#"{{{PORTS},"endpoints":[{}]}}"#, all.join(","));
            let key = format!(
                "clustermesh/v1/endpoints/peer/ns/service-{service:05}/service-{service:05}-{slice:05}"
            );
            view.list_entry(&key, value.as_bytes());
        }
    }
    for service in 0..services {
        let key = format!("clustermesh/v1/services/peer/ns/service-{service:05}");
        let value =
            r#"{"ports":[{"name":"http","protocol":"TCP","port":80}],"created_at":"2026-01-01T00:00:00Z"}"#;
        view.list_entry(&key, value.as_bytes());
    }
    for kind in ["services", "endpoints", "nodes"] {
        view.list_entry(&format!("clustermesh/v1/synced/peer/{kind}"), br#"{"revision":1}"#);
    }
    view.end_list();
}

fn bytes_per_endpoint(services: usize, endpoints: usize) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    let mut view = view();
    learn(&mut view, services, endpoints);
    let snapshot = view.snapshot();
    assert_eq!(snapshot.endpoints, services * endpoints);
    let after = IN_USE.load(Ordering::Relaxed);
    (after - before) / (services * endpoints)
}

/// Ten million endpoints, as a list and then again as changes.
#[test]
fn a_peer_with_ten_million_endpoints_takes_no_more_memory_than_its_quota() {
    const QUOTA: usize = 8 << 20;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = IN_USE.load(Ordering::Relaxed);
    let quota = Quota { bytes: QUOTA, backends: 65_535, slots: 131_072 };
    let PeerPin { name, id, policy } = view().pin().clone();
    let mut view = PeerView::bounded(PeerPin { name, id, policy }, Interest::Everything, quota);
    PEAK.store(before, Ordering::Relaxed);
    let all: Vec<String> = (0..100).map(|host| format!(r#"{{"address":"10.200.7.{host}"}}"#)).collect();
    let value = format!(r#"{{"ports":[{{"protocol":"TCP","port":1}}],"endpoints":[{}]}}"#, all.join(","));
    let keys = || {
        (0..10).flat_map(|service| {
            (0..10_000).map(move |slice| {
                format!("clustermesh/v1/endpoints/peer/ns/service-{service}/service-{service}-{slice:05}")
            })
        })
    };
    view.begin_list();
    view.list_entry("clustermesh/v1/clusters/peer", br#"{"id":2,"incarnation":"one"}"#);
    for service in 0..10 {
        let key = format!("clustermesh/v1/services/peer/ns/service-{service}");
        view.list_entry(&key, br#"{"ports":[{"protocol":"TCP","port":1}]}"#);
    }
    for kind in ["services", "endpoints", "nodes"] {
        view.list_entry(&format!("clustermesh/v1/synced/peer/{kind}"), br#"{"revision":1}"#);
    }
    keys().for_each(|key| view.list_entry(&key, value.as_bytes()));
    view.end_list();
    let snapshot = view.snapshot();
    keys().skip(90_000).for_each(|key| view.put(&key, value.as_bytes()));
    let after = view.snapshot();
    assert_eq!((&snapshot.services, snapshot.bytes), (&after.services, after.bytes));
    assert!(snapshot.bytes <= QUOTA && snapshot.bytes > QUOTA * 9 / 10, "{}", snapshot.bytes);
    let (peak, held) = (PEAK.load(Ordering::Relaxed) - before, IN_USE.load(Ordering::Relaxed) - before);
    println!("{} bytes by its own count; by the allocator's {held}, at most {peak}", snapshot.bytes);
    assert!(held <= QUOTA, "{held} bytes are in use");
    assert!(peak <= 2 * QUOTA, "{peak} bytes were in use at once");
}

#[test]
fn a_remote_endpoint_costs_tens_of_bytes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let small = bytes_per_endpoint(2_000, 10);
    let large = bytes_per_endpoint(10, 2_000);
    println!("{small} bytes where a service has 10 endpoints, {large} where it has 2,000");
    assert!(small <= 58 && large <= 8, "{small} and {large} bytes");
}
