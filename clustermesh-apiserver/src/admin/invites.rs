//! `/v1/invites`: invites that this cluster makes, and taking one of another cluster.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use mesh_admin::api::List;
use mesh_admin::cluster::{
    Changed, Invite, InviteRequest, IssuedInvite, JoinRequest, TakeInvite, TakenInvite,
};
use mesh_membership::Candidate;
use mesh_membership::invite::{Digest, InviteId, InviteRecord, MAX_LIFETIME_S, MIN_LIFETIME_S, Token};
use mesh_model::address_policy::PeerRanges;
use mesh_runtime::clock::unix_seconds;
use mesh_trust::Bundle;

use super::Api;
use super::answer::Body;
use crate::invites::{self, refusal};
use crate::membership::{Refusal, missing_certificates, parse_document};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/invites", get(list).post(invite))
        .route("/v1/invites/take", post(take))
        .route("/v1/invites/{id}", axum::routing::delete(revoke))
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<List<Invite>>, Refusal> {
    let now = unix_seconds(SystemTime::now());
    let all = api.invites.list().await.map_err(refusal)?;
    Ok(Json(List { items: all.into_iter().map(|(id, record)| record.shown(id, now)).collect() }))
}

async fn invite(
    State(api): State<Arc<Api>>,
    Body(request): Body<InviteRequest>,
) -> Result<Json<IssuedInvite>, Refusal> {
    let fingerprint = inviting(&api)?;
    check(&request)?;
    let InviteRequest { name, id, ranges, lifetime_seconds } = request;
    let agreed = PeerRanges::Agreed(ranges.clone());
    api.peering.check(&Candidate { name: name.clone(), id, ranges: agreed }).await?;
    let (invite, secret) = invites::draw();
    let expires_unix_s = unix_seconds(SystemTime::now()) + lifetime_seconds;
    let secret_sha256 = invites::hashed(&secret);
    let record = InviteRecord {
        name: name.clone(),
        id,
        ranges,
        expires_unix_s,
        secret_sha256,
        used_by: None,
        wrong_secrets: 0,
    };
    let lifetime = Duration::from_secs(lifetime_seconds);
    api.invites.create(invite, &record, lifetime).await.map_err(refusal)?;
    tracing::info!(peer = %name, %invite, lifetime_seconds, "invited a cluster");
    let endpoints = api.described.join_endpoints.iter().map(ToString::to_string).collect();
    let cluster = api.described.name.clone();
    let token = Token { endpoints, cluster, fingerprint, invite, secret }.encode();
    Ok(Json(IssuedInvite {
        id: invite.to_string(),
        token,
        expires_unix_s,
        fingerprint: fingerprint.to_string(),
    }))
}

/// The own authority's fingerprint, where somebody could take an invite.
fn inviting(api: &Api) -> Result<Digest, Refusal> {
    if api.described.join_endpoints.is_empty() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "this cluster does not say where invites are taken",
            "start clustermesh-apiserver with --join-address and --join-endpoint, or join by peer files",
        ));
    }
    api.described.document()?;
    let trust = api.described.certificates.trust();
    let parsed = trust.and_then(|trust| trust.fingerprint.parse().ok());
    parsed.ok_or_else(missing_certificates)
}

fn check(request: &InviteRequest) -> Result<(), Refusal> {
    let refused =
        |error: String, remedy: &str| Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, remedy));
    if !(MIN_LIFETIME_S..=MAX_LIFETIME_S).contains(&request.lifetime_seconds) {
        let error = format!("an invite can't live {} s", request.lifetime_seconds);
        return refused(error, "choose a minute to a week: 60 to 604800 seconds");
    }
    if request.ranges.is_empty() {
        let error = format!("the invite allows {} no address ranges", request.name);
        return refused(error, "name the ranges of its pods, and those of its nodes");
    }
    if let Some(range) =
        request.ranges.pods.iter().chain(&request.ranges.nodes).find(|range| range.trunc() != **range)
    {
        let error = format!("{range} has bits set behind its prefix");
        return refused(error, &format!("write {}", range.trunc()));
    }
    Ok(())
}

async fn revoke(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Changed>, Refusal> {
    let id: InviteId = id.parse().map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("{error}"), "`clustermesh invite list` shows the ids")
    })?;
    let changed = api.invites.revoke(id).await.map_err(refusal)?;
    if changed {
        tracing::info!(invite = %id, "an invite was revoked");
    }
    Ok(Json(Changed { changed }))
}

async fn take(
    State(api): State<Arc<Api>>,
    Body(TakeInvite { token }): Body<TakeInvite>,
) -> Result<Json<TakenInvite>, Refusal> {
    let token = read(&api, &token)?;
    let request = JoinRequest {
        invite: token.invite.to_string(),
        secret: token.secret.clone().into(),
        name: api.described.name.clone(),
        file: api.described.document()?,
    };
    let answer = invites::take(&token, &request)
        .await
        .map_err(|error| Refusal::new(StatusCode::CONFLICT, mesh_failure::chain(&error), error.remedy()))?;
    let file = parse_document(&answer.name, &answer.file)?;
    let bundle = Bundle::from_pem(file.trust.as_deref().unwrap_or_default()).ok();
    let pinned = token.fingerprint.to_string();
    let is_pinned = bundle.is_some_and(|it| it.fingerprints().iter().any(|one| one.to_string() == pinned));
    if answer.name != token.cluster || !is_pinned {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!(
                "the cluster that invites calls itself {}, with another authority than its invite",
                answer.name
            ),
            "have a new invite made",
        ));
    }
    let changed = api.peering.put(file).await?;
    let (name, file) = (answer.name, answer.file);
    Ok(Json(TakenInvite { name, fingerprint: pinned, file, changed }))
}

fn read(api: &Api, token: &str) -> Result<Token, Refusal> {
    let token: Token = token.parse().map_err(|error: mesh_membership::invite::TokenError| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the token can't be used: {error}"),
            "paste the line that `clustermesh invite` printed at the other cluster",
        )
    })?;
    if token.cluster == api.described.name {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "the invite is this cluster's own",
            "give the token to the other cluster",
        ));
    }
    Ok(token)
}
