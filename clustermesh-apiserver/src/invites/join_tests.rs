//! Joining by an invite: a real etcd, real TLS, whoever has the token, and whoever should not.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_admin::cluster::{JoinAnswer, JoinRequest, PeerDocument};
use mesh_kv::testing::Etcd;
use mesh_kv::{Dialer, EtcdEndpoint};
use mesh_membership::invite::{InviteId, InviteRecord, MAX_WRONG_SECRETS, Secret, Token};
use mesh_model::address_policy::{OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_runtime::Registry;
use mesh_runtime::clock::unix_seconds;
use mesh_trust::{Authority, Bundle, Lifetime, Role};
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::pinned::PinnedVerifier;
use super::take::TakeError;
use super::*;
use crate::membership::{Described, OwnCertificates, PeerStore, Peering, Told, dial, parse};

const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn id(number: u64) -> ClusterId {
    ClusterId::try_from(number).unwrap()
}

fn ranges(pods: &str, nodes: &str) -> Ranges {
    Ranges { pods: vec![pods.parse().unwrap()], nodes: vec![nodes.parse().unwrap()] }
}

fn authority(cluster: &str) -> Authority {
    Authority::new(&name(cluster), UnixTime::now()).unwrap()
}

/// The cluster yavin (id 1), which invites.
struct Yavin {
    peers: PathBuf,
    invites: Invites,
    address: SocketAddr,
    authority: Authority,
    registry: Registry,
    token: CancellationToken,
    etcd: Etcd,
    _dir: tempfile::TempDir,
}

impl Drop for Yavin {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Yavin {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (peers, own) = (dir.path().join("peers"), dir.path().join("own"));
        let (etcd, authority) = (Etcd::start(dir.path()), authority("yavin"));
        for folder in [&peers, &own] {
            std::fs::create_dir(folder).unwrap();
        }
        let issued =
            authority.issue(Role::Apiserver, &[], Lifetime::starting(UnixTime::now(), HOUR)).unwrap();
        for (file, text) in [
            ("tls.crt", &*issued.certificate_pem),
            ("tls.key", &*issued.key_pem),
            ("ca.crt", authority.certificate_pem()),
        ] {
            std::fs::write(own.join(file), text).unwrap();
        }
        let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
        let invites = Invites::new(dialer, name("yavin"));
        let Ranges { pods, nodes } = ranges("10.1.0.0/16", "192.168.1.0/24");
        let services = vec!["10.101.0.0/16".parse().unwrap()];
        let known = mesh_source::ranges::fixed(OwnRanges { pods, services, nodes });
        let store = Some(PeerStore::Folder(peers.clone()));
        let peering = Arc::new(Peering::new((name("yavin"), id(1)), known.clone(), store));
        let described = Arc::new(Described {
            name: name("yavin"),
            id: id(1),
            ranges: known,
            endpoints: vec!["https://mesh.yavin.example:2379".parse().unwrap()],
            join_endpoints: Vec::new(),
            certificates: OwnCertificates { server: Some(own.clone()), made: None },
            leading: tokio::sync::watch::channel(true).1,
            listens: None,
            store: None,
        });
        let mut registry = Registry::new("test", "0");
        let metrics = JoinMetrics::register(registry.root());
        let door = Door { invites: invites.clone(), peering, described, metrics };
        let port = JoinPort::bind("127.0.0.1:0".parse().unwrap(), own, door).await.unwrap();
        let (address, token) = (port.address(), CancellationToken::new());
        tokio::spawn(port.run(token.clone()));
        Self { peers, invites, address, authority, registry, token, etcd, _dir: dir }
    }

    /// An invite for hoth (id 2), as it is kept but for what `change` makes of it.
    async fn invite(&self, change: impl FnOnce(&mut InviteRecord)) -> Token {
        let (invite, secret) = draw();
        let mut record = InviteRecord {
            name: name("hoth"),
            id: id(2),
            ranges: ranges("10.2.0.0/16", "192.168.2.0/24"),
            expires_unix_s: unix_seconds(SystemTime::now()) + 3600,
            secret_sha256: hashed(&secret),
            used_by: None,
            wrong_secrets: 0,
        };
        change(&mut record);
        self.invites.create(invite, &record, HOUR).await.unwrap();
        self.token(invite, secret)
    }

    fn token(&self, invite: InviteId, secret: Secret) -> Token {
        let pem = self.authority.certificate_pem();
        let fingerprint = Bundle::from_pem(pem).unwrap().fingerprints()[0].to_string().parse().unwrap();
        let endpoints = vec![format!("https://{}", self.address)];
        Token { endpoints, cluster: name("yavin"), fingerprint, invite, secret }
    }

    async fn record(&self, token: &Token) -> InviteRecord {
        let all = self.invites.list().await.unwrap();
        all.into_iter().find(|(id, _)| *id == token.invite).unwrap().1
    }

    fn has(&self, peer: &str) -> bool {
        self.peers.join(format!("{peer}.yaml")).exists()
    }

    fn counted(&self, outcome: &str) -> u64 {
        let text = self.registry.encode();
        let line = format!("clustermesh_join_requests_total{{outcome=\"{outcome}\"}} ");
        let value = text.lines().find_map(|it| it.strip_prefix(&line)).unwrap_or_else(|| panic!("{text}"));
        value.parse().unwrap()
    }
}

/// What hoth says of itself.
fn hoth(authority: &Authority) -> PeerDocument {
    PeerDocument {
        id: id(2),
        endpoints: vec!["https://mesh.hoth.example:2379".into()],
        ranges: PeerRanges::Agreed(ranges("10.2.0.0/16", "192.168.2.0/24")),
        trust: Some(authority.certificate_pem().into()),
    }
}

async fn join(token: &Token, cluster: &str, file: PeerDocument) -> Result<JoinAnswer, TakeError> {
    let secret = token.secret.clone().into();
    let request = JoinRequest { invite: token.invite.to_string(), secret, name: name(cluster), file };
    take(token, &request).await
}

/// What the inviter said to a joiner that it refused.
fn told(answer: Result<JoinAnswer, TakeError>) -> String {
    match answer {
        Err(TakeError::Refused { refused }) => {
            assert!(!refused.remedy.is_empty(), "{refused:?}");
            refused.error
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_an_invite_becomes_a_peer_and_learns_of_the_other() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let answer = join(&token, "hoth", hoth(&own)).await.unwrap();
    assert_eq!((answer.name.as_str(), answer.file.id), ("yavin", id(1)));
    assert_eq!(answer.file.trust.as_deref(), Some(yavin.authority.certificate_pem()));
    assert_eq!(answer.file.ranges, PeerRanges::Agreed(ranges("10.1.0.0/16", "192.168.1.0/24")));
    assert!(yavin.has("hoth"));
    assert!(yavin.record(&token).await.used_by.is_some());
    // Nobody who reads etcd can take the invite.
    let stored = yavin.etcd.ctl(&["get", "--prefix", "clustermesh/invite/yavin/"]);
    assert!(stored.contains("secret_sha256") && !stored.contains(&String::from(token.secret.clone())));
    assert_eq!(yavin.counted("joined"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_or_replayed_invite_lets_nobody_else_in() {
    let (yavin, own, thief) = (Yavin::start().await, authority("hoth"), authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    join(&token, "hoth", hoth(&own)).await.unwrap();
    let before = std::fs::read(yavin.peers.join("hoth.yaml")).unwrap();
    let text = told(join(&token, "hoth", hoth(&thief)).await);
    assert!(text.starts_with("another cluster has taken the invite"), "{text}");
    assert_eq!(std::fs::read(yavin.peers.join("hoth.yaml")).unwrap(), before);
    assert_eq!(yavin.counted("used"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_for_another_name_lets_nobody_in() {
    let (yavin, own) = (Yavin::start().await, authority("echo"));
    let token = yavin.invite(|_| {}).await;
    let text = told(join(&token, "echo", hoth(&own)).await);
    assert_eq!(text, "the invite is for a cluster hoth, not for echo");
    assert!(!yavin.has("echo") && yavin.record(&token).await.used_by.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_for_another_id_lets_nobody_in() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|record| record.id = id(3)).await;
    assert_eq!(told(join(&token, "hoth", hoth(&own)).await), "the invite is for the id 3, not for 2");
    assert!(!yavin.has("hoth") && yavin.record(&token).await.used_by.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_third_cluster_are_refused_although_they_were_invited() {
    let (yavin, own, echo) = (Yavin::start().await, authority("hoth"), authority("echo"));
    let third = PeerDocument {
        id: id(3),
        ranges: PeerRanges::Agreed(ranges("10.2.128.0/17", "192.168.3.0/24")),
        ..hoth(&echo)
    };
    let file = parse(&name("echo"), &serde_json::to_string(&third).unwrap()).unwrap();
    mesh_peers::write::write(&yavin.peers, &file).unwrap();
    let token = yavin.invite(|_| {}).await;
    let text = told(join(&token, "hoth", hoth(&own)).await);
    assert_eq!(
        text,
        "pod range 10.2.0.0/16 of hoth overlaps pod range 10.2.128.0/17 of echo, which is a peer"
    );
    assert!(!yavin.has("hoth"));
    assert!(yavin.record(&token).await.used_by.is_none(), "it can be taken when that is put right");
    assert_eq!(yavin.counted("collision"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wider_ranges_than_invited_are_refused() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|record| record.ranges = ranges("10.2.0.0/17", "192.168.2.0/24")).await;
    let text = told(join(&token, "hoth", hoth(&own)).await);
    assert!(text.starts_with("10.2.0.0/16 is no pod range that the invite allows"), "{text}");
    assert!(!yavin.has("hoth"));
    assert_eq!(yavin.counted("not_invited"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_invite_lets_nobody_in() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|record| record.expires_unix_s = unix_seconds(SystemTime::now())).await;
    assert_eq!(told(join(&token, "hoth", hoth(&own)).await), "the invite has expired");
    assert!(!yavin.has("hoth"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_invite_lets_nobody_in() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    assert!(yavin.invites.revoke(token.invite).await.unwrap());
    assert!(!yavin.invites.revoke(token.invite).await.unwrap());
    let text = told(join(&token, "hoth", hoth(&own)).await);
    assert!(text.starts_with("there is no invite"), "{text}");
    assert!(!yavin.has("hoth"));
    assert_eq!(yavin.counted("unknown_invite"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_peer_no_more_does_not_come_back_by_its_invite() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    join(&token, "hoth", hoth(&own)).await.unwrap();
    yavin.invites.revoke_of(&name("hoth")).await.unwrap();
    assert!(told(join(&token, "hoth", hoth(&own)).await).starts_with("there is no invite"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_wrong_secrets_end_an_invite() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let guess = Token { secret: Secret::new([7; 32]), ..token.clone() };
    for _ in 0..MAX_WRONG_SECRETS {
        let text = told(join(&guess, "hoth", hoth(&own)).await);
        assert_eq!(text, "the secret is not the one of this invite");
    }
    assert_eq!(
        told(join(&token, "hoth", hoth(&own)).await),
        "the invite was shown with wrong secrets too often"
    );
    assert!(!yavin.has("hoth"));
    assert_eq!((yavin.counted("wrong_secret"), yavin.counted("locked")), (u64::from(MAX_WRONG_SECRETS), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_interrupted_between_claim_and_file_is_repeated() {
    let (yavin, own, thief) = (Yavin::start().await, authority("hoth"), authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    // A file of that name with another ending: it can be read, and none is written beside it.
    let file = parse(&name("hoth"), &serde_json::to_string(&hoth(&thief)).unwrap()).unwrap();
    std::fs::write(yavin.peers.join("hoth.yml"), file.text()).unwrap();
    let text = told(join(&token, "hoth", hoth(&own)).await);
    assert!(text.contains("names the same peer"), "{text}");
    assert!(yavin.record(&token).await.used_by.is_some(), "claimed, and not written");
    std::fs::remove_file(yavin.peers.join("hoth.yml")).unwrap();
    assert!(told(join(&token, "hoth", hoth(&thief)).await).starts_with("another cluster has taken"));
    join(&token, "hoth", hoth(&own)).await.unwrap();
    assert!(yavin.has("hoth"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_answer_was_lost_is_repeated_with_the_same_answer() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let secret = token.secret.clone().into();
    let request =
        JoinRequest { invite: token.invite.to_string(), secret, name: name("hoth"), file: hoth(&own) };
    let body = serde_json::to_vec(&request).unwrap();
    let mut stream = connected(&token).await;
    stream.write_all(&head("/v1/join", body.len())).await.unwrap();
    stream.write_all(&body).await.unwrap();
    until("the peer file", || yavin.has("hoth")).await;
    drop(stream);
    let (one, other) =
        (join(&token, "hoth", hoth(&own)).await.unwrap(), join(&token, "hoth", hoth(&own)).await.unwrap());
    assert_eq!(one, other);
    assert_eq!(yavin.counted("repeated"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_without_etcd_changes_nothing_and_is_repeated() {
    let (mut yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    yavin.etcd.kill();
    let text = told(join(&token, "hoth", hoth(&own)).await);
    assert!(text.contains("etcd, which keeps the invites"), "{text}");
    assert!(!yavin.has("hoth"));
    yavin.etcd.restart();
    let deadline = Instant::now() + Duration::from_secs(30);
    while join(&token, "hoth", hoth(&own)).await.is_err() {
        assert!(Instant::now() < deadline, "it is never let in");
    }
    assert!(yavin.has("hoth"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_joiners_at_once_one_becomes_the_peer() {
    let yavin = Yavin::start().await;
    for _ in 0..5 {
        let token = yavin.invite(|_| {}).await;
        let (one, other) = (authority("hoth"), authority("hoth"));
        let (first, second) =
            tokio::join!(join(&token, "hoth", hoth(&one)), join(&token, "hoth", hoth(&other)));
        let winner = match (first, second) {
            (Ok(_), refused) => (&one, told(refused)),
            (refused, Ok(_)) => (&other, told(refused)),
            neither => panic!("{neither:?}"),
        };
        assert!(winner.1.starts_with("another cluster has taken the invite"), "{}", winner.1);
        let text = std::fs::read_to_string(yavin.peers.join("hoth.yaml")).unwrap();
        let file = mesh_peers::PeerFile::parse(&name("hoth"), "hoth.yaml", &text).unwrap();
        assert_eq!(file.trust.as_deref(), Some(winner.0.certificate_pem()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_does_not_see_the_secret() {
    let (yavin, impostor, own) = (Yavin::start().await, Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let misled = Token { endpoints: vec![format!("https://{}", impostor.address)], ..token.clone() };
    match join(&misled, "hoth", hoth(&own)).await {
        Err(error @ TakeError::Unreached { .. }) => {
            let text = error.to_string();
            assert!(text.contains("shows no certificate with the fingerprint"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(["unknown_invite", "malformed", "joined"].iter().all(|outcome| impostor.counted(outcome) == 0));
    // Behind it in the list, the right one is still found.
    let both = Token { endpoints: [misled.endpoints, token.endpoints.clone()].concat(), ..token };
    join(&both, "hoth", hoth(&own)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_hold_up_nobody_and_are_ended() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from([127, 0, 0, 2]), 0)).unwrap();
        silent.push(socket.connect(yavin.address).await.unwrap());
    }
    let start = Instant::now();
    join(&token, "hoth", hoth(&own)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "it waited for the silent: {:?}", start.elapsed());
    // One that never gets beyond the handshake, and one that sends its head a byte at a time, are closed.
    let ended = async {
        for stream in &mut silent {
            let _closed = stream.read(&mut [0; 16]).await;
        }
        let mut slow = connected(&token).await;
        for byte in head("/v1/join", 10).iter().cycle() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_misshapen_requests_are_refused_and_change_nothing() {
    let yavin = Yavin::start().await;
    let token = yavin.invite(|_| {}).await;
    let ask = async |head: Vec<u8>, body: Vec<u8>| {
        let mut stream = connected(&token).await;
        // Whoever refuses need not read all of it.
        let _refused =
            async { stream.write_all(&head).await.is_ok() && stream.write_all(&body).await.is_ok() }.await;
        let mut answer = Vec::new();
        let _reset =
            tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    let answer = ask(head("/v1/join", 1 << 20), vec![b' '; 1 << 20]).await;
    assert!(answer.contains("413") || answer.is_empty(), "{answer}");
    let long = [head("/v1/join", 0), vec![b'a'; 1 << 20]].concat();
    let long = [&long[..20], &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat();
    let answer = ask(long, Vec::new()).await;
    assert!(!answer.contains("200"), "{answer}");
    for body in [&b"{"[..], b"[]", b"\xff\xff", b"{\"invite\":\"../x\",\"secret\":\"\"}"] {
        let answer = ask(head("/v1/join", body.len()), body.to_vec()).await;
        assert!(answer.contains("400"), "{answer}");
    }
    assert!(ask(head("/v1/cluster", 0), Vec::new()).await.contains("404"));
    assert_eq!(yavin.record(&token).await.wrong_secrets, 0);
    assert_eq!(std::fs::read_dir(&yavin.peers).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_without_an_authority_is_refused() {
    let (yavin, own) = (Yavin::start().await, authority("hoth"));
    let token = yavin.invite(|_| {}).await;
    let plain = PeerDocument { endpoints: vec!["http://192.0.2.2:2379".into()], ..hoth(&own) };
    let text = told(join(&token, "hoth", plain).await);
    assert!(text.contains("without TLS"), "{text}");
    let text = told(join(&token, "hoth", PeerDocument { trust: None, ..hoth(&own) }).await);
    assert!(text.contains("`trust` is missing"), "{text}");
    assert!(yavin.record(&token).await.used_by.is_none());
}

async fn until(what: &str, predicate: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !predicate() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        tokio::task::yield_now().await;
    }
}

/// A TLS connection to the join port, for whatever is to be sent there.
async fn connected(token: &Token) -> tokio_rustls::client::TlsStream<TcpStream> {
    let endpoint: EtcdEndpoint = token.endpoints[0].parse().unwrap();
    let told = Told::default();
    dial(&endpoint, Arc::new(PinnedVerifier::new(token, told.clone())), &told).await.unwrap()
}

fn head(path: &str, length: usize) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}
