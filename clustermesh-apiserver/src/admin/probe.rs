//! `POST /v1/probe`: whether the endpoints of another cluster are reached from here, and are its own.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use futures::future::join_all;
use mesh_admin::api::List;
use mesh_admin::cluster::{Probe, ProbeRequest};
use mesh_kv::EtcdEndpoint;
use mesh_trust::{Bundle, Identity, Role, ServerVerifier, Trust};
use tokio::time::Instant;

use super::Api;
use super::answer::Body;
use crate::membership::{Refusal, Told, dial};

const MAX_ENDPOINTS: usize = 32;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/probe", post(probe))
}

async fn probe(Body(request): Body<ProbeRequest>) -> Result<Json<List<Probe>>, Refusal> {
    let refused = |error: String, remedy: &str| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, remedy);
    if !(1..=MAX_ENDPOINTS).contains(&request.endpoints.len()) {
        let error = format!("{} endpoints are named; 1 to {MAX_ENDPOINTS} can be", request.endpoints.len());
        return Err(refused(error, "name fewer, or one"));
    }
    let bundle = Bundle::from_pem(&request.trust)
        .map_err(|error| refused(mesh_failure::chain(&error), "send the trust of its peer file"))?;
    let trust = Arc::new(Trust::in_one(request.name.clone(), Arc::new(bundle)));
    let expected = Identity::new(request.name, Role::Apiserver);
    let probes = request.endpoints.into_iter().map(|endpoint| one(endpoint, &trust, &expected));
    Ok(Json(List { items: join_all(probes).await }))
}

async fn one(endpoint: String, trust: &Arc<Trust>, expected: &Identity) -> Probe {
    let start = Instant::now();
    let outcome = reach(&endpoint, trust, expected).await;
    let rtt_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (identity, error) = match outcome {
        Ok(()) => (Some(expected.to_string()), None),
        Err(error) => (None, Some(error)),
    };
    Probe { endpoint, identity, error, rtt_us }
}

async fn reach(endpoint: &str, trust: &Arc<Trust>, expected: &Identity) -> Result<(), String> {
    let endpoint: EtcdEndpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    if !endpoint.is_secure() {
        return Err(format!("{endpoint} is reached without TLS, so that nobody can tell whose it is"));
    }
    let told = Told::default();
    let verifier = ServerVerifier::new(Arc::clone(trust), expected.clone(), told.listener());
    let stream = dial(&endpoint, Arc::new(verifier), &told).await;
    stream.map(drop).map_err(|error| mesh_failure::chain(&error))
}
