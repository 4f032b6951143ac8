//! `GET /v1/cluster`: who this cluster is.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Api;

pub(super) fn routes() -> Router<Arc<Api>> {
    let describe = async |State(api): State<Arc<Api>>| Json(api.described.cluster());
    Router::new().route("/v1/cluster", get(describe))
}
