//! The JSON of the apiserver's admin API is a contract: each shape, as it is served.

#![allow(clippy::unwrap_used)]

use mesh_admin::api::List;
use mesh_admin::cluster::{
    Certificate, Changed, Cluster, Invite, InviteRequest, InviteState, IssuedInvite, JoinAnswer, JoinRequest,
    PeerDocument, PeerEntry, Probe, ProbeRequest, Problem, Refused, TakeInvite, TakenInvite,
};
use mesh_model::address_policy::{OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::reason::Actor;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[path = "../../../node-agent/tests/golden/mod.rs"]
mod golden;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn id(number: u64) -> ClusterId {
    ClusterId::try_from(number).unwrap()
}

fn ranges() -> Ranges {
    Ranges {
        pods: vec!["10.2.0.0/16".parse().unwrap()],
        nodes: vec!["192.168.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()],
    }
}

fn document() -> PeerDocument {
    PeerDocument {
        id: id(2),
        endpoints: vec!["https://mesh.hoth.example:2379".into()],
        ranges: PeerRanges::Agreed(ranges()),
        trust: Some("-----BEGIN CERTIFICATE-----\n…\n".into()),
    }
}

fn cluster() -> Cluster {
    let Ranges { pods, nodes } = ranges();
    Cluster {
        name: name("hoth"),
        id: id(2),
        version: "0.1.0".into(),
        ranges: OwnRanges { pods, nodes, services: vec!["10.102.0.0/16".parse().unwrap()] },
        endpoints: vec!["https://mesh.hoth.example:2379".into()],
        trust: Some("-----BEGIN CERTIFICATE-----\n…\n".into()),
        fingerprint: Some("AB:CD".into()),
        leading: true,
        time_unix_ms: 1_800_000_000_123,
        pod_endpoint: Some("https://10.2.0.7:2379".into()),
        join_endpoints: vec!["https://mesh.hoth.example:2381".into()],
        peers_store: Some("secret clustermesh-peers".into()),
        certificates: vec![Certificate {
            holder: "apiserver".into(),
            identity: Some("clustermesh://hoth/apiserver".into()),
            serial: "0A:0B".into(),
            fingerprint: "12:34".into(),
            names: vec!["mesh.hoth.example".into()],
            not_after_unix_s: 1_800_600_000,
            renewal_unix_s: Some(1_800_200_000),
        }],
    }
}

fn peers() -> List<PeerEntry> {
    let declared = PeerDocument { ranges: PeerRanges::DECLARED, trust: None, ..document() };
    let refused = PeerEntry { name: "echo".into(), file: None, reason: Some("it is empty; …".into()) };
    let entry = |name: &str, file| PeerEntry { name: name.into(), file: Some(file), reason: None };
    List { items: vec![refused, entry("hoth", document()), entry("lab", declared)] }
}

fn invite() -> Invite {
    Invite {
        id: "0123456789abcdef".into(),
        name: name("hoth"),
        cluster_id: id(2),
        ranges: ranges(),
        expires_unix_s: 1_800_003_600,
        state: InviteState::Used,
        used_by: Some("AB:CD".into()),
        wrong_secrets: 1,
    }
}

fn refused() -> Refused {
    let problem = Problem {
        who: Actor::Peer,
        error: "id 2 is taken".into(),
        remedy: "give one of them another --cluster-id".into(),
    };
    Refused { error: problem.error.clone(), remedy: problem.remedy.clone(), problems: vec![problem] }
}

/// One shape under its request, read again from what was written.
fn shown<T>(request: &str, value: &T) -> String
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string_pretty(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{request}");
    format!("# {request}\n{text}\n")
}

#[test]
fn the_json_is_a_contract() {
    let endpoints = vec!["https://a:1".to_owned()];
    let request = ProbeRequest { name: name("hoth"), endpoints, trust: "-----BEGIN…".into() };
    let probe = |identity: Option<&str>, error: Option<&str>| Probe {
        endpoint: "https://a:1".into(),
        identity: identity.map(Into::into),
        error: error.map(Into::into),
        rtt_us: 812,
    };
    let probes = vec![probe(Some("clustermesh://hoth/apiserver"), None), probe(None, Some("refused; …"))];
    let wanted = InviteRequest { name: name("hoth"), id: id(2), ranges: ranges(), lifetime_seconds: 3600 };
    let issued = IssuedInvite {
        id: "0123456789abcdef".into(),
        token: "clustermesh-invite-1.…".into(),
        expires_unix_s: 1_800_003_600,
        fingerprint: "AB:CD".into(),
    };
    let (invite_id, secret) = ("0123456789abcdef".to_owned(), "…".to_owned());
    let join = JoinRequest { invite: invite_id, secret, name: name("hoth"), file: document() };
    let joined = JoinAnswer { name: name("yavin"), file: document() };
    let fingerprint = "AB:CD".to_owned();
    let taken = TakenInvite { name: name("yavin"), fingerprint, file: document(), changed: true };
    let all = [
        shown("GET /v1/cluster", &cluster()),
        shown("GET /v1/peers", &peers()),
        shown("PUT /v1/peers/NAME: body", &document()),
        shown("PUT /v1/peers/NAME, DELETE /v1/peers/NAME: answer", &Changed { changed: true }),
        shown("any: refused", &refused()),
        shown("POST /v1/probe: body", &request),
        shown("POST /v1/probe: answer", &List { items: probes }),
        shown("POST /v1/invites: body", &wanted),
        shown("POST /v1/invites: answer", &issued),
        shown("POST /v1/invites/take: body", &TakeInvite { token: "clustermesh-invite-1.…".into() }),
        shown("POST /v1/invites/take: answer", &taken),
        shown("GET /v1/invites", &List { items: vec![invite()] }),
        shown("POST /v1/join: body", &join),
        shown("POST /v1/join: answer", &joined),
    ];
    golden::assert_golden("cluster.txt", &all.join("\n"));
}

#[test]
fn what_older_versions_did_not_say_is_empty() {
    let text = r#"{"name":"hoth","id":2,"version":"0.1.0","ranges":{"pods":[],"services":[],"nodes":[]},
        "trust":null,"fingerprint":null,"leading":false,"time_unix_ms":0,"pod_endpoint":null}"#;
    let read: Cluster = serde_json::from_str(text).unwrap();
    assert!(read.endpoints.is_empty() && read.join_endpoints.is_empty() && read.certificates.is_empty());
    let refused: Refused = serde_json::from_str(r#"{"error":"e","remedy":"r"}"#).unwrap();
    assert!(refused.problems.is_empty());
}
