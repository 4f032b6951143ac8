//! Answers that refuse: a status, what is wrong, and what to do.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mesh_admin::cluster::{Problem, Refused};

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{}", refused.error)]
pub(crate) struct Refusal {
    status: StatusCode,
    refused: Refused,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        let refused = Refused { error: error.into(), remedy: remedy.into(), problems: Vec::new() };
        Self { status, refused }
    }

    /// Of everything that is wrong with it.
    pub(crate) fn of_problems(status: StatusCode, problems: Vec<Problem>) -> Self {
        let first = problems.first();
        let (error, remedy) = first.map_or_else(Default::default, |it| (it.error.clone(), it.remedy.clone()));
        Self { status, refused: Refused { error, remedy, problems } }
    }

    /// What can't be done now.
    pub(crate) fn unavailable(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, remedy)
    }

    pub(crate) fn into_parts(self) -> (StatusCode, Refused) {
        (self.status, self.refused)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.refused)).into_response()
    }
}

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
