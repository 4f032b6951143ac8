//! Clusters that have backends for a frontend and take no part in it, because it has room for a limited number of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::desired::{Frontend, MAX_GROUPS};
use mesh_model::merge::LeftOut;
use mesh_model::name::ClusterId;

/// By frontend; those in which everybody takes part are not in it. Shared with those who show it.
pub(super) type LeftOutClusters = Arc<BTreeMap<Frontend, Vec<ClusterId>>>;

/// Changes of one pass that the log names.
const NAMED_CHANGES: usize = 10;

/// Takes what a merge said of its frontends in place of what was known of them. Nothing is copied where nothing changes.
pub(super) fn update<'a>(
    all: &mut LeftOutClusters,
    frontends: impl Iterator<Item = &'a Frontend>,
    left_out: Vec<LeftOut>,
) {
    let groups = left_out.into_iter().filter_map(|left_out| match left_out {
        LeftOut::Groups { frontend, clusters } => Some((frontend, clusters)),
        LeftOut::Port { .. } => None,
    });
    let mut new: BTreeMap<_, _> = groups.collect();
    for frontend in frontends {
        let clusters = new.remove(frontend).unwrap_or_default();
        if all.get(frontend).map_or(&[][..], Vec::as_slice) != clusters {
            let all = Arc::make_mut(all);
            if clusters.is_empty() {
                all.remove(frontend)
            } else {
                all.insert(*frontend, clusters)
            };
        }
    }
}

/// Nobody wants the frontend any more.
pub(super) fn forget(all: &mut LeftOutClusters, frontend: &Frontend) {
    if all.contains_key(frontend) {
        Arc::make_mut(all).remove(frontend);
    }
}

/// Logs each change once.
pub(super) fn log(before: &LeftOutClusters, after: &LeftOutClusters) {
    if Arc::ptr_eq(before, after) {
        return;
    }
    let changed: Vec<_> =
        after.iter().filter(|(frontend, clusters)| before.get(*frontend) != Some(*clusters)).collect();
    for (frontend, clusters) in changed.iter().take(NAMED_CHANGES) {
        let (address, port, protocol) = (frontend.address, frontend.port, frontend.protocol);
        let clusters = clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        tracing::warn!(%address, port, %protocol, clusters, room = MAX_GROUPS, "clusters take no part in a frontend");
    }
    if changed.len() > NAMED_CHANGES {
        let frontends = changed.len() - NAMED_CHANGES;
        tracing::warn!(frontends, room = MAX_GROUPS, "clusters take no part in more frontends");
    }
    if after.is_empty() && !before.is_empty() {
        tracing::info!("all clusters take part in all frontends again");
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::snapshot::Protocol;

    use super::*;

    #[test]
    fn a_merge_replaces_what_was_known_of_its_frontends_alone() {
        let frontend = |port| Frontend { address: [10, 96, 0, 1].into(), port, protocol: Protocol::Tcp };
        let clusters = |ids: &[u64]| ids.iter().map(|id| ClusterId::new(*id).unwrap()).collect::<Vec<_>>();
        let groups = |port, ids| LeftOut::Groups { frontend: frontend(port), clusters: clusters(ids) };
        let mut all = LeftOutClusters::default();
        update(&mut all, [frontend(1), frontend(2)].iter(), vec![groups(1, &[17]), groups(2, &[17, 18])]);
        assert_eq!(all[&frontend(2)], clusters(&[17, 18]));
        let shown = all.clone();
        update(&mut all, [frontend(2)].iter(), vec![groups(2, &[17, 18])]);
        assert!(Arc::ptr_eq(&shown, &all), "nothing is copied where nothing changes");
        update(&mut all, [frontend(2)].iter(), Vec::new());
        assert_eq!(all.keys().collect::<Vec<_>>(), [&frontend(1)]);
        forget(&mut all, &frontend(1));
        assert_eq!((all.len(), shown.len()), (0, 2), "answers under way keep theirs");
    }
}
