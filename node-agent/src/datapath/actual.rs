//! The mirror of the maps: every frontend that they hold, in ids and slots.
//!
//! Never touches a map itself. `plan` changes the mirror and says what to write; `parts` corrects the mirror where a write
//! failed.

use std::collections::{HashMap, HashSet};

use mesh_abi::{
    FLAG_PLAIN_OK, Group, INLINE_GROUPS, MAX_GROUPS, MAX_WEIGHT, PROTOCOL_TCP, PROTOCOL_UDP,
    STATE_QUARANTINED, ServiceEntry, ServiceKey, Stamp,
};
use mesh_model::address::Address;
use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend};
use mesh_model::merge::CarriedGroup;
use mesh_model::name::{ClusterId, PortName, ServiceName};
use mesh_model::snapshot::Protocol;

use super::backends::{BackendKey, Backends};
use super::extents::{Extent, Extents};
use super::ids::Ids;
use super::parts::Owed;
use super::plan::Plan;
use super::shares::Bound;

/// What the canary dials: loopback, the discard port (RFC 863), answered by nobody.
pub(crate) const CANARY: Frontend =
    Frontend { address: Address::v4([127, 255, 67, 77]), port: 9, protocol: Protocol::Tcp };

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub counters: u32,
}

/// What the maps of one instance hold.
#[derive(Debug)]
pub struct Actual {
    pub(super) services: HashMap<Frontend, MirrorEntry>,
    pub(super) backends: Backends,
    pub(super) extents: Extents,
    pub(super) service_ids: Ids,
    pub(super) counters: Ids,
    /// Ids of the services whose groups lie in tables.
    pub(super) tables: HashSet<u32>,
    pub(super) capacity: Capacity,
    pub(super) bound: Option<Bound>,
}

/// One service entry of the mirror.
#[derive(Debug)]
pub struct MirrorEntry {
    pub(super) stamp: Stamp,
    pub(super) flags: u8,
    /// Unknown after a restart, until the own source is synced.
    pub service: Option<ServiceName>,
    pub port_name: Option<PortName>,
    pub groups: Vec<MirrorGroup>,
    /// The maps hold something else than this says: write it again, whatever it says.
    pub(super) damaged: bool,
    /// After a write that failed.
    pub(super) owed: Option<Box<Owed>>,
}

/// One group of a mirror entry.
#[derive(Debug)]
pub struct MirrorGroup {
    pub cluster: ClusterId,
    pub tier: u8,
    pub weight: u32,
    pub(super) extent: Extent,
    /// In the order of the slots.
    pub(super) members: Vec<Member>,
    pub counter: u32,
    /// No entry in the maps has led to the extent yet.
    pub(super) unseen: bool,
}

/// A backend id and what the group calls its state, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member(u32);

impl Member {
    const TERMINATING: u32 = 1 << 31;

    pub(super) fn new(id: u32, state: BackendState) -> Self {
        match state {
            BackendState::Active => Self(id),
            BackendState::Terminating => Self(id | Self::TERMINATING),
        }
    }

    pub(super) fn id(self) -> u32 {
        self.0 & !Self::TERMINATING
    }

    pub(super) fn state(self) -> BackendState {
        if self.0 & Self::TERMINATING == 0 { BackendState::Active } else { BackendState::Terminating }
    }
}

