use mesh_admin::cluster::{Certificate, Cluster, PeerDocument, PeerEntry, Probe};
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{ClusterId, ClusterName};
use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["hoth", "yavin", "endor", "dagobah"];

fn pem(of: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{of}\n-----END CERTIFICATE-----\n")
}

fn member(index: u8) -> Member {
    let name = NAMES[usize::from(index) - 1];
    let net = |text: String| vec![text.parse().unwrap()];
    let cluster = Cluster {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(index.into()).unwrap(),
        version: "0.1.0".into(),
        ranges: OwnRanges {
            pods: net(format!("10.{index}.0.0/16")),
            services: net("10.96.0.0/12".into()),
            nodes: net(format!("192.168.{index}.0/24")),
        },
        endpoints: vec![format!("https://192.168.{index}.1:32379")],
        trust: Some(pem(name)),
        fingerprint: Some(format!("{index:02X}:00")),
        leading: true,
        time_unix_ms: 1_000_000,
        pod_endpoint: Some(format!("https://10.{index}.0.9:2379")),
        join_endpoints: Vec::new(),
        peers_store: Some("secret clustermesh-peers".into()),
        certificates: Vec::new(),
    };
    Member { cluster, peers: Vec::new(), clock_ahead_ms: 0, asked_unix_s: 1000 }
}

fn entry(member: &Member) -> PeerEntry {
    PeerEntry { name: member.name().to_string(), file: member.document(), reason: None }
}

/// A plan's problems, as one text.
fn problems(members: &[Member]) -> String {
    let told =
        |finding: &Finding| format!("{:?}: {} -> {}\n", finding.level, finding.problem, finding.remedy);
    Plan::of(members).findings.iter().map(told).collect()
}

/// Does what a plan says.
fn apply(members: &mut [Member], step: &Step) {
    let at = members.iter_mut().find(|member| *member.name() == step.at).unwrap();
    at.peers.retain(|entry| entry.name != step.peer.as_str());
    at.peers.push(PeerEntry { name: step.peer.to_string(), file: Some(step.file.clone()), reason: None });
}

#[test]
fn every_cluster_gets_a_file_of_every_other() {
    let members = [member(1), member(2), member(3)];
    let plan = Plan::of(&members);
    assert!(plan.findings.is_empty() && plan.is_allowed() && plan.changes(), "{:?}", plan.findings);
    let steps: Vec<_> = plan.steps.iter().map(|step| format!("{}<-{}", step.at, step.peer)).collect();
    assert_eq!(
        steps,
        ["endor<-hoth", "endor<-yavin", "hoth<-endor", "hoth<-yavin", "yavin<-endor", "yavin<-hoth"]
    );
    assert_eq!(plan.steps[0].file.endpoints, ["https://192.168.1.1:32379"]);
}

