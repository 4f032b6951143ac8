//! Who stands in a group's slots: plans how members come and go, be the whole group given or only what changed of it.

use hashbrown::HashMap;
use mesh_abi::SlotEntry;
use mesh_model::change::GroupChange;
use mesh_model::desired::{DesiredBackend, DesiredGroup};
use mesh_model::name::ClusterId;

use super::actual::{Actual, Member, MirrorGroup, protocol_number};
use super::backends::BackendKey;
use super::extents::Extent;
use super::plan::Plan;

/// A desired group and what else its slots need.
pub(super) struct Target<'a> {
    pub(super) service: u32,
    pub(super) protocol: u8,
    pub(super) group: &'a DesiredGroup,
}

/// How a group's members change.
struct Change {
    /// Positions of the members that go, ascending.
    gone: Vec<usize>,
    come: Vec<Member>,
}

impl Actual {
    pub(super) fn plan_group(
        &mut self,
        target: &Target<'_>,
        old: Option<MirrorGroup>,
        fresh: Option<Extent>,
        plan: &mut Plan,
    ) -> MirrorGroup {
        let group = target.group;
        let (mut members, old_extent, unseen, counter) = match old {
            Some(old) => (old.members, Some(old.extent), old.unseen, old.counter),
            None => (Vec::new(), None, false, self.take_counter(plan)),
        };
        let change = self.compare(target, &mut members, plan);
        let removed: Vec<Member> = change.gone.iter().map(|position| members[*position]).collect();
        let in_place = fresh.is_none();
        let extent = match (fresh, old_extent) {
            (None, Some(extent)) => {
                change.in_place(&mut members, extent, target.service, plan);
                extent
            }
            (fresh, old_extent) => {
                if let Some(extent) = old_extent.filter(|old| Some(*old) != fresh) {
                    self.free_extent(extent, unseen, plan);
                }
                let extent = fresh.expect("make_room takes an extent where the old one does not serve");
                change.afresh(&mut members, extent, target.service, plan);
                extent
            }
        };
        removed.into_iter().for_each(|member| self.leave(member, plan));
        members.shrink_to_fit();
        let &DesiredGroup { cluster, tier, weight, .. } = group;
        MirrorGroup { cluster, tier, weight, extent, members, counter, unseen: unseen || !in_place }
    }

    /// Plans what becomes of one group of a frontend, relative to what the mirror says; its weight is the number of its
    /// backends. False, and nothing planned, where the mirror does not allow that: then the whole frontend has to be
    /// planned.
    pub(crate) fn plan_change(&mut self, change: &GroupChange, plan: &mut Plan) -> bool {
        let Some(gone) = self.positions(change) else { return false };
        let Some(mut held) = self.services.remove(&change.frontend) else { return false };
        plan.begin(&change.frontend).service = held.stamp.id;
        let before = held.entry(&change.frontend);
        let protocol = protocol_number(change.frontend.protocol);
        if let Some(group) = group_of(&mut held.groups, change.cluster) {
            let removed: Vec<Member> = gone.iter().map(|position| group.members[*position]).collect();
            let come = change.come.iter().map(|backend| self.join(change.cluster, backend, protocol, plan));
            let turn = Change { come: come.collect(), gone };
            turn.in_place(&mut group.members, group.extent, held.stamp.id, plan);
            group.members.shrink_to_fit();
            group.weight = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
            removed.into_iter().for_each(|member| self.leave(member, plan));
        }
        if before != held.entry(&change.frontend) {
            held.stamp.generation = held.stamp.generation.wrapping_add(1);
            plan.write_service(&change.frontend, held.entry(&change.frontend));
        }
        self.services.insert(change.frontend, held);
        true
    }

    /// Where the members stand that go, ascending; none where the change does not fit what is there.
    fn positions(&self, change: &GroupChange) -> Option<Vec<usize>> {
        let held = self.services.get(&change.frontend).filter(|held| !held.damaged)?;
        let group = held.groups.iter().find(|group| group.cluster == change.cluster)?;
        let protocol = protocol_number(change.frontend.protocol);
        let place = |backend: &DesiredBackend| {
            let id = self.backends.find(&backend_key(change.cluster, backend, protocol))?;
            group.members.iter().position(|member| member.id() == id)
        };
        let mut gone = change.gone.iter().map(place).collect::<Option<Vec<usize>>>()?;
        gone.sort_unstable();
        let count = group.members.len().checked_sub(gone.len())? + change.come.len();
        let is_held = |backend: &DesiredBackend| place(backend).is_some();
        let room = self.backend_room(change.cluster).0 >= change.come.len()
            && count > 0
            && fits(group.extent, u32::try_from(count).ok()?)
            && gone.is_sorted_by(|one, other| one < other)
            && !change.come.iter().any(is_held);
        room.then_some(gone)
    }

