//! What the maps held when this process began, as long as the own source can't say what became of it.
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