#[test]
fn what_is_wrong_is_told_with_a_remedy() {
    type Break = fn(&mut [Member; 2]);
    let cases: &[(Break, &[&str])] = &[
        (|it| it[1].cluster.id = it[0].cluster.id, &["Error", "the same id, 1", "cluster.id"]),
        (|it| it[1].cluster.name = it[0].cluster.name.clone(), &["Error", "two clusters are called hoth"]),
        (
            |it| {
                it[1].cluster.name = it[0].cluster.name.clone();
                it[1].cluster.fingerprint = it[0].cluster.fingerprint.clone();
            },
            &["Error", "hoth was named twice"],
        ),
        (
            |it| it[0].cluster.trust = None,
            &["Error", "hoth has no certificate authority", "--certificates-dir"],
        ),
        (
            |it| it[1].cluster.endpoints.clear(),
            &["Error", "yavin does not say", "--endpoint yavin=https://HOST:PORT"],
        ),
        (
            |it| it[1].cluster.ranges = OwnRanges::default(),
            &["Error", "yavin does not know", "cluster.podCidrs"],
        ),
        (
            |it| it[1].cluster.peers_store = None,
            &["Error", "yavin has no place for peer files", "--peers-dir"],
        ),
        (
            |it| it[1].cluster.version = "0.2.0".into(),
            &["Warning", "hoth has version 0.1.0, yavin has 0.2.0"],
        ),
        (|it| it[1].clock_ahead_ms = -31_000, &["Warning", "31 s apart", "NTP"]),
        (|it| it[1].clock_ahead_ms = 300_000, &["Error", "300 s apart"]),
        (
            |it| it[1].cluster.ranges.pods = it[0].cluster.ranges.pods.clone(),
            &["Error", "pod range 10.1.0.0/16 of hoth and pod range 10.1.0.0/16 of yavin", "other ranges"],
        ),
        (
            |it| it[1].cluster.ranges.pods = vec!["10.100.0.0/16".parse().unwrap()],
            &["Error", "service range 10.96.0.0/12 of hoth and pod range 10.100.0.0/16 of yavin"],
        ),
        (
            |it| it[1].cluster.ranges.nodes = vec!["192.168.0.0/16".parse().unwrap()],
            &["Error", "node range 192.168.1.0/24 of hoth and node range 192.168.0.0/16 of yavin"],
        ),
        (
            |it| it[1].cluster.ranges.nodes = vec!["192.168.2.1/32".parse().unwrap()],
            &["Warning", "addresses of its 1 nodes of today", "join again"],
        ),
        (
            |it| it[1].cluster.certificates.push(certificate(1000, None)),
            &["Error", "yavin's agent has expired", "renew it"],
        ),
        (
            |it| it[0].peers.push(PeerEntry { name: "endor".into(), ..entry(&it[1]) }),
            &["Error", "the id 2 of yavin belongs to endor already, which is a peer of hoth", "peer remove"],
        ),
        (
            |it| {
                it[0].peers.push(PeerEntry {
                    file: None,
                    reason: Some("it is empty".into()),
                    ..entry(&it[1])
                })
            },
            &["Warning", "hoth has a peer file of yavin that it refuses: it is empty"],
        ),
        (
            |it| {
                let mut known = entry(&it[1]);
                known.file.as_mut().unwrap().trust = Some(pem("sullust"));
                it[0].peers.push(known);
            },
            &["Warning", "another authority", "set up anew"],
        ),
    ];
    for (damage, parts) in cases {
        let mut members = [member(1), member(2)];
        damage(&mut members);
        let told = problems(&members);
        parts.iter().for_each(|part| assert!(told.contains(part), "{told:?} does not say {part:?}"));
        assert_eq!(Plan::of(&members).is_allowed(), !parts.contains(&"Error"), "{told}");
    }
}

fn certificate(not_after_unix_s: u64, renewal_unix_s: Option<u64>) -> Certificate {
    Certificate {
        holder: "agent".into(),
        identity: None,
        serial: "01".into(),
        fingerprint: "02".into(),
        names: Vec::new(),
        not_after_unix_s,
        renewal_unix_s,
    }
}

#[test]
fn a_peer_of_a_member_must_not_share_ranges_with_another() {
    let mut members = [member(1), member(2)];
    let mut third = member(3);
    third.cluster.ranges.pods = vec!["10.2.128.0/17".parse().unwrap()];
    members[0].peers.push(entry(&third));
    let told = problems(&members);
    for part in
        ["endor is a peer of hoth", "pod range 10.2.0.0/16 of yavin and pod range 10.2.128.0/17 of endor"]
    {
        assert!(told.contains(part), "{told}");
    }
    // Where the third one joins, too, it is about itself, and told once.
    let all = [members[0].clone(), members[1].clone(), third];
    assert_eq!(problems(&all).matches("overlap").count(), 1);
}

#[test]
fn the_same_services_range_in_every_cluster_is_fine() {
    assert_eq!(problems(&[member(1), member(2)]), "");
}

