//! Global service semantics: named cases, and all of them against a naive reading of the rules.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::address::Address;
use mesh_model::annotation::{Affinity, Scope};
use mesh_model::change::{GroupChange, changes};
use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend, MAX_GROUPS};
use mesh_model::merge::{CarriedGroup, LeftOut, Merge, Merged, match_ports, merge, merge_reported};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::{Condition, Endpoint, Protocol, Service, ServicePort, Slice};
use mesh_model::view::PeerService;
use proptest::prelude::*;
use support::strategies::{service_ports, services};
use support::*;

const OWN: u64 = 1;

/// What peers see of a service when everything is published and read back.
fn as_peer(service: &Service) -> Option<Arc<PeerService>> {
    let name = service_name("default/base");
    listed(&snapshot([(name.clone(), service.clone())])).snapshot().services.get(&name).cloned()
}

fn nothing_carried(_: &Frontend) -> Vec<CarriedGroup> {
    Vec::new()
}

fn run(local: &Service, peers: &[(u64, Service)]) -> Merged {
    let peers: Vec<_> =
        peers.iter().filter_map(|(cluster, service)| Some((id(*cluster), as_peer(service)?))).collect();
    merge_reported(&Merge {
        own: id(OWN),
        plain_ok_allowed: true,
        name: &service_name("default/base"),
        local,
        peers: &peers,
        carried: &nothing_carried,
    })
}

fn only(merged: &Merged) -> &DesiredService {
    assert_eq!(merged.services.len(), 1, "{merged:?}");
    &merged.services[0].1
}

/// `cluster:tier:weight[address,address!]` per group; `!` marks a terminating backend.
fn groups(service: &DesiredService) -> String {
    let backend = |backend: &DesiredBackend| {
        let mark = if backend.state == BackendState::Terminating { "!" } else { "" };
        format!("{}:{}{mark}", backend.address, backend.port)
    };
    let group = |group: &DesiredGroup| {
        let backends: Vec<_> = group.backends.iter().map(backend).collect();
        format!("{}:{}:{}[{}]", group.cluster, group.tier, group.weight, backends.join(","))
    };
    service.groups.iter().map(group).collect::<Vec<_>>().join(" ")
}

fn local(endpoints: Vec<Endpoint>) -> Service {
    http_service("10.101.0.1", endpoints)
}

fn remote(endpoints: Vec<Endpoint>) -> Service {
    http_service("10.102.0.1", endpoints)
}

fn with_affinity(mut service: Service, affinity: Affinity) -> Service {
    service.scope.affinity = affinity;
    service
}

#[test]
fn backends_of_all_clusters_serve_the_own_clusters_frontend() {
    let merged = run(&local(ready(&["10.1.0.1"])), &[(2, remote(ready(&["10.2.0.2", "10.2.0.1"])))]);
    let frontend = Frontend { address: ip("10.101.0.1"), port: 80, protocol: Protocol::Tcp };
    assert_eq!(merged.services[0].0, frontend);
    assert_eq!(groups(only(&merged)), "1:0:1[10.1.0.1:8080] 2:0:2[10.2.0.1:8080,10.2.0.2:8080]");
    assert_eq!(merged.left_out, []);
}

#[test]
fn affinity_chooses_the_tier_by_the_own_clusters_word() {
    let peers = [(2, with_affinity(remote(ready(&["10.2.0.1"])), Affinity::Local))];
    for (affinity, expected) in [
        (Affinity::None, "1:0:1[10.1.0.1:8080] 2:0:1[10.2.0.1:8080]"),
        (Affinity::Local, "1:0:1[10.1.0.1:8080] 2:1:1[10.2.0.1:8080]"),
        (Affinity::Remote, "2:0:1[10.2.0.1:8080] 1:1:1[10.1.0.1:8080]"),
    ] {
        let merged = run(&with_affinity(local(ready(&["10.1.0.1"])), affinity), &peers);
        assert_eq!(groups(only(&merged)), expected, "{affinity}");
    }
}

