//! The real merge loop over the real maps: what somebody else writes or deletes there is found and repaired.

#![allow(clippy::unwrap_used, clippy::panic)]

mod merge_loop;
mod support;

use mesh_abi::{BackendEntry, STATE_ACTIVE, STATE_FREE, ServiceKey, SlotEntry};
use mesh_model::address::Address;
use node_agent::datapath::actual::service_key;
use node_agent::datapath::inspect::Inspect;
use node_agent::datapath::maps::{Datapath, Maps};

use merge_loop::{MergeLoop, frontend, snapshot, until};
use support::{INSTANCE, World};

/// What the maps hold, but for the stamps of entries.
#[derive(Debug, PartialEq)]
struct Seen {
    keys: Vec<ServiceKey>,
    groups: Option<(u8, mesh_abi::Group)>,
    slots: Vec<SlotEntry>,
    backends: Vec<BackendEntry>,
}

fn look(maps: &Maps) -> Seen {
    let mut keys = maps.services.keys_after(None, 100).unwrap();
    keys.sort_by_key(|key| (key.address, key.port));
    let entry = maps.services.read_services(&[service_key(&frontend())]).unwrap()[0];
    Seen {
        keys,
        groups: entry.map(|entry| (entry.group_count, entry.groups[0])),
        slots: maps.services.read_slots(0, 16).unwrap(),
        backends: maps.services.read_backends(0, 16).unwrap(),
    }
}

#[test]
fn what_somebody_else_writes_into_the_maps_is_repaired() {
    let world = World::new();
    let running = MergeLoop::start(&world);
    let mut maps = Maps::open_pinned(&world.bpffs, INSTANCE).unwrap();

    running.hear(snapshot(1..4));
    until("the service is in the maps", || look(&maps).groups.is_some());
    let good = look(&maps);
    assert_eq!((good.keys.len(), good.groups.unwrap().1.count), (2, 3), "the service's and the canary's");
    let count = |map: &str| {
        let name = format!("clustermesh_map_repairs_total{{map=\"{map}\"}} ");
        let text = running.registry.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric is there");
        line.parse::<u64>().unwrap()
    };

    // Each of these is undone, and counted for the right map.
    let key = service_key(&frontend());
    let stranger = ServiceKey::new(Address::v4([10, 96, 0, 99]).octets(), 80, mesh_abi::PROTOCOL_TCP);
    let mut entry = maps.services.read_services(&[key]).unwrap()[0].unwrap();
    let canary = good.keys.iter().copied().find(|other| *other != key).unwrap();
    let used = good.slots[0].backend;
    entry.groups[0].first = 512;
    let alien = BackendEntry { state: STATE_ACTIVE, cluster: 9, ..BackendEntry::default() };
    let free = BackendEntry { state: STATE_FREE, ..BackendEntry::default() };
    type Damage<'a> = (&'static str, Box<dyn Fn(&mut Maps) -> bool + 'a>);
    let damages: [Damage<'_>; 7] = [
        ("services", Box::new(|maps| maps.services.delete_services(&[key]).is_empty())),
        ("services", Box::new(|maps| maps.services.delete_services(&[canary]).is_empty())),
        ("services", Box::new(move |maps| maps.services.write_services(&[(key, entry)]).is_empty())),
        ("services", Box::new(move |maps| maps.services.write_services(&[(stranger, entry)]).is_empty())),
        (
            "slots",
            Box::new(|maps| {
                maps.services.write_slots(&[(1, SlotEntry { backend: 7, service: 7 })]).is_empty()
            }),
        ),
        ("backends", Box::new(move |maps| maps.services.write_backends(&[(used, free)]).is_empty())),
        ("backends", Box::new(move |maps| maps.services.write_backends(&[(9, alien)]).is_empty())),
    ];
    for (number, (map, damage)) in damages.iter().enumerate() {
        let before = count(map);
        assert!(damage(&mut maps), "damage {number}");
        assert_ne!(look(&maps), good, "damage {number}");
        until(&format!("damage {number} is repaired"), || look(&maps) == good);
        until(&format!("damage {number} is counted"), || count(map) > before);
    }
    running.stop();
}