#[test]
fn of_many_overlaps_three_are_told() {
    let mut members = [member(1), member(2)];
    let nets: Vec<_> = (0..9).map(|n| format!("172.16.{n}.0/24").parse().unwrap()).collect();
    members.iter_mut().for_each(|member| member.cluster.ranges.pods = nets.clone());
    assert!(problems(&members).contains("; 6 more"), "{}", problems(&members));
}

#[test]
fn who_reaches_whom_is_asked_in_both_directions_and_judged() {
    let members = [member(1), member(2)];
    let orders = probes(&members);
    let told: Vec<_> = orders
        .iter()
        .map(|order| format!("{} {:?} {}", order.from, order.way, order.request.endpoints[0]))
        .collect();
    assert_eq!(
        told,
        [
            "hoth MeshApi https://192.168.2.1:32379",
            "hoth Pods https://10.2.0.9:2379",
            "yavin MeshApi https://192.168.1.1:32379",
            "yavin Pods https://10.1.0.9:2379",
        ]
    );
    let answer = |error: Option<&str>| Probe {
        endpoint: "https://a:1".into(),
        identity: None,
        error: error.map(str::to_owned),
        rtt_us: 1,
    };
    let (good, bad) = (answer(None), answer(Some("refused")));
    let level = |order: usize, probes: &[Probe]| judge(&orders[order], probes).map(|finding| finding.level);
    assert_eq!(level(0, std::slice::from_ref(&good)), None);
    assert_eq!(level(0, &[good, bad.clone()]), Some(Level::Warning));
    assert_eq!(level(0, std::slice::from_ref(&bad)), Some(Level::Error));
    assert_eq!(level(1, &[bad]), Some(Level::Error));
}

proptest! {
    /// Whatever part of a plan was carried out, in whatever order: a new one does the rest, and then nothing is left.
    #[test]
    fn an_interrupted_plan_goes_on(count in 2..=4u8, done in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut members: Vec<_> = (1..=count).map(member).collect();
        let plan = Plan::of(&members);
        for index in done {
            apply(&mut members, &plan.steps[index.index(plan.steps.len())]);
        }
        let rest = Plan::of(&members);
        prop_assert!(rest.is_allowed());
        rest.steps.iter().filter(|step| step.changes()).for_each(|step| apply(&mut members, step));
        prop_assert!(!Plan::of(&members).changes());
    }

    /// Overlaps are those that a look at every pair finds.
    #[test]
    fn no_overlap_is_missed(one in nets(), other in nets()) {
        let mut members = [member(1), member(2)];
        members[0].cluster.ranges = OwnRanges { pods: one.clone(), ..OwnRanges::default() };
        members[1].cluster.ranges = OwnRanges { nodes: other.clone(), ..OwnRanges::default() };
        let overlap = one.iter().any(|one| other.iter().any(|other| one.contains(other) || other.contains(one)));
        prop_assert_eq!(problems(&members).contains("ranges overlap"), overlap);
    }
}

fn nets() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let net = (0..8u8, 20..=32u8).prop_map(|(third, length)| {
        ipnet::IpNet::new(std::net::IpAddr::from([10, 0, third, 64]), length).unwrap().trunc()
    });
    prop::collection::vec(net, 0..6)
}

#[test]
fn a_file_that_differs_in_space_only_is_kept() {
    let mut members = [member(1), member(2)];
    let mut known = entry(&members[1]);
    known.file = known.file.map(|file| PeerDocument {
        trust: file.trust.map(|pem| format!("\n{}\n\n", pem.trim_end())),
        ..file
    });
    members[0].peers.push(known);
    let plan = Plan::of(&members);
    assert_eq!(plan.steps[0].change, Change::Keep);
    members[0].peers[0].file.as_mut().unwrap().endpoints.clear();
    assert_eq!(Plan::of(&members).steps[0].change, Change::Change(vec!["endpoints"]));
}
