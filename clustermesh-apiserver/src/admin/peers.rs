//! `/v1/peers`: the peer files, and which there are to be.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use mesh_admin::api::List;
use mesh_admin::cluster::{Changed, PeerEntry};
use mesh_model::name::ClusterName;

use super::Api;
use super::answer::Text;
use crate::invites::refusal;
use crate::membership::{Refusal, parse};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/peers", get(list)).route("/v1/peers/{name}", put(change).delete(remove))
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<List<PeerEntry>>, Refusal> {
    Ok(Json(List { items: api.peering.entries().await? }))
}

async fn change(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Text(text): Text,
) -> Result<Json<Changed>, Refusal> {
    let file = parse(&cluster_name(&name)?, &text)?;
    Ok(Json(Changed { changed: api.peering.put(file).await? }))
}

/// With the invites of its name: who was removed shall not come back by one that it has taken.
async fn remove(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<Changed>, Refusal> {
    let name = cluster_name(&name)?;
    let changed = api.peering.remove(&name).await?;
    api.invites.revoke_of(&name).await.map_err(refusal)?;
    Ok(Json(Changed { changed }))
}

fn cluster_name(text: &str) -> Result<ClusterName, Refusal> {
    ClusterName::new(text).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string(), "name the peer as its --cluster-name does")
    })
}
