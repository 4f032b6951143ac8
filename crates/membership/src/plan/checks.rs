//! What stands against a join beside address ranges: names, ids, versions, clocks, certificates, and what a cluster can't say.

use mesh_admin::cluster::PeerEntry;
use mesh_model::name::{ClusterId, ClusterName};

use super::{Finding, Member, pairs};

/// A certificate counts from five minutes before it was made: a clock further behind refuses one that is new.
const CLOCK_LIMIT_MS: i64 = 5 * 60 * 1000;
/// Beyond this somebody should look after time synchronisation.
const CLOCK_ODD_MS: i64 = 30 * 1000;

pub(super) fn all(members: &[Member]) -> Vec<Finding> {
    let alone = members.iter().flat_map(alone);
    let twice = twins(members).flat_map(|(one, other)| between(one, other));
    let files = pairs(members).flat_map(|(at, peer)| known_otherwise(at, peer));
    alone.chain(twice).chain(files).collect()
}

/// Every two members once, also of one name.
fn twins(members: &[Member]) -> impl Iterator<Item = (&Member, &Member)> {
    let others = |at: usize| members[at + 1..].iter();
    members.iter().enumerate().flat_map(move |(at, one)| others(at).map(move |other| (one, other)))
}

fn alone(member: &Member) -> Vec<Finding> {
    let (name, cluster) = (member.name(), &member.cluster);
    let missing = |is_missing: bool, problem: &str, remedy: &str| {
        is_missing.then(|| Finding::error(&[name], format!("{name} {problem}"), remedy))
    };
    let findings = [
        missing(
            cluster.trust.is_none(),
            "has no certificate authority that others could trust",
            "start its clustermesh-apiserver with --certificates-dir (the chart does by itself), and wait until it has made \
             the certificates",
        ),
        missing(
            cluster.endpoints.is_empty(),
            "does not say where its mesh API is reached from outside",
            &format!(
                "name it with --endpoint {name}=https://HOST:PORT; or expose it: on Kubernetes with the chart's \
                 exposure.type NodePort or LoadBalancer, elsewhere with clustermesh-apiserver's --mesh-endpoint"
            ),
        ),
        missing(
            cluster.ranges.pods.is_empty() && cluster.ranges.nodes.is_empty(),
            "does not know its own address ranges (yet)",
            "try again when its Nodes have pod CIDRs, or name the ranges: cluster.podCidrs and cluster.nodeCidrs in the chart, \
             elsewhere --pod-cidr and --node-cidr",
        ),
        missing(
            cluster.peers_store.is_none(),
            "has no place for peer files",
            "start its clustermesh-apiserver with --peers-secret (the chart does by itself) or --peers-dir",
        ),
        expired(member),
        ranges_of_single_nodes(member),
    ];
    findings.into_iter().flatten().collect()
}

fn expired(member: &Member) -> Option<Finding> {
    let name = member.name();
    let is_over = |not_after: u64| not_after <= member.asked_unix_s;
    let certificate = member.cluster.certificates.iter().find(|it| is_over(it.not_after_unix_s))?;
    let renewed = match certificate.renewal_unix_s {
        Some(_) => "read the log of its clustermesh-apiserver, whose leader renews it",
        None => "renew it where it comes from",
    };
    let problem = format!("the certificate of {name}'s {} has expired", certificate.holder);
    Some(Finding::error(&[name], problem, renewed))
}

/// Ranges that were taken from Nodes hold no node that is added later.
fn ranges_of_single_nodes(member: &Member) -> Option<Finding> {
    let nodes = &member.cluster.ranges.nodes;
    let single = !nodes.is_empty() && nodes.iter().all(|range| range.prefix_len() == range.max_prefix_len());
    let name = member.name();
    single.then(|| {
        Finding::warning(
            &[name],
            format!("the node ranges of {name} are the addresses of its {} nodes of today", nodes.len()),
            "join again after nodes were added, or name whole ranges (cluster.nodeCidrs and cluster.podCidrs in the chart) \
             before",
        )
    })
}

fn between(one: &Member, other: &Member) -> Vec<Finding> {
    let (name, others) = (one.name(), other.name());
    if name == others {
        return vec![same_name(one, other)];
    }
    let mut findings = Vec::new();
    if one.cluster.id == other.cluster.id {
        findings.push(Finding::error(
            &[name, others],
            format!("{name} and {others} have the same id, {}", one.cluster.id),
            "give one of the two another id (cluster.id in the chart, --cluster-id elsewhere); ids are unique in the mesh",
        ));
    }
    findings.extend(versions(one, other));
    findings.extend(clocks(one, other));
    findings
}

