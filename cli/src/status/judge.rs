//! What the answers of a cluster and its nodes mean. Asks nobody.

use std::collections::BTreeMap;

use mesh_admin::api::{Peer, PeerState};
use mesh_admin::cluster::{Certificate, Cluster as Described, PeerEntry};
use mesh_model::name::ClusterId;
use serde::Serialize;

/// The leader renews at the time that a certificate names; this much later it has not.
const RENEWAL_SLACK_S: u64 = 3600;
/// Whoever renews by hand wants to know a day before.
const BY_HAND_S: u64 = 24 * 3600;

/// What a cluster answered.
pub(super) struct Answers {
    pub described: Described,
    pub entries: Vec<PeerEntry>,
    /// Or why it is not known which there are.
    pub nodes: Result<Vec<Node>, String>,
}

/// What a node answered.
pub(super) struct Node {
    pub name: String,
    pub peers: Result<Vec<Peer>, String>,
}

/// Something that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub problem: String,
    pub remedy: String,
}

impl Problem {
    fn new(problem: String, remedy: impl Into<String>) -> Self {
        Self { problem, remedy: remedy.into() }
    }
}

/// How a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ClusterStatus {
    /// As the user named it.
    pub place: String,
    pub name: Option<String>,
    pub id: Option<ClusterId>,
    pub version: Option<String>,
    /// Nodes that answered.
    pub nodes: usize,
    /// Until the first of the cluster's certificates expires.
    pub certificates_left_s: Option<u64>,
    pub peers: Vec<PeerStatus>,
    pub problems: Vec<Problem>,
}

/// How a peer is, as the nodes of a cluster see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PeerStatus {
    pub name: String,
    /// Nodes that are connected to it.
    pub connected: usize,
    /// Nodes that know and follow everything that it has.
    pub synced: usize,
    /// For how long the node that is furthest behind may have missed changes; 0 where all follow it.
    pub stale_s: u64,
    /// As many as the node that knows the fewest.
    pub services: usize,
    pub backends: usize,
}

pub(super) fn judge(place: String, answers: Result<Answers, String>, now_unix_s: u64) -> ClusterStatus {
    let mut status = ClusterStatus {
        place,
        name: None,
        id: None,
        version: None,
        nodes: 0,
        certificates_left_s: None,
        peers: Vec::new(),
        problems: Vec::new(),
    };
    match answers {
        Ok(answers) => status.judge(&answers, now_unix_s),
        Err(error) => {
            let remedy = "nothing of it is known here; its nodes go on with what they know";
            status.problems.push(Problem::new(error, remedy));
        }
    }
    status
}

impl ClusterStatus {
    fn judge(&mut self, answers: &Answers, now_unix_s: u64) {
        let described = &answers.described;
        self.name = Some(described.name.to_string());
        self.id = Some(described.id);
        self.version = Some(described.version.clone());
        let first = described.certificates.iter().map(|it| it.not_after_unix_s).min();
        self.certificates_left_s = first.map(|it| it.saturating_sub(now_unix_s));
        self.problems.extend(certificates(described, now_unix_s));
        self.problems.extend(answers.entries.iter().filter_map(|entry| refused(described, entry)));
        match &answers.nodes {
            Ok(nodes) => self.judge_nodes(answers, nodes, now_unix_s),
            Err(error) => {
                let problem = format!("the nodes of {} can't be asked: {error}", described.name);
                self.problems.push(Problem::new(problem, "see that clustermesh-node-agent runs there"));
            }
        }
    }

    fn judge_nodes(&mut self, answers: &Answers, nodes: &[Node], now_unix_s: u64) {
        let Answers { described, entries, .. } = answers;
        let silent = nodes.iter().filter_map(|node| {
            let error = node.peers.as_ref().err()?;
            let problem = format!("{} of {} can't be asked: {error}", node.name, described.name);
            Some(Problem::new(problem, "see that its agent runs"))
        });
        self.problems.extend(silent);
        let answered: Vec<(&str, &[Peer])> =
            nodes.iter().filter_map(|node| Some((node.name.as_str(), node.peers.as_deref().ok()?))).collect();
        self.nodes = answered.len();
        for name in names(entries, &answered) {
            let seen: Vec<Seen<'_>> = answered
                .iter()
                .map(|&(node, peers)| Seen { node, peer: peers.iter().find(|peer| peer.name == name) })
                .collect();
            self.problems.extend(unsynced(described, &name, &seen));
            self.peers.push(peer(name, &seen, now_unix_s));
        }
    }
}

