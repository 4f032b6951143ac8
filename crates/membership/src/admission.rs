//! Whether a cluster may become a peer of this one: names and ids are unique in the mesh, and ranges are disjoint.

use ipnet::IpNet;
use mesh_admin::cluster::Problem;
use mesh_model::address_policy::{OwnRanges, PeerRanges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::reason::Actor;

use crate::plan::ranges::{kinds, overlapping};

/// A cluster by what has to be unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub name: ClusterName,
    pub id: ClusterId,
    pub ranges: PeerRanges,
}

/// What a candidate is compared with.
#[derive(Clone, Debug)]
pub struct Admission {
    pub name: ClusterName,
    pub id: ClusterId,
    /// The own cluster's, as they are now.
    pub ranges: OwnRanges,
    /// The peers that there are; what there is of the candidate's own name is about to be replaced.
    pub peers: Vec<Candidate>,
}

/// Overlaps with one cluster that are told.
const TOLD: usize = 20;

const OTHER_RANGES: &str = "give one of the two other ranges, or correct --pod-cidr and --node-cidr where one claims more than \
                            it has";

impl Admission {
    /// Everything that stands against a candidate; nothing if it may become a peer.
    pub fn problems(&self, candidate: &Candidate) -> Vec<Problem> {
        let others = self.peers.iter().filter(|peer| peer.name != candidate.name);
        let mut problems = self.own(candidate);
        problems.extend(self.own_ranges(candidate));
        problems.extend(others.flat_map(|peer| between(candidate, peer)));
        problems
    }

    fn own(&self, candidate: &Candidate) -> Vec<Problem> {
        let mut problems = Vec::new();
        if candidate.name == self.name {
            problems.push(Problem {
                who: Actor::Operator,
                error: format!("{} is this cluster itself", self.name),
                remedy: "a cluster is not its own peer: ask the other cluster for its peer file".into(),
            });
        }
        if candidate.id == self.id {
            problems.push(Problem {
                who: Actor::Peer,
                error: format!("the id {} of {} is this cluster's own", self.id, candidate.name),
                remedy: "give one of the two another --cluster-id; ids are unique in the mesh".into(),
            });
        }
        problems
    }

    fn own_ranges(&self, candidate: &Candidate) -> Vec<Problem> {
        let (claimed, own) = (backends(&candidate.ranges), kinds(&self.ranges));
        let told =
            overlapping(&claimed, &own).into_iter().take(TOLD).map(|((what, range), (own, against))| {
                Problem {
                    who: Actor::Peer,
                    error: format!(
                        "{what} range {range} of {} overlaps this cluster's own {own} range {against}",
                        candidate.name
                    ),
                    remedy: OTHER_RANGES.into(),
                }
            });
        told.collect()
    }
}

fn between(candidate: &Candidate, peer: &Candidate) -> Vec<Problem> {
    let name = &candidate.name;
    let mut problems = Vec::new();
    if candidate.id == peer.id {
        problems.push(Problem {
            who: Actor::Peer,
            error: format!("the id {} of {name} belongs to {} already, which is a peer", peer.id, peer.name),
            remedy: format!(
                "give {name} another --cluster-id, or remove {} from the peers if it has left",
                peer.name
            ),
        });
    }
    let (ones, others) = (backends(&candidate.ranges), backends(&peer.ranges));
    problems.extend(overlapping(&ones, &others).into_iter().take(TOLD).map(
        |((what, range), (others, against))| Problem {
            who: Actor::Peer,
            error: format!(
                "{what} range {range} of {name} overlaps {others} range {against} of {}, which is a peer",
                peer.name
            ),
            remedy: OTHER_RANGES.into(),
        },
    ));
    problems
}

/// Where a peer's backends may lie; nobody knows where its own word is taken.
fn backends(ranges: &PeerRanges) -> Vec<(&'static str, IpNet)> {
    match ranges {
        PeerRanges::Declared(_) => Vec::new(),
        PeerRanges::Agreed(ranges) => {
            kinds(&OwnRanges { pods: ranges.pods.clone(), services: Vec::new(), nodes: ranges.nodes.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn candidate(name: &str, id: u64, pods: &[&str], nodes: &[&str]) -> Candidate {
        let ranges = mesh_model::address_policy::Ranges { pods: nets(pods), nodes: nets(nodes) };
        Candidate {
            name: ClusterName::new(name).unwrap(),
            id: ClusterId::try_from(id).unwrap(),
            ranges: PeerRanges::Agreed(ranges),
        }
    }

    fn yavin() -> Admission {
        Admission {
            name: ClusterName::new("yavin").unwrap(),
            id: ClusterId::try_from(1).unwrap(),
            ranges: OwnRanges {
                pods: nets(&["10.1.0.0/16", "fd00:1::/56"]),
                services: nets(&["10.101.0.0/16"]),
                nodes: nets(&["192.168.1.0/24"]),
            },
            peers: vec![candidate("hoth", 2, &["10.2.0.0/16"], &["192.168.2.0/24"])],
        }
    }

    fn told(candidate: &Candidate) -> Vec<String> {
        yavin().problems(candidate).into_iter().map(|problem| problem.error).collect()
    }

    #[test]
    fn who_collides_with_nobody_may_come_and_come_again() {
        assert!(told(&candidate("echo", 3, &["10.3.0.0/16", "fd00:3::/56"], &["192.168.3.0/24"])).is_empty());
        assert!(told(&candidate("hoth", 2, &["10.2.0.0/16"], &[])).is_empty());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let wrong =
            candidate("yavin", 1, &["10.0.0.0/8", "192.168.2.7/32"], &["10.101.3.0/24", "fd00:1::5/128"]);
        let expected = [
            "yavin is this cluster itself",
            "the id 1 of yavin is this cluster's own",
            "pod range 10.0.0.0/8 of yavin overlaps this cluster's own pod range 10.1.0.0/16",
            "pod range 10.0.0.0/8 of yavin overlaps this cluster's own service range 10.101.0.0/16",
            "node range 10.101.3.0/24 of yavin overlaps this cluster's own service range 10.101.0.0/16",
            "node range fd00:1::5/128 of yavin overlaps this cluster's own pod range fd00:1::/56",
            "pod range 10.0.0.0/8 of yavin overlaps pod range 10.2.0.0/16 of hoth, which is a peer",
            "pod range 192.168.2.7/32 of yavin overlaps node range 192.168.2.0/24 of hoth, which is a peer",
        ];
        assert_eq!(told(&wrong), expected);
        assert_eq!(
            told(&candidate("echo", 2, &["10.3.0.0/16"], &[])),
            ["the id 2 of echo belongs to hoth already, which is a peer"]
        );
        assert!(yavin().problems(&wrong).iter().all(|problem| !problem.remedy.is_empty()));
    }
}
