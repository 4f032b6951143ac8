//! An API server that holds Secrets of one namespace, as much as this crate asks of one, and misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "a test ends there")]

mod object;
mod serving;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_kube::Access;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use object::Object;

/// The namespace of its Secrets.
pub const NAMESPACE: &str = "clustermesh";

#[derive(Debug, Default)]
struct State {
    revision: u64,
    secrets: BTreeMap<String, Object>,
    /// Watch events with their revisions and names.
    history: Vec<(u64, String, Value)>,
    requests: Vec<String>,
    /// Every request is answered with this status.
    refused: Option<u16>,
}

/// The server; it ends with the test.
#[derive(Debug)]
pub struct FakeSecrets {
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    serving: CancellationToken,
    folder: tempfile::TempDir,
}

impl FakeSecrets {
    pub async fn start() -> Self {
        let mut fake = Self {
            state: Arc::default(),
            moved: watch::Sender::new(0),
            serving: CancellationToken::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        fake.resume().await;
        fake
    }

    /// How it is reached.
    pub fn access(&self) -> Access {
        Access { kubeconfig: Some(self.kubeconfig()) }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Answers every request with this status, or no longer.
    pub fn refuse(&self, code: Option<u16>) {
        self.lock().refused = code;
    }

    /// A Secret is created or changed, by nobody in particular.
    pub fn put(&self, name: &str, data: &[(&str, &str)]) {
        let encoded = data.iter().map(|(key, text)| ((*key).to_owned(), object::encoded(text.as_bytes())));
        let data = Value::Object(encoded.collect());
        self.put_object(name, &json!({"type": "Opaque", "data": data}));
    }

    /// The same, as the raw object that a server would hold.
    pub fn put_object(&self, name: &str, object: &Value) {
        let mut state = self.lock();
        let held = Object::new(object, "somebody");
        state.store(name, held);
        drop(state);
        self.moved.send_modify(|moved| *moved += 1);
    }

    pub fn delete(&self, name: &str) {
        let mut state = self.lock();
        state.remove(name);
        drop(state);
        self.moved.send_modify(|moved| *moved += 1);
    }

    /// What a key of a Secret holds.
    pub fn value(&self, name: &str, key: &str) -> Option<String> {
        let state = self.lock();
        let value = state.secrets.get(name)?.data().get(key)?.as_str()?.to_owned();
        Some(String::from_utf8(object::decoded(&value)).unwrap())
    }

    /// A Secret, as the server holds it.
    pub fn object(&self, name: &str) -> Option<Value> {
        self.lock().secrets.get(name).map(|held| held.shown(name))
    }

    /// The requests that were made, as `METHOD path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// Cuts all connections and takes no new ones.
    pub fn stop(&mut self) {
        self.serving.cancel();
    }

    /// Listens again, elsewhere; the kubeconfig says so.
    pub async fn resume(&mut self) {
        self.serving = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.write_kubeconfig(listener.local_addr().unwrap());
        let (state, moved, serving) = (self.state.clone(), self.moved.clone(), self.serving.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = serving.cancelled() => return,
                    Ok((stream, _)) = listener.accept() => stream,
                };
                tokio::spawn(serving::connection(stream, state.clone(), moved.clone(), serving.clone()));
            }
        });
    }

    fn write_kubeconfig(&self, address: SocketAddr) {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
        });
        std::fs::write(self.kubeconfig(), text.to_string()).unwrap();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeSecrets {
    fn drop(&mut self) {
        self.serving.cancel();
    }
}

impl State {
    fn store(&mut self, name: &str, mut object: Object) {
        self.revision += 1;
        object.revision = self.revision;
        let is_new = !self.secrets.contains_key(name);
        let event = json!({"type": if is_new { "ADDED" } else { "MODIFIED" }, "object": object.shown(name)});
        self.history.push((self.revision, name.into(), event));
        self.secrets.insert(name.into(), object);
    }

    fn remove(&mut self, name: &str) {
        self.revision += 1;
        let Some(object) = self.secrets.remove(name) else { return };
        let event = json!({"type": "DELETED", "object": object.shown(name)});
        self.history.push((self.revision, name.into(), event));
    }
}
