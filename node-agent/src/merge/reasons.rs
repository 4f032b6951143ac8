//! The parts of a Service that are not in use on this node, and the reasons, from own source, peers and merge loop. Pure, and
//! asked only by people: nothing of a change waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_admin::api::PeerState;
use mesh_model::desired::Frontend;
use mesh_model::explain::explain;
use mesh_model::merge::Merge;
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::reason::{Omission, Reason};
use mesh_model::snapshot::{ClusterSnapshot, Service};
use mesh_model::view::PeerService;
use mesh_source::{Problem, Reason as Fault, Status};

use crate::peers::{PeerSet, PeerStatus};

/// A frontend that is not as desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFrontend {
    pub frontend: Frontend,
    /// Unknown where the frontend was to be deleted.
    pub service: Option<ServiceName>,
    /// The cluster whose backends alone are concerned, if so.
    pub cluster: Option<ClusterId>,
    pub reason: Reason,
    pub text: String,
}

/// Where the answers come from. Sorted once, so that asking about every Service takes no longer than there are faults.
pub struct Evidence<'a> {
    own: ClusterId,
    local: Option<&'a ClusterSnapshot>,
    peers: &'a PeerSet,
    /// What the own source could not use, by object.
    problems: HashMap<&'a str, Vec<&'a Problem>>,
    refused: HashMap<&'a ServiceName, Vec<&'a RefusedFrontend>>,
}

impl<'a> Evidence<'a> {
    /// `local`: none before the own source is synced.
    pub fn new(
        own: ClusterId,
        (local, source): (Option<&'a ClusterSnapshot>, &'a Status),
        peers: &'a PeerSet,
        refused: &'a [RefusedFrontend],
    ) -> Self {
        let problems = source.problems.iter().map(|problem| (problem.object.as_str(), problem));
        let refused = refused.iter().filter_map(|refused| Some((refused.service.as_ref()?, refused)));
        Self { own, local, peers, problems: grouped(problems), refused: grouped(refused) }
    }