#[test]
fn shared_false_keeps_backends_from_others_and_not_from_own_clients() {
    let hidden = Scope { shared: false, ..Scope::GLOBAL };
    let local = Service { scope: hidden.clone(), ..local(ready(&["10.1.0.1"])) };
    let remote = Service { scope: hidden, ..remote(ready(&["10.2.0.1"])) };
    assert_eq!(groups(only(&run(&local, &[(2, remote)]))), "1:0:1[10.1.0.1:8080]");
}

#[test]
fn a_service_without_cluster_ips_yields_nothing() {
    let local = Service { cluster_ips: vec![], ..local(ready(&["10.1.0.1"])) };
    assert_eq!(run(&local, &[(2, remote(ready(&["10.2.0.1"])))]), Merged::default());
}

#[test]
fn a_frontend_without_backends_stays_a_frontend() {
    let merged = run(&local(vec![]), &[]);
    assert_eq!(groups(only(&merged)), "");
    assert!(!only(&merged).plain_ok);
}

#[test]
fn only_ready_endpoints_are_used_while_any_cluster_has_one() {
    let fading =
        || vec![endpoint("10.1.0.1", Condition::TERMINATING), endpoint("10.1.0.2", Condition::NOT_READY)];
    let merged = run(&local(fading()), &[(2, remote(ready(&["10.2.0.1"])))]);
    assert_eq!(groups(only(&merged)), "2:0:1[10.2.0.1:8080]");
    assert!(!only(&merged).plain_ok);
    let remote = remote(vec![endpoint("10.2.0.1", Condition::TERMINATING)]);
    let merged = run(&local(fading()), &[(2, remote)]);
    assert_eq!(groups(only(&merged)), "1:0:1[10.1.0.1:8080!] 2:0:1[10.2.0.1:8080!]");
    assert!(!only(&merged).plain_ok);
}

#[test]
fn an_endpoint_in_two_slices_is_one_backend_in_its_better_state() {
    let mut service = remote(vec![endpoint("10.2.0.1", Condition::TERMINATING)]);
    let other = Slice { endpoints: ready(&["10.2.0.1"]), ..(*service.slices[&slice_name("s-1")]).clone() };
    service.slices.insert(slice_name("s-2"), Arc::new(other));
    assert_eq!(groups(only(&run(&local(vec![]), &[(2, service)]))), "2:0:1[10.2.0.1:8080]");
}

#[test]
fn plain_is_ok_only_where_allowed_and_the_own_cluster_is_ready() {
    let name = service_name("default/base");
    let with = local(ready(&["10.1.0.1"]));
    for (allowed, service, expected) in
        [(true, &with, true), (false, &with, false), (true, &local(vec![]), false)]
    {
        let merged = merge(&Merge {
            own: id(OWN),
            plain_ok_allowed: allowed,
            name: &name,
            local: service,
            peers: &[],
            carried: &nothing_carried,
        });
        assert_eq!(merged[0].1.plain_ok, expected);
    }
}

#[test]
fn families_do_not_mix() {
    let mut local = local(ready(&["10.1.0.1", "fd01::1"]));
    local.cluster_ips = vec![ip("10.101.0.1"), ip("fd11::1")];
    let merged = run(&local, &[(2, remote(ready(&["10.2.0.1", "fd02::2"])))]);
    assert_eq!(groups(&merged.services[0].1), "1:0:1[10.1.0.1:8080] 2:0:1[10.2.0.1:8080]");
    assert_eq!(groups(&merged.services[1].1), "1:0:1[fd01::1:8080] 2:0:1[fd02::2:8080]");
}

fn matched(local: &[ServicePort], remote: &[ServicePort]) -> Vec<Option<usize>> {
    let place = |port: &ServicePort| remote.iter().position(|other| std::ptr::eq(other, port));
    match_ports(local, remote).into_iter().map(|port| port.and_then(place)).collect()
}

