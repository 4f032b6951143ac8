//! Which of the own cluster's endpoints this node's clients use, by the control plane's topology hints.
//!
//! The rule is kube-proxy's (`CategorizeEndpoints`): hints count only where every ready endpoint has one and at
//! least one of them is meant for this node, or else its zone; otherwise all endpoints are used.

use mesh_model::snapshot::Slice;

use crate::convert::Hints;

/// From where endpoints are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Viewpoint<'a> {
    pub(crate) node: &'a str,
    pub(crate) zone: Option<&'a str>,
}

/// Marks the endpoints that hints keep from clients at `view`. The slices are all of one Service and one family.
pub(crate) fn narrow(view: Viewpoint<'_>, slices: &mut [(&mut Slice, &[Hints])]) {
    let for_node = |hints: &Hints| hints.nodes.iter().any(|node| node == view.node);
    let for_zone = |hints: &Hints| view.zone.is_some_and(|zone| hints.zones.iter().any(|it| it == zone));
    if counts(slices, |hints| !hints.nodes.is_empty(), for_node) {
        mark(slices, for_node);
    } else if counts(slices, |hints| !hints.zones.is_empty(), for_zone) {
        mark(slices, for_zone);
    }
}

fn counts(
    slices: &[(&mut Slice, &[Hints])],
    hinted: impl Fn(&Hints) -> bool,
    meant: impl Fn(&Hints) -> bool,
) -> bool {
    let none = Hints::default();
    let ready = slices.iter().flat_map(|(slice, hints)| {
        let ready = slice.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.condition.ready);
        ready.map(|(index, _)| hints.get(index).unwrap_or(&none))
    });
    ready.clone().all(hinted) && ready.clone().any(meant)
}

fn mark(slices: &mut [(&mut Slice, &[Hints])], meant: impl Fn(&Hints) -> bool) {
    for (slice, hints) in slices {
        for (endpoint, hints) in slice.endpoints.iter_mut().zip(*hints) {
            endpoint.hinted_away = !meant(hints);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::snapshot::{Condition, Endpoint};

    use super::*;

    const VIEW: Viewpoint<'_> = Viewpoint { node: "n1", zone: Some("a") };

    /// Endpoints by what they are hinted for: `zone:a`, `node:n1`, or nothing. Returns which stay.
    fn used(view: Viewpoint<'_>, endpoints: &[(&str, Condition)]) -> Vec<bool> {
        let hints: Vec<Hints> = (endpoints.iter())
            .map(|(hint, _)| {
                let of =
                    |kind| hint.split(' ').filter_map(|it| Some(it.strip_prefix(kind)?.to_owned())).collect();
                Hints { zones: of("zone:"), nodes: of("node:") }
            })
            .collect();
        let endpoints =
            endpoints.iter().map(|(_, condition)| Endpoint::new([10, 0, 0, 1], *condition)).collect();
        let mut slice = Slice { ports: Vec::new(), endpoints };
        narrow(view, &mut [(&mut slice, &hints)]);
        slice.endpoints.iter().map(|endpoint| !endpoint.hinted_away).collect()
    }

    #[test]
    fn clients_stay_in_their_zone_where_it_has_endpoints() {
        let three =
            [("zone:a", Condition::READY), ("zone:b", Condition::READY), ("zone:a zone:b", Condition::READY)];
        assert_eq!(used(VIEW, &three), [true, false, true]);
        assert_eq!(used(Viewpoint { zone: Some("b"), ..VIEW }, &three), [false, true, true]);
        assert_eq!(used(Viewpoint { zone: Some("c"), ..VIEW }, &three), [true, true, true]);
        assert_eq!(used(Viewpoint { zone: None, ..VIEW }, &three), [true, true, true]);
    }

    #[test]
    fn one_ready_endpoint_without_a_hint_makes_all_hints_void() {
        let some = [("zone:a", Condition::READY), ("", Condition::READY), ("zone:b", Condition::READY)];
        assert_eq!(used(VIEW, &some), [true, true, true]);
        let gone = [("zone:a", Condition::READY), ("", Condition::NOT_READY), ("zone:b", Condition::READY)];
        assert_eq!(used(VIEW, &gone), [true, false, false]);
    }

    #[test]
    fn a_zone_without_ready_endpoints_uses_all() {
        let draining = [("zone:a", Condition::TERMINATING), ("zone:b", Condition::READY)];
        assert_eq!(used(VIEW, &draining), [true, true]);
    }

    #[test]
    fn the_own_node_comes_before_the_zone() {
        let both = [("zone:a node:n1", Condition::READY), ("zone:a node:n2", Condition::READY)];
        assert_eq!(used(VIEW, &both), [true, false]);
        assert_eq!(used(Viewpoint { node: "n3", ..VIEW }, &both), [true, true]);
    }
}