    /// Decides which members stay, as what they are desired to be, and takes ids for those that come, whose entries are
    /// planned first.
    fn compare(&mut self, target: &Target<'_>, members: &mut [Member], plan: &mut Plan) -> Change {
        let positions: HashMap<u32, usize> =
            members.iter().enumerate().map(|(position, member)| (member.id(), position)).collect();
        let mut stays = vec![false; members.len()];
        let mut come = Vec::new();
        for backend in &target.group.backends {
            let key = backend_key(target.group.cluster, backend, target.protocol);
            let Some(position) = self.backends.find(&key).and_then(|id| positions.get(&id).copied()) else {
                come.push(self.join(target.group.cluster, backend, target.protocol, plan));
                continue;
            };
            let id = members[position].id();
            self.backends.change_user(id, members[position].state(), backend.state);
            members[position] = Member::new(id, backend.state);
            stays[position] = true;
            plan.backends.extend(self.backends.write(id).map(|entry| (id, entry)));
        }
        Change { gone: (0..members.len()).filter(|position| !stays[*position]).collect(), come }
    }

    /// Takes an id for a backend that joins a group.
    fn join(
        &mut self,
        cluster: ClusterId,
        backend: &DesiredBackend,
        protocol: u8,
        plan: &mut Plan,
    ) -> Member {
        let id = self.backends.add_user(backend_key(cluster, backend, protocol), backend.state);
        let id = id.expect("there is room for the new backends: it was counted");
        plan.backends.extend(self.backends.write(id).map(|entry| (id, entry)));
        Member::new(id, backend.state)
    }

    pub(super) fn leave(&mut self, member: Member, plan: &mut Plan) {
        plan.part().left.push(member);
        if self.backends.remove_user(member.id(), member.state()) {
            plan.part().retired.backends.push(member.id());
        } else {
            let entry = self.backends.write(member.id());
            plan.backends.extend(entry.map(|entry| (member.id(), entry)));
        }
    }

    pub(super) fn drop_group(&mut self, group: MirrorGroup, plan: &mut Plan) {
        self.free_extent(group.extent, group.unseen, plan);
        if group.counter != 0 {
            plan.part().retired.counters.push(group.counter);
        }
        for member in group.members {
            self.leave(member, plan);
        }
    }

    fn free_extent(&mut self, extent: Extent, unseen: bool, plan: &mut Plan) {
        if unseen {
            self.extents.release(extent);
        } else {
            plan.part().retired.extents.push(extent);
        }
    }

    /// Cell 0 is shared by those that find no room.
    fn take_counter(&mut self, plan: &mut Plan) -> u32 {
        let Some(counter) = self.counters.take() else { return 0 };
        plan.fresh_counters.push(counter);
        counter
    }
}

impl Change {
    /// Rewrites as few slots of the extent as possible: what comes, and what stands beyond the new end, moves
    /// into the places of what goes. A reader with the old count still finds old members beyond the new end.
    fn in_place(self, members: &mut Vec<Member>, extent: Extent, service: u32, plan: &mut Plan) {
        let Self { gone, come } = self;
        let old = members.len();
        let count = old - gone.len() + come.len();
        let stays = |position: &usize| gone.binary_search(position).is_err();
        let beyond: Vec<Member> = (count..old).filter(stays).map(|position| members[position]).collect();
        let places = gone.iter().copied().filter(|position| *position < count).chain(old..count);
        for (position, member) in places.zip(come.into_iter().chain(beyond)) {
            match members.get_mut(position) {
                Some(place) => *place = member,
                None => members.push(member),
            }
            plan.slots.push(slot(extent, position, member, service));
        }
        members.truncate(count);
    }

    /// Writes all members to an extent that nobody reads yet.
    fn afresh(self, members: &mut Vec<Member>, extent: Extent, service: u32, plan: &mut Plan) {
        let mut position = 0;
        members.retain(|_| {
            position += 1;
            self.gone.binary_search(&(position - 1)).is_err()
        });
        members.extend(self.come);
        let slots = members.iter().enumerate();
        plan.slots.extend(slots.map(|(position, member)| slot(extent, position, *member, service)));
    }
}

fn group_of(groups: &mut [MirrorGroup], cluster: ClusterId) -> Option<&mut MirrorGroup> {
    groups.iter_mut().find(|group| group.cluster == cluster)
}

fn slot(extent: Extent, position: usize, member: Member, service: u32) -> (u32, SlotEntry) {
    let position = u32::try_from(position).expect("positions are below the extent's capacity");
    (extent.first + position, SlotEntry { backend: member.id(), service })
}

/// An extent serves as long as it is large enough and not far too large.
pub(super) fn fits(extent: Extent, count: u32) -> bool {
    count <= extent.capacity() && (extent.capacity() <= 16 || count > extent.capacity() / 8)
}

pub(super) fn backend_key(cluster: ClusterId, backend: &DesiredBackend, protocol: u8) -> BackendKey {
    let &DesiredBackend { address, port, .. } = backend;
    BackendKey { address: address.octets(), port, cluster: cluster.value(), protocol }
}