#[test]
fn ports_match_by_name_first_then_by_protocol_and_number() {
    use Protocol::{Tcp, Udp};
    let remote = [port("web", Tcp, 80), port("http", Tcp, 8080), port("dns", Udp, 53)];
    // `http` goes by name although `web` has the number; a port without a match by name takes the number.
    assert_eq!(matched(&[port("http", Tcp, 80)], &remote), [Some(1)]);
    assert_eq!(matched(&[port("www", Tcp, 80)], &remote), [Some(0)]);
    assert_eq!(matched(&[port("", Tcp, 80)], &remote), [Some(0)]);
    // The number 8080 was taken by name.
    assert_eq!(matched(&[port("alt", Tcp, 8080), port("http", Tcp, 80)], &remote), [None, Some(1)]);
    // The protocol must be the same, by name as by number.
    assert_eq!(matched(&[port("dns", Tcp, 53)], &remote), [None]);
    assert_eq!(matched(&[port("web", Udp, 53)], &remote), [Some(2)]);
    // No name is no match by name.
    assert_eq!(matched(&[port("", Tcp, 80)], &[port("", Tcp, 81)]), [None]);
    assert_eq!(matched(&[port("", Tcp, 80)], &[port("", Tcp, 80)]), [Some(0)]);
}

#[test]
fn a_port_that_a_cluster_does_not_expose_takes_no_backend_from_it_and_says_so() {
    let mut other = remote(ready(&["10.2.0.1"]));
    other.ports = vec![port("grpc", Protocol::Tcp, 90)];
    let merged = run(&local(ready(&["10.1.0.1"])), &[(2, other)]);
    assert_eq!(groups(only(&merged)), "1:0:1[10.1.0.1:8080]");
    let [left_out] = merged.left_out.as_slice() else { panic!("{:?}", merged.left_out) };
    assert_eq!(
        left_out.to_string(),
        "cluster 2 takes no part in port \"http\" (80/TCP): its Service exposes no port of that name, nor one of \
         that protocol and number"
    );
}

#[test]
fn a_remote_port_leads_to_its_own_target() {
    let mut other = remote(vec![]);
    other.ports = vec![port("http", Protocol::Tcp, 8000), port("admin", Protocol::Tcp, 80)];
    let slice = Slice {
        ports: vec![target("admin", Protocol::Tcp, 9), target("http", Protocol::Tcp, 3000)],
        endpoints: ready(&["10.2.0.1"]),
    };
    other.slices.insert(slice_name("s-1"), Arc::new(slice));
    assert_eq!(groups(only(&run(&local(vec![]), &[(2, other)]))), "2:0:1[10.2.0.1:3000]");
}

/// The clusters that take part in a service of 40 clusters, and those that don't. All but the given ones have a backend.
fn chosen(name: &str, affinity: Affinity, own: u64, without: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let name = service_name(name);
    let others = (1..=40).filter(|n| *n != own && !without.contains(n));
    // As many backends as may be: numbers must not matter.
    let backends = |n: u64| (0..n % 3 + 1).map(|host| format!("10.2.{n}.{host}")).collect::<Vec<_>>();
    let of = |n: u64| backends(n).iter().map(|address| endpoint(address, Condition::READY)).collect();
    let peers: Vec<_> = others.map(|n| (id(n), as_peer(&remote(of(n))).unwrap())).rev().collect();
    let local = with_affinity(local(ready(&["10.1.0.1"])), affinity);
    let merged = merge_reported(&Merge {
        own: id(own),
        plain_ok_allowed: false,
        name: &name,
        local: &local,
        peers: &peers,
        carried: &nothing_carried,
    });
    let kept = only(&merged).groups.iter().map(|group| group.cluster.value().into()).collect();
    let [LeftOut::Groups { clusters, .. }] = merged.left_out.as_slice() else {
        panic!("{:?}", merged.left_out)
    };
    (kept, clusters.iter().map(|cluster| cluster.value().into()).collect())
}

