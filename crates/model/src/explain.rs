//! Why backends of a global Service are not in use: for whoever asks, never on the way of a change.
//!
//! Looks at what a [`merge`](crate::merge::merge) makes of its input and gives a reason for everything that is not in it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::Address;
use crate::desired::{BackendState, Frontend, MAX_GROUPS};
use crate::merge::{Merge, frontends, match_ports, merge};
use crate::name::ClusterId;
use crate::ports::Targets;
use crate::reason::{Omission, Reason};
use crate::record::MAX_SERVICE_ENDPOINTS;
use crate::snapshot::{ServicePort, SlicePort};
use crate::view::PeerService;

/// How many of another cluster's ports a text names.
const NAMED_PORTS: usize = 5;

/// Everything that synced clusters offer and that is not in use, sorted.
pub fn explain(input: &Merge<'_>) -> Vec<Omission> {
    if input.local.node_local {
        return vec![Omission::new(Reason::NodeLocal, Reason::NodeLocal.meaning())];
    }
    let used = Used::of(input);
    let own = Side::own(input);
    let peers = input.peers.iter().filter(|(cluster, _)| *cluster != input.own);
    let peers = peers.map(|(cluster, service)| Side::peer(input, *cluster, service));
    let mut all: Vec<Omission> =
        [own].into_iter().chain(peers).flat_map(|side| side.omissions(input, &used)).collect();
    all.sort_unstable();
    all
}

/// What a merge made use of.
struct Used {
    /// Cluster, index of the own port, address.
    backends: BTreeSet<(ClusterId, usize, Address)>,
    families: BTreeSet<bool>,
}

impl Used {
    fn of(input: &Merge<'_>) -> Self {
        let ports: BTreeMap<Frontend, usize> = frontends(input.local).collect();
        let merged = merge(input);
        let backends = merged.iter().flat_map(|(frontend, desired)| {
            let port = ports[frontend];
            desired.groups.iter().flat_map(move |group| {
                group.backends.iter().map(move |backend| (group.cluster, port, backend.address))
            })
        });
        Self {
            backends: backends.collect(),
            families: input.local.cluster_ips.iter().map(|address| address.is_ipv4()).collect(),
        }
    }
}

/// An endpoint as far as it says whether it may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Availability {
    Active,
    Terminating,
    NotReady,
    HintedAway,
}

/// Ports and endpoints.
type SideSlice<'a> = (&'a [SlicePort], Vec<(Address, Availability)>);

/// What one cluster has of the Service.
struct Side<'a> {
    cluster: ClusterId,
    /// The cluster's port for each of the own ones.
    ports: Vec<Option<&'a ServicePort>>,
    exposed: &'a [ServicePort],
    slices: Vec<SideSlice<'a>>,
    slices_beyond_limit: usize,
}

/// By reason and port: which addresses.
type Found<'a> = BTreeMap<(Reason, Option<&'a ServicePort>), BTreeSet<Address>>;

impl<'a> Side<'a> {
    fn own(input: &Merge<'a>) -> Self {
        let slices = input.local.slices.values().map(|slice| {
            let endpoints = slice.endpoints.iter().map(|endpoint| {
                let availability = match endpoint.condition.state() {
                    None => Availability::NotReady,
                    Some(_) if endpoint.hinted_away => Availability::HintedAway,
                    Some(BackendState::Active) => Availability::Active,
                    Some(BackendState::Terminating) => Availability::Terminating,
                };
                (endpoint.address, availability)
            });
            (slice.ports.as_slice(), endpoints.collect())
        });
        Self {
            cluster: input.own,
            ports: input.local.ports.iter().map(Some).collect(),
            exposed: &input.local.ports,
            slices: slices.collect(),
            slices_beyond_limit: 0,
        }
    }

    fn peer(input: &Merge<'_>, cluster: ClusterId, service: &'a PeerService) -> Self {
        let slices = service.slices().iter().map(|slice| {
            let endpoints = slice.endpoints().map(|endpoint| {
                let availability = match endpoint.state {
                    BackendState::Active => Availability::Active,
                    BackendState::Terminating => Availability::Terminating,
                };
                (endpoint.address, availability)
            });
            (slice.ports(), endpoints.collect())
        });
        Self {
            cluster,
            ports: match_ports(&input.local.ports, service.ports()),
            exposed: service.ports(),
            slices: slices.collect(),
            slices_beyond_limit: service.left_out_slices(),
        }
    }

