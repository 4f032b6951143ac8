//! How much of the maps the clusters may have: room that a peer takes is none that the own cluster or another peer needs.
//!
//! Bounds ids and slots that are in use *or wait for a grace period*, so that a peer which replaces all of its backends again
//! and again takes no more than one that stands still. A group for which there is no room is cut to what there is room for;
//! the other groups of its frontend are as desired. The own cluster has no bound but the maps' ends.

use std::borrow::Cow;
use std::collections::HashSet;

use mesh_model::desired::{DesiredBackend, DesiredGroup};
use mesh_model::name::ClusterId;

use super::actual::{Actual, MirrorGroup};
use super::extents::Extent;
use super::members::{backend_key, fits};
use super::plan::Shortage;

/// What each peer may have in the maps at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub backends: u32,
    pub slots: u32,
}

/// Whom a share bounds: everybody but the own cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    own: ClusterId,
    share: Share,
}

/// A group as far as there is room for it.
pub(super) struct Fitted<'a> {
    pub(super) group: Cow<'a, DesiredGroup>,
    /// To be written afresh; none where the old extent serves.
    pub(super) extent: Option<Extent>,
    /// Why the group is not whole.
    pub(super) shortage: Option<Shortage>,
}

/// What there was of a group.
pub(super) struct Before<'a> {
    pub(super) group: &'a MirrorGroup,
    /// The slots are what the mirror says.
    pub(super) is_sound: bool,
}

impl Actual {
    /// What each cluster but the own one may have from now on. What is beyond it stays until it is planned anew.
    pub(crate) fn bound_peers(&mut self, own: ClusterId, share: Share) {
        self.bound = Some(Bound { own, share });
    }

    /// Whether the cluster has no bound but the maps' ends.
    pub(super) fn is_own(&self, cluster: ClusterId) -> bool {
        self.bound.is_none_or(|bound| bound.own == cluster)
    }

    /// How many ids of backends the cluster can take, and what is short beyond that.
    pub(super) fn backend_room(&self, cluster: ClusterId) -> (usize, Shortage) {
        let free = (self.backends.room(), Shortage::Backends);
        let Some(bound) = self.bound.filter(|bound| bound.own != cluster) else { return free };
        let left = bound.share.backends.saturating_sub(self.backends.count_of(cluster.value()));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if left < free.0 { (left, Shortage::BackendShare(cluster)) } else { free }
    }

    fn allocate(&mut self, cluster: ClusterId, count: u32) -> Result<Extent, Shortage> {
        if let Some(bound) = self.bound.filter(|bound| bound.own != cluster) {
            let left = bound.share.slots.saturating_sub(self.extents.slots_of(cluster.value()));
            if 1_u64 << Extent::order_for(count) > u64::from(left) {
                return Err(Shortage::SlotShare(cluster));
            }
        }
        self.extents.allocate(count, cluster.value()).ok_or(Shortage::Slots)
    }

    /// Finds room for a group, or for a part of it. What is in the maps already comes first, so that planning the same again
    /// changes nothing.
    pub(super) fn fit<'a>(
        &mut self,
        group: &'a DesiredGroup,
        protocol: u8,
        before: Option<Before<'_>>,
    ) -> Result<Fitted<'a>, Shortage> {
        let mut group = Cow::Borrowed(group);
        let mut shortage = self.fit_backends(&mut group, protocol);
        if let (Some(shortage), true) = (shortage, group.backends.is_empty()) {
            return Err(shortage);
        }
        let count = u32::try_from(group.backends.len()).unwrap_or(u32::MAX);
        let fitting = before.as_ref().filter(|before| fits(before.group.extent, count));
        let extent = match fitting {
            Some(before) if before.is_sound => None,
            // Nobody reads it, so all of it can be written again.
            Some(before) if before.group.unseen => Some(before.group.extent),
            _ => match self.allocate(group.cluster, count) {
                Ok(extent) => Some(extent),
                Err(short) => {
                    shortage = Some(short);
                    let (extent, count) =
                        self.fit_less(group.cluster, count, before.as_ref()).ok_or(short)?;
                    self.cut(&mut group, protocol, count, before.as_ref());
                    extent
                }
            },
        };
        Ok(Fitted { group, extent, shortage })
    }

    /// Leaves out the backends for which there is no id.
    fn fit_backends(&self, group: &mut Cow<'_, DesiredGroup>, protocol: u8) -> Option<Shortage> {
        let (room, shortage) = self.backend_room(group.cluster);
        // Counting what is new exactly costs a lookup for each backend; that is only paid when it gets tight.
        if group.backends.len() <= room {
            return None;
        }
        let cluster = group.cluster;
        let is_new =
            |backend: &DesiredBackend| self.backends.find(&backend_key(cluster, backend, protocol)).is_none();
        let new = group.backends.iter().filter(|backend| is_new(backend)).count();
        if new <= room {
            return None;
        }
        let mut left = room;
        keep(group.to_mut(), |backend| {
            if !is_new(backend) {
                return true;
            }
            let has_room = left > 0;
            left = left.saturating_sub(1);
            has_room
        });
        Some(shortage)
    }

    /// Fewer slots than wanted, and how many: those of before, or as many as can be had.
    fn fit_less(
        &mut self,
        cluster: ClusterId,
        count: u32,
        before: Option<&Before<'_>>,
    ) -> Option<(Option<Extent>, u32)> {
        let old = before.filter(|before| before.is_sound).map(|before| before.group.extent.capacity());
        let old = old.unwrap_or(0);
        let smaller =
            (0..Extent::order_for(count)).rev().map(|order| 1_u32.checked_shl(order.into()).unwrap_or(0));
        let new =
            smaller.take_while(|count| *count > old).find_map(|count| self.allocate(cluster, count).ok());
        match new {
            Some(extent) => Some((Some(extent), extent.capacity())),
            None => (old > 0).then_some((None, old.min(count))),
        }
    }

    /// Leaves out what goes beyond so many backends.
    fn cut(&self, group: &mut Cow<'_, DesiredGroup>, protocol: u8, count: u32, before: Option<&Before<'_>>) {
        let members = before.into_iter().flat_map(|before| &before.group.members);
        let held: HashSet<u32> = members.map(|member| member.id()).collect();
        let cluster = group.cluster;
        let is_held = |backend: &DesiredBackend| {
            self.backends.find(&backend_key(cluster, backend, protocol)).is_some_and(|id| held.contains(&id))
        };
        let mut old = usize::try_from(count).unwrap_or(usize::MAX);
        let mut new = old.saturating_sub(group.backends.iter().filter(|backend| is_held(backend)).count());
        keep(group.to_mut(), |backend| {
            let left = if is_held(backend) { &mut old } else { &mut new };
            let has_room = *left > 0;
            *left = left.saturating_sub(1);
            has_room
        });
    }
}

/// Keeps some of a group's backends. Its weight is no more than their number.
fn keep(group: &mut DesiredGroup, chosen: impl FnMut(&DesiredBackend) -> bool) {
    group.backends.retain(chosen);
    group.weight = group.weight.min(u32::try_from(group.backends.len()).unwrap_or(u32::MAX));
}
