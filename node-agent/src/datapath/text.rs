//! Plans as text: one line per write, in the order in which they happen.

use std::fmt::Write as _;

use mesh_abi::{
    BackendEntry, Group, STATE_ACTIVE, STATE_QUARANTINED, STATE_TERMINATING, ServiceEntry, ServiceKey,
    SlotEntry,
};
use mesh_admin::api::BackendState;
use mesh_model::address::Address;

use super::actual::frontend_of;
use super::plan::Plan;

/// At most `limit` lines; one more says how many were left out.
pub fn lines(plan: &Plan, limit: usize) -> Vec<String> {
    let all = (plan.backends.iter().map(backend))
        .chain(plan.slots.iter().map(slot))
        .chain(plan.services.iter().map(service))
        .chain(plan.deleted.iter().map(deleted))
        .chain(plan.refused.iter().map(|(frontend, shortage)| {
            format!("! service {}:{}/{} {shortage}", frontend.address, frontend.port, frontend.protocol)
        }));
    let mut lines: Vec<String> = all.take(limit).collect();
    let total = plan.writes() + plan.refused.len();
    if total > limit {
        lines.push(format!("… and {} more", total - limit));
    }
    lines
}

/// The word for a `STATE_…` constant.
pub(crate) fn state_of(state: u32) -> BackendState {
    match state {
        STATE_ACTIVE => BackendState::Active,
        STATE_TERMINATING => BackendState::Terminating,
        STATE_QUARANTINED => BackendState::Quarantined,
        _ => BackendState::Free,
    }
}

fn backend((id, entry): &(u32, BackendEntry)) -> String {
    let (address, port) = (Address::from(entry.address), u16::from_be_bytes(entry.port));
    format!("= backend {id} cluster {} {address} port {port} {}", entry.cluster, state_of(entry.state))
}

fn slot((index, entry): &(u32, SlotEntry)) -> String {
    format!("= slot {index} service {} backend {}", entry.service, entry.backend)
}

fn service((key, entry): &(ServiceKey, ServiceEntry)) -> String {
    let mut line =
        format!("= service {} id {} generation {}", name(key), entry.head.id, entry.head.generation);
    for group in entry.groups.iter().take(usize::from(entry.group_count)) {
        let Group { cluster, tier, weight, first, count, .. } = group;
        let slots = first + count;
        write!(line, " [cluster {cluster} tier {tier} weight {weight} slots {first}..{slots}]")
            .expect("writing to a String cannot fail");
    }
    line
}

fn deleted(key: &ServiceKey) -> String {
    format!("- service {}", name(key))
}

fn name(key: &ServiceKey) -> String {
    match frontend_of(key) {
        Some(frontend) => format!("{} port {}/{}", frontend.address, frontend.port, frontend.protocol),
        None => format!("{key:?}"),
    }
}
