//! The admin API of the real binary: what the command line asks to join clusters.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;
mod socket;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use binaries::{Apiserver, DEADLINE, Lab, base};
use mesh_admin::api::List;
use mesh_admin::cluster::{
    Changed, Cluster, Invite, InviteState, IssuedInvite, PeerDocument, PeerEntry, Probe, ProbeRequest,
    Refused, TakenInvite,
};
use mesh_kv::testing::{free_port, wait_until};
use mesh_model::address_policy::PeerRanges;
use mesh_model::name::ClusterName;
use mesh_trust::Authority;
use rustls::pki_types::UnixTime;
use socket::Socket;

/// A cluster hoth, its folder of peer files and its admin socket.
struct Hoth {
    lab: Lab,
    peers: PathBuf,
    port: u16,
    _apiserver: Apiserver,
    socket: Socket,
}

impl Hoth {
    fn start() -> Self {
        let lab = Lab::new();
        // A folder without any manifest is no knowledge.
        lab.write("base.yaml", &base(&["10.2.0.10"]));
        let (peers, port) = (lab.root.join("peers"), free_port());
        std::fs::create_dir(&peers).unwrap();
        let apiserver = Self::run(&lab, &peers, port);
        let socket = Socket::new(&lab.root.join("run/hoth/apiserver.sock"));
        let hoth = Self { lab, peers, port, _apiserver: apiserver, socket };
        wait_until("certificates and the first full list", DEADLINE, || {
            let cluster: Cluster = hoth.socket.get("/v1/cluster");
            cluster.trust.is_some() && cluster.leading && cluster.certificates.len() == 3
        });
        hoth
    }

    fn run(lab: &Lab, peers: &Path, port: u16) -> Apiserver {
        let (etcd, address) = (lab.etcd.endpoint().to_string(), format!("127.0.0.1:{port}"));
        let certificates = lab.root.join("certificates").display().to_string();
        let endpoints = format!("https://127.0.0.1:{port},https://mesh.hoth.example:2379");
        let peers = peers.display().to_string();
        let mut flags = vec!["--etcd-endpoint", &etcd, "--mesh-address", &address, "--peers-dir", &peers];
        flags.extend(["--certificates-dir", &certificates, "--certificate-name", "mesh.hoth.example"]);
        flags.extend(["--mesh-endpoint", &endpoints, "--instance", "hoth"]);
        flags.extend(["--join-address", "127.0.0.1:0", "--join-endpoint", "https://mesh.hoth.example:2381"]);
        Apiserver::start_with(lab, &flags)
    }
}

fn authority(name: &str) -> String {
    Authority::new(&ClusterName::new(name).unwrap(), UnixTime::now()).unwrap().certificate_pem().to_owned()
}

fn file(id: u64, pods: &str, nodes: &str) -> String {
    format!(
        "{{\"id\": {id}, \"endpoints\": [\"http://192.0.2.{id}:2379\"], \"ranges\": {{\"pods\": [\"{pods}\"], \"nodes\": \
         [\"{nodes}\"]}}}}"
    )
}

