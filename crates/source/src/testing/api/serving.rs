//! What the API server of the tests answers to each request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{State, Streaming};

type Answer = Response<BoxBody<Bytes, Infallible>>;

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
