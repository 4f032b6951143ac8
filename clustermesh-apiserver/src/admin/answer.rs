//! Bodies of requests, and the answer to whoever asks for what there is not.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use crate::membership::Refusal;

/// A body of JSON, whatever its declared type.
pub(super) struct Body<T>(pub(super) T);

/// A body of text.
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let value = serde_json::from_slice(&bytes(request, state).await?);
        value.map(Self).map_err(|error| {
            let error = format!("the body can't be read: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, error, "send what docs/admin-api.md says, as JSON")
        })
    }
}

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let text = String::from_utf8(bytes(request, state).await?.into());
        text.map(Self).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body is no text", "send UTF-8"))
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Refusal> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        Refusal::new(rejection.status(), rejection.body_text(), "send less, and all of it")
    })
}

/// For whoever asks for something else.
pub(super) async fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here", "docs/admin-api.md has the paths")
}
