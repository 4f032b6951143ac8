//! Clusters in memory, for tests of what is done with several: they keep peer files, and can be cut off at any question.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, bail};
use mesh_admin::cluster::{
    self as shape, AdvanceRequest, AuthorityRotation, Certificates, Obstacle, PeerDocument, PeerEntry, Probe,
    ProbeRequest, RevokeRequest, Revoked, RevokedCertificate, RotationPhase,
};
use mesh_model::name::ClusterName;
use serde_json::{Value, json};

use super::{AgentAnswer, Answer, Cluster, Request};

/// When a question is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It never arrives.
    Before,
    /// It is obeyed, and nobody hears of it.
    After,
}

/// What all clusters have in common.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    asked: Cell<usize>,
    cut: Cell<Option<(usize, Cut)>>,
}

impl Wires {
    /// From the n-th question on (0 is the first), everything is cut off.
    pub(crate) fn cut(&self, at: usize, cut: Cut) {
        self.asked.set(0);
        self.cut.set(Some((at, cut)));
    }

    pub(crate) fn heal(&self) {
        self.cut.set(None);
    }

    fn carry<T>(&self, obey: impl FnOnce() -> T) -> Result<T> {
        let asked = self.asked.replace(self.asked.get() + 1);
        match self.cut.get() {
            Some((at, _)) if asked > at => bail!("the wires are cut"),
            Some((at, Cut::Before)) if asked == at => bail!("the wires are cut"),
            Some((at, Cut::After)) if asked == at => {
                obey();
                bail!("the wires are cut")
            }
            _ => Ok(obey()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Fake {
    pub wires: Rc<Wires>,
    pub described: shape::Cluster,
    pub peers: RefCell<BTreeMap<String, PeerDocument>>,
    /// It does not answer at all.
    pub is_dead: Cell<bool>,
    /// What probes from here say instead of success.
    pub probe_error: RefCell<Option<String>>,
    pub authority: RefCell<FakeAuthority>,
}

/// A cluster's authorities by their numbers, and what stands against their next phase.
#[derive(Debug, Default)]
pub(crate) struct FakeAuthority {
    pub number: usize,
    pub phase: RotationPhase,
    pub obstacles: Vec<Obstacle>,
    pub revoked: Vec<String>,
    /// Phases that began, and certificates that were made anew.
    pub done: Vec<String>,
}

impl Fake {
    pub(crate) fn new(wires: &Rc<Wires>, name: &str, id: u8) -> Self {
        let described = json!({
            "name": name, "id": id, "version": "0.1.0", "leading": true, "time_unix_ms": now_ms(),
            "ranges": {"pods": [format!("10.{id}.0.0/16")], "services": ["10.96.0.0/12"],
                "nodes": [format!("192.168.{id}.0/24")]},
            "endpoints": [format!("https://192.168.{id}.1:2379")],
            "trust": format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n"),
            "fingerprint": format!("{id:02X}:FF"),
            "pod_endpoint": format!("https://10.{id}.0.1:2379"),
            "peers_store": "folder /peers",
        });
        Self {
            wires: wires.clone(),
            described: serde_json::from_value(described).unwrap(),
            peers: RefCell::default(),
            is_dead: Cell::new(false),
            probe_error: RefCell::default(),
            authority: RefCell::default(),
        }
    }

    pub(crate) fn knows(&self) -> Vec<String> {
        self.peers.borrow().keys().cloned().collect()
    }

    fn obey(&self, request: &Request) -> Answer {
        let changed = |changed: bool| Answer { status: 200, body: json!({"changed": changed}) };
        match (request.method, request.path.as_str(), request.path.strip_prefix("/v1/peers/")) {
            ("GET", "/v1/cluster", _) => Answer { status: 200, body: json!(self.described) },
            ("GET", "/v1/peers", _) => Answer { status: 200, body: json!({"items": self.entries()}) },
            ("POST", "/v1/probe", _) => self.probe(request),
            ("PUT", _, Some(name)) => {
                let file: PeerDocument = body(request);
                let before = self.peers.borrow_mut().insert(name.into(), file.clone());
                changed(before.as_ref() != Some(&file))
            }
            ("DELETE", _, Some(name)) => changed(self.peers.borrow_mut().remove(name).is_some()),
            (method, path, _) => match path.strip_prefix("/v1/certificates") {
                Some(path) => self.certificates(method, path, request),
                None => Answer { status: 404, body: Value::Null },
            },
        }
    }

    fn certificates(&self, method: &str, path: &str, request: &Request) -> Answer {
        let good = |body: Value| Answer { status: 200, body };
        match (method, path) {
            ("GET", "") => good(json!(self.held())),
            ("GET", "/ca/rotate") => good(json!(self.rotation())),
            ("POST", "/ca/rotate") => {
                self.advance(body::<AdvanceRequest>(request).to);
                good(json!(self.rotation()))
            }
            ("POST", "/revoke") => good(json!(self.revoke(body::<RevokeRequest>(request).certificates))),
            _ => {
                let holder = path.trim_matches('/').trim_end_matches("/rotate");
                self.authority.borrow_mut().done.push(holder.into());
                good(json!(self.held().certificates[1]))
            }
        }
    }

    /// What peers shall trust, by the authorities' numbers.
    pub(crate) fn trust(&self) -> String {
        let authority = self.authority.borrow();
        let of = |number: usize| match number {
            0 => self.described.trust.clone().unwrap_or_default(),
            _ => format!("-----BEGIN CERTIFICATE-----\n{}{number}\n-----END CERTIFICATE-----\n", self.name()),
        };
        let revoked = authority.revoked.join("\n");
        let list = format!("-----BEGIN X509 CRL-----\n{revoked}\n-----END X509 CRL-----\n");
        let (one, two) = match authority.phase {
            RotationPhase::Settled => (of(authority.number), String::new()),
            RotationPhase::Announced => (of(authority.number), of(authority.number + 1)),
            RotationPhase::Switched => (of(authority.number), of(authority.number - 1)),
        };
        one + &two + if authority.revoked.is_empty() { "" } else { &list }
    }

    fn advance(&self, to: RotationPhase) {
        let mut authority = self.authority.borrow_mut();
        if authority.phase == to {
            return;
        }
        authority.number += usize::from(to == RotationPhase::Switched);
        authority.phase = to;
        authority.done.push(to.to_string());
    }

    fn rotation(&self) -> AuthorityRotation {
        let (trust, authority) = (self.trust(), self.authority.borrow());
        let obstacles = match authority.phase {
            RotationPhase::Announced => authority.obstacles.clone(),
            _ => Vec::new(),
        };
        AuthorityRotation { phase: authority.phase, obstacles, trust, fingerprints: vec!["AA:BB".into()] }
    }

    fn held(&self) -> Certificates {
        let certificate = |(at, holder): (usize, &str)| {
            json!({"holder": holder, "serial": format!("0{at}:{:02X}", self.described.id.value()), "fingerprint": "AA",
                "not_after_unix_s": u64::MAX, "renewal_unix_s": (at > 0).then_some(1)})
        };
        let all: Vec<_> = ["ca", "apiserver", "agent"].into_iter().enumerate().map(certificate).collect();
        let authority = self.authority.borrow();
        let revoked = authority.revoked.iter();
        let revoked = revoked.map(|serial| RevokedCertificate { serial: serial.clone(), since_unix_s: 1 });
        Certificates {
            cluster: self.name().clone(),
            certificates: serde_json::from_value(json!(all)).unwrap(),
            phase: authority.phase,
            foreign: None,
            revoked: revoked.collect(),
            trust: None,
        }
    }

    fn revoke(&self, serials: Vec<String>) -> Revoked {
        let known = self.authority.borrow().revoked.clone();
        let new: Vec<String> = serials.into_iter().filter(|serial| !known.contains(serial)).collect();
        self.authority.borrow_mut().revoked.extend(new.iter().cloned());
        let revoked = new.into_iter().map(|serial| RevokedCertificate { serial, since_unix_s: 1 }).collect();
        Revoked { revoked, renewed: vec!["agent".into()], trust: self.trust() }
    }

    fn entries(&self) -> Vec<PeerEntry> {
        let peers = self.peers.borrow();
        let entry = |(name, file): (&String, &PeerDocument)| PeerEntry {
            name: name.clone(),
            file: Some(file.clone()),
            reason: None,
        };
        peers.iter().map(entry).collect()
    }

    fn probe(&self, request: &Request) -> Answer {
        let asked: ProbeRequest = body(request);
        let error = self.probe_error.borrow().clone();
        let identity = error.is_none().then(|| format!("clustermesh://{}/apiserver", asked.name));
        let probe =
            |endpoint| Probe { endpoint, identity: identity.clone(), error: error.clone(), rtt_us: 1 };
        let items: Vec<_> = asked.endpoints.into_iter().map(probe).collect();
        Answer { status: 200, body: json!({"items": items}) }
    }

    fn rows(&self) -> Value {
        let row = |name: &String| {
            json!({"name": name, "state": "synced", "endpoints": [], "services": 1, "backends": 2, "rejected": 0,
                "rejections": []})
        };
        json!({"items": self.peers.borrow().keys().map(row).collect::<Vec<_>>()})
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.described.name
    }
}

/// Three clusters that know each other.
pub(crate) fn mesh() -> (Rc<Wires>, Vec<Fake>) {
    let wires = Rc::new(Wires::default());
    let fakes: Vec<_> =
        [("hoth", 1), ("yavin", 2), ("endor", 3)].map(|(name, id)| Fake::new(&wires, name, id)).into();
    for at in &fakes {
        for peer in fakes.iter().filter(|peer| peer.name() != at.name()) {
            let described = &peer.described;
            let file = json!({"id": described.id, "endpoints": described.endpoints,
                "ranges": {"pods": described.ranges.pods}, "trust": described.trust});
            at.peers.borrow_mut().insert(peer.name().to_string(), serde_json::from_value(file).unwrap());
        }
    }
    (wires, fakes)
}

fn body<T: serde::de::DeserializeOwned>(request: &Request) -> T {
    serde_json::from_slice(request.body.as_deref().unwrap()).unwrap()
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

impl Cluster for Fake {
    fn place(&self) -> String {
        format!("fake {}", self.name())
    }

    async fn ask(&self, request: &Request) -> Result<Answer> {
        anyhow::ensure!(!self.is_dead.get(), "{} is dead", self.name());
        self.wires.carry(|| self.obey(request))
    }

    async fn ask_agents(&self, _: &Request) -> Result<Vec<AgentAnswer>> {
        anyhow::ensure!(!self.is_dead.get(), "{} is dead", self.name());
        let answer = self.wires.carry(|| Answer { status: 200, body: self.rows() });
        Ok(vec![AgentAnswer { agent: format!("node {}-1", self.name()), answer }])
    }

    async fn exposed(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