#[test]
fn of_more_than_16_clusters_the_own_one_always_takes_part_and_it_is_said_who_does_not() {
    for affinity in [Affinity::None, Affinity::Local, Affinity::Remote] {
        for own in [1, 17, 40] {
            let (kept, left_out) = chosen("default/base", affinity, own, &[]);
            assert_eq!(kept.len(), MAX_GROUPS);
            assert!(kept.contains(&own), "{affinity:?}: {own} is not among {kept:?}");
            let all: BTreeSet<u64> = kept.into_iter().chain(left_out).collect();
            assert_eq!(all, (1..=40).collect());
        }
    }
}

#[test]
fn the_choice_among_clusters_stays_and_is_another_for_each_service() {
    let (kept, left_out) = chosen("default/base", Affinity::None, 1, &[]);
    // All nodes must agree, also those of another version.
    assert_eq!(kept, KEPT_OF_BASE);
    assert_eq!(
        chosen("default/base", Affinity::None, 1, &left_out[..4]).0,
        kept,
        "a loser's end changes nothing"
    );
    let (after, _) = chosen("default/base", Affinity::None, 1, &kept[5..6]);
    assert_eq!(after.iter().filter(|cluster| !kept.contains(cluster)).count(), 1, "one takes one's place");
    let services = (0..100).map(|n| chosen(&format!("default/s-{n}"), Affinity::None, 1, &[]).0);
    let mut shares = [0; 41];
    services.flatten().for_each(|cluster| shares[usize::try_from(cluster).unwrap()] += 1);
    assert_eq!(shares[1], 100);
    let others = &shares[2..];
    assert!(others.iter().all(|share| (15..65).contains(share)), "15 of 39 each time: {others:?}");
}

#[test]
fn carried_groups_stand_in_for_clusters_that_are_not_synced() {
    let name = service_name("default/base");
    let backend = |address: &str| DesiredBackend::new(ip(address), 8080, BackendState::Active);
    let carried = |frontend: &Frontend| {
        assert_eq!(frontend.port, 80);
        [1, 2, 3]
            .map(|n| CarriedGroup { cluster: id(n), weight: 5, backends: vec![backend("10.9.0.1")] })
            .to_vec()
    };
    let local = with_affinity(local(ready(&["10.1.0.1"])), Affinity::Local);
    let peers = [(id(2), as_peer(&remote(vec![])).unwrap())];
    let merged = merge(&Merge {
        own: id(OWN),
        plain_ok_allowed: false,
        name: &name,
        local: &local,
        peers: &peers,
        carried: &carried,
    });
    // The peer that spoke is not carried, what of the own cluster can't be read stands beside what can; the tier is that
    // of today.
    assert_eq!(groups(&merged[0].1), "1:0:2[10.1.0.1:8080,10.9.0.1:8080] 3:1:5[10.9.0.1:8080]");
}

/// By the hash of service and cluster, beside the own cluster, which is 1.
const KEPT_OF_BASE: [u64; 16] = [1, 2, 3, 5, 12, 14, 17, 19, 23, 27, 28, 31, 32, 35, 36, 40];

