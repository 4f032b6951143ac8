//! An API server that speaks as much of the list and watch protocol as the source needs, and misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "a test ends there")]

mod serving;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kinds::Kind;
use serving::connection;

/// What the server does with a request for a streamed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    Served,
    /// Refused with this status.
    Refused(u16),
    /// Taken for an ordinary watch, as servers do that know nothing of it.
    Unknown,
}

#[derive(Debug)]
pub struct Behaviour {
    pub streaming: Streaming,
    /// Objects per page at most.
    pub page: usize,
    /// So many requests for a further page are answered with 410.
    pub expired_pages: usize,
    /// Resources that are answered with this status.
    pub refused: BTreeMap<String, u16>,
    /// The seconds that a refusal asks for, in its header.
    pub retry_after: Option<u64>,
    /// Streamed lists end after their objects, without the bookmark that says that these are all.
    pub ends_lists_early: bool,
    /// Every resource version is forgotten at once, and streams end with their list.
    pub forgets: bool,
    /// Connections are taken, and no request is ever answered: those count as unanswered.
    pub frozen: bool,
    /// The token that requests need.
    pub token: Option<String>,
}

#[derive(Debug)]
struct Entry {
    revision: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    revision: u64,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    objects: BTreeMap<(String, String), Value>,
    history: Vec<Entry>,
    /// Method and target of every request, and when it came.
    requests: Vec<(Instant, String)>,
    /// Those that came while it was frozen.
    unanswered: Vec<String>,
    written: Vec<Value>,
}

/// The server; it ends with the test.
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    address: SocketAddr,
    /// Of the connections that stand.
    serving: CancellationToken,
    folder: tempfile::TempDir,
}