fn same_name(one: &Member, other: &Member) -> Finding {
    let name = one.name();
    let is_same = one.cluster.fingerprint.is_some() && one.cluster.fingerprint == other.cluster.fingerprint;
    match is_same {
        true => Finding::error(
            &[name],
            format!("{name} was named twice"),
            "name each cluster once: two contexts or sockets lead to this one",
        ),
        false => Finding::error(
            &[name],
            format!("two clusters are called {name}"),
            "give one of the two another name (cluster.name in the chart, --cluster-name elsewhere)",
        ),
    }
}

fn versions(one: &Member, other: &Member) -> Option<Finding> {
    let release = |member: &Member| {
        let mut parts = member.cluster.version.split('.').map(str::to_owned);
        (parts.next(), parts.next())
    };
    let (name, others) = (one.name(), other.name());
    (release(one) != release(other)).then(|| {
        Finding::warning(
            &[name, others],
            format!("{name} has version {}, {others} has {}", one.cluster.version, other.cluster.version),
            "fine while you upgrade one after the other; records are read by neighbouring versions",
        )
    })
}

fn clocks(one: &Member, other: &Member) -> Option<Finding> {
    let (name, others) = (one.name(), other.name());
    let apart_ms = (one.clock_ahead_ms - other.clock_ahead_ms).abs();
    let problem = || format!("the clocks of {name} and {others} are {} s apart", apart_ms / 1000);
    let remedy = "synchronise the hosts' clocks (NTP): certificates count from one time to another";
    match apart_ms {
        CLOCK_LIMIT_MS.. => Some(Finding::error(&[name, others], problem(), remedy)),
        CLOCK_ODD_MS.. => Some(Finding::warning(&[name, others], problem(), remedy)),
        _ => None,
    }
}

/// What a cluster's peer files say of a member, or of its id.
fn known_otherwise(at: &Member, peer: &Member) -> Vec<Finding> {
    let claimed = at.peers.iter().filter(|entry| entry.name != peer.name().as_str());
    let claimed = claimed.filter(|entry| entry.file.as_ref().is_some_and(|file| file.id == peer.cluster.id));
    let mut findings: Vec<_> = claimed.map(|entry| id_taken(at.name(), peer, entry)).collect();
    findings.extend(at.peer(peer.name()).and_then(|entry| replaced(at, peer, entry)));
    findings
}

fn id_taken(at: &ClusterName, peer: &Member, entry: &PeerEntry) -> Finding {
    let (name, id): (_, ClusterId) = (peer.name(), peer.cluster.id);
    Finding::error(
        &[at, name],
        format!("the id {id} of {name} belongs to {} already, which is a peer of {at}", entry.name),
        format!(
            "give {name} another id, or remove {} from {at} (clustermesh peer remove) if it has left",
            entry.name
        ),
    )
}

fn replaced(at: &Member, peer: &Member, entry: &PeerEntry) -> Option<Finding> {
    let (at, name) = (at.name(), peer.name());
    let Some(before) = &entry.file else {
        let reason = entry.reason.as_deref().unwrap_or("it can't be read");
        return Some(Finding::warning(
            &[at, name],
            format!("{at} has a peer file of {name} that it refuses: {reason}"),
            "this join writes it anew",
        ));
    };
    let trust = |pem: &Option<String>| pem.as_deref().map(certificates).unwrap_or_default();
    let (known, now) = (trust(&before.trust), trust(&peer.cluster.trust));
    let is_other =
        before.id != peer.cluster.id || (!known.is_empty() && known.iter().all(|it| !now.contains(it)));
    is_other.then(|| {
        Finding::warning(
            &[at, name],
            format!("{at} knows a cluster {name} with another id or another authority"),
            format!("go on only if it is the cluster {name} that was set up anew; {at} forgets what it knew of the other"),
        )
    })
}

/// The certificates of a PEM, without line breaks.
fn certificates(pem: &str) -> Vec<String> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let ends = blocks.filter_map(|block| block.split_once("-----END CERTIFICATE-----"));
    ends.map(|(body, _)| body.split_whitespace().collect()).collect()
}
