//! The routes of the admin API.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query as Parameters, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{StreamExt, stream};
use mesh_admin::api::{Event, HookPrograms, List, Node, unix_us};
use mesh_model::name::ServiceName;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, watch};

use super::answers::{Answers, PeerRows, Unanswered};
use super::events::Events;

/// The sources of the answers.
#[derive(Clone)]
pub struct Sources {
    pub node: Arc<Node>,
    pub answers: Arc<dyn Answers>,
    pub peers: Arc<dyn PeerRows>,
    pub hooks: watch::Receiver<Arc<Vec<HookPrograms>>>,
    pub events: Events,
}

/// All routes of the admin API.
pub fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/v1/node", get(node))
        .route("/v1/services", get(services))
        .route("/v1/backends", get(backends))
        .route("/v1/peers", get(peers))
        .route("/v1/hooks", get(hooks))
        .route("/v1/plan", get(plan))
        .route("/v1/events", get(events))
        .with_state(sources)
}

async fn node(State(sources): State<Sources>) -> Response {
    Json(List { items: vec![sources.node.as_ref().clone()] }).into_response()
}

async fn services(State(sources): State<Sources>, Parameters(of): Parameters<Of>) -> Response {
    match of.service() {
        Ok(service) => ask(&sources, move |answers| answers.services(service.as_ref())).await,
        Err(refusal) => refusal,
    }
}

#[derive(Deserialize)]
struct Of {
    /// `namespace/name`; all services without it.
    service: Option<String>,
}

impl Of {
    #[allow(clippy::result_large_err, reason = "the refusal is the answer")]
    fn service(self) -> Result<Option<ServiceName>, Response> {
        self.service.map(|name| name.parse()).transpose().map_err(|error| {
            let reason = format!("service must be namespace/name: {error}\n");
            (StatusCode::BAD_REQUEST, reason).into_response()
        })
    }
}

async fn backends(State(sources): State<Sources>, Parameters(of): Parameters<Of>) -> Response {
    match of.service() {
        Ok(service) => ask(&sources, move |answers| answers.backends(service.as_ref())).await,
        Err(refusal) => refusal,
    }
}

async fn plan(State(sources): State<Sources>) -> Response {
    ask(&sources, |answers| answers.plan()).await
}

async fn peers(State(sources): State<Sources>) -> Response {
    Json(List { items: sources.peers.rows() }).into_response()
}

async fn hooks(State(sources): State<Sources>) -> Response {
    let items = sources.hooks.borrow().clone();
    Json(List { items: items.to_vec() }).into_response()
}

/// Reads an answer on a thread where that may take its time. All readers together have one.
async fn ask<T: serde::Serialize + Send + 'static>(
    sources: &Sources,
    question: impl FnOnce(&dyn Answers) -> Result<Vec<T>, Unanswered> + Send + 'static,
) -> Response {
    static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
    let _turn = ONE_AT_A_TIME.acquire().await;
    let answers = sources.answers.clone();
    let answer = tokio::task::spawn_blocking(move || question(answers.as_ref())).await;
    match answer {
        Ok(Ok(items)) => Json(List { items }).into_response(),
        Ok(Err(error @ Unanswered::Maps(_))) => {
            let reason = format!("{}\n", mesh_failure::chain(&error));
            (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
        Ok(Err(Unanswered::Stopping)) | Err(_) => stopping(),
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response()
}

#[derive(Deserialize)]
struct EventParameters {
    /// Replays what is kept from this time on, in microseconds since the epoch.
    since_unix_us: Option<u64>,
}

async fn events(
    State(sources): State<Sources>,
    Parameters(parameters): Parameters<EventParameters>,
) -> Response {
    let (past, live) = sources.events.subscribe(parameters.since_unix_us);
    let live = stream::unfold(live, |mut live| async move {
        let event = match live.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(lost)) => {
                Arc::new(Event::Lagged { at_unix_us: unix_us(std::time::SystemTime::now()), lost })
            }
            Err(RecvError::Closed) => return None,
        };
        Some((event, live))
    });
    let lines = stream::iter(past).chain(live).map(|event| Ok::<_, Infallible>(line(&event)));
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn line(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events are plain data");
    line.push(b'\n');
    line.into()
}
