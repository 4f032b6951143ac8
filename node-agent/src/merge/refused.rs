//! The frontends that are not as desired: those that found no room, and those that a write failed of. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::desired::Frontend;
use mesh_model::name::ServiceName;

use super::refusal::{Refusal, Refusals};
use crate::datapath::plan::Shortage;

/// Refusals by frontend, and which of these frontends are not planned for the time being.
#[derive(Debug, Default)]
pub(super) struct Refused {
    all: Refusals,
    /// A write failed, and the next attempt is not due yet.
    held_back: BTreeSet<Frontend>,
}

impl Refused {
    /// Shared with the answers.
    pub(super) fn all(&self) -> &Refusals {
        &self.all
    }

    pub(super) fn contains(&self, frontend: &Frontend) -> bool {
        self.all.contains_key(frontend)
    }

    /// Whether the frontend waits for its next attempt.
    pub(super) fn is_held_back(&self, frontend: &Frontend) -> bool {
        self.held_back.contains(frontend)
    }

    /// A map has no room for all of the frontend.
    pub(super) fn lacks_room(&mut self, frontend: Frontend, service: ServiceName, shortage: Shortage) {
        Arc::make_mut(&mut self.all).insert(frontend, Refusal::Shortage { service, shortage });
    }

    /// A write of the frontend failed: it is held back until [`Self::retry`].
    pub(super) fn failed(&mut self, frontend: Frontend, service: Option<ServiceName>, reason: String) {
        Arc::make_mut(&mut self.all).insert(frontend, Refusal::Failed { service, reason });
        self.held_back.insert(frontend);
    }

    /// The frontend may be planned again.
    pub(super) fn retry(&mut self, frontend: &Frontend) {
        self.held_back.remove(frontend);
    }

    /// All of the frontend's writes have succeeded.
    pub(super) fn succeeded(&mut self, frontend: &Frontend) {
        self.held_back.remove(frontend);
        if self.has_failed(frontend) {
            Arc::make_mut(&mut self.all).remove(frontend);
        }
    }

    /// The service has been merged anew, so that it is known again which of its frontends find room.
    pub(super) fn merged(&mut self, service: &ServiceName) {
        self.forgive(|_, refusal| !refusal.is_failure() && refusal.service() == Some(service));
    }

    /// These frontends are being planned, so that it is known again whether their writes fail.
    pub(super) fn planned<V>(&mut self, changes: &BTreeMap<Frontend, V>) {
        self.forgive(|frontend, refusal| refusal.is_failure() && changes.contains_key(frontend));
    }

    /// Answers under way keep the refusals of before; nothing is copied where all stay.
    fn forgive(&mut self, over: impl Fn(&Frontend, &Refusal) -> bool) {
        if self.all.iter().any(|(frontend, refusal)| over(frontend, refusal)) {
            Arc::make_mut(&mut self.all).retain(|frontend, refusal| !over(frontend, refusal));
        }
    }

    /// The services that wait for room.
    pub(super) fn without_room(&self) -> impl Iterator<Item = &ServiceName> {
        let waiting = self.all.values().filter(|refusal| refusal.is_shortage());
        waiting.filter_map(Refusal::service)
    }

    /// How many frontends wait for room in a map that is full, whoever has filled it.
    pub(super) fn shortages(&self) -> usize {
        let is_full = |refusal: &&Refusal| refusal.is_shortage() && refusal.cluster().is_none();
        self.all.values().filter(is_full).count()
    }

    /// Whether a frontend waits for room in a map, or in a cluster's share of it.
    pub(super) fn has_shortage(&self) -> bool {
        self.all.values().any(Refusal::is_shortage)
    }

    /// Whether a write of the frontend failed, and nothing has been written since.
    pub(super) fn has_failed(&self, frontend: &Frontend) -> bool {
        self.all.get(frontend).is_some_and(Refusal::is_failure)
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::name::ClusterId;
    use mesh_model::snapshot::Protocol;

    use super::*;

    fn frontend(port: u16) -> Frontend {
        Frontend { address: [10, 96, 0, 1].into(), port, protocol: Protocol::Tcp }
    }

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[test]
    fn a_failed_write_holds_its_frontend_back_until_the_next_attempt() {
        let mut refused = Refused::default();
        refused.failed(frontend(1), Some(service("ns/a")), "refused".into());
        assert!(refused.has_failed(&frontend(1)) && refused.is_held_back(&frontend(1)));
        assert!(!refused.is_held_back(&frontend(2)));
        refused.merged(&service("ns/a"));
        assert!(refused.contains(&frontend(1)), "a merge writes nothing");
        refused.retry(&frontend(1));
        assert!(refused.has_failed(&frontend(1)) && !refused.is_held_back(&frontend(1)));
        refused.failed(frontend(1), None, "refused again".into());
        refused.succeeded(&frontend(1));
        assert!(!refused.contains(&frontend(1)) && !refused.is_held_back(&frontend(1)));
    }

    #[test]
    fn a_shortage_stays_until_its_service_is_merged_and_a_share_is_no_full_map() {
        let mut refused = Refused::default();
        refused.lacks_room(frontend(1), service("ns/a"), Shortage::Slots);
        let share = Shortage::SlotShare(ClusterId::new(2).unwrap());
        refused.lacks_room(frontend(2), service("ns/b"), share);
        assert_eq!((refused.shortages(), refused.has_shortage()), (1, true));
        assert_eq!(refused.without_room().collect::<Vec<_>>(), [&service("ns/a"), &service("ns/b")]);
        refused.succeeded(&frontend(1));
        assert!(
            refused.contains(&frontend(1)),
            "a part of it was written, and there was no room for the rest"
        );
        refused.merged(&service("ns/a"));
        assert_eq!((refused.shortages(), refused.has_shortage()), (0, true));
        refused.planned(&BTreeMap::from([(frontend(2), ())]));
        assert!(refused.contains(&frontend(2)), "only failures end with a plan");
    }

    #[test]
    fn answers_under_way_keep_the_refusals_of_before() {
        let mut refused = Refused::default();
        refused.lacks_room(frontend(1), service("ns/a"), Shortage::Slots);
        let shown = refused.all().clone();
        refused.merged(&service("ns/b"));
        assert!(Arc::ptr_eq(&shown, refused.all()), "nothing is copied where all stay");
        refused.merged(&service("ns/a"));
        assert_eq!((shown.len(), refused.all().len()), (1, 0));
    }
}