/// The rules of global services, read naively: every backend with everything that is known of it, then sieved.
fn naive(local: &Service, peers: &BTreeMap<ClusterId, Service>) -> BTreeMap<Frontend, Vec<DesiredGroup>> {
    let mut all = BTreeMap::new();
    for address in &local.cluster_ips {
        for port in &local.ports {
            let frontend = Frontend { address: *address, port: port.port, protocol: port.protocol };
            let mut found: BTreeMap<(ClusterId, Address, u16), BackendState> = BTreeMap::new();
            let own = BTreeMap::from([(id(OWN), local.clone())]);
            for (cluster, service) in own.iter().chain(peers) {
                let served_by =
                    if *cluster == id(OWN) { Some(port) } else { naive_port(local, port, service) };
                let Some(served_by) = served_by else { continue };
                for slice in service.slices.values() {
                    let same = |p: &&_| naive_same(p, served_by);
                    let Some(target) = slice.ports.iter().find(same) else { continue };
                    for endpoint in &slice.endpoints {
                        let Condition { ready, serving, terminating } = endpoint.condition;
                        let state = match (ready, serving && terminating) {
                            (true, _) => BackendState::Active,
                            (false, true) => BackendState::Terminating,
                            (false, false) => continue,
                        };
                        let refused = *cluster != id(OWN)
                            && empire_pin().policy.check(endpoint.address.into()).is_err();
                        if refused || endpoint.address.is_ipv4() != address.is_ipv4() {
                            continue;
                        }
                        let place = (*cluster, endpoint.address, target.port);
                        let best = found.get(&place).map_or(state, |known| state.min(*known));
                        found.insert(place, best);
                    }
                }
            }
            let wanted = found.values().min().copied();
            found.retain(|_, state| Some(*state) == wanted);
            let clusters: BTreeSet<ClusterId> = found.keys().map(|(cluster, ..)| *cluster).collect();
            let mut groups: Vec<DesiredGroup> = Vec::new();
            for cluster in clusters {
                let own = cluster == id(OWN);
                let far = match local.scope.affinity {
                    Affinity::None => false,
                    Affinity::Local => !own,
                    Affinity::Remote => own,
                };
                let of_cluster = found.iter().filter(|((other, ..), _)| *other == cluster);
                let backends: Vec<_> = of_cluster
                    .map(|((_, address, port), state)| DesiredBackend::new(*address, *port, *state))
                    .collect();
                groups.push(DesiredGroup {
                    cluster,
                    tier: far.into(),
                    weight: backends.len() as u32,
                    backends,
                });
            }
            groups.sort_by_key(|group| (group.tier, group.cluster));
            // The same frontend may come twice from a service with two equal ports; the last one counts.
            all.insert(frontend, groups);
        }
    }
    all
}

fn naive_same(target: &mesh_model::snapshot::SlicePort, port: &ServicePort) -> bool {
    (&target.name, target.protocol) == (&port.name, port.protocol)
}

fn naive_port<'r>(local: &Service, port: &ServicePort, remote: &'r Service) -> Option<&'r ServicePort> {
    let named = |port: &ServicePort| {
        let same = |other: &ServicePort| (&other.name, other.protocol) == (&port.name, port.protocol);
        remote.ports.iter().position(|other| port.name.is_some() && same(other))
    };
    let taken: BTreeSet<usize> = local.ports.iter().filter_map(named).collect();
    let numbered = || {
        let same = |other: &ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
        (0..remote.ports.len()).find(|place| !taken.contains(place) && same(&remote.ports[*place]))
    };
    named(port).or_else(numbered).map(|place| &remote.ports[place])
}

fn clusters() -> impl Strategy<Value = BTreeMap<u64, Service>> {
    proptest::collection::btree_map(2_u64..6, services(), 0..4)
}

