//! Which Services this node speaks for: three nodes do for each, whatever the number of nodes, so that hardly any Service is
//! without one that runs an agent, and the API server hears each finding three times at most. Pure.
//!
//! Nodes and Services are points of a ring; the three nodes that come next speak for a Service. A node finds its stretch in
//! one pass over the Nodes, and a node that comes or goes moves nothing but its own stretch.

use mesh_model::hash::{fnv1a, mix};
use mesh_model::name::{NodeName, ServiceName};

/// How many nodes speak for a Service.
const SPEAKERS: usize = 3;

/// A stretch of the ring, which ends with this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    All,
    Nothing,
    /// Less than so far before this point.
    Part {
        end: u64,
        length: u64,
    },
}

impl Stretch {
    /// Nothing where the Nodes don't have this one: nobody else counts on it.
    pub(super) fn of<'a>(own: &NodeName, nodes: impl IntoIterator<Item = &'a NodeName>) -> Self {
        let end = point(own.as_str());
        let (mut is_known, mut nearest) = (false, [u64::MAX; SPEAKERS]);
        let mut others = 0_usize;
        for node in nodes {
            if node == own {
                is_known = true;
                continue;
            }
            others += 1;
            let distance = end.wrapping_sub(point(node.as_str()));
            let at = nearest.partition_point(|nearer| *nearer <= distance);
            if at < SPEAKERS {
                nearest[at..].rotate_right(1);
                nearest[at] = distance;
            }
        }
        match nearest {
            _ if !is_known => Self::Nothing,
            _ if others < SPEAKERS => Self::All,
            [.., length] => Self::Part { end, length },
        }
    }

    pub(super) fn holds(self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Part { end, length } => end.wrapping_sub(point(service.as_str())) < length,
        }
    }
}

/// How far round the ring a node is, from 0 to 1.
pub(super) fn fraction(node: &NodeName) -> f64 {
    f64::from(u32::try_from(point(node.as_str()) >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

fn point(name: &str) -> u64 {
    mix(fnv1a(name.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn nodes(count: u32) -> Vec<NodeName> {
        (0..count).map(|number| NodeName::new(&format!("node-{number}")).unwrap()).collect()
    }

    fn services(count: u32) -> Vec<ServiceName> {
        (0..count).map(|number| format!("shop/service-{number}").parse().unwrap()).collect()
    }

    /// The nodes that speak for each of the Services.
    fn speakers<'a>(nodes: &'a [NodeName], services: &'a [ServiceName]) -> Vec<BTreeSet<&'a NodeName>> {
        let stretches: Vec<_> = nodes.iter().map(|own| (own, Stretch::of(own, nodes))).collect();
        let of = |service: &ServiceName| {
            let those = stretches.iter().filter(|(_, stretch)| stretch.holds(service));
            those.map(|(node, _)| *node).collect()
        };
        services.iter().map(of).collect()
    }

    #[test]
    fn three_nodes_speak_for_each_service_or_all_where_there_are_fewer() {
        for count in [1, 2, 3, 4, 5, 50, 300] {
            let nodes = nodes(count);
            let wanted = SPEAKERS.min(nodes.len());
            for speakers in speakers(&nodes, &services(500)) {
                assert_eq!(speakers.len(), wanted, "of {count}: {speakers:?}");
            }
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter() {
        let (mut nodes, own) = (nodes(50), NodeName::new("node-7").unwrap());
        let stretch = Stretch::of(&own, &nodes);
        nodes.reverse();
        assert_eq!(Stretch::of(&own, &nodes), stretch);
    }

    #[test]
    fn no_node_speaks_for_much_more_than_the_others() {
        let (nodes, services) = (nodes(100), services(10_000));
        let mut loads: BTreeMap<&NodeName, usize> = BTreeMap::new();
        speakers(&nodes, &services)
            .into_iter()
            .flatten()
            .for_each(|node| *loads.entry(node).or_default() += 1);
        let most = loads.values().max().unwrap();
        assert!(*most < 5 * SPEAKERS * 100, "{most} of 10,000, where 300 would be even");
    }

    #[test]
    fn a_node_that_goes_changes_nothing_for_the_services_of_others() {
        let (all, services) = (nodes(100), services(2000));
        let before = speakers(&all, &services);
        let (gone, left) = all.split_first().unwrap();
        for (before, after) in before.iter().zip(speakers(left, &services)) {
            let kept = before.intersection(&after).count();
            let wanted = if before.contains(&gone) { SPEAKERS - 1 } else { SPEAKERS };
            assert_eq!(kept, wanted, "{before:?} became {after:?}");
        }
    }

    #[test]
    fn a_node_that_is_not_among_the_nodes_says_nothing() {
        let own = NodeName::new("elsewhere").unwrap();
        assert_eq!(Stretch::of(&own, &nodes(2)), Stretch::Nothing);
        assert_eq!(Stretch::of(&own, &[]), Stretch::Nothing);
        assert!((0.0..=1.0).contains(&fraction(&own)));
    }
}