#[test]
fn a_cluster_says_who_it_is_and_shows_no_key() {
    let hoth = Hoth::start();
    let cluster: Cluster = hoth.socket.get("/v1/cluster");
    assert_eq!((cluster.name.as_str(), cluster.id.value()), ("hoth", 2));
    assert_eq!(cluster.ranges.pods, ["10.2.0.0/16".parse().unwrap()]);
    let endpoint = format!("https://127.0.0.1:{}", hoth.port);
    assert_eq!(cluster.endpoints, [endpoint.as_str(), "https://mesh.hoth.example:2379"]);
    assert_eq!(cluster.pod_endpoint.as_deref(), Some(endpoint.as_str()));
    assert_eq!(cluster.peers_store, Some(format!("folder {}", hoth.peers.display())));
    assert!(cluster.fingerprint.is_some_and(|it| it.len() == 95));
    let holders: Vec<_> = cluster.certificates.iter().map(|it| it.holder.as_str()).collect();
    assert_eq!(holders, ["ca", "apiserver", "agent"]);
    let [ca, apiserver, _] = &cluster.certificates[..] else { panic!("three") };
    assert_eq!(apiserver.identity.as_deref(), Some("clustermesh://hoth/apiserver"));
    assert_eq!(apiserver.names, ["mesh.hoth.example"]);
    assert!(apiserver.renewal_unix_s.is_some_and(|at| at < apiserver.not_after_unix_s));
    assert_eq!(ca.renewal_unix_s, None);
    let (_, text) = hoth.socket.ask("GET", "/v1/cluster", "");
    assert!(!text.contains("PRIVATE KEY"));
    let path = hoth.lab.root.join("run/hoth/apiserver.sock");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_peer_is_put_once_and_removed_once() {
    let hoth = Hoth::start();
    let changed = |method, text: &str| {
        let (status, body) = hoth.socket.ask(method, "/v1/peers/yavin", text);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Changed>(&body).unwrap().changed
    };
    let yaml = format!(
        "id: 1\nendpoints: [\"https://192.0.2.1:2379\"]\nranges: {{pods: [10.1.0.0/16]}}\ntrust: |\n{}",
        authority("yavin").lines().map(|line| format!("  {line}\n")).collect::<String>()
    );
    assert!(changed("PUT", &yaml));
    assert!(!changed("PUT", &yaml), "nothing is written again");
    let peers: List<PeerEntry> = hoth.socket.get("/v1/peers");
    let document = peers.items[0].file.clone().unwrap();
    assert!(!changed("PUT", &serde_json::to_string(&document).unwrap()), "the same as JSON");
    assert!(hoth.peers.join("yavin.yaml").exists());
    std::fs::write(hoth.peers.join("echo.yaml"), "id: 0").unwrap();
    let peers: List<PeerEntry> = hoth.socket.get("/v1/peers");
    let names: Vec<_> = peers.items.iter().map(|it| (it.name.as_str(), it.file.is_some())).collect();
    assert_eq!(names, [("echo", false), ("yavin", true)]);
    assert!(peers.items[0].reason.as_ref().unwrap().contains("1–4095"));
    assert!(changed("DELETE", ""));
    assert!(!changed("DELETE", ""));
    assert!(!hoth.peers.join("yavin.yaml").exists());
}

#[test]
fn what_collides_is_refused_whole_with_remedies_and_nothing_is_written() {
    let hoth = Hoth::start();
    assert_eq!(hoth.socket.ask("PUT", "/v1/peers/yavin", &file(1, "10.1.0.0/16", "192.168.1.0/24")).0, 200);
    let (status, body) = hoth.socket.ask("PUT", "/v1/peers/echo", &file(1, "10.0.0.0/8", "192.168.1.9/32"));
    assert_eq!(status, 409, "{body}");
    let refused: Refused = serde_json::from_str(&body).unwrap();
    let told: Vec<_> = refused.problems.iter().map(|problem| problem.error.as_str()).collect();
    let expected = [
        "pod range 10.0.0.0/8 of echo overlaps this cluster's own pod range 10.2.0.0/16",
        "pod range 10.0.0.0/8 of echo overlaps this cluster's own service range 10.102.0.0/16",
        "the id 1 of echo belongs to yavin already, which is a peer",
        "pod range 10.0.0.0/8 of echo overlaps pod range 10.1.0.0/16 of yavin, which is a peer",
        "node range 192.168.1.9/32 of echo overlaps node range 192.168.1.0/24 of yavin, which is a peer",
    ];
    assert_eq!(told, expected);
    assert!(refused.problems.iter().all(|problem| !problem.remedy.is_empty()));
    assert!(!hoth.peers.join("echo.yaml").exists());
    for (name, text, status, part) in [
        ("hoth", file(3, "10.3.0.0/16", "192.168.3.0/24"), 409, "this cluster itself"),
        ("echo", file(2, "10.3.0.0/16", "192.168.3.0/24"), 409, "this cluster's own"),
        ("echo", "id: 3".into(), 422, "`endpoints` is missing"),
        ("Echo", file(3, "10.3.0.0/16", "192.168.3.0/24"), 400, "RFC 1123"),
        ("echo", "a".repeat((1 << 20) + 1), 413, "limit"),
    ] {
        let (answered, body) = hoth.socket.ask("PUT", &format!("/v1/peers/{name}"), &text);
        assert_eq!(answered, status, "{name}: {body}");
        let refused: Refused = serde_json::from_str(&body).unwrap();
        assert!(refused.error.contains(part), "{body}");
    }
    assert_eq!(std::fs::read_dir(&hoth.peers).unwrap().count(), 1);
    let (status, body) = hoth.socket.ask("GET", "/v1/nothing", "");
    assert!(status == 404 && body.contains("remedy"), "{status}: {body}");
}

#[test]
fn a_missing_folder_is_no_knowledge_of_peers() {
    let hoth = Hoth::start();
    std::fs::remove_dir(&hoth.peers).unwrap();
    for (method, path) in [("GET", "/v1/peers"), ("PUT", "/v1/peers/echo")] {
        let (status, body) = hoth.socket.ask(method, path, &file(3, "10.3.0.0/16", "192.168.3.0/24"));
        assert!(status == 503 && body.contains("can't be read completely"), "{status}: {body}");
    }
    std::fs::create_dir(&hoth.peers).unwrap();
    std::fs::create_dir(hoth.peers.join("..data")).unwrap();
    let (status, body) = hoth.socket.ask("PUT", "/v1/peers/echo", &file(3, "10.3.0.0/16", "192.168.3.0/24"));
    assert!(status == 409 && body.contains("is a mounted Secret"), "{status}: {body}");
}

#[test]
fn a_probe_tells_who_answers_and_why_somebody_does_not() {
    let hoth = Hoth::start();
    let cluster: Cluster = hoth.socket.get("/v1/cluster");
    let own = format!("https://127.0.0.1:{}", hoth.port);
    let nobody = format!("https://127.0.0.1:{}", free_port());
    let endpoints = vec![own.clone(), nobody, hoth.lab.etcd.endpoint().to_string()];
    let plain = hoth.lab.etcd.endpoint().to_string().replace("http:", "https:");
    let endpoints = [endpoints, vec![plain]].concat();
    let probe = |name: &str, endpoints: &[String], trust: &str| -> Vec<Probe> {
        let name = ClusterName::new(name).unwrap();
        let request = ProbeRequest { name, endpoints: endpoints.into(), trust: trust.into() };
        let (status, body) = hoth.socket.ask("POST", "/v1/probe", &serde_json::to_string(&request).unwrap());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<List<Probe>>(&body).unwrap().items
    };
    let trust = cluster.trust.unwrap();
    let [own_probe, nobody, insecure, plain] = &probe("hoth", &endpoints, &trust)[..] else { panic!("four") };
    assert_eq!(own_probe.identity.as_deref(), Some("clustermesh://hoth/apiserver"), "{own_probe:?}");
    assert!(nobody.error.as_ref().unwrap().contains("refused"), "{nobody:?}");
    assert!(insecure.error.as_ref().unwrap().contains("without TLS"), "{insecure:?}");
    assert!(plain.error.as_ref().unwrap().contains("handshake"), "{plain:?}");
    let told =
        |name: &str, trust: &str| probe(name, std::slice::from_ref(&own), trust)[0].error.clone().unwrap();
    assert!(told("hoth", &authority("hoth")).contains("leads to no root trusted"));
    assert!(told("yavin", &trust).contains("no peer file trusts cluster hoth"));
    let (status, body) =
        hoth.socket.ask("POST", "/v1/probe", "{\"name\":\"hoth\",\"endpoints\":[],\"trust\":\"\"}");
    assert!(status == 422 && body.contains("0 endpoints"), "{status}: {body}");
    assert_eq!(hoth.socket.ask("POST", "/v1/probe", "{").0, 400);
}

#[test]
fn an_invite_stands_in_etcd_beside_the_records_until_it_is_revoked() {
    let hoth = Hoth::start();
    let ask = |method, path: &str, body: &str| hoth.socket.ask(method, path, body);
    let request = |id: u64, pods: &str, lifetime: u64| {
        format!(
            "{{\"name\":\"yavin\",\"id\":{id},\"ranges\":{{\"pods\":[\"{pods}\"]}},\"lifetime_seconds\":{lifetime}}}"
        )
    };
    for (id, pods, lifetime, status, part) in [
        (1, "10.1.0.0/16", 59, 422, "can't live 59 s"),
        (1, "10.1.2.3/16", 60, 422, "write 10.1.0.0/16"),
        (2, "10.1.0.0/16", 60, 409, "this cluster's own"),
        (1, "10.2.0.0/24", 60, 409, "overlaps this cluster's own pod range"),
    ] {
        let (answered, body) = ask("POST", "/v1/invites", &request(id, pods, lifetime));
        assert!(answered == status && body.contains(part), "{answered}: {body}");
    }
    let (status, body) = ask("POST", "/v1/invites", &request(1, "10.1.0.0/16", 3600));
    assert_eq!(status, 200, "{body}");
    let issued: IssuedInvite = serde_json::from_str(&body).unwrap();
    let invites: List<Invite> = hoth.socket.get("/v1/invites");
    let [invite] = &invites.items[..] else { panic!("{invites:?}") };
    assert_eq!((&invite.id, invite.state), (&issued.id, InviteState::Open));
    let (status, body) = ask("POST", "/v1/invites/take", &format!("{{\"token\":{:?}}}", issued.token));
    assert!(status == 409 && body.contains("this cluster's own"), "{status}: {body}");
    let cut = &issued.token[..issued.token.len() - 3];
    let (status, body) = ask("POST", "/v1/invites/take", &format!("{{\"token\":{cut:?}}}"));
    assert!(status == 422 && body.contains("copy the whole line again"), "{status}: {body}");
    // The exporter goes on writing beside it, and leaves it alone.
    hoth.lab.write("base.yaml", &base(&["10.2.0.11"]));
    wait_until("the change", DEADLINE, || hoth.lab.base_slice().contains("10.2.0.11"));
    assert_eq!(
        hoth.lab.etcd.ctl(&["get", "--prefix", "--keys-only", "clustermesh/invite/"]).trim(),
        format!("clustermesh/invite/hoth/{}", issued.id)
    );
    assert_eq!(ask("DELETE", &format!("/v1/invites/{}", issued.id), "").1, "{\"changed\":true}");
    assert_eq!(ask("DELETE", &format!("/v1/invites/{}", issued.id), "").1, "{\"changed\":false}");
    assert_eq!(ask("DELETE", "/v1/invites/..", "").0, 400);
    // With the peer go its invites.
    assert_eq!(ask("POST", "/v1/invites", &request(1, "10.1.0.0/16", 3600)).0, 200);
    assert_eq!(ask("DELETE", "/v1/peers/yavin", "").1, "{\"changed\":false}");
    assert!(hoth.socket.get::<List<Invite>>("/v1/invites").items.is_empty());
}

#[test]
fn two_clusters_join_by_an_invite_and_repeat_it() {
    let hoth = Hoth::start();
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.1.0.10"]));
    let (etcd, port) = (lab.etcd.endpoint().to_string(), free_port());
    let (peers, certificates) = (lab.root.join("peers"), lab.root.join("certificates").display().to_string());
    std::fs::create_dir(&peers).unwrap();
    let (peers_dir, address) = (peers.display().to_string(), format!("127.0.0.1:{port}"));
    let endpoint = format!("https://{address}");
    let mut flags = vec!["--cluster-name", "yavin", "--cluster-id", "1", "--pod-cidr", "10.1.0.0/16"];
    flags.extend(["--service-cidr", "10.101.0.0/16", "--node-cidr", "192.168.1.0/24"]);
    flags.extend(["--etcd-endpoint", &etcd, "--peers-dir", &peers_dir, "--certificates-dir", &certificates]);
    flags.extend(["--mesh-endpoint", "https://mesh.yavin.example:2379", "--instance", "yavin"]);
    flags.extend(["--join-address", &address, "--join-endpoint", &endpoint]);
    let mut inviter = Apiserver::start_with(&lab, &flags);
    let yavin = Socket::new(&lab.root.join("run/yavin/apiserver.sock"));
    wait_until("yavin's certificates", DEADLINE, || yavin.get::<Cluster>("/v1/cluster").trust.is_some());
    let invite = r#"{"name":"hoth","id":2,"ranges":{"pods":["10.2.0.0/16"],"nodes":["192.168.2.0/24"]},"lifetime_seconds":600}"#;
    let (status, body) = yavin.ask("POST", "/v1/invites", invite);
    assert_eq!(status, 200, "{body}");
    let issued: IssuedInvite = serde_json::from_str(&body).unwrap();
    let token = format!("{{\"token\":{:?}}}", issued.token);
    for changed in [true, false] {
        let (status, body) = hoth.socket.ask("POST", "/v1/invites/take", &token);
        assert_eq!(status, 200, "{body}");
        let taken: TakenInvite = serde_json::from_str(&body).unwrap();
        assert_eq!((taken.name.as_str(), taken.changed), ("yavin", changed));
        assert_eq!(Some(taken.fingerprint), yavin.get::<Cluster>("/v1/cluster").fingerprint);
    }
    let (known, own): (List<PeerEntry>, Cluster) = (yavin.get("/v1/peers"), hoth.socket.get("/v1/cluster"));
    let file = known.items[0].file.as_ref().unwrap();
    assert_eq!((known.items[0].name.as_str(), &file.trust), ("hoth", &own.trust));
    let invites: List<Invite> = yavin.get("/v1/invites");
    assert_eq!((invites.items[0].state, &invites.items[0].used_by), (InviteState::Used, &own.fingerprint));
    assert!(hoth.peers.join("yavin.yaml").exists());
    inviter.line("a cluster has joined by an invite");
}

#[test]
fn a_process_without_a_place_for_its_socket_goes_on_and_says_so() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.10"]));
    std::fs::write(lab.root.join("run"), "a file").unwrap();
    let mut apiserver = Apiserver::start(&lab);
    let line = apiserver.line("there is no admin socket");
    assert!(line.contains("--run-dir") && line.contains("apiserver.sock"), "{line}");
    apiserver.until_ready();
}

#[test]
fn a_document_is_a_peer_file() {
    let document = PeerDocument {
        id: mesh_model::name::ClusterId::try_from(1).unwrap(),
        endpoints: vec!["http://192.0.2.1:2379".into()],
        ranges: PeerRanges::DECLARED,
        trust: None,
    };
    let text = serde_json::to_string(&document).unwrap();
    let name = ClusterName::new("yavin").unwrap();
    let file = mesh_peers::PeerFile::parse(&name, "yavin.yaml", &text).unwrap();
    assert_eq!(serde_json::to_string(&file).unwrap(), text);
}