impl Actual {
    /// Empty maps.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            services: HashMap::new(),
            backends: Backends::new(capacity.backends),
            extents: Extents::new(capacity.slots),
            service_ids: Ids::new(u32::MAX),
            counters: Ids::new(capacity.counters),
            tables: HashSet::new(),
            capacity,
            bound: None,
        }
    }

    /// The frontends that the maps hold, the canary's aside, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (&Frontend, &MirrorEntry)> {
        self.services.iter().filter(|(frontend, _)| **frontend != CANARY)
    }

    /// Number of [`Self::frontends`].
    pub fn frontend_count(&self) -> usize {
        self.services.len() - usize::from(self.services.contains_key(&CANARY))
    }

    pub fn held(&self, frontend: &Frontend) -> Option<&MirrorEntry> {
        self.services.get(frontend)
    }

    /// A group's backends with the state that the maps hold for them, as a `STATE_…` constant.
    pub fn members(&self, group: &MirrorGroup) -> impl Iterator<Item = (BackendKey, u32)> {
        group.members.iter().map(|member| (self.backends.key(member.id()), self.backends.state(member.id())))
    }

    /// The groups that a frontend has of the clusters that `carried` names, in words of the domain.
    pub(crate) fn carried(
        &self,
        frontend: &Frontend,
        carried: impl Fn(ClusterId) -> bool,
    ) -> Vec<CarriedGroup> {
        let Some(held) = self.services.get(frontend) else { return Vec::new() };
        let groups = held.groups.iter().filter(|group| carried(group.cluster));
        groups
            .map(|group| CarriedGroup {
                cluster: group.cluster,
                weight: group.weight,
                backends: group.members.iter().map(|member| self.desired(*member)).collect(),
            })
            .collect()
    }

    /// Number of backends in use or waiting for their grace period.
    pub(crate) fn backend_count(&self) -> usize {
        self.backends.len()
    }

    pub(crate) fn free_slots(&self) -> u32 {
        self.extents.free_slots()
    }

    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The same content in maps of another size, and the plan that fills them. Services are unnamed again.
    pub fn moved_to(&self, capacity: Capacity) -> (Self, Plan) {
        let unnamed = ServiceName::new("unknown", "unknown").expect("a valid name");
        let changes = self.frontends().map(|(frontend, held)| {
            let groups = held.groups.iter().map(|group| DesiredGroup {
                cluster: group.cluster,
                tier: group.tier,
                weight: group.weight,
                backends: group.members.iter().map(|member| self.desired(*member)).collect(),
            });
            let service = DesiredService {
                service: unnamed.clone(),
                port_name: None,
                plain_ok: held.plain_ok(),
                groups: groups.collect(),
            };
            (*frontend, Some(service))
        });
        let mut moved = Self::new(capacity);
        let mut plan = moved.plan(&changes.collect::<Vec<_>>());
        for (id, entry) in &mut plan.backends {
            let before = self.backends.find(&BackendKey::of(entry)).map(|id| self.backends.state(id));
            if before == Some(STATE_QUARANTINED) {
                *entry = moved.backends.quarantine(*id);
            }
        }
        // Nothing was there before, so nothing is retired.
        moved.written(&mut plan);
        moved.services.values_mut().for_each(|held| held.service = None);
        (moved, plan)
    }

    fn desired(&self, member: Member) -> DesiredBackend {
        let key = self.backends.key(member.id());
        DesiredBackend { address: key.address.into(), port: key.port, state: member.state() }
    }
}

impl MirrorEntry {
    /// The entry as the maps shall hold it.
    pub(super) fn entry(&self, frontend: &Frontend) -> ServiceEntry {
        let mut groups = [Group::default(); MAX_GROUPS];
        for (slot, group) in groups.iter_mut().zip(&self.groups) {
            *slot = group.entry();
        }
        ServiceEntry {
            head: self.stamp,
            key: service_key(frontend),
            group_count: u8::try_from(self.groups.len().min(MAX_GROUPS)).expect("at most 16"),
            flags: self.flags,
            groups,
            tail: self.stamp,
        }
    }

    /// The groups are more than a cell of `SERVICES` has room for.
    pub(super) fn is_wide(&self) -> bool {
        self.groups.len() > INLINE_GROUPS
    }

    /// Kube-proxy may serve the frontend when the agent is gone.
    pub(crate) fn plain_ok(&self) -> bool {
        self.flags & FLAG_PLAIN_OK != 0
    }

    /// The service has backends, and all of them terminate for it: it has either these or active ones.
    pub(crate) fn terminates(&self) -> bool {
        let first = self.groups.iter().find_map(|group| group.members.first());
        first.is_some_and(|member| member.state() == BackendState::Terminating)
    }
}

impl MirrorGroup {
    /// Number of backends.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn entry(&self) -> Group {
        Group {
            cluster: self.cluster.value(),
            tier: self.tier,
            zero: 0,
            weight: self.weight.min(MAX_WEIGHT),
            first: self.extent.first,
            count: u32::try_from(self.members.len()).expect("slots are u32"),
            counter: self.counter,
        }
    }
}

/// The key under which a frontend stands in the maps.
pub fn service_key(frontend: &Frontend) -> ServiceKey {
    ServiceKey::new(frontend.address.octets(), frontend.port, protocol_number(frontend.protocol))
}

/// The frontend that a key of the maps stands for; none where the protocol is not one of ours.
pub(crate) fn frontend_of(key: &ServiceKey) -> Option<Frontend> {
    let protocol = match key.protocol {
        PROTOCOL_TCP => Protocol::Tcp,
        PROTOCOL_UDP => Protocol::Udp,
        _ => return None,
    };
    Some(Frontend { address: key.address.into(), port: u16::from_be_bytes(key.port), protocol })
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    }
}