    fn omissions(&self, input: &Merge<'a>, used: &Used) -> Vec<Omission> {
        let local = &input.local.ports;
        let mut found = Found::new();
        for (slice_ports, endpoints) in &self.slices {
            let index = Targets::new(slice_ports);
            for (at, port) in self.ports.iter().enumerate() {
                let Some(port) = port else { continue };
                let served = index.of(port).is_some();
                for (address, availability) in endpoints {
                    let in_use = used.backends.contains(&(self.cluster, at, *address));
                    if let Some(reason) = self.reason(used, (*address, *availability), served, in_use) {
                        let of_port = (reason == Reason::PortNotServed).then_some(&local[at]);
                        found.entry((reason, of_port)).or_default().insert(*address);
                    }
                }
            }
        }
        let mut all: Vec<Omission> = found.into_iter().map(|found| self.omission(found)).collect();
        let unmatched = local.iter().zip(&self.ports).filter(|(_, port)| port.is_none());
        all.extend(unmatched.map(|(port, _)| self.mismatch(port)));
        all.extend(self.no_endpoints(used));
        all.extend(self.beyond_limit());
        all
    }

    /// None where the endpoint is in use.
    fn reason(
        &self,
        used: &Used,
        (address, availability): (Address, Availability),
        served: bool,
        in_use: bool,
    ) -> Option<Reason> {
        match availability {
            _ if in_use => None,
            Availability::NotReady => Some(Reason::NotReady),
            _ if !used.families.contains(&address.is_ipv4()) => Some(Reason::OtherFamily),
            _ if !served => Some(Reason::PortNotServed),
            Availability::HintedAway => Some(Reason::HintedAway),
            Availability::Terminating => Some(Reason::Terminating),
            // Nothing else keeps an active endpoint out.
            Availability::Active => Some(Reason::TooManyClusters),
        }
    }

    fn omission(
        &self,
        ((reason, port), addresses): ((Reason, Option<&ServicePort>), BTreeSet<Address>),
    ) -> Omission {
        let detail = match (reason, port) {
            (Reason::PortNotServed, Some(port)) => format!(
                "no port of that name stands in the slices of these endpoints: give one of the pods' ports the name {}",
                port.name.as_ref().map_or("\"\"".into(), ToString::to_string)
            ),
            (Reason::TooManyClusters, _) => {
                format!("a frontend has room for {MAX_GROUPS} clusters, and others come first")
            }
            (Reason::OtherFamily, _) => {
                "the Service has no ClusterIP of their family here: make it dual-stack".into()
            }
            _ => reason.meaning().into(),
        };
        let endpoints = addresses.len();
        Omission { cluster: Some(self.cluster), port: port.cloned(), reason, endpoints, detail }
    }

    fn mismatch(&self, port: &ServicePort) -> Omission {
        let names = self.exposed.iter().take(NAMED_PORTS).map(ServicePort::to_string);
        let mut exposed = names.collect::<Vec<_>>().join(", ");
        if self.exposed.len() > NAMED_PORTS {
            exposed.push_str(", …");
        }
        let detail = format!(
            "it exposes {exposed}: give the port that shall serve the same name, or the same number, in both clusters"
        );
        let reason = Reason::PortMismatch;
        Omission { port: Some(port.clone()), ..Omission::new(reason, detail).of(self.cluster) }
    }

    /// By family, for a frontend has one.
    fn no_endpoints<'u>(&'u self, used: &'u Used) -> impl Iterator<Item = Omission> + 'u {
        let all = || self.slices.iter().flat_map(|(_, endpoints)| endpoints);
        let serves = move |is_v4| {
            all().any(|(address, availability)| {
                *availability != Availability::NotReady && address.is_ipv4() == is_v4
            })
        };
        let missing = used.families.iter().filter(move |is_v4| !serves(**is_v4));
        missing.map(|is_v4| {
            let family = if *is_v4 { "IPv4" } else { "IPv6" };
            let detail = format!("it has no {family} endpoint that is ready");
            Omission::new(Reason::NoEndpoints, detail).of(self.cluster)
        })
    }

    fn beyond_limit(&self) -> Option<Omission> {
        (self.slices_beyond_limit > 0).then(|| {
            let slices = self.slices_beyond_limit;
            let detail = format!(
                "{slices} slices beyond the first {MAX_SERVICE_ENDPOINTS} endpoints: spread them over several Services"
            );
            Omission::new(Reason::TooManyEndpoints, detail).of(self.cluster)
        })
    }
}