fn desired(merged: Vec<(Frontend, DesiredService)>) -> BTreeMap<Frontend, Vec<DesiredGroup>> {
    merged.into_iter().map(|(frontend, service)| (frontend, service.groups)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn export_view_and_merge_do_what_a_naive_reading_does(local in services(), peers in clusters()) {
        let merged = run(&local, &peers.clone().into_iter().collect::<Vec<_>>());
        let shared = peers.into_iter().filter(|(_, service)| service.scope.shared);
        let shared = shared.map(|(cluster, service)| (id(cluster), service)).collect();
        prop_assert_eq!(desired(merged.services), naive(&local, &shared));
    }

    #[test]
    fn the_order_of_peers_does_not_matter_and_a_second_merge_changes_nothing(
        local in services(), peers in clusters(), turn in any::<prop::sample::Index>(),
    ) {
        let mut peers: Vec<_> = peers.into_iter().collect();
        let first = run(&local, &peers);
        prop_assert_eq!(&run(&local, &peers), &first);
        peers.reverse();
        prop_assert_eq!(&run(&local, &peers), &first);
        if !peers.is_empty() {
            let middle = turn.index(peers.len());
            peers.rotate_left(middle);
            prop_assert_eq!(&run(&local, &peers), &first);
        }
    }

    #[test]
    fn groups_are_sorted_bounded_and_never_empty(local in services(), peers in clusters()) {
        for (frontend, service) in run(&local, &peers.into_iter().collect::<Vec<_>>()).services {
            prop_assert!(service.groups.len() <= MAX_GROUPS);
            prop_assert!(service.groups.is_sorted_by(|a, b| (a.tier, a.cluster) < (b.tier, b.cluster)));
            let clusters: BTreeSet<_> = service.groups.iter().map(|group| group.cluster).collect();
            prop_assert_eq!(clusters.len(), service.groups.len());
            for group in &service.groups {
                prop_assert!(!group.backends.is_empty());
                prop_assert!(group.backends.is_sorted_by(|a, b| (a.address, a.port) < (b.address, b.port)));
                prop_assert!(group.backends.iter().all(|b| b.address.is_ipv4() == frontend.address.is_ipv4()));
            }
        }
    }

    #[test]
    fn groups_that_were_carried_and_are_confirmed_change_nothing(local in services(), peers in clusters()) {
        // What a restarted agent finds in its maps: the groups of everyone. Nobody is synced yet.
        let before = run(&local, &peers.into_iter().collect::<Vec<_>>());
        let maps: BTreeMap<_, _> = before.services.iter().cloned().collect();
        prop_assume!(maps.len() == before.services.len());
        let carried = |frontend: &Frontend| {
            let groups = maps[frontend].groups.iter();
            groups.map(|group| CarriedGroup {
                cluster: group.cluster, weight: group.weight, backends: group.backends.clone(),
            }).collect()
        };
        let name: ServiceName = service_name("default/base");
        let input = Merge {
            own: id(OWN), plain_ok_allowed: true, name: &name, local: &local, peers: &[], carried: &carried,
        };
        prop_assert_eq!(merge(&input), before.services);
    }

    #[test]
    fn a_remote_port_serves_one_port_by_name_or_number_never_one_by_each(local in service_ports(), remote in service_ports()) {
        let matches = matched(&local, &remote);
        for (port, place) in local.iter().zip(&matches) {
            let Some(found) = place.map(|place| &remote[place]) else { continue };
            prop_assert_eq!(found.protocol, port.protocol);
            let by_name = port.name.is_some() && found.name == port.name;
            prop_assert!(by_name || found.port == port.port);
        }
    }
}

/// How a reader sees a service first and, having heard only of what changed, later.
fn before_and_after(before: &Service, after: &Service) -> [Option<Arc<PeerService>>; 2] {
    let name = service_name("default/base");
    let [before, after] = [before, after].map(|service| snapshot([(name.clone(), service.clone())]));
    let mut view = listed(&before);
    let first = view.snapshot();
    let [old, new] = [before, after].map(|snapshot| store(&empire(), &snapshot));
    old.keys().filter(|key| !new.contains_key(*key)).for_each(|key| view.delete(key));
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
        view.put(key, value);
    }
    let second = view.snapshot();
    let fresh: usize = second.services.values().map(|service| service.endpoint_count()).sum();
    assert_eq!((second.endpoints, &second.services), (fresh, &listed_services(&new)));
    [first, second].map(|snapshot| snapshot.services.get(&name).cloned())
}

/// The services of one who lists these records.
fn listed_services(entries: &mesh_model::export::Entries) -> imbl::OrdMap<ServiceName, Arc<PeerService>> {
    let mut view = mesh_model::view::PeerView::new(empire_pin());
    list(&mut view, entries);
    view.snapshot().services.clone()
}

/// Merges before and after, and what leads from the one to the other if that is told.
type Told = (Vec<(Frontend, DesiredService)>, Vec<(Frontend, DesiredService)>, Option<Vec<GroupChange>>);

fn told(local: &Service, peers: &[(u64, [Option<Arc<PeerService>>; 2])]) -> Told {
    let name = service_name("default/base");
    let side = |side: usize| {
        let of = |(cluster, sides): &(u64, [Option<Arc<PeerService>>; 2])| {
            Some((id(*cluster), sides[side].clone()?))
        };
        peers.iter().filter_map(of).collect::<Vec<_>>()
    };
    let (before, after) = (side(0), side(1));
    let input = |peers| Merge {
        own: id(OWN),
        plain_ok_allowed: true,
        name: &name,
        local,
        peers,
        carried: &nothing_carried,
    };
    let (before, after) = (input(&before), input(&after));
    (merge(&before), merge(&after), changes(&before, &after))
}

