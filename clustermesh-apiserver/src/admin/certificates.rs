//! `/v1/certificates`: the cluster's own certificates, and what an operator does with them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use mesh_admin::cluster::{
    AdvanceRequest, AuthorityRotation, Certificate, Certificates, Problem, RevokeRequest, Revoked,
};
use mesh_model::reason::Actor;

use super::Api;
use super::answer::Body;
use crate::certificates::{OrderError, Orders, Peers};
use crate::membership::Refusal;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/certificates", get(show))
        .route("/v1/certificates/revoke", post(revoke))
        .route("/v1/certificates/ca/rotate", get(rotation).post(advance))
        .route("/v1/certificates/{holder}/rotate", post(rotate))
}

async fn show(State(api): State<Arc<Api>>) -> Result<Json<Certificates>, Refusal> {
    let Some(orders) = &api.orders else { return Ok(Json(of_others(&api))) };
    Ok(Json(orders.show().await?))
}

/// What is known of certificates that somebody else makes.
fn of_others(api: &Api) -> Certificates {
    let cluster = api.described.cluster();
    Certificates {
        cluster: cluster.name,
        certificates: cluster.certificates,
        phase: Default::default(),
        foreign: Some(OTHERS.into()),
        revoked: Vec::new(),
        trust: cluster.trust,
    }
}

const OTHERS: &str = "this cluster's certificates are made by somebody else (clustermesh-apiserver was started without \
                      --certificates-dir): renew, replace and revoke them where they come from";

fn orders(api: &Api) -> Result<&Orders, Refusal> {
    api.orders.as_ref().ok_or_else(|| OrderError::Foreign(OTHERS.into()).into())
}

async fn rotate(
    State(api): State<Arc<Api>>,
    Path(holder): Path<String>,
) -> Result<Json<Certificate>, Refusal> {
    Ok(Json(orders(&api)?.rotate(&holder).await?))
}

async fn rotation(State(api): State<Arc<Api>>) -> Result<Json<AuthorityRotation>, Refusal> {
    Ok(Json(orders(&api)?.rotation(&peers(&api).await?).await?))
}

async fn advance(
    State(api): State<Arc<Api>>,
    Body(request): Body<AdvanceRequest>,
) -> Result<Json<AuthorityRotation>, Refusal> {
    let AdvanceRequest { to, without } = request;
    Ok(Json(orders(&api)?.advance(to, &without, &peers(&api).await?).await?))
}

async fn revoke(
    State(api): State<Arc<Api>>,
    Body(request): Body<RevokeRequest>,
) -> Result<Json<Revoked>, Refusal> {
    Ok(Json(orders(&api)?.revoke(&request.certificates).await?))
}

/// Who has to trust another authority before it issues anything. Whoever has no place for peer files has no peers.
async fn peers(api: &Api) -> Result<Peers, Refusal> {
    match api.described.store {
        Some(_) => api.peering.known().await,
        None => Ok(Peers::default()),
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        let status = match &error {
            OrderError::Unkept(_) | OrderError::Unknown(_) => StatusCode::NOT_FOUND,
            OrderError::Text(_) | OrderError::OfAuthority(_) => StatusCode::UNPROCESSABLE_ENTITY,
            OrderError::StandsBy
            | OrderError::Foreign(_)
            | OrderError::NotYet(_)
            | OrderError::Raced
            | OrderError::Change(_) => StatusCode::CONFLICT,
            OrderError::Keep(_) | OrderError::Ask(_) | OrderError::Trust(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let (said, remedy) = (mesh_failure::chain(&error), error.remedy());
        let OrderError::NotYet(obstacles) = error else { return Self::new(status, said, remedy) };
        let first = Problem { who: Actor::Operator, error: said, remedy };
        let problems = std::iter::once(first).chain(obstacles.into_iter().map(|it| it.problem)).collect();
        Self::of_problems(status, problems)
    }
}