    /// Everything that takes no part in a Service, sorted.
    pub fn omissions(&self, name: &ServiceName) -> Vec<Omission> {
        let mut all = self.of_source(name);
        all.extend(self.refusals(name));
        match self.local.and_then(|local| local.services.get(name)) {
            Some(service) => all.extend(self.of_clusters(name, service)),
            // The Service itself is known.
            None if all.is_empty() => all.push(not_global()),
            None => {}
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Objects that the own source could not use.
    fn of_source(&self, name: &ServiceName) -> Vec<Omission> {
        let Some(local) = self.local else {
            return vec![Omission::new(Reason::Unread, "the own source has not said everything yet")];
        };
        let service = local.services.get(name);
        let mut objects = vec![format!("Service {name}")];
        let slices = service.iter().flat_map(|service| service.slices.keys());
        objects.extend(slices.map(|slice| format!("EndpointSlice {}/{slice}", name.namespace())));
        let problems = objects.iter().filter_map(|object| self.problems.get(object.as_str())).flatten();
        let mut all: Vec<Omission> = problems.filter_map(|problem| of_problem(problem)).collect();
        let unread = match service {
            Some(_) => local.unread.may_have_slices(name),
            None => local.unread.may_be_service(name),
        };
        if unread {
            all.push(Omission::new(Reason::Unread, Reason::Unread.meaning()));
        }
        all
    }

    fn refusals(&self, name: &ServiceName) -> Vec<Omission> {
        let local = self.local.and_then(|local| local.services.get(name));
        let those = self.refused.get(name).into_iter().flatten();
        let omission = |refused: &&RefusedFrontend| {
            let RefusedFrontend { frontend, cluster, reason, text, .. } = *refused;
            let Frontend { port: number, protocol, .. } = frontend;
            let mut ports = local.iter().flat_map(|service| &service.ports);
            let port = ports.find(|port| (port.port, port.protocol) == (*number, *protocol)).cloned();
            let detail = format!("{frontend}: {text}");
            Omission { port, cluster: *cluster, ..Omission::new(*reason, detail) }
        };
        those.map(omission).collect()
    }

    fn of_clusters(&self, name: &ServiceName, local: &Service) -> Vec<Omission> {
        let mut all = Vec::new();
        let mut offers: Vec<(ClusterId, Arc<PeerService>)> = Vec::new();
        for peer in self.peers.peers.values() {
            let Some(id) = peer.file.as_ref().map(|file| file.id).or(peer.refused_id) else { continue };
            all.extend(absence(peer).map(|omission| omission.of(id)));
            all.extend(peer.snapshot.faults.of(name).into_iter().map(|omission| omission.of(id)));
            let beyond = beyond_quota(peer, name).map(|omission| omission.of(id));
            // The content of a refused file is not in use.
            let known = peer.file.is_some() && peer.snapshot.synced;
            match peer.snapshot.services.get(name).filter(|_| known) {
                Some(service) => offers.push((id, service.clone())),
                None if known && is_unread(peer, name) => {
                    let detail = "its records of the Service are being read";
                    all.push(Omission::new(Reason::PeerSilent, detail).of(id));
                }
                None if known && beyond.is_none() => {
                    let detail = "create it there, with clustermesh.io/global: \"true\", without clustermesh.io/shared: \
                                  \"false\", and with this cluster in clustermesh.io/export-to where it has that";
                    all.push(Omission::new(Reason::NotOffered, detail).of(id));
                }
                None => {}
            }
            all.extend(beyond.filter(|_| known));
        }
        let input = Merge {
            own: self.own,
            plain_ok_allowed: false,
            name,
            local,
            peers: &offers,
            carried: &|_| Vec::new(),
        };
        all.extend(explain(&input));
        all
    }
}

fn grouped<K: Eq + std::hash::Hash, V>(pairs: impl Iterator<Item = (K, V)>) -> HashMap<K, Vec<V>> {
    let mut groups = HashMap::<K, Vec<V>>::new();
    pairs.for_each(|(key, value)| groups.entry(key).or_default().push(value));
    groups
}

fn not_global() -> Omission {
    let detail = "annotate the Service with clustermesh.io/global: \"true\" in this cluster";
    Omission::new(Reason::NotGlobal, detail)
}

/// Why nothing new is known of a peer, or nothing at all.
fn absence(peer: &PeerStatus) -> Option<Omission> {
    let (state, why) = peer.state();
    let why = why.unwrap_or_else(|| state.to_string());
    match state {
        PeerState::Refused => Some(Omission::new(Reason::PeerRefused, why)),
        _ if !peer.snapshot.synced => Some(Omission::new(Reason::PeerSilent, why)),
        _ => None,
    }
}

/// Whether the Service is so new here that nothing of it has been read of the peer.
fn is_unread(peer: &PeerStatus, name: &ServiceName) -> bool {
    peer.snapshot.tracked.as_ref().is_some_and(|tracked| !tracked.contains(name))
}

/// Whether the peer has too much of something, and is cut before or within the Service.
fn beyond_quota(peer: &PeerStatus, name: &ServiceName) -> Option<Omission> {
    let mut cuts = peer.snapshot.cuts.iter();
    let cut = cuts.find(|cut| cut.from.as_ref().is_none_or(|from| from <= name))?;
    Some(Omission::new(Reason::OverQuota, cut.to_string()))
}

/// The meaning of a problem of the source for the Service; none where the service takes part all the same.
fn of_problem(problem: &Problem) -> Option<Omission> {
    let reason = match problem.reason {
        Fault::Headless | Fault::ExternalName => Reason::NotBalanced,
        Fault::ExportToInvalid => Reason::ExportToInvalid,
        Fault::Unsupported => Reason::Unsupported,
        Fault::AddressTaken => Reason::AddressTaken,
        Fault::OverLimit => Reason::OverLimit,
        // Told by what is missing, or nothing is left out.
        Fault::NoSlices | Fault::NodeLocal | Fault::SessionAffinity => return None,
        _ => Reason::Invalid,
    };
    Some(Omission::new(reason, problem.message.clone()))
}
