//! What each frontend has to do with a plan, so that a write that fails is its frontend's alone.
//!
//! What a frontend no longer needs may be given away only when its writes have succeeded. Where one failed, the maps may
//! lead to what the frontend had, to what it was to have, or to both: the mirror keeps all of that ([`Owed`]) until a
//! later plan has been written whole.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use mesh_abi::Stamp;
use mesh_model::desired::Frontend;
use mesh_model::name::{PortName, ServiceName};

use super::actual::{Actual, Member, MirrorEntry};
use super::extents::Extent;
use super::plan::{Plan, Retired};

/// A frontend's part in a plan.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) frontend: Frontend,
    /// The id under which its slots stand; 0 where it has none.
    pub(super) service: u32,
    /// Its id and name, for a frontend that is deleted.
    pub(super) deleted: Option<Deleted>,
    /// Where its entry stands among the plan's services.
    pub(super) entry: Option<usize>,
    /// To be released after a grace period, once all of its writes have succeeded.
    pub(super) retired: Retired,
    /// What its groups no longer hold.
    pub(super) left: Vec<Member>,
}

/// What a deletion took from the mirror beside groups.
#[derive(Debug)]
pub(super) struct Deleted {
    pub(super) stamp: Stamp,
    pub(super) flags: u8,
    pub(super) service: Option<ServiceName>,
    pub(super) port_name: Option<PortName>,
}

/// The parts of a plan, one for each frontend.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
    places: HashMap<Frontend, usize>,
    /// The part that is being planned.
    current: usize,
    /// From which backend write on which part was being planned.
    marks: Vec<(usize, usize)>,
}

/// What the maps may still lead to although the groups don't say so.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub(super) extents: Vec<Extent>,
    pub(super) counters: Vec<u32>,
    pub(super) members: Vec<Member>,
}

impl Parts {
    /// What is planned from here on is this frontend's. `backends`: how many writes of backends are planned already.
    pub(super) fn begin(&mut self, frontend: &Frontend, backends: usize) -> &mut Part {
        let Self { parts, places, .. } = self;
        self.current = *places.entry(*frontend).or_insert_with(|| {
            let (retired, left) = (Retired::default(), Vec::new());
            parts.push(Part { frontend: *frontend, service: 0, deleted: None, entry: None, retired, left });
            parts.len() - 1
        });
        self.marks.push((backends, self.current));
        &mut self.parts[self.current]
    }

    /// The part that is being planned.
    pub(super) fn current(&mut self) -> &mut Part {
        &mut self.parts[self.current]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    /// The frontend for which a write of a backend was planned.
    pub(super) fn of_backend(&self, write: usize) -> Option<&Frontend> {
        let behind = self.marks.partition_point(|(first, _)| *first <= write);
        let (_, part) = self.marks.get(behind.checked_sub(1)?)?;
        Some(&self.parts[*part].frontend)
    }

    /// Frontends by the ids under which their slots stand.
    pub(super) fn by_service(&self) -> HashMap<u32, Frontend> {
        self.parts.iter().map(|part| (part.service, part.frontend)).collect()
    }

    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(self).parts
    }
}

impl Actual {
    /// The plan's writes are over. Gives what may be released after a grace period: nothing of the frontends that
    /// failed, which are to be planned anew.
    pub(crate) fn conclude<E>(&mut self, plan: &mut Plan, failed: &BTreeMap<Frontend, E>) -> Retired {
        let mut retired = Retired::default();
        for part in plan.parts.take() {
            if failed.contains_key(&part.frontend) {
                self.keep(part, &mut retired);
                continue;
            }
            retired.append(part.retired);
            if let Some(held) = self.services.get_mut(&part.frontend) {
                held.groups.iter_mut().for_each(|group| group.unseen = false);
            }
        }
        retired
    }

    /// The same where every write has succeeded.
    pub fn written(&mut self, plan: &mut Plan) -> Retired {
        self.conclude(plan, &BTreeMap::<_, ()>::new())
    }

    /// The maps hold another state of these backends than was written, or nobody knows which.
    pub(crate) fn forget_states(&mut self, backends: &[u32]) {
        backends.iter().for_each(|id| self.backends.forget_state(*id));
    }

    /// The frontend keeps what it had beside what it was to have.
    fn keep(&mut self, part: Part, retired: &mut Retired) {
        let Part { frontend, deleted, retired: mut kept, left, .. } = part;
        let held = self.services.entry(frontend).or_insert_with(|| MirrorEntry::nothing(deleted));
        held.damaged = true;
        let owed = held.owed.get_or_insert_default();
        owed.extents.append(&mut kept.extents);
        owed.counters.append(&mut kept.counters);
        self.tables.extend(kept.tables);
        let mut last: HashMap<u32, usize> = HashMap::new();
        kept.backends.iter().for_each(|id| *last.entry(*id).or_default() += 1);
        for member in left {
            let was_last = last.get_mut(&member.id()).filter(|count| **count > 0);
            if owed.members.iter().any(|other| other.id() == member.id()) {
                // It is kept already.
                continue;
            }
            self.backends.rejoin(member.id(), member.state(), was_last.is_some());
            if let Some(count) = was_last {
                *count -= 1;
            }
            owed.members.push(member);
        }
        retired.backends.extend(last.into_iter().flat_map(|(id, count)| std::iter::repeat_n(id, count)));
    }
}

impl MirrorEntry {
    /// A frontend that could not be deleted: it leads to what it owes.
    fn nothing(deleted: Option<Deleted>) -> Self {
        let (stamp, flags, service, port_name) = match deleted {
            Some(Deleted { stamp, flags, service, port_name }) => (stamp, flags, service, port_name),
            None => (Stamp::default(), 0, None, None),
        };
        Self { stamp, flags, service, port_name, groups: Vec::new(), damaged: true, owed: None }
    }
}
