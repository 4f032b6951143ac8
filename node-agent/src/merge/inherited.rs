//! Content of the maps from before this process, as long as the own source can't say what became of it.
//!
//! A source that remembers what it knew needs none of this: it says so itself. Pure.

use std::collections::HashSet;

use mesh_model::desired::Frontend;
use mesh_model::name::ServiceName;
use mesh_model::snapshot::Unread;

use crate::datapath::actual::Actual;

/// Frontends of an earlier process of which nothing readable has taken the place.
#[derive(Debug, Default)]
pub(super) struct Inherited(HashSet<Frontend>);

impl Inherited {
    pub(super) fn of(actual: &Actual) -> Self {
        Self(actual.frontends().map(|(frontend, _)| *frontend).collect())
    }

    /// Whether a frontend that no readable Service has may belong to an unreadable one. Its name may not be known.
    pub(super) fn may_be_served(
        &self,
        frontend: &Frontend,
        owner: Option<&ServiceName>,
        unread: &Unread,
    ) -> bool {
        let may_be = match owner {
            Some(name) => unread.may_be_service(name),
            None => unread.anything || !unread.services.is_empty(),
        };
        may_be && self.0.contains(frontend)
    }

    /// Whether the own cluster's backends of a frontend may be in slices that can't be read.
    pub(super) fn may_have_backends(
        &self,
        frontend: &Frontend,
        service: &ServiceName,
        unread: &Unread,
    ) -> bool {
        unread.may_have_slices(service) && self.0.contains(frontend)
    }

    /// Everything about a Service has been read, unless some of its slices may not have been.
    pub(super) fn forget_read<'a>(
        &mut self,
        frontends: impl Iterator<Item = &'a Frontend>,
        service: &ServiceName,
        unread: &Unread,
    ) {
        if !unread.may_have_slices(service) {
            for frontend in frontends {
                self.0.remove(frontend);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::datapath::apply::apply;
    use crate::merge::history_tests::kernel::Kernel;
    use crate::merge::{merger_tests, testing};

    /// Of maps that hold service 1.
    fn inherited() -> Inherited {
        let (mut maps, mut merger) = (Kernel::new(), testing::merger());
        merger.observe(Some(&testing::local(&[(1, &[1])])), &testing::no_peers());
        let mut planned = merger.next_plan().unwrap();
        apply(&mut maps, &planned.plan).unwrap();
        merger.actual_mut().written(&mut planned.plan);
        Inherited::of(merger.actual())
    }

    #[test]
    fn a_frontend_stays_as_long_as_its_service_may_be_one_that_cannot_be_read() {
        let (inherited, frontend) = (inherited(), testing::frontend(1));
        let [one, two] = [1, 2].map(merger_tests::name);
        let unread = Unread {
            services: std::iter::once((two.clone(), BTreeMap::new())).collect(),
            ..Unread::default()
        };
        let may_be =
            |owner: Option<&ServiceName>, unread: &Unread| inherited.may_be_served(&frontend, owner, unread);
        assert!(!may_be(Some(&one), &unread), "another is unreadable");
        assert!(may_be(Some(&two), &unread) && may_be(None, &unread), "its name may not be known");
        assert!(!may_be(Some(&two), &Unread::default()));
        let anything = Unread { anything: true, ..Unread::default() };
        assert!(may_be(Some(&one), &anything));
        assert!(!inherited.may_be_served(&testing::frontend(2), None, &anything), "the maps never held it");
    }

    #[test]
    fn backends_are_inherited_until_everything_of_their_service_was_read() {
        let (mut inherited, frontend, name) = (inherited(), testing::frontend(1), merger_tests::name(1));
        let slice = ("ns".to_owned(), "s".parse().unwrap());
        let unread = Unread { slices: [slice].into_iter().collect(), ..Unread::default() };
        inherited.forget_read([frontend].iter(), &name, &unread);
        assert!(inherited.may_have_backends(&frontend, &name, &unread));
        assert!(!inherited.may_have_backends(&frontend, &name, &Unread::default()));
        inherited.forget_read([frontend].iter(), &name, &Unread::default());
        assert!(!inherited.may_have_backends(&frontend, &name, &unread), "it has been read once");
    }
}
