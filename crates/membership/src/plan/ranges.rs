//! Address ranges that must not overlap: among the members, and with those of every peer that one of them has already.
//!
//! What two clusters call their Services may overlap: a ClusterIP is dialled within its own cluster only. What must not is a
//! backend's range, of pods or nodes, with anything of another cluster: a node has to know whose an address is.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mesh_model::address_policy::{OwnRanges, PeerRanges};
use mesh_model::name::ClusterName;

use super::{Finding, Member, pairs};

/// Overlaps of two clusters that are told one by one; of more than these, how many there are.
const TOLD: usize = 3;

pub(super) fn overlaps(members: &[Member]) -> Vec<Finding> {
    let among = pairs(members).filter(|(one, other)| one.name() < other.name());
    let among = among.filter_map(|(one, other)| finding(&extent(one), &extent(other), None));
    among.chain(with_third_parties(members)).collect()
}

/// A cluster's ranges, and what they hold.
struct Extent<'a> {
    cluster: &'a ClusterName,
    ranges: Vec<(&'static str, IpNet)>,
}

fn extent(member: &Member) -> Extent<'_> {
    Extent { cluster: member.name(), ranges: kinds(&member.cluster.ranges) }
}

pub(crate) fn kinds(ranges: &OwnRanges) -> Vec<(&'static str, IpNet)> {
    let of = |what, ranges: &[IpNet]| ranges.iter().map(|range| (what, *range)).collect::<Vec<_>>();
    [of("pod", &ranges.pods), of("service", &ranges.services), of("node", &ranges.nodes)].concat()
}

/// Members and the peers of others that are not members. What the peers of a member itself have was judged when they came.
fn with_third_parties(members: &[Member]) -> Vec<Finding> {
    let mut found = BTreeMap::new();
    for (at, other) in pairs(members) {
        for (name, ranges) in third_parties(at, members) {
            let third = Extent { cluster: &name, ranges: kinds(&ranges) };
            if let Some(finding) = finding(&extent(other), &third, Some(at.name())) {
                found.entry((other.name().clone(), name)).or_insert(finding);
            }
        }
    }
    found.into_values().collect()
}

fn third_parties(at: &Member, members: &[Member]) -> Vec<(ClusterName, OwnRanges)> {
    let strangers = at.peers.iter().filter_map(|entry| {
        let name = ClusterName::new(&entry.name).ok()?;
        let PeerRanges::Agreed(ranges) = entry.file.as_ref()?.ranges.clone() else { return None };
        Some((name, OwnRanges { pods: ranges.pods, nodes: ranges.nodes, services: Vec::new() }))
    });
    strangers.filter(|(name, _)| members.iter().all(|member| member.name() != name)).collect()
}

fn finding(one: &Extent<'_>, other: &Extent<'_>, peer_of: Option<&ClusterName>) -> Option<Finding> {
    let overlaps = overlapping(&one.ranges, &other.ranges);
    let (first, more) = (overlaps.iter().take(TOLD), overlaps.len().saturating_sub(TOLD));
    let mut told: Vec<String> = first
        .map(|((what, range), (others, against))| {
            format!(
                "{what} range {range} of {} and {others} range {against} of {}",
                one.cluster, other.cluster
            )
        })
        .collect();
    if more > 0 {
        told.push(format!("{more} more"));
    }
    let whose = peer_of.map_or_else(String::new, |at| format!(" ({} is a peer of {at})", other.cluster));
    let remedy = "give one of the two other ranges, or correct --pod-cidr, --service-cidr and --node-cidr where one claims \
                  more than it has";
    let problem = format!("ranges overlap{whose}: {}", told.join("; "));
    (!overlaps.is_empty()).then(|| Finding::error(&[one.cluster, other.cluster], problem, remedy))
}

type Overlap<'a> = (&'a (&'static str, IpNet), &'a (&'static str, IpNet));

/// All pairs that overlap, by a sweep over both in their order: of two ranges that overlap, one holds the other.
pub(crate) fn overlapping<'a>(
    ones: &'a [(&'static str, IpNet)],
    others: &'a [(&'static str, IpNet)],
) -> Vec<Overlap<'a>> {
    let of_backends = |overlap: &Overlap<'_>| overlap.0.0 != "service" || overlap.1.0 != "service";
    let mut sorted: Vec<_> = others.iter().collect();
    sorted.sort_by_key(|(_, range)| range.network());
    let mut found = Vec::new();
    for one in ones {
        // Those that begin within it, and those before it that reach into it.
        let begin = sorted.partition_point(|(_, range)| range.network() < one.1.network());
        let within = sorted[begin..].iter().take_while(|(_, range)| range.network() <= one.1.broadcast());
        let around = sorted[..begin].iter().filter(|(_, range)| range.contains(&one.1.network()));
        found.extend(
            around.chain(within).filter(|(_, range)| meets(&one.1, range)).map(|&other| (one, other)),
        );
    }
    found.retain(of_backends);
    found
}

fn meets(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