fn carry_out(services: &mut [(Frontend, DesiredService)], change: &GroupChange) {
    let (_, service) = services.iter_mut().find(|(frontend, _)| *frontend == change.frontend).unwrap();
    let group = service.groups.iter_mut().find(|group| group.cluster == change.cluster).unwrap();
    for gone in &change.gone {
        let place = group.backends.binary_search(gone).expect("what goes was there");
        group.backends.remove(place);
    }
    for come in &change.come {
        let place = group.backends.binary_search(come).expect_err("what comes was not there");
        group.backends.insert(place, *come);
    }
    group.weight = u32::try_from(group.backends.len()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_of_a_change_leads_to_what_a_merge_finds(
        local in services(),
        peers in proptest::collection::btree_map(2_u64..5, (services(), services(), any::<bool>(), any::<bool>()), 0..3),
    ) {
        let peers: Vec<_> = peers.into_iter().map(|(cluster, (before, mut after, ports_too, all_slices))| {
            if !ports_too {
                after.ports = before.ports.clone();
                after.scope = before.scope.clone();
            }
            if !all_slices {
                // One slice is another, the others stay.
                let mut slices = before.slices.clone();
                slices.extend(after.slices.into_iter().take(1));
                after.slices = slices;
            }
            (cluster, before_and_after(&before, &after))
        }).collect();
        let (mut before, after, told) = told(&local, &peers);
        if let Some(changes) = told {
            changes.iter().for_each(|change| carry_out(&mut before, change));
            prop_assert_eq!(before, after);
        }
    }
}

#[test]
fn a_replaced_endpoint_is_told_of_without_the_others() {
    let many = |replaced: bool| {
        let mut service = remote(vec![]);
        let slice = service.slices.remove(&slice_name("s-1")).unwrap();
        for number in 0..50_u8 {
            let mut endpoints: Vec<Endpoint> =
                (0..100).map(|host| endpoint(&format!("10.2.{number}.{host}"), Condition::READY)).collect();
            if replaced && number == 7 {
                endpoints[3] = endpoint("10.2.200.1", Condition::READY);
                // Stands in another slice too, so nothing comes of it.
                endpoints[4] = endpoint("10.2.9.9", Condition::READY);
            }
            let name = slice_name(&format!("s-{number:02}"));
            service.slices.insert(name, Arc::new(Slice { endpoints, ..(*slice).clone() }));
        }
        service
    };
    let (local, sides) = (local(ready(&["10.1.0.1"])), before_and_after(&many(false), &many(true)));
    let counts = sides.each_ref().map(|side| side.as_ref().unwrap().endpoint_count());
    assert_eq!(counts, [5000, 4999]);
    let (mut before, after, told) = told(&local, &[(2, sides)]);
    let [change] = &told.unwrap()[..] else { panic!("one group changes") };
    let addresses =
        |backends: &[DesiredBackend]| backends.iter().map(|it| it.address.to_string()).collect::<Vec<_>>();
    assert_eq!(addresses(&change.gone), ["10.2.7.3", "10.2.7.4"]);
    assert_eq!(addresses(&change.come), ["10.2.200.1"]);
    carry_out(&mut before, change);
    assert_eq!(before, after);
}

#[test]
fn where_the_last_active_backend_goes_only_a_merge_can_tell() {
    let fading = remote(vec![endpoint("10.2.0.1", Condition::TERMINATING)]);
    let sides = before_and_after(&remote(ready(&["10.2.0.1"])), &fading);
    let (_, after, told) = told(&local(vec![]), &[(2, sides)]);
    assert_eq!(told, None);
    assert_eq!(groups(&after[0].1), "2:0:1[10.2.0.1:8080!]");
}
