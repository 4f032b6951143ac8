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
use mesh_model::name::ServiceName;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::api::{Event, List, unix_us};
use super::events::Events;
use crate::merge::query::Query;
use crate::peers::PeerSet;

/// Whom the routes ask.
#[derive(Clone)]
pub struct Sources {
    pub queries: mpsc::Sender<Query>,
    pub peers: watch::Receiver<Arc<PeerSet>>,
    pub events: Events,
}

/// All routes of the admin API.
pub fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/v1/services", get(services))
        .route("/v1/backends", get(backends))
        .route("/v1/peers", get(peers))
        .route("/v1/plan", get(plan))
        .route("/v1/events", get(events))
        .with_state(sources)
}

async fn services(State(sources): State<Sources>) -> Response {
    ask(&sources, Query::Services).await
}

#[derive(Deserialize)]
struct BackendParameters {
    /// `namespace/name`; all services without it.
    service: Option<String>,
}

async fn backends(
    State(sources): State<Sources>,
    Parameters(parameters): Parameters<BackendParameters>,
) -> Response {
    let service = match parameters.service.map(|name| name.parse::<ServiceName>()).transpose() {
        Ok(service) => service,
        Err(error) => {
            let reason = format!("service must be namespace/name: {error}\n");
            return (StatusCode::BAD_REQUEST, reason).into_response();
        }
    };
    ask(&sources, |reply| Query::Backends(service, reply)).await
}

async fn plan(State(sources): State<Sources>) -> Response {
    ask(&sources, Query::Plan).await
}

async fn peers(State(sources): State<Sources>) -> Response {
    Json(List { items: sources.peers.borrow().rows() }).into_response()
}

async fn ask<T: serde::Serialize>(
    sources: &Sources,
    query: impl FnOnce(oneshot::Sender<Vec<T>>) -> Query,
) -> Response {
    let (reply, answer) = oneshot::channel();
    if sources.queries.send(query(reply)).await.is_err() {
        return stopping();
    }
    match answer.await {
        Ok(items) => Json(List { items }).into_response(),
        Err(_) => stopping(),
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
                Event::Lagged { at_unix_us: unix_us(std::time::SystemTime::now()), lost }
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
