//! An API server that speaks as much of the list and watch protocol as the source needs, and misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "a test ends there")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

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
        for resource in ["services", "endpointslices", "nodes", "servicecidrs"] {
            let object = json!({"metadata": {"resourceVersion": revision.to_string()}});
            state.history.push(Entry { revision, resource: resource.into(), kind: "BOOKMARK", object });
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
    let resource = match kind {
        "ServiceCIDR" => "servicecidrs".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    (resource, format!("{}/{}", text("namespace"), text("name")))
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn connection(
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    serving: CancellationToken,
) {
    let token = serving.clone();
    let service = service_fn(move |request| answer(request, state.clone(), moved.clone(), token.clone()));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = serving.cancelled() => {}
        _ = connection => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    serving: CancellationToken,
) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let target = parts.uri.path_and_query().unwrap().to_string();
    let query: BTreeMap<String, String> =
        parts.uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
    let resource = parts.uri.path().rsplit('/').next().unwrap().to_owned();
    let authorization = parts.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());

    if is_left_unanswered(&state, || format!("{} {target}", parts.method)) {
        return std::future::pending().await;
    }
    let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
    now.requests.push((Instant::now(), format!("{} {target}", parts.method)));
    if now.behaviour.token.is_some()
        && authorization != now.behaviour.token.as_ref().map(|it| format!("Bearer {it}"))
    {
        return Ok(refusal(401, "Unauthorized"));
    }
    if let Some(code) = now.behaviour.refused.get(&resource) {
        return Ok(asking(refusal(*code, "refused by the test"), now.behaviour.retry_after));
    }
    if parts.method == http::Method::POST {
        let posted: Value = serde_json::from_slice(&body).unwrap();
        if now.written.iter().any(|old| old["metadata"]["name"] == posted["metadata"]["name"]) {
            return Ok(refusal(409, "AlreadyExists"));
        }
        now.written.push(posted);
        return Ok(whole(201, b"{}".to_vec()));
    }
    if !query.contains_key("watch") {
        return Ok(page(&mut now, &resource, &query));
    }
    let streamed = query.get("sendInitialEvents").is_some_and(|it| it == "true");
    if let (true, Streaming::Refused(code)) = (streamed, now.behaviour.streaming) {
        return Ok(refusal(
            code,
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        ));
    }
    let from = query.get("resourceVersion").map(|text| text.parse().unwrap());
    if from.is_some_and(|from: u64| from < now.compacted || now.behaviour.forgets) {
        return Ok(stream_of(vec![event("ERROR", &status(410, "Expired"))]));
    }
    let (sender, receiver) = mpsc::channel(1024);
    let early = streamed && now.behaviour.ends_lists_early;
    let ends = now.behaviour.streaming == Streaming::Served && !early;
    let only_list = early || streamed && now.behaviour.forgets;
    let first = if from.is_none() { initial(&now, &resource, streamed && ends) } else { Vec::new() };
    let from = from.unwrap_or(now.revision);
    drop(now);
    let mut changed = moved.subscribe();
    tokio::spawn(async move {
        for line in first {
            let _ = sender.send(line).await;
        }
        let mut from = from;
        if only_list {
            return;
        }
        loop {
            let lines = since(&state, &resource, &mut from);
            for line in lines {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = serving.cancelled() => return,
                Ok(()) = changed.changed() => {}
            }
        }
    });
    Ok(Response::new(Stream(receiver).boxed()))
}

fn is_left_unanswered(state: &Mutex<State>, request: impl FnOnce() -> String) -> bool {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let frozen = state.behaviour.frozen;
    if frozen {
        state.unanswered.push(request());
    }
    frozen
}

fn initial(state: &State, resource: &str, ends: bool) -> Vec<Bytes> {
    let of_resource = state.objects.iter().filter(|((of, _), _)| of == resource);
    let mut lines: Vec<Bytes> = of_resource.map(|(_, object)| event("ADDED", object)).collect();
    if ends {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let metadata = json!({"resourceVersion": state.revision.to_string(), "annotations": annotations});
        lines.push(event("BOOKMARK", &json!({"metadata": metadata})));
    }
    lines
}

fn since(state: &Mutex<State>, resource: &str, from: &mut u64) -> Vec<Bytes> {
    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let new = state.history.iter().filter(|entry| entry.revision > *from && entry.resource == resource);
    let lines = new.map(|entry| event(entry.kind, &entry.object)).collect();
    *from = state.revision.max(*from);
    lines
}

fn page(state: &mut State, resource: &str, query: &BTreeMap<String, String>) -> Answer {
    let after = query.get("continue").map(|text| text.replace("%2F", "/"));
    if after.is_some() && state.behaviour.expired_pages > 0 {
        state.behaviour.expired_pages -= 1;
        return refusal(410, "the continue token has expired");
    }
    let of_resource = state
        .objects
        .iter()
        .filter(|((of, name), _)| of == resource && after.as_ref().is_none_or(|after| name > after));
    let all: Vec<_> = of_resource.collect();
    let least: Option<u64> = query.get("resourceVersion").map(|text| text.parse().unwrap());
    if least.is_some_and(|least| least > state.revision) {
        return ahead();
    }
    // A cache tells everything at once.
    let limit = if least.is_some() { usize::MAX } else { state.behaviour.page };
    let page = &all[..all.len().min(limit)];
    let last = page.last().filter(|_| page.len() < all.len());
    let next = last.map(|(place, _)| place.1.clone()).unwrap_or_default();
    let items: Vec<&Value> = page.iter().map(|(_, object)| *object).collect();
    let metadata = json!({"resourceVersion": state.revision.to_string(), "continue": next});
    whole(200, json!({"metadata": metadata, "items": items}).to_string().into_bytes())
}

fn pair(text: &str) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "code": code, "reason": "Test", "message": message})
}

fn refusal(code: u16, message: &str) -> Answer {
    whole(code, status(code, message).to_string().into_bytes())
}

/// As kube-apiserver answers to a resource version that it has not reached.
fn ahead() -> Answer {
    let mut status = status(504, "Too large resource version");
    status["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge"}]});
    whole(504, status.to_string().into_bytes())
}

fn asking(mut answer: Answer, seconds: Option<u64>) -> Answer {
    if let Some(seconds) = seconds {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}

fn whole(code: u16, body: Vec<u8>) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(body)).boxed();
    Response::builder().status(code).body(body).unwrap()
}

fn stream_of(lines: Vec<Bytes>) -> Answer {
    let (sender, receiver) = mpsc::channel(lines.len());
    lines.into_iter().for_each(|line| sender.try_send(line).unwrap());
    Response::new(Stream(receiver).boxed())
}

struct Stream(mpsc::Receiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
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
