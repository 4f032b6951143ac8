//! The maps as text: one sorted line per entry, with names instead of numbers, so that two dumps can be
//! compared line by line.
//!
//! Ids, slots and generations are left out: two nodes that balance alike dump alike.

use std::collections::{BTreeMap, HashMap};

use mesh_abi::{CLUSTER_USABLE, ClusterStates, FLAG_CANARY, FLAG_PLAIN_OK, Group, ServiceEntry, ServiceKey};
use mesh_admin::api::Names;
use mesh_model::address::Address;
use mesh_model::desired::Frontend;

use super::actual::frontend_of;
use super::backends::BackendKey;
use super::restore::Contents;
use super::text::state_of;

/// One line per frontend, per group and backend of it, per demoted cluster, and per entry that nothing leads
/// to. Lines of entries that contradict each other begin with `damaged`.
pub fn lines(contents: &Contents, states: &ClusterStates, names: &Names) -> Vec<String> {
    let dump = Dump {
        contents,
        backends: contents.backends.iter().map(|(id, entry)| (*id, entry)).collect(),
        services: names.frontends.iter().map(|named| (named.frontend, named)).collect(),
        clusters: names.clusters.iter().map(|named| (named.id.value(), named.name.as_str())).collect(),
    };
    let mut lines = Vec::new();
    for (key, entry) in &contents.services {
        dump.service(key, entry, &mut lines);
    }
    dump.leftovers(&mut lines);
    for (id, state) in (0_u16..).zip(&states.state) {
        if *state != CLUSTER_USABLE {
            lines.push(format!("cluster {} demoted", dump.cluster(id)));
        }
    }
    lines.sort_unstable();
    lines
}

struct Dump<'a> {
    contents: &'a Contents,
    backends: HashMap<u32, &'a mesh_abi::BackendEntry>,
    services: BTreeMap<Frontend, &'a mesh_admin::api::NamedFrontend>,
    clusters: HashMap<u16, &'a str>,
}

impl Dump<'_> {
    fn service(&self, key: &ServiceKey, entry: &ServiceEntry, lines: &mut Vec<String>) {
        let Some(frontend) = frontend_of(key) else {
            lines.push(format!("damaged service {key:?}"));
            return;
        };
        let place = frontend;
        if entry.flags & FLAG_CANARY != 0 {
            lines.push(format!("canary {place}"));
            return;
        }
        let named = self.services.get(&frontend);
        let name = named.map_or("?", |named| named.service.as_str());
        let port_name = named.and_then(|named| named.port_name.as_ref());
        let port_name = port_name.map(|name| format!(" ({name})")).unwrap_or_default();
        let plain = if entry.flags & FLAG_PLAIN_OK == 0 { "" } else { " plain-ok" };
        let torn = if entry.head == entry.tail && entry.key == *key { "" } else { "damaged " };
        lines.push(format!("{torn}service {name} {place}{port_name}{plain}"));
        for group in entry.groups.iter().take(usize::from(entry.group_count)) {
            let cluster = self.cluster(group.cluster);
            let (tier, weight, count) = (group.tier, group.weight, group.count);
            lines.push(format!(
                "service {name} {place} group {cluster} tier {tier} weight {weight} backends {count}"
            ));
            let path = format!("{name} {place} {cluster}");
            let slots = self.slots(group);
            // Whoever wrote the entry may have written any number.
            let missing = count - u32::try_from(slots.len()).unwrap_or(u32::MAX).min(count);
            if missing > 0 {
                lines.push(format!("damaged backends {path}: {missing} slots are beyond the map"));
            }
            lines.extend(slots.map(|index| self.slot(entry.head.id, index, &path)));
        }
    }

    /// The group's slots that there are.
    fn slots(&self, group: &Group) -> std::ops::Range<u32> {
        let end = u32::try_from(self.contents.slots.len()).unwrap_or(u32::MAX);
        group.first.min(end)..group.first.saturating_add(group.count).min(end)
    }

    fn slot(&self, service: u32, index: u32, path: &str) -> String {
        let slot = usize::try_from(index).ok().and_then(|index| self.contents.slots.get(index));
        let Some(slot) = slot.filter(|slot| slot.service == service) else {
            return format!("damaged backend {path}: slot {index} belongs to another service");
        };
        match self.backends.get(&slot.backend) {
            Some(entry) => {
                let key = BackendKey::of(entry);
                format!("backend {path} {} {}", address(&key), state_of(entry.state))
            }
            None => format!("damaged backend {path}: slot {index} leads to a free backend"),
        }
    }

    /// Backends to which no service leads: gone within a grace period in a healthy instance.
    fn leftovers(&self, lines: &mut Vec<String>) {
        let groups = self.contents.services.iter().flat_map(|(_, entry)| &entry.groups);
        let slots = groups.flat_map(|group| self.slots(group));
        let slots = slots.filter_map(|index| self.contents.slots.get(usize::try_from(index).ok()?));
        let used: std::collections::HashSet<u32> = slots.map(|slot| slot.backend).collect();
        for (id, entry) in self.backends.iter().filter(|(id, _)| !used.contains(id)) {
            let key = BackendKey::of(entry);
            let cluster = self.cluster(key.cluster);
            lines.push(format!(
                "leftover backend {id} {cluster} {} {}",
                address(&key),
                state_of(entry.state)
            ));
        }
    }

    fn cluster(&self, id: u16) -> String {
        self.clusters.get(&id).map_or_else(|| format!("#{id}"), |name| (*name).to_owned())
    }
}

fn address(key: &BackendKey) -> String {
    std::net::SocketAddr::new(Address::from(key.address).into(), key.port).to_string()
}
