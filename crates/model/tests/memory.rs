//! What it costs to know a peer: bytes of heap per endpoint, counted at the allocator.
//!
//! Alone in its file, for the count is of the whole process.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_model::fence::{Fence, OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::view::{PeerPin, PeerView};

/// Counts what is in use, as glibc rounds it: 8 bytes of its own, and multiples of 16.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

fn rounded(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: all of it is the system allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(rounded(layout), Ordering::Relaxed);
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
    let fence = Fence::new(PeerRanges::Agreed(Ranges { pods, nodes: Vec::new() }), OwnRanges::default());
    PeerView::new(PeerPin { name: ClusterName::new("peer").unwrap(), id: ClusterId::new(2).unwrap(), fence })
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

#[test]
fn a_remote_endpoint_costs_tens_of_bytes() {
    let small = bytes_per_endpoint(2_000, 10);
    let large = bytes_per_endpoint(10, 2_000);
    println!("{small} bytes where a service has 10 endpoints, {large} where it has 2,000");
    assert!(small <= 64 && large <= 10, "{small} and {large} bytes");
}
