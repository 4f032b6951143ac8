//! What the API server of the tests answers to each request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::object::{Object, Refusal};
use super::{NAMESPACE, State};

type Answer = Response<BoxBody<Bytes, Infallible>>;
type Query = BTreeMap<String, String>;

pub(super) async fn connection(
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
    let query = parts.uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
    let folder = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let name = parts.uri.path().strip_prefix(&folder).unwrap().trim_start_matches('/').to_owned();
    let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
    now.requests.push(format!("{} {}", parts.method, parts.uri));
    if let Some(code) = now.refused {
        return Ok(refusal(&Refusal(code, "refused by the test".into())));
    }
    if query_has(&query, "watch", "1") {
        drop(now);
        return Ok(stream(state.clone(), moved.subscribe(), serving, &query));
    }
    let form = parts.headers.get("content-type").map(|it| it.to_str().unwrap().to_owned());
    let answered = match parts.method {
        Method::GET if name.is_empty() => Ok(now.list(&query)),
        Method::GET => now.secrets.get(&name).map(|held| held.shown(&name)).ok_or_else(|| absent(&name)),
        Method::POST => now.create(&serde_json::from_slice(&body).unwrap()),
        Method::PATCH => now.patch(&name, (&form.unwrap(), &query), &serde_json::from_slice(&body).unwrap()),
        other => panic!("{other}"),
    };
    drop(now);
    moved.send_modify(|moved| *moved += 1);
    Ok(answered.map_or_else(|error| refusal(&error), |shown| whole(200, &shown)))
}

impl State {
    fn list(&self, query: &Query) -> Value {
        let name = selected(query);
        let items: Vec<Value> = self.secrets.get(&name).map(|held| held.shown(&name)).into_iter().collect();
        json!({"metadata": {"resourceVersion": self.revision.to_string()}, "items": items})
    }

    fn create(&mut self, object: &Value) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"].as_str().unwrap();
        if self.secrets.contains_key(name) {
            return Err(Refusal(409, "AlreadyExists".into()));
        }
        self.store(name, Object::new(object, "creator"));
        Ok(self.secrets[name].shown(name))
    }

    fn patch(&mut self, name: &str, (form, query): (&str, &Query), patch: &Value) -> Result<Value, Refusal> {
        let held = self.secrets.get(name).cloned();
        let mut object = match held {
            Some(held) => held,
            None if form == "application/apply-patch+yaml" => {
                Object::new(&json!({"type": "Opaque"}), "nobody")
            }
            None => return Err(absent(name)),
        };
        match form {
            "application/merge-patch+json" => object.merge(patch)?,
            "application/json-patch+json" => object.patch(patch)?,
            "application/apply-patch+yaml" => {
                object.apply(patch, &query["fieldManager"], query_has(query, "force", "true"))?;
            }
            other => return Err(Refusal(415, other.into())),
        }
        self.store(name, object);
        Ok(self.secrets[name].shown(name))
    }
}

fn absent(name: &str) -> Refusal {
    Refusal(404, format!("secrets {name:?} not found"))
}

fn selected(query: &Query) -> String {
    query["fieldSelector"]
        .strip_prefix("metadata.name%3D")
        .expect("only named Secrets are asked for")
        .to_owned()
}

fn query_has(query: &Query, name: &str, value: &str) -> bool {
    query.get(name).is_some_and(|found| found == value)
}

fn pair(text: &str) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn refusal(Refusal(code, message): &Refusal) -> Answer {
    whole(*code, &json!({"kind": "Status", "code": code, "reason": "Test", "message": message}))
}

fn whole(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed();
    Response::builder().status(code).body(body).unwrap()
}

fn stream(
    state: Arc<Mutex<State>>,
    mut moved: watch::Receiver<u64>,
    serving: CancellationToken,
    query: &Query,
) -> Answer {
    let (sender, receiver) = mpsc::channel(1024);
    let (name, mut from) = (selected(query), query["resourceVersion"].parse::<u64>().unwrap());
    tokio::spawn(async move {
        loop {
            for line in since(&state, &name, &mut from) {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = serving.cancelled() => return,
                Ok(()) = moved.changed() => {}
            }
        }
    });
    Response::new(Stream(receiver).boxed())
}

fn since(state: &Mutex<State>, name: &str, from: &mut u64) -> Vec<Bytes> {
    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let new = state.history.iter().filter(|(revision, of, _)| revision > from && of == name);
    let lines = new.map(|(_, _, event)| Bytes::from(format!("{event}\n"))).collect();
    *from = state.revision.max(*from);
    lines
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