/// A peer, as a node sees it, if it does.
struct Seen<'a> {
    node: &'a str,
    peer: Option<&'a Peer>,
}

/// The peers of the store, and those that only nodes know.
fn names(entries: &[PeerEntry], nodes: &[(&str, &[Peer])]) -> Vec<String> {
    let known = nodes.iter().flat_map(|(_, peers)| peers.iter().map(|peer| peer.name.clone()));
    let names: std::collections::BTreeSet<_> =
        entries.iter().map(|entry| entry.name.clone()).chain(known).collect();
    names.into_iter().collect()
}

fn peer(name: String, seen: &[Seen<'_>], now_unix_s: u64) -> PeerStatus {
    let peers = || seen.iter().filter_map(|seen| seen.peer);
    let of = |states: &[PeerState]| peers().filter(|peer| states.contains(&peer.state)).count();
    let stale =
        peers().filter_map(|peer| Some(now_unix_s.saturating_sub(peer.stale_since_unix_us? / 1_000_000)));
    PeerStatus {
        name,
        connected: of(&[PeerState::Synced, PeerState::Listing]),
        synced: of(&[PeerState::Synced]),
        stale_s: stale.max().unwrap_or_default(),
        services: peers().map(|peer| peer.services).min().unwrap_or_default(),
        backends: peers().map(|peer| peer.backends).min().unwrap_or_default(),
    }
}

/// One problem for each reason that nodes have.
fn unsynced(described: &Described, name: &str, seen: &[Seen<'_>]) -> Vec<Problem> {
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for seen in seen {
        let reason = match seen.peer {
            None => "not known yet".to_owned(),
            Some(peer) if peer.state == PeerState::Synced => continue,
            Some(peer) => peer
                .reason
                .as_ref()
                .map_or_else(|| peer.state.to_string(), |reason| format!("{}: {reason}", peer.state)),
        };
        reasons.entry(reason).or_default().push(seen.node);
    }
    let problem = |(reason, nodes): (String, Vec<&str>)| {
        let first = nodes.first().copied().unwrap_or_default();
        let problem = format!(
            "{name} at {} of {} nodes of {} ({first}{}): {reason}",
            nodes.len(),
            seen.len(),
            described.name,
            if nodes.len() > 1 { ", …" } else { "" },
        );
        Problem::new(
            problem,
            "what is known of it stays in use; docs/runbook.md has the steps for each reason",
        )
    };
    reasons.into_iter().map(problem).collect()
}

fn refused(described: &Described, entry: &PeerEntry) -> Option<Problem> {
    let reason = entry.reason.as_ref()?;
    let problem = format!("{} refuses the peer file of {}: {reason}", described.name, entry.name);
    Some(Problem::new(problem, "the last good version of it stays in force; correct it where it comes from"))
}

fn certificates(described: &Described, now_unix_s: u64) -> Vec<Problem> {
    let judged = described.certificates.iter().filter_map(|it| certificate(described, it, now_unix_s));
    let none = described.trust.is_none().then(|| {
        let problem =
            format!("{} has no certificate authority (yet), so no peer can trust it", described.name);
        Problem::new(
            problem,
            "read the log of its leading clustermesh-apiserver, which makes it with --certificates-dir",
        )
    });
    none.into_iter().chain(judged).collect()
}

fn certificate(described: &Described, certificate: &Certificate, now_unix_s: u64) -> Option<Problem> {
    let left_s = certificate.not_after_unix_s.saturating_sub(now_unix_s);
    let whose = format!("the certificate of {}'s {}", described.name, certificate.holder);
    let leader = "read the log of its leading clustermesh-apiserver, which renews it";
    match certificate.renewal_unix_s {
        _ if left_s == 0 => {
            let remedy =
                if certificate.renewal_unix_s.is_some() { leader } else { "renew it where it comes from" };
            Some(Problem::new(format!("{whose} has expired"), remedy))
        }
        Some(renewal) if now_unix_s > renewal.saturating_add(RENEWAL_SLACK_S) => Some(Problem::new(
            format!("{whose} has not been renewed; it counts for {} h more", left_s / 3600),
            leader,
        )),
        None if left_s < BY_HAND_S => {
            let problem = format!("{whose} expires in {} h, and is not renewed here", left_s / 3600);
            Some(Problem::new(problem, "renew it where it comes from"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn answers(states: &[&str]) -> Answers {
        let described = json!({"name": "hoth", "id": 1, "version": "0.1.0", "leading": true, "time_unix_ms": 0,
            "ranges": {"pods": [], "services": [], "nodes": []}, "trust": "x", "fingerprint": null, "pod_endpoint": null});
        let row = |state: &&str| {
            json!({"name": "yavin", "state": state, "reason": (*state != "synced").then_some("connection refused"),
                "stale_since_unix_us": (*state == "disconnected").then_some((NOW - 90) * 1_000_000),
                "endpoints": [], "services": 2, "backends": 4, "rejected": 0, "rejections": []})
        };
        let node = |(at, state): (usize, &&str)| Node {
            name: format!("node hoth-{at}"),
            peers: Ok(vec![serde_json::from_value(row(state)).unwrap()]),
        };
        Answers {
            described: serde_json::from_value(described).unwrap(),
            entries: vec![PeerEntry { name: "yavin".into(), file: None, reason: None }],
            nodes: Ok(states.iter().enumerate().map(node).collect()),
        }
    }

    fn judged(answers: Answers) -> ClusterStatus {
        judge("context hoth".into(), Ok(answers), NOW)
    }

    fn problems(status: &ClusterStatus) -> String {
        status.problems.iter().map(|it| format!("{} -> {}\n", it.problem, it.remedy)).collect()
    }

    #[test]
    fn nodes_are_counted_and_nothing_is_wrong() {
        let status = judged(answers(&["synced", "synced"]));
        assert_eq!(problems(&status), "");
        let peer = &status.peers[0];
        assert_eq!(
            (status.nodes, peer.connected, peer.synced, peer.services, peer.backends),
            (2, 2, 2, 2, 4)
        );
    }

    #[test]
    fn what_nodes_lack_is_told_once_for_each_reason() {
        let mut asked = answers(&["synced", "disconnected", "disconnected", "listing"]);
        if let Ok(nodes) = &mut asked.nodes {
            nodes.push(Node { name: "node hoth-9".into(), peers: Ok(Vec::new()) });
            nodes.push(Node { name: "node hoth-10".into(), peers: Err("no answer".into()) });
        }
        let status = judged(asked);
        let told = problems(&status);
        for part in [
            "yavin at 2 of 5 nodes of hoth (node hoth-1, …): disconnected: connection refused",
            "yavin at 1 of 5 nodes of hoth (node hoth-9): not known yet",
            "node hoth-10 of hoth can't be asked: no answer",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let peer = &status.peers[0];
        assert_eq!((status.problems.len(), peer.connected, peer.synced, peer.stale_s), (4, 2, 1, 90));
    }

    #[test]
    fn a_certificate_that_is_not_renewed_is_wrong_before_it_expires() {
        let with = |not_after: u64, renewal: Option<u64>| {
            let mut asked = answers(&[]);
            let certificate = json!({"holder": "apiserver", "identity": null, "serial": "1", "fingerprint": "2",
                "not_after_unix_s": not_after, "renewal_unix_s": renewal});
            asked.described.certificates.push(serde_json::from_value(certificate).unwrap());
            judged(asked)
        };
        assert_eq!(problems(&with(NOW + 500_000, Some(NOW))), "");
        assert_eq!(with(NOW + 500_000, Some(NOW)).certificates_left_s, Some(500_000));
        assert!(
            problems(&with(NOW + 7200, Some(NOW - 3601))).contains("has not been renewed; it counts for 2 h")
        );
        assert!(problems(&with(NOW, Some(NOW - 1))).contains("has expired -> read the log"));
        assert!(problems(&with(NOW + 7200, None)).contains("expires in 2 h"));
        assert!(problems(&with(NOW - 1, None)).contains("has expired -> renew it"));
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_a_problem_itself() {
        let status = judge("context hoth".into(), Err("no such host".into()), NOW);
        assert_eq!((status.name.as_deref(), status.problems.len()), (None, 1));
        let mut asked = answers(&[]);
        asked.nodes = Err("no ready pod".into());
        asked.entries[0].reason = Some("it is empty".into());
        let told = problems(&judged(asked));
        assert!(
            told.contains("nodes of hoth can't be asked: no ready pod")
                && told.contains("refuses the peer file of yavin")
        );
    }
}
