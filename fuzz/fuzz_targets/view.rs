//! What a peer's etcd says over time: lines of `key value`, `-key` for a deletion, `begin` and `end` around a list.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::view::{PeerPin, PeerView};

fuzz_target!(|text: &str| {
    let mut view = PeerView::new(pin());
    for line in text.lines() {
        match line {
            "begin" => view.begin_list(),
            "end" => view.end_list(),
            _ => match (line.strip_prefix('-'), line.split_once(' ')) {
                (Some(key), _) => view.delete(key),
                (None, Some((key, value))) => view.put(key, value.as_bytes()),
                (None, None) => view.put(line, b""),
            },
        }
        let snapshot = view.snapshot();
        let endpoints: usize = snapshot.services.values().map(|service| service.endpoint_count()).sum();
        assert_eq!(snapshot.endpoints, endpoints);
        assert!(snapshot.synced || snapshot.services.is_empty());
        assert!(snapshot.recent_rejections.len() <= mesh_model::view::RECENT_REJECTIONS);
    }
});

fn pin() -> PeerPin {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a range")).collect();
    let own = OwnRanges { pods: nets(&["10.1.0.0/16"]), ..OwnRanges::default() };
    let agreed = Ranges { pods: nets(&["10.2.0.0/16", "fd02::/64"]), nodes: nets(&["192.168.2.0/24"]) };
    PeerPin {
        name: "empire".parse().expect("a name"),
        id: "2".parse().expect("an id"),
        policy: AddressPolicy::new(PeerRanges::Agreed(agreed), own),
    }
}
