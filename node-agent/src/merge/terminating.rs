//! Frontends that have nothing better than backends which terminate.
//!
//! The maps hold one state per backend, the best that any service gives it; this tells where a frontend's own service gives a worse one.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::desired::Frontend;

use crate::datapath::actual::{Actual, MirrorEntry};

/// Shared with those who show it.
pub(super) type TerminatingFrontends = Arc<BTreeSet<Frontend>>;

/// Takes note of what a plan left of frontends that were merged: what is planned from differences alone has active
/// backends before and after. Nothing is copied where nothing changes.
pub(super) fn update<'a>(
    all: &mut TerminatingFrontends,
    merged: impl Iterator<Item = &'a Frontend>,
    actual: &Actual,
) {
    for frontend in merged {
        let terminates = actual.held(frontend).is_some_and(MirrorEntry::terminates);
        if terminates == all.contains(frontend) {
            continue;
        }
        let all = Arc::make_mut(all);
        if terminates {
            all.insert(*frontend)
        } else {
            all.remove(frontend)
        };
    }
}