impl FakeApi {
    pub async fn start() -> Self {
        let behaviour = Behaviour {
            streaming: Streaming::Served,
            page: usize::MAX,
            expired_pages: 0,
            refused: BTreeMap::new(),
            retry_after: None,
            ends_lists_early: false,
            forgets: false,
            frozen: false,
            token: None,
        };
        let state = State {
            behaviour,
            revision: 1,
            compacted: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            requests: Vec::new(),
            unanswered: Vec::new(),
            written: Vec::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            state: Arc::new(Mutex::new(state)),
            moved: watch::Sender::new(0),
            address: listener.local_addr().unwrap(),
            serving: CancellationToken::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        api.write_token("first");
        api.write_kubeconfig();
        api.serve(listener);
        api
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers every request for a resource with this status.
    pub fn refuse(&self, resource: &str, code: u16) {
        self.state().behaviour.refused.insert(resource.into(), code);
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state().behaviour);
    }

    /// Where it listens, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn write_token(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    fn write_kubeconfig(&self) {
        let token = self.folder.path().join("token");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "fake", "user": {"tokenFile": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        });
        std::fs::write(self.kubeconfig(), text.to_string()).unwrap();
    }

    /// Cuts all connections and takes no new ones.
    pub fn stop(&mut self) {
        self.serving.cancel();
    }

    /// Listens again, elsewhere; the kubeconfig says so.
    pub async fn resume(&mut self) {
        self.serving = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.write_kubeconfig();
        self.serve(listener);
    }

    /// Cuts all connections; new ones are fine.
    pub async fn cut(&mut self) {
        self.stop();
        self.resume().await;
    }

    /// The server forgets its history.
    pub fn compact(&self) {
        let mut state = self.state();
        state.revision += 1;
        state.compacted = state.revision;
        state.history.clear();
    }

    /// The server's storage is set back to an earlier revision, as from a backup. Watches from later ones hear nothing.
    pub fn set_back(&self, revision: u64) {
        let mut state = self.state();
        state.revision = revision;
        state.history.retain(|entry| entry.revision <= revision);
    }

    /// How far the server's history goes.
    pub fn revision(&self) -> u64 {
        self.state().revision
    }

    /// An object is created or changed. Its resource follows from its kind.
    pub fn put(&self, object: Value) {
        let mut state = self.state();
        state.revision += 1;
        let (resource, name) = place(&object);
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let old = state.objects.insert((resource.clone(), name), object.clone());
        let kind = if old.is_none() { "ADDED" } else { "MODIFIED" };
        let revision = state.revision;
        state.history.push(Entry { revision, resource, kind, object });
        drop(state);
        self.moved.send_modify(|moved| *moved += 1);
    }

    pub fn delete(&self, object: &Value) {
        let mut state = self.state();
        state.revision += 1;
        let (resource, name) = place(object);
        let mut object = state.objects.remove(&(resource.clone(), name)).expect("it exists");
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let revision = state.revision;
        state.history.push(Entry { revision, resource, kind: "DELETED", object });
        drop(state);
        self.moved.send_modify(|moved| *moved += 1);
    }

    /// Makes the server hold these objects and no others, by as few changes as it takes.
    pub fn become_these(&self, objects: &[Value]) {
        let places: Vec<_> = objects.iter().map(place).collect();
        let known: Vec<_> =
            self.state().objects.iter().map(|(place, it)| (place.clone(), it.clone())).collect();
        for (place, object) in &known {
            if !places.contains(place) {
                self.delete(object);
            }
        }
        for object in objects {
            let same = known.iter().any(|(_, old)| {
                let mut old = old.clone();
                old["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                old == *object
            });
            if !same {
                self.put(object.clone());
            }
        }
    }

    /// Tells every watch how far it is.
    pub fn bookmark(&self) -> u64 {
        let mut state = self.state();
        state.revision += 1;
        let revision = state.revision;
        for kind in Kind::ALL {
            let object = json!({"metadata": {"resourceVersion": revision.to_string()}});
            state.history.push(Entry { revision, resource: kind.to_string(), kind: "BOOKMARK", object });
        }
        drop(state);
        self.moved.send_modify(|moved| *moved += 1);
        revision
    }

    /// How many objects of a resource there are, and how often one has changed.
    pub fn counts(&self, resource: &str) -> (usize, usize) {
        let state = self.state();
        let objects = state.objects.keys().filter(|(of, _)| of == resource).count();
        let changes =
            state.history.iter().filter(|it| it.resource == resource && it.kind != "BOOKMARK").count();
        (objects, changes)
    }

    /// The requests that were made, as `METHOD path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.iter().map(|(_, request)| request.clone()).collect()
    }

    /// The requests that came while it was frozen.
    pub fn unanswered(&self) -> Vec<String> {
        self.state().unanswered.clone()
    }

    /// When requests were made that contain all of these texts.
    pub fn times(&self, texts: &[&str]) -> Vec<Instant> {
        let state = self.state();
        let of = state.requests.iter().filter(|(_, request)| texts.iter().all(|text| request.contains(text)));
        of.map(|(time, _)| *time).collect()
    }

    /// What was posted.
    pub fn written(&self) -> Vec<Value> {
        self.state().written.clone()
    }

    fn serve(&self, listener: TcpListener) {
        let (state, moved, serving) = (self.state.clone(), self.moved.clone(), self.serving.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = serving.cancelled() => return,
                    Ok((stream, _)) = listener.accept() => stream,
                };
                tokio::spawn(connection(stream, state.clone(), moved.clone(), serving.clone()));
            }
        });
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.serving.cancel();
    }
}

/// The resource and `namespace/name` of an object.
fn place(object: &Value) -> (String, String) {
    let kind = object["kind"].as_str().unwrap();
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let resource =
        Kind::named(kind).map_or_else(|| format!("{}s", kind.to_lowercase()), |kind| kind.to_string());
    (resource, format!("{}/{}", text("namespace"), text("name")))
}

/// The objects of a YAML text.
pub fn yaml(text: &str) -> Vec<Value> {
    let documents = text
        .split("\n---")
        .filter(|text| text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')));
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")))
        .collect()
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
