//! Certificates and authorities are replaced and revoked through the admin socket of the real binary, while a peer's real
//! apiserver judges what is shown.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;
mod secured;
mod socket;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use binaries::{Apiserver, DEADLINE, Lab, base};
use mesh_admin::cluster::{
    AuthorityRotation, Certificate, Certificates, Cluster, Refused, Revoked, RotationPhase,
};
use mesh_kv::testing::{free_port, wait_until};
use mesh_kv::{Credentials, Session};
use mesh_model::name::ClusterName;
use mesh_peers::PeerFile;
use mesh_trust::{Authority, Issued, Lifetime, Role};
use rustls::pki_types::UnixTime;
use secured::Etcd;
use serde_json::json;
use socket::Socket;

/// A cluster of one apiserver.
struct Site {
    name: ClusterName,
    id: u8,
    lab: Lab,
    port: u16,
    socket: Socket,
    apiserver: Apiserver,
}

fn start(lab: &Lab, name: &str, id: u8, port: u16, more: &[&str]) -> Apiserver {
    let folder = |name: &str| lab.root.join(name).display().to_string();
    fs::create_dir_all(lab.root.join("peers")).unwrap();
    let id_text = id.to_string();
    let (pods, services, nodes) =
        (format!("10.{id}.0.0/16"), format!("10.{}.0.0/16", 100 + id), format!("192.168.{id}.0/24"));
    let mut flags = vec!["--cluster-name", name, "--cluster-id", &id_text, "--pod-cidr", &pods];
    flags.extend(["--service-cidr", &services, "--node-cidr", &nodes, "--instance", name]);
    let (address, endpoint) = (format!("127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
    flags.extend(["--mesh-address", &address, "--mesh-endpoint", &endpoint]);
    let (peers, certificates) = (folder("peers"), folder("certificates"));
    flags.extend(["--peers-dir", &peers, "--certificates-dir", &certificates]);
    let etcd = lab.etcd.endpoint().to_string();
    if !more.contains(&"--etcd-endpoint") {
        flags.extend(["--etcd-endpoint", &etcd]);
    }
    Apiserver::start_with(lab, &[&flags, more].concat())
}

impl Site {
    fn start(name: &str, id: u8) -> Self {
        Self::start_with(name, id, &[])
    }

    fn start_with(name: &str, id: u8, more: &[&str]) -> Self {
        let (lab, port) = (Lab::new(), free_port());
        lab.write("base.yaml", &base(&[&format!("10.{id}.0.10")]));
        let apiserver = start(&lab, name, id, port, more);
        let socket = Self::socket(&lab, name);
        let site = Self { name: ClusterName::new(name).unwrap(), id, lab, port, socket, apiserver };
        site.settle();
        site
    }

    fn socket(lab: &Lab, name: &str) -> Socket {
        Socket::new(&lab.root.join(format!("run/{name}/apiserver.sock")))
    }

    fn settle(&self) {
        wait_until("certificates and the lead", DEADLINE, || {
            let cluster: Cluster = self.socket.get("/v1/cluster");
            cluster.trust.is_some() && cluster.leading && cluster.certificates.len() == 3
        });
        self.apiserver.until_ready();
    }

    fn file(&self, trust: &str) -> String {
        json!({"id": self.id, "endpoints": [format!("https://127.0.0.1:{}", self.port)],
            "ranges": {"pods": [format!("10.{}.0.0/16", self.id)]}, "trust": trust})
        .to_string()
    }

    /// Makes another cluster know this one by `trust`.
    fn tell(&self, other: &Site, trust: &str) {
        let (status, body) = other.socket.ask("PUT", &format!("/v1/peers/{}", self.name), &self.file(trust));
        assert_eq!(status, 200, "{body}");
    }

    fn rotation(&self) -> AuthorityRotation {
        self.socket.get("/v1/certificates/ca/rotate")
    }

    fn certificates(&self) -> Certificates {
        self.socket.get("/v1/certificates")
    }

    fn post(&self, path: &str, body: &str) -> Result<String, Refused> {
        match self.socket.ask("POST", path, body) {
            (200, body) => Ok(body),
            (status, body) => Err(serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"))),
        }
    }

    fn advance(&self, to: &str) -> Result<AuthorityRotation, Refused> {
        let answer = self.post("/v1/certificates/ca/rotate", &json!({"to": to}).to_string())?;
        Ok(serde_json::from_str(&answer).unwrap())
    }

    fn until_nothing_stands_against_it(&self) {
        let mut last = None;
        wait_until("nothing to stand against the next phase", DEADLINE, || {
            let rotation = self.rotation();
            let is_free = rotation.obstacles.is_empty();
            last = Some(rotation);
            is_free
        });
    }

    fn agent(&self) -> PathBuf {
        self.lab.root.join("certificates/agent")
    }

    /// A connection of one of this cluster's agents to another cluster, or why there is none.
    async fn connect(&self, other: &Site) -> Result<Session, String> {
        self.connect_by(other, &Credentials::in_folder(&self.agent())).await
    }

    async fn connect_by(&self, other: &Site, shown: &Credentials) -> Result<Session, String> {
        let cluster: Cluster = other.socket.get("/v1/cluster");
        let file = PeerFile::parse(&other.name, "a.yaml", &other.file(&cluster.trust.unwrap())).unwrap();
        let dialer = Arc::new(file.dialer(Some(shown)).unwrap());
        let session = Session::open(&dialer).await.map_err(|error| mesh_failure::chain(&error))?;
        read(&session, other).await.map(|()| session)
    }
}

async fn read(session: &Session, of: &Site) -> Result<(), String> {
    let key = format!("clustermesh/v1/clusters/{}", of.name);
    session.read("reading", &key).await.map(drop).map_err(|error| mesh_failure::chain(&error))
}

/// Waits until reading by a connection ends as it should.
async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    is_let_in: bool,
    mut attempt: impl FnMut() -> F,
) -> T
where
    T: Default,
{
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let outcome = attempt().await;
        match outcome {
            Ok(value) if is_let_in => return value,
            Err(_) if !is_let_in => return T::default(),
            outcome => assert!(tokio::time::Instant::now() < end, "{what}: {:?}", outcome.err()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_takes_anothers_place_and_a_connection_ends_only_when_the_old_one_goes() {
    let (hoth, yavin) = (Site::start("hoth", 2), Site::start("yavin", 1));
    let first = hoth.rotation();
    hoth.tell(&yavin, &first.trust);
    yavin.tell(&hoth, &yavin.rotation().trust);
    until("hoth's agent reads yavin", true, async || hoth.connect(&yavin).await.map(drop)).await;
    let standing = hoth.connect(&yavin).await.unwrap();

    let announced = hoth.advance("announced").unwrap();
    assert_eq!(announced.fingerprints[0], first.fingerprints[0], "the old one issues");
    wait_until("time to pass", DEADLINE, || {
        hoth.rotation().obstacles.iter().all(|it| it.problem.who.to_string() != "nobody")
    });
    let refused = hoth.advance("switched").unwrap_err();
    assert!(refused.problems.iter().any(|it| it.error.contains("yavin does not trust")), "{refused:?}");
    assert_eq!(hoth.rotation().phase, RotationPhase::Announced);

    hoth.tell(&yavin, &announced.trust);
    hoth.until_nothing_stands_against_it();
    let before = fs::read(hoth.agent().join("tls.crt")).unwrap();
    let switched = hoth.advance("switched").unwrap();
    assert_eq!(switched.fingerprints[1], first.fingerprints[0], "the new one issues");
    assert_ne!(fs::read(hoth.agent().join("tls.crt")).unwrap(), before);
    hoth.connect(&yavin).await.expect("the new certificate is trusted already");
    yavin.connect(&hoth).await.expect("so is the server's");
    read(&standing, &yavin).await.expect("what still counts goes on");

    hoth.until_nothing_stands_against_it();
    let settled = hoth.advance("settled").unwrap();
    assert_eq!(settled.fingerprints, switched.fingerprints[..1]);
    read(&standing, &yavin).await.expect("yavin trusts the old one as long as its file says so");
    hoth.tell(&yavin, &settled.trust);
    until("the old certificate ends", false, async || read(&standing, &yavin).await).await;
    hoth.connect(&yavin).await.unwrap();
    let metrics = hoth.apiserver.http("/metrics");
    assert!(metrics.contains("clustermesh_certificate_authorities 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_certificate_is_shut_out_and_its_holder_has_another_one() {
    let (hoth, yavin) = (Site::start("hoth", 2), Site::start("yavin", 1));
    hoth.tell(&yavin, &hoth.rotation().trust);
    let [certificate, key] =
        ["tls.crt", "tls.key"].map(|name| fs::read_to_string(hoth.agent().join(name)).unwrap());
    let stolen = Credentials::of_pair(&certificate, &key).unwrap();
    until("the thief is let in", true, async || hoth.connect_by(&yavin, &stolen).await.map(drop)).await;
    let standing = hoth.connect_by(&yavin, &stolen).await.unwrap();

    let all = hoth.certificates();
    let agent = all.certificates.iter().find(|it| it.holder == "agent").unwrap();
    let answer =
        hoth.post("/v1/certificates/revoke", &json!({"certificates": [agent.fingerprint]}).to_string());
    let revoked: Revoked = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(
        (revoked.renewed, revoked.revoked[0].serial.as_str()),
        (vec!["agent".to_owned()], agent.serial.as_str())
    );
    hoth.tell(&yavin, &revoked.trust);
    until("the thief's connection ends", false, async || read(&standing, &yavin).await).await;
    assert!(hoth.connect_by(&yavin, &stolen).await.is_err());
    hoth.connect(&yavin).await.expect("hoth's agent has another certificate");
    let shown = hoth.certificates();
    assert_eq!(shown.revoked.len(), 1);
    let cluster: Cluster = hoth.socket.get("/v1/cluster");
    wait_until("what hoth says of itself", DEADLINE, || {
        hoth.socket.get::<Cluster>("/v1/cluster").trust.as_ref() == Some(&revoked.trust)
    });
    assert!(!serde_json::to_string(&(shown, cluster)).unwrap().contains("PRIVATE KEY"));
    assert!(hoth.apiserver.http("/metrics").contains("clustermesh_certificates_revoked 1"));

    let made = hoth.post("/v1/certificates/apiserver/rotate", "").unwrap();
    let made: Certificate = serde_json::from_str(&made).unwrap();
    assert!(all.certificates.iter().all(|it| it.serial != made.serial));
    let refused = hoth.post("/v1/certificates/etcd/rotate", "").unwrap_err();
    assert!(refused.error.contains("no certificate of a holder \"etcd\""), "{refused:?}");
    let refused = hoth.post("/v1/certificates/revoke", r#"{"certificates": ["hoth"]}"#).unwrap_err();
    assert!(refused.remedy.contains("cert show -o wide"), "{refused:?}");
}

/// What etcd reads at its start.
fn etcd_folder(certificates: &Path, to: &Path, trust: &str) -> PathBuf {
    let ca = |name: &str| fs::read_to_string(certificates.join("ca").join(name)).unwrap();
    let authority =
        Authority::from_pem(&ClusterName::new("hoth").unwrap(), &ca("tls.crt"), &ca("tls.key")).unwrap();
    let lifetime = Lifetime::starting(UnixTime::now(), std::time::Duration::from_secs(3600));
    let Issued { certificate_pem, key_pem } =
        authority.issue(Role::Etcd, &["127.0.0.1".to_owned()], lifetime).unwrap();
    fs::create_dir_all(to).unwrap();
    for (name, text) in [("ca.crt", trust), ("tls.crt", &certificate_pem), ("tls.key", &key_pem)] {
        fs::write(to.join(name), text).unwrap();
    }
    to.to_owned()
}

#[test]
fn no_authority_issues_that_the_own_etcd_would_not_let_in() {
    let names = ["--certificate-name", "apiserver.clustermesh.internal"];
    let mut hoth = Site::start_with("hoth", 2, &names);
    let certificates = hoth.lab.root.join("certificates");
    let (root, port) = (fs::read_to_string(certificates.join("ca/tls.crt")).unwrap(), free_port());
    let endpoint = format!("https://127.0.0.1:{port}");
    let (tls, data) = (hoth.lab.root.join("etcd-tls"), hoth.lab.root.join("secured"));
    let etcd = Etcd::start(&etcd_folder(&certificates, &tls, &root), &data, port);
    // From now on by its own certificate, as in Kubernetes.
    hoth.apiserver.signal("TERM");
    hoth.apiserver.child.wait().unwrap();
    let own = certificates.join("apiserver").display().to_string();
    let more = [&["--etcd-endpoint", &endpoint, "--etcd-tls-dir", &own], &names[..]].concat();
    hoth.apiserver = start(&hoth.lab, "hoth", 2, hoth.port, &more);
    hoth.socket = Site::socket(&hoth.lab, "hoth");
    hoth.settle();

    let announced = hoth.advance("announced").unwrap();
    wait_until("etcd alone to stand against it", DEADLINE, || {
        let told: Vec<String> = hoth.rotation().obstacles.into_iter().map(|it| it.problem.error).collect();
        let expected = format!("the own etcd at {endpoint} does not trust the new authority yet");
        matches!(&told[..], [only] if only.starts_with(&expected))
    });
    let refused = hoth.advance("switched").unwrap_err();
    assert!(refused.problems.iter().any(|it| it.remedy.contains("restart etcd")), "{refused:?}");
    // It reads ca.crt at its start only.
    fs::write(tls.join("ca.crt"), &announced.trust).unwrap();
    drop(etcd);
    let _etcd = Etcd::start(&tls, &data, port);
    hoth.settle();
    hoth.until_nothing_stands_against_it();
    hoth.advance("switched").unwrap();
    hoth.until_nothing_stands_against_it();
    hoth.advance("settled").unwrap();
    hoth.apiserver.until_ready();
}
