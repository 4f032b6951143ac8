//! What becomes of a merged service where only endpoints of peers differ: the short way to what a merge of the whole
//! would find.
//!
//! [`merge`](crate::merge::merge) says what a service is; this says what is different, at the price of the difference,
//! where that can be told from it alone. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::desired::{BackendState, DesiredBackend, Frontend, MAX_GROUPS};
use crate::endpoint::ServingEndpoint;
use crate::merge::{Merge, frontends, match_ports};
use crate::name::ClusterId;
use crate::ports::Targets;
use crate::snapshot::ServicePort;
use crate::view::{EndpointChanges, PeerService};

/// What becomes of one cluster's group behind one frontend. All of the group's backends are active, before and after, and
/// its weight is their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    pub frontend: Frontend,
    pub cluster: ClusterId,
    /// Backends of the group that are none any more.
    pub gone: Vec<DesiredBackend>,
    pub come: Vec<DesiredBackend>,
}

/// The groups in which the merges of `before` and `after` differ; none where only the merges themselves can tell.
pub fn changes(before: &Merge<'_>, after: &Merge<'_>) -> Option<Vec<GroupChange>> {
    let clusters = |input: &Merge<'_>| input.peers.iter().map(|(cluster, _)| *cluster).collect::<Vec<_>>();
    let same_frame = std::ptr::eq(before.local, after.local) && clusters(before) == clusters(after);
    let frontends: Vec<_> = frontends(after.local).collect();
    let distinct: BTreeSet<&Frontend> = frontends.iter().map(|(frontend, _)| frontend).collect();
    if !same_frame || distinct.len() != frontends.len() {
        return None;
    }
    // Who takes part stays the same, but a change of one that doesn't can only be told by a merge.
    let groups = |frontend: &Frontend| 1 + after.peers.len() + (after.carried)(frontend).len();
    if frontends.iter().any(|(frontend, _)| groups(frontend) > MAX_GROUPS) {
        return None;
    }
    let mut all = Vec::new();
    for ((cluster, old), (_, new)) in before.peers.iter().zip(after.peers) {
        if *cluster != after.own && !Arc::ptr_eq(old, new) {
            let difference = Difference::between(&after.local.ports, old, new)?;
            for (frontend, index) in &frontends {
                all.extend(difference.behind(frontend, *index, *cluster)?);
            }
        }
    }
    Some(all)
}

/// How a peer's service differs from what it was.
struct Difference<'a> {
    old: &'a PeerService,
    new: &'a PeerService,
    endpoints: EndpointChanges,
    /// By local port: where its endpoints listen; none where the peer takes no part.
    targets: Vec<Option<u16>>,
}

impl<'a> Difference<'a> {
    /// None where more than endpoints differ, or so many that the whole is had for less.
    fn between(local: &[ServicePort], old: &'a PeerService, new: &'a PeerService) -> Option<Self> {
        let ports = new.slice_ports()?;
        if old.ports() != new.ports() || old.slice_ports()? != ports {
            return None;
        }
        let remote = match_ports(local, new.ports()).into_iter();
        let listen = Targets::new(ports);
        let targets = remote.map(|remote| remote.and_then(|remote| listen.of(remote))).collect();
        Some(Self { old, new, endpoints: new.changes_since(old)?, targets })
    }

    /// What becomes of the cluster's group behind a frontend, if anything does. None in the outer place where the group
    /// has no active backend before or after: then it depends on all clusters which backends count.
    fn behind(&self, frontend: &Frontend, port: usize, cluster: ClusterId) -> Option<Option<GroupChange>> {
        let Some(port) = self.targets[port] else { return Some(None) };
        let is_v4 = frontend.address.is_ipv4();
        let here = |endpoint: &&ServingEndpoint| endpoint.address.is_ipv4() == is_v4;
        let EndpointChanges { before, after } = &self.endpoints;
        if !before.iter().chain(after).any(|endpoint| here(&endpoint)) {
            return Some(None);
        }
        if !self.old.has_active(is_v4) || !self.new.has_active(is_v4) {
            return None;
        }
        let active = |endpoints: &[ServingEndpoint]| -> Vec<DesiredBackend> {
            let active = endpoints.iter().filter(|endpoint| endpoint.state == BackendState::Active);
            active.filter(here).map(|endpoint| endpoint.at(port)).collect()
        };
        let (gone, come) = (active(before), active(after));
        let any = !gone.is_empty() || !come.is_empty();
        Some(any.then_some(GroupChange { frontend: *frontend, cluster, gone, come }))
    }
}
